//! Hosts that are not flat: several uplinks, an address that is on none of them, uplinks on top of others, and routing
//! rules of the host's own.
//!
//! ```text
//!   the test's host                              dwn-lan
//!     uplink 192.0.2.1/24, mtu 1400     ───── veth ───── uplink 192.0.2.2
//!     second 192.0.3.1/24, mtu 1300     ───── veth ───── second 192.0.3.2
//! ```
//!
//! A VLAN or a bond is to the agent what a macvlan is: a link with an address, on top of others without one.

use std::net::Ipv4Addr;
use std::time::Duration;

use dwell_network::linux::{LinuxConfig, LinuxNetwork, underlay_address};
use dwell_network::world::{
    HOST, NEIGHBOUR, Place, World, datagram, dump, host, inside, lan, peer, reaches, run, sandbox,
    web,
};
use dwell_network::{Disturbances, Network as _, Overlay, RouteTable};

/// The host's own address where it is on `lo`.
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// A second uplink.
fn add_second() {
    run("ip link add second mtu 1300 type veth peer name second mtu 1300 netns dwn-lan
         ip address add 192.0.3.1/24 dev second
         ip link set second addrgenmode none up");
    lan("ip address add 192.0.3.2/24 dev second
         ip link set second up");
}

/// Does what whoever reads disturbances does: prepares the host again once it is told to, within a second.
async fn told(world: &World, what: impl Fn(&Disturbances) -> u64, change: &str) {
    let mut disturbances = world.network.disturbances();
    let before = what(&disturbances.borrow_and_update());
    run(change);
    let seen = disturbances.wait_for(|now| what(now) > before);
    let seen = tokio::time::timeout(Duration::from_secs(1), seen).await;
    let is_told = seen.is_ok_and(|seen| seen.is_ok());
    assert!(is_told, "nobody is told of `{change}`");
    world.network.ensure_host(&host()).await.unwrap();
    world.network.repair_sandbox(&web()).await.unwrap();
}

fn mtu_inside() -> String {
    let link = inside(&web(), "ip link show eth0");
    link.split(" mtu ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn the_hosts_address_is_that_of_the_main_tables_best_default_route() {
    let _world = World::bare();
    add_second();
    let second = Ipv4Addr::new(192, 0, 3, 1);
    // A table of others, for its second uplink, whose route has the better metric.
    run("ip route del default
         ip route add default via 192.0.2.2 metric 100
         ip route add default via 192.0.3.2 table 100");
    assert_eq!(underlay_address().await.unwrap(), HOST);
    let hops = "nexthop via 192.0.2.2 dev uplink nexthop via 192.0.3.2 dev second";
    run(&format!("ip route del default; ip route add default {hops}"));
    assert_eq!(underlay_address().await.unwrap(), HOST);
    run("ip nexthop add id 1 via 192.0.3.2 dev second
         ip nexthop add id 2 via 192.0.2.2 dev uplink
         ip nexthop add id 3 group 1/2
         ip route del default; ip route add default nhid 1");
    // What the host is prepared with has routes say no more than the number of their nexthop.
    run("sysctl -q -w net.ipv4.nexthop_compat_mode=0");
    assert_eq!(underlay_address().await.unwrap(), second);
    run("ip route del default; ip route add default nhid 3");
    let found = underlay_address().await.unwrap();
    assert!([HOST, second].contains(&found), "{found}");
    run("ip address add 203.0.113.10/32 dev lo");
    run(&format!("ip route del default; ip route add default src 203.0.113.10 {hops}"));
    assert_eq!(underlay_address().await.unwrap(), LOOPBACK);
    run("ip route del default
         ip address flush dev second
         ip route add default dev second");
    assert_eq!(underlay_address().await.unwrap(), LOOPBACK, "of a link without an address");
    run("ip route del default");
    underlay_address().await.unwrap_err();
    run("ip address add 192.0.3.1/24 dev second; ip route add default via 192.0.3.2 table 100");
    assert_eq!(underlay_address().await.unwrap(), second, "where only rules lead to one");
}

/// As for a second uplink: what the host sends from this address leaves by that link.
#[tokio::test]
async fn a_host_with_rules_for_its_own_address_still_talks_to_instances() {
    let world = World::bare();
    add_second();
    run("sysctl -q -w net.ipv4.conf.all.rp_filter=1");
    let before = dump();
    run("ip rule add from 192.0.2.1 lookup 100 priority 100
         ip route add default dev second table 100");
    let with_rule = dump();
    lan("ip address add 10.80.2.9/32 dev lo");
    let there = Ipv4Addr::new(10, 80, 2, 9);
    let table =
        RouteTable { peers: vec![peer("b", "10.80.2.0/24", NEIGHBOUR)], ..RouteTable::default() };
    world.network.ensure_host(&host()).await.unwrap();
    world.network.ensure_sandbox(&web()).await.unwrap();
    world.network.sync_routes(&table).await.unwrap();
    assert!(reaches(Place::Host, web().address), "the host and its own instance");
    inside(&web(), &format!("busybox ping -c 1 -W 1 {HOST}"));
    assert!(reaches(Place::Host, there), "the host and another node's");
    assert_eq!(
        datagram((Place::Host, HOST), (Place::Inside(&web()), web().address)),
        Some(HOST),
        "from the very address that the rule is about"
    );
    // Nobody on the segment is an instance that is here, also to the address that the rule is about.
    lan("ip address add 10.80.1.5/32 dev lo");
    let forged = datagram((Place::Lan, web().address), (Place::Host, HOST));
    assert_eq!(forged, None);
    // What there is no route for is the operator's to lead.
    let elsewhere = run("ip route get 10.80.200.1 from 192.0.2.1");
    assert!(elsewhere.contains("dev second table 100"), "{elsewhere}");

    let rules = || run("ip rule | grep -c 'to 10.80.0.0/16 lookup main suppress_prefixlength 0'");
    assert_eq!(rules().trim(), "1");
    world.network.ensure_host(&host()).await.unwrap();
    assert_eq!(rules().trim(), "1", "a second time");
    told(&world, |now| now.host, "ip rule del priority 99").await;
    assert_eq!(rules().trim(), "1", "somebody had removed it");
    told(&world, |now| now.host, "ip rule del priority 100").await;
    assert!(!run("ip rule").contains("10.80"), "without rules of others it is not needed");
    told(&world, |now| now.host, "ip rule add from 192.0.2.1 lookup 100 priority 100").await;
    assert_eq!(rules().trim(), "1", "a rule that came while it ran");
    world.network.cleanup().await.unwrap();
    dwell_network::world::until_silent("ip -o link | grep dw- || true");
    assert_eq!(dump(), with_rule);
    run("ip rule del priority 100; ip route flush table 100");
    assert_eq!(dump(), before);
}

/// The kernel puts a rule without a priority right before the second of the list, which may be ours.
#[tokio::test]
async fn rules_of_others_without_a_priority_are_in_the_usual_order_and_behind_ours() {
    let world = World::bare();
    run("ip rule add from 192.0.2.50 lookup 100 priority 1000");
    world.network.ensure_host(&host()).await.unwrap();
    world.network.ensure_sandbox(&web()).await.unwrap();
    let order = || {
        let rules = run("ip rule");
        let name = |line: &str| {
            let is = |part: &str| line.contains(part);
            ["10.80.0.0/16", "192.0.2.50", "192.0.2.51", "192.0.2.52"].into_iter().find(|it| is(it))
        };
        rules.lines().filter_map(name).map(str::to_owned).collect::<Vec<_>>()
    };
    let rules = run("ip rule");
    assert!(rules.contains("999:\tfrom all to 10.80.0.0/16"), "{rules}");
    told(&world, |now| now.host, "ip rule add from 192.0.2.51 lookup 100").await;
    assert_eq!(order(), ["10.80.0.0/16", "192.0.2.51", "192.0.2.50"]);
    told(&world, |now| now.host, "ip rule add from 192.0.2.52 lookup 100").await;
    assert_eq!(order(), ["10.80.0.0/16", "192.0.2.52", "192.0.2.51", "192.0.2.50"]);
    let rules = run("ip rule");
    assert!(!rules.lines().skip(1).any(|line| line.starts_with("0:")), "{rules}");
    world.network.cleanup().await.unwrap();
    assert!(!run("ip rule").contains("10.80"));
}

#[tokio::test]
async fn an_uplink_on_top_of_others_is_followed_in_size() {
    let world = World::bare();
    run("ip address flush dev uplink
         ip link add link uplink name uplink.5 type macvlan mode bridge
         ip link set uplink.5 addrgenmode none up
         ip address add 192.0.2.1/24 dev uplink.5
         ip route add default via 192.0.2.2");
    assert_eq!(underlay_address().await.unwrap(), HOST);
    world.network.ensure_host(&host()).await.unwrap();
    world.network.ensure_sandbox(&web()).await.unwrap();
    assert!(reaches(Place::Inside(&web()), NEIGHBOUR));
    assert_eq!(mtu_inside(), "1400");
    // The one on top shrinks with the one below.
    told(&world, |now| now.sandboxes.max(now.host), "ip link set uplink mtu 1300").await;
    assert_eq!(mtu_inside(), "1300");
    let grow = "ip link set uplink mtu 1400; ip link set uplink.5 mtu 1380";
    told(&world, |now| now.host, grow).await;
    assert_eq!(mtu_inside(), "1380");
}

/// Bridges that nothing leads through belong to Docker and others.
#[tokio::test]
async fn a_bridge_over_an_uplink_is_one_as_soon_as_it_leads_to_a_peer() {
    let world = World::bare();
    run("iptables -P FORWARD DROP
         ip address flush dev uplink
         ip link add br0 type bridge
         ip link set br0 addrgenmode none
         ip link set uplink master br0
         ip link set br0 up
         ip address add 192.0.2.1/24 dev br0");
    lan("ip address add 10.80.2.9/32 dev lo");
    world.network.ensure_host(&host()).await.unwrap();
    world.network.ensure_sandbox(&web()).await.unwrap();
    let is_let_through = || run("iptables -S").contains("-o br0");
    assert!(!is_let_through());
    let before = world.network.disturbances().borrow().host;
    let table =
        RouteTable { peers: vec![peer("b", "10.80.2.0/24", NEIGHBOUR)], ..RouteTable::default() };
    assert!(world.network.sync_routes(&table).await.unwrap().is_clean());
    assert!(world.network.disturbances().borrow().host > before, "nobody prepares the host for it");
    world.network.ensure_host(&host()).await.unwrap();
    assert!(is_let_through());
    world.network.repair_sandbox(&web()).await.unwrap();
    assert_eq!(mtu_inside(), "1400");
    assert!(reaches(Place::Inside(&web()), Ipv4Addr::new(10, 80, 2, 9)));
    let before = world.network.disturbances().borrow().host;
    world.network.sync_routes(&table).await.unwrap();
    assert_eq!(world.network.disturbances().borrow().host, before, "once");
}

#[tokio::test]
async fn another_default_route_is_followed_at_once() {
    let world = World::with([&web()]).await;
    add_second();
    world.network.ensure_host(&host()).await.unwrap();
    assert_eq!(mtu_inside(), "1400");
    told(&world, |now| now.host, "ip route replace default via 192.0.3.2").await;
    assert_eq!(mtu_inside(), "1300");
    assert_eq!(underlay_address().await.unwrap(), Ipv4Addr::new(192, 0, 3, 1));
    let back = "ip route add default via 192.0.2.2 metric 50; ip route del default metric 0";
    told(&world, |now| now.host, back).await;
    world.network.ensure_host(&host()).await.unwrap();
    world.network.repair_sandbox(&web()).await.unwrap();
    assert_eq!(mtu_inside(), "1400");
}

/// The address by which it is known is on `lo`, and both uplinks lead to all others.
#[tokio::test]
async fn a_node_whose_address_is_on_lo_reaches_its_peers_by_either_uplink() {
    let far_address = Ipv4Addr::new(198, 51, 100, 7);
    let world = World::bare();
    add_second();
    run("sysctl -q -w net.ipv4.conf.all.rp_filter=1
         ip address add 203.0.113.10/32 dev lo
         ip route del default
         ip route add default src 203.0.113.10 \\
            nexthop via 192.0.2.2 dev uplink nexthop via 192.0.3.2 dev second
         ip netns add dwn-far
         ip link add far netns dwn-lan type veth peer name uplink netns dwn-far
         nsenter --net=/run/netns/dwn-far ip link set lo up
         nsenter --net=/run/netns/dwn-far ip address add 198.51.100.7/24 dev uplink
         nsenter --net=/run/netns/dwn-far ip link set uplink up
         nsenter --net=/run/netns/dwn-far ip route add default via 198.51.100.1");
    lan("ip address add 198.51.100.1/24 dev far
         ip link set far up
         ip route del 10.80.0.0/16
         ip route add 203.0.113.10/32 nexthop via 192.0.2.1 nexthop via 192.0.3.1
         sysctl -q -w net.ipv4.ip_forward=1");
    let far = LinuxConfig::new("/run/far".into());
    let far = Place::Named("dwn-far").visit(|| LinuxNetwork::new(&far).unwrap());
    let far_host =
        dwell_network::HostNetwork { blocks: vec!["10.80.7.0/24".parse().unwrap()], ..host() };
    far.ensure_host(&far_host).await.unwrap();
    let db = sandbox("db-0", [10, 80, 7, 9]);
    far.ensure_sandbox(&db).await.unwrap();
    run("ln -s /run/far/netns/db-0 /run/netns/far-db");

    let own = underlay_address().await.unwrap();
    assert_eq!(own, LOOPBACK);
    let overlay = |local| Some(Overlay { local, port: 4789, always: false });
    let of_near = RouteTable {
        peers: vec![peer("far", "10.80.7.0/24", far_address)],
        overlay: overlay(own),
        ..RouteTable::default()
    };
    let of_far = RouteTable {
        peers: vec![peer("near", "10.80.1.0/24", own)],
        overlay: overlay(far_address),
        ..RouteTable::default()
    };
    world.network.ensure_host(&host()).await.unwrap();
    world.network.ensure_sandbox(&web()).await.unwrap();
    let report = world.network.sync_routes(&of_near).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert!(far.sync_routes(&of_far).await.unwrap().is_clean());
    world.network.repair_sandbox(&web()).await.unwrap();
    assert_eq!(mtu_inside(), "1250", "as large as fits by either uplink, in the overlay");

    let (web, db) = ((Place::Inside(&web()), web().address), (Place::Named("far-db"), db.address));
    let talk = |how: &str| {
        assert_eq!(datagram(web, db), Some(web.1), "{how}");
        assert_eq!(datagram(db, web), Some(db.1), "{how}");
        assert_eq!(datagram((Place::Host, own), db), Some(own), "{how}: the host itself");
    };
    talk("by both");
    // There by one, and back by the same or by the other.
    for there in ["192.0.2.2", "192.0.3.2"] {
        run(&format!("ip route replace default src 203.0.113.10 via {there}"));
        for back in ["192.0.2.1", "192.0.3.1"] {
            lan(&format!("ip route replace 203.0.113.10/32 via {back}"));
            talk(&format!("there by {there}, back by {back}"));
        }
    }
}
