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
//!
//! Routes and names do not wait for the engine, which may take minutes after a boot. Forwarding does: `dockerd` closes
//! iptables' FORWARD when it starts on a host that does not forward yet, and would leave it open on one that does. So the
//! host forwards from the first answer of the engine on, and no sandbox is made before that was brought about. Where there
//! are sandboxes at the start, the host has forwarded since its boot, and goes on. A routes-only host waits for a Docker that
//! it has beside dwell.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dwell_core::session::{Assignment, NodeNetwork};
use dwell_planner::{Desired, EngineState};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::assignment::{HostChoices, host_network, routes};
use dwell_daemon::Causes;
use dwell_engine::SharedEngine;
use dwell_network::{Network, RouteReport};

/// How often everything is compared with the kernel although nothing was told.
const RESYNC: Duration = Duration::from_secs(60);
/// Between two repairs, so that a fight with another program over the same thing does not take the whole machine.
const BREATH: Duration = Duration::from_millis(10);
/// The first wait after a failure; it doubles up to [`RESYNC`].
const RETRY: Duration = Duration::from_secs(1);

/// How far the host has been prepared, or that was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Prepared {
    /// Nothing is known of what the node is to do.
    #[default]
    NotYet,
    /// It has its routes and answers for names, but does not forward for instances yet.
    WithoutForwarding,
    /// Instances can be reached.
    Whole,
}

/// Who keeps the host's network.
pub struct HostNetwork {
    /// What does it.
    pub network: Arc<dyn Network>,
    /// What the operator has chosen.
    pub choices: HostChoices,
    /// What this host takes for its own, where the controller does not say by which one the other nodes know it.
    pub address: watch::Receiver<Ipv4Addr>,
    /// What the node is to do.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// Whether the engine answers: a daemon that starts may have changed the firewall.
    pub engine: watch::Receiver<EngineState>,
    /// Whether the host forwards only once the engine has answered, unless it has sandboxes already.
    pub awaits_engine: bool,
    /// Goes up when everything is to be compared.
    pub recheck: watch::Receiver<u64>,
    /// Told how far it is.
    pub prepared: watch::Sender<Prepared>,
}

/// What is to be compared with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    host: bool,
    routes: bool,
}

const NOTHING: Due = Due { host: false, routes: false };
const EVERYTHING: Due = Due { host: true, routes: true };

impl Due {
    /// What differs between two assignments.
    fn between(before: Option<&Arc<Assignment>>, now: &Arc<Assignment>) -> Self {
        let Some(before) = before else { return EVERYTHING };
        if Arc::ptr_eq(before, now) {
            return NOTHING;
        }
        let (before, now) = (&before.network, &now.network);
        Self {
            host: (
                &before.cluster,
                before.block,
                &before.more_blocks,
                before.zone.is_empty(),
                before.ipv6,
            ) != (&now.cluster, now.block, &now.more_blocks, now.zone.is_empty(), now.ipv6),
            routes: (before.address, &before.peers, &before.exceptions, before.ipv6)
                != (now.address, &now.peers, &now.exceptions, now.ipv6),
        }
    }

    fn or(self, other: Self) -> Self {
        Self { host: self.host || other.host, routes: self.routes || other.routes }
    }
}

impl HostNetwork {
    /// Keeps it until the task is dropped.
    pub async fn keep(mut self) {
        let mut disturbances = self.network.disturbances();
        let mut disturbed = *disturbances.borrow_and_update();
        let mut tried: Option<Arc<Assignment>> = None;
        let mut due = NOTHING;
        let mut retry = RETRY;
        let mut forwards = !self.awaits_engine || self.has_sandboxes().await;
        // For when nothing is told; far away as long as there is nothing to keep.
        let mut check_at = Instant::now() + RESYNC;
        let mut breathe_until = Instant::now();
        loop {
            let wanted = self.assignment.borrow_and_update().clone();
            if !forwards && *self.engine.borrow_and_update() == EngineState::Ready {
                forwards = true;
                due = EVERYTHING;
            }
            if check_at <= Instant::now() {
                due = EVERYTHING;
                check_at = Instant::now() + RESYNC;
            }
            if let Some(wanted) = wanted {
                let changes = Due::between(tried.as_ref(), &wanted);
                let now = due.or(changes);
                if now != NOTHING && (changes != NOTHING || breathe_until <= Instant::now()) {
                    let done =
                        self.bring_about(&wanted.network, now, changes == NOTHING, forwards).await;
                    self.prepared.send_replace(if forwards {
                        Prepared::Whole
                    } else {
                        Prepared::WithoutForwarding
                    });
                    if !done {
                        check_at = Instant::now() + retry;
                        retry = (retry * 2).min(RESYNC);
                    } else if now == EVERYTHING {
                        check_at = Instant::now() + RESYNC;
                        retry = RETRY;
                    }
                    due = NOTHING;
                    breathe_until = Instant::now() + BREATH;
                }
                tried = Some(wanted);
            } else {
                // All of it is, once there is something to keep.
                due = NOTHING;
            }
            let look_at = if due == NOTHING { check_at } else { check_at.min(breathe_until) };
            // Cancel-safe: all that is lost is a wait.
            tokio::select! {
                Ok(()) = self.assignment.changed() => {}
                Ok(()) = self.engine.changed() => {
                    if *self.engine.borrow_and_update() == EngineState::Ready {
                        due = EVERYTHING;
                    }
                }
                Ok(()) = disturbances.changed() => {
                    let now = *disturbances.borrow_and_update();
                    due.host |= now.host != disturbed.host;
                    due.routes |= now.routes != disturbed.routes;
                    disturbed = now;
                }
                Ok(()) = self.address.changed() => due.routes = true,
                Ok(()) = self.recheck.changed() => due = EVERYTHING,
                () = sleep_until(look_at) => {}
            }
        }
    }

    /// Whether this is no boot, after which there is none.
    async fn has_sandboxes(&self) -> bool {
        self.network.sandboxes().await.is_ok_and(|sandboxes| !sandboxes.is_empty())
    }

    /// Whether all that is `due` succeeded. `was_in_place` if it had been brought about before.
    async fn bring_about(
        &self,
        wanted: &NodeNetwork,
        due: Due,
        was_in_place: bool,
        forwards: bool,
    ) -> bool {
        let mut done = true;
        if due.host {
            let host = host_network(wanted, &self.choices, forwards);
            let prepared = self.network.ensure_host(&host).await;
            if let Err(error) = prepared {
                tracing::error!(error = %Causes(&error), "cannot prepare this host's network; trying again");
                done = false;
            }
        }
        if due.routes {
            let own = Some(*self.address.borrow());
            let routes = routes(wanted, self.choices.overlay, own);
            match self.network.sync_routes(&routes).await {
                Ok(report) => {
                    tell(&report, was_in_place);
                    done &= report.is_clean();
                }
                Err(error) => {
                    tracing::error!(error = %Causes(&error), "cannot set the routes to other nodes; trying again");
                    done = false;
                }
            }
        }
        done
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

/// Whether a Docker answers at its socket, or will: systemd listens for one that it has not started yet.
pub async fn is_listened_at(socket: &Path) -> bool {
    match UnixStream::connect(socket).await {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused),
    }
}

/// Says that the host may forward once the `engine` at `socket` has answered, or nobody listens there any more; then keeps
/// saying so.
pub async fn await_docker(
    socket: PathBuf,
    engine: SharedEngine,
    answered: watch::Sender<EngineState>,
) {
    while engine.ping().await.is_err() && is_listened_at(&socket).await {
        sleep(RETRY).await;
    }
    answered.send_replace(EngineState::Ready);
    std::future::pending::<()>().await;
}

/// Tells the reconciler what is desired, once the host has been prepared for it.
pub async fn release(
    mut assignment: watch::Receiver<Option<Arc<Assignment>>>,
    mut prepared: watch::Receiver<Prepared>,
    desired: watch::Sender<Option<Arc<Desired>>>,
) {
    if prepared.wait_for(|prepared| *prepared > Prepared::NotYet).await.is_err() {
        return;
    }
    loop {
        if let Some(assignment) = assignment.borrow_and_update().clone() {
            let all: Desired = assignment.instances.values().cloned().collect();
            let all = all.at(assignment.revision).keeping_unknown(assignment.unconfirmed);
            let all = all.with_registries(assignment.registries.clone());
            desired.send_replace(Some(Arc::new(all)));
        }
        if assignment.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
