//! Why instances wait, for people and for the next look at the nodes.

use std::fmt;
use std::sync::Arc;

use dwell_core::id::{InstanceName, NodeName, VolumeName, WorkloadName};
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::skill::Skill;
use dwell_core::workload::Resources;
use dwell_scheduler::Reason;

use crate::model::volumes::{VolumeKey, VolumeState, why_not_there};

/// Why an instance has no node, or cannot leave the one it has. Volatile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which instance.
    pub instance: InstanceName,
    /// Why.
    pub cause: WaitingCause,
}

impl Waiting {
    /// The demand that no node meets, if that is the cause.
    #[must_use]
    pub fn demand(&self) -> Option<&Demand> {
        match &self.cause {
            WaitingCause::Unplaced(demand) => Some(demand),
            _ => None,
        }
    }
}

/// What an instance waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingCause {
    /// No node meets what it wants; why is in the [`Unmet`] of this demand.
    Unplaced(Demand),
    /// As many of its job are at work as may be at once.
    Turn {
        /// How many that is.
        at_once: u32,
    },
    /// The address that was declared for it is not to be had; the text says whose it is.
    Address(String),
    /// It should move, but its volumes are on its node.
    Pinned,
    /// Its new container is to run beside the old one for a while, and its node has no room for both: this is missing there.
    NoSecondShare(Resources),
    /// Its next container is to take files along, and its node's agent carries none over.
    CarriesNothing,
    /// Something is declared of which its node's agent does not know.
    Lacks(Skill),
    /// It should grow, but its node is full, and its volumes are there.
    NoRoom,
    /// Its volume is on a node that does not take it now.
    VolumeAt {
        /// Which volume.
        volume: VolumeName,
        /// Where it is.
        node: NodeName,
        /// Why it cannot go there.
        reason: Arc<Reason>,
    },
    /// Its volume cannot be used.
    Volume {
        /// Whose.
        instance: InstanceName,
        /// Which volume.
        volume: VolumeName,
        /// Where it is, or was.
        node: NodeName,
        /// What became of it.
        state: VolumeState,
    },
    /// Its node had its volume and does not have it any more.
    VolumeMissing {
        /// Which one.
        key: VolumeKey,
        /// The nodes that have an older one.
        older: Vec<NodeName>,
    },
    /// Several nodes have its volume, and which has the newest is not known.
    VolumeInDoubt {
        /// Whose.
        instance: InstanceName,
        /// Which volume.
        volume: VolumeName,
        /// The nodes.
        nodes: Vec<NodeName>,
    },
    /// Two of its volumes are on two nodes.
    VolumesApart {
        /// One of them, and where it is.
        one: (VolumeName, NodeName),
        /// The other one.
        other: (VolumeName, NodeName),
    },
}

impl fmt::Display for WaitingCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unplaced(_) => f.write_str("waits for a node that fits"),
            Self::Turn { at_once } => {
                write!(f, "waits for its turn: job.parallelism lets {at_once} be at work at once")
            }
            Self::Address(refusal) => f.write_str(refusal),
            Self::Pinned => f.write_str("its volumes are on this node, so it stays"),
            Self::NoSecondShare(missing) => {
                let mut parts = Vec::new();
                if missing.cpu != Millicores(0) {
                    parts.push(format!("cpu {}", missing.cpu));
                }
                if missing.memory != Bytes(0) {
                    parts.push(format!("memory {}", missing.memory));
                }
                write!(
                    f,
                    "its node lacks {} for a second share, to start its new container beside the old one; make room, or declare \
                     \"update: {{order: stop-first}}\"",
                    parts.join(" and ")
                )
            }
            Self::CarriesNothing => f.write_str(
                "it is to take files along (`carry`), and the agent on its node is of a version that carries none over; upgrade it",
            ),
            Self::Lacks(skill) => write!(
                f,
                "the agent on its node is of a version that does not know {skill}; upgrade it"
            ),
            Self::NoRoom => f.write_str(
                "what it is to become does not fit on this node, and its volumes are here",
            ),
            Self::VolumeAt { volume, node, reason } => {
                write!(f, "its volume {volume} is on {node}, which {}", why_not_there(node, reason))
            }
            Self::Volume { instance, volume, node, state } => match state {
                VolumeState::Deleting { .. } => {
                    write!(f, "waits until {node} has deleted its volume {volume}")
                }
                VolumeState::Stale => write!(
                    f,
                    "{node} has an old copy of its volume {volume}; `dwell volume rm {instance} {volume}` deletes it"
                ),
                VolumeState::Lost | VolumeState::Kept | VolumeState::Copy => write!(
                    f,
                    "its volume {volume} was on {node}, which was removed; join {node} again with its data, or give the \
                     data up with `dwell volume rm {instance} {volume}`"
                ),
            },
            Self::VolumeMissing { key: VolumeKey { instance, name, node }, older } => {
                write!(
                    f,
                    "its volume {name} was on {node} and is not there any more; bring it back, or give the data up with `dwell \
                     volume rm {instance} {name} --node {node}`"
                )?;
                match &older[..] {
                    [] => Ok(()),
                    older => write!(f, ", and it gets the older one of {}", listed(older)),
                }
            }
            Self::VolumeInDoubt { instance, volume, nodes } => write!(
                f,
                "{} each have its volume {volume}, and which has the newest is not known; look at them, and delete the others \
                 with `dwell volume rm {instance} {volume} --node NODE`",
                listed(nodes)
            ),
            Self::VolumesApart { one, other } => write!(
                f,
                "its volume {} is on {}, but {} is on {}; delete one of them with `dwell volume rm`",
                one.0, one.1, other.0, other.1
            ),
        }
    }
}

/// Names in words: `h1 and h2`.
fn listed(nodes: &[NodeName]) -> String {
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    names.join(" and ")
}

/// What instances want of a node that are the same to the scheduler: all with one demand get one answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Demand {
    /// Whose they are, and so where they may go, and from which others they keep apart.
    pub workload: WorkloadName,
    /// Processor time for each.
    pub cpu: Millicores,
    /// Memory for each.
    pub memory: Bytes,
    /// Whether each takes an address of its node's block.
    pub takes_address: bool,
}

impl Demand {
    /// What each of them takes of a node.
    #[must_use]
    pub fn request(&self) -> Resources {
        Resources { cpu: self.cpu, memory: self.memory }
    }
}

/// No node meets a demand. Volatile; there until something changes that could meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// Which.
    pub demand: Demand,
    /// Why.
    pub reason: Reason,
}

impl Unmet {
    /// As an object.
    #[must_use]
    pub fn of(demand: Demand, reason: Reason) -> Arc<Self> {
        Arc::new(Self { demand, reason })
    }
}
