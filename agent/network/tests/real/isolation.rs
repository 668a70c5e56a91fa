//! Who may reach an instance that is not open to all: real packets, from several addresses.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use dwell_core::workload::Protocol;
use dwell_network::linux::LinuxNetwork;
use dwell_network::{Allow, Direction, Network as _, Policy, PortRange, Sandbox};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use dwell_network::world::{
    HOST, NEIGHBOUR, Place, World, bound, datagram, db, host, lan, run, sandbox, web,
};

/// Another address of the neighbour.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// How long a packet that is dropped is waited for.
const SILENCE: Duration = Duration::from_millis(300);

fn allow(source: &str, ports: &[(Protocol, u16, u16)]) -> Allow {
    let ports = ports.iter().map(|&(protocol, first, last)| PortRange { protocol, first, last });
    Allow { source: source.parse().unwrap(), ports: ports.collect() }
}

fn only(sandbox: &Sandbox, allowed: Vec<Allow>) -> Vec<Policy> {
    vec![Policy { address: sandbox.address, direction: Direction::In, allowed }]
}

/// A socket at a place, with an address of its own. It stays in the namespace in which it was made.
fn stream((place, source): (Place<'_>, Ipv4Addr)) -> TcpSocket {
    let (family, flags) = (AddressFamily::Inet, SockFlag::SOCK_NONBLOCK);
    let made = place.visit(|| socket(family, SockType::Stream, flags, None).unwrap());
    let socket = TcpSocket::from_std_stream(made.into());
    socket.bind((source, 0).into()).unwrap();
    socket
}

/// Whether packets get to the port and answers back: the refusal of a connection is one.
async fn reaches(from: (Place<'_>, Ipv4Addr), to: &Sandbox, port: u16) -> bool {
    let target = SocketAddr::from((to.address, port));
    let Ok(answer) = timeout(SILENCE, stream(from).connect(target)).await else { return false };
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    true
}

/// Whether an ICMP echo from the neighbour's address is answered.
fn pings(source: Ipv4Addr, to: &Sandbox) -> bool {
    const ECHO: [u8; 8] = [8, 0, 0xf7, 0xfe, 0, 1, 0, 0];
    lan("echo 0 0 > /proc/sys/net/ipv4/ping_group_range");
    Place::Lan.visit(|| {
        let (family, protocol) = (AddressFamily::Inet, SockProtocol::Icmp);
        let socket = socket(family, SockType::Datagram, SockFlag::empty(), protocol).unwrap();
        let [a, b, c, d] = source.octets();
        bind(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).unwrap();
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 300_000)).unwrap();
        let [a, b, c, d] = to.address.octets();
        let target = SockaddrIn::new(a, b, c, d, 0);
        sendto(socket.as_raw_fd(), &ECHO, &target, MsgFlags::empty()).unwrap();
        recv(socket.as_raw_fd(), &mut [0; 64], MsgFlags::empty()).is_ok()
    })
}

/// Our table's sets, as text.
fn sets() -> String {
    let listing = run("nft -s list table inet dwell");
    // A set of the kernel has no order.
    let mut words: Vec<_> = listing.split([' ', ',', '\n', '\t']).collect();
    words.sort_unstable();
    words.join(" ")
}

#[tokio::test]
async fn only_who_is_allowed_gets_in() {
    let (web, db) = (web(), db());
    let world = World::with([&web, &db]).await;
    let lan = (Place::Lan, NEIGHBOUR);
    let second = (Place::Lan, SECOND);
    let from_db = (Place::Inside(&db), db.address);
    assert!(reaches(lan, &web, 80).await && reaches(from_db, &web, 80).await, "open to all");

    world.network.sync_policies(&only(&web, vec![])).await.unwrap();
    assert!(!reaches(lan, &web, 80).await && !reaches(from_db, &web, 80).await, "to nobody");
    assert!(!pings(NEIGHBOUR, &web));
    assert!(reaches((Place::Host, HOST), &web, 80).await, "the host is not affected");
    assert!(reaches(lan, &db, 80).await, "nor is another instance");

    let allowed = vec![allow("10.80.1.6/32", &[]), allow("192.0.2.2/32", &[])];
    world.network.sync_policies(&only(&web, allowed)).await.unwrap();
    assert!(reaches(lan, &web, 80).await && reaches(from_db, &web, 80).await);
    assert!(pings(NEIGHBOUR, &web), "everything means other protocols too");
    assert!(!reaches(second, &web, 80).await && !pings(SECOND, &web));

    world.network.sync_policies(&[]).await.unwrap();
    assert!(reaches(second, &web, 80).await, "open again");
}

#[tokio::test]
async fn ports_and_ranges_count() {
    use Protocol::{Tcp, Udp};
    let web = web();
    let world = World::with([&web]).await;
    let (first, second) = ((Place::Lan, NEIGHBOUR), (Place::Lan, SECOND));
    let allowed = vec![
        allow("192.0.2.2/32", &[(Tcp, 80, 80)]),
        allow("192.0.2.0/24", &[(Tcp, 8000, 8010), (Udp, 0, 65535)]),
    ];
    world.network.sync_policies(&only(&web, allowed)).await.unwrap();
    assert!(reaches(first, &web, 80).await);
    assert!(!reaches(first, &web, 81).await);
    assert!(!reaches(second, &web, 80).await);
    for (port, passes) in [(7999, false), (8000, true), (8005, true), (8010, true), (8011, false)] {
        assert_eq!(reaches(second, &web, port).await, passes, "port {port}");
    }
    assert!(datagram(second, (Place::Inside(&web), web.address)).is_some());
    assert!(!pings(SECOND, &web), "only these protocols");

    let everything = vec![allow("192.0.2.0/30", &[]), allow("192.0.2.2/32", &[(Tcp, 80, 80)])];
    world.network.sync_policies(&only(&web, everything)).await.unwrap();
    assert!(reaches(second, &web, 9000).await && pings(SECOND, &web), "a range, all ports");
    let elsewhere = vec![allow("192.0.2.4/30", &[])];
    world.network.sync_policies(&only(&web, elsewhere)).await.unwrap();
    assert!(!reaches(second, &web, 9000).await, "beyond the range");
}

#[tokio::test]
async fn an_instance_that_nobody_may_reach_reaches_others() {
    let (web, db) = (web(), db());
    let world = World::with([&web, &db]).await;
    world.network.sync_policies(&only(&web, vec![])).await.unwrap();
    assert!(reaches((Place::Inside(&web), web.address), &db, 80).await);
    let out = datagram((Place::Inside(&web), web.address), (Place::Lan, NEIGHBOUR));
    assert!(out.is_some());
    let back = datagram((Place::Lan, NEIGHBOUR), (Place::Inside(&web), web.address));
    assert_eq!(back, None);
}

#[tokio::test]
async fn who_loses_the_right_loses_the_connection() {
    let web = web();
    let world = World::with([&web]).await;
    let allowed = || only(&web, vec![allow("192.0.2.2/32", &[])]);
    world.network.sync_policies(&allowed()).await.unwrap();
    let listener = Place::Inside(&web).visit(|| {
        let listener = bound(|| std::net::TcpListener::bind((web.address, 80)));
        listener.set_nonblocking(true).unwrap();
        listener
    });
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let target = SocketAddr::from((web.address, 80));
    let mut client = stream((Place::Lan, NEIGHBOUR)).connect(target).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    client.write_all(b"a").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'a');

    world.network.sync_policies(&only(&web, vec![])).await.unwrap();
    client.write_all(b"b").await.unwrap();
    assert!(timeout(SILENCE, server.read_u8()).await.is_err(), "nothing more gets through");
    world.network.sync_policies(&allowed()).await.unwrap();
    let late = timeout(Duration::from_secs(10), server.read_u8()).await;
    assert_eq!(late.unwrap().unwrap(), b'b', "it goes on where it was");
}

#[tokio::test]
async fn a_policy_comes_before_its_sandbox_and_before_the_host() {
    let web = web();
    let world = World::bare();
    world.network.sync_policies(&only(&web, vec![])).await.unwrap();
    world.network.ensure_host(&host()).await.unwrap();
    world.network.ensure_sandbox(&web).await.unwrap();
    assert!(!reaches((Place::Lan, NEIGHBOUR), &web, 80).await);
}

#[tokio::test]
async fn what_others_flush_comes_back_the_same() {
    use Protocol::Tcp;
    let web = web();
    let world = World::with([&web]).await;
    let allowed = vec![
        allow("192.0.2.2/32", &[]),
        allow("192.0.2.3/32", &[(Tcp, 80, 80)]),
        allow("198.51.100.0/24", &[]),
        allow("203.0.113.0/24", &[(Tcp, 80, 99)]),
    ];
    world.network.sync_policies(&only(&web, allowed)).await.unwrap();
    let before = sets();
    let damages = [
        "nft flush ruleset",
        "nft flush set inet dwell isolated",
        "nft flush set inet dwell from_32",
        "nft flush set inet dwell from_24_ports_4",
        "nft delete element inet dwell from_24 { 10.80.1.5 . 198.51.100.0 }",
        "nft add element inet dwell from_24 { 10.80.1.5 . 198.18.0.0 }",
        "nft flush chain inet dwell isolation",
        "nft flush chain inet dwell inbound",
        "nft delete rule inet dwell sent handle $(nft -a list chain inet dwell sent | sed -n 's/.*ipv6.*handle //p')",
    ];
    for damage in damages {
        run(damage);
        assert_ne!(sets_or_nothing(), before, "`{damage}` does nothing");
        world.network.ensure_host(&host()).await.unwrap();
        assert_eq!(sets(), before, "after `{damage}`");
    }
    let writes = || run("nft -a list chain inet dwell guard");
    let rules = writes();
    world.network.ensure_host(&host()).await.unwrap();
    assert_eq!(writes(), rules, "what is as it should be is not written again");
}

fn sets_or_nothing() -> String {
    if run("nft list tables").contains("inet dwell") { sets() } else { String::new() }
}

#[tokio::test]
async fn a_change_after_a_loss_finds_its_way() {
    let web = web();
    let world = World::with([&web]).await;
    world.network.sync_policies(&only(&web, vec![allow("192.0.2.2/32", &[])])).await.unwrap();
    run("nft flush ruleset");
    world.network.sync_policies(&only(&web, vec![allow("192.0.2.3/32", &[])])).await.unwrap();
    assert!(reaches((Place::Lan, SECOND), &web, 80).await);
    assert!(!reaches((Place::Lan, NEIGHBOUR), &web, 80).await);
}

#[tokio::test]
async fn an_agent_that_starts_leaves_isolation_in_force() {
    let web = web();
    let world = World::with([&web]).await;
    world.network.sync_policies(&only(&web, vec![allow("192.0.2.3/32", &[])])).await.unwrap();
    let before = sets();
    let restarted = LinuxNetwork::new(&Default::default()).unwrap();
    restarted.ensure_host(&host()).await.unwrap();
    assert_eq!(sets(), before);
    restarted.sync_policies(&[]).await.unwrap();
    assert!(reaches((Place::Lan, NEIGHBOUR), &web, 80).await, "now it is known that all may");
}

#[tokio::test]
async fn thousands_of_sources_change_by_increments() {
    const SOURCES: u16 = 5000;
    let web = web();
    let world = World::with([&web]).await;
    let policies = |sources: std::ops::Range<u16>, ports: &[(Protocol, u16, u16)]| {
        let source = |n: u16| format!("10.90.{}.{}/32", n >> 8, n & 255);
        only(&web, sources.map(|n| allow(&source(n), ports)).collect())
    };
    let ranges: [&[_]; 3] = [&[], &[(Protocol::Tcp, 80, 80)], &[(Protocol::Tcp, 80, 99)]];
    for ports in ranges {
        let start = std::time::Instant::now();
        world.network.sync_policies(&policies(0..SOURCES, ports)).await.unwrap();
        let all = start.elapsed();
        let start = std::time::Instant::now();
        world.network.sync_policies(&policies(1..SOURCES + 1, ports)).await.unwrap();
        println!(
            "{SOURCES} sources with {ports:?}: {all:?}; one more, one less: {:?}",
            start.elapsed()
        );
        let listing = run("nft list table inet dwell");
        let present = |address: &str| {
            listing.contains(&format!("10.80.1.5 . {address} "))
                || listing.contains(&format!("10.80.1.5 . {address},"))
        };
        assert!(present("10.90.0.1") && !present("10.90.0.0"));
    }
    assert!(!reaches((Place::Lan, NEIGHBOUR), &sandbox("web-0", [10, 80, 1, 5]), 80).await);
}
