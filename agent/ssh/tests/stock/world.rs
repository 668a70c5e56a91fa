//! Two network namespaces joined by a cable, one with clients in it and one that is an instance's sandbox, and
//! a `dwell-ssh` that serves it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dwell_core::ssh::{HostKey, SshContainer, SshEvent, SshInstance, SshTrust};
use nix::sched::{CloneFlags, setns};

/// The instance's address, and its clients'.
pub(crate) const INSTANCE: &str = "10.213.0.2";
pub(crate) const CLIENT: &str = "10.213.0.1";
/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

static WORLDS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    name: String,
    server: Option<Child>,
    pub(crate) events: Arc<Mutex<Vec<SshEvent>>>,
}

impl World {
    /// A world whose instance has the key `owner` and a host key certified by `host_ca`, listening.
    pub(crate) fn new() -> Self {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let name = format!("dsh-{}-{number}", std::process::id());
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self { dir, name, server: None, events: Arc::default() };
        let (clients, sandbox) = (world.netns("c"), world.netns("i"));
        ip(&["netns", "add", &clients]);
        ip(&["netns", "add", &sandbox]);
        ip(&[
            "-n", &clients, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns",
            &sandbox,
        ]);
        for (netns, address) in [(&clients, CLIENT), (&sandbox, INSTANCE)] {
            ip(&["-n", netns, "address", "add", &format!("{address}/24"), "dev", "eth0"]);
            ip(&["-n", netns, "link", "set", "eth0", "up"]);
            ip(&["-n", netns, "link", "set", "lo", "up"]);
        }
        std::fs::create_dir_all(world.path("run/ssh/instances")).unwrap();
        world.key("host", &[]);
        world.key("host_ca", &[]);
        world.key("owner", &[]);
        world.certify("host_ca", "host", &["-h", "-n", "web-0.dwell"]);
        world.listen_for_events();
        world.trust(&SshTrust { zone: "dwell".to_owned(), ..SshTrust::default() });
        world.instance(|_| {});
        world.start();
        world.wait_for_port();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn netns(&self, which: &str) -> String {
        format!("{}-{which}", self.name)
    }

    /// Makes a key; `options` are ssh-keygen's.
    pub(crate) fn key(&self, name: &str, options: &[&str]) {
        let options = if options.is_empty() { &["-t", "ed25519"] } else { options };
        let path = self.path(name);
        succeed(
            Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-C", name, "-f"])
                .arg(path)
                .args(options),
        );
    }

    /// Certifies a key.
    pub(crate) fn certify(&self, authority: &str, name: &str, options: &[&str]) {
        let mut command = Command::new("ssh-keygen");
        command.arg("-q").arg("-s").arg(self.path(authority)).args(["-I", "test"]).args(options);
        succeed(command.arg(self.path(&format!("{name}.pub"))));
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap().trim().to_owned()
    }

    /// Writes whom to trust, as the agent does.
    pub(crate) fn trust(&self, trust: &SshTrust) {
        self.put("run/ssh/trust.json", &serde_json::to_vec(trust).unwrap());
    }

    /// Writes the instance, changed by `change`, as the agent does.
    pub(crate) fn instance(&self, change: impl FnOnce(&mut SshInstance)) {
        let mut instance = SshInstance {
            instance: "web-0".parse().unwrap(),
            address: INSTANCE.parse().unwrap(),
            ipv6: None,
            netns: format!("/run/netns/{}", self.netns("i")),
            host_key: HostKey {
                private_key: self.read("host") + "\n",
                certificate: self.read("host-cert.pub"),
            },
            authorized_keys: vec![self.read("owner.pub")],
            key_sets: None,
            users: None,
            login_as: None,
            account_keys: false,
            container: None,
        };
        change(&mut instance);
        self.put("run/ssh/instances/web-0.json", &serde_json::to_vec(&instance).unwrap());
    }

    /// Starts a process in namespaces of its own on the host's files, which does for a container, and says that
    /// it is the instance's.
    pub(crate) fn contain(&self) -> Container {
        self.contain_after("true")
    }

    /// The same, which runs `preparation` first, a command of the shell; what it mounts nobody else sees.
    pub(crate) fn contain_after(&self, preparation: &str) -> Container {
        let bundle = self.path("bundle");
        std::fs::create_dir_all(&bundle).unwrap();
        let capabilities =
            ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"];
        let config = serde_json::json!({
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "env": ["PATH=/usr/bin:/bin", "FROM_IMAGE=yes"],
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "linux": {},
        });
        std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        std::fs::create_dir_all(self.path("run/bundles")).unwrap();
        drop(std::os::unix::fs::symlink(bundle, self.path("run/bundles/abc")));
        let mut command = self.within("i", "unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "sh", "-c"]);
        command.arg(format!("{preparation} && exec sleep inf"));
        let process = Background::start(&mut command);
        let pid: u32 = eventually("the container's process is there", || {
            let unshare = process.0.id();
            let children = format!("/proc/{unshare}/task/{unshare}/children");
            let pid = std::fs::read_to_string(children).unwrap().trim().parse().ok()?;
            let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            (command.trim() == "sleep").then_some(pid)
        });
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start_ticks =
            stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
        let container = SshContainer { id: "abc".to_owned(), pid, start_ticks };
        self.instance(|instance| instance.container = Some(container.clone()));
        eventually("it is known", || {
            run(self.ssh("owner").args([INSTANCE, "true"])).status.success().then_some(())
        });
        Container { _process: process, facts: container }
    }

    pub(crate) fn forget_instance(&self) {
        std::fs::remove_file(self.path("run/ssh/instances/web-0.json")).unwrap();
    }

    fn put(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        let beside = path.with_extension("new");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    fn start(&mut self) {
        let log = File::create(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dwell-ssh"));
        command.args(["--log", "info,dwell_ssh=debug", "--run-dir"]).arg(self.path("run"));
        self.server = Some(command.stdin(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Sends SIGTERM to the server, and waits for its end.
    pub(crate) fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        succeed(Command::new("kill").args(["-TERM", &server.id().to_string()]));
        eventually("the server ends", || server.try_wait().unwrap());
    }

    /// Waits until somebody listens on the instance's port 22.
    pub(crate) fn wait_for_port(&self) {
        eventually("port 22 is listened on", || self.connect("c", (INSTANCE, 22)).ok());
    }

    /// Calls `make` inside the clients' (`c`) or the instance's (`i`) namespace; sockets made there belong to it.
    pub(crate) fn inside<T: Send>(&self, which: &str, make: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(format!("/run/netns/{}", self.netns(which))).unwrap();
        let inside = || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            make()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// Gives a namespace one more address.
    pub(crate) fn add_address(&self, which: &str, address: &str) {
        ip(&["-n", &self.netns(which), "address", "add", address, "dev", "eth0"]);
    }

    /// A connection from inside a namespace.
    pub(crate) fn connect(&self, which: &str, to: (&str, u16)) -> io::Result<TcpStream> {
        self.inside(which, || TcpStream::connect(to))
    }

    /// Listens inside a namespace.
    pub(crate) fn listen(&self, which: &str, at: (&str, u16)) -> io::Result<TcpListener> {
        self.inside(which, || TcpListener::bind(at))
    }

    fn listen_for_events(&self) {
        let listener = UnixListener::bind(self.path("run/ssh/events.sock")).unwrap();
        let events = Arc::clone(&self.events);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                for line in BufReader::new(stream.unwrap()).lines() {
                    let Ok(line) = line else { break };
                    events.lock().unwrap().push(serde_json::from_str(&line).unwrap());
                }
            }
        });
    }

    /// The server's memory.
    pub(crate) fn resident_kib(&self) -> u64 {
        let pid = self.server.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// A program inside a namespace.
    pub(crate) fn within(&self, which: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns(which))).arg("--").arg(program);
        command.current_dir(self.dir.path());
        command
    }

    /// OpenSSH's client with the key `key`, which believes any host; more options and words may follow.
    pub(crate) fn ssh(&self, key: &str) -> Command {
        let mut command = self.ssh_with_input(key);
        command.arg("-n");
        command
    }

    /// The same with an input.
    pub(crate) fn ssh_with_input(&self, key: &str) -> Command {
        let mut command = self.within("c", "ssh");
        command.args(["-F", "none", "-i"]).arg(self.path(key));
        for option in [
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
            "ConnectTimeout=10",
        ] {
            command.args(["-o", option]);
        }
        command
    }

    /// Whether one gets in as root: `ssh` with `options` is told then that no container runs.
    pub(crate) fn lets_in(&self, key: &str, options: &[&str]) -> bool {
        self.lets_in_as("root", key, options)
    }

    /// Whether one gets in under a name.
    pub(crate) fn lets_in_as(&self, login: &str, key: &str, options: &[&str]) -> bool {
        let output = run(self.ssh(key).args(options).args(["-l", login, INSTANCE, "true"]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(1) if said.contains("web-0 runs no container at the moment") => true,
            Some(255) => false,
            code => panic!("{code:?} {said}\n{}", self.read("log")),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            drop(server.kill());
            drop(server.wait());
        }
        if std::thread::panicking() {
            eprintln!("--- log of dwell-ssh\n{}", self.read("log"));
        }
        for which in ["c", "i"] {
            drop(Command::new("ip").args(["netns", "del", &self.netns(which)]).status());
        }
    }
}

/// What does for a container; it ends with its owner.
pub(crate) struct Container {
    _process: Background,
    pub(crate) facts: SshContainer,
}

/// A process that ends with its owner.
pub(crate) struct Background(pub(crate) Child);

impl Background {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    /// The first line that it says on its standard error containing `text`.
    pub(crate) fn said(&mut self, text: &str) -> String {
        let lines = BufReader::new(self.0.stderr.take().unwrap()).lines();
        lines.map(Result::unwrap).find(|line| line.contains(text)).expect(text)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a command to its end, within [`PATIENCE`].
pub(crate) fn run(command: &mut Command) -> Output {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let errors = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{command:?} takes too long");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: reading.join().unwrap(), stderr: errors.join().unwrap() }
}

fn succeed(command: &mut Command) {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip(words: &[&str]) {
    succeed(Command::new("ip").args(words));
}

/// Looks until there is something, within [`PATIENCE`].
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// For messages.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
