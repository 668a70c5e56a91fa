//! What is Docker's own beyond the contract: refusals, files, mounts, memory, and other clusters on one daemon.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::registry::RegistryLogins;
use dwell_core::workload::{Mount, MountSource, Resources, Template};
use dwell_docker::Runtime;
use dwell_docker::world::{IMAGE, World, shell};
use dwell_engine::fake::assigned;
use dwell_engine::{ContainerState, Engine as _, EngineError, LogOptions};

use crate::texts;

#[tokio::test]
async fn refusals() {
    let node = World::shared().await.node("refusals", Runtime::Dwell);
    let progress = tokio::sync::watch::Sender::default();
    // There is no network and so no registry; a reference that is none is refused without one.
    let pulled =
        node.engine.pull("no-such-image", &RegistryLogins::new(), &progress).await.unwrap_err();
    assert!(matches!(pulled, EngineError::PullFailed { permanent: false, .. }), "{pulled}");
    let pulled = node.engine.pull("UPPER:x", &RegistryLogins::new(), &progress).await.unwrap_err();
    assert!(pulled.is_permanent(), "{pulled}");

    let mut template = shell("true");
    template.entrypoint = vec!["/no/such/program".to_owned()];
    let id = node.create(&assigned("no-0", 1, template)).await.unwrap();
    let refused = node.engine.start(&id).await.unwrap_err();
    assert!(matches!(refused, EngineError::Refused { .. }), "{refused}");
    node.engine.remove(&id).await.unwrap();

    let id = node.create(&assigned("no-0", 1, shell("true"))).await.unwrap();
    fs::remove_file(node.config.run_dir.join("netns/no-0")).unwrap();
    let refused = node.engine.start(&id).await.unwrap_err();
    assert!(refused.to_string().contains("its sandbox"), "{refused}");
    assert_eq!(node.inspect(&id).await.state, ContainerState::Created);
    node.engine.remove(&id).await.unwrap();
}

#[tokio::test]
async fn identity_and_mounts() {
    let node = World::shared().await.node("identity_and_mounts", Runtime::Dwell);
    let binds = node.config.allowed.binds[0].clone();
    fs::create_dir_all(&binds).unwrap();
    fs::write(binds.join("file"), "of the node").unwrap();
    let mount =
        |source, target: &str| Mount { source, target: target.to_owned(), read_only: false };
    let mut template = shell(
        "cat /etc/content/file /bound/file; hostname; cat /etc/hosts; echo more > /etc/content/new",
    );
    template.environment.insert("A".to_owned(), "b".to_owned());
    template.mounts = vec![
        mount(MountSource::Volume("content".parse().unwrap()), "/etc/content"),
        mount(MountSource::Bind(binds.to_str().unwrap().to_owned()), "/bound"),
    ];
    let id = node.create(&assigned("db-0", 1, template.clone())).await.unwrap();
    node.engine.start(&id).await.unwrap();
    assert_eq!(node.engine.wait(&id).await, Ok(0));
    let output = node.engine.logs(&id, &LogOptions::default()).await.unwrap();
    let (output, errors) = texts(output).await;
    assert!(output.starts_with("of the imageof the nodedb-0\n127.0.0.1\tlocalhost\n"), "{output}");
    assert!(output.ends_with("10.80.0.1\tdb-0\n") && errors.is_empty(), "{output}{errors}");

    // Another container of the instance has the same volume, after the first one is gone.
    node.engine.remove(&id).await.unwrap();
    template.command = ["cat", "/etc/content/new"].map(str::to_owned).into();
    let id = node.create(&assigned("db-0", 2, template)).await.unwrap();
    node.engine.start(&id).await.unwrap();
    assert_eq!(node.engine.wait(&id).await, Ok(0));
    node.engine.remove(&id).await.unwrap();
}

#[tokio::test]
async fn what_an_image_declares_as_a_volume_outlives_each_container() {
    let world = World::shared().await;
    let node = world.node("image_volume", Runtime::Dwell);
    let id = node.create(&assigned("make-0", 1, shell("true"))).await.unwrap();
    world.docker(&["commit", "--change", "VOLUME /kept", id.as_str(), "with-volume"]);
    node.engine.remove(&id).await.unwrap();
    for (generation, script) in [(1, "echo mine > /kept/file"), (2, "cat /kept/file")] {
        let template = Template { image: "with-volume".to_owned(), ..shell(script) };
        let id = node.run(&assigned("db-0", generation, template)).await;
        assert_eq!(node.engine.wait(&id).await, Ok(0), "{script}");
        let output = node.engine.logs(&id, &LogOptions::default()).await.unwrap();
        let expected = if generation == 2 { "mine\n" } else { "" };
        assert_eq!(texts(output).await.0, expected);
        node.engine.remove(&id).await.unwrap();
    }
}

/// A daemon that was killed amid a start may have left processes that it knows nothing of.
#[tokio::test]
async fn a_container_is_made_ready_only_when_nothing_of_the_others_is_left() {
    let node = World::shared().await.node("left_over", Runtime::Dwell);
    let instance = |generation| assigned("pay-0", generation, shell("sleep 1000"));
    let (old, new) = (instance(1), instance(2));
    let (goes_back, failed) = (node.create(&old).await.unwrap(), node.create(&new).await.unwrap());
    let remains = [failed.clone()].into();
    // What runs by the daemon's own words is ended by nobody but the planner.
    node.engine.start(&failed).await.unwrap();
    let refused = node.engine.make_ready(&goes_back, &old, &remains).await.unwrap_err();
    assert!(refused.to_string().ends_with(&format!("container {failed} runs")), "{refused}");
    node.engine.stop(&failed, Duration::ZERO).await.unwrap();

    let mut shim = Command::new("sh");
    shim.arg0("/usr/bin/containerd-shim-runc-v2");
    let mut left =
        shim.args(["-c", "sleep 1000; :", "sh", "-id", failed.as_str()]).spawn().unwrap();
    node.engine.make_ready(&goes_back, &old, &remains).await.unwrap();
    assert_eq!(left.wait().unwrap().signal(), Some(9), "it was killed");
    for id in [goes_back, failed] {
        node.engine.remove(&id).await.unwrap();
    }
}

/// A process in the control group of a container, with the network of another one. Ends with this.
struct Inmate {
    process: Child,
    group: PathBuf,
}

impl Inmate {
    fn new(id: &str, network: Option<&Self>) -> Self {
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
        let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists()).unwrap();
        let group = root.join("dwell-tests").join(id);
        fs::create_dir_all(&group).unwrap();
        let mut command = match network {
            Some(other) => {
                let network = format!("--net=/proc/{}/ns/net", other.process.id());
                let mut enter = Command::new("nsenter");
                enter.arg(network);
                enter
            }
            None => {
                let mut leave = Command::new("unshare");
                leave.arg("--net");
                leave
            }
        };
        let process = command.args(["sleep", "1000"]).spawn().unwrap();
        fs::write(group.join("cgroup.procs"), process.id().to_string()).unwrap();
        // It has its network by then.
        let name = format!("/proc/{}/comm", process.id());
        let is_there = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n")
        });
        assert!(is_there, "it does not become what it is to be");
        Self { process, group }
    }

    fn runs(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Inmate {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        // It is empty a little later.
        let is_gone = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            fs::remove_dir(&self.group).is_ok()
        });
        assert!(is_gone || std::thread::panicking(), "{} stays", self.group.display());
        // The last one takes along what is around them all.
        self.group.parent().map(fs::remove_dir);
    }
}

/// A daemon with another store knows nothing of what runs: it is known by where it runs.
#[tokio::test]
async fn what_runs_in_a_sandbox_in_a_container_that_the_daemon_does_not_know_is_ended() {
    let world = World::shared().await;
    let node = world.node("unlisted", Runtime::Dwell);
    let (here, elsewhere) = ("web-0".parse().unwrap(), "web-1".parse().unwrap());
    let theirs = world.docker(&["create", IMAGE, "sleep", "1000"]);
    let ids = ["a", "b"].map(|digit| digit.repeat(64));
    let mut unlisted = Inmate::new(&ids[0], None);
    let mut known = Inmate::new(theirs.trim(), Some(&unlisted));
    let mut no_container = Inmate::new("sshd.service", Some(&unlisted));
    let mut in_another = Inmate::new(&ids[1], None);
    node.engine.end_unlisted(&here).await.unwrap();
    assert!(unlisted.runs(), "there is no sandbox in which it could be");
    let sandbox = dwell_network::sandbox_path(&node.config.run_dir, &here.clone().into());
    fs::create_dir_all(sandbox.parent().unwrap()).unwrap();
    symlink(format!("/proc/{}/ns/net", known.process.id()), &sandbox).unwrap();
    node.engine.end_unlisted(&elsewhere).await.unwrap();
    node.engine.end_unlisted(&here).await.unwrap();
    let left = [&mut unlisted, &mut known, &mut no_container, &mut in_another].map(Inmate::runs);
    assert_eq!(left, [false, true, true, true]);
    world.docker(&["rm", theirs.trim()]);
}

/// The kernel bounds the processes of an instance of which nobody has said how many it may have.
#[tokio::test]
async fn an_instance_that_declares_nothing_has_a_limit_of_processes() {
    let node = World::shared().await.node("pids", Runtime::Dwell);
    // Of control groups of version 2, or of version 1.
    let script = "cat /sys/fs/cgroup/pids.max || cat /sys/fs/cgroup/pids/pids.max";
    let plain = shell(script);
    let few = Template { pids: Some(100), ..shell(script) };
    for (name, template, expected) in [("plain-0", plain, "4096\n"), ("few-0", few, "100\n")] {
        let id = node.create(&assigned(name, 1, template)).await.unwrap();
        node.engine.start(&id).await.unwrap();
        assert_eq!(node.engine.wait(&id).await, Ok(0));
        let output = node.engine.logs(&id, &LogOptions::default()).await.unwrap();
        assert_eq!(texts(output).await.0, expected, "{name}");
        node.engine.remove(&id).await.unwrap();
    }
}

#[tokio::test]
async fn the_oom_killer_is_told_of() {
    let node = World::shared().await.node("oom", Runtime::Dwell);
    let half = Resources { cpu: Millicores(500), memory: Bytes::mebi(64) };
    // `tail` keeps the last line in memory, and this one has no end.
    let mut template = shell("head -c 200000000 /dev/zero | busybox tail -n 1 > /dev/null");
    template.resources = half;
    let id = node.create(&assigned("big-0", 1, template)).await.unwrap();
    node.engine.start(&id).await.unwrap();
    node.engine.wait(&id).await.unwrap();
    assert!(node.inspect(&id).await.details.unwrap().out_of_memory);
    node.engine.remove(&id).await.unwrap();
}

#[tokio::test]
async fn others_are_left_alone() {
    let node = World::shared().await.node("others_are_left_alone", Runtime::Dwell);
    let id = node.run(&assigned("mine-0", 1, shell("sleep 1000"))).await;
    let other = World::shared().await.node("other", Runtime::Dwell).engine;
    let not_found = EngineError::NotFound { id: id.to_string() };
    assert_eq!(other.list().await.unwrap(), []);
    assert_eq!(other.inspect(&id).await.unwrap_err(), not_found);
    assert_eq!(other.stop(&id, Duration::ZERO).await.unwrap_err(), not_found);
    other.remove(&id).await.unwrap();
    assert_eq!(node.inspect(&id).await.state, ContainerState::Running);
    node.engine.remove(&id).await.unwrap();
}

/// What is kept for a container goes with it, also if somebody else removes it, and whatever is left over is found.
#[tokio::test]
async fn leftovers() {
    let node = World::shared().await.node("leftovers", Runtime::Dwell);
    let engine = &node.engine;
    let (run, data) = (&node.config.run_dir, &node.config.data_dir);
    let kept = node.run(&assigned("kept-2", 1, shell("sleep 1000"))).await;
    let by_hand = node.run(&assigned("hand-1", 1, shell("sleep 1000"))).await;
    World::shared().await.docker(&["rm", "--force", by_hand.as_str()]);
    let gone = engine.inspect(&by_hand).await.unwrap_err();
    assert_eq!(gone, EngineError::NotFound { id: by_hand.to_string() });
    assert!(!run.join("containers").join(by_hand.as_str()).exists());
    assert!(!data.join("instances/hand-1").exists());
    assert_eq!(engine.leftovers().await.unwrap(), [].into());

    let planted = [
        run.join("containers/0123456789ab"),
        run.join("bundles/0123456789ab"),
        data.join("instances/ghost-0/g3"),
    ];
    for path in &planted {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
    }
    fs::write(&planted[0], "{}").unwrap();
    symlink("/nonexistent", &planted[1]).unwrap();
    fs::create_dir(&planted[2]).unwrap();
    assert_eq!(engine.leftovers().await.unwrap(), planted.clone().into());
    engine.sweep().await.unwrap();
    assert!(planted.iter().all(|path| fs::symlink_metadata(path).is_err()));
    assert!(run.join("containers").join(kept.as_str()).exists());
    assert!(data.join("instances/kept-2/g1/hosts").exists());
    engine.remove(&kept).await.unwrap();
    assert_eq!(fs::read_dir(run.join("containers")).unwrap().count(), 0);
}
