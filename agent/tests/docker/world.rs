//! A Docker daemon of the test's own, in network and mount namespaces that end with it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dwell_core::id::{Generation, Revision};
use dwell_core::instance::{Assigned, RunState};
use dwell_core::net::Mac;
use dwell_core::quantity::Millis;
use dwell_core::workload::Template;
use dwell_docker::{DockerConfig, DockerEngine, Runtime};
use dwell_engine::{Container, ContainerId, Engine as _, EngineError};
use tempfile::TempDir;

/// The image with nothing but busybox.
pub(crate) const IMAGE: &str = "busybox:test";
/// How long anything that should happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) engine: DockerEngine,
    pub(crate) directory: TempDir,
    daemon: Child,
}

impl World {
    /// A daemon that answers, knows [`IMAGE`] and no runtime of dwell's.
    pub(crate) async fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test runs a Docker daemon and needs root: run `cargo test` as root or with sudo -E"
        );
        let directory = TempDir::with_prefix("dwe").unwrap();
        let path = directory.path().to_owned();
        fs::write(path.join("daemon.json"), "{}").unwrap();
        let daemon = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "dockerd"])
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--log-level=warn"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .arg(option("--config-file", &path.join("daemon.json")))
            .arg(option("--data-root", &path.join("data")))
            .arg(option("--exec-root", &path.join("exec")))
            .arg(option("--pidfile", &path.join("pid")))
            .arg(format!("--host=unix://{}", path.join("socket").display()))
            .stdout(Stdio::null())
            .stderr(fs::File::create(path.join("log")).unwrap())
            .spawn()
            .expect(
                "dockerd and unshare have to be installed: apt-get install docker.io util-linux",
            );
        let engine = DockerEngine::new(config(&path, Runtime::Dwell));
        let world = Self { engine, directory, daemon };
        world.until("dockerd answers", async || world.engine.info().await.is_ok()).await;
        world.import_image();
        world
    }

    /// Registers a runtime of that name. It is runc itself: what the wrapper does beyond that is
    /// tested with the wrapper, and "the host" of this daemon is a namespace of its own.
    pub(crate) async fn register_runtime(&self) {
        let config = r#"{"runtimes": {"dwell": {"path": "runc"}}}"#;
        fs::write(self.directory.path().join("daemon.json"), config).unwrap();
        self.signal("HUP");
        self.until("the runtime is registered", async || {
            self.engine.info().await.is_ok_and(|report| report.info.ready)
        })
        .await;
    }

    pub(crate) fn signal(&self, signal: &str) {
        // What was spawned has become dockerd.
        let pid = self.daemon.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    pub(crate) async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !holds().await {
            let log = || fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}; {}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Makes a container, with a place where its sandbox would be.
    pub(crate) async fn create(&self, assigned: &Assigned) -> Result<ContainerId, EngineError> {
        let sandboxes = self.directory.path().join("run/netns");
        fs::create_dir_all(&sandboxes).unwrap();
        fs::write(sandboxes.join(assigned.instance.to_string()), "").unwrap();
        self.engine.create(assigned).await
    }

    /// Makes and starts a container that runs a shell script.
    pub(crate) async fn run(&self, name: &str, script: &str) -> ContainerId {
        let id = self.create(&assigned(name, 1, shell(script))).await.unwrap();
        self.engine.start(&id).await.unwrap();
        id
    }

    pub(crate) async fn inspect(&self, id: &ContainerId) -> Container {
        self.engine.inspect(id).await.unwrap()
    }

    /// The image is one static program and links to it.
    fn import_image(&self) {
        let busybox = "/bin/busybox";
        let tree = self.directory.path().join("tree");
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::create_dir_all(tree.join("etc/content")).unwrap();
        fs::write(tree.join("etc/content/file"), "of the image").unwrap();
        fs::copy(busybox, tree.join("bin/busybox"))
            .expect("busybox has to be installed: apt-get install busybox-static");
        for program in ["sh", "sleep", "cat", "stty", "echo", "hostname", "printf", "head"] {
            symlink("busybox", tree.join("bin").join(program)).unwrap();
        }
        let tar = Command::new("tar").arg("-C").arg(&tree).args(["-c", "."]).output().unwrap();
        let mut import = Command::new("docker")
            .arg(format!("--host=unix://{}", self.directory.path().join("socket").display()))
            .args(["import", "-", IMAGE])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        import.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
        assert!(import.wait().unwrap().success());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // On SIGTERM it ends its containers and its containerd.
        drop(Command::new("kill").arg(self.daemon.id().to_string()).status());
        let start = Instant::now();
        while self.daemon.try_wait().is_ok_and(|ended| ended.is_none()) {
            if start.elapsed() > PATIENCE {
                drop(self.daemon.kill());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn config(directory: &Path, runtime: Runtime) -> DockerConfig {
    DockerConfig {
        socket: directory.join("socket"),
        cluster: "test".to_owned(),
        data_dir: directory.join("lib"),
        run_dir: directory.join("run"),
        allow_binds: vec![PathBuf::from(directory).join("binds")],
        runtime,
        names: None,
    }
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

pub(crate) fn shell(script: &str) -> Template {
    let mut template = Template::of_image(IMAGE);
    template.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
    template
}

pub(crate) fn assigned(name: &str, generation: u64, template: Template) -> Assigned {
    let address = "10.80.0.1".parse().unwrap();
    Assigned {
        instance: name.parse().unwrap(),
        address,
        mac: Mac::of_address(address),
        generation: Generation(generation),
        run: RunState::Running,
        restarts_asked: 2,
        update_deadline: Millis::seconds(60),
        monitor: Millis::seconds(10),
        life: Revision(1),
        template,
        fallback: None,
        image_digest: None,
        fallback_image_digest: None,
        host_key: None,
    }
}
