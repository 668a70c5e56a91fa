//! Two sandboxes of one instance: a new container beside the one that serves, and the address that moves from one to the other.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dwell_core::sandbox::Slot;
use dwell_network::linux::{LinuxConfig, LinuxNetwork};
use dwell_network::world::{NEIGHBOUR, Place, World, bound, db, host, namespace_of, run, web};
use dwell_network::{HostNetwork, Network as _, Sandbox, mark_of};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};

const PORT: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(2);

/// The second sandbox of `one`, to which its address does not lead.
fn beside(one: &Sandbox) -> Sandbox {
    Sandbox { slot: one.slot.other(), reached: false, ..one.clone() }
}

/// The same, with the address.
fn reached(one: &Sandbox) -> Sandbox {
    Sandbox { reached: true, ..one.clone() }
}

/// A server that greets with a word and then says what it is told. It lives as long as its namespace.
fn serve(place: Place<'_>, address: IpAddr, word: &'static str) {
    let listener = place.visit(|| bound(|| TcpListener::bind((address, PORT))));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let _gone = stream.write_all(word.as_bytes());
                let mut told = [0];
                while stream.read_exact(&mut told).is_ok() && stream.write_all(&told).is_ok() {}
            });
        }
    });
}

/// A connection, and who has taken it.
struct Talk {
    stream: TcpStream,
    word: char,
}

impl Talk {
    fn begin(place: Place<'_>, address: IpAddr) -> Result<Self, std::io::Error> {
        let target = SocketAddr::new(address, PORT);
        Self::with(place.visit(|| TcpStream::connect_timeout(&target, LIMIT))?)
    }

    fn with(mut stream: TcpStream) -> Result<Self, std::io::Error> {
        stream.set_read_timeout(Some(LIMIT))?;
        let mut word = [0];
        stream.read_exact(&mut word)?;
        Ok(Self { stream, word: char::from(word[0]) })
    }

    /// Whether it goes on.
    fn goes_on(&mut self) -> bool {
        let mut told = [0];
        self.stream.write_all(b"x").is_ok() && self.stream.read_exact(&mut told).is_ok()
    }
}

/// Clients that connect as fast as they can until they are stopped.
struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<[usize; 2]>>,
}

impl Clients {
    fn start(places: &[Place<'static>], address: IpAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let connect = move |stop: &AtomicBool| {
            let (mut made, mut failed) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let talk = Talk::begin(Place::Host, address);
                made += 1;
                failed += usize::from(!talk.is_ok_and(|mut talk| talk.goes_on()));
            }
            [made, failed]
        };
        let begin = |place: &Place<'static>| {
            let (place, stop) = (*place, Arc::clone(&stop));
            thread::spawn(move || place.visit(|| connect(&stop)))
        };
        let threads = places.iter().map(begin).collect();
        Self { stop, threads }
    }

    /// How many connections there were, and how many of them failed.
    fn stop(self) -> [usize; 2] {
        self.stop.store(true, Ordering::Relaxed);
        let counts = self.threads.into_iter().map(|thread| thread.join().unwrap());
        counts.fold([0, 0], |[a, b], [made, failed]| [a + made, b + failed])
    }
}

/// A host with an instance that serves, beside another instance.
async fn world(web: &Sandbox, db: &Sandbox) -> World {
    let world = World::with([web, db]).await;
    // As a careful administrator has it.
    run("sysctl -qw net.ipv4.conf.all.rp_filter=1");
    serve(Place::Inside(web), web.address.into(), "a");
    serve(Place::Lan, NEIGHBOUR.into(), "lan");
    world
}

/// Whether nothing is left of what is there only for two sandboxes.
fn is_followed() -> bool {
    let table = run("nft list tables").contains("dwell_flows");
    let rules = run("ip rule show; ip -6 rule show").contains("lookup 15");
    assert_eq!(table, rules);
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_moves_to_a_second_sandbox_and_nobody_notices() {
    let (web, db) = (web(), db());
    let address = IpAddr::from(web.address);
    let world = world(&web, &db).await;
    let inside_db: &'static Sandbox = Box::leak(Box::new(db.clone()));
    let places = [Place::Lan, Place::Inside(inside_db), Place::Host];
    let mut old: Vec<_> =
        places.iter().map(|place| Talk::begin(*place, address).unwrap()).collect();
    let mut from_old = Talk::begin(Place::Inside(&web), NEIGHBOUR.into()).unwrap();
    assert!(!is_followed());
    let clients = Clients::start(&places, address);

    let next = beside(&web);
    world.network.ensure_sandbox(&next).await.unwrap();
    serve(Place::Inside(&next), address, "b");
    // What it begins is answered to it, and it is spoken to by who asks for it, while all others speak to the old one.
    let mut from_new = Talk::begin(Place::Inside(&next), NEIGHBOUR.into()).unwrap();
    assert!(is_followed() && from_new.goes_on() && from_old.goes_on());
    assert_eq!(marked(web.address, next.slot).word, 'b');
    assert_eq!(marked(web.address, web.slot).word, 'a');
    for place in places {
        assert_eq!(Talk::begin(place, address).unwrap().word, 'a', "{place:?}");
    }
    assert!(old.iter_mut().all(Talk::goes_on));

    world.network.ensure_sandbox(&reached(&next)).await.unwrap();
    for place in places {
        assert_eq!(Talk::begin(place, address).unwrap().word, 'b', "{place:?}");
    }
    // What was begun before goes on where it was.
    assert!(old.iter_mut().all(Talk::goes_on));
    assert!(from_new.goes_on() && from_old.goes_on());
    assert_eq!(marked(web.address, web.slot).word, 'a');

    // And back, and forth again.
    world.network.ensure_sandbox(&web).await.unwrap();
    assert_eq!(Talk::begin(Place::Lan, address).unwrap().word, 'a');
    world.network.ensure_sandbox(&reached(&next)).await.unwrap();
    assert!(from_new.goes_on() && from_old.goes_on() && old.iter_mut().all(Talk::goes_on));

    drop(old);
    drop(from_old);
    world.network.remove_sandbox(&web.id()).await.unwrap();
    assert!(!is_followed());
    assert!(from_new.goes_on());
    let [made, failed] = clients.stop();
    assert!(made > 10, "{made}");
    // One of each client may have been with the old one when its sandbox was taken away.
    assert!(failed <= places.len(), "{failed} of {made}");
    assert_eq!(world.network.sandboxes().await.unwrap(), [db.id(), next.id()]);
}

/// A connection of the host with the mark of a slot.
fn marked(address: Ipv4Addr, slot: Slot) -> Talk {
    let (stream, flags) = (SockType::Stream, SockFlag::empty());
    let socket = socket(AddressFamily::Inet, stream, flags, None).unwrap();
    setsockopt(&socket, sockopt::Mark, &mark_of(slot)).unwrap();
    connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, PORT))).unwrap();
    Talk::with(socket.into()).unwrap()
}

#[tokio::test]
async fn what_others_take_away_of_it_comes_back() {
    let (web, db) = (web(), db());
    let address = IpAddr::from(web.address);
    let world = world(&web, &db).await;
    let next = beside(&web);
    world.network.ensure_sandbox(&next).await.unwrap();
    serve(Place::Inside(&next), address, "b");
    for damage in [
        "nft flush table inet dwell_flows",
        "nft delete table inet dwell_flows",
        "nft flush set inet dwell_flows followed",
        "nft flush ruleset",
        "ip rule del priority 1571",
    ] {
        let mut disturbed = world.network.disturbances();
        disturbed.mark_unchanged();
        run(damage);
        tokio::time::timeout(Duration::from_secs(5), disturbed.changed()).await.unwrap().unwrap();
        world.network.ensure_host(&host()).await.unwrap();
        let mut from_new = Talk::begin(Place::Inside(&next), NEIGHBOUR.into()).unwrap();
        assert!(from_new.goes_on(), "{damage}");
        assert_eq!(marked(web.address, next.slot).word, 'b', "{damage}");
    }
}

#[tokio::test]
async fn an_agent_that_starts_goes_on_with_two_and_ends_it() {
    let (web, db) = (web(), db());
    let address = IpAddr::from(web.address);
    let world = world(&web, &db).await;
    let next = beside(&web);
    world.network.ensure_sandbox(&next).await.unwrap();
    serve(Place::Inside(&next), address, "b");
    let mut old = Talk::begin(Place::Lan, address).unwrap();
    let restarted = LinuxNetwork::new(&LinuxConfig::default()).unwrap();
    restarted.ensure_host(&host()).await.unwrap();
    restarted.repair_sandbox(&web).await.unwrap();
    restarted.repair_sandbox(&next).await.unwrap();
    assert_eq!(Talk::begin(Place::Lan, address).unwrap().word, 'a');
    restarted.repair_sandbox(&reached(&next)).await.unwrap();
    assert!(old.goes_on());
    assert_eq!(Talk::begin(Place::Lan, address).unwrap().word, 'b');
    drop(old);
    // The one that was to come is given up instead.
    restarted.repair_sandbox(&web).await.unwrap();
    restarted.remove_sandbox(&next.id()).await.unwrap();
    assert!(!is_followed());
    assert_eq!(Talk::begin(Place::Lan, address).unwrap().word, 'a');
    let look = restarted.look(&dwell_network::RouteTable::default()).await.unwrap();
    assert!(look.strays.is_empty(), "{:?}", look.strays);
    restarted.cleanup().await.unwrap();
    assert!(!is_followed() && !namespace_of(&next).exists());
}

#[tokio::test]
async fn nothing_of_it_is_left_if_one_of_the_two_was_lost() {
    let (web, db) = (web(), db());
    let world = world(&web, &db).await;
    let next = beside(&web);
    world.network.ensure_sandbox(&next).await.unwrap();
    run("ip link del $(ip -br link show | grep -o '^dw-1ae6fac6e001')");
    world.network.remove_sandbox(&web.id()).await.unwrap();
    assert!(!is_followed());
    world.network.remove_sandbox(&next.id()).await.unwrap();
    assert_eq!(world.network.sandboxes().await.unwrap(), [db.id()]);
}

#[tokio::test]
async fn ipv6_addresses_move_as_well() {
    let (web, db) = (web(), db());
    let world = World::ready().await;
    let range: dwell_core::net::Ipv6Range = "fd00:5::/64".parse().unwrap();
    world.network.ensure_host(&HostNetwork { ipv6: Some(range), ..host() }).await.unwrap();
    world.network.sync_policies(&[]).await.unwrap();
    world.network.ensure_sandbox(&web).await.unwrap();
    world.network.ensure_sandbox(&db).await.unwrap();
    let at = |it: &Sandbox| IpAddr::from(range.address(it.address));
    serve(Place::Inside(&web), at(&web), "a");
    serve(Place::Inside(&db), at(&db), "db");
    let mut old = Talk::begin(Place::Inside(&db), at(&web)).unwrap();
    let next = beside(&web);
    world.network.ensure_sandbox(&next).await.unwrap();
    serve(Place::Inside(&next), at(&web), "b");
    let mut from_new = Talk::begin(Place::Inside(&next), at(&db)).unwrap();
    assert_eq!(Talk::begin(Place::Inside(&db), at(&web)).unwrap().word, 'a');
    world.network.ensure_sandbox(&reached(&next)).await.unwrap();
    assert_eq!(Talk::begin(Place::Inside(&db), at(&web)).unwrap().word, 'b');
    assert!(old.goes_on() && from_new.goes_on());
    world.network.remove_sandbox(&web.id()).await.unwrap();
    assert!(from_new.goes_on() && !is_followed());
}
