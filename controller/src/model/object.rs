//! The objects of the model: what is declared, what was decided, and what was last heard.
//!
//! *Durable* objects ([`Workload`], [`Version`](super::Version), [`Instance`], [`Node`], [`JoinToken`], [`KeySet`], [`Registry`],
//! [`Event`], [`Quarantine`], [`Reserved`]) go to the store; *volatile* ones ([`Link`], [`Observed`], [`Waiting`], [`Unmet`]) are heard again
//! from the nodes, or decided again, after a restart.

mod node;
mod waiting;

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::foreign::Adoption;
use dwell_core::id::{
    Generation, Incarnation, InstanceName, KeySetName, NodeName, Revision, Term, VersionNumber,
    WorkloadName,
};
use dwell_core::image::ImageDigest;
use dwell_core::instance::{Custody, InstanceStatus, Phase, RunState};
use dwell_core::net::Mac;
use dwell_core::registry::{RegistryHost, RegistryLogin};
use dwell_core::workload::{Resources, WorkloadSpec};
use serde::{Deserialize, Serialize};

pub use self::node::{Elsewhere, JoinToken, Link, Node, SessionId, TokenId};
pub use self::waiting::{Demand, Unmet, Waiting, WaitingCause};
use super::arrivals::Heading;
use super::downtime::Downtimes;
use super::drains::Evacuated;
use super::jobs::{InstanceTask, JobRun};
use super::lost::Fence;
use super::machines::Root;
use super::sizes::OwnSize;
use super::versions::{FailedWith, Form, Pause, by_number};
use super::volume_moves::VolumeMove;

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
    /// How long changes of its instances took them down.
    #[serde(default, skip_serializing_if = "Downtimes::is_empty")]
    pub downtimes: Downtimes,
    /// How far it is, if it is a job.
    #[serde(default, skip_serializing_if = "JobRun::is_new")]
    pub job: JobRun,
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
    /// Its address, from its first placement on (a static one from its creation on) its own until an operator lets go of it.
    pub identity: Option<Identity>,
    /// It gets an address of the block of its next node, once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_address: bool,
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
    /// The version that it did not hold with last: it is not given that one again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedWith>,
    /// Whether it is to run.
    pub run: RunState,
    /// How often a restart was asked for.
    pub restarts_asked: u64,
    /// Of which edition its container is to be: the generation at which somebody asked for it to be made anew, 0 if nobody has.
    #[serde(default, skip_serializing_if = "Generation::is_zero")]
    pub edition: Generation,
    /// The edition that is put up again if the container that is made anew does not hold. `None` once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edition_before: Option<Generation>,
    /// What is known of its root, if it is a machine.
    #[serde(default, skip_serializing_if = "Root::is_unknown")]
    pub root: Root,
    /// The same of the root that comes back if a new one does not hold. `None` once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_before: Option<Box<Root>>,
    /// Which of its workload's restarts have been passed on to it.
    pub workload_restarts: u64,
    /// Where the rollout is with it.
    pub update: UpdateState,
    /// What its node is promised beside its share, for a new container that is tried while the old one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_share: Option<Resources>,
    /// Limits that an operator has set for it alone.
    #[serde(default, skip_serializing_if = "OwnSize::is_none")]
    pub own_size: OwnSize,
    /// What its own size was before the change that its node has not yet answered; `None` if there is no such change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_size_before: Option<OwnSize>,
    /// Whether its own size is kept to although it uses more than that allows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_size_forced: bool,
    /// Where it is, or may be, running.
    pub node: Option<NodeName>,
    /// It goes to another node with its volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_move: Option<Box<VolumeMove>>,
    /// It goes to another node once its image is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heading: Option<Box<Heading>>,
    /// Its node was told to let go of it.
    pub leaving: Option<Leaving>,
    /// A drain moved it, and it has not held since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evacuated: Option<Evacuated>,
    /// For how long it is reached on a node that is lost, as far as that is certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// What it has to complete, if it is of a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<InstanceTask>,
    /// It goes away for good once its node has let go of it.
    pub removing: bool,
    /// Whether its container is looked after. One that is let go is `removing` and not `leaving`.
    #[serde(default, skip_serializing_if = "Custody::is_usual")]
    pub custody: Custody,
    /// The container in whose place it is put, until it has held there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopts: Option<Box<Adoption>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The revision at which it was made: tells it from an earlier instance of the same name.
    #[serde(default = "Instance::first_life")]
    pub life: Revision,
    /// The newest end of its main process that was written down: its number on its node, and when that run was
    /// started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<(u64, Timestamp)>,
    /// The hook before a stop that failed last and is an event, by when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_hook_failed: Option<Timestamp>,
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
    /// Its readiness check failed in this run.
    #[serde(default)]
    pub is_unready: bool,
}

impl Instance {
    /// Of instances that were stored when nobody told lives apart.
    fn first_life() -> Revision {
        Revision(1)
    }

    /// Where [room](Instance::share_there) is kept for it beside where it is.
    #[must_use]
    pub fn arrives_on(&self) -> Option<&NodeName> {
        let leads_to = self.leaving.as_ref().and_then(|leaving| leaving.to.as_ref());
        // A node may have it already, by what was known before a restore.
        let heading = self.heading.as_deref().map(|heading| &heading.to);
        let heading = heading.filter(|to| self.node.as_ref() != Some(*to));
        leads_to.or(heading).or_else(|| self.volume_move.as_deref()?.keeps_room_on())
    }

    /// How much room is kept for it where it goes.
    #[must_use]
    pub fn share_there(&self) -> Resources {
        let heading = self.heading.as_deref().filter(|_| self.leaving.is_none());
        self.share().max(heading.map(|heading| heading.room).unwrap_or_default())
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
    /// On whose request it happened; empty if on nobody's, or if the event is older than such notes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
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

/// A released address that nobody but its last owner gets for a while, or one that is in use where the ledger does not have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The address.
    pub address: Ipv4Addr,
    /// Whose it was.
    pub owner: InstanceName,
    /// Until when.
    pub until: Timestamp,
    /// The node on which its owner may still have it; nobody gets it before that node has let go of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_use_on: Option<NodeName>,
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
