//! Why no instance is put in the place of a container that dwell did not make, or why that has to be over first.

use std::sync::Arc;

use dwell_core::id::{InstanceName, NodeName, WorkloadName};
use dwell_scheduler::Reason;

use crate::model::volumes::VolumeKey;

/// Why no instance is put in the place of a container that dwell did not make, or why that has to be over first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdopted {
    /// There is one already.
    #[error("there is a workload {0} already; name another one with `--as NAME`")]
    WorkloadExists(WorkloadName),
    /// Its agent would start a container beside the other one.
    #[error(
        "the agent on {0} is of a version that cannot adopt containers; upgrade it, and try again"
    )]
    OldAgent(NodeName),
    /// Nobody hears of it.
    #[error("node {0} is not ready; try again when `dwell node ls` shows it ready")]
    NotReady(NodeName),
    /// It would wait, and the container run on.
    #[error("there is no place for it on {node}: {reason}")]
    NoPlace {
        /// Where the container is.
        node: NodeName,
        /// Why not.
        reason: Arc<Reason>,
    },
    /// It runs no instances.
    #[error("node {0} runs no instances")]
    NoHome(NodeName),
    /// What is copied would have to replace it.
    #[error(
        "there is a volume {volume} of an earlier {instance} on {node}; `dwell volume ls` shows it: delete it with `dwell volume rm`, or \
         name another workload with `--as NAME`", volume = volume.name, instance = volume.instance, node = volume.node
    )]
    VolumeThere {
        /// Which one.
        volume: VolumeKey,
    },
    /// Somebody wants to change what has not shown that it works.
    #[error(
        "{instance} is being put in the place of container {container} and has not held there; wait until it has, or put the container \
         back with `dwell rm {workload}`", workload = instance.workload()
    )]
    Open {
        /// Which one.
        instance: InstanceName,
        /// Its name with the engine.
        container: String,
    },
}
