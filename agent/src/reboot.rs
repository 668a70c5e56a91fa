//! Reboots of the host that the controller orders.
//!
//! The command is `reboot_command` of the configuration; without one nothing reboots the host, and the controller is told so
//! when the stream begins. An order names the history of the controller that it is of, its number in that, and the boot that is
//! to end. It is noted in the data directory, `reboot.json`, before the command is run: what was noted is never begun again, in
//! whatever boot, so that one order makes one reboot at most. An order of an earlier number is as good as done.
//!
//! The task owns the note. Orders that come again while one is under way are the same order, and do nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dwell_core::instance::{MESSAGE_MAX, sanitize};
use dwell_core::session::{RebootFailed, RebootOrder};
use dwell_daemon::{Causes, Lane, durable};
use tokio::process::Command;
use tokio::sync::watch;

/// Where the kernel names the boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How long the command may take until the reboot has begun.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The name of this boot; empty if the kernel does not tell.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Has the host rebooted when that is ordered.
pub struct Reboots {
    /// Where what was begun is noted.
    pub data_dir: PathBuf,
    /// What reboots the host; empty if nothing may.
    pub command: Vec<String>,
    /// The name of this boot.
    pub boot_id: String,
    /// What the controller ordered last.
    pub orders: watch::Receiver<Option<RebootOrder>>,
    /// The order that has failed. Nobody else publishes here.
    pub failed: watch::Sender<Option<RebootFailed>>,
}

/// Why an order is not followed.
#[derive(Debug, thiserror::Error)]
enum NotRebooted {
    #[error("its agent.yaml has no reboot_command")]
    NotAllowed,
    #[error("cannot read {}, where reboots are noted; look at it and remove it", .0.display())]
    Note(PathBuf, #[source] io::Error),
    #[error("cannot note in {} that it reboots", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("cannot run {0:?}")]
    Spawn(String, #[source] io::Error),
    #[error("{command:?} ended with {status}: {said}")]
    Ended { command: String, status: std::process::ExitStatus, said: String },
    #[error("{0:?} has not ended within {1:?}")]
    Slow(String, Duration),
}

impl Reboots {
    /// Follows orders until the task is dropped.
    pub async fn keep(mut self) {
        loop {
            let order = self.orders.borrow_and_update().clone();
            if let Some(order) = order {
                self.follow(&order).await;
            }
            if self.orders.changed().await.is_err() {
                return;
            }
        }
    }

    async fn follow(&self, order: &RebootOrder) {
        let (incarnation, number) = (order.incarnation, order.number);
        match self.reboot(order).await {
            Ok(true) => tracing::info!(number, "the host reboots, as the controller has ordered"),
            Ok(false) => tracing::info!(number, "an order to reboot was followed before"),
            Err(error) => {
                let reason = sanitize(&Causes(&error).to_string(), MESSAGE_MAX);
                tracing::warn!(number, reason, "cannot reboot the host");
                self.failed.send_replace(Some(RebootFailed { incarnation, number, reason }));
            }
        }
    }

    /// Returns whether the reboot was begun; if not, there was nothing to do.
    async fn reboot(&self, order: &RebootOrder) -> Result<bool, NotRebooted> {
        if order.boot_id != self.boot_id {
            return Ok(false);
        }
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(NotRebooted::NotAllowed);
        };
        if !self.note(order).await? {
            return Ok(false);
        }
        let command =
            Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
        let shown = self.command.join(" ");
        let output = tokio::time::timeout(COMMAND_LIMIT, command).await;
        let output = output.map_err(|_| NotRebooted::Slow(shown.clone(), COMMAND_LIMIT))?;
        let output = output.map_err(|source| NotRebooted::Spawn(shown.clone(), source))?;
        if output.status.success() {
            return Ok(true);
        }
        let said = sanitize(&String::from_utf8_lossy(&output.stderr), MESSAGE_MAX);
        Err(NotRebooted::Ended { command: shown, status: output.status, said })
    }

    /// Notes an order durably; whether it is a new one.
    async fn note(&self, order: &RebootOrder) -> Result<bool, NotRebooted> {
        let (path, order) = (path(&self.data_dir), order.clone());
        let at = path.clone();
        let noted = Lane::new("reboot").run(move || Ok(note(&path, &order))).await;
        noted.map_err(|error| NotRebooted::Write(at, error))?
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("reboot.json")
}

fn note(path: &Path, order: &RebootOrder) -> Result<bool, NotRebooted> {
    let unreadable = |error| NotRebooted::Note(path.to_owned(), error);
    let noted: Option<RebootOrder> = match std::fs::read(path) {
        Ok(text) => Some(
            serde_json::from_slice(&text).map_err(|error| unreadable(io::Error::other(error)))?,
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(error)),
    };
    let is_old = |noted: &RebootOrder| {
        noted.incarnation == order.incarnation && noted.number >= order.number
    };
    if noted.as_ref().is_some_and(is_old) {
        return Ok(false);
    }
    let text = serde_json::to_vec(order).map_err(io::Error::other);
    text.and_then(|text| durable::replace(path, &text, 0o600))
        .map_err(|error| NotRebooted::Write(path.to_owned(), error))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use dwell_core::id::Incarnation;

    use super::*;

    fn order(incarnation: u64, number: u64, boot_id: &str) -> RebootOrder {
        RebootOrder { incarnation: Incarnation(incarnation), number, boot_id: boot_id.into() }
    }

    struct Host {
        dir: tempfile::TempDir,
        script: String,
    }

    impl Host {
        fn new(end: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let script = format!("echo x >> {}/done; {end}", dir.path().display());
            Self { dir, script }
        }

        /// An agent in a boot, told an order; why it has failed, if so.
        async fn tell(&self, boot_id: &str, order: &RebootOrder) -> Option<String> {
            let orders = watch::Sender::new(None);
            let failed = watch::Sender::new(None);
            let reboots = Reboots {
                data_dir: self.dir.path().to_owned(),
                command: ["/bin/sh", "-c", &self.script].map(str::to_owned).to_vec(),
                boot_id: boot_id.into(),
                orders: orders.subscribe(),
                failed: failed.clone(),
            };
            reboots.follow(order).await;
            let failed = failed.borrow().clone();
            failed.map(|failed: RebootFailed| {
                assert_eq!((failed.incarnation, failed.number), (order.incarnation, order.number));
                failed.reason
            })
        }

        fn reboots(&self) -> usize {
            let done = std::fs::read_to_string(self.dir.path().join("done"));
            done.map_or(0, |text| text.lines().count())
        }
    }

    #[tokio::test]
    async fn one_order_makes_one_reboot_at_most() {
        let host = Host::new("exit 0");
        let first = order(1, 5, "a");
        // The agent is killed and started again before the host goes down: each is a new one with the same disk.
        for _ in 0..3 {
            assert_eq!(host.tell("a", &first).await, None);
            assert_eq!(host.reboots(), 1);
        }
        // It is told late, in the next boot; and by a controller whose store was put back, for this boot.
        assert_eq!(host.tell("b", &first).await, None);
        assert_eq!(host.tell("b", &order(1, 5, "b")).await, None);
        assert_eq!(host.tell("b", &order(1, 4, "b")).await, None);
        assert_eq!(host.reboots(), 1);
        assert_eq!(host.tell("b", &order(1, 6, "b")).await, None);
        assert_eq!(host.tell("c", &order(2, 1, "c")).await, None);
        assert_eq!(host.reboots(), 3, "another order, and the first of another history");
    }

    #[tokio::test]
    async fn what_fails_is_told_and_not_tried_again() {
        let host = Host::new("echo no power >&2; exit 3");
        let why = host.tell("a", &order(1, 5, "a")).await.unwrap();
        assert!(why.contains("exit status: 3") && why.contains("no power"), "{why}");
        assert_eq!(host.tell("a", &order(1, 5, "a")).await, None);
        assert_eq!(host.reboots(), 1);
    }

    #[tokio::test]
    async fn without_a_command_and_with_a_damaged_note_nothing_reboots() {
        let host = Host::new("exit 0");
        std::fs::write(path(host.dir.path()), "{").unwrap();
        let why = host.tell("a", &order(1, 5, "a")).await.unwrap();
        assert!(why.contains("reboot.json"), "{why}");
        assert_eq!(host.reboots(), 0);
        let orders = watch::Sender::new(Some(order(1, 6, "a")));
        let failed = watch::Sender::new(None);
        let reboots = Reboots {
            data_dir: host.dir.path().to_owned(),
            command: Vec::new(),
            boot_id: "a".into(),
            orders: orders.subscribe(),
            failed: failed.clone(),
        };
        drop(orders);
        reboots.keep().await;
        let failed = failed.borrow().clone().unwrap();
        assert_eq!(failed.reason, "its agent.yaml has no reboot_command");
    }
}
