//! Why an instance is not let go, or not taken back.

use dwell_core::id::{InstanceName, NodeName};

/// Why an instance is not let go, or not taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLetGo {
    /// It has something to complete.
    #[error(
        "{0} is of a job, whose tasks are counted until they end; only what is to run on can be let go"
    )]
    OfJob(InstanceName),
    /// It is being placed, moved or changed, or has not shown that it works.
    #[error(
        "{0} is being changed or moved; wait until that has ended, which `dwell ps {0}` shows, and let go of it then"
    )]
    Changing(InstanceName),
    /// It has no process, or nobody knows.
    #[error(
        "{0} is not seen running, so there is nothing that could go on; start it first, or take it away with `dwell rm {0}`"
    )]
    DoesNotRun(InstanceName),
    /// Its node would go on as before.
    #[error(
        "the agent on {node} is of a version that cannot let go of {instance}; upgrade it, and try again"
    )]
    OldAgent {
        /// Which one.
        instance: InstanceName,
        /// Where it is.
        node: NodeName,
    },
    /// It is looked after.
    #[error("{0} was not let go, so there is nothing to take back; `dwell status` shows what was")]
    IsNot(InstanceName),
    /// Somebody wants to change what was let go.
    #[error(
        "{0} was let go, and dwell leaves its container alone; take it back first with `dwell adopt {0}`"
    )]
    Is(InstanceName),
    /// There is nobody who could look after it.
    #[error(
        "{node}, where the container of {instance} is, was removed; remove the container there with Docker, and then `dwell rm {instance}`"
    )]
    NodeRemoved {
        /// Which one.
        instance: InstanceName,
        /// Where it was.
        node: NodeName,
    },
    /// Its container would lose its address.
    #[error(
        "{instance} was let go, and its container may still be on {node}; take it back first with `dwell adopt {instance}`, or remove its \
         container there with Docker"
    )]
    StillThere {
        /// Which one.
        instance: InstanceName,
        /// Where it is.
        node: NodeName,
    },
}
