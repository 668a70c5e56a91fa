//! A cluster that has grown by a second range: whoever has an address of it is an instance like any other.

use std::net::Ipv4Addr;

use dwell_network::world::{
    HOST, NEIGHBOUR, OUTSIDE, Place, World, datagram, dump, host, lan, peer, run, sandbox, web,
};
use dwell_network::{Allow, Direction, HostNetwork, Network as _, Policy, RouteTable, Sandbox};

use super::tracking::talks;

/// An instance of another node, of the second range.
const THERE: Ipv4Addr = Ipv4Addr::new(172, 20, 2, 5);

fn far() -> Sandbox {
    sandbox("far-0", [172, 20, 1, 7])
}

fn both() -> HostNetwork {
    let blocks = ["10.80.1.0/24", "172.20.1.0/24"].map(|block| block.parse().unwrap()).into();
    let cluster = "10.80.0.0/16, 172.20.0.0/16".parse().unwrap();
    HostNetwork { cluster, blocks, ..host() }
}

fn at(sandbox: &Sandbox) -> (Place<'_>, Ipv4Addr) {
    (Place::Inside(sandbox), sandbox.address)
}

/// A host of one range that is given another one.
async fn grown() -> World {
    let world = World::with([&web()]).await;
    world.network.ensure_host(&both()).await.unwrap();
    world.network.ensure_sandbox(&far()).await.unwrap();
    let peers = vec![peer("b", "172.20.2.0/24", NEIGHBOUR)];
    world.network.sync_routes(&RouteTable { peers, ..RouteTable::default() }).await.unwrap();
    lan(&format!("ip address add {THERE}/32 dev lo; ip route add 172.20.0.0/16 via {HOST}"));
    world
}

#[tokio::test]
async fn instances_of_two_ranges_reach_each_other_under_their_own_addresses() {
    let (web, far) = (web(), far());
    let world = grown().await;
    let there = (Place::Lan, THERE);
    for (from, to) in
        [(at(&web), at(&far)), (at(&far), at(&web)), (at(&web), there), (there, at(&far))]
    {
        assert_eq!(datagram(from, to), Some(from.1), "{from:?} to {to:?}");
        assert!(talks(from, to), "{from:?} to {to:?}");
    }
    // The world outside sees the host, whichever range it is.
    for one in [&web, &far] {
        assert_eq!(datagram(at(one), (Place::Lan, OUTSIDE)), Some(HOST));
    }
    // Nobody on the segment is an instance that is here.
    lan(&format!("ip address add {}/32 dev lo", far.address));
    assert_eq!(datagram((Place::Lan, far.address), (Place::Host, HOST)), None);
    drop(world);
}

#[tokio::test]
async fn isolation_is_of_all_ranges() {
    let (web, far) = (web(), far());
    let world = grown().await;
    let only = |sandbox: &Sandbox, direction, allowed: &[&str]| {
        let allow = |from: &&str| Allow { source: from.parse().unwrap(), ports: Vec::new() };
        let allowed = allowed.iter().map(allow).collect();
        Policy { address: sandbox.address, direction, allowed }
    };
    let closed = only(&far, Direction::In, &[]);
    world.network.sync_policies(&[closed]).await.unwrap();
    assert_eq!(datagram(at(&web), at(&far)), None);
    assert_eq!(datagram((Place::Lan, THERE), at(&far)), None);
    assert!(talks(at(&far), at(&web)), "it is answered");
    let from_there = only(&far, Direction::In, &["172.20.2.0/24"]);
    world.network.sync_policies(&[from_there]).await.unwrap();
    assert_eq!(datagram(at(&web), at(&far)), None);
    assert!(talks((Place::Lan, THERE), at(&far)));
    let confined = only(&web, Direction::Out, &["172.20.0.0/16"]);
    world.network.sync_policies(&[confined]).await.unwrap();
    assert!(talks(at(&web), at(&far)));
    assert!(!talks(at(&web), (Place::Lan, OUTSIDE)));
    // No service of the host's is open to an instance, whichever range it is of.
    assert_eq!(datagram(at(&far), (Place::Host, HOST)), None);
    assert_eq!(datagram((Place::Lan, THERE), (Place::Host, HOST)), None);
}

#[tokio::test]
async fn each_range_is_kept_from_the_rules_of_others_and_goes_when_it_is_left_out() {
    let world = World::bare();
    run("iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -A FORWARD -j DOCKER-USER
             iptables -P FORWARD DROP");
    let before = dump();
    run("ip rule add from 192.0.2.50 lookup 100 priority 1000");
    world.network.ensure_host(&both()).await.unwrap();
    for range in ["10.80.0.0/16", "172.20.0.0/16"] {
        let rules = run("ip rule");
        assert!(rules.contains(&format!("999:\tfrom all to {range} lookup main")), "{rules}");
        let accepted = run("iptables -S DWELL-OUT");
        for side in ["-s", "-d"] {
            assert!(accepted.contains(&format!("{side} {range} -o uplink")), "{accepted}");
        }
    }
    world.network.ensure_host(&host()).await.unwrap();
    let left = run("ip rule; iptables -S; nft list table inet dwell");
    assert!(left.contains("10.80.0.0/16") && !left.contains("172.20."), "{left}");
    world.network.ensure_host(&both()).await.unwrap();
    world.network.cleanup().await.unwrap();
    run("ip rule del priority 1000");
    assert_eq!(dump(), before);
}
