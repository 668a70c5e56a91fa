//! A Docker daemon of a test's own, in network and mount namespaces that end with it.
//!
//! A shell holds it on a leash: when the test process drops its end of the shell's input, or ends in whatever way, the
//! shell ends the daemon and removes its directory. So tests of one program can share a daemon that nobody has to
//! put away ([`World::shared`]). Each uses a [`Node`] of its own: an engine with a cluster and directories that
//! no other test has.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "it is for tests, and a test that cannot go on is to fail on the spot"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dwell_core::id::InstanceName;
use dwell_core::instance::Assigned;
use dwell_core::workload::Template;
use dwell_engine::{Container, ContainerId, Engine as _, EngineError};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{DockerConfig, DockerEngine, Runtime};

/// The image with nothing but busybox.
pub const IMAGE: &str = "busybox:test";
/// How long anything that should happen may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a command until the end of its own input, and removes the directory that is its first argument.
const LEASH: &str = r#"
    directory=$1; shift
    "$@" > /dev/null 2> "$directory/log" < /dev/null & daemon=$!
    echo $daemon > "$directory/daemon"
    while read -r _; do :; done
    kill -s TERM $daemon; kill -s CONT $daemon; wait $daemon
    rm -rf "$directory"
"#;

/// A daemon with [`IMAGE`].
pub struct World {
    directory: PathBuf,
    leash: Child,
}

/// A node of a cluster of its own on a daemon.
pub struct Node {
    /// Its engine.
    pub engine: DockerEngine,
    /// What it was made with.
    pub config: DockerConfig,
}

impl World {
    /// A daemon that answers, knows [`IMAGE`] and no runtime of dwell's.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test runs a Docker daemon and needs root: run `cargo test` as root or with sudo -E"
        );
        let directory = TempDir::with_prefix("dwe").unwrap().keep();
        let option = |name: &str, file: &str| format!("{name}={}", directory.join(file).display());
        fs::write(directory.join("daemon.json"), "{}").unwrap();
        let leash = Command::new("sh")
            .args(["-c", LEASH, "leash"])
            .arg(&directory)
            .args(["unshare", "--net", "--mount", "--propagation", "private", "dockerd"])
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--log-level=warn"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .arg(option("--config-file", "daemon.json"))
            .arg(option("--data-root", "data"))
            .arg(option("--exec-root", "exec"))
            .arg(option("--pidfile", "pid"))
            .arg(format!("--host=unix://{}", directory.join("socket").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Whoever interrupts the test does not interrupt it.
            .process_group(0)
            .spawn()
            .expect(
                "dockerd and unshare have to be installed: apt-get install docker.io util-linux",
            );
        let world = Self { directory, leash };
        let engine = world.node("unused", Runtime::Dwell).engine;
        world.until("dockerd answers", async || engine.info().await.is_ok()).await;
        world.import_image();
        world
    }

    /// The daemon of all tests of this program, with the runtime.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<World> = OnceCell::const_new();
        let make = async || {
            let world = Self::new().await;
            world.register_runtime().await;
            world
        };
        SHARED.get_or_init(make).await
    }

    /// A node of the cluster of this name.
    #[must_use]
    pub fn node(&self, cluster: &str, runtime: Runtime) -> Node {
        let own = self.directory.join(cluster);
        let config = DockerConfig {
            socket: self.directory.join("socket"),
            cluster: cluster.to_owned(),
            data_dir: own.join("lib"),
            run_dir: own.join("run"),
            allowed: crate::Allowed { binds: vec![own.join("binds")], ..crate::Allowed::default() },
            runtime,
            registries: crate::credentials::Registries::default(),
            names: None,
        };
        Node { engine: DockerEngine::new(config.clone()), config }
    }

    /// Its directory, which goes with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Registers a runtime of that name. It is runc itself: what the wrapper does beyond that is
    /// tested with the wrapper, and "the host" of this daemon is a namespace of its own.
    ///
    /// # Panics
    /// If the daemon does not take it.
    pub async fn register_runtime(&self) {
        self.register(r#"{"path": "runc"}"#).await;
    }

    /// Registers the wrapper itself. It is told by one directory of sandboxes and mounts, that of one cluster.
    ///
    /// # Panics
    /// If the daemon does not take it.
    pub async fn register_wrapper(&self, program: &Path, cluster: &str) {
        let state = self.node(cluster, Runtime::Dwell).config.run_dir;
        let setting = format!("--dwell-state-dir={}", state.display());
        self.register(&format!(r#"{{"path": {program:?}, "runtimeArgs": [{setting:?}]}}"#)).await;
    }

    async fn register(&self, runtime: &str) {
        let config = format!(r#"{{"runtimes": {{"dwell": {runtime}}}}}"#);
        fs::write(self.directory.join("daemon.json"), config).unwrap();
        self.signal("HUP");
        let engine = self.node("unused", Runtime::Dwell).engine;
        self.until("the runtime is registered", async || {
            engine.info().await.is_ok_and(|report| report.info.ready)
        })
        .await;
    }

    /// Sends the daemon a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: &str) {
        // What was started has become dockerd.
        let pid = fs::read_to_string(self.directory.join("daemon")).unwrap();
        let sent = Command::new("kill").args(["-s", signal, pid.trim()]).status().unwrap();
        assert!(sent.success());
    }

    /// Runs `docker` with the daemon; what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn docker(&self, args: &[&str]) -> String {
        let host = format!("--host=unix://{}", self.directory.join("socket").display());
        let output = Command::new("docker").arg(host).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `docker` with the daemon, which is to refuse; what it said.
    ///
    /// # Panics
    /// If it succeeds.
    #[must_use]
    pub fn docker_fails(&self, args: &[&str]) -> String {
        let host = format!("--host=unix://{}", self.directory.join("socket").display());
        let output = Command::new("docker").arg(host).args(args).output().unwrap();
        assert!(!output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs `docker` with the daemon; whether it succeeded.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn try_docker(&self, args: &[&str]) -> bool {
        let host = format!("--host=unix://{}", self.directory.join("socket").display());
        Command::new("docker").arg(host).args(args).output().unwrap().status.success()
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// If it is not within [`PATIENCE`].
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !holds().await {
            let log = || fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}; {}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The image is one static program and links to it.
    fn import_image(&self) {
        let busybox = "/bin/busybox";
        let tree = self.directory.join("tree");
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
            .arg(format!("--host=unix://{}", self.directory.join("socket").display()))
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
        drop(self.leash.stdin.take());
        // It has removed everything by then.
        drop(self.leash.wait());
    }
}

impl Node {
    /// Makes a place where the sandbox of an instance would be.
    ///
    /// # Panics
    /// If that cannot be made.
    pub fn make_sandbox(&self, instance: &InstanceName) {
        let path = dwell_network::sandbox_path(&self.config.run_dir, &instance.clone().into());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    /// Makes a container, with a place where its sandbox would be.
    ///
    /// # Errors
    /// As [`dwell_engine::Engine::create`].
    pub async fn create(&self, assigned: &Assigned) -> Result<ContainerId, EngineError> {
        self.make_sandbox(&assigned.instance);
        self.engine.create(assigned).await
    }

    /// Makes and starts a container.
    ///
    /// # Panics
    /// If it cannot.
    pub async fn run(&self, assigned: &Assigned) -> ContainerId {
        let id = self.create(assigned).await.unwrap();
        self.engine.start(&id).await.unwrap();
        id
    }

    /// A closer look at a container.
    ///
    /// # Panics
    /// If there is none.
    pub async fn inspect(&self, id: &ContainerId) -> Container {
        self.engine.inspect(id).await.unwrap()
    }
}

/// What runs a shell script.
#[must_use]
pub fn shell(script: &str) -> Template {
    let mut template = Template::of_image(IMAGE);
    template.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
    template
}
