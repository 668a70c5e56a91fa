//! What passes the host, under which address, and what stays closed.

use std::net::Ipv4Addr;
use std::time::Duration;

use dwell_network::linux::{LinuxConfig, LinuxNetwork};
use dwell_network::{HostNetwork, Network as _, NetworkError, RouteTable};

use dwell_network::world::{
    HOST, NEIGHBOUR, OUTSIDE, Place, World, datagram, host, peer, reaches, run, web,
};

const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

/// What dockerd 20.10 leaves behind with a FORWARD policy of DROP and one container.
fn pretend_docker() {
    run("iptables -P FORWARD DROP
         iptables -N DOCKER-USER
         iptables -A DOCKER-USER -j RETURN
         iptables -I FORWARD -j DOCKER-USER
         iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
         ip link add docker0 type bridge
         ip address add 172.17.0.1/16 dev docker0
         ip link set docker0 up
         ip netns add dwn-container
         ip link add c0 type veth peer name eth0 netns dwn-container
         ip link set c0 up master docker0
         nsenter --net=/run/netns/dwn-container ip link set eth0 up
         nsenter --net=/run/netns/dwn-container ip address add 172.17.0.2/16 dev eth0
         nsenter --net=/run/netns/dwn-container ip route add default via 172.17.0.1");
}

#[tokio::test]
async fn past_dockers_drop_and_into_nothing_of_dockers() {
    let web = web();
    let world = World::with([&web]).await;
    pretend_docker();
    let from_lan = || datagram((Place::Lan, NEIGHBOUR), (Place::Inside(&web), web.address));
    assert_eq!(from_lan(), None, "Docker's policy applies");

    world.network.ensure_host(&host()).await.unwrap();
    assert_eq!(from_lan(), Some(NEIGHBOUR));
    let out = datagram((Place::Inside(&web), web.address), (Place::Lan, NEIGHBOUR));
    assert!(out.is_some());
    let container = Place::Named("dwn-container");
    let in_docker = datagram((Place::Inside(&web), web.address), (container, CONTAINER));
    assert_eq!(in_docker, None, "an instance does not get into Docker's network");
    dwell_network::world::lan("ip route add 172.17.0.0/16 via 192.0.2.1");
    let in_docker = datagram((Place::Lan, NEIGHBOUR), (container, CONTAINER));
    assert_eq!(in_docker, None, "nor does anybody else");
    assert!(reaches(container, web.address), "what Docker lets out, gets to an instance");
}

#[tokio::test]
async fn dockers_rules_are_changed_once_and_repaired() {
    let world = World::ready().await;
    pretend_docker();
    run("iptables -I DOCKER-USER -s 203.0.113.0/24 -j DROP");
    world.network.ensure_host(&host()).await.unwrap();
    let rules = run("iptables -S");
    let user: Vec<_> = rules.lines().filter(|rule| rule.starts_with("-A DOCKER-USER")).collect();
    assert_eq!(
        user,
        [
            "-A DOCKER-USER -s 203.0.113.0/24 -j DROP",
            "-A DOCKER-USER -m comment --comment dwell -j DWELL-IN",
            "-A DOCKER-USER -j RETURN",
        ]
    );
    world.network.ensure_host(&host()).await.unwrap();
    assert_eq!(run("iptables -S"), rules, "a second call changes nothing");

    for damage in ["iptables -F DWELL-OUT", "iptables -D DOCKER-USER 2", "iptables -F DWELL-IN"] {
        run(damage);
        world.network.ensure_host(&host()).await.unwrap();
        assert_eq!(run("iptables -S"), rules, "after `{damage}`");
    }
}

#[tokio::test]
async fn a_drop_without_docker_is_passed_too_and_only_while_it_lasts() {
    let web = web();
    let world = World::with([&web]).await;
    assert!(!run("iptables -S").contains("DWELL"), "not needed, not there");
    run("iptables -P FORWARD DROP");
    world.network.ensure_host(&host()).await.unwrap();
    let seen = datagram((Place::Lan, NEIGHBOUR), (Place::Inside(&web), web.address));
    assert_eq!(seen, Some(NEIGHBOUR));
    run("iptables -P FORWARD ACCEPT");
    world.network.ensure_host(&host()).await.unwrap();
    assert!(!run("iptables -S").contains("DWELL"));
}

#[tokio::test]
async fn the_source_is_kept_in_the_cluster_and_masqueraded_beyond() {
    let web = web();
    let world = World::with([&web]).await;
    let send = |target| datagram((Place::Inside(&web), web.address), (Place::Lan, target));
    assert_eq!(send(OUTSIDE), Some(HOST));
    assert_eq!(send(NEIGHBOUR), Some(HOST), "not known as a node yet");

    let table =
        RouteTable { peers: vec![peer("b", "10.80.2.0/24", NEIGHBOUR)], ..RouteTable::default() };
    world.network.sync_routes(&table).await.unwrap();
    dwell_network::world::lan("ip address add 10.80.2.5/32 dev lo");
    assert_eq!(send(NEIGHBOUR), Some(web.address), "a node");
    assert_eq!(send(Ipv4Addr::new(10, 80, 2, 5)), Some(web.address), "another node's instance");
    assert_eq!(send(OUTSIDE), Some(HOST));
    world.network.ensure_host(&host()).await.unwrap();
    assert_eq!(send(NEIGHBOUR), Some(web.address), "a node is still known");

    let plain = HostNetwork { masquerade: false, ..host() };
    world.network.ensure_host(&plain).await.unwrap();
    assert_eq!(send(OUTSIDE), Some(web.address));
}

#[tokio::test]
async fn a_flushed_firewall_is_written_again_with_all_its_elements() {
    let web = web();
    let world = World::with([&web]).await;
    let before = run("nft list table inet dwell");
    run("nft flush ruleset");
    world.network.ensure_host(&host()).await.unwrap();
    let counters = |text: &str| {
        let words = text.split_whitespace().filter(|word| word.parse::<u64>().is_err());
        words.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(counters(&run("nft list table inet dwell")), counters(&before));
    assert!(reaches(Place::Inside(&web), NEIGHBOUR));
}

/// Another program may hold the lock of iptables for as long as it likes: only the rules wait for it.
#[tokio::test]
async fn an_iptables_that_hangs_delays_neither_sandboxes_nor_routes() {
    let _world = World::bare();
    run("printf '#!/bin/sh\\nexec sleep 600\\n' >/run/hangs; chmod 755 /run/hangs
         mount --bind /run/hangs \"$(readlink -f \"$(command -v iptables)\")\"");
    let program_limit = Duration::from_secs(3);
    let config = LinuxConfig { program_limit, ..LinuxConfig::default() };
    let network = LinuxNetwork::new(&config).unwrap();
    let preparing = tokio::spawn({
        let network = network.clone();
        async move { network.ensure_host(&host()).await }
    });
    // The host's own part is done before, so that this finds it prepared.
    let table =
        RouteTable { peers: vec![peer("b", "10.80.2.0/24", NEIGHBOUR)], ..Default::default() };
    loop {
        match network.ensure_sandbox(&web()).await {
            Err(NetworkError::HostNotReady) => tokio::task::yield_now().await,
            made => break made.unwrap(),
        }
    }
    assert!(network.sync_routes(&table).await.unwrap().is_clean());
    assert!(!preparing.is_finished(), "it was not held up at all");
    assert!(reaches(Place::Host, web().address));
    let refused = preparing.await.unwrap().unwrap_err();
    assert!(matches!(refused, NetworkError::ProgramHung { program: "iptables", .. }), "{refused}");
}
