//! Routes to other nodes.

use std::net::Ipv4Addr;

use dwell_network::{Exception, HostNetwork, Network as _, Peer, RouteReport, RouteTable};

use dwell_network::world::{NEIGHBOUR, World, host, peer, run, sandbox};

const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
const OURS: &str = "ip route show protocol 157 metric 157";

fn two_peers() -> RouteTable {
    RouteTable {
        peers: vec![peer("b", "10.80.2.0/24", NEIGHBOUR), peer("c", "10.80.3.0/24", OTHER)],
        exceptions: vec![exception([10, 80, 2, 9], "c")],
        ..RouteTable::default()
    }
}

fn exception(address: [u8; 4], node: &str) -> Exception {
    Exception { address: address.into(), node: node.parse().unwrap() }
}

fn gateway_of(address: &str) -> String {
    let route = run(&format!("ip route get {address}"));
    route.split_whitespace().skip_while(|word| *word != "via").nth(1).unwrap_or("none").to_owned()
}

#[tokio::test]
async fn a_table_is_made_kept_changed_and_removed() {
    let world = World::ready().await;
    let report = world.network.sync_routes(&two_peers()).await.unwrap();
    assert_eq!(report, RouteReport { added: 3, ..RouteReport::default() });
    assert_eq!(gateway_of("10.80.2.1"), "192.0.2.2");
    assert_eq!(gateway_of("10.80.3.1"), "192.0.2.3");
    assert_eq!(gateway_of("10.80.2.9"), "192.0.2.3", "the exception goes before the block");

    let before = run("ip nexthop; ip route");
    let report = world.network.sync_routes(&two_peers()).await.unwrap();
    assert_eq!(report, RouteReport { in_place: 3, ..RouteReport::default() });
    assert_eq!(run("ip nexthop; ip route"), before);

    let mut moved = two_peers();
    moved.exceptions = vec![exception([10, 80, 3, 7], "b")];
    moved.peers[1].via = NEIGHBOUR;
    let report = world.network.sync_routes(&moved).await.unwrap();
    assert_eq!((report.in_place, report.added, report.removed), (2, 1, 1));
    assert_eq!(gateway_of("10.80.3.1"), "192.0.2.2", "redirected by its nexthop alone");

    let report = world.network.sync_routes(&RouteTable::default()).await.unwrap();
    assert_eq!(report.removed, 3);
    assert_eq!(run(&format!("{OURS}; ip nexthop")), "");
    assert!(run("ip route").contains("unreachable 10.80.1.0/24"), "the node's own block stays");
}

#[tokio::test]
async fn nodes_with_several_blocks() {
    let world = World::ready().await;
    let mut table = two_peers();
    table.peers[0].blocks.push("10.80.8.0/24".parse().unwrap());
    let report = world.network.sync_routes(&table).await.unwrap();
    assert_eq!(report, RouteReport { added: 4, ..RouteReport::default() });
    assert_eq!((&*gateway_of("10.80.2.1"), &*gateway_of("10.80.8.1")), ("192.0.2.2", "192.0.2.2"));
    let report = world.network.sync_routes(&two_peers()).await.unwrap();
    assert_eq!((report.in_place, report.removed), (3, 1));

    let more = "10.80.9.0/24".parse().unwrap();
    let blocks = vec![host().blocks[0], more];
    let closed = || run("ip route show type unreachable").lines().count();
    world.network.ensure_host(&HostNetwork { blocks, ..host() }).await.unwrap();
    assert_eq!(closed(), 2);
    world.network.ensure_host(&HostNetwork { blocks: vec![more], ..host() }).await.unwrap();
    assert!(closed() == 1 && run("ip route").contains("unreachable 10.80.9.0/24"));
}

#[tokio::test]
async fn an_agent_finds_its_own_routes_again() {
    let world = World::ready().await;
    world.network.sync_routes(&two_peers()).await.unwrap();
    let restarted = dwell_network::linux::LinuxNetwork::new(&Default::default()).unwrap();
    let report = restarted.sync_routes(&two_peers()).await.unwrap();
    assert_eq!(report.in_place, 3);
}

#[tokio::test]
async fn what_is_not_ours_is_neither_overwritten_nor_removed() {
    let world = World::ready().await;
    run("ip route add 10.80.2.0/24 via 192.0.2.3 metric 157
         ip route add 10.80.3.128/25 via 192.0.2.2
         ip route add 198.51.100.0/24 via 192.0.2.2 metric 157
         ip nexthop add id 7 via 192.0.2.2 dev uplink
         ip route add 198.51.101.0/24 nhid 7");
    let foreign = run("ip nexthop show id 7; ip route show protocol boot");
    let report = world.network.sync_routes(&two_peers()).await.unwrap();
    assert_eq!(report.added, 2);
    assert!(report.failures.is_empty(), "{report:?}");
    let held: Vec<_> = report.conflicts.iter().map(|held| held.wanted.to_string()).collect();
    assert_eq!(held, ["10.80.2.0/24", "10.80.3.0/24"]);
    assert_eq!(
        report.conflicts[0].holder,
        "10.80.2.0/24 via 192.0.2.3 dev uplink proto boot metric 157"
    );

    world.network.sync_routes(&RouteTable::default()).await.unwrap();
    assert_eq!(run("ip nexthop show id 7; ip route show protocol boot"), foreign);
    assert_eq!(run(OURS), "");

    run("ip route del 10.80.2.0/24 metric 157; ip route del 10.80.3.128/25");
    let report = world.network.sync_routes(&two_peers()).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test]
async fn a_docker_network_within_a_peers_block_is_named() {
    let world = World::ready().await;
    run("ip link add br-1234 type bridge
         ip address add 10.80.2.1/25 dev br-1234
         ip link set br-1234 up");
    let report = world.network.sync_routes(&two_peers()).await.unwrap();
    assert_eq!((report.added, report.conflicts.len()), (3, 1), "{report:?}");
    for conflict in &report.conflicts {
        assert_eq!(conflict.wanted, "10.80.2.0/24".parse().unwrap());
        assert!(conflict.holder.contains(" dev br-1234 proto kernel "), "{report:?}");
    }
    run("ip link del br-1234");
    assert!(world.network.sync_routes(&two_peers()).await.unwrap().is_clean());
}

#[tokio::test]
async fn a_foreign_route_is_not_overwritten_whenever_it_comes() {
    const ROUNDS: usize = 300;
    let world = World::ready().await;
    let mut tables = [two_peers(), two_peers()];
    tables[1].exceptions = vec![exception([10, 80, 2, 9], "b")];
    // A long table, so that much can happen between our look at it and our changes.
    for table in &mut tables {
        let host = |n: u16| [10, 90, n.to_be_bytes()[0], n.to_be_bytes()[1]];
        table.exceptions.extend((0..2000).map(|n| exception(host(n), "b")));
    }
    let others = std::thread::spawn(|| {
        let show = "ip route show 10.80.2.9 metric 157 protocol static";
        for round in 0..ROUNDS {
            run("ip route replace 10.80.2.9 via 192.0.2.3 metric 157 protocol static");
            assert_ne!(run(show), "", "overwritten in round {round}");
            run("ip route del 10.80.2.9 metric 157 protocol static");
        }
    });
    let (mut syncs, mut changed) = (0, 0);
    while !others.is_finished() {
        let report = world.network.sync_routes(&tables[syncs % 2]).await.unwrap();
        assert!(report.failures.is_empty(), "{report:?}");
        changed += report.changed;
        syncs += 1;
    }
    others.join().unwrap();
    println!("{changed} of {syncs} tables changed the route beside {ROUNDS} of others");
    let report = world.network.sync_routes(&tables[0]).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(gateway_of("10.80.2.9"), "192.0.2.3");
    assert_eq!(run("ip route show 10.80.2.9 | wc -l").trim(), "1");
}

#[tokio::test]
async fn an_agent_starts_into_a_table_full_of_its_own_old_routes() {
    const OLD: u32 = 20_000;
    let mut batch = String::from("nexthop add id 1610612737 via 192.0.2.77 dev uplink proto 157\n");
    for n in 0..OLD {
        batch += &format!(
            "route add 10.{}.{}.{}/32 nhid 1610612737 proto 157 metric 157\n",
            100 + (n >> 16),
            n >> 8 & 255,
            n & 255
        );
    }
    // One that is wanted still, by way of a node that is no more.
    batch += "route add 10.80.2.0/24 nhid 1610612737 proto 157 metric 157\n";
    let world = World::ready().await;
    std::fs::write("/run/batch", batch).unwrap();
    run("ip -batch /run/batch");
    let report = world.network.sync_routes(&two_peers()).await.unwrap();
    let counts = (report.added, report.changed, report.removed, report.in_place);
    assert_eq!(counts, (2, 1, OLD as usize, 0));
    assert_eq!(run(&format!("{OURS} | wc -l")).trim(), "3");
    assert!(!run("ip nexthop").contains("1610612737"));
}

#[tokio::test]
async fn a_peer_out_of_reach_is_reported_and_the_others_are_served() {
    let world = World::ready().await;
    let mut table = two_peers();
    table.peers.push(peer("far", "10.80.4.0/24", Ipv4Addr::new(198, 51, 100, 1)));
    let report = world.network.sync_routes(&table).await.unwrap();
    assert_eq!(report.added, 3);
    assert_eq!(report.failures.len(), 1);
    assert!(report.failures[0].reason.contains("network segment"), "{report:?}");
}

#[tokio::test]
async fn what_the_kernel_and_others_took_away_comes_back() {
    let damages = [
        "ip route flush protocol 157",
        "ip route append 10.80.2.0/24 via 192.0.2.3 protocol 157 metric 157",
        "ip nexthop flush proto 157",
        "ip route flush table main; ip route add 192.0.2.0/24 dev uplink",
        "ip link set uplink down; ip link set uplink up",
        "ip address flush dev uplink; ip address add 192.0.2.1/24 dev uplink",
        "ip route replace 10.80.3.0/24 via 192.0.2.2 protocol 157 metric 157",
    ];
    let world = World::ready().await;
    world.network.sync_routes(&two_peers()).await.unwrap();
    for damage in damages {
        run(damage);
        let report = world.network.sync_routes(&two_peers()).await.unwrap();
        assert!(report.is_clean(), "after `{damage}`: {report:?}");
        assert_eq!(gateway_of("10.80.2.1"), "192.0.2.2", "after `{damage}`");
        assert_eq!(gateway_of("10.80.3.1"), "192.0.2.3", "after `{damage}`");
        assert_eq!(gateway_of("10.80.2.9"), "192.0.2.3", "after `{damage}`");
    }
}

#[tokio::test]
async fn with_the_uplink_down_every_peer_has_its_reason() {
    let world = World::ready().await;
    run("ip link set uplink down");
    let report = world.network.sync_routes(&two_peers()).await.unwrap();
    let failed: Vec<_> = report.failures.iter().map(|failure| failure.node.as_str()).collect();
    assert_eq!(failed, ["b", "c"], "{report:?}");
    assert!(report.failures[0].reason.contains("192.0.2.2"), "{report:?}");
}

#[tokio::test]
async fn an_instance_that_is_here_is_reached_here() {
    let web = sandbox("web-0", [10, 80, 1, 5]);
    let world = World::with([&web]).await;
    let mut table = two_peers();
    // What the fleet is told before an instance leaves, and after it has come.
    table.exceptions.push(exception([10, 80, 1, 5], "b"));
    world.network.sync_routes(&table).await.unwrap();
    assert!(run("ip route get 10.80.1.5").contains(" dev dw-"));
    world.network.ensure_sandbox(&web).await.unwrap();
    world.network.remove_sandbox(&web.id()).await.unwrap();
    assert_eq!(gateway_of("10.80.1.5"), "192.0.2.2");
    world.network.ensure_sandbox(&web).await.unwrap();
    assert!(run("ip route get 10.80.1.5").contains(" dev dw-"));
}

#[tokio::test]
async fn a_thousand_nodes_and_exceptions_fit_in_one_table() {
    const NODES: u16 = 1000;
    let world = World::bare();
    run("ip address add 198.18.0.1/15 dev uplink");
    let mut wide = host();
    wide.cluster = "10.0.0.0/8".parse().unwrap();
    wide.blocks.clear();
    world.network.ensure_host(&wide).await.unwrap();
    let node = |n: u16| format!("node-{n}");
    let [high, low] = [|n: u16| n.to_be_bytes()[0], |n: u16| n.to_be_bytes()[1]];
    let peers: Vec<Peer> = (0..NODES)
        .map(|n| {
            let via = Ipv4Addr::new(198, 19, high(n), low(n));
            peer(&node(n), &format!("10.{}.{}.0/24", high(n), low(n)), via)
        })
        .collect();
    let exceptions = (0..NODES).map(|n| exception([10, 200, high(n), low(n)], &node(n))).collect();
    let table = RouteTable { peers, exceptions, ..RouteTable::default() };
    let start = std::time::Instant::now();
    let report = world.network.sync_routes(&table).await.unwrap();
    println!("1,000 nexthops and 2,000 routes: {:?}", start.elapsed());
    assert_eq!(report, RouteReport { added: 2000, ..RouteReport::default() });
    let start = std::time::Instant::now();
    let report = world.network.sync_routes(&table).await.unwrap();
    println!("checked again: {:?}", start.elapsed());
    assert_eq!(report, RouteReport { in_place: 2000, ..RouteReport::default() });
    let report = world.network.sync_routes(&RouteTable::default()).await.unwrap();
    assert_eq!(report.removed, 2000);
    assert_eq!(run(&format!("{OURS}; ip nexthop")), "");
}
