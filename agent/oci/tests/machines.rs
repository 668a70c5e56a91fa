//! Machines, with a real Docker, a real runc and the wrapper: a root file system that outlives its containers.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::id::Generation;
use dwell_core::instance::Assigned;
use dwell_core::workload::{Machine, OnImageChange, Template};
use dwell_docker::Runtime;
use dwell_docker::world::{IMAGE, Node, World, shell};
use dwell_engine::fake::assigned;
use dwell_engine::{ContainerId, Engine as _};
use dwell_network::fixtures::Namespace;

/// The only cluster of each daemon.
const CLUSTER: &str = "machines";
const IDLE: &str = "busybox sleep 1000";

struct Host {
    world: World,
    node: Node,
    sandbox: Namespace,
}

impl Host {
    async fn new() -> Self {
        let world = World::new().await;
        world.register_wrapper(Path::new(env!("CARGO_BIN_EXE_dwell-oci")), CLUSTER).await;
        let node = world.node(CLUSTER, Runtime::Dwell);
        Self { world, node, sandbox: Namespace::new() }
    }

    /// A machine as it is told at a generation.
    fn machine(&self, generation: u64, policy: OnImageChange) -> Assigned {
        let machine = Machine { volume: "root".parse().unwrap(), on_image_change: policy };
        let template = Template { machine: Some(machine), ..shell(IDLE) };
        let assigned = assigned("dev-0", generation, template);
        let sandbox = dwell_network::sandbox_path(
            &self.node.config.run_dir,
            &assigned.instance.clone().into(),
        );
        fs::create_dir_all(sandbox.parent().unwrap()).unwrap();
        if !sandbox.exists() {
            symlink(self.sandbox.path(), sandbox).unwrap();
        }
        assigned
    }

    /// Puts a container in the place of another one, as the agent does.
    async fn replace(&self, old: &ContainerId, assigned: &Assigned) -> ContainerId {
        let new = self.node.engine.create(assigned).await.unwrap();
        self.stop(old).await;
        self.node.engine.start(&new).await.unwrap();
        self.node.engine.remove(old).await.unwrap();
        new
    }

    async fn stop(&self, id: &ContainerId) {
        self.node.engine.stop(id, Duration::ZERO).await.unwrap();
    }

    fn sh(&self, id: &ContainerId, script: &str) -> String {
        self.world.docker(&["exec", id.as_str(), "sh", "-c", script])
    }

    async fn volume(&self) -> PathBuf {
        self.node
            .engine
            .volume_data(&"dev-0".parse().unwrap(), &"root".parse().unwrap())
            .await
            .unwrap()
    }

    /// The roots that are there, and what is no root any more but still deleted.
    async fn roots(&self) -> Vec<String> {
        let entries = fs::read_dir(self.volume().await).unwrap();
        let mut names: Vec<String> =
            entries.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Another image under the same name, as a push would make it.
    fn image_of(&self, id: &ContainerId) {
        self.world.docker(&["exec", id.as_str(), "sh", "-c", "echo other > /other"]);
        self.world.docker(&["commit", id.as_str(), "other"]);
    }
}

#[tokio::test]
async fn a_root_outlives_every_container() {
    let host = Host::new().await;
    let first = host.machine(1, OnImageChange::Keep);
    let id = host.node.engine.create(&first).await.unwrap();
    host.node.engine.start(&id).await.unwrap();
    // All that a file system has: what is new, changed and gone; links, owners, sockets, a directory in the place of another one.
    host.sh(
        &id,
        "b=busybox; echo mine > /etc/content/file; $b mkdir -p /opt/app; echo app > /opt/app/run; $b chown 77:88 /opt/app/run; \
         $b chmod 4711 /opt/app/run; $b ln /opt/app/run /opt/app/same; $b ln -s run /opt/app/link; $b rm /bin/hostname; \
         $b mkfifo /opt/fifo; $b rm -r /etc/content; $b mkdir /etc/content; echo new > /etc/content/new",
    );
    let look = "b=busybox; $b cat /etc/content/new; $b ls /etc/content; $b stat -c '%a %u %g %h' /opt/app/run; \
                $b cat /opt/app/link; $b test -p /opt/fifo && echo fifo; $b test -e /bin/hostname || echo gone; \
                $b test -e /.dwell-root || echo hidden";
    let expected = "new\nnew\n4711 77 88 2\napp\nfifo\ngone\nhidden\n";
    assert_eq!(host.sh(&id, look), expected);

    host.stop(&id).await;
    host.node.engine.start(&id).await.unwrap();
    assert_eq!(host.sh(&id, look), expected, "after a start");
    host.world.docker(&["restart", "-t", "0", id.as_str()]);
    assert_eq!(host.sh(&id, look), expected, "after a restart by Docker's own hand");
    host.world.docker(&["kill", id.as_str()]);
    host.node.engine.start(&id).await.unwrap();
    assert_eq!(host.sh(&id, look), expected, "after a kill");

    let mut second = host.machine(2, OnImageChange::Keep);
    second.template.environment.insert("A".to_owned(), "b".to_owned());
    let id = host.replace(&id, &second).await;
    assert_eq!(host.sh(&id, look), expected, "in another container");
    assert_eq!(host.sh(&id, "echo $A"), "b\n");
    host.stop(&id).await;
    host.node.engine.remove(&id).await.unwrap();
    assert_eq!(host.roots().await.len(), 1, "the last container takes no root along");
    let id = host.node.engine.create(&host.machine(1, OnImageChange::Keep)).await.unwrap();
    host.node.engine.start(&id).await.unwrap();
    assert_eq!(host.sh(&id, look), expected, "for a workload that was declared again");

    // Nothing is left of it on the host but the volume.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = host.node.config.run_dir.join(dwell_oci::mapping::BINDS);
    assert!(!mounts.contains(places.to_str().unwrap()), "{mounts}");
}

#[tokio::test]
async fn a_root_begins_anew_when_somebody_asks_and_comes_back_if_that_does_not_hold() {
    let host = Host::new().await;
    let first = host.machine(1, OnImageChange::Keep);
    let id = host.node.engine.create(&first).await.unwrap();
    host.node.engine.start(&id).await.unwrap();
    host.sh(&id, "echo mine > /mine");

    let rebuilt = Assigned { rebuilt: Timestamp(5_000), ..host.machine(2, OnImageChange::Keep) };
    let new = host.node.engine.create(&rebuilt).await.unwrap();
    assert_eq!(host.roots().await.len(), 2);
    host.stop(&id).await;
    host.node.engine.start(&new).await.unwrap();
    assert_eq!(host.sh(&new, "busybox test -e /mine || echo fresh"), "fresh\n");
    // It does not hold: the one before is put up again, with all that it had.
    host.stop(&new).await;
    host.node.engine.remove(&new).await.unwrap();
    host.node.engine.start(&id).await.unwrap();
    assert_eq!(host.sh(&id, "busybox cat /mine"), "mine\n");
    assert!(host.roots().await.iter().all(|name| !name.starts_with("5000-")));

    let again = Assigned { generation: Generation(4), rebuilt: Timestamp(6_000), ..rebuilt };
    let new = host.replace(&id, &again).await;
    assert_eq!(host.sh(&new, "busybox test -e /mine || echo fresh"), "fresh\n");
    host.world.until("the root of before is deleted", async || host.roots().await.len() == 1).await;
    assert!(host.roots().await[0].starts_with("6000-"));
    // A controller that was restored knows of no request: what is there counts.
    host.sh(&new, "echo other > /mine");
    let last = host.replace(&new, &host.machine(5, OnImageChange::Keep)).await;
    assert_eq!(host.sh(&last, "busybox cat /mine"), "other\n");
}

#[tokio::test]
async fn a_root_is_of_use_with_its_image_alone() {
    let host = Host::new().await;
    let first = host.machine(1, OnImageChange::Keep);
    let id = host.node.engine.create(&first).await.unwrap();
    host.node.engine.start(&id).await.unwrap();
    host.sh(&id, "echo mine > /mine");
    let plain = assigned("plain-0", 1, shell(IDLE));
    let sandbox =
        dwell_network::sandbox_path(&host.node.config.run_dir, &plain.instance.clone().into());
    symlink(host.sandbox.path(), sandbox).unwrap();
    let other = host.node.engine.create(&plain).await.unwrap();
    host.node.engine.start(&other).await.unwrap();
    host.image_of(&other);

    let mut second = host.machine(2, OnImageChange::Keep);
    second.template.image = "other".to_owned();
    let refused = host.node.engine.create(&second).await.unwrap_err();
    assert!(refused.is_permanent(), "{refused}");
    let said = refused.to_string();
    assert!(said.contains(&format!("was born from image {IMAGE}")), "{said}");
    assert!(said.contains("dwell rebuild dev-0"), "{said}");

    second = host.machine(2, OnImageChange::Rebuild);
    second.template.image = "other".to_owned();
    let id = host.replace(&id, &second).await;
    assert_eq!(
        host.sh(&id, "busybox cat /other; busybox test -e /mine || echo fresh"),
        "other\nfresh\n"
    );
}

#[tokio::test]
async fn a_machine_reboots_and_shuts_down_from_inside() {
    let host = Host::new().await;
    let id = host.node.engine.create(&host.machine(1, OnImageChange::Keep)).await.unwrap();
    for (command, code) in [("reboot", 129), ("poweroff", 130), ("halt", 130)] {
        host.node.engine.start(&id).await.unwrap();
        host.sh(&id, "busybox test $(busybox cat /proc/1/comm) != busybox");
        host.world.docker(&["exec", "-d", id.as_str(), "busybox", command, "-f"]);
        assert_eq!(host.node.engine.wait(&id).await.unwrap(), code, "{command}");
    }
}
