//! A virtual machine: its power, and commands on it over SSH.
//!
//! ```text
//! off ──power_on──> booting ──wait_up──> up ──reboot──> booting
//!  └──────────────────cut_power───────────┘
//! ```
//!
//! Its QEMU runs in the switch's network namespace and is a [`Process`] of the lab: whoever brings the lab down finds
//! it. Who the guest is comes from outside: name and address by the kernel's command line, the key that root is let in
//! by as a credential for systemd.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{accelerator::Accelerator, image::BootImage};
use crate::lab::{
    Layout, Output, Process,
    command::{command, finish_within, run},
    network, prerequisites, wait_until,
};

/// How long a guest may take to boot: an emulated one on a busy machine takes very many minutes.
const BOOT_LIMIT: Duration = Duration::from_secs(60 * 60);
/// How long one command may take there.
const COMMAND_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Its memory, in MiB.
const MEMORY_MIB: &str = "2048";
const PROCESSORS: &str = "2";

/// A virtual machine of the lab.
#[derive(Debug)]
pub(super) struct Guest {
    layout: Layout,
    number: usize,
    image: BootImage,
    accelerator: Accelerator,
    key: PathBuf,
    qemu: Process,
    connection: Process,
}

impl Guest {
    /// Makes guest `number` with a disk of its own and plugs it in; it is off.
    pub(super) async fn make(
        layout: &Layout,
        number: usize,
        image: &BootImage,
        accelerator: Accelerator,
        key: &Path,
    ) -> Result<Self> {
        let guest = Self::at(layout, number, image, accelerator, key);
        let dir = layout.host_dir(number);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let from = image.disk.display().to_string();
        let to = dir.join("disk").display().to_string();
        run("cp", &["--sparse=always", "--reflink=auto", &from, &to]).await?.ok()?;
        network::add_tap(layout, number).await?;
        Ok(guest)
    }

    /// Guest `number`, which [`Guest::make`] has made, perhaps in another process.
    pub(super) fn at(
        layout: &Layout,
        number: usize,
        image: &BootImage,
        accelerator: Accelerator,
        key: &Path,
    ) -> Self {
        let dir = layout.host_dir(number);
        Self {
            layout: layout.clone(),
            number,
            image: image.clone(),
            accelerator,
            key: key.to_owned(),
            qemu: Process::new(layout, &dir, "qemu", Some(layout.switch_netns())),
            connection: Process::new(layout, &dir, "connection", None),
        }
    }

    /// Its name, which is its node's, too.
    pub(super) fn name(&self) -> String {
        format!("h{}", self.number)
    }

    /// Its address in the lab's network.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.layout.host_address(self.number)
    }

    /// What its kernel and its units have said since it was made.
    pub(super) fn console(&self) -> PathBuf {
        self.layout.host_dir(self.number).join("console.log")
    }

    /// Switches it on.
    ///
    /// # Errors
    /// If QEMU does not start.
    pub(super) async fn power_on(&self) -> Result<()> {
        let dir = self.layout.host_dir(self.number);
        let port = self.name();
        let public = fs::read_to_string(self.key.with_extension("pub"))?;
        let (machine, address) = (self.layout.machine_address(), self.address());
        let append = format!(
            "root=/dev/vda rw console=ttyS0 net.ifnames=0 systemd.hostname={port} \
             ip={address}::{machine}:255.255.255.0:{port}:eth0:off panic=-1 loglevel=4 \
             mitigations=off audit=1 audit_backlog_limit=8192 SYSTEMD_LOG_SECCOMP=1 \
             \"systemd.set_credential=ssh.authorized_keys.root:{}\"",
            public.trim()
        );
        // What the guest has written survives the end of QEMU in this machine's memory, whose disk need not hurry.
        let drive =
            format!("file={},if=virtio,format=raw,cache=unsafe", dir.join("disk").display());
        let console = format!("file:{}", self.console().display());
        let network = format!("tap,id=net,ifname={port},script=no,downscript=no");
        let card = format!("virtio-net-pci,netdev=net,mac=52:54:00:00:00:{:02x}", self.number);
        let kernel = self.image.kernel.to_string_lossy();
        let initrd = self.image.initrd.to_string_lossy();
        let args = [
            &["-accel", self.accelerator.name(), "-cpu", "max"][..],
            &["-smp", PROCESSORS, "-m", MEMORY_MIB, "-display", "none", "-monitor", "none"],
            &["-kernel", &kernel, "-initrd", &initrd],
            &["-append", &append, "-drive", &drive, "-serial", &console],
            &["-netdev", &network, "-device", &card, "-device", "virtio-rng-pci"],
        ]
        .concat();
        self.qemu.start(&prerequisites::tool("qemu-system-x86_64")?, &args).await
    }

    /// Cuts its power: what it had not written is lost.
    ///
    /// # Errors
    /// If QEMU does not end.
    pub(super) async fn cut_power(&self) -> Result<()> {
        self.connection.stop(Signal::SIGTERM).await?;
        self.qemu.stop(Signal::SIGKILL).await
    }

    /// Has it reboot in good order, and waits until it is up again.
    ///
    /// # Errors
    /// If it is not in time.
    pub(super) async fn reboot(&self) -> Result<Duration> {
        let before = self.boot().await?;
        // The answer may get lost.
        let _asked = self.run("systemctl --no-block reboot").await;
        self.wait_rebooted(&before).await
    }

    /// Waits until it is up in another boot than `before`, which somebody else has it leave; how long that took.
    ///
    /// # Errors
    /// If it is not in time, or QEMU ends.
    pub(super) async fn wait_rebooted(&self, before: &str) -> Result<Duration> {
        self.connection.stop(Signal::SIGTERM).await?;
        self.wait_boot(before).await
    }

    /// Waits until it is up; how long that took.
    ///
    /// # Errors
    /// If it is not in time, or QEMU ends.
    pub(super) async fn wait_up(&self) -> Result<Duration> {
        self.wait_boot("").await
    }

    async fn wait_boot(&self, before: &str) -> Result<Duration> {
        let start = Instant::now();
        let up = self.qemu.ready(BOOT_LIMIT, async || {
            let boot = self.boot().await?;
            ensure!(boot != before, "it has not gone down yet");
            let state = self.run("systemctl is-system-running").await?.stdout;
            let state = state.trim();
            ensure!(state == "running" || state == "degraded", "systemd says {state}");
            Ok(())
        });
        up.await.with_context(|| {
            let tail = self.console_tail();
            format!("{} does not boot; its console ends so:\n{tail}", self.name())
        })?;
        self.connect().await?;
        Ok(start.elapsed())
    }

    fn console_tail(&self) -> String {
        let text = fs::read(self.console()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Which boot it is in.
    ///
    /// # Errors
    /// If it does not say.
    pub(super) async fn boot(&self) -> Result<String> {
        self.sh("cat /proc/sys/kernel/random/boot_id").await
    }

    /// Runs a shell command as root; a failing exit status is no error here.
    ///
    /// # Errors
    /// If the client cannot be started, or the command does not end in time.
    pub(super) async fn run(&self, script: &str) -> Result<Output> {
        self.feed(script, "").await
    }

    /// As [`Guest::run`], with `input` on the command's standard input.
    ///
    /// # Errors
    /// As [`Guest::run`].
    pub(super) async fn feed(&self, script: &str, input: &str) -> Result<Output> {
        let mut words = self.options();
        words.extend([format!("root@{}", self.address()), script.to_owned()]);
        finish_within(COMMAND_LIMIT, command("ssh".as_ref(), &words), input).await
    }

    /// What a shell command prints, without the last line end.
    ///
    /// # Errors
    /// If it fails or cannot be run.
    pub(super) async fn sh(&self, script: &str) -> Result<String> {
        let said = self.run(script).await?.ok().with_context(|| format!("on {}", self.name()))?;
        Ok(said.trim_end().to_owned())
    }

    /// Looks again and again until a shell command succeeds; what it printed.
    ///
    /// # Errors
    /// If it does not within `limit`; the message has `what` was waited for and what it said last.
    pub(super) async fn until(&self, what: &str, limit: Duration, script: &str) -> Result<String> {
        wait_until(what, limit, async || self.sh(script).await).await
    }

    /// Writes a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) async fn write(&self, path: &str, text: &str) -> Result<()> {
        self.feed(&format!("cat > '{path}'"), text).await?.ok()?;
        Ok(())
    }

    /// Copies files of this machine into a directory there.
    ///
    /// # Errors
    /// If one cannot be copied.
    pub(super) async fn copy(&self, files: &[PathBuf], directory: &str) -> Result<()> {
        let mut words = self.options();
        words.extend(files.iter().map(|file| file.display().to_string()));
        words.push(format!("root@{}:{directory}/", self.address()));
        finish_within(COMMAND_LIMIT, command("scp".as_ref(), &words), "").await?.ok()?;
        Ok(())
    }

    /// Keeps one connection open for all commands: an emulated processor takes seconds to make one.
    pub(super) async fn connect(&self) -> Result<()> {
        if self.connection.is_running() {
            return Ok(());
        }
        let socket = self.socket();
        let mut words = self.options();
        words.extend(["-M", "-N", "-o", "ControlPersist=no"].map(str::to_owned));
        words.push(format!("root@{}", self.address()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.connection.start(&prerequisites::tool("ssh")?, &words).await?;
        let limit = Duration::from_secs(120);
        self.connection
            .ready(limit, async || {
                ensure!(socket.exists(), "it is not connected yet");
                Ok(())
            })
            .await
    }

    fn socket(&self) -> PathBuf {
        self.layout.host_dir(self.number).join("ssh")
    }

    fn options(&self) -> Vec<String> {
        [
            "-F",
            "none",
            "-i",
            &self.key.to_string_lossy(),
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=30",
            "-o",
            "ServerAliveInterval=30",
            "-o",
            "ServerAliveCountMax=6",
            "-o",
            &format!("ControlPath={}", self.socket().display()),
        ]
        .map(str::to_owned)
        .to_vec()
    }
}
