//! The objects of the model: what is declared, what was decided, and what was last heard.
//!
//! *Durable* objects ([`Workload`], [`Version`](super::Version), [`Instance`], [`Node`], [`JoinToken`], [`KeySet`], [`Registry`],
//! [`Event`], [`Quarantine`], [`Reserved`]) go to the store; *volatile* ones ([`Link`], [`Observed`], [`Waiting`], [`Unmet`]) are heard again
//! from the nodes, or decided again, after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::host_mark::HostMark;
use dwell_core::id::{
    Generation, Incarnation, InstanceName, KeySetName, NodeName, PoolName, Revision, Term,
    VersionNumber, VolumeName, WorkloadName,
};
use dwell_core::image::ImageDigest;
use dwell_core::instance::{InstanceStatus, Phase, RunState};
use dwell_core::net::Mac;
use dwell_core::node::{Capacity, NodeState};
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::registry::{RegistryHost, RegistryLogin};
use dwell_core::workload::{Resources, WorkloadSpec};
use dwell_scheduler::Reason;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::versions::{Form, Pause, by_number};
use super::volumes::{VolumeState, why_not_there};

/// A declared workload.
///
/// ```text
///   declared ──remove──▶ removing ──last instance gone──▶ (deleted)
///       ▲                   │
///       └──── apply again ──┘
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// What was declared last.
    pub spec: WorkloadSpec,
    /// Counts its changes.
    pub generation: Generation,
    /// Whether new instances are to run.
    pub run: RunState,
    /// How often a restart of all its instances was asked for.
    pub restarts_asked: u64,
    /// Why no instance is given its newest version.
    pub paused: Option<Pause>,
    /// The version that a whole rollout has proved last: what others fall back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<VersionNumber>,
    /// It goes away once its instances are gone.
    pub removing: bool,
    /// When it was first declared.
    pub created_at: Timestamp,
    /// Of its last change.
    pub revision: Revision,
}

/// One copy of a workload.
///
/// ```text
///   pending ──placed──▶ assigned ──release──▶ leaving ──confirmed gone──▶ pending, or assigned to
///  (no node)             (node)            (node, leaving)                `leaving.to`, or deleted
/// ```
///
/// Invariant: `node` is the only node that may have a container of it. It changes only when that node
/// has confirmed, under an assignment at or after `leaving.since`, that nothing of it is there, or
/// when an operator has vouched for it by removing the node by force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub name: InstanceName,
    /// Its address, from its first placement on (a static one from its creation on) its own for life.
    pub identity: Option<Identity>,
    /// Its fencing token; grows with every change of its template and every move.
    pub generation: Generation,
    /// What it is to be. Behind the workload's newest version until the rollout reaches it.
    #[serde(with = "by_number", alias = "template")]
    pub wanted: Arc<Form>,
    /// The version that it last held with; `None` if it never has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<VersionNumber>,
    /// What is put up again if it does not hold with what it is to be. `None` once it has, and if there is nothing.
    #[serde(default, with = "by_number::optional", skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Arc<Form>>,
    /// What it was to be before, if nobody has said what became of it as that: its node may have found that it holds, and
    /// then puts it up again by itself. The node is not told to fall back to it.
    #[serde(default, with = "by_number::optional", skip_serializing_if = "Option::is_none")]
    pub unseen: Option<Arc<Form>>,
    /// Whether it is to run.
    pub run: RunState,
    /// How often a restart was asked for.
    pub restarts_asked: u64,
    /// Which of its workload's restarts have been passed on to it.
    pub workload_restarts: u64,
    /// Where the rollout is with it.
    pub update: UpdateState,
    /// Where it is, or may be, running.
    pub node: Option<NodeName>,
    /// Its node was told to let go of it.
    pub leaving: Option<Leaving>,
    /// It goes away for good once its node has let go of it.
    pub removing: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// The revision at which it was made: tells it from an earlier instance of the same name.
    #[serde(default = "Instance::first_life")]
    pub life: Revision,
    /// The newest end of its main process that was written down: its number on its node, and when that run was
    /// started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<(u64, Timestamp)>,
    /// What of its state was written down last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    /// The image that it was last seen to run with, if its version means another; that was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_image: Option<ImageDigest>,
    /// Of its last change.
    pub revision: Revision,
}

/// A state of an instance that was written into the fleet's diary. It is durable with the event, so that neither a new
/// stream of its node nor a restart of the controller tells the same again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// One of running, backoff and failed.
    pub phase: Phase,
    /// Which run of its main process that was, if it ran.
    pub started_at: Option<Timestamp>,
    /// Its health check failed in this run.
    pub is_unhealthy: bool,
}

impl Instance {
    /// Of instances that were stored when nobody told lives apart.
    fn first_life() -> Revision {
        Revision(1)
    }

    /// The node that is told to run it.
    #[must_use]
    pub fn assigned_to(&self) -> Option<&NodeName> {
        self.node.as_ref().filter(|_| self.leaving.is_none())
    }
}

/// What an instance is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// IPv4 address.
    pub address: Ipv4Addr,
    /// Hardware address.
    pub mac: Mac,
}

/// An instance on its way off a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// The revision from which on it is not in the node's assignment.
    pub since: Revision,
    /// Where it goes; resources are kept for it there.
    pub to: Option<NodeName>,
}

/// Where the rollout is with an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateState {
    /// As declared.
    #[default]
    Current,
    /// Its turn will come.
    #[serde(alias = "failed")]
    Due,
    /// It has been told to change and has not yet been seen running so.
    Updating,
}

/// A host that has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its address in the underlay: the next hop of its block.
    pub address: Ipv4Addr,
    /// Where its instances' addresses come from; `None` for a node that only wants the routes, or was removed.
    pub block: Option<Ipv4Net>,
    /// The pool it is in.
    pub pool: Option<PoolName>,
    /// Free words that constraints can ask for.
    pub labels: BTreeMap<String, String>,
    /// Nothing new is placed here.
    pub cordoned: bool,
    /// Its instances are moved elsewhere.
    pub draining: bool,
    /// A tombstone: should the host return, it is told to run nothing.
    pub removed: bool,
    /// Two hosts were seen with its identity, and nobody can tell which is the node: neither is served until an operator
    /// admits it again.
    #[serde(default)]
    pub contested: bool,
    /// The machine it is on; `None` until an agent that can tell has attached.
    #[serde(default)]
    pub host_mark: Option<HostMark>,
    /// Another machine that has attached with its identity last. That one is not served until an operator admits the
    /// node again.
    #[serde(default)]
    pub elsewhere: Option<Elsewhere>,
    /// Its enrolment, SHA-256 of the key with which it joined, in hexadecimal: certificates of an
    /// earlier enrolment under its name are worth nothing.
    pub enrolment: String,
    /// When it joined.
    pub created_at: Timestamp,
    /// Of its last change.
    pub revision: Revision,
}

/// A machine that has attached with the identity of a node that is on another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// The machine.
    pub host_mark: HostMark,
    /// Where it attached from.
    pub address: Ipv4Addr,
    /// An operator has admitted the node again: whichever of the two machines attaches next is the node.
    pub admitted: bool,
}

impl Node {
    /// The other machine with its identity, if an operator has yet to decide.
    #[must_use]
    pub fn undecided(&self) -> Option<&Elsewhere> {
        self.elsewhere.as_ref().filter(|elsewhere| !elsewhere.admitted)
    }
}

/// Permission for one host to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Its public half.
    pub id: TokenId,
    /// SHA-256 of its secret half.
    pub digest: [u8; 32],
    /// From when on it is worth nothing.
    pub expires_at: Timestamp,
    /// Who joined with it.
    pub used_by: Option<NodeName>,
    /// Of its last change.
    pub revision: Revision,
}

/// Names a [`JoinToken`]; chosen at random by whoever mints it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub String);

/// A named list of public keys that may log in to instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySet {
    /// Its name.
    pub name: KeySetName,
    /// The keys, in the order in which they came; each fingerprint once.
    pub keys: Vec<AuthorizedKey>,
    /// Of its last change.
    pub revision: Revision,
}

/// A public key, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizedKey {
    /// The line as in OpenSSH's `authorized_keys`.
    pub line: String,
    /// The key's fingerprint, such as `SHA256:…`.
    pub fingerprint: String,
    /// The line's comment, often `WHO@WHERE`; may be empty.
    pub comment: String,
}

/// That the cluster is logged in to a registry of images, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// Which registry.
    pub host: RegistryHost,
    /// As whom, with what, and when. The password is shown to nobody but to nodes that pull from there.
    pub login: RegistryLogin,
    /// When somebody logged in last.
    pub changed_at: Timestamp,
    /// Who did; empty if that is not known.
    pub by: String,
}

/// Something that happened. Its revision is its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When in the order of all changes.
    pub revision: Revision,
    /// When by the controller's clock.
    pub at: Timestamp,
    /// Whether someone should look at it.
    pub severity: Severity,
    /// What it is about.
    pub subject: Subject,
    /// A stable word for programs, such as `instance-placed`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Something is not as declared.
    Warning,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A workload.
    Workload(WorkloadName),
    /// An instance.
    Instance(InstanceName),
    /// A node.
    Node(NodeName),
    /// None of these.
    Cluster,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name) => write!(f, "workload/{name}"),
            Self::Instance(name) => write!(f, "instance/{name}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Cluster => f.write_str("cluster"),
        }
    }
}

/// A released address that nobody but its last owner gets for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The address.
    pub address: Ipv4Addr,
    /// Whose it was.
    pub owner: InstanceName,
    /// Until when.
    pub until: Timestamp,
}

/// Revisions up to this one may have been given out; a restarted controller continues beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// The last one.
    pub revision: Revision,
}

/// Which history of the controller this is. There is one record of it.
///
/// ```text
///   first start ──▶ incarnation A, term 1, 2, 3 … ──store is older than what was seen──▶ incarnation B, restored
///                                                                                            │ an operator confirms
///                                                                                            ▼
///                                                                                       incarnation B
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Its name.
    pub incarnation: Incarnation,
    /// How often the controller has started, over all histories.
    pub term: Term,
    /// Earlier histories that this one goes on from, the newest last; at most [`History::PAST_MAX`].
    #[serde(default)]
    pub past: Vec<Incarnation>,
    /// It goes on from a backup, and no operator has confirmed yet that what is known is right.
    #[serde(default)]
    pub restored: Option<Restored>,
    /// Of its last change.
    pub revision: Revision,
}

impl History {
    /// How many earlier histories are remembered.
    pub const PAST_MAX: usize = 64;
}

/// How a restore from a backup was noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When.
    pub at: Timestamp,
    /// By what, for people.
    pub reason: String,
    /// Nodes that the backup did not know, and that proved to have joined after it.
    #[serde(default)]
    pub adopted: BTreeSet<NodeName>,
}

/// How far the store is: the revision of the newest change in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Of the newest change.
    pub revision: Revision,
}

/// The connection to a node. Volatile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Which node.
    pub node: NodeName,
    /// Its stream, if it has one.
    pub session: Option<SessionId>,
    /// How sure we are of it.
    pub state: NodeState,
    /// What it has; unknown until it has been heard of since the controller's start.
    pub capacity: Option<Arc<Capacity>>,
    /// The assignment's revision it has stored.
    pub acknowledged: Revision,
    /// Why it cannot be told what it is to do; empty if it can.
    pub unserved: String,
    /// The revision of the assignment that its last report was made under, once this stream has brought a complete one.
    pub reported: Option<Revision>,
    /// Of its last change.
    pub revision: Revision,
}

/// Numbers the streams of agents; given by the sessions, unique over a controller's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What a node last said of an instance. Volatile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Who said so.
    pub node: NodeName,
    /// On which stream.
    pub session: SessionId,
    /// What.
    pub status: InstanceStatus,
    /// Of its last change.
    pub revision: Revision,
}

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
    /// The address that was declared for it is not to be had; the text says whose it is.
    Address(String),
    /// It should move, but its volumes are on its node.
    Pinned,
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
            Self::Address(refusal) => f.write_str(refusal),
            Self::Pinned => f.write_str("its volumes are on this node, so it stays"),
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
                VolumeState::Lost | VolumeState::Kept => write!(
                    f,
                    "its volume {volume} was on {node}, which was removed; join {node} again with its data, or give the \
                     data up with `dwell volume rm {instance} {volume}`"
                ),
            },
            Self::VolumesApart { one, other } => write!(
                f,
                "its volume {} is on {}, but {} is on {}; delete one of them with `dwell volume rm`",
                one.0, one.1, other.0, other.1
            ),
        }
    }
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
