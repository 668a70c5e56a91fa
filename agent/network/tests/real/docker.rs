//! Beside a real `dockerd`, which is of this host alone and keeps its files in the host's own `/run`.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dwell_network::{HostNetwork, Network as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

use dwell_network::world::{NEIGHBOUR, Place, World, datagram, host, run, web};

const SOCKET: &str = "unix:///run/dwn-docker.sock";

/// A running engine; stopped, as `systemctl stop docker` does, when this goes.
struct Docker(Child);

impl Docker {
    fn start() -> Self {
        let log = File::create("/run/dwn-docker.log").unwrap();
        let docker = Command::new("dockerd")
            .args(["--host", SOCKET, "--pidfile", "/run/dwn-docker.pid", "--storage-driver", "vfs"])
            .args(["--data-root", "/run/dwn-docker", "--exec-root", "/run/dwn-docker.exec"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let docker = Self(docker.expect("dockerd is not installed; see `make test`"));
        let start = Instant::now();
        while !Self::answers() {
            let log = || std::fs::read_to_string("/run/dwn-docker.log").unwrap();
            assert!(start.elapsed() < Duration::from_secs(60), "dockerd does not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        docker
    }

    fn answers() -> bool {
        let version = Command::new("docker").args(["--host", SOCKET, "version"]).output();
        version.unwrap().status.success()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn the_way_through_survives_a_restart_of_docker_and_is_taken_back() {
    let world = World::bare();
    let docker = Docker::start();
    let dockers = run("iptables -S");
    assert!(dockers.contains("-P FORWARD DROP"), "started without forwarding: {dockers}");

    world.network.ensure_host(&host()).await.unwrap();
    let web = web();
    world.network.ensure_sandbox(&web).await.unwrap();
    let from_lan = || datagram((Place::Lan, NEIGHBOUR), (Place::Inside(&web), web.address));
    assert_eq!(from_lan(), Some(NEIGHBOUR));
    let rules = run("iptables -S");

    drop(docker);
    assert_eq!(from_lan(), Some(NEIGHBOUR), "while Docker is down");
    let _docker = Docker::start();
    assert_eq!(from_lan(), Some(NEIGHBOUR), "after it has written its rules again");
    world.network.ensure_host(&host()).await.unwrap();
    assert_eq!(run("iptables -S"), rules, "there was nothing to repair");

    // What dockerd does for a moment when it starts, and for each network that it makes.
    run("iptables -D FORWARD -j DOCKER-USER");
    assert_eq!(from_lan(), Some(NEIGHBOUR), "while Docker's jump is out");
    run(&format!("iptables -I DOCKER-USER -s {NEIGHBOUR} -j DROP"));
    assert_eq!(from_lan(), None, "what the operator drops is dropped meanwhile, too");
    run(&format!(
        "iptables -D DOCKER-USER -s {NEIGHBOUR} -j DROP; iptables -I FORWARD -j DOCKER-USER"
    ));

    world.network.cleanup().await.unwrap();
    assert_eq!(run("iptables -S"), dockers);
    assert_eq!(run("sysctl -n net.ipv4.ip_forward").trim(), "1", "Docker relies on it");
}

/// Whatever kind of node it is: one without instances does not wait for a Docker that nobody has started yet.
#[tokio::test]
async fn a_docker_that_starts_later_does_not_close_the_way_through() {
    let world = World::bare();
    let routes_only = HostNetwork { blocks: Vec::new(), ..host() };
    world.network.ensure_host(&routes_only).await.unwrap();
    let web = web();
    world.network.ensure_sandbox(&web).await.unwrap();
    let mut disturbances = world.network.disturbances();
    let before = disturbances.borrow_and_update().host;

    let _docker = Docker::start();
    let told = disturbances.wait_for(|now| now.host > before);
    timeout(Duration::from_secs(10), told).await.unwrap().unwrap();
    world.network.ensure_host(&routes_only).await.unwrap();
    let rules = run("iptables -S");
    let jump = "-A DOCKER-USER -m comment --comment dwell -j DWELL-IN";
    assert!(rules.lines().any(|rule| rule == jump), "{rules}");
    // Docker has left it open, as the host forwarded before. Whoever closes it does not close the cluster's way.
    run("iptables -P FORWARD DROP");
    let from_lan = datagram((Place::Lan, NEIGHBOUR), (Place::Inside(&web), web.address));
    assert_eq!(from_lan, Some(NEIGHBOUR));
}
