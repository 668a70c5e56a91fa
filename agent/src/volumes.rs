//! The volumes of this node: which there are, and those that the controller wants deleted.
//!
//! One task owns this. It looks after a start, whenever containers or the orders to delete have changed, and now and
//! then; what it saw goes to the controller with the assignment it was seen under, so that a look from before an order is
//! never taken for its fulfilment. Data cannot be had back, so nothing is deleted before the order is on this node's disk,
//! and nothing that an instance of this node mounts, whatever the order says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::id::{InstanceName, Position, VolumeName};
use dwell_core::instance::Assigned;
use dwell_core::session::{Assignment, SeenVolume, Statuses};
use dwell_core::workload::Template;
use dwell_daemon::Causes;
use dwell_planner::session::OnDisk;
use tokio::sync::watch;
use tokio::time::sleep;

use dwell_engine::{EngineError, SharedEngine};

/// How long changes are gathered before a look.
const GATHER: Duration = Duration::from_secs(1);
/// How long after a look the next one is due without a reason.
const INTERVAL: Duration = Duration::from_secs(600);
/// The same after one that failed, in part or whole.
const RETRY: Duration = Duration::from_secs(10);

/// The volumes that are on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volumes {
    /// The assignment that was on disk when they were looked at.
    pub seen_under: Position,
    /// All of this cluster's, in no order.
    pub there: Vec<SeenVolume>,
}

/// What the task needs of the rest of the agent.
pub struct VolumeKeeper {
    /// Where the volumes are.
    pub engine: SharedEngine,
    /// What the node is to do.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// Up to where the assignment is on disk.
    pub stored: watch::Receiver<OnDisk>,
    /// What was seen of the instances.
    pub statuses: watch::Receiver<Option<Arc<Statuses>>>,
    /// Where what was seen is published.
    pub published: watch::Sender<Option<Arc<Volumes>>>,
}

/// What a look depends on: another one is due when this is different.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reason {
    containers: BTreeSet<String>,
    orders: Vec<(InstanceName, VolumeName)>,
    is_stored: bool,
}

impl VolumeKeeper {
    /// Works until the task is dropped.
    pub async fn run(mut self) {
        loop {
            let reason = self.reason();
            let pause = match self.look().await {
                Ok(()) => INTERVAL,
                Err(error) => {
                    tracing::warn!(error = %Causes(&error), "cannot see to the volumes of this node; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = self.changed(&reason) => sleep(GATHER).await,
                () = sleep(pause) => {}
            }
        }
    }

    fn reason(&mut self) -> Reason {
        let stored = self.stored.borrow_and_update().position();
        let assignment = self.assignment.borrow_and_update().clone();
        let statuses = self.statuses.borrow_and_update().clone();
        let instances = statuses.iter().flat_map(|statuses| statuses.instances.values());
        Reason {
            containers: instances.map(|status| status.container_id.clone()).collect(),
            is_stored: assignment.as_ref().is_some_and(|held| held.position() == stored),
            orders: assignment.map(|held| held.volumes_to_delete.clone()).unwrap_or_default(),
        }
    }

    /// Waits until a look would be for another reason than the last one.
    async fn changed(&mut self, last: &Reason) {
        loop {
            // Cancel-safe: what has changed is compared as a whole each time.
            let changed = tokio::select! {
                changed = self.assignment.changed() => changed,
                changed = self.stored.changed() => changed,
                changed = self.statuses.changed() => changed,
            };
            if changed.is_err() {
                // The agent is stopping.
                return std::future::pending().await;
            }
            if self.reason() != *last {
                return;
            }
        }
    }

    /// Deletes what is to be deleted, looks, and publishes what is there.
    async fn look(&mut self) -> Result<(), EngineError> {
        let stored = self.stored.borrow().position();
        let held = self.assignment.borrow().clone();
        let durable = held.filter(|held| held.position() == stored);
        let mut deleted = Ok(());
        for (instance, name) in durable.iter().flat_map(|held| orders(held)) {
            match self.engine.remove_volume(instance, name).await {
                Ok(()) => tracing::info!(%instance, volume = %name, "deleted, as ordered"),
                Err(error) => deleted = deleted.and(Err(error)),
            }
        }
        let there = self.engine.volumes().await?;
        let seen = Volumes { seen_under: stored, there };
        self.published.send_if_modified(|published| {
            let is_news = published.as_deref() != Some(&seen);
            if is_news {
                *published = Some(Arc::new(seen));
            }
            is_news
        });
        deleted
    }
}

/// The volumes that are to be deleted and that no instance of this node mounts.
fn orders(held: &Assignment) -> impl Iterator<Item = (&InstanceName, &VolumeName)> {
    let is_mounted = |instance: &InstanceName, name: &VolumeName| {
        let assigned = held.instances.get(instance);
        let mut mounted =
            assigned.into_iter().flat_map(Assigned::templates).flat_map(Template::volumes);
        mounted.any(|mounted| mounted == name)
    };
    held.volumes_to_delete
        .iter()
        .filter(move |(instance, name)| !is_mounted(instance, name))
        .map(|(instance, name)| (instance, name))
}

#[cfg(test)]
mod tests;
