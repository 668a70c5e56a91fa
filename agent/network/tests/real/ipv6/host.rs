//! Hosts with rules, settings and links of their own, on which instances have IPv6 or cannot have it.

use std::net::Ipv4Addr;
use std::time::Duration;

use dwell_core::workload::Protocol;
use dwell_network::world::{
    HOST, Place, World, datagram, db, dump, host, inside, lan, run, until_silent, web,
};
use dwell_network::{Allow, Direction, HostNetwork, Network as _, Policy, PortRange, Sandbox};
use nix::mount::{MsFlags, mount};

use super::{THERE, connect, datagram6, dual, has_ipv6, neighbour, pings, six, table, with};

/// It has the same priority as the one of IPv4 would have, and is for nodes as well.
#[tokio::test]
async fn rules_of_the_host_lead_no_instance_elsewhere() {
    let web = web();
    let world = World::bare();
    run("ip -6 address add 2001:db8::1/64 dev uplink nodad
         ip -6 route add default via 2001:db8::2 dev uplink table 100");
    let before = dump();
    let divert = "ip -6 rule add lookup 100 priority 100";
    run(divert);
    prepare(&world, &web).await;
    let rules =
        || run("ip -6 rule | grep \"to fd00:5::/96 lookup main suppress_prefixlength 0\" || true");
    assert!(rules().starts_with("99:"), "{}", rules());
    assert!(pings(Place::Host, web.address) && pings(Place::Lan, web.address));
    let (to_node, to_web) = (Ipv4Addr::new(192, 0, 2, 2), web.address);
    assert_eq!(datagram6((Place::Host, HOST), (Place::Inside(&web), to_web)), Some(six(HOST)));
    assert!(run(&format!("ip -6 route get {}", six(to_node))).contains("fe80::6477:6c6c:c000:202"));
    let elsewhere = run("ip -6 route get 2001:db8:7::1");
    assert!(elsewhere.contains("table 100"), "what is not dwell's is the operator's: {elsewhere}");

    for (change, is_needed) in [
        ("ip -6 rule del priority 99", true),
        ("ip -6 rule del priority 100", false),
        (divert, true),
        ("ip -6 rule del lookup main priority 32766", true),
    ] {
        let mut disturbances = world.network.disturbances();
        let before = disturbances.borrow_and_update().host;
        run(change);
        let told = disturbances.wait_for(|now| now.host > before);
        let told = tokio::time::timeout(Duration::from_secs(2), told).await;
        assert!(told.is_ok(), "nobody is told of `{change}`");
        world.network.ensure_host(&dual()).await.unwrap();
        assert_eq!(!rules().is_empty(), is_needed, "{change}");
        assert!(run("ip -6 rule").contains("32766:\tfrom all lookup main"), "{change}");
    }
    world.network.ensure_host(&host()).await.unwrap();
    assert_eq!(rules(), "", "without a prefix there is none");
    world.network.cleanup().await.unwrap();
    until_silent("ip -o link | grep dw- || true");
    run("ip -6 rule del priority 100");
    // The one that leads to the main table is nobody's alone, and stays.
    assert_eq!(dump().replace("lookup main proto 157", "lookup main"), before);
}

async fn prepare(world: &World, sandbox: &Sandbox) {
    neighbour();
    world.network.ensure_host(&dual()).await.unwrap();
    world.network.sync_policies(&[]).await.unwrap();
    world.network.ensure_sandbox(sandbox).await.unwrap();
    assert!(world.network.sync_routes(&table()).await.unwrap().is_clean());
}

/// As Docker has it from version 27 on, and before where it was told to.
#[tokio::test]
async fn a_closed_forward_of_docker_is_passed_in_ipv6_too() {
    let web = web();
    let dockers = "*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
COMMIT
";
    let world = World::bare();
    std::fs::write("/run/dockers", dockers).unwrap();
    run("ip6tables-restore < /run/dockers");
    let before = run("ip6tables -S");
    prepare(&world, &web).await;
    let from_lan = || datagram6((Place::Lan, THERE), (Place::Inside(&web), web.address)).is_some();
    assert!(from_lan() && pings(Place::Inside(&web), THERE));
    let rules = run("ip6tables -S");
    assert!(rules.contains("-A FORWARD -m comment --comment dwell -j DOCKER-USER"), "{rules}");
    assert!(!rules.contains("10.80"), "{rules}");
    // What dockerd does for a moment when it starts, and for each network that it makes.
    run("ip6tables -D FORWARD -j DOCKER-USER");
    assert!(from_lan(), "while Docker's jump is out");
    run("ip6tables -I FORWARD -j DOCKER-USER");
    // It puts its RETURN before what is there.
    run("ip6tables -D DOCKER-USER -j RETURN; ip6tables -I DOCKER-USER -j RETURN");
    assert!(!from_lan());
    world.network.ensure_host(&dual()).await.unwrap();
    assert!(from_lan());
    // Nothing else is let through.
    lan("ip -6 address add 2001:db8::2/128 dev lo nodad");
    run("ip -6 route add 2001:db8::2/128 via fe80::6477:6c6c:192.0.2.2 dev uplink
         ip netns add dwn-bridge
         ip link add dockers type veth peer name eth0 netns dwn-bridge
         ip link set dockers up
         ip -6 address add 2001:db8:2::1/64 dev dockers nodad");
    run("nsenter --net=/run/netns/dwn-bridge sh -ec \"ip link set eth0 up
         ip -6 address add 2001:db8:2::2/64 dev eth0 nodad
         ip -6 route add default via 2001:db8:2::1\"");
    lan("ip -6 route add 2001:db8:2::/64 via fe80::6477:6c6c:192.0.2.1 dev uplink");
    let pings_bridge =
        lan("busybox ping6 -c 1 -W 1 2001:db8:2::2 > /dev/null && echo yes || echo no");
    assert_eq!(pings_bridge.trim(), "no", "Docker's own networks stay closed");
    run(
        "ip netns del dwn-bridge; ip6tables -D DOCKER-USER -j RETURN || true; ip6tables -A DOCKER-USER -j RETURN",
    );
    world.network.cleanup().await.unwrap();
    assert_eq!(run("ip6tables -S"), before);
}

/// Names, echoes and answers stay; everything else takes a rule, by either protocol.
#[tokio::test]
async fn confined_instances_are_so_in_ipv6() {
    let (web, db) = (web(), db());
    let world = with([&web, &db]).await;
    lan("ip -6 address add 2001:db8::2/128 dev lo nodad");
    run("ip -6 route add 2001:db8::2/128 via fe80::6477:6c6c:192.0.2.2 dev uplink");
    let from = (Place::Inside(&web), web.address);
    let beyond = || {
        let ping = "busybox ping6 -c 3 -i 0.2 -W 1 2001:db8::2 > /dev/null && echo yes || echo no";
        inside(&web, ping).trim() == "yes"
    };
    assert!(beyond(), "under the host's address");
    let others = [(Place::Inside(&db), db.address), (Place::Lan, THERE)];
    for (allowed, expected, outside) in [
        (vec![], [false, false], false),
        (vec!["10.80.1.6/32"], [true, false], false),
        (vec!["10.80.2.0/24"], [false, true], false),
        (vec!["10.80.0.0/16"], [true, true], false),
        (vec!["0.0.0.0/0"], [true, true], true),
    ] {
        let allow = |to: &&str| Allow { source: to.parse().unwrap(), ports: vec![] };
        let allowed: Vec<_> = allowed.iter().map(allow).collect();
        let policy = Policy { address: web.address, direction: Direction::Out, allowed };
        world.network.sync_policies(std::slice::from_ref(&policy)).await.unwrap();
        for (to, expected) in others.into_iter().zip(expected) {
            let both = [datagram(from, to).is_some(), datagram6(from, to).is_some()];
            assert_eq!(both, [expected; 2], "{policy:?} to {}", to.1);
            assert!(datagram6(to, from).is_some(), "whoever calls is answered");
        }
        assert_eq!(beyond(), outside, "{policy:?}");
        assert!(pings(Place::Inside(&web), HOST), "its own node answers echoes");
    }
    let host_access = vec![PortRange { protocol: Protocol::Tcp, first: 5000, last: 5000 }];
    world.network.ensure_host(&HostNetwork { host_access, ..dual() }).await.unwrap();
    let to_host = || connect((Place::Inside(&web), Place::Host), HOST, 5000);
    assert_eq!(to_host(), [true; 2]);
    let policy = Policy { address: web.address, direction: Direction::Out, allowed: vec![] };
    world.network.sync_policies(&[policy]).await.unwrap();
    assert_eq!(to_host(), [false; 2], "what the host opens takes a rule, too");
    let seen = world.network.look(&table()).await.unwrap();
    assert_eq!(seen.isolation, []);
    run("nft delete element inet dwell ip6_confined { fd00:5::a50:105 }");
    let seen = world.network.look(&table()).await.unwrap();
    assert_eq!(seen.isolation.len(), 1, "{:?}", seen.isolation);
}

/// IPv6 takes 1280 bytes. IPv4 does not, and goes on.
#[tokio::test]
async fn on_a_link_that_is_too_small_there_is_ipv4_alone() {
    let web = web();
    let world = with([&web]).await;
    let follow = async || {
        // The host says what is wrong, and is otherwise prepared.
        let _said = world.network.ensure_host(&dual()).await;
        world.network.repair_sandbox(&web).await.unwrap();
        world.network.sync_routes(&table()).await
    };
    let by_ipv4 = || datagram((Place::Host, HOST), (Place::Inside(&web), web.address)).is_some();
    run("ip link set uplink mtu 1270");
    let said = follow().await.unwrap_err();
    let said = format!("{said:?}");
    assert!(said.contains("an MTU of 1280"), "{said}");
    assert!(!has_ipv6(&web) && by_ipv4());
    let small = dwell_network::world::sandbox("small-0", [10, 80, 1, 7]);
    world.network.ensure_sandbox(&small).await.unwrap();
    assert!(!has_ipv6(&small));
    run("ip link set uplink mtu 1400");
    follow().await.unwrap();
    assert!(has_ipv6(&web) && by_ipv4());
    assert!(pings(Place::Host, web.address));
    assert_eq!(run("ip -6 -o address show scope link | grep -c dw- || true").trim(), "0");
    assert_eq!(inside(&web, "ip -6 -o address show scope link"), "");
}

#[tokio::test]
async fn without_ipv6_in_its_kernel_a_host_has_ipv4_alone() {
    let web = web();
    let world = World::bare();
    let none = None::<&str>;
    mount(Some("tmpfs"), "/proc/sys/net/ipv6", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    world.network.ensure_host(&dual()).await.unwrap_err();
    world.network.sync_policies(&[]).await.unwrap();
    world.network.ensure_sandbox(&web).await.unwrap();
    assert!(datagram((Place::Host, HOST), (Place::Inside(&web), web.address)).is_some());
    assert!(!has_ipv6(&web));
}

/// Where IPv6 is switched off, for all or for the uplink, IPv4 goes on, and what to do is said.
#[tokio::test]
async fn where_an_operator_has_switched_ipv6_off_it_stays_off() {
    let web = web();
    let world = World::bare();
    run("sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    world.network.ensure_host(&dual()).await.unwrap();
    world.network.sync_policies(&[]).await.unwrap();
    world.network.ensure_sandbox(&web).await.unwrap();
    let said = world.network.sync_routes(&table()).await.unwrap_err().to_string();
    assert!(said.contains("disable_ipv6=0"), "{said}");
    assert!(datagram((Place::Host, HOST), (Place::Inside(&web), web.address)).is_some());
    assert_eq!(run("sysctl -n net.ipv6.conf.uplink.disable_ipv6").trim(), "1");
    run("sysctl -q -w net.ipv6.conf.lo.disable_ipv6=0 net.ipv6.conf.uplink.disable_ipv6=0");
    assert!(world.network.sync_routes(&table()).await.unwrap().is_clean());
    world.network.repair_sandbox(&web).await.unwrap();
    assert!(pings(Place::Host, web.address));
}

/// A host that is not to forward yet, because Docker has to start first, does not by IPv6 either.
#[tokio::test]
async fn it_forwards_ipv6_when_it_forwards_ipv4() {
    let world = World::bare();
    run("sysctl -q -w net.ipv6.conf.all.forwarding=0");
    let forwarding = || run("sysctl -n net.ipv6.conf.all.forwarding").trim().to_owned();
    world.network.ensure_host(&HostNetwork { forwards: false, ..dual() }).await.unwrap();
    assert_eq!(forwarding(), "0");
    world.network.ensure_host(&dual()).await.unwrap();
    assert_eq!(forwarding(), "1");
}

#[tokio::test]
async fn without_a_prefix_nothing_of_ipv6_is_there() {
    let web = web();
    let world = World::bare();
    let of_host = "ip -6 address; ip -6 route; ip -6 neighbour; ip -6 rule; sysctl net.ipv6.conf | grep -v dw-
                   ip nexthop | grep fe80 || true; ip6tables -S";
    let before = run(of_host);
    world.network.ensure_host(&host()).await.unwrap();
    world.network.sync_policies(&[]).await.unwrap();
    world.network.ensure_sandbox(&web).await.unwrap();
    let table = dwell_network::RouteTable { ipv6: None, ..table() };
    assert!(world.network.sync_routes(&table).await.unwrap().is_clean());
    assert_eq!(run(of_host), before);
    assert_eq!(inside(&web, "ip -6 address; ip -6 route"), "");
    assert!(!run("nft list table inet dwell").contains("ip6"));
}
