//! How an instance's changes and restarts are counted.
//!
//! Both numbers only grow. A controller that was restored has forgotten the last ones it gave out, and its node may have begun to
//! do what they asked for. So whatever a node says that it has seen is counted on from.

use std::sync::Arc;

use dwell_core::id::Generation;
use dwell_core::instance::InstanceStatus;

use super::Model;
use super::object::{Instance, Workload};

/// How far a node may move an instance's generation on. A node that claims more is wrong, and not followed: it would take the
/// numbers of its whole workload to their end.
const AHEAD_MAX: u64 = 1 << 40;

impl Model {
    /// The generation of an instance's next change: the workload's, which moves ahead if the instance
    /// has been changed at that one already.
    pub(super) fn next_generation(&mut self, instance: &Instance) -> Generation {
        let Some(workload) = self.tables.workloads().get(instance.name.workload()).cloned() else {
            return instance.generation.next();
        };
        if instance.generation < workload.generation {
            return workload.generation;
        }
        let generation = instance.generation.next();
        self.put_workload(Workload { generation, ..Workload::clone(&workload) });
        generation
    }

    /// The number of an instance's next restart: one that its node has not done yet, also for a controller that was
    /// restored and does not know what was asked for since the backup.
    pub(super) fn next_restart(&self, instance: &Instance) -> u64 {
        let seen = self.tables.observed().get(&instance.name);
        let done = seen.map_or(0, |seen| seen.status.restarts_done);
        instance.restarts_asked.max(done).saturating_add(1)
    }

    /// Its node has seen a generation of an instance that this controller never gave out, and leaves alone what is desired as
    /// out of date: what is desired becomes a later one. Returns the instance as it is then.
    pub(super) fn count_on(
        &mut self,
        instance: &Arc<Instance>,
        status: &InstanceStatus,
    ) -> Arc<Instance> {
        let ahead = status.generation.0.saturating_sub(instance.generation.0);
        if self.volatile_only || ahead == 0 || ahead > AHEAD_MAX {
            return Arc::clone(instance);
        }
        let generation = status.generation.next();
        self.put_instance(Instance { generation, ..Instance::clone(instance) });
        self.tables.instances().get(&instance.name).cloned().unwrap_or_else(|| Arc::clone(instance))
    }
}
