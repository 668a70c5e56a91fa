//! Looking up and trying the way to an address.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dwell_network::{Network as _, ROUTE_PROTOCOL, RouteTable};

use dwell_network::world::{HOST, NEIGHBOUR, World, lan, peer, run, web};

const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 80, 2, 5);

async fn with_peer() -> World {
    let world = World::with([&web()]).await;
    let table =
        RouteTable { peers: vec![peer("b", "10.80.2.0/24", NEIGHBOUR)], ..RouteTable::default() };
    world.network.sync_routes(&table).await.unwrap();
    lan("ip address add 10.80.2.5/32 dev lo");
    world
}

#[tokio::test]
async fn the_way_to_an_instance_here_and_elsewhere() {
    let world = with_peer().await;
    let here = world.network.probe(web().address).await.unwrap();
    let route = here.route.unwrap();
    assert_eq!((route.prefix, route.via), (web().address.into(), None));
    assert!(route.device.starts_with("dw-") && route.local && route.is_ours(), "{route:?}");
    assert!(here.round_trip.unwrap() < Duration::from_millis(300));
    assert_eq!((here.mtu, here.full_size_passes), (1400, Some(true)));

    let there = world.network.probe(REMOTE).await.unwrap();
    let route = there.route.unwrap();
    assert_eq!(route.prefix, "10.80.2.0/24".parse().unwrap());
    assert_eq!((route.via, route.protocol), (Some(NEIGHBOUR), ROUTE_PROTOCOL));
    assert_eq!((route.device.as_str(), route.local), ("uplink", false));
    assert!(there.round_trip.is_some());
    assert_eq!((there.mtu, there.full_size_passes), (1400, Some(true)));
}

#[tokio::test]
async fn ways_that_are_not_dwells_are_found_too() {
    let world = with_peer().await;
    let beyond = world.network.probe(Ipv4Addr::new(203, 0, 113, 1)).await.unwrap();
    let route = beyond.route.unwrap();
    assert!(!route.is_ours() && !route.local && route.prefix.prefix_len() == 0, "{route:?}");
    let own = world.network.probe(HOST).await.unwrap();
    assert!(own.route.unwrap().local && own.round_trip.is_some());
}

#[tokio::test]
async fn no_way_and_no_answer_are_answers() {
    let world = with_peer().await;
    let start = Instant::now();
    let gone = world.network.probe(Ipv4Addr::new(10, 80, 1, 99)).await.unwrap();
    assert_eq!((gone.route, gone.mtu, gone.round_trip), (None, 0, None), "unreachable by route");
    lan("iptables -I INPUT -d 10.80.2.5 -j DROP");
    let silent = world.network.probe(REMOTE).await.unwrap();
    assert!(silent.route.is_some());
    assert_eq!((silent.round_trip, silent.full_size_passes), (None, None));
    // Nobody on the segment has the next hop's address.
    run("ip route add 198.51.100.0/24 via 192.0.2.77");
    let lost = world.network.probe(Ipv4Addr::new(198, 51, 100, 1)).await.unwrap();
    assert_eq!(lost.round_trip, None);
    assert!(start.elapsed() < Duration::from_secs(6), "took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_black_hole_for_large_packets_is_told() {
    let world = with_peer().await;
    // It drops what is too large for its other side, and does not say so.
    lan("iptables -I INPUT -d 10.80.2.5 -m length --length 1301: -j DROP");
    let probe = world.network.probe(REMOTE).await.unwrap();
    assert!(probe.round_trip.is_some());
    assert_eq!(probe.full_size_passes, Some(false));
    run("ip route replace 10.80.2.5/32 via 192.0.2.2 mtu 1300");
    let probe = world.network.probe(REMOTE).await.unwrap();
    assert_eq!(
        (probe.mtu, probe.full_size_passes),
        (1300, Some(true)),
        "the route's own MTU counts"
    );
}

#[tokio::test]
async fn a_probe_that_waits_holds_nobody_up() {
    let world = with_peer().await;
    lan("iptables -I INPUT -d 10.80.2.5 -j DROP");
    let network = world.network.clone();
    let waiting = tokio::spawn(async move { network.probe(REMOTE).await });
    tokio::task::yield_now().await;
    world.network.ensure_sandbox(&web()).await.unwrap();
    assert!(!waiting.is_finished());
    waiting.await.unwrap().unwrap();
}
