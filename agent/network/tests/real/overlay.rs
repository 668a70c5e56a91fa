//! Two hosts with a router between them, which knows neither instances nor tunnels.
//!
//! ```text
//!  the test's host   192.0.2.1 ── 192.0.2.2  dwn-lan, a router  198.51.100.1 ── 198.51.100.7   dwn-far
//!   web-0 10.80.1.5                drops what is not between hosts                db-0 10.80.7.9
//! ```

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use dwell_core::workload::Protocol;
use dwell_network::linux::{LinuxConfig, LinuxNetwork};
use dwell_network::world::{
    HOST, Place, World, bound, datagram, dump, host, inside, lan, peer, reaches, run, sandbox, web,
};
use dwell_network::{
    Allow, Direction, HostNetwork, Ipv6Routes, Network as _, Overlay, Policy, PortRange,
    RouteTable, Sandbox,
};

use crate::ipv6::{datagram6, dual, range};

const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const PORT: u16 = 4789;
/// The far host, and its instance.
const FAR_HOST: Place<'_> = Place::Named("dwn-far");
const FAR_DB: Place<'_> = Place::Named("far-db");

struct Hosts {
    near: World,
    far: LinuxNetwork,
    web: Sandbox,
    db: Sandbox,
}

fn overlay(local: Ipv4Addr) -> Option<Overlay> {
    Some(Overlay { local, port: PORT, always: false })
}

/// What the test's host is to know.
fn of_near() -> RouteTable {
    let peers = vec![peer("far", "10.80.7.0/24", FAR)];
    RouteTable { peers, overlay: overlay(HOST), ..RouteTable::default() }
}

fn of_far() -> RouteTable {
    let peers = vec![peer("near", "10.80.1.0/24", HOST)];
    RouteTable { peers, overlay: overlay(FAR), ..RouteTable::default() }
}

fn far_host() -> HostNetwork {
    HostNetwork { blocks: vec!["10.80.7.0/24".parse().unwrap()], ..host() }
}

impl Hosts {
    async fn new() -> Self {
        let near = World::ready().await;
        run("ip netns add dwn-far
             ip link add far mtu 1400 netns dwn-lan type veth peer name uplink mtu 1400 netns dwn-far
             nsenter --net=/run/netns/dwn-far ip link set lo up
             nsenter --net=/run/netns/dwn-far ip address add 198.51.100.7/24 dev uplink
             nsenter --net=/run/netns/dwn-far ip link set uplink up
             nsenter --net=/run/netns/dwn-far ip route add default via 198.51.100.1");
        lan("ip address add 198.51.100.1/24 dev far
             ip link set far up
             ip route del 10.80.0.0/16
             sysctl -q -w net.ipv4.ip_forward=1
             nft add table ip fabric
             nft add chain ip fabric through \"{ type filter hook forward priority 0; }\"
             nft add rule ip fabric through ip saddr 10.80.0.0/16 counter drop
             nft add rule ip fabric through ip daddr 10.80.0.0/16 counter drop");
        let config = LinuxConfig::new("/run/far".into());
        let far = FAR_HOST.visit(|| LinuxNetwork::new(&config).unwrap());
        far.ensure_host(&far_host()).await.unwrap();
        let (web, db) = (web(), sandbox("db-0", [10, 80, 7, 9]));
        near.network.ensure_sandbox(&web).await.unwrap();
        far.ensure_sandbox(&db).await.unwrap();
        run("ln -s /run/far/netns/db-0 /run/netns/far-db");
        Self { near, far, web, db }
    }

    async fn joined() -> Self {
        let hosts = Self::new().await;
        let report = hosts.near.network.sync_routes(&of_near()).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        let report = hosts.far.sync_routes(&of_far()).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        hosts
    }

    /// With IPv6 on both.
    async fn joined_by_ipv6() -> Self {
        let hosts = Self::joined().await;
        let (near, far) = (&hosts.near.network, &hosts.far);
        near.ensure_host(&dual()).await.unwrap();
        far.ensure_host(&HostNetwork { blocks: far_host().blocks, ..dual() }).await.unwrap();
        near.sync_policies(&[]).await.unwrap();
        far.sync_policies(&[]).await.unwrap();
        near.repair_sandbox(&hosts.web).await.unwrap();
        far.repair_sandbox(&hosts.db).await.unwrap();
        let ipv6 = |local| Some(Ipv6Routes { range: range(), local });
        let table = RouteTable { ipv6: ipv6(HOST), ..of_near() };
        let report = near.sync_routes(&table).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        let report = far.sync_routes(&RouteTable { ipv6: ipv6(FAR), ..of_far() }).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(near.sync_routes(&table).await.unwrap().added, 0, "all is in place");
        hosts
    }

    fn near_web(&self) -> (Place<'_>, Ipv4Addr) {
        (Place::Inside(&self.web), self.web.address)
    }

    fn far_db(&self) -> (Place<'_>, Ipv4Addr) {
        (FAR_DB, self.db.address)
    }

    /// Both ways, under the senders' own addresses, with nothing for the router to drop.
    fn talk(&self) {
        let (web, db) = (self.near_web(), self.far_db());
        assert_eq!(datagram(web, db), Some(web.1));
        assert_eq!(datagram(db, web), Some(db.1));
        assert_eq!(leaks(), 0);
    }
}

/// What the fabric knows of IPv6 does not matter: it sees packets of IPv4 between hosts.
#[tokio::test]
async fn ipv6_goes_through_the_overlay_too() {
    let hosts = Hosts::joined_by_ipv6().await;
    let (web, db) = (hosts.near_web(), hosts.far_db());
    assert_eq!(datagram6(web, db), Some(range().address(web.1)));
    assert_eq!(datagram6(db, web), Some(range().address(db.1)));
    assert_eq!(datagram6((Place::Host, HOST), db), Some(range().address(HOST)));
    hosts.talk();
    let direction = Direction::In;
    let only = Policy { address: web.1, direction, allowed: Vec::new() };
    hosts.near.network.sync_policies(&[only]).await.unwrap();
    assert_eq!((datagram(db, web), datagram6(db, web)), (None, None));
    hosts.near.network.sync_routes(&of_near()).await.unwrap();
    assert_eq!(run("ip nexthop | grep fe80: || true; ip -6 route show proto 157 metric 157"), "");
}

/// A table that `nft` refuses is not there at the second try either, and without it whoever reaches the port would be
/// believed.
#[tokio::test]
async fn there_is_no_overlay_without_its_rules() {
    let hosts = Hosts::new().await;
    run("nft delete set inet dwell tunnelled
         nft add set inet dwell tunnelled '{ type inet_service; }'");
    for _ in 0..2 {
        hosts.near.network.sync_routes(&of_near()).await.unwrap_err();
        assert!(!run("ip -o link").contains("dwell-vxlan"));
    }
    run("nft delete set inet dwell tunnelled");
    assert!(hosts.near.network.sync_routes(&of_near()).await.unwrap().is_clean());
    assert!(run("ip -o link").contains("dwell-vxlan"));
}

/// How many packets of instances the router has seen.
fn leaks() -> u64 {
    let rules = lan("nft list chain ip fabric through");
    let counts = rules.split("packets ").skip(1);
    counts.map(|rest| rest.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
}

/// How many packets a rule of a chain has dropped whose text has this in it.
fn dropped(chain: &str, rule: &str) -> u64 {
    let rules = run(&format!("nft list chain inet dwell {chain}"));
    let rule = rules.lines().find(|line| line.contains(rule)).unwrap();
    let count = rule.split("packets ").nth(1).unwrap();
    count.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn instances_talk_over_a_router_that_knows_none_of_them() {
    let hosts = Hosts::joined().await;
    hosts.talk();
    assert!(reaches(Place::Host, hosts.db.address), "the host and the other's instances");
    assert!(reaches(FAR_HOST, hosts.web.address));
    let seen = datagram((Place::Host, HOST), hosts.far_db());
    assert_eq!(seen, Some(HOST), "under the address by which it is known");
    // Nothing of it is tracked but the host's own.
    assert_eq!(run("nft list chain inet dwell tunnel | grep -c notrack").trim(), "1");
    let again = hosts.near.network.sync_routes(&of_near()).await.unwrap();
    assert_eq!((again.added, again.changed, again.removed), (0, 0, 0));
    let look = hosts.near.network.look(&of_near()).await.unwrap();
    assert_eq!(look.routes, []);
}

#[tokio::test]
async fn instances_send_what_fits_and_no_more() {
    let hosts = Hosts::joined().await;
    hosts.near.network.ensure_sandbox(&hosts.web).await.unwrap();
    hosts.far.ensure_sandbox(&hosts.db).await.unwrap();
    assert!(inside(&hosts.web, "ip link show eth0").contains("mtu 1350"));
    assert!(run("ip link show dwell-vxlan").contains("mtu 1350"));
    // Two megabytes each way, and not a fragment.
    let listener = FAR_DB.visit(|| bound(|| TcpListener::bind((hosts.db.address, 80))));
    let to = (hosts.db.address, 80);
    let client = hosts.near_web().0.visit(|| TcpStream::connect(to).unwrap());
    let (server, _) = listener.accept().unwrap();
    let sent = vec![7; 2 << 20];
    for (mut from, mut to) in [(&client, &server), (&server, &client)] {
        let mut received = vec![0; sent.len()];
        std::thread::scope(|scope| {
            scope.spawn(|| from.write_all(&sent).unwrap());
            to.read_exact(&mut received).unwrap();
        });
        assert!(received == sent);
    }
    let fragments = lan("grep ^Ip: /proc/net/snmp | tail -1 | cut -d\" \" -f 18");
    assert_eq!(fragments.trim(), "0");

    // What the uplink carries is followed at once.
    let mut disturbed = hosts.near.network.disturbances();
    disturbed.mark_unchanged();
    let sandboxes = disturbed.borrow().sandboxes;
    run("ip link set uplink mtu 1300");
    hosts.near.network.ensure_host(&host()).await.unwrap();
    hosts.near.network.sync_routes(&of_near()).await.unwrap();
    assert!(disturbed.borrow_and_update().sandboxes > sandboxes);
    hosts.near.network.ensure_sandbox(&hosts.web).await.unwrap();
    assert!(inside(&hosts.web, "ip link show eth0").contains("mtu 1250"));
    assert!(run("ip link show dwell-vxlan").contains("mtu 1250"));
}

/// A node's own address leads two ways: what hosts say goes as ever, what instances say through the overlay, and is as
/// closed to them as on one segment.
#[tokio::test]
async fn a_node_on_another_segment_is_as_closed_to_instances_as_one_on_their_own() {
    let hosts = Hosts::joined().await;
    let node = (FAR_HOST, FAR);
    assert_eq!(datagram(hosts.near_web(), node), None);
    assert_eq!(datagram((Place::Host, HOST), node), Some(HOST));
    let all = PortRange { protocol: Protocol::Udp, first: 1, last: 65535 };
    let open = HostNetwork { host_access: vec![all], ..far_host() };
    hosts.far.ensure_host(&open).await.unwrap();
    let seen = datagram(hosts.near_web(), node);
    assert_eq!(seen, Some(hosts.web.address), "under its own address, and the router saw nothing");
    assert_eq!(leaks(), 0);
    // What has no way there does not take another one.
    run("ip link set dwell-vxlan down");
    assert_eq!(datagram(hosts.near_web(), node), None);
    assert_eq!(leaks(), 0);
}

#[tokio::test]
async fn only_peers_send_into_the_overlay() {
    let hosts = Hosts::joined().await;
    // A header of VXLAN with our number, and no packet behind it.
    let forged = |place: Place<'_>, source: Ipv4Addr, target: Ipv4Addr| {
        let socket = place.visit(|| UdpSocket::bind((source, 0)).unwrap());
        socket.send_to(&[8, 0, 0, 0, 0, 0, 157, 0, 0, 0, 0, 0], (target, PORT)).unwrap();
        let foreign = [8, 0, 0, 0, 0, 1, 157, 0, 0, 0, 0, 0];
        socket.send_to(&foreign, (target, PORT)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        (dropped("host", "ip saddr != @tunnelled"), dropped("host", "ip daddr != 192.0.2.1"))
    };
    assert_eq!(forged(FAR_HOST, FAR, HOST), (0, 0), "a peer");
    let neighbour = Ipv4Addr::new(192, 0, 2, 2);
    assert_eq!(
        forged(Place::Lan, neighbour, HOST),
        (1, 0),
        "a stranger; other numbers are its own"
    );
    run("ip address add 192.0.2.77/24 dev uplink");
    assert_eq!(forged(FAR_HOST, FAR, Ipv4Addr::new(192, 0, 2, 77)), (1, 1), "another address");
    // An instance does not get the address of its host to send from there.
    let from = hosts.near_web();
    lan("nft add table ip seen
         nft add chain ip seen in \"{ type filter hook input priority 0; }\"
         nft add rule ip seen in udp dport 4789 ip saddr 192.0.2.1 counter drop");
    forged(from.0, from.1, neighbour);
    assert!(lan("nft list chain ip seen in").contains("packets 0"));

    // Nobody comes for an instance of the far node but through the overlay.
    run("sysctl -q -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.uplink.rp_filter=0");
    lan("ip address add 10.80.7.9/32 dev lo; ip route add 10.80.1.0/24 via 192.0.2.1");
    assert_eq!(datagram((Place::Lan, hosts.db.address), hosts.near_web()), None);
    assert!(dropped("guard", "fib saddr oifname \"dwell-vxlan\"") > 0);
}

#[tokio::test]
async fn what_is_closed_is_closed_through_the_overlay_too() {
    let hosts = Hosts::joined().await;
    let (web, db) = (hosts.near_web(), hosts.far_db());
    let policy =
        |allowed| [Policy { address: hosts.web.address, direction: Direction::In, allowed }];
    hosts.near.network.sync_policies(&policy(Vec::new())).await.unwrap();
    assert_eq!(datagram(db, web), None);
    assert!(reaches(web.0, db.1), "what it begins is answered");
    let allow = Allow { source: hosts.db.address.into(), ports: Vec::new() };
    hosts.near.network.sync_policies(&policy(vec![allow])).await.unwrap();
    hosts.talk();
}

#[tokio::test]
async fn damage_is_noticed_and_repaired() {
    let hosts = Hosts::joined().await;
    let network = &hosts.near.network;
    let mut disturbed = network.disturbances();
    let damages = [
        "ip link del dwell-vxlan",
        "ip link set dwell-vxlan down",
        "ip neighbour del 198.51.100.7 dev dwell-vxlan",
        "bridge fdb del 02:d0:c6:33:64:07 dev dwell-vxlan dst 198.51.100.7",
        "bridge fdb replace 02:d0:c6:33:64:07 dev dwell-vxlan dst 198.51.100.99 self permanent",
        "ip route flush table 157",
        "ip rule del priority 1570",
        "ip address flush dev dwell-vxlan",
        "ip route del 10.80.7.0/24",
        "ip link del dwell-vxlan; ip link add dwell-vxlan type vxlan id 9 dstport 4789",
    ];
    for damage in damages {
        let before = disturbed.borrow_and_update().routes;
        run(damage);
        let noticed = disturbed.wait_for(|counts| counts.routes > before);
        tokio::time::timeout(Duration::from_secs(10), noticed).await.expect(damage).unwrap();
        let look = network.look(&of_near()).await.unwrap();
        let is_rule = ["rule", "flush"].iter().any(|word| damage.contains(word));
        assert!(is_rule || !look.routes.is_empty(), "after `{damage}`");
        let report = network.sync_routes(&of_near()).await.unwrap();
        assert!(report.is_clean(), "after `{damage}`: {report:?}");
        assert_eq!(network.look(&of_near()).await.unwrap().routes, [], "after `{damage}`");
        assert!(run("ip rule").contains("fwmark 0x1000000/0x1000000 lookup 157"));
        assert!(run("ip route show table 157").contains("unreachable default"));
        hosts.talk();
    }
}

#[tokio::test]
async fn an_agent_that_starts_leaves_it_in_force_and_takes_it_over() {
    let hosts = Hosts::joined().await;
    let sorted = || {
        let listing = run(
            "nft -s list table inet dwell; ip -details link show dwell-vxlan; ip route show table all",
        );
        let mut words: Vec<_> = listing.split([' ', ',', '\n', '\t']).map(str::to_owned).collect();
        words.sort_unstable();
        words
    };
    let before = sorted();
    let restarted = LinuxNetwork::new(&LinuxConfig::default()).unwrap();
    restarted.ensure_host(&host()).await.unwrap();
    assert_eq!(sorted(), before);
    restarted.sync_routes(&of_near()).await.unwrap();
    assert_eq!(sorted(), before);
    hosts.talk();
    // Another address of this node is another end of the tunnel.
    run("ip address add 192.0.2.50/24 dev uplink");
    let moved = RouteTable { overlay: overlay(Ipv4Addr::new(192, 0, 2, 50)), ..of_near() };
    assert!(restarted.sync_routes(&moved).await.unwrap().is_clean());
    let near = vec![peer("near", "10.80.1.0/24", Ipv4Addr::new(192, 0, 2, 50))];
    let known = RouteTable { peers: near, ..of_far() };
    assert!(hosts.far.sync_routes(&known).await.unwrap().is_clean());
    hosts.talk();
}

#[tokio::test]
async fn it_is_there_only_while_it_is_needed() {
    let hosts = Hosts::new().await;
    let network = &hosts.near.network;
    network.sync_routes(&RouteTable::default()).await.unwrap();
    let before = dump();
    let without = RouteTable { overlay: None, ..of_near() };
    let refused = network.sync_routes(&without).await.unwrap();
    assert!(refused.failures[0].reason.contains("overlay"), "{refused:?}");
    assert!(!run("ip link").contains("dwell-vxlan"));
    network.sync_routes(&of_near()).await.unwrap();
    assert!(run("ip link").contains("dwell-vxlan"));
    // An exception that leads there goes the same way.
    let exceptions = vec![dwell_network::Exception {
        address: Ipv4Addr::new(10, 80, 1, 77),
        node: "far".parse().unwrap(),
    }];
    let moved = RouteTable { exceptions, ..of_near() };
    assert_eq!(network.sync_routes(&moved).await.unwrap().added, 1);
    assert!(run("ip route get 10.80.1.77").contains("dev dwell-vxlan src 192.0.2.1"));

    network.sync_routes(&RouteTable::default()).await.unwrap();
    assert_eq!(dump(), before, "nothing is left");
    network.sync_routes(&of_near()).await.unwrap();
    network.cleanup().await.unwrap();
    assert!(!run("ip link; ip rule; ip route show table all").contains("157"));
}

/// For networks that look like one segment and are none, all peers can be reached through it.
#[tokio::test]
async fn all_peers_can_be_reached_through_it() {
    let world = World::ready().await;
    let neighbour = Ipv4Addr::new(192, 0, 2, 2);
    let always = Some(Overlay { local: HOST, port: 8472, always: true });
    let peers = vec![peer("b", "10.80.2.0/24", neighbour)];
    let direct = RouteTable { peers, overlay: overlay(HOST), ..RouteTable::default() };
    world.network.sync_routes(&direct).await.unwrap();
    assert!(!run("ip link").contains("dwell-vxlan"), "it shares a segment");
    let through = RouteTable { overlay: always, ..direct.clone() };
    assert!(world.network.sync_routes(&through).await.unwrap().is_clean());
    assert!(run("ip route get 10.80.2.5").contains("via 192.0.2.2 dev dwell-vxlan src 192.0.2.1"));
    assert!(run("ip -details link show dwell-vxlan").contains("dstport 8472"));
    assert!(world.network.sync_routes(&direct).await.unwrap().is_clean());
    assert!(run("ip route get 10.80.2.5").contains("via 192.0.2.2 dev uplink"));
}
