//! Making, checking, completing, replacing and removing sandboxes.

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use dwell_core::workload::Protocol;
use dwell_network::{HostNetwork, Network as _, NetworkError, PortRange, Sandbox};

use dwell_network::world::{
    HOST, NEIGHBOUR, Place, World, datagram, db, dump, host, inside, namespace_of, reaches, run,
    sandbox, until_silent, web,
};

/// Veths of ours in the host namespace that are not on their way out.
const LIVING_VETHS: &str = "ip -o link show group default | grep -c ' dw-' || true";

#[tokio::test]
async fn an_instance_reaches_the_world_its_neighbour_and_is_reached() {
    let (web, db) = (web(), db());
    let _world = World::with([&web, &db]).await;
    assert!(reaches(Place::Host, web.address));
    assert!(reaches(Place::Inside(&web), NEIGHBOUR));
    assert!(reaches(Place::Inside(&web), db.address));
    let seen = datagram((Place::Inside(&web), web.address), (Place::Inside(&db), db.address));
    assert_eq!(seen, Some(web.address));
}

#[tokio::test]
async fn the_inside_is_as_declared() {
    let web = web();
    let _world = World::with([&web]).await;
    let eth0 = inside(&web, "ip -o link show eth0; ip -o address show dev eth0");
    assert!(eth0.contains("mtu 1400"), "the uplink's MTU: {eth0}");
    assert!(eth0.contains(&web.mac.to_string()), "{eth0}");
    assert!(eth0.contains("inet 10.80.1.5/32"), "{eth0}");
    assert!(!eth0.contains("inet6"), "{eth0}");
    let settings = inside(
        &web,
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range",
    );
    assert_eq!(settings.split_whitespace().collect::<Vec<_>>(), ["0", "0", "2147483647"]);
    let lo = inside(&web, "ip -o address show dev lo");
    assert!(!lo.contains("inet6"), "`localhost` would be ::1 first: {lo}");
    let routes = inside(&web, "ip route");
    assert!(routes.contains("default via 169.254.1.1 dev eth0"), "{routes}");
}

#[tokio::test]
async fn a_correct_sandbox_is_not_touched() {
    let (web, db) = (web(), db());
    let world = World::with([&web, &db]).await;
    let everything =
        || dump() + &inside(&web, "ip -details link; ip address; ip route; ip neighbour");
    let before = everything();
    world.network.ensure_sandbox(&web).await.unwrap();
    world.network.ensure_sandbox(&db).await.unwrap();
    assert_eq!(everything(), before);
    assert_eq!(world.network.sandboxes().await.unwrap(), [db.id(), web.id()]);
}

#[tokio::test]
async fn whatever_is_missing_is_completed() {
    let web = web();
    let file = namespace_of(&web).display().to_string();
    let veth = "$(ip -o link show group default | grep -o 'dw-[0-9a-f]*')";
    let in_sandbox = |script: &str| format!("nsenter --net={file} {script}");
    let damages = [
        format!("ip route del {}", web.address),
        format!("ip neighbour del {} dev {veth}", web.address),
        format!("ip link set {veth} down"),
        format!("ip link set {veth} mtu 1280"),
        format!("ip link set {veth} alias ''"),
        format!("ip link del {veth}"),
        in_sandbox("ip link del eth0"),
        in_sandbox("ip link set eth0 down"),
        in_sandbox("ip link set eth0 address 02:00:00:00:00:01"),
        in_sandbox("ip address flush dev eth0"),
        in_sandbox("ip route flush table main"),
        in_sandbox("ip neighbour flush nud permanent"),
        in_sandbox("ip link set lo down"),
        format!("umount {file}"),
        format!("umount {file} && rm {file}"),
        "nft flush ruleset".to_owned(),
        "nft flush set inet dwell sources".to_owned(),
    ];
    let world = World::with([&web]).await;
    for damage in damages {
        run(&damage);
        world.network.ensure_sandbox(&web).await.unwrap();
        assert!(reaches(Place::Host, web.address), "after `{damage}`");
        assert!(reaches(Place::Inside(&web), NEIGHBOUR), "after `{damage}`");
        assert!(inside(&web, "ip link show lo").contains("UP"), "after `{damage}`");
        assert_eq!(run(LIVING_VETHS).trim(), "1", "after `{damage}`");
    }
}

/// A process in a sandbox, as a container's is; killed when this goes.
struct Inhabitant(std::process::Child);

impl Inhabitant {
    fn of(sandbox: &Sandbox) -> Self {
        let file = namespace_of(sandbox).display().to_string();
        let sleep = std::process::Command::new("nsenter")
            .args([&format!("--net={file}"), "sleep", "600"])
            .spawn();
        let process = Self(sleep.unwrap());
        // It counts once it has arrived there.
        let start = Instant::now();
        while process.namespace() == std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino() {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
        process
    }

    fn namespace(&self) -> u64 {
        std::fs::metadata(format!("/proc/{}/ns/net", self.0.id())).unwrap().ino()
    }
}

impl Drop for Inhabitant {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Takes the name of a sandbox's namespace away.
fn lose_name(sandbox: &Sandbox) {
    let file = namespace_of(sandbox).display().to_string();
    run(&format!("umount {file} && rm {file}"));
}

#[tokio::test]
async fn a_namespace_that_was_cut_off_loses_its_address() {
    let web = web();
    let world = World::with([&web]).await;
    // Something keeps the old namespace alive, but nobody is in it.
    run(&format!("touch /run/held && mount --bind {} /run/held", namespace_of(&web).display()));
    lose_name(&web);
    world.network.ensure_sandbox(&web).await.unwrap();
    assert!(reaches(Place::Host, web.address));
    until_silent("ip -o link show group 39355");
    run("umount /run/held");
    assert_eq!(run(LIVING_VETHS).trim(), "1");
}

#[tokio::test]
async fn a_sandbox_that_lost_its_name_gets_it_back_with_who_is_in_it() {
    let (web, db) = (web(), db());
    let world = World::with([&web, &db]).await;
    let (in_web, _in_db) = (Inhabitant::of(&web), Inhabitant::of(&db));
    let before = dump();
    for repair in [true, false] {
        lose_name(&web);
        if repair {
            world.network.repair_sandbox(&web).await.unwrap();
        } else {
            world.network.ensure_sandbox(&web).await.unwrap();
        }
        let named = std::fs::metadata(namespace_of(&web)).unwrap().ino();
        assert_eq!(named, in_web.namespace(), "another namespace beside the running process");
        assert!(reaches(Place::Host, web.address));
        assert_eq!(dump(), before, "nothing of it had to be made anew");
    }
}

#[tokio::test]
async fn a_sandbox_that_is_lost_for_good_is_not_made_beside_a_running_container() {
    let web = web();
    let world = World::with([&web]).await;
    let _inhabitant = Inhabitant::of(&web);
    inside(&web, "ip link del eth0");
    lose_name(&web);
    for _ in 0..2 {
        let lost = world.network.repair_sandbox(&web).await.unwrap_err();
        assert!(matches!(lost, NetworkError::SandboxLost { .. }), "{lost}");
        assert_eq!(world.network.sandboxes().await.unwrap(), []);
    }
    // Once the container has ended it is made.
    world.network.ensure_sandbox(&web).await.unwrap();
    assert!(reaches(Place::Host, web.address));
}

#[tokio::test]
async fn a_new_address_replaces_the_old_one() {
    let old = web();
    let world = World::with([&old]).await;
    let new = sandbox("web-0", [10, 80, 1, 77]);
    world.network.ensure_sandbox(&new).await.unwrap();
    assert!(reaches(Place::Host, new.address));
    assert!(!reaches(Place::Host, old.address));
    assert!(!inside(&new, "ip address").contains("10.80.1.5"));
}

#[tokio::test]
async fn a_removed_sandbox_leaves_nothing_and_is_unreachable() {
    let (web, db) = (web(), db());
    let world = World::ready().await;
    let before = dump();
    world.network.ensure_sandbox(&web).await.unwrap();
    world.network.ensure_sandbox(&db).await.unwrap();
    world.network.remove_sandbox(&web.id()).await.unwrap();
    assert_eq!(world.network.sandboxes().await.unwrap(), [db.id()]);
    let route = run(&format!("ip route get {} 2>&1 || true", web.address));
    assert!(route.contains("No route to host"), "{route}");
    assert!(reaches(Place::Host, db.address));

    world.network.remove_sandbox(&web.id()).await.unwrap();
    world.network.remove_sandbox(&db.id()).await.unwrap();
    until_silent("ip -o link | grep dw- || true");
    assert_eq!(dump(), before);
    assert_eq!(run("ls /run/dwell/netns"), "");
}

#[tokio::test]
async fn an_instance_that_comes_back_at_once_need_not_wait_for_its_old_veth() {
    let web = web();
    let world = World::with([&web]).await;
    for _ in 0..20 {
        world.network.remove_sandbox(&web.id()).await.unwrap();
        world.network.ensure_sandbox(&web).await.unwrap();
        assert!(reaches(Place::Host, web.address));
    }
    until_silent("ip -o link show group 39355");
}

#[tokio::test]
async fn another_address_than_its_own_gets_nowhere() {
    let (web, db) = (web(), db());
    let world = World::with([&web, &db]).await;
    // Without the kernel's own check, which would hide that ours is missing.
    run("sysctl -q -w net.ipv4.conf.all.rp_filter=0
         for f in /proc/sys/net/ipv4/conf/dw-*/rp_filter; do echo 0 > $f; done");
    inside(&web, "ip address add 10.80.1.99/32 dev eth0; ip address add 198.51.100.9/32 dev eth0");
    inside(&web, "ip address add 10.80.1.6/32 dev eth0");
    // To the host itself nothing gets but what it allows, and it allows this.
    let any = PortRange { protocol: Protocol::Udp, first: 1, last: u16::MAX };
    let open = HostNetwork { host_access: vec![any], ..host() };
    world.network.ensure_host(&open).await.unwrap();
    let send = |source: Ipv4Addr| datagram((Place::Inside(&web), source), (Place::Host, HOST));
    assert_eq!(send(web.address), Some(web.address), "its own address");
    assert_eq!(send(Ipv4Addr::new(10, 80, 1, 99)), None, "a free address of the block");
    assert_eq!(send(Ipv4Addr::new(198, 51, 100, 9)), None, "an address from elsewhere");
    assert_eq!(send(db.address), None, "another instance's address");
    // The sender is not to blame for the silence: without the guard it is heard.
    run("nft flush chain inet dwell guard; nft flush chain inet dwell host");
    assert!(send(Ipv4Addr::new(198, 51, 100, 9)).is_some());
}

#[tokio::test]
async fn a_foreign_route_to_the_address_is_named_and_kept() {
    let world = World::ready().await;
    run("ip route add 10.80.1.5/32 dev uplink metric 5");
    let error = world.network.ensure_sandbox(&web()).await.unwrap_err();
    assert!(matches!(error, NetworkError::AddressTaken { .. }), "{error}");
    assert!(run("ip route show 10.80.1.5").contains("uplink"));
    run("ip route del 10.80.1.5/32");
    world.network.ensure_sandbox(&web()).await.unwrap();
    assert!(reaches(Place::Host, web().address));
}

#[tokio::test]
async fn a_sandbox_needs_a_prepared_host() {
    let world = World::bare();
    let error = world.network.ensure_sandbox(&web()).await.unwrap_err();
    assert!(matches!(error, NetworkError::HostNotReady), "{error}");
}

#[tokio::test]
async fn a_hundred_sandboxes_take_a_few_milliseconds_each() {
    const GENEROUS: Duration = Duration::from_millis(100);
    let world = World::ready().await;
    let sandboxes: Vec<Sandbox> =
        (0..100).map(|n| sandbox(&format!("web-{n}"), [10, 80, 1, n + 1])).collect();
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let mut rounds = Vec::new();
    for round in ["make", "check", "remove"] {
        let mut times = Vec::new();
        for sandbox in &sandboxes {
            let start = Instant::now();
            match round {
                "remove" => world.network.remove_sandbox(&sandbox.id()).await.unwrap(),
                _ => world.network.ensure_sandbox(sandbox).await.unwrap(),
            }
            times.push(start.elapsed());
        }
        rounds.push((round, median(times)));
    }
    println!("median per sandbox: {rounds:?}");
    for (round, median) in rounds {
        assert!(median < GENEROUS, "{round} takes {median:?}");
    }
}

#[tokio::test]
async fn two_instances_cannot_have_one_address() {
    let (web, db) = (web(), db());
    let world = World::with([&web]).await;
    let twin = Sandbox { instance: db.instance, ..web.clone() };
    let error = world.network.ensure_sandbox(&twin).await.unwrap_err();
    assert!(error.to_string().contains("web-0"), "{error}");
    assert!(reaches(Place::Host, web.address));
}
