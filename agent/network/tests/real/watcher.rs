//! Noticing what others do, and not what we do ourselves.

use std::time::{Duration, Instant};

use dwell_network::linux::{LinuxConfig, LinuxNetwork};
use dwell_network::{Disturbances, Network as _, RouteTable};

use dwell_network::world::{
    NEIGHBOUR, World, db, host as host_network, inside, lan, peer, run, web,
};

fn table() -> RouteTable {
    RouteTable { peers: vec![peer("b", "10.80.2.0/24", NEIGHBOUR)], ..RouteTable::default() }
}

#[tokio::test]
async fn what_others_disturb_is_counted_for_who_repairs_it() {
    // The damage, and what to look at again: the host, the sandboxes, the routes.
    let veth = "$(ip -o link | grep -o 'dw-[0-9a-f]*')";
    let inside = "nsenter --net=/run/dwell/netns/web-0";
    let (host, sandboxes, routes) =
        ([true, false, false], [false, true, false], [false, false, true]);
    let uplinks = [true, false, true];
    let damages = [
        ("ip route del 10.80.2.0/24".to_owned(), routes),
        ("ip route flush table main".to_owned(), [true, true, true]),
        ("ip route replace 10.80.2.0/24 via 192.0.2.3 metric 157".to_owned(), routes),
        ("ip route del 10.80.1.5".to_owned(), sandboxes),
        ("ip route del unreachable 10.80.1.0/24".to_owned(), host),
        (format!("ip link set {veth} down"), sandboxes),
        (format!("ip link del {veth}"), sandboxes),
        (format!("ip neighbour del 10.80.1.5 dev {veth}"), sandboxes),
        ("ip nexthop flush proto 157".to_owned(), routes),
        ("ip link set uplink down".to_owned(), uplinks),
        ("ip link set uplink mtu 1300".to_owned(), uplinks),
        // Its carrier goes, and with it, without a word, the nexthops and their routes.
        ("nsenter --net=/run/netns/dwn-lan ip link set uplink down".to_owned(), uplinks),
        ("ip address del 192.0.2.1/24 dev uplink".to_owned(), uplinks),
        ("ip rule del lookup main".to_owned(), host),
        ("nft flush ruleset".to_owned(), host),
        ("nft flush chain inet dwell guard".to_owned(), host),
        ("nft delete element inet dwell sources { $(nft list set inet dwell sources | grep -o '\"dw-.*5') }".to_owned(), host),
        ("nft flush chain inet dwell isolation; nft delete chain inet dwell isolation".to_owned(), host),
        ("iptables -F".to_owned(), host),
        ("iptables -D DOCKER-USER 1".to_owned(), host),
        ("iptables -F DWELL-IN".to_owned(), host),
        ("iptables -P FORWARD ACCEPT".to_owned(), host),
        (format!("{inside} ip address flush dev eth0"), sandboxes),
        (format!("{inside} ip route del default"), sandboxes),
        (format!("{inside} ip route del 169.254.1.1"), sandboxes),
        (format!("{inside} ip neighbour del 169.254.1.1 dev eth0"), sandboxes),
        (format!("{inside} ip link set eth0 down"), sandboxes),
        (format!("{inside} ip link set lo down"), sandboxes),
        (format!("{inside} ip link del eth0"), sandboxes),
        ("umount /run/dwell/netns/web-0; rm /run/dwell/netns/web-0".to_owned(), sandboxes),
    ];
    for (damage, expected) in damages {
        let world = World::bare();
        run("iptables -P FORWARD DROP; iptables -N DOCKER-USER");
        world.network.ensure_host(&host_network()).await.unwrap();
        world.network.sync_policies(&[]).await.unwrap();
        world.network.ensure_sandbox(&web()).await.unwrap();
        world.network.sync_routes(&table()).await.unwrap();
        let mut disturbances = world.network.disturbances();
        let before = *disturbances.borrow_and_update();
        let rose = |now: &Disturbances| {
            [now.host > before.host, now.sandboxes > before.sandboxes, now.routes > before.routes]
        };
        run(&damage);
        let seen = disturbances
            .wait_for(|now| rose(now).iter().zip(expected).all(|(rose, due)| *rose || !due));
        let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
        assert!(seen.is_ok(), "`{damage}` is not noticed");
    }
}

/// A carrier that is lost takes nexthops and routes along; nobody says so.
#[tokio::test]
async fn routes_are_looked_at_when_a_carrier_is_lost_and_when_it_returns() {
    const ROUTES: &str = "ip route show proto 157 type unicast | grep 10.80.2 || true";
    let world = World::ready().await;
    world.network.sync_routes(&table()).await.unwrap();
    let mut disturbances = world.network.disturbances();
    for _ in 0..3 {
        for (carrier, lacks) in [("down", true), ("up", false)] {
            let before = disturbances.borrow_and_update().routes;
            lan(&format!("ip link set uplink {carrier}"));
            let seen = disturbances.wait_for(|now| now.routes > before);
            let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
            assert!(seen.is_ok(), "the carrier's going {carrier} is not noticed");
            let report = world.network.sync_routes(&table()).await.unwrap();
            assert_eq!(report.is_clean(), !lacks, "carrier {carrier}: {report:?}");
            assert_eq!(run(ROUTES).is_empty(), lacks, "carrier {carrier}");
        }
    }
}

/// Sandboxes that are there get the new size by being looked at again.
#[tokio::test]
async fn sandboxes_follow_the_uplinks_mtu_up_and_down() {
    let world = World::with([&web()]).await;
    let mut disturbances = world.network.disturbances();
    for mtu in [1300, 1400, 1280] {
        let before = *disturbances.borrow_and_update();
        run(&format!("ip link set uplink mtu {mtu}"));
        let seen = disturbances.wait_for(|now| now.host > before.host);
        tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap().unwrap();
        world.network.ensure_host(&host_network()).await.unwrap();
        // Told by the one that knows the new size, and only then.
        assert!(disturbances.borrow().sandboxes > before.sandboxes, "nobody is told of {mtu}");
        world.network.repair_sandbox(&web()).await.unwrap();
        let expected = format!("mtu {mtu} ");
        assert!(inside(&web(), "ip link show eth0").contains(&expected));
        assert!(run("ip -o link | grep dw-").contains(&expected));
    }
    let before = *disturbances.borrow();
    world.network.ensure_host(&host_network()).await.unwrap();
    assert_eq!(*disturbances.borrow(), before, "nothing has changed");
}

#[tokio::test]
async fn our_own_work_disturbs_nobody() {
    let world = World::ready().await;
    world.network.sync_routes(&table()).await.unwrap();
    for _ in 0..3 {
        world.network.ensure_host(&host_network()).await.unwrap();
        world.network.ensure_sandbox(&web()).await.unwrap();
        world.network.ensure_sandbox(&db()).await.unwrap();
        world.network.sync_routes(&RouteTable::default()).await.unwrap();
        world.network.sync_routes(&table()).await.unwrap();
        world.network.remove_sandbox(&web().id()).await.unwrap();
    }
    // Notifications come in order: this one comes after all of ours.
    let mut disturbances = world.network.disturbances();
    run("ip route del 10.80.2.0/24");
    let first = tokio::time::timeout(Duration::from_secs(10), disturbances.changed()).await;
    first.unwrap().unwrap();
    let counts = *disturbances.borrow();
    assert_eq!(counts, Disturbances { routes: 1, ..Disturbances::default() });
}

#[tokio::test]
async fn a_flood_of_foreign_changes_hides_nothing() {
    let world = World::ready().await;
    world.network.sync_routes(&table()).await.unwrap();
    let mut disturbances = world.network.disturbances();
    // Foreign routes are no disturbance, unless so many that notifications got lost, which is one.
    let mut batch: String = (0..60_000_u32)
        .map(|n| {
            format!("route add 100.{}.{}.{}/32 dev uplink\n", 64 + (n >> 16), n >> 8 & 255, n & 255)
        })
        .collect();
    batch += "route del 10.80.2.0/24\n";
    std::fs::write("/run/batch", batch).unwrap();
    run("ip -batch /run/batch");
    let seen = disturbances.wait_for(|now| now.routes > 0);
    tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap().unwrap();
}

#[tokio::test]
async fn notifications_that_found_no_room_are_made_up_for() {
    let world = World::ready().await;
    let config = LinuxConfig { notification_bytes: 1, ..LinuxConfig::default() };
    let network = LinuxNetwork::new(&config).unwrap();
    network.sync_routes(&table()).await.unwrap();
    let disturbances = network.disturbances();
    let before = *disturbances.borrow();
    let batch: String = (0..2000)
        .map(|n| format!("route add 100.64.{}.{}/32 dev uplink\n", n >> 8, n & 255))
        .collect();
    std::fs::write("/run/batch", batch).unwrap();
    let start = Instant::now();
    // Foreign routes disturb nobody; that they are too many to be read does.
    while disturbances.borrow().host == before.host {
        assert!(start.elapsed() < Duration::from_secs(30), "nothing was lost");
        run("ip -batch /run/batch; ip route flush root 100.64.0.0/16");
    }
    let now = *disturbances.borrow();
    assert!(now.sandboxes > before.sandboxes && now.routes > before.routes, "{now:?}");
    drop(world);
}

#[tokio::test]
async fn the_rule_that_leads_to_our_routes_comes_back() {
    let world = World::ready().await;
    run("ip rule del lookup main; ip rule add from 192.0.2.9 lookup main");
    world.network.ensure_host(&host_network()).await.unwrap();
    assert!(run("ip rule").contains("32766:\tfrom all lookup main proto"), "{}", run("ip rule"));
    run("ip rule del from 192.0.2.9; ip rule del proto 157; ip rule add lookup main pref 32766");
    let other = run("ip rule");
    world.network.ensure_host(&host_network()).await.unwrap();
    assert_eq!(run("ip rule"), other, "somebody else's does as well");
}

#[tokio::test]
async fn a_deleted_route_is_back_within_milliseconds() {
    const GENEROUS: Duration = Duration::from_millis(500);
    let world = World::ready().await;
    world.network.sync_routes(&table()).await.unwrap();
    let mut disturbances = world.network.disturbances();
    let mut times = Vec::new();
    for _ in 0..20 {
        disturbances.mark_unchanged();
        run("ip route del 10.80.2.0/24");
        let start = Instant::now();
        disturbances.changed().await.unwrap();
        let report = world.network.sync_routes(&table()).await.unwrap();
        times.push(start.elapsed());
        assert_eq!(report.added, 1);
    }
    times.sort_unstable();
    println!("from the deletion to the route's return: median {:?}", times[times.len() / 2]);
    assert!(times[times.len() / 2] < GENEROUS);
}

#[tokio::test]
async fn host_and_sandboxes_are_mended_within_milliseconds() {
    const GENEROUS: Duration = Duration::from_millis(500);
    const ROUNDS: usize = 7;
    let within = "nsenter --net=/run/dwell/netns/web-0";
    let damages = [
        "nft flush ruleset".to_owned(),
        "nft flush chain inet dwell guard".to_owned(),
        "ip route del unreachable 10.80.1.0/24".to_owned(),
        format!("{within} ip address flush dev eth0"),
        "ip neighbour flush nud permanent".to_owned(),
    ];
    let world = World::with([&web()]).await;
    let mut disturbances = world.network.disturbances();
    let state = || {
        let listing =
            run("nft -s list table inet dwell; ip route; ip neighbour show nud permanent");
        listing + &inside(&web(), "ip -o address; ip route")
    };
    let before = state();
    for damage in damages {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            disturbances.mark_unchanged();
            run(&damage);
            let start = Instant::now();
            disturbances.changed().await.unwrap();
            world.network.ensure_host(&host_network()).await.unwrap();
            world.network.ensure_sandbox(&web()).await.unwrap();
            times.push(start.elapsed());
            assert_eq!(state(), before, "after `{damage}`");
        }
        times.sort_unstable();
        println!("mended after `{damage}`: median {:?}", times[ROUNDS / 2]);
        assert!(times[ROUNDS / 2] < GENEROUS);
    }
}
