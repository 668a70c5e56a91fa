//! A host to test on, and the network around it.
//!
//! ```text
//!   namespace of the test's thread                 namespace "dwn-lan"
//!   uplink 192.0.2.1/24, mtu 1400  ───── veth ───── uplink 192.0.2.2/24, .3 and 203.0.113.1
//! ```

#![expect(
    clippy::unwrap_used,
    reason = "it is for tests, and a test that cannot go on is to fail on the spot"
)]

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::linux::{LinuxConfig, LinuxNetwork};
use crate::{HostNetwork, Network as _, Peer, Sandbox, fixtures, sandbox_path};
use dwell_core::net::Mac;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// A node that the host shares a segment with.
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// An address beyond the cluster and its nodes.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The host's own.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// How long anything that should happen may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The test's host, with its network prepared by [`World::ready`].
pub struct World {
    /// What is under test.
    pub network: LinuxNetwork,
}

impl World {
    /// A host with an uplink, on which dwell has not done anything yet.
    pub fn bare() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces and need root: run `cargo test` as root or with sudo -E"
        );
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        // In a new namespace the settings are those of the machine, which may have been set already.
        run("sysctl -q -w net.ipv4.ip_forward=0 net.ipv4.conf.all.send_redirects=1");
        run("ip link set lo up
             ip netns add dwn-lan
             ip link add uplink mtu 1400 type veth peer name uplink mtu 1400 netns dwn-lan
             ip address add 192.0.2.1/24 dev uplink
             ip link set uplink addrgenmode none up
             ip route add default via 192.0.2.2");
        lan("ip link set lo up
             ip address add 192.0.2.2/24 dev uplink
             ip address add 192.0.2.3/24 dev uplink
             ip address add 203.0.113.1/32 dev lo
             ip link set uplink up
             ip route add 10.80.0.0/16 via 192.0.2.1");
        // The kernel notices a carrier on a thread of its own; later, that would look like a disturbance.
        until_silent("ip -br link show uplink | grep -v ' UP ' || true");
        Self { network: LinuxNetwork::new(&LinuxConfig::default()).unwrap() }
    }

    /// A host that is prepared for instances.
    pub async fn ready() -> Self {
        let world = Self::bare();
        world.network.ensure_host(&host()).await.unwrap();
        world
    }

    /// As [`World::ready`], with these sandboxes.
    pub async fn with<const N: usize>(sandboxes: [&Sandbox; N]) -> Self {
        let world = Self::ready().await;
        for sandbox in sandboxes {
            world.network.ensure_sandbox(sandbox).await.unwrap();
        }
        world
    }
}

/// What the host is prepared for: the block 10.80.1.0/24.
pub fn host() -> HostNetwork {
    let blocks = vec!["10.80.1.0/24".parse().unwrap()];
    HostNetwork { blocks, masquerade: true, ..fixtures::host() }
}

/// The sandbox of instance `name`, with the hardware address that its address implies.
pub fn sandbox(name: &str, address: [u8; 4]) -> Sandbox {
    let address = Ipv4Addr::from(address);
    Sandbox::only(name.parse().unwrap(), address, Mac::of_address(address))
}

/// `web-0`, at 10.80.1.5.
pub fn web() -> Sandbox {
    sandbox("web-0", [10, 80, 1, 5])
}

/// `db-0`, at 10.80.1.6.
pub fn db() -> Sandbox {
    sandbox("db-0", [10, 80, 1, 6])
}

/// Another node, reached through `via`.
pub fn peer(name: &str, block: &str, via: Ipv4Addr) -> Peer {
    Peer { node: name.parse().unwrap(), blocks: vec![block.parse().unwrap()], via }
}

/// The file that names the namespace of a sandbox.
pub fn namespace_of(sandbox: &Sandbox) -> PathBuf {
    sandbox_path(Path::new("/run/dwell"), &sandbox.id())
}

/// Runs a shell script on the host, and returns what it prints. It must succeed.
pub fn run(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{script}` failed: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a shell script on the other hosts' end of the uplink.
pub fn lan(script: &str) -> String {
    run(&format!("nsenter --net=/run/netns/dwn-lan sh -ec '{script}'"))
}

/// Runs a shell script in a sandbox.
pub fn inside(sandbox: &Sandbox, script: &str) -> String {
    run(&format!("nsenter --net={} sh -ec '{script}'", namespace_of(sandbox).display()))
}

/// A place from which packets are sent and to which they come.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The test's host.
    Host,
    /// The other hosts' end of the uplink.
    Lan,
    /// A sandbox.
    Inside(&'a Sandbox),
    /// A namespace of `ip netns`.
    Named(&'a str),
}

impl Place<'_> {
    /// Does `work` in the place's namespace.
    pub fn visit<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        let path = match self {
            Self::Host => return work(),
            Self::Lan => "/run/netns/dwn-lan".into(),
            Self::Inside(sandbox) => namespace_of(sandbox),
            Self::Named(name) => Path::new("/run/netns").join(name),
        };
        std::thread::scope(|scope| {
            let visit = scope.spawn(|| {
                setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            visit.join().unwrap()
        })
    }
}

/// A socket at a port of the test's choosing. Whoever had it before is gone; but a program that another test
/// starts at that moment holds a copy of its socket until it runs.
pub fn bound<S>(bind: impl Fn() -> std::io::Result<S>) -> S {
    let start = Instant::now();
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                assert!(start.elapsed() < PATIENCE, "{error}");
                std::thread::sleep(Duration::from_millis(5));
            }
            socket => return socket.unwrap(),
        }
    }
}

/// Sends a datagram from `source` at one place to `target` at another. Returns the source address that the
/// receiver sees, or `None` if nothing arrives.
pub fn datagram(
    (from, source): (Place<'_>, Ipv4Addr),
    (to, target): (Place<'_>, Ipv4Addr),
) -> Option<Ipv4Addr> {
    let receiver = to.visit(|| UdpSocket::bind((target, 0)).unwrap());
    let sender = from.visit(|| UdpSocket::bind((source, 0)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let port = receiver.local_addr().unwrap().port();
    // An unreachable target may be known at once, which is as good as silence.
    let _sent = sender.send_to(b"dwell", (target, port));
    match receiver.recv_from(&mut [0; 16]) {
        Ok((_, SocketAddr::V4(source))) => Some(*source.ip()),
        _ => None,
    }
}

/// Whether packets of `from` get to `target` and its answers back: the refusal of a connection is one.
pub fn reaches(from: Place<'_>, target: Ipv4Addr) -> bool {
    const DISCARD: u16 = 9;
    let connect = || TcpStream::connect_timeout(&(target, DISCARD).into(), Duration::from_secs(1));
    from.visit(connect).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Waits until `script` prints nothing.
pub fn until_silent(script: &str) {
    let start = Instant::now();
    loop {
        let output = run(script);
        if output.trim().is_empty() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "`{script}` still prints {output}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All that a sandbox or a route could leave in the kernel. There is no IPv6 address on the uplink, which
/// would change by itself.
pub fn dump() -> String {
    run("ip -details link; ip address; ip route show table all; ip nexthop; ip neighbour show nud permanent
         ip rule; ip -6 rule; nft list ruleset")
}
