//! An agent without `CAP_SYS_ADMIN`, in a mount namespace of its own, and the keeper that does for it what takes both.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use dwell_network::linux::keeper::{self, Keeping};
use dwell_network::linux::{LinuxConfig, LinuxNetwork};
use dwell_network::world::{
    OUTSIDE, Place, World, host, inside, namespace_of, reaches, run, until_silent, web,
};
use dwell_network::{Network as _, NetworkError, RouteTable};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    socket_with,
};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::ipv6::{dual, range};

const RUN_DIR: &str = "/run/dwell";

/// Starts the keeper of the test's host, which ends with the test's program.
fn keep() {
    // As systemd has it.
    run("mount --make-rshared /run");
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::spawn(move || keeper::serve(Path::new(RUN_DIR), || ready.send(()).unwrap()));
    is_ready.recv().unwrap();
}

/// The network as the agent has it: its threads have neither the right to mount nor the host's mounts.
fn confined() -> LinuxNetwork {
    let start = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).unwrap();
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(Some("/proc/sys"), "/proc/sys", none, MsFlags::MS_BIND, none).unwrap();
        mount(none, "/proc/sys", none, flags, none).unwrap();
        let mut sets = capabilities(None).unwrap();
        for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
            set.remove(CapabilitySet::SYS_ADMIN);
        }
        set_capabilities(None, sets).unwrap();
        let config = LinuxConfig { keeping: Keeping::Served, ..LinuxConfig::default() };
        LinuxNetwork::new(&config).unwrap()
    };
    thread::scope(|scope| scope.spawn(start).join().unwrap())
}

#[tokio::test]
async fn an_agent_that_may_not_mount_makes_sandboxes_and_takes_them_away() {
    let _world = World::bare();
    keep();
    let (network, web) = (confined(), web());
    network.ensure_host(&host()).await.unwrap();
    assert_eq!(run("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
    network.ensure_sandbox(&web).await.unwrap();
    // The name is there for the engine, which is in the host's mount namespace.
    assert!(reaches(Place::Inside(&web), OUTSIDE));
    let seen = network.look(&RouteTable::default()).await;
    let inode = fs::metadata(namespace_of(&web)).unwrap().ino();
    assert_eq!(seen.unwrap().sandboxes.get(&web.id()).unwrap().namespace, Some(inode));

    network.ensure_host(&dual()).await.unwrap();
    network.sync_policies(&[]).await.unwrap();
    network.ensure_sandbox(&web).await.unwrap();
    let address = range().address(web.address).to_string();
    assert!(inside(&web, "ip -6 address show dev eth0").contains(&address));
    network.ensure_host(&host()).await.unwrap();
    network.sync_policies(&[]).await.unwrap();
    network.ensure_sandbox(&web).await.unwrap();
    assert_eq!(inside(&web, "ip -6 address show dev eth0"), "");

    let holder = run(&format!(
        "nsenter --net={} sleep 300 </dev/null >/dev/null 2>&1 & echo $!",
        namespace_of(&web).display()
    ));
    run(&format!("umount {0}; rm {0}", namespace_of(&web).display()));
    network.repair_sandbox(&web).await.unwrap();
    assert_eq!(fs::metadata(namespace_of(&web)).unwrap().ino(), inode);
    run(&format!("kill {holder}"));

    network.cleanup().await.unwrap();
    assert!(!Path::new(RUN_DIR).join("netns").exists());
    until_silent("ip -br link show | grep ' dw-' || true");
}

#[tokio::test]
async fn a_keeper_that_comes_back_is_found_again() {
    let _world = World::bare();
    let (network, web) = (confined(), web());
    let missing = network.ensure_host(&host()).await.unwrap_err();
    let causes = dwell_daemon::Causes(&missing).to_string();
    assert!(causes.contains("systemctl start dwell-sandboxes"), "{causes}");
    keep();
    network.ensure_host(&host()).await.unwrap();
    // Another one takes the place: the connection to the first one is still open, and good.
    keep();
    network.ensure_sandbox(&web).await.unwrap();
    assert!(reaches(Place::Host, web.address));
}

#[tokio::test]
async fn the_keeper_does_nothing_else_for_anybody() {
    let world = World::ready().await;
    world.network.ensure_sandbox(&web()).await.unwrap();
    keep();
    let path = keeper::socket_path(Path::new(RUN_DIR));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let ask = |text: &str| {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        send(&socket, text.as_bytes(), SendFlags::NOSIGNAL).unwrap();
        let mut space = [0; 4096];
        let flags = rustix::net::RecvFlags::empty();
        let (_, length) = recv(&socket, &mut space[..], flags).unwrap_or_default();
        String::from_utf8(space[..length].to_vec()).unwrap()
    };
    let refused = [
        r#"{"set":{"setting":"kernel/core_pattern","value":"1"}}"#,
        r#"{"set":{"setting":"net/ipv4/conf/../ip_forward","value":"0"}}"#,
        // Without the namespace.
        r#"{"adopt":"web-0"}"#,
    ];
    for text in refused {
        assert!(ask(text).contains(r#""errno":1"#), "{text}: {}", ask(text));
    }
    // Whoever does not speak its language is hung up on.
    let long = format!(r#"{{"open":"{}"}}"#, "a".repeat(5000));
    for text in [r#"{"remove":"../netns/web-0"}"#, r#"{"mount":"/etc"}"#, "x", &long] {
        assert_eq!(ask(text), "", "{text}");
    }
    assert_eq!(ask(r#"{"open":"db-0"}"#), r#""missing""#);
    assert_eq!(ask(r#"{"open":"web-0"}"#), r#""done""#);
    assert!(reaches(Place::Host, web().address));
    // No link leads it elsewhere.
    std::os::unix::fs::symlink("/etc/hostname", "/run/dwell/netns/db-0").unwrap();
    assert!(ask(r#"{"create":"db-0"}"#).contains(r#""errno":40"#));
    assert!(!run("cat /proc/self/mounts").contains("/etc/hostname"));
}

#[tokio::test]
async fn only_so_many_are_heard_at_a_time() {
    let _world = World::bare();
    keep();
    let path = SocketAddrUnix::new(keeper::socket_path(Path::new(RUN_DIR))).unwrap();
    let connected = || {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &path).unwrap();
        socket
    };
    let mut held: Vec<_> = (0..8).map(|_| connected()).collect();
    let ninth = connected();
    let mut space = [0; 64];
    let flags = rustix::net::RecvFlags::empty();
    assert_eq!(recv(&ninth, &mut space[..], flags).unwrap_or_default().1, 0, "it is hung up on");
    held.clear();
    let network = confined();
    let mut prepared = Err(NetworkError::HostNotReady);
    for _ in 0..50 {
        prepared = network.ensure_host(&host()).await;
        if prepared.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    prepared.unwrap();
}
