//! For how long what is lent to this node is reached: said to the kernel, which sees to it whatever becomes of the agent.
//!
//! ```text
//!   session: assignment, leases ──▶ reaches() ──▶ keep ──▶ sync_leases: the kernel's word
//!                                                   ├──▶ settled ──▶ reconciler: sandboxes
//!                                                   └──▶ fenced ───▶ session: what may be acknowledged
//! ```
//!
//! Invariants: no sandbox is made for an instance with a lease before the kernel knows of the lease; and an assignment
//! is not acknowledged before its leases are in force, since the controller counts on them from then on.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dwell_core::clock::{Clock, Timestamp};
use dwell_core::id::Position;
use dwell_core::session::Assignment;
use dwell_daemon::Causes;
use dwell_network::{Network, Reach, Until};
use dwell_planner::{Leases, Standing};
use tokio::sync::watch;

/// The wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Until when the instances of an assignment are reached. `now` and `instant` are the same moment.
#[must_use]
pub fn reaches(
    assignment: &Assignment,
    leases: &Leases,
    now: Timestamp,
    instant: Instant,
) -> Vec<Reach> {
    let until = |assigned| match leases.standing(assigned, now) {
        Standing::Free => Until::Ever,
        Standing::Lent { until } => Until::At(instant + until.since(now)),
        Standing::Left { .. } => {
            let most = assigned.lease.map_or(Duration::ZERO, |lease| lease.0.as_duration());
            Until::AsSaid { most }
        }
        Standing::Over => Until::At(instant),
    };
    let all = assignment.instances.values();
    all.map(|one| Reach { address: one.address, until: until(one) }).collect()
}

/// Who tells the kernel.
pub struct Fence {
    /// What enforces it.
    pub network: Arc<dyn Network>,
    /// What the node is to do.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// What of it is lent to the node.
    pub leases: watch::Receiver<Leases>,
    /// The one that `leases` are measured with.
    pub clock: Arc<dyn Clock>,
    /// The addresses of instances whose lease, if they have one, the kernel knows.
    pub settled: watch::Sender<Arc<BTreeSet<Ipv4Addr>>>,
    /// The newest assignment of which the kernel knows all leases.
    pub fenced: watch::Sender<Position>,
}

impl Fence {
    /// Tells it until the task is dropped.
    pub async fn keep(mut self) {
        let mut disturbances = self.network.disturbances();
        // An earlier agent may have left something.
        let mut is_needed = true;
        loop {
            let mut retry = None;
            let assignment = self.assignment.borrow_and_update().clone();
            let leases = self.leases.borrow_and_update().clone();
            disturbances.mark_unchanged();
            if let Some(assignment) = assignment {
                let all = reaches(&assignment, &leases, self.clock.now(), Instant::now());
                let has_leases = all.iter().any(|reach| reach.until != Until::Ever);
                let said = match has_leases || is_needed {
                    true => self.network.sync_leases(&all).await,
                    false => Ok(()),
                };
                match said {
                    Ok(()) => {
                        is_needed = has_leases;
                        self.settle(all.iter());
                        self.pass(assignment.position());
                    }
                    Err(error) => {
                        tracing::error!(
                            error = %Causes(&error), retry_s = RETRY.as_secs(),
                            "cannot say until when instances that are lent to this node are reached; none is started until it succeeds"
                        );
                        self.settle(all.iter().filter(|reach| reach.until == Until::Ever));
                        if !has_leases {
                            self.pass(assignment.position());
                        }
                        retry = Some(RETRY);
                    }
                }
            }
            // Cancel-safe: all that is lost is a wait.
            tokio::select! {
                Ok(()) = self.assignment.changed() => {}
                Ok(()) = self.leases.changed() => {}
                Ok(()) = disturbances.changed() => {}
                () = async {
                    match retry {
                        Some(wait) => tokio::time::sleep(wait).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// All leases of an assignment, if it has any, are in force.
    fn pass(&self, position: Position) {
        self.fenced.send_if_modified(|fenced| std::mem::replace(fenced, position) != position);
    }

    fn settle<'a>(&self, reaches: impl Iterator<Item = &'a Reach>) {
        let settled: BTreeSet<Ipv4Addr> = reaches.map(|reach| reach.address).collect();
        self.settled.send_if_modified(|published| {
            let differs = **published != settled;
            if differs {
                *published = Arc::new(settled);
            }
            differs
        });
    }
}

#[cfg(test)]
mod tests;
