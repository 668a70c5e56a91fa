//! Keeps the host's part of the network as the assignment has it: settings, firewall, routes.
//!
//! ```text
//!   assignment ──▶ keep ──▶ ensure_host, sync_routes        again when the network or the engine's daemon is
//!        │           │ prepared                             another, when others disturb what was made, after a
//!        │           │                                      failure, and every RESYNC
//!        └────────▶ release ──▶ desired state for the reconciler
//! ```
//!
//! The reconciler is told of instances once the host has been prepared: sandboxes need it, and a step
//! that fails for want of it would be a pause for nothing. A preparation that failed counts as well,
//! since instances that run are better looked after with a host that is half prepared.

use std::sync::Arc;
use std::time::Duration;

use dwell_planner::{Desired, EngineState};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::assignment::{Assignment, NodeNetwork};
use crate::causes::Causes;
use crate::network::{Disturbances, Network, RouteReport};

/// How often everything is compared with the kernel although nothing was told.
const RESYNC: Duration = Duration::from_secs(60);
/// The first wait after a failure; it doubles up to [`RESYNC`].
const RETRY: Duration = Duration::from_secs(1);

/// Who keeps the host's network.
pub struct HostNetwork {
    /// What does it.
    pub network: Arc<dyn Network>,
    /// Whether instances reach what is beyond the cluster under the host's address.
    pub masquerade: bool,
    /// What the node is to do.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// Whether the engine answers: a daemon that starts may have changed the firewall.
    pub engine: watch::Receiver<EngineState>,
    /// Becomes true once the host was prepared, or that was tried.
    pub prepared: watch::Sender<bool>,
}

impl HostNetwork {
    /// Keeps it until the task is dropped.
    pub async fn keep(mut self) {
        let mut disturbances = self.network.disturbances();
        let mut disturbed = Disturbances::default();
        let mut tried: Option<NodeNetwork> = None;
        let mut retry = RETRY;
        // For when nothing is told; far away as long as there is nothing to keep.
        let mut check_at = Instant::now() + RESYNC;
        loop {
            let wanted = self.assignment.borrow_and_update().clone();
            let wanted = wanted.as_ref().map(|assignment| &assignment.network);
            if let Some(wanted) = wanted
                && (tried.as_ref() != Some(wanted) || check_at <= Instant::now())
            {
                let done = self.bring_about(wanted, tried.as_ref()).await;
                self.prepared.send_replace(true);
                let pause = if done { RESYNC } else { retry };
                retry = if done { RETRY } else { (retry * 2).min(RESYNC) };
                check_at = Instant::now() + pause;
                tried = Some(wanted.clone());
            } else if wanted.is_none() {
                check_at = Instant::now() + RESYNC;
            }
            // Cancel-safe: all that is lost is a wait.
            tokio::select! {
                Ok(()) = self.assignment.changed() => {}
                Ok(()) = self.engine.changed() => {
                    if *self.engine.borrow_and_update() == EngineState::Ready {
                        check_at = Instant::now();
                    }
                }
                Ok(()) = disturbances.changed() => {
                    let now = *disturbances.borrow_and_update();
                    if (now.host, now.routes) != (disturbed.host, disturbed.routes) {
                        check_at = Instant::now();
                    }
                    disturbed = now;
                }
                () = sleep_until(check_at) => {}
            }
        }
    }

    /// Whether all of it succeeded.
    async fn bring_about(&self, wanted: &NodeNetwork, before: Option<&NodeNetwork>) -> bool {
        let host = wanted.host(self.masquerade);
        let prepared = self.network.ensure_host(&host).await;
        if let Err(error) = &prepared {
            tracing::error!(error = %Causes(error), "cannot prepare this host's network; trying again");
        }
        match self.network.sync_routes(&wanted.routes()).await {
            Ok(report) => {
                tell(&report, before == Some(wanted));
                prepared.is_ok() && report.is_clean()
            }
            Err(error) => {
                tracing::error!(error = %Causes(&error), "cannot set the routes to other nodes; trying again");
                false
            }
        }
    }
}

/// Logs what was changed, or is in the way.
fn tell(report: &RouteReport, was_in_place: bool) {
    for conflict in &report.conflicts {
        tracing::warn!(
            node = %conflict.node, wanted = %conflict.wanted, holder = conflict.holder,
            "a route that is not dwell's takes the traffic to a node; remove it"
        );
    }
    for failure in &report.failures {
        tracing::warn!(node = %failure.node, reason = failure.reason, "cannot set the routes to a node");
    }
    let RouteReport { added, changed, removed, .. } = *report;
    if added + changed + removed == 0 {
        return;
    }
    if was_in_place {
        tracing::warn!(
            added,
            changed,
            removed,
            "somebody had changed routes to other nodes; restored"
        );
    } else {
        tracing::info!(added, changed, removed, "routes to other nodes");
    }
}

/// Tells the reconciler what is desired, once the host has been prepared for it.
pub async fn release(
    mut assignment: watch::Receiver<Option<Arc<Assignment>>>,
    mut prepared: watch::Receiver<bool>,
    desired: watch::Sender<Option<Arc<Desired>>>,
) {
    if prepared.wait_for(|prepared| *prepared).await.is_err() {
        return;
    }
    loop {
        if let Some(assignment) = assignment.borrow_and_update().clone() {
            let all: Desired = assignment.instances.values().cloned().collect();
            desired.send_replace(Some(Arc::new(all.at(assignment.revision))));
        }
        if assignment.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
