//! Seeing a process end at once, through a file descriptor that stands for it (a *pidfd*).
//!
//! An engine tells of a death by an event, about 40 ms later; a pidfd does within 1 ms. Process ids
//! are used again, so an id alone proves nothing: the descriptor is opened first, then the process is
//! checked to be in its container's control group, whose path has the container's id in it with every
//! driver and version of control groups. Whatever becomes of the id later, the descriptor stays with
//! that process.
//!
//! Signals are sent to commands that were started beside a main process: the hang-up of a terminal's, and the end of
//! one that took too long with all that it started.

#![expect(unsafe_code, reason = "tokio asks for a promise about the descriptor that it watches")]

use std::fs;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;

use futures_util::future::BoxFuture;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::ContainerId;

/// How often the processes are looked through for what is left of a session: one that is killed may have started
/// another a moment before.
const PASSES_MAX: usize = 4;

/// Why a process cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum DeathError {
    /// It has ended, or the id belongs to another process by now.
    #[error("process {pid} is not of container {container}")]
    Gone {
        /// The process.
        pid: u32,
        /// Whose it was.
        container: ContainerId,
    },
    /// The kernel refused, for example for want of file descriptors.
    #[error("cannot watch process {pid}")]
    Kernel {
        /// The process.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Who tells of the ends of processes.
pub trait Processes: Send + Sync {
    /// A future that is ready once the process `pid` of `container` has ended. Dropping it is fine.
    ///
    /// # Errors
    /// [`DeathError::Gone`] if there is no such process any more.
    fn watch(
        &self,
        pid: u32,
        container: &ContainerId,
    ) -> Result<BoxFuture<'static, ()>, DeathError>;
}

/// The kernel of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Processes for Kernel {
    fn watch(
        &self,
        pid: u32,
        container: &ContainerId,
    ) -> Result<BoxFuture<'static, ()>, DeathError> {
        Ok(Box::pin(watch(pid, container)?))
    }
}

/// Returns a future that is ready once the process `pid` of `container` has ended. Dropping it is fine.
///
/// # Errors
/// [`DeathError::Gone`] if it is not there any more: ask the engine how it ended.
pub fn watch(
    pid: u32,
    container: &ContainerId,
) -> Result<impl Future<Output = ()> + Send + use<>, DeathError> {
    let descriptor = open(pid, container)?;
    // SAFETY: an `OwnedFd` is a valid descriptor that nothing else closes or replaces, and the
    // `AsyncFd` owns it until both are dropped.
    let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }
        .map_err(|error| DeathError::Kernel { pid, source: error.into() })?;
    Ok(async move {
        // An error would mean that the runtime shuts down: then nobody waits for this either.
        drop(descriptor.readable().await);
    })
}

/// Sends `SIGHUP` to the process `pid` of `container`.
///
/// # Errors
/// [`DeathError::Gone`] if it is not there any more.
pub fn hang_up(pid: u32, container: &ContainerId) -> Result<(), DeathError> {
    let descriptor = open(pid, container)?;
    pidfd_send_signal(descriptor, Signal::HUP)
        .map_err(|source| DeathError::Kernel { pid, source: source.into() })
}

/// Kills the command that was started as process `pid` of `container` and whatever of its session is left: what it
/// started itself, also if it has ended already. Blocks for a look at all processes. Returns how many were killed.
#[must_use]
pub fn end_session(pid: u32, container: &ContainerId) -> usize {
    let mut killed = 0;
    for _ in 0..PASSES_MAX {
        let members: Vec<u32> = processes().filter(|&one| session_of(one) == Some(pid)).collect();
        let ended = members.into_iter().filter(|&one| kill_in_session(one, pid, container));
        match ended.count() {
            0 => break,
            count => killed += count,
        }
    }
    killed
}

/// Kills one process, if it is still of the session and of the container.
fn kill_in_session(pid: u32, session: u32, container: &ContainerId) -> bool {
    // The descriptor first, then the check: whatever becomes of the id, the signal goes to what was checked.
    let Ok(descriptor) = open(pid, container) else { return false };
    session_of(pid) == Some(session) && pidfd_send_signal(descriptor, Signal::KILL).is_ok()
}

/// The ids of all processes.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The session of a process that has not ended.
fn session_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may contain any.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    fields.nth(2)?.parse().ok().filter(|_| !matches!(state, "Z" | "X"))
}

/// When the process `pid` of `container` started, in clock ticks since the host did: tells it from a later process
/// with the same id.
///
/// # Errors
/// [`DeathError::Gone`] if it is not there any more.
pub fn start_ticks(pid: u32, container: &ContainerId) -> Result<u64, DeathError> {
    let gone = || DeathError::Gone { pid, container: container.clone() };
    let ticks = dwell_daemon::process::start_ticks(pid).ok_or_else(gone)?;
    // Afterwards, so that the ticks of another process are never taken for this one's.
    if is_of(pid, container) { Ok(ticks) } else { Err(gone()) }
}

fn open(pid: u32, container: &ContainerId) -> Result<OwnedFd, DeathError> {
    let gone = || DeathError::Gone { pid, container: container.clone() };
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
    let descriptor = pidfd_open(raw, PidfdFlags::empty()).map_err(|source| match source {
        rustix::io::Errno::SRCH => gone(),
        source => DeathError::Kernel { pid, source: source.into() },
    })?;
    if is_of(pid, container) { Ok(descriptor) } else { Err(gone()) }
}

/// Whether the process that has this id now is of the container.
fn is_of(pid: u32, container: &ContainerId) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
    groups.is_ok_and(|groups| groups.contains(container.as_str()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    /// A part of the path of our own control group stands in for a container's id: children share it.
    fn own_group() -> ContainerId {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        ContainerId(groups.lines().next().unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_death_is_seen() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let mut death = Box::pin(watch(child.id(), &own_group()).unwrap());
        let alive = tokio::time::timeout(Duration::from_millis(20), &mut death).await;
        child.kill().unwrap();
        let dead = tokio::time::timeout(Duration::from_secs(5), &mut death).await;
        child.wait().unwrap();
        assert!(alive.is_err() && dead.is_ok());
        assert!(matches!(watch(child.id(), &own_group()), Err(DeathError::Gone { .. })));
    }

    #[test]
    fn a_command_that_took_too_long_ends_with_all_that_it_started() {
        // A session of its own, as the engine gives every command: a shell, and what it started beside itself.
        let mut shell = Command::new("setsid")
            .args(["sh", "-c", "sleep 3600 & (sleep 3601 & sleep 3602) & wait"])
            .spawn()
            .unwrap();
        let members = |session| processes().filter(|&one| session_of(one) == Some(session)).count();
        let wait_until = |is_so: &dyn Fn() -> bool| {
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            while !is_so() && std::time::Instant::now() < deadline {
                std::thread::yield_now();
            }
        };
        wait_until(&|| members(shell.id()) >= 4);
        let other = ContainerId("0123456789abcdef".to_owned());
        assert_eq!(end_session(shell.id(), &other), 0, "nothing of another container");
        assert!(end_session(shell.id(), &own_group()) >= 4);
        shell.wait().unwrap();
        // Orphans are there until whoever inherits them has noticed.
        wait_until(&|| members(shell.id()) == 0);
        assert_eq!(members(shell.id()), 0);
    }

    #[test]
    fn a_process_is_told_from_others_by_its_start() {
        let own = start_ticks(std::process::id(), &own_group()).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let childs = start_ticks(child.id(), &own_group()).unwrap();
        assert!(own > 0 && childs >= own, "{own}, {childs}");
        let other = ContainerId("0123456789abcdef".to_owned());
        assert!(matches!(start_ticks(child.id(), &other), Err(DeathError::Gone { .. })));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(start_ticks(child.id(), &own_group()).is_err());
    }

    #[tokio::test]
    async fn a_process_of_another_container_is_not_watched() {
        let other = ContainerId("0123456789abcdef".to_owned());
        for pid in [std::process::id(), 0, u32::MAX] {
            assert!(matches!(watch(pid, &other), Err(DeathError::Gone { .. })), "{pid}");
            assert!(hang_up(pid, &other).is_err());
        }
    }
}
