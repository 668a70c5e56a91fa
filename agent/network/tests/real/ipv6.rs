//! IPv6 beside IPv4: the same ways, and the same doors, on real packets.
//!
//! The other end of the uplink is a node whose instance db-9 lives at 10.80.2.9.

mod host;
mod tenant;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use dwell_core::net::Ipv6Range;
use dwell_core::workload::Protocol;
use dwell_network::linux::{LinuxConfig, LinuxNetwork};
use dwell_network::world::{
    HOST, NEIGHBOUR, Place, World, bound, datagram, db, dump, host, inside, lan, peer, run,
    sandbox, until_silent, web,
};
use dwell_network::{
    Allow, Direction, Exception, HostNetwork, Ipv6Routes, Network as _, Policy, PortRange, Reach,
    RouteTable, Sandbox, Until,
};

/// The instance of the other node.
const THERE: Ipv4Addr = Ipv4Addr::new(10, 80, 2, 9);
/// How long a packet that is dropped is waited for.
const SILENCE: Duration = Duration::from_millis(300);

pub(crate) fn range() -> Ipv6Range {
    "fd00:5::/64".parse().unwrap()
}

fn six(address: Ipv4Addr) -> Ipv6Addr {
    range().address(address)
}

pub(crate) fn dual() -> HostNetwork {
    HostNetwork { ipv6: Some(range()), ..host() }
}

fn table() -> RouteTable {
    RouteTable {
        peers: vec![peer("b", "10.80.2.0/24", NEIGHBOUR)],
        ipv6: Some(Ipv6Routes { range: range(), local: HOST }),
        ..RouteTable::default()
    }
}

/// A host in a cluster with a prefix, and a peer beside it that it knows.
async fn with<const N: usize>(sandboxes: [&Sandbox; N]) -> World {
    let world = World::bare();
    neighbour();
    world.network.ensure_host(&dual()).await.unwrap();
    world.network.sync_policies(&[]).await.unwrap();
    for sandbox in sandboxes {
        world.network.ensure_sandbox(sandbox).await.unwrap();
    }
    let report = world.network.sync_routes(&table()).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    world
}

/// What another node has that knows the prefix.
fn neighbour() {
    lan("sysctl -q -w net.ipv6.conf.all.forwarding=1
         ip address add 10.80.2.9/32 dev lo
         ip -6 address add fe80::6477:6c6c:192.0.2.2/128 dev uplink nodad
         ip -6 address add fd00:5::192.0.2.2/128 dev lo nodad
         ip -6 address add fd00:5::10.80.2.9/128 dev lo nodad
         ip -6 route add fd00:5::10.80.1.0/120 via fe80::6477:6c6c:192.0.2.1 dev uplink src fd00:5::192.0.2.2
         ip -6 route add fd00:5::192.0.2.1 via fe80::6477:6c6c:192.0.2.1 dev uplink");
}

/// As [`datagram`], between the IPv6 addresses of these.
pub(crate) fn datagram6(
    (from, source): (Place<'_>, Ipv4Addr),
    (to, target): (Place<'_>, Ipv4Addr),
) -> Option<Ipv6Addr> {
    let receiver = to.visit(|| UdpSocket::bind((six(target), 0)).unwrap());
    let sender = from.visit(|| UdpSocket::bind((six(source), 0)).unwrap());
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    let port = receiver.local_addr().unwrap().port();
    let _sent = sender.send_to(b"dwell", (six(target), port));
    match receiver.recv_from(&mut [0; 16]) {
        Ok((_, SocketAddr::V6(source))) => Some(*source.ip()),
        _ => None,
    }
}

/// Whether a connection from a place to a listener at the same port of both addresses is made, by each protocol.
fn connect((from, to): (Place<'_>, Place<'_>), target: Ipv4Addr, port: u16) -> [bool; 2] {
    let addresses: [SocketAddr; 2] = [(target, port).into(), (six(target), port).into()];
    addresses.map(|at| {
        let _listener = to.visit(|| bound(|| TcpListener::bind(at)));
        from.visit(|| TcpStream::connect_timeout(&at, SILENCE)).is_ok()
    })
}

fn pings(from: Place<'_>, target: Ipv4Addr) -> bool {
    // Several, as the kernel takes an address of the host's that is new in a moment after it was given.
    let script = format!("busybox ping6 -c 3 -i 0.2 -W 1 {}", six(target));
    from.visit(|| {
        let words = ["-c", &script];
        std::process::Command::new("sh").args(words).output().unwrap().status.success()
    })
}

fn has_ipv6(sandbox: &Sandbox) -> bool {
    inside(sandbox, "ip -6 -o address show dev eth0").contains(&six(sandbox.address).to_string())
}

#[tokio::test]
async fn instances_talk_by_ipv6_wherever_they_are() {
    let (web, db) = (web(), db());
    let _world = with([&web, &db]).await;
    let (from_web, from_db) = (Place::Inside(&web), Place::Inside(&db));
    for (from, target) in [
        (from_web, web.address),
        (from_web, db.address),
        (from_web, THERE),
        (Place::Lan, web.address),
        (Place::Host, web.address),
        (Place::Host, THERE),
    ] {
        assert!(pings(from, target), "{from:?} to {target}");
    }
    let to_web = |from| datagram6(from, (from_web, web.address));
    assert_eq!(to_web((from_db, db.address)), Some(six(db.address)), "there is no translation");
    assert_eq!(to_web((Place::Lan, THERE)), Some(six(THERE)));
    let out = datagram6((from_web, web.address), (Place::Lan, THERE));
    assert_eq!(out, Some(six(web.address)));
    // The host answers under its own address in the range.
    let sent_from = run(&format!("ip -6 route get {}", six(THERE)));
    assert!(sent_from.contains(&format!("src {}", six(HOST))), "{sent_from}");
}

#[tokio::test]
async fn a_link_has_nothing_but_what_both_ends_are_told() {
    let web = web();
    let _world = with([&web]).await;
    assert!(has_ipv6(&web));
    let link_local = "ip -6 -o address show scope link";
    assert_eq!(inside(&web, link_local), "");
    assert_eq!(run("ip -6 -o address show scope link | grep -c dw- || true").trim(), "0");
    for (setting, value) in [("accept_ra", "0"), ("addr_gen_mode", "1")] {
        let found = inside(&web, &format!("sysctl -n net.ipv6.conf.eth0.{setting}"));
        assert_eq!(found.trim(), value, "{setting}");
        let link = run("ip -o link show | grep -o \"dw-[0-9a-f]*\" | head -1");
        let found = run(&format!("sysctl -n net.ipv6.conf.{}.{setting}", link.trim()));
        assert_eq!(found.trim(), value, "{setting}");
    }
    // Who looks for `localhost` finds 127.0.0.1, and is told at once that there is no other.
    assert_eq!(inside(&web, "ip -6 -o address show dev lo"), "");
    let refused = Place::Inside(&web).visit(|| {
        let at = SocketAddr::from((Ipv6Addr::LOCALHOST, 80));
        TcpStream::connect_timeout(&at, Duration::from_secs(5)).unwrap_err().raw_os_error()
    });
    assert!([Some(nix::libc::ENETUNREACH), Some(nix::libc::EHOSTUNREACH)].contains(&refused));
    // What is not here goes nowhere, and by no default route.
    run("ip -6 route add default via fe80::6477:6c6c:192.0.2.2 dev uplink");
    let nobody = run(&format!("ip -6 route get {} 2>&1 || true", six([10, 80, 1, 99].into())));
    assert!(nobody.contains("No route to host"), "{nobody}");
}

#[tokio::test]
async fn what_is_not_lent_is_not_reached_by_ipv6_either() {
    let (web, db) = (web(), db());
    let world = World::with([&web, &db]).await;
    neighbour();
    let over = Until::At(Instant::now());
    let lease = |until| [Reach { address: web.address, until }];
    world.network.sync_leases(&lease(over)).await.unwrap();
    // The host learns only now that instances have IPv6 addresses.
    world.network.ensure_host(&dual()).await.unwrap();
    world.network.sync_policies(&[]).await.unwrap();
    for sandbox in [&web, &db] {
        world.network.ensure_sandbox(sandbox).await.unwrap();
    }
    world.network.sync_routes(&table()).await.unwrap();
    assert!(pings(Place::Host, db.address));
    for place in [Place::Host, Place::Lan, Place::Inside(&db)] {
        assert!(!pings(place, web.address), "{place:?}");
    }
    let lent = Until::At(Instant::now() + Duration::from_secs(60));
    world.network.sync_leases(&lease(lent)).await.unwrap();
    assert!(pings(Place::Host, web.address));
    world.network.sync_leases(&lease(over)).await.unwrap();
    assert!(!pings(Place::Host, web.address));
    world.network.sync_leases(&lease(Until::Ever)).await.unwrap();
    assert!(pings(Place::Host, web.address));
}

/// What IPv4 lets through IPv6 does, and nothing else.
#[tokio::test]
async fn nobody_is_reached_by_ipv6_who_is_not_by_ipv4() {
    use Protocol::{Tcp, Udp};
    let (web, db) = (web(), db());
    let world = with([&web, &db]).await;
    let allow = |source: &str, ports: &[(Protocol, u16, u16)]| Allow {
        source: source.parse().unwrap(),
        ports: ports
            .iter()
            .map(|&(protocol, first, last)| PortRange { protocol, first, last })
            .collect(),
    };
    let from = [(Place::Inside(&db), db.address), (Place::Lan, THERE), (Place::Lan, NEIGHBOUR)];
    let to = Place::Inside(&web);
    // Whether each of these gets there by UDP, and by TCP at ports 80 and 81.
    let cases: [(Vec<Allow>, [[bool; 3]; 3]); 7] = [
        (vec![], [[false; 3]; 3]),
        (vec![allow("0.0.0.0/0", &[])], [[true; 3]; 3]),
        (vec![allow("10.80.1.6/32", &[])], [[true; 3], [false; 3], [false; 3]]),
        (vec![allow("10.80.2.0/24", &[])], [[false; 3], [true; 3], [false; 3]]),
        (vec![allow("192.0.2.2/32", &[])], [[false; 3], [false; 3], [true; 3]]),
        (vec![allow("0.0.0.0/0", &[(Tcp, 80, 80)])], [[false, true, false]; 3]),
        (
            vec![allow("10.80.2.9/32", &[(Tcp, 81, 81), (Udp, 0, 65535)])],
            [[false; 3], [true, false, true], [false; 3]],
        ),
    ];
    for (allowed, expected) in cases {
        let policy = Policy { address: web.address, direction: Direction::In, allowed };
        world.network.sync_policies(std::slice::from_ref(&policy)).await.unwrap();
        for ((place, source), [by_udp, at_80, at_81]) in from.into_iter().zip(expected) {
            let udp = [
                datagram((place, source), (to, web.address)).is_some(),
                datagram6((place, source), (to, web.address)).is_some(),
            ];
            assert_eq!(udp, [by_udp; 2], "{policy:?}: UDP from {source}");
            for (port, expected) in [(80, at_80), (81, at_81)] {
                // The segment's other end has two addresses: connections are made from the first that fits.
                if source == THERE {
                    continue;
                }
                let both = connect((place, to), web.address, port);
                assert_eq!(both, [expected; 2], "{policy:?}: port {port} from {source}");
            }
        }
    }
    // And it reaches others itself, which are answered.
    world
        .network
        .sync_policies(&[Policy {
            address: web.address,
            direction: Direction::In,
            allowed: vec![],
        }])
        .await
        .unwrap();
    assert_eq!(connect((to, Place::Inside(&db)), db.address, 80), [true; 2]);
    assert!(pings(to, THERE) && !pings(Place::Lan, web.address));
}

#[tokio::test]
async fn nobody_sends_from_anothers_ipv6_address() {
    let (web, db) = (web(), db());
    let world = with([&web, &db]).await;
    let to = (Place::Inside(&web), web.address);
    let borrowed = sandbox("x-0", [10, 80, 1, 77]).address;
    inside(&db, &format!("ip -6 address add {}/128 dev eth0 nodad", six(borrowed)));
    inside(&db, &format!("ip -6 address add {}/128 dev eth0 nodad", six(THERE)));
    assert_eq!(datagram6((Place::Inside(&db), db.address), to), Some(six(db.address)));
    assert_eq!(datagram6((Place::Inside(&db), borrowed), to), None);
    assert_eq!(datagram6((Place::Inside(&db), THERE), to), None);
    // Nor does anybody on the segment, of whoever is here.
    lan(&format!("ip -6 address add {}/128 dev lo nodad", six(db.address)));
    assert_eq!(datagram6((Place::Lan, db.address), to), None);
    assert_eq!(datagram6((Place::Lan, THERE), to), Some(six(THERE)));
    // One that is gone sends nothing, and nothing gets to it.
    world.network.remove_sandbox(&db.id()).await.unwrap();
    assert!(!run("nft list set inet dwell ip6_sources").contains(&six(db.address).to_string()));
    let route = run(&format!("ip -6 route get {} 2>&1 || true", six(db.address)));
    assert!(route.contains("No route to host"), "{route}");
}

#[tokio::test]
async fn hosts_are_as_closed_to_instances_by_ipv6() {
    let web = web();
    let world = with([&web]).await;
    let from = Place::Inside(&web);
    assert_eq!(connect((from, Place::Host), HOST, 2375), [false; 2]);
    assert_eq!(
        connect((Place::Lan, Place::Host), HOST, 2375),
        [true; 2],
        "others are not concerned"
    );
    assert!(pings(from, HOST), "echoes");
    assert_eq!(
        connect((Place::Host, from), web.address, 8080),
        [true; 2],
        "what it begins is answered"
    );
    assert_eq!(datagram6((Place::Lan, THERE), (Place::Host, HOST)), None, "instances of others");
    let host_access = vec![PortRange { protocol: Protocol::Tcp, first: 5000, last: 5000 }];
    world.network.ensure_host(&HostNetwork { host_access, ..dual() }).await.unwrap();
    assert_eq!(connect((from, Place::Host), HOST, 5000), [true; 2]);
    assert_eq!(connect((from, Place::Host), HOST, 5001), [false; 2]);
}

/// An agent that has just started does not know yet who may reach instances.
#[tokio::test]
async fn nobody_has_an_address_before_it_is_known_who_may_reach_it() {
    let web = web();
    let world = World::bare();
    world.network.ensure_host(&dual()).await.unwrap();
    world.network.ensure_sandbox(&web).await.unwrap();
    assert!(!has_ipv6(&web));
    let mut disturbances = world.network.disturbances();
    let before = disturbances.borrow_and_update().sandboxes;
    world
        .network
        .sync_policies(&[Policy {
            address: web.address,
            direction: Direction::In,
            allowed: vec![],
        }])
        .await
        .unwrap();
    assert!(disturbances.borrow().sandboxes > before, "now they may");
    world.network.repair_sandbox(&web).await.unwrap();
    assert!(has_ipv6(&web));

    // The next agent leaves it as it is until it knows.
    let restarted = LinuxNetwork::new(&LinuxConfig::default()).unwrap();
    restarted.ensure_host(&dual()).await.unwrap();
    restarted.ensure_sandbox(&web).await.unwrap();
    assert!(has_ipv6(&web));
    assert!(run("nft list chain inet dwell inbound").contains("@ip6_isolated"));
}

#[tokio::test]
async fn a_prefix_comes_goes_and_changes_while_instances_run() {
    let web = web();
    let world = World::ready().await;
    world.network.sync_policies(&[]).await.unwrap();
    world.network.ensure_sandbox(&web).await.unwrap();
    world.network.sync_routes(&RouteTable { ipv6: None, ..table() }).await.unwrap();
    let of_sandbox =
        "ip address; ip -6 route; ip -6 neighbour; sysctl net.ipv6.conf.eth0.disable_ipv6";
    let (before, of_web) = (dump(), inside(&web, of_sandbox));

    let follow = async |host: &HostNetwork, table: &RouteTable| {
        world.network.ensure_host(host).await.unwrap();
        world.network.repair_sandbox(&web).await.unwrap();
        assert!(world.network.sync_routes(table).await.unwrap().is_clean());
    };
    follow(&dual(), &table()).await;
    assert!(has_ipv6(&web) && pings(Place::Host, web.address));
    let again = world.network.sync_routes(&table()).await.unwrap();
    assert_eq!((again.added, again.changed, again.removed), (0, 0, 0));

    let other: Ipv6Range = "2001:db8:7::/48".parse().unwrap();
    let local = HOST;
    let elsewhere = RouteTable { ipv6: Some(Ipv6Routes { range: other, local }), ..table() };
    follow(&HostNetwork { ipv6: Some(other), ..host() }, &elsewhere).await;
    let has = inside(&web, "ip -6 -o address show dev eth0");
    assert!(has.contains("2001:db8:7::a50:105/128") && !has.contains("fd00:5:"), "{has}");
    assert_eq!(run("ip -6 route | grep -c fd00:5: || true").trim(), "0");
    run("busybox ping6 -c 3 -i 0.2 -W 1 2001:db8:7::a50:105");

    follow(&host(), &RouteTable { ipv6: None, ..table() }).await;
    assert_eq!(inside(&web, of_sandbox), of_web);
    let after = dump();
    let rest = |dump: &str| {
        // Sets that no rule asks are left.
        let rules = dump.split("table inet dwell").next().unwrap().to_owned();
        rules.replace("addrgenmode eui64", "addrgenmode none")
    };
    assert_eq!(rest(&after), rest(&before));
    assert!(run("nft list chain inet dwell sent").contains("meta nfproto ipv6 drop"));
}

#[tokio::test]
async fn what_others_change_is_noticed_and_put_right() {
    let web = web();
    let world = with([&web]).await;
    let network = &world.network;
    let mut disturbances = network.disturbances();
    let address = six(web.address);
    let link = run("ip -o link show | grep -o \"dw-[0-9a-f]*\" | head -1");
    let link = link.trim();
    for (what, breaks) in [
        (
            "a peer's route",
            format!("ip -6 route del {}", range().net("10.80.2.0/24".parse().unwrap())),
        ),
        (
            "the next hop",
            "ip nexthop | grep fe80: | cut -d\" \" -f2 | xargs ip nexthop del id".to_owned(),
        ),
        ("the host's own address", format!("ip -6 address del {}/128 dev lo", six(HOST))),
        (
            "its address on the link",
            "ip -6 address del fe80::6477:6c6c:192.0.2.1/128 dev uplink".into(),
        ),
        ("the route to an instance", format!("ip -6 route del {address}")),
        ("its neighbour", format!("ip -6 neighbour del {address} dev {link}")),
        ("the block", "ip -6 route del unreachable fd00:5::10.80.1.0/120".to_owned()),
        ("the rules", "nft flush chain inet dwell sent".to_owned()),
    ] {
        disturbances.borrow_and_update();
        run(&breaks);
        let noticed = tokio::time::timeout(Duration::from_secs(5), disturbances.changed()).await;
        noticed.expect(what).unwrap();
        network.ensure_host(&dual()).await.unwrap();
        network.repair_sandbox(&web).await.unwrap();
        assert!(network.sync_routes(&table()).await.unwrap().is_clean(), "{what}");
        assert!(pings(Place::Lan, web.address) && pings(Place::Host, THERE), "{what}");
        let seen = network.look(&table()).await.unwrap();
        assert!(
            seen.routes.is_empty() && seen.sandboxes[&web.id()].ipv6.is_empty(),
            "{what}: {seen:?}"
        );
    }
    for (what, breaks) in [
        ("its default route", "ip -6 route del default".to_owned()),
        ("its gateway", "ip -6 neighbour del fe80::1 dev eth0".to_owned()),
    ] {
        disturbances.borrow_and_update();
        inside(&web, &breaks);
        let noticed = tokio::time::timeout(Duration::from_secs(5), disturbances.changed()).await;
        noticed.expect(what).unwrap();
        network.repair_sandbox(&web).await.unwrap();
        assert!(pings(Place::Inside(&web), THERE), "{what}");
    }
    // Of addresses the kernel does not say who took them away; they are back with the next look.
    inside(&web, &format!("ip -6 address del {address}/128 dev eth0"));
    let seen = network.look(&table()).await.unwrap();
    assert_eq!(seen.sandboxes[&web.id()].ipv6, ["eth0 has: none"]);
    network.repair_sandbox(&web).await.unwrap();
    assert!(pings(Place::Inside(&web), THERE));
    run(&format!("nft delete element inet dwell ip6_sources {{ {link} . {address} }}"));
    let seen = network.look(&table()).await.unwrap();
    assert_eq!(seen.sandboxes[&web.id()].ipv6, ["it may send from: none"]);
}

#[tokio::test]
async fn an_instance_that_moves_is_followed() {
    let web = web();
    let world = with([&web]).await;
    let elsewhere = Exception { address: web.address, node: "b".parse().unwrap() };
    world.network.remove_sandbox(&web.id()).await.unwrap();
    let moved = RouteTable { exceptions: vec![elsewhere], ..table() };
    assert!(world.network.sync_routes(&moved).await.unwrap().is_clean());
    lan(&format!("ip -6 address add {}/128 dev lo nodad", six(web.address)));
    assert!(pings(Place::Host, web.address), "it is there");
    lan(&format!("ip -6 address del {}/128 dev lo", six(web.address)));
    world.network.sync_routes(&table()).await.unwrap();
    world.network.ensure_sandbox(&web).await.unwrap();
    assert!(pings(Place::Lan, web.address), "it is back");
}

/// A router does not believe other routers by itself: the host would lose its default route.
#[tokio::test]
async fn a_host_that_listens_to_routers_goes_on() {
    let world = World::bare();
    run("sysctl -q -w net.ipv6.conf.all.forwarding=0 net.ipv6.conf.uplink.accept_ra=1
         ip link add quiet type veth peer name other
         sysctl -q -w net.ipv6.conf.quiet.accept_ra=0");
    let before = dump();
    world.network.ensure_host(&dual()).await.unwrap();
    let setting = |name: &str| run(&format!("sysctl -n net.ipv6.conf.{name}")).trim().to_owned();
    assert_eq!((setting("all.forwarding"), setting("uplink.accept_ra")), ("1".into(), "2".into()));
    assert_eq!(setting("quiet.accept_ra"), "0", "nobody listens there");
    world.network.sync_policies(&[]).await.unwrap();
    world.network.ensure_sandbox(&web()).await.unwrap();
    world.network.sync_routes(&table()).await.unwrap();
    world.network.cleanup().await.unwrap();
    until_silent("ip -o link | grep dw- || true");
    assert_eq!((setting("all.forwarding"), setting("uplink.accept_ra")), ("0".into(), "1".into()));
    assert_eq!(dump(), before);
}
