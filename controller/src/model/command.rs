//! What the model can be asked to do, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use dwell_core::access::{Client, Issuer};
use dwell_core::clock::Timestamp;
use dwell_core::foreign::Adoption;
use dwell_core::host_mark::HostMark;
use dwell_core::id::{
    Incarnation, InstanceName, KeySetName, NodeName, PoolName, Position, Revision, VersionNumber,
    VolumeName, WorkloadName,
};
use dwell_core::instance::RunState;
use dwell_core::node::Capacity;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::registry::{RegistryHost, RegistryLogin};
use dwell_core::session::{Hello, RebootFailed, SshEvents, StatusReport};
use dwell_core::workload::WorkloadSpec;
use ipnet::Ipv4Net;

use super::arrivals::{Arrival, ArrivalNews};

use super::contexts::Context;
use super::object::{AuthorizedKey, SessionId, Subject, TokenId};
use super::plan::WorkloadPlan;
use super::reboots::RebootHow;
use super::record::Change;
use super::refusal::Refusal;
use super::sizes::OwnSizeChange;
use super::volume_moves::VolumeMoveNews;

/// What the model can be asked to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// The controller starts. To be given once, before anything else.
    Begin {
        /// A name for a history, chosen at random.
        fresh: Incarnation,
        /// Why the store is not the newest; `None` if nothing speaks against it.
        evidence: Option<String>,
    },
    /// An operator vouches that what is known after a restore is right.
    ConfirmRestore {
        /// Although some nodes have not said what they hold.
        force: bool,
    },
    /// Declare workloads, all or none. Answered with [`Reply::Plans`].
    ApplyWorkloads {
        /// At most [`WORKLOADS_MAX`], with at most [`DECLARED_MAX`] instances.
        specs: Vec<WorkloadSpec>,
        /// Of these, a workload that exists keeps its number of instances, whatever its specification says.
        keep_replicas: BTreeSet<WorkloadName>,
        /// Only say what would change.
        dry_run: bool,
        /// Set limits although an instance uses more than they allow.
        force: bool,
        /// Do it only if it does what these plans say, one for each workload: see [`WorkloadPlan::digest`]. Empty to do it
        /// whatever it does.
        planned: Vec<String>,
        /// Who declares them, for their history; empty if that is not known.
        by: String,
    },
    /// Declare anew what an earlier version of a workload says. Answered with [`Reply::Plans`].
    RollBack {
        /// Which workload.
        workload: WorkloadName,
        /// Which version; `None` for the good one, or else the last before the newest that was not ruled out.
        to: Option<VersionNumber>,
        /// Only say what would change.
        dry_run: bool,
        /// Who wants it; empty if that is not known.
        by: String,
    },
    /// Declare anew what a workload says, with other limits. Answered with [`Reply::Plans`].
    Resize {
        /// Which workload.
        workload: WorkloadName,
        /// What changes of its limits.
        size: Size,
        /// Only say what would change.
        dry_run: bool,
        /// Set limits although an instance uses more than they allow.
        force: bool,
        /// Who wants it; empty if that is not known.
        by: String,
    },
    /// Give one instance limits of its own, or take them back. Answered with [`Reply::Plans`].
    ResizeInstance {
        /// Which instance.
        instance: InstanceName,
        /// What changes of its limits.
        size: OwnSizeChange,
        /// Only say what would change.
        dry_run: bool,
        /// Set limits although an instance uses more than they allow.
        force: bool,
    },
    /// Give no further instance of a workload its newest version.
    Pause {
        /// Which workload.
        workload: WorkloadName,
        /// Who wants it; empty if that is not known.
        by: String,
    },
    /// Go on with a rollout that somebody paused.
    Resume(WorkloadName),
    /// Give the version that canaries try out to all instances.
    Promote(WorkloadName),
    /// Take a rollout that has not come to its end back to the good version. Answered with [`Reply::Plans`].
    Abort {
        /// Which workload.
        workload: WorkloadName,
        /// Who wants it; empty if that is not known.
        by: String,
    },
    /// Take a workload and all its instances away.
    RemoveWorkload(WorkloadName),
    /// Change how many instances a workload has.
    Scale {
        /// Which workload.
        workload: WorkloadName,
        /// How many.
        replicas: u32,
    },
    /// Change how many instances workloads have, all or none; at most [`WORKLOADS_MAX`].
    ScaleAll(Vec<(WorkloadName, u32)>),
    /// Start or stop; identity and data stay.
    SetRun {
        /// What.
        target: Target,
        /// Whether it is to run.
        run: RunState,
    },
    /// Restart main processes.
    Restart(Target),
    /// Send instances to another node. Answered with [`Reply::Moves`].
    MoveInstances {
        /// Which ones, all or none; at most [`NAMED_MAX`].
        instances: Vec<InstanceName>,
        /// Where to; `None` for the best other node of each.
        to: Option<NodeName>,
        /// Whether they get addresses of the blocks of their new nodes.
        new_address: bool,
        /// What becomes of their volumes.
        how: MoveHow,
        /// Only say where they would go.
        dry_run: bool,
    },
    /// What came of fetching an image for an instance that goes to another node.
    NoteArrival {
        /// For which instance, and where.
        arrival: Arrival,
        /// What.
        news: ArrivalNews,
    },
    /// What came of copying the volumes of an instance.
    NoteVolumeMove {
        /// Whose.
        instance: InstanceName,
        /// For which move.
        of_move: Revision,
        /// What.
        news: VolumeMoveNews,
    },
    /// Make the containers of chosen instances anew, all or none, at most [`NAMED_MAX`]; the present ones are fallen back to.
    ReplaceInstances(BTreeSet<InstanceName>),
    /// Have the roots of these machines made anew, with a container to each.
    RebuildInstances(BTreeSet<InstanceName>),
    /// Have chosen instances leave their nodes and come back with addresses of their nodes' blocks, all or none, at most
    /// [`NAMED_MAX`].
    ReaddressInstances(BTreeSet<InstanceName>),
    /// Take chosen instances away, all or none, at most [`NAMED_MAX`]; their workloads have as many fewer from then on.
    RemoveInstances(BTreeSet<InstanceName>),
    /// Let go of chosen instances, all or none, at most [`NAMED_MAX`]: their containers stay, and their workloads have as many
    /// fewer.
    DissociateInstances(BTreeSet<InstanceName>),
    /// Take chosen instances back that were let go, all or none, at most [`NAMED_MAX`]; their workloads have as many more.
    AdoptInstances(BTreeSet<InstanceName>),
    /// Put the one instance of a new workload in the place of a container that dwell did not make. Answered with [`Reply::Plans`].
    AdoptContainer {
        /// What is declared; it may be on that node alone.
        spec: Box<WorkloadSpec>,
        /// Where the container is.
        node: NodeName,
        /// What its node is to do.
        adoption: Box<Adoption>,
        /// Only say what would change.
        dry_run: bool,
        /// Who wants it; empty if that is not known.
        by: String,
    },
    /// Make a token with which one host can join.
    MintToken {
        /// Its public half, chosen at random.
        id: TokenId,
        /// SHA-256 of its secret half.
        digest: [u8; 32],
        /// From when on it is worth nothing.
        expires_at: Timestamp,
    },
    /// A host joins. Answered with [`Reply::Joined`].
    RedeemToken(Join),
    /// A host that is not known attaches with a certificate of the cluster's CA: it joined after the backup that this store
    /// is, if it is one.
    AdoptNode {
        /// The name in the certificate.
        node: NodeName,
        /// The enrolment in it.
        enrolment: String,
        /// How its stream begins.
        hello: Box<Hello>,
    },
    /// An agent's stream begins; an earlier stream of the same node is worth nothing from now on.
    AttachNode {
        /// Which node.
        node: NodeName,
        /// The enrolment in its certificate: a stream that was begun under an earlier one is not the node's.
        enrolment: String,
        /// Its stream.
        session: SessionId,
        /// Where it is, what it has, what it holds and what is there.
        hello: Box<Hello>,
    },
    /// A node says what it saw.
    NodeStatus {
        /// Which node.
        node: NodeName,
        /// On which stream.
        session: SessionId,
        /// What.
        report: StatusReport,
    },
    /// A node lives.
    Heartbeat {
        /// Which node.
        node: NodeName,
        /// On which stream.
        session: SessionId,
        /// What it has, if that changed.
        capacity: Option<Capacity>,
    },
    /// A node has stored its assignment.
    Acknowledge {
        /// Which node.
        node: NodeName,
        /// On which stream.
        session: SessionId,
        /// Up to where.
        stored: Position,
    },
    /// An agent's stream has ended.
    DetachNode {
        /// Which node.
        node: NodeName,
        /// Which stream.
        session: SessionId,
    },
    /// Give a node more addresses, or others. Answered with [`Reply::Block`].
    ChangeBlocks {
        /// Which one.
        node: NodeName,
        /// What.
        change: BlockChange,
    },
    /// Cordon, drain, label a node, or put it into a pool.
    UpdateNode {
        /// Which node.
        node: NodeName,
        /// What changes.
        change: NodeChange,
    },
    /// Reboot nodes, one after the other or a few at once, all or none. Answered with [`Reply::Reboot`].
    RebootNodes(RebootPlan),
    /// End the reboot that is under way. Answered with [`Reply::Rebooting`].
    CancelReboot,
    /// A node could not reboot as it was ordered to.
    NoteRebootFailed {
        /// Which node.
        node: NodeName,
        /// On which stream.
        session: SessionId,
        /// Which order, and why.
        failed: RebootFailed,
    },
    /// Take a node out of the cluster.
    RemoveNode {
        /// Which node.
        node: NodeName,
        /// Although instances are there: they are placed elsewhere, at once if the node is down or if it was removed
        /// before, else when it has said that they have ended.
        force: bool,
    },
    /// A host is back whose name is another host's by now.
    NoteDismissed {
        /// The name.
        node: NodeName,
        /// Its enrolment.
        enrolment: String,
        /// Where it is.
        address: Ipv4Addr,
        /// How many instances it says that it was told to run.
        instances: usize,
    },
    /// Change which public keys a set has; it is made if need be.
    UpdateKeySet {
        /// Which set.
        name: KeySetName,
        /// Keys to add.
        add: Vec<AuthorizedKey>,
        /// Fingerprints, comments or lines of keys to take away, before the others are added.
        remove: Vec<String>,
    },
    /// Take a key set away.
    RemoveKeySet(KeySetName),
    /// Keep a login at a registry of images, in place of an earlier one.
    SetRegistryLogin {
        /// Which registry.
        host: RegistryHost,
        /// As whom and with what.
        login: RegistryLogin,
        /// Who asks for it.
        by: String,
    },
    /// Forget the login at a registry.
    RemoveRegistryLogin {
        /// Which registry.
        host: RegistryHost,
        /// Who asks for it.
        by: String,
    },
    /// A node says what happened on its instances' port 22.
    SshEvents {
        /// Which node.
        node: NodeName,
        /// On which stream.
        session: SessionId,
        /// What.
        told: SshEvents,
    },
    /// Delete a volume that nothing mounts.
    RemoveVolume {
        /// Whose.
        instance: InstanceName,
        /// Which of its volumes.
        volume: VolumeName,
        /// Which copy, if several nodes have one.
        node: Option<NodeName>,
    },
    /// Write into the fleet's diary what was done outside of the model.
    Note {
        /// What it is about.
        subject: Subject,
        /// A stable word for programs.
        reason: &'static str,
        /// A sentence for people.
        message: String,
    },
    /// A context was made, and is given out once that is stored.
    IssueContext(Client),
    /// A context was used. One that is not known was made before there was a list.
    NoteContext(Client),
    /// Take nothing more from a context, by its serial, or from all of a name.
    RevokeContext(String),
    /// A node has attached with a certificate that another of the cluster's authorities signed than the last one.
    NoteIssuer {
        /// Which node.
        node: NodeName,
        /// Its enrolment.
        enrolment: String,
        /// Who signed it.
        issuer: Issuer,
    },
    /// A stream of a node has taken the place of one that was alive and came from elsewhere.
    NoteSuperseded {
        /// Which node.
        node: NodeName,
        /// Where the earlier stream came from.
        earlier: IpAddr,
        /// Where the present one comes from.
        present: IpAddr,
    },
    /// A node cannot be told what it is to do; or, without a reason, it can be again.
    NoteUnserved {
        /// Which node.
        node: NodeName,
        /// On which stream.
        session: SessionId,
        /// Why, for people.
        reason: String,
    },
    /// Time has passed; to be given about once a second.
    Tick,
}

impl Command {
    /// Whether it tells what is heard of nodes, and is given again: such a command is done, as far as it
    /// can be, when the store cannot be written.
    #[must_use]
    pub fn is_volatile(&self) -> bool {
        matches!(
            self,
            Self::AttachNode { .. }
                | Self::NodeStatus { .. }
                | Self::Heartbeat { .. }
                | Self::Acknowledge { .. }
                | Self::DetachNode { .. }
                | Self::SshEvents { .. }
                | Self::NoteUnserved { .. }
                | Self::Tick
        )
    }
}

/// What becomes of the volumes of instances that move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MoveHow {
    /// What has volumes does not move.
    #[default]
    WithoutVolumes,
    /// They move along.
    WithVolumes,
    /// A move with volumes is called off.
    Abort,
}

/// The most workloads one command may declare.
pub const WORKLOADS_MAX: usize = 1_000;
/// The most instances that the workloads of one declaration have and had, since its answer may name each of them.
pub const DECLARED_MAX: u32 = 100_000;

/// The most instances that one command may name.
pub const NAMED_MAX: usize = 1_000;

/// Refuses a command that names too many instances.
///
/// # Errors
/// [`Refusal::TooManyNamed`].
pub(super) fn check_named(count: usize) -> Result<(), Refusal> {
    if count > NAMED_MAX { Err(Refusal::TooManyNamed(count)) } else { Ok(()) }
}

/// Other limits of the instances of a workload; what is `None` stays, and zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Processor time, promised and enforced.
    pub cpu: Option<Millicores>,
    /// Memory, promised and enforced.
    pub memory: Option<Bytes>,
    /// The most processes and threads.
    pub pids: Option<u32>,
}

/// All instances of a workload, or one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All of this workload.
    Workload(WorkloadName),
    /// This one.
    Instance(InstanceName),
}

/// A host that wants to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Which token it has.
    pub token: TokenId,
    /// SHA-256 of the secret it showed.
    pub digest: [u8; 32],
    /// The name it asks for.
    pub name: NodeName,
    /// Its address in the underlay.
    pub address: Ipv4Addr,
    /// Its enrolment: SHA-256 of the key with which it joins, in hexadecimal.
    pub enrolment: String,
    /// It runs no instances, it only wants the routes.
    pub routes_only: bool,
    /// The machine it is on, if that is known.
    pub host_mark: Option<HostMark>,
}

/// Which nodes are to be rebooted, in this order, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebootPlan {
    /// Which ones, each once.
    pub nodes: Vec<NodeName>,
    /// How.
    pub how: RebootHow,
}

/// Changes to a node; what is `None` or empty stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// Place nothing new there, or do again (which also ends a drain).
    pub cordoned: Option<bool>,
    /// Cordon it and move its instances elsewhere, or stop moving them (it stays cordoned).
    pub draining: Option<bool>,
    /// With `draining`: when it takes new instances again by itself.
    pub until: Option<Timestamp>,
    /// With `draining`: when the drain is given up if instances are left.
    pub deadline: Option<Timestamp>,
    /// Labels to add or replace.
    pub set_labels: BTreeMap<String, String>,
    /// Labels to take away.
    pub remove_labels: Vec<String>,
    /// The pool it is to be in, or none.
    pub pool: Option<Option<PoolName>>,
    /// Serve it again, after two hosts were seen with its identity.
    pub admit: bool,
    /// The address in the underlay at which all others reach it.
    pub address: Option<Ipv4Addr>,
}

impl NodeChange {
    /// Whether all instances stay where they are: the node is reached elsewhere, or is served again.
    #[must_use]
    pub fn leaves_instances_alone(&self) -> bool {
        self.admit || *self == Self { address: self.address, ..Self::default() }
    }
}

/// A change of the blocks that a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockChange {
    /// One more, or one that was retired again; `None` for the first that is free.
    Add(Option<Ipv4Net>),
    /// No address of it is given out any more, and it is free once nobody has one.
    Retire(Ipv4Net),
}

/// What came of an accepted command.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The answer for whoever asked.
    pub reply: Reply,
    /// What changed, to be committed and then published, or else reverted. Empty if nothing did.
    pub changes: Vec<Change>,
}

/// The answer to an accepted command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// A stream is not served, and that was noted.
    Unserved(Refusal),
    /// One plan for each workload declared, in that order.
    Plans(Vec<WorkloadPlan>),
    /// The block that a node has got, or that was retired.
    Block(Ipv4Net),
    /// The number of the reboot that has begun.
    Reboot(u64),
    /// Nodes that were told to reboot and are still waited for.
    Rebooting(Vec<NodeName>),
    /// Where each instance goes, in the order in which they were named.
    Moves(Vec<Moved>),
    /// The host is a node now.
    Joined {
        /// Where its instances' addresses come from.
        block: Option<Ipv4Net>,
    },
    /// The contexts that are revoked by that.
    Contexts(Vec<Arc<Context>>),
}

/// An instance that goes from node to node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Which one.
    pub instance: InstanceName,
    /// Where it is.
    pub from: NodeName,
    /// Where it goes; where it is, if it is there already.
    pub to: NodeName,
}
