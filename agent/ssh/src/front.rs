//! What all connections share, and its limits.

use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use dwell_core::id::InstanceName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::enter::Enter;
use crate::events::Reporter;
use crate::guard::{Denial, Guard};
use crate::state::Trust;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Front {
    /// Starts processes in containers.
    pub(crate) enter: Enter,
    /// Who may log in, everywhere.
    pub(crate) trust: watch::Receiver<Arc<Trust>>,
    /// Where events go.
    pub(crate) reporter: Reporter,
    /// The process is to stop.
    pub(crate) stopping: CancellationToken,
    /// Everything that has to end before it does.
    pub(crate) tasks: TaskTracker,
    guard: Arc<Mutex<Guard>>,
}

impl Front {
    /// A front without connections.
    pub(crate) fn new(
        enter: Enter,
        trust: watch::Receiver<Arc<Trust>>,
        reporter: Reporter,
        stopping: CancellationToken,
    ) -> Self {
        let tasks = TaskTracker::new();
        Self { enter, trust, reporter, stopping, tasks, guard: Arc::default() }
    }

    /// Lets a connection in.
    ///
    /// # Errors
    /// [`Denial`]: a limit is reached.
    pub(crate) fn admit(&self, instance: &InstanceName, from: IpAddr) -> Result<Admission, Denial> {
        // The address of a host is one that it can have a socket at.
        let is_own = UdpSocket::bind((from, 0)).is_ok();
        let from = Some(from).filter(|_| !is_own);
        lock(&self.guard).admit(instance, from, Instant::now())?;
        let guard = Arc::clone(&self.guard);
        Ok(Admission { guard, instance: instance.clone(), from, logged_in: false, failed: false })
    }
}

/// A connection's share of the limits, given back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    guard: Arc<Mutex<Guard>>,
    instance: InstanceName,
    /// Absent if it comes from the node itself.
    from: Option<IpAddr>,
    logged_in: bool,
    failed: bool,
}

impl Admission {
    /// Somebody logged in: no longer one of those that have yet to.
    pub(crate) fn logged_in(&mut self) {
        if !std::mem::replace(&mut self.logged_in, true) {
            lock(&self.guard).logged_in(self.from);
        }
    }

    /// Somebody was refused; counts as a failure if nobody logs in after all.
    pub(crate) fn refused(&mut self) {
        self.failed = true;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut guard = lock(&self.guard);
        if !self.logged_in {
            guard.logged_in(self.from);
            if self.failed {
                guard.failed(self.from, Instant::now());
            }
        }
        guard.left(&self.instance);
    }
}

/// The guard is whole at every moment that could panic.
fn lock(guard: &Mutex<Guard>) -> MutexGuard<'_, Guard> {
    guard.lock().unwrap_or_else(PoisonError::into_inner)
}
