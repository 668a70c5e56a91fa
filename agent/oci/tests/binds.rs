//! What a container mounts of its node, with a real Docker, a real runc and a tenant who puts links in the way.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use dwell_core::instance::Assigned;
use dwell_core::workload::{Mount, MountSource, Template};
use dwell_docker::Runtime;
use dwell_docker::world::{Node, World, shell};
use dwell_engine::fake::assigned;
use dwell_engine::{ContainerId, Engine as _, EngineError};
use dwell_network::fixtures::Namespace;

/// The only cluster of each daemon.
const CLUSTER: &str = "binds";
/// What the container says of its mount, and then it serves.
const READS: &str = "cat /data/file; echo inside > /data/written; sleep 1000";

/// A node whose containers are started by the wrapper, with a directory that is allowed and one that is not.
struct Host {
    node: Node,
    shared: PathBuf,
    secret: PathBuf,
    sandbox: Namespace,
}

impl Host {
    fn new(world: &World) -> Self {
        let node = world.node(CLUSTER, Runtime::Dwell);
        let shared = node.config.allowed.binds[0].clone();
        let secret = shared.parent().unwrap().join("secret");
        for (directory, content) in [(shared.join("x"), "allowed"), (secret.clone(), "secret")] {
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("file"), content).unwrap();
        }
        Self { node, shared, secret, sandbox: Namespace::new() }
    }

    /// A container of an instance that mounts these paths beneath what is allowed.
    async fn create(&self, name: &str, mounts: &[(&str, &str)]) -> ContainerId {
        self.node.engine.create(&self.assigned(name, mounts)).await.unwrap()
    }

    fn assigned(&self, name: &str, mounts: &[(&str, &str)]) -> Assigned {
        let mount = |&(path, target): &(&str, &str)| Mount {
            source: MountSource::Bind(self.shared.join(path).to_str().unwrap().to_owned()),
            target: target.to_owned(),
            read_only: false,
        };
        let template = Template { mounts: mounts.iter().map(mount).collect(), ..shell(READS) };
        let assigned = assigned(name, 1, template);
        let sandbox = dwell_network::sandbox_path(
            &self.node.config.run_dir,
            &assigned.instance.clone().into(),
        );
        fs::create_dir_all(sandbox.parent().unwrap()).unwrap();
        symlink(self.sandbox.path(), sandbox).unwrap();
        assigned
    }

    async fn refused(&self, id: &ContainerId) -> String {
        let refused = self.node.engine.start(id).await.unwrap_err();
        assert!(!matches!(refused, EngineError::NotFound { .. }), "{refused}");
        refused.to_string()
    }

    fn written(&self, directory: &Path) -> bool {
        directory.join("written").exists()
    }

    async fn stop(&self, id: &ContainerId) {
        self.node.engine.stop(id, std::time::Duration::ZERO).await.unwrap();
        fs::remove_file(self.shared.join("x/written")).ok();
    }
}

/// A daemon that starts what it starts by the wrapper itself.
async fn world() -> World {
    let world = World::new().await;
    world.register_wrapper(Path::new(env!("CARGO_BIN_EXE_dwell-oci")), CLUSTER).await;
    world
}

/// The mounts of this machine's namespace that are the wrapper's.
fn mounts_of_the_wrapper(node: &Node) -> usize {
    let place = node.config.run_dir.join(dwell_oci::mapping::BINDS);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(place.to_str().unwrap())).count()
}

#[tokio::test]
async fn a_link_that_is_swapped_in_between_two_starts_is_not_followed() {
    let world = world().await;
    let host = Host::new(&world);
    let id = host.create("web-0", &[("", "/shared"), ("x", "/data/")]).await;
    host.node.engine.start(&id).await.unwrap();
    world.until("it writes", async || host.written(&host.shared.join("x"))).await;
    assert_eq!(mounts_of_the_wrapper(&host.node), 0);

    // As root in the container does it: by its other mount.
    let id_text = id.as_str();
    let swap = "busybox rm -r /shared/x && busybox ln -s $0 /shared/x";
    world.docker(&["exec", id_text, "sh", "-c", swap, host.secret.to_str().unwrap()]);
    assert!(host.shared.join("x").is_symlink());
    host.stop(&id).await;

    let refused = host.refused(&id).await;
    assert!(
        refused.contains("the mount at") && refused.contains("a symbolic link leads to"),
        "{refused}"
    );
    assert!(refused.contains(host.shared.join("x").to_str().unwrap()), "{refused}");
    assert!(!host.written(&host.secret), "it wrote where nothing is allowed");
    // Nor by Docker's own hand, while nobody looks.
    let by_hand = world.docker_fails(&["start", id_text]);
    assert!(by_hand.contains("is refused"), "{by_hand}");
    assert!(!host.written(&host.secret));

    // Whoever puts a directory there again has it started again.
    fs::remove_file(host.shared.join("x")).unwrap();
    fs::create_dir(host.shared.join("x")).unwrap();
    host.node.engine.start(&id).await.unwrap();
    world.until("it writes again", async || host.written(&host.shared.join("x"))).await;
    host.stop(&id).await;

    // Links on the way and links that stay within are none the better; what is missing is not made.
    fs::rename(host.shared.join("x"), host.shared.join("y")).unwrap();
    symlink("y", host.shared.join("x")).unwrap();
    assert!(host.refused(&id).await.contains("a symbolic link leads to"));
    fs::remove_file(host.shared.join("x")).unwrap();
    let missing = host.refused(&id).await;
    assert!(
        missing.contains("is not there any more") || missing.contains("does not exist"),
        "{missing}"
    );
    assert!(!host.shared.join("x").exists(), "somebody made what was missing");
    host.node.engine.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_link_on_the_way_is_not_followed_and_nothing_is_made_behind_it() {
    let world = world().await;
    let host = Host::new(&world);
    fs::create_dir_all(host.shared.join("deep/x")).unwrap();
    let id = host.create("web-0", &[("deep/x", "/data"), ("x/file", "/etc/file")]).await;
    host.node.engine.start(&id).await.unwrap();
    world.until("it writes", async || host.written(&host.shared.join("deep/x"))).await;
    let mounted = world.docker(&["exec", id.as_str(), "cat", "/etc/file"]);
    assert_eq!(mounted, "allowed", "a single file can be mounted as well");
    host.stop(&id).await;

    fs::rename(host.shared.join("deep"), host.shared.join("away")).unwrap();
    symlink(&host.secret, host.shared.join("deep")).unwrap();
    // `secret/x` is not there, and must not come to be.
    let missing = host.refused(&id).await;
    assert!(missing.contains("is refused") || missing.contains("does not exist"), "{missing}");
    assert!(!host.secret.join("x").exists(), "somebody made what a link leads to");
    fs::create_dir(host.secret.join("x")).unwrap();
    assert!(host.refused(&id).await.contains("a symbolic link leads to"));
    assert!(!host.written(&host.secret.join("x")));
    host.node.engine.remove(&id).await.unwrap();
}

#[tokio::test]
async fn what_a_container_writes_into_its_own_files_is_bounded_and_not_on_the_disk() {
    let world = world().await;
    let host = Host::new(&world);
    let id = host.create("web-0", &[("x", "/data")]).await;
    host.node.engine.start(&id).await.unwrap();
    let run = |script: &str| world.docker(&["exec", id.as_str(), "sh", "-c", script]);
    let own = host.node.config.data_dir.join("instances/web-0/g1/hosts");
    let before = fs::read_to_string(&own).unwrap();
    assert_eq!(run("cat /etc/hosts"), before);
    run("echo 192.0.2.7 other >> /etc/hosts");
    assert!(run("cat /etc/hosts").ends_with("192.0.2.7 other\n"), "it is the container's to write");
    for file in ["hosts", "resolv.conf"] {
        run(&format!("busybox yes | head -c 3000000 >> /etc/{file} || true"));
    }
    let size: u64 =
        run("busybox cat /etc/hosts /etc/resolv.conf | busybox wc -c").trim().parse().unwrap();
    assert!(size <= 1 << 20, "{size}");
    assert_eq!(fs::read_to_string(&own).unwrap(), before, "the agent's file is as it was");
    // And by Docker's own hand it is as new.
    world.docker(&["restart", "--time=0", id.as_str()]);
    assert_eq!(run("cat /etc/hosts"), before);
    host.node.engine.remove(&id).await.unwrap();
}

#[tokio::test]
async fn what_an_operator_has_ceased_to_allow_is_not_started() {
    let world = world().await;
    let host = Host::new(&world);
    let id = host.create("web-0", &[("x", "/data")]).await;
    host.node.engine.start(&id).await.unwrap();
    host.stop(&id).await;
    let mut config = host.node.config.clone();
    config.allowed.binds.clear();
    let engine = dwell_docker::DockerEngine::new(config);
    let refused = engine.start(&id).await.unwrap_err();
    assert!(refused.is_permanent() && refused.to_string().contains("`allow_binds`"), "{refused}");
    host.node.engine.remove(&id).await.unwrap();
}
