//! Which packets the kernel tracks: those whose fate depends on who began, and no others.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use dwell_network::world::{
    HOST, NEIGHBOUR, OUTSIDE, Place, World, bound, datagram, db, host, lan, peer, run, web,
};
use dwell_network::{
    Allow, Direction, GATEWAY, HostNetwork, Network as _, Policy, RouteTable, Sandbox,
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// An instance of another node, which is the neighbour.
pub(super) const THERE: Ipv4Addr = Ipv4Addr::new(10, 80, 2, 5);
pub(super) const PORT: u16 = 8080;
/// How long an answer is waited for that is not to come.
const SILENCE: Duration = Duration::from_millis(400);

/// A host with two instances, which knows the node of a third one.
pub(super) async fn world(web: &Sandbox, db: &Sandbox) -> World {
    let world = World::with([web, db]).await;
    let peers = vec![peer("b", "10.80.2.0/24", NEIGHBOUR)];
    world.network.sync_routes(&RouteTable { peers, ..RouteTable::default() }).await.unwrap();
    lan(&format!("ip address add {THERE}/32 dev lo"));
    run("nft add table ip seen
         nft add chain ip seen in '{ type filter hook forward priority 10; }'
         nft add counter ip seen tracked
         nft add counter ip seen untracked
         nft add rule ip seen in ct state untracked counter name untracked
         nft add rule ip seen in ct state != untracked counter name tracked");
    world
}

async fn close(world: &World, sandbox: &Sandbox, allowed: &[Ipv4Addr]) {
    let allow = |source: &Ipv4Addr| Allow { source: (*source).into(), ports: Vec::new() };
    let policy = Policy {
        address: sandbox.address,
        direction: Direction::In,
        allowed: allowed.iter().map(allow).collect(),
    };
    world.network.sync_policies(&[policy]).await.unwrap();
}

/// How many forwarded packets were tracked, and how many not, since this was last asked.
fn counts() -> [u64; 2] {
    let listing = run("nft reset counters table ip seen");
    let packets = |name: &str| {
        let after = listing.split(&format!("counter {name} {{")).nth(1).unwrap();
        let words: Vec<_> = after.split_whitespace().collect();
        words[1].parse().unwrap()
    };
    [packets("tracked"), packets("untracked")]
}

/// A connection between two places; `None` if nothing answers.
pub(super) fn connection(
    (from, source): (Place<'_>, Ipv4Addr),
    (to, target): (Place<'_>, Ipv4Addr),
    port: u16,
) -> Option<(TcpStream, TcpStream)> {
    let listener = to.visit(|| bound(|| TcpListener::bind((target, port))));
    let client = from.visit(|| {
        let socket =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0))).unwrap();
        // It bounds connecting, too.
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(0, 400_000)).unwrap();
        let target = SockaddrIn::from(SocketAddrV4::new(target, port));
        connect(socket.as_raw_fd(), &target).ok().map(|()| TcpStream::from(socket))
    })?;
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    Some((client, server))
}

/// Whether what is written into one end comes out of the other.
pub(super) fn passes(mut from: &TcpStream, mut to: &TcpStream) -> std::io::Result<()> {
    from.write_all(b"d")?;
    to.read_exact(&mut [0])
}

/// Both ways, and to its end.
pub(super) fn talks(from: (Place<'_>, Ipv4Addr), to: (Place<'_>, Ipv4Addr)) -> bool {
    let Some((client, server)) = connection(from, to, PORT) else { return false };
    passes(&client, &server).unwrap();
    passes(&server, &client).unwrap();
    true
}

#[tokio::test]
async fn instances_that_are_open_to_all_talk_without_being_tracked() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    let (from_web, to_db) = ((Place::Inside(&web), web.address), (Place::Inside(&db), db.address));
    let there = (Place::Lan, THERE);
    for (from, to) in [(from_web, to_db), (from_web, there), (there, to_db)] {
        counts();
        assert!(talks(from, to), "{from:?} to {to:?}");
        let [tracked, untracked] = counts();
        // Each of them: SYN, its answer, its acknowledgement, two bytes and theirs.
        assert!(tracked == 0 && untracked >= 6, "{from:?} to {to:?}: {tracked} and {untracked}");
        assert_eq!(datagram(from, to), Some(from.1));
    }

    // The switch is for hosts whose own rules ask for the state of connections.
    world.network.ensure_host(&HostNetwork { untracked: false, ..host() }).await.unwrap();
    counts();
    assert!(talks(from_web, to_db) && talks(there, to_db));
    let [tracked, untracked] = counts();
    assert!(tracked >= 12 && untracked == 0, "{tracked} and {untracked}");
}

/// Every mix of open and closed, on the same node and on two.
#[tokio::test]
async fn what_a_policy_needs_is_tracked_whoever_begins() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    let closed = (Place::Inside(&web), web.address);
    let others = [(Place::Inside(&db), db.address), (Place::Lan, THERE)];

    close(&world, &web, &[]).await;
    for other in others {
        counts();
        assert!(talks(closed, other), "what it begins is answered by {other:?}");
        let [tracked, untracked] = counts();
        assert!(tracked >= 6 && untracked == 0, "{tracked} and {untracked}");
        assert!(!talks(other, closed), "{other:?} does not get in");
        assert_eq!(datagram(other, closed), None);
    }
    assert!(talks(others[0], others[1]), "all others are open as ever");
    close(&world, &web, &[db.address, THERE]).await;
    for other in others {
        assert!(talks(other, closed) && talks(closed, other), "{other:?} is let in");
        assert_eq!(datagram(other, closed), Some(other.1));
    }
    world.network.sync_policies(&[]).await.unwrap();
    counts();
    assert!(talks(others[1], closed) && talks(closed, others[0]));
    assert_eq!(counts()[0], 0, "open again, and without tracking again");
}

/// What is translated or answered by the host is as tracked as before.
#[tokio::test]
async fn the_host_and_what_is_beyond_the_cluster_are_tracked() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    let inside = (Place::Inside(&web), web.address);
    counts();
    assert!(talks(inside, (Place::Lan, OUTSIDE)), "masqueraded, and the answers find back");
    assert!(talks((Place::Lan, NEIGHBOUR), inside), "a node");
    let [tracked, untracked] = counts();
    assert!(tracked >= 12 && untracked == 0, "{tracked} and {untracked}");
    run(&format!("ip address add {GATEWAY}/32 dev lo scope link"));
    let names = connection(inside, (Place::Host, GATEWAY), 53);
    assert!(names.is_some_and(|(client, server)| passes(&server, &client).is_ok()), "names");
    assert!(talks((Place::Host, HOST), inside), "probes, and tunnels that end here");
    assert!(!talks(inside, (Place::Host, HOST)), "the host stays closed");
    close(&world, &web, &[]).await;
    assert!(talks(inside, (Place::Lan, OUTSIDE)) && talks((Place::Host, HOST), inside));
    assert!(!talks((Place::Lan, NEIGHBOUR), inside));
}

/// A connection that was there before is no answer to anything: nobody has seen who began it.
#[tokio::test]
async fn who_was_connected_before_an_instance_is_closed_does_not_stay() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    let inside = (Place::Inside(&web), web.address);
    for stranger in [(Place::Inside(&db), db.address), (Place::Lan, THERE)] {
        world.network.sync_policies(&[]).await.unwrap();
        let (client, server) = connection(stranger, inside, PORT).unwrap();
        let (idle, answers) = connection(stranger, inside, PORT + 1).unwrap();
        passes(&client, &server).unwrap();
        close(&world, &web, &[]).await;
        passes(&idle, &answers).expect_err("nothing gets in");
        // The instance speaks first, and does not thereby become the one who has called.
        passes(&server, &client).expect_err("nothing gets out");
        let told = (&server).read(&mut [0]).unwrap_err().kind();
        assert_eq!(told, ErrorKind::ConnectionReset, "and it is told at once");
        passes(&client, &server).expect_err("nothing gets in");
    }
    close(&world, &web, &[db.address]).await;
    let allowed = (Place::Inside(&db), db.address);
    assert!(talks(allowed, inside), "who may, calls again");
}

/// Datagrams from so many ports of its own, each a connection; how many of them arrive.
fn arrived(from: (Place<'_>, Ipv4Addr), to: (Place<'_>, Ipv4Addr), count: usize) -> usize {
    (0..count).filter(|_| datagram(from, to).is_some()).count()
}

#[tokio::test]
async fn no_instance_has_more_connections_tracked_than_it_may() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    let limited = |count| HostNetwork { connections_max: NonZeroU32::new(count), ..host() };
    world.network.ensure_host(&limited(5)).await.unwrap();
    let (greedy, other) = ((Place::Inside(&web), web.address), (Place::Inside(&db), db.address));
    let (outside, there) = ((Place::Lan, OUTSIDE), (Place::Lan, THERE));

    let old = greedy.0.visit(|| UdpSocket::bind((web.address, 0)).unwrap());
    let receiver = outside.0.visit(|| bound(|| UdpSocket::bind((OUTSIDE, PORT))));
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    let goes_on = || {
        old.send_to(b"d", (OUTSIDE, PORT)).unwrap();
        receiver.recv(&mut [0]).is_ok()
    };
    assert!(goes_on());
    assert_eq!(
        arrived(greedy, outside, 6),
        4,
        "with the one from before these are all it may have"
    );
    let dropped = run("nft list chain inet dwell connecting");
    assert!(dropped.contains("packets 2 "), "{dropped}");
    assert!(goes_on(), "what it has goes on");
    assert_eq!(arrived(other, outside, 2), 2, "others are not affected");
    assert_eq!(arrived(greedy, other, 6) + arrived(greedy, there, 6), 12, "untracked");
    assert_eq!(arrived((Place::Lan, NEIGHBOUR), greedy, 6), 6, "nor what others begin");
    assert_eq!(arrived((Place::Host, HOST), greedy, 6), 6);

    // What an instance of another node sends to a closed one here is tracked here.
    close(&world, &db, &[THERE, web.address]).await;
    assert_eq!(arrived(there, other, 6), 5);
    assert_eq!(arrived(greedy, other, 1), 0, "it still has as many as it may");

    // The table is written again, and what was counted is not forgotten.
    world.network.ensure_host(&HostNetwork { masquerade: false, ..limited(5) }).await.unwrap();
    assert_eq!(arrived(greedy, outside, 1), 0);
    world.network.ensure_host(&limited(8)).await.unwrap();
    assert_eq!(arrived(greedy, outside, 9), 8, "counted anew, with another limit");
    world.network.ensure_host(&limited(0)).await.unwrap();
    assert_eq!(arrived(greedy, outside, 9), 9, "no limit");
    let table = run("nft list table inet dwell");
    assert!(!table.contains("connect"), "{table}");
}

/// The kernel looks which connections have ended at the next one, but not twice within one tick of its clock.
#[tokio::test]
async fn connections_that_have_ended_make_room() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    let limited = HostNetwork { connections_max: NonZeroU32::new(2), ..host() };
    world.network.ensure_host(&limited).await.unwrap();
    let (from, to) = ((Place::Inside(&web), web.address), (Place::Lan, OUTSIDE));
    let tick = || std::thread::sleep(Duration::from_millis(20));
    for _ in 0..6 {
        assert!(talks(from, to), "each is closed before the next");
        tick();
    }
    let open: Vec<_> = (1..3).map(|more| connection(from, to, PORT + more)).collect();
    assert!(open.iter().all(Option::is_some));
    tick();
    assert!(!talks(from, to));
    drop(open);
    tick();
    assert!(talks(from, to));
}
