//! Why an instance is not sent to another node.

use dwell_core::id::{InstanceName, NodeName};
use dwell_scheduler::{Misfit, Reason};

use crate::model::volumes::VolumeKey;

/// Why an instance is not sent to another node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMoved {
    /// It waits for a place.
    #[error(
        "{0} has no node yet and goes where it fits; `dwell inspect {0}` says what it waits for"
    )]
    NoNode(InstanceName),
    /// It is on its way already.
    #[error("{instance} is on its way off {from} already; wait until it is there")]
    OnItsWay {
        /// Which one.
        instance: InstanceName,
        /// Where it was.
        from: NodeName,
    },
    /// Its node would not hear that it is to let go.
    #[error(
        "{node} is not heard of, so nobody knows what of {instance} runs there; if it is gone for good, `dwell node rm \
         --force {node}` has its instances placed elsewhere"
    )]
    NotHeard {
        /// Which one.
        instance: InstanceName,
        /// Where it is.
        node: NodeName,
    },
    /// It is that node's.
    #[error(
        "{instance} belongs to {node}: its workload has one instance on every node; `dwell node label` and constraints say \
         which nodes those are"
    )]
    Bound {
        /// Which one.
        instance: InstanceName,
        /// Where it is.
        node: NodeName,
    },
    /// Its volumes are there.
    #[error(
        "{instance} has volumes on {node}, which `dwell volume ls {instance}` lists; `dwell move {instance} --volumes` copies them to \
         the other node, and stops it for as long as what has changed meanwhile takes"
    )]
    Pinned {
        /// Which one.
        instance: InstanceName,
        /// Where it is.
        node: NodeName,
    },
    /// A node's agent is of a version that does not know how to copy volumes.
    #[error(
        "{instance} has volumes, and the agent on {node} is of a version that does not copy them; upgrade it"
    )]
    OldAgent {
        /// Which one.
        instance: InstanceName,
        /// Whose agent.
        node: NodeName,
    },
    /// The node where it was to go has a volume of that name.
    #[error(
        "{} has an older copy of volume {} of {}; delete it first: `dwell volume rm {} {} --node {}`",
        volume.node, volume.name, volume.instance, volume.instance, volume.name, volume.node
    )]
    HasOne {
        /// Which volume.
        volume: VolumeKey,
    },
    /// Its node has not said that it has the volume.
    #[error(
        "{} has not said that it has volume {} of {}; try again when {} runs",
        volume.node, volume.name, volume.instance, volume.instance
    )]
    NotSeen {
        /// Which volume.
        volume: VolumeKey,
    },
    /// There is no move with volumes to call off.
    #[error("{0} is not being moved with its volumes, so there is nothing to call off")]
    NotMoving(InstanceName),
    /// It runs where it goes already.
    #[error(
        "{instance} has changed over to {to} already and comes back by itself if it does not hold there; `dwell move {instance} \
         --volumes` moves it back once it holds"
    )]
    ChangedOver {
        /// Which one.
        instance: InstanceName,
        /// Where it is.
        to: NodeName,
    },
    /// It is between two versions, or has just been moved.
    #[error(
        "{0} is being changed; wait until that holds or is put back, which `dwell ps {0}` shows"
    )]
    Changing(InstanceName),
    /// The node that was asked for does not take it.
    #[error("{instance} cannot go to {node}, which {misfit}")]
    NoPlace {
        /// Which one.
        instance: InstanceName,
        /// Where it was to go.
        node: NodeName,
        /// Why not.
        misfit: Misfit,
    },
    /// No other node takes it.
    #[error("no other node takes {instance}: {reason}")]
    Nowhere {
        /// Which one.
        instance: InstanceName,
        /// Why not.
        reason: Reason,
    },
    /// The node that was asked for runs no instances.
    #[error("{0} takes no instances: it joined for the routes alone")]
    RoutesOnly(NodeName),
}
