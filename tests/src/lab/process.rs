//! Long-running processes of a lab: started detached, marked, found again from any process.
//!
//! Every process carries the lab's mark in its environment, and so do its children (containerd, the
//! shims): that is how [`super::sweep`] finds what is the lab's and nothing else. The main process
//! of each role is remembered in a file with its start time and boot, so that a recycled pid is never
//! taken for it.
//!
//! ```text
//! absent ──start──> running ──signal, exit, crash──> gone (file stays, is not believed) ──start──> running
//! ```

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::{layout::Layout, wait::wait_until};

/// The environment variable that marks a lab's processes; its value is the lab's name.
pub(crate) const MARK: &str = "DWELL_LAB_MARK";

/// How long a process may take to be gone after a signal that ends it.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// One long-running process of a lab, whether it runs or not.
#[derive(Clone, Debug)]
pub struct Process {
    role: String,
    lab: String,
    netns: Option<String>,
    record: PathBuf,
    log: PathBuf,
}

/// Which process it is, beyond doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    pid: i32,
    start_ticks: u64,
    boot: String,
}

impl Process {
    /// The process that plays `role` ("dockerd", ...) in `dir`, in network namespace `netns`.
    pub(crate) fn new(layout: &Layout, dir: &Path, role: &str, netns: Option<String>) -> Self {
        Self {
            role: role.to_owned(),
            lab: layout.name().to_owned(),
            netns,
            record: dir.join(format!("{role}.process")),
            log: dir.join(format!("{role}.log")),
        }
    }

    /// Its pid, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(&self.record).ok()?;
        let identity: Identity = serde_json::from_str(&text).ok()?;
        (identify(identity.pid).as_ref() == Some(&identity)).then(|| Pid::from_raw(identity.pid))
    }

    /// Its resident memory, in MiB.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resident_mib(&self) -> Result<f64> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.role))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("it has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u32>().ok());
        kib.map(|kib| f64::from(kib) / 1024.0).context("the kernel does not tell its memory")
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// The file its output is appended to.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last `count` lines of its output.
    #[must_use]
    pub fn log_tail(&self, count: usize) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        // An engine's shims tell of every start, whatever the engine's own level.
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains(" level=info ")).collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Sends it a signal and does not wait for what comes of it.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.role))?;
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {}", self.role))
    }

    /// Sends it a signal that ends it, and waits until it is gone; nothing to do if it does not run.
    ///
    /// # Errors
    /// If it is still there after a minute.
    pub async fn stop(&self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        self.signal(signal)?;
        wait_until(&format!("the end of {}", self.role), STOP_LIMIT, async || {
            ensure!(!self.is_running(), "it runs");
            Ok(())
        })
        .await
    }

    /// Starts it, detached from this process, its output going to the log.
    pub(crate) async fn start(&self, program: &Path, args: &[&str]) -> Result<()> {
        self.start_with(None, program, args).await
    }

    /// The same, with the capabilities that this unit leaves a process, and no way to more.
    pub(crate) async fn start_as_unit(
        &self,
        unit: &str,
        program: &Path,
        args: &[&str],
    ) -> Result<()> {
        self.start_with(Some(bounding_set(unit)?), program, args).await
    }

    async fn start_with(
        &self,
        bounding_set: Option<String>,
        program: &Path,
        args: &[&str],
    ) -> Result<()> {
        if let Some(pid) = self.pid() {
            bail!("{} runs already, as process {pid}", self.role);
        }
        ensure!(program.exists(), "{} does not exist", program.display());
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot open {}", self.log.display()))?;
        // These tools replace themselves, so that the child's pid is the program's.
        let mut command = Command::new("setsid");
        if let Some(netns) = &self.netns {
            command.arg("nsenter").arg(format!("--net=/run/netns/{netns}")).arg("--");
        }
        if let Some(bounding_set) = bounding_set {
            command.args(["setpriv", "--no-new-privs", "--bounding-set", &bounding_set, "--"]);
        }
        let mut child = command
            .arg(program)
            .args(args)
            .current_dir("/")
            .env(MARK, &self.lab)
            // A Swarm would ask a registry for every image first, and there is none to answer.
            .env("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.role))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let identity = pid
            .and_then(identify)
            .with_context(|| format!("{} ended at once: {}", self.role, self.log_tail(5)))?;
        fs::write(&self.record, serde_json::to_vec(&identity)?)
            .with_context(|| format!("cannot write {}", self.record.display()))?;
        tokio::spawn(async move {
            // Reaped when it ends, or by init if this process ends first.
            let _status = child.wait().await;
        });
        Ok(())
    }

    /// Waits until `look` is content, and gives up early if the process ends.
    pub(crate) async fn ready<T>(
        &self,
        limit: Duration,
        look: impl AsyncFn() -> Result<T>,
    ) -> Result<T> {
        let ended = || format!("{} ended; its last words:\n{}", self.role, self.log_tail(15));
        let looked = wait_until(&format!("{} to be ready", self.role), limit, async || {
            // An end is a final answer: no later look will find it ready.
            if self.is_running() { look().await.map(Some) } else { Ok(None) }
        })
        .await?;
        looked.with_context(ended)
    }
}

/// What a unit says of capabilities, in the words of `setpriv`.
fn bounding_set(unit: &str) -> Result<String> {
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let capabilities = line.context("the unit does not bound capabilities")?.split_whitespace();
    let capabilities = capabilities.map(|one| one.trim_start_matches("CAP_").to_lowercase());
    Ok(capabilities.fold("-all".to_owned(), |set, one| format!("{set},+{one}")))
}

/// Who process `pid` is, unless it does not exist or is only waiting to be reaped.
fn identify(pid: i32) -> Option<Identity> {
    let stat = Stat::read(pid)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(Identity { pid, start_ticks: stat.start_ticks, boot: boot.trim().to_owned() })
}

/// What `/proc/PID/stat` says of a process that is alive.
pub(crate) struct Stat {
    /// Its parent.
    pub(crate) parent: i32,
    start_ticks: u64,
}

impl Stat {
    /// Reads it; `None` if there is no such process or it is a zombie.
    pub(crate) fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(line: &str) -> Option<Self> {
        // The second field is the program's name in parentheses and may contain anything.
        let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        let threads: u32 = fields.nth(15)?.parse().ok()?;
        let start_ticks = fields.nth(1)?.parse().ok()?;
        // A killed process holds its files and locks until the last of its threads has ended.
        let alive = !ended || threads > 1;
        alive.then_some(Self { parent, start_ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1234 99 1";

    #[test]
    fn reads_parent_and_start_time_behind_an_odd_name() {
        let stat = Stat::parse(LINE).unwrap();
        assert_eq!((stat.parent, stat.start_ticks), (7, 1234));
    }

    #[test]
    fn a_zombie_is_not_alive_unless_a_thread_of_it_is() {
        let zombie = LINE.replace(" S ", " Z ");
        assert!(Stat::parse(&zombie).is_none());
        assert!(Stat::parse(&zombie.replace(" 20 0 1 0 1234", " 20 0 3 0 1234")).is_some());
    }

    #[test]
    fn a_recycled_pid_is_not_taken_for_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new("unit", 0).unwrap();
        let process = Process::new(&layout, dir.path(), "other", None);
        let me = identify(i32::try_from(std::process::id()).unwrap()).unwrap();
        for (start_ticks, boot, known) in [
            (me.start_ticks, me.boot.clone(), true),
            (me.start_ticks + 1, me.boot.clone(), false),
            (me.start_ticks, "another".to_owned(), false),
        ] {
            let record = Identity { start_ticks, boot, ..me.clone() };
            fs::write(&process.record, serde_json::to_vec(&record).unwrap()).unwrap();
            assert_eq!(process.is_running(), known);
        }
    }
}
