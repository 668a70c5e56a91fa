//! A Docker daemon of the test's own, in network and mount namespaces that end with it, and containers to enter.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dwell_core::ssh::SshContainer;
use dwell_ssh::enter::{Enter, Exit, Request, Session, Work};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

/// The image with busybox and two users.
pub(crate) const IMAGE: &str = "busybox:test";
/// The image with one program and nothing else.
pub(crate) const SCRATCH: &str = "scratch:test";
/// How long anything that should happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) enter: Enter,
    pub(crate) directory: TempDir,
    daemon: Child,
}

/// What a process wrote and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) output: String,
    pub(crate) errors: String,
    pub(crate) exit: Exit,
}

impl World {
    /// A daemon that answers and knows the images.
    pub(crate) async fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test runs a Docker daemon and needs root: run `cargo test` as root or with sudo -E"
        );
        let directory = TempDir::with_prefix("dse-").unwrap();
        let path = directory.path().to_owned();
        fs::create_dir_all(path.join("run/bundles")).unwrap();
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
        let program = Path::new(env!("CARGO_BIN_EXE_dwell-ssh"));
        let enter = Enter::with_program(path.join("run"), program).unwrap();
        let world = Self { enter, directory, daemon };
        world.until("dockerd answers", || world.docker_output(&["version"]).is_ok()).await;
        world.import(IMAGE, |tree| {
            fs::create_dir_all(tree.join("bin")).unwrap();
            fs::copy("/bin/busybox", tree.join("bin/busybox"))
                .expect("busybox has to be installed: apt-get install busybox-static");
            let applets = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
            for applet in
                String::from_utf8(applets).unwrap().lines().filter(|name| *name != "busybox")
            {
                symlink("busybox", tree.join("bin").join(applet)).unwrap();
            }
            for directory in ["root", "tmp", "etc", "home/alice"] {
                fs::create_dir_all(tree.join(directory)).unwrap();
            }
            let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n\
                          locked:x:1001:1001::/:/bin/false\n";
            fs::write(tree.join("etc/passwd"), passwd).unwrap();
            fs::write(tree.join("etc/group"), "wheel:x:10:alice\n").unwrap();
        });
        world.import(SCRATCH, |tree| {
            fs::copy("/bin/busybox", tree.join("busybox")).unwrap();
        });
        world
    }

    /// Starts a container of [`IMAGE`] that does nothing; `options` are those of `docker run`.
    pub(crate) fn idle(&self, options: &[&str]) -> SshContainer {
        self.run(options, IMAGE, &["sleep", "100000"])
    }

    pub(crate) fn run(&self, options: &[&str], image: &str, command: &[&str]) -> SshContainer {
        let fixed = ["run", "--detach", "--network=none"];
        let id = self.docker(&[&fixed[..], options, &[image], command].concat());
        let pid = self.docker(&["inspect", "--format={{.State.Pid}}", &id]).parse().unwrap();
        // As dwell-oci does, which is not the runtime here.
        let tasks = "exec/containerd/daemon/io.containerd.runtime.v2.task/moby";
        let bundle = self.directory.path().join(tasks).join(&id);
        symlink(bundle, self.directory.path().join("run/bundles").join(&id)).unwrap();
        SshContainer { id, pid, start_ticks: start_ticks(pid) }
    }

    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        self.docker_output(arguments)
            .unwrap_or_else(|errors| panic!("docker {arguments:?}: {errors}"))
    }

    fn docker_output(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.client().args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn client(&self) -> Command {
        let mut client = Command::new("docker");
        client.arg(format!("--host=unix://{}", self.directory.path().join("socket").display()));
        client
    }

    /// Runs a command to its end.
    pub(crate) async fn outcome(
        &self,
        container: &SshContainer,
        login: &str,
        command: &str,
    ) -> Outcome {
        let session =
            self.enter.start(request(container, login, Work::Command(command.to_owned())));
        outcome(session.await.unwrap()).await
    }

    /// What a command wrote, which has to succeed and to be silent about errors.
    pub(crate) async fn output(
        &self,
        container: &SshContainer,
        login: &str,
        command: &str,
    ) -> String {
        let Outcome { output, errors, exit } = self.outcome(container, login, command).await;
        assert_eq!((exit, &*errors), (Exit::Code(0), ""), "{command}: {output}");
        output
    }

    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            let log = || fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}; {}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn import(&self, name: &str, fill: impl FnOnce(&Path)) {
        let tree = self.directory.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fill(&tree);
        let tar = Command::new("tar").arg("-C").arg(&tree).args(["-c", "."]).output().unwrap();
        let mut import = self
            .client()
            .args(["import", "-", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        import.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
        assert!(import.wait().unwrap().success());
        fs::remove_dir_all(tree).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // On SIGTERM it ends its containers and its containerd; idle ones heed no other than SIGKILL.
        if let Ok(ids) = self.docker_output(&["ps", "--all", "--quiet"]) {
            for id in ids.lines() {
                drop(self.docker_output(&["rm", "--force", id]));
            }
        }
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

pub(crate) fn request(container: &SshContainer, login: &str, work: Work) -> Request {
    Request {
        container: container.clone(),
        instance: "web-0".parse().unwrap(),
        login: login.to_owned(),
        work,
        environment: Vec::new(),
        terminal: None,
        agent_forwarding: false,
    }
}

/// Reads what a session writes until it has ended.
pub(crate) async fn outcome(session: Session) -> Outcome {
    let Session { input, mut output, errors, mut control, .. } = session;
    drop(input);
    let (mut written, mut complaints) = (Vec::new(), Vec::new());
    let read = async {
        output.read_to_end(&mut written).await.unwrap();
        if let Some(mut errors) = errors {
            errors.read_to_end(&mut complaints).await.unwrap();
        }
        control.wait().await
    };
    let exit = tokio::time::timeout(PATIENCE, read).await.expect("the process ends");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { output: text(written), errors: text(complaints), exit }
}

/// When a process started, as `/proc/PID/stat` tells it.
pub(crate) fn start_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap()
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}
