//! Why the model does not do what it was asked to do. Nothing has changed then.

mod not_adopted;
mod not_let_go;
mod not_moved;
mod not_readdressed;
mod not_rebooted;
mod not_resized;
mod of_blocks;
mod of_job;

use std::net::Ipv4Addr;

use dwell_core::id::{
    ClientName, InstanceName, KeySetName, NodeName, VersionNumber, VolumeName, WorkloadName,
};
use dwell_core::instance::Counted;
use dwell_core::net::{ClusterRange, Ranges};
use dwell_core::quantity::Millis;
use dwell_core::registry::{LOGINS_MAX, RegistryHost};
use dwell_core::workload::SpecError;
use ipnet::Ipv4Net;

use super::command::{DECLARED_MAX, NAMED_MAX, WORKLOADS_MAX};
use super::contexts::CONTEXTS_MAX;
use super::key_sets::{KEY_SETS_MAX, KEYS_BYTES_MAX, KEYS_MAX};
use super::volumes::VolumeKey;

pub(super) use not_adopted::NotAdopted;
pub(super) use not_let_go::NotLetGo;
pub(super) use not_moved::NotMoved;
pub(super) use not_readdressed::NotReaddressed;
pub(super) use not_rebooted::NotRebooted;
pub(super) use not_resized::NotResized;
pub(super) use of_blocks::OfBlocks;
pub(super) use of_job::OfJob;

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The controller was restored and nobody has confirmed that.
    #[error(
        "the controller was restored from a backup, and nothing is changed until that is confirmed; look at `dwell \
         restore status`, then run `dwell restore confirm`"
    )]
    RestoreUnconfirmed,
    /// There is nothing to confirm.
    #[error("there is no restore to confirm; `dwell restore status` shows what is known")]
    NotRestored,
    /// Some nodes may hold what the controller has forgotten.
    #[error(
        "{count} nodes have not said since the restore what they run and which volumes they have, among them {example}; wait for \
         them and their engines, remove those that are gone with `dwell node rm --force NAME`, or use `--force` and risk that what \
         they run is started elsewhere, without its data"
    )]
    NodesNotHeard {
        /// How many.
        count: usize,
        /// One of them.
        example: NodeName,
    },
    /// No such workload.
    #[error("there is no workload {0}; `dwell ps` lists those there are")]
    NoWorkload(WorkloadName),
    /// No such instance.
    #[error("there is no instance {0}; `dwell ps` lists those there are")]
    NoInstance(InstanceName),
    /// No such node.
    #[error("there is no node {0}; `dwell node ls` lists those there are")]
    NoNode(NodeName),
    /// A declaration is wrong by itself.
    #[error("workload {workload}: {source}")]
    Spec {
        /// Which workload.
        workload: WorkloadName,
        /// What is wrong. Shown as part of the message, for it is the message.
        source: SpecError,
    },
    /// Something is to be replaced before its node counts as lost.
    #[error(
        "workload {workload}: on_lost: a node may be silent for {least} (`nodes.unreachable_after` of the controller), so \
         nothing is replaced after {after} already; write \"replace after {least}\" or more"
    )]
    ReplacedTooSoon {
        /// Which workload.
        workload: WorkloadName,
        /// What was asked for.
        after: Millis,
        /// The shortest time.
        least: Millis,
    },
    /// Too much at once.
    #[error("{0} workloads at once; declare at most {WORKLOADS_MAX}")]
    TooManyWorkloads(usize),
    /// More instances in one declaration than its answer can name.
    #[error(
        "these workloads have {0} instances, those that go included; declare at most {DECLARED_MAX} at once, in \
         several parts"
    )]
    TooManyDeclared(u64),
    /// More instances of all workloads together than the controller is configured for.
    #[error(
        "all workloads together would have {wanted} instances, of which {declared} are declared now; at most {max} are \
         allowed (`instances_max` in controller.yaml)"
    )]
    TooManyInstances {
        /// How many there would be.
        wanted: u64,
        /// How many are declared now.
        declared: u64,
        /// How many there may be.
        max: u32,
    },
    /// More instances named than one command takes.
    #[error("{0} instances at once; name at most {NAMED_MAX}")]
    TooManyNamed(usize),
    /// An instance is not replaced where its files would be lost.
    #[error(
        "{instance} is to take files along (`carry`), and the agent on {node} is of a version that carries none over; upgrade it, or \
         leave `carry` out"
    )]
    CarriesNothing {
        /// Which one.
        instance: InstanceName,
        /// Where it is.
        node: NodeName,
    },
    /// It has no root of its own that could be made anew.
    #[error(
        "{0} is no machine, so it has no root of its own: each new container begins with the files of its image; use `dwell replace {0}`"
    )]
    NotAMachine(InstanceName),
    /// No instance is put in the place of a container, or that is not over.
    #[error(transparent)]
    NotAdopted(#[from] NotAdopted),
    /// An instance is not let go, or not taken back.
    #[error(transparent)]
    NotLetGo(#[from] NotLetGo),
    /// An instance is not sent to another node.
    #[error(transparent)]
    NotMoved(#[from] NotMoved),
    /// An instance is not given another address.
    #[error(transparent)]
    NotReaddressed(#[from] NotReaddressed),
    /// An instance is not given other limits.
    #[error(transparent)]
    NotResized(#[from] NotResized),
    /// Nodes are not rebooted, or that is not taken back.
    #[error(transparent)]
    NotRebooted(#[from] NotRebooted),
    /// A job is not started again, or made something else.
    #[error(transparent)]
    OfJob(#[from] OfJob),
    /// A node's blocks stay as they are.
    #[error(transparent)]
    OfBlocks(#[from] OfBlocks),
    /// A workload is declared twice in one command.
    #[error("workload {0} is declared twice; give each a name of its own")]
    DuplicateWorkload(WorkloadName),
    /// Two numbers of instances for one workload.
    #[error("workload {0} is scaled twice in one request; give one number")]
    ScaledTwice(WorkloadName),
    /// A number of instances for a workload that has one on every node.
    #[error(
        "workload {0} has one instance on every node that its pool and constraints allow; change those, or the labels of nodes"
    )]
    CountedByNodes(WorkloadName),
    /// An address that no instance can have.
    #[error("{instance} cannot have {address}: {range} has no such instance address; use one inside it that is neither the first nor the last of a /{prefix} block", range = .range.ranges(), prefix = .range.node_prefix())]
    AddressUnusable {
        /// Who wants it.
        instance: InstanceName,
        /// The address.
        address: Ipv4Addr,
        /// The cluster's ranges.
        range: ClusterRange,
    },
    /// An address of another instance.
    #[error(
        "{instance} cannot have {address}: it is {holder}'s; choose another{}, or remove {holder} first",
        within(*static_range)
    )]
    AddressTaken {
        /// Who wants it.
        instance: InstanceName,
        /// The address.
        address: Ipv4Addr,
        /// Whose it is.
        holder: InstanceName,
        /// Addresses that nobody gets without asking.
        static_range: Option<Ipv4Net>,
    },
    /// An address that was another instance's a moment ago.
    #[error(
        "{instance} cannot have {address}: it was {owner}'s and is kept for it for another {seconds} s; choose another or wait"
    )]
    AddressQuarantined {
        /// Who wants it.
        instance: InstanceName,
        /// The address.
        address: Ipv4Addr,
        /// Whose it was.
        owner: InstanceName,
        /// For how long it is kept.
        seconds: u64,
    },
    /// Somebody still has the address, since before a restore.
    #[error(
        "{instance} cannot have {address} yet: {owner} has it on {node}, which did not know of the restored state; it is \
         free once {node} has ended that"
    )]
    AddressInUse {
        /// Who wants it.
        instance: InstanceName,
        /// The address.
        address: Ipv4Addr,
        /// Who has it.
        owner: InstanceName,
        /// Where.
        node: NodeName,
    },
    /// An instance keeps its address for life.
    #[error(
        "{instance} has {current} for life and cannot get {wanted}; remove the workload first, or leave the address as it is"
    )]
    AddressFixed {
        /// Which one.
        instance: InstanceName,
        /// Its address.
        current: Ipv4Addr,
        /// What was declared now.
        wanted: Ipv4Addr,
    },
    /// What goes away cannot be changed.
    #[error("workload {0} is being removed; apply it again to have it back")]
    WorkloadRemoving(WorkloadName),
    /// No such version.
    #[error(
        "workload {workload} has no version {number}; `dwell history {workload}` lists those that are remembered"
    )]
    NoVersion {
        /// Which workload.
        workload: WorkloadName,
        /// Which version.
        number: VersionNumber,
    },
    /// There is nothing to go back from.
    #[error("version {number} is what workload {workload} is declared as already")]
    VersionIsNewest {
        /// Which workload.
        workload: WorkloadName,
        /// Which version.
        number: VersionNumber,
    },
    /// No instance is given a version that was ruled out.
    #[error(
        "version {number} of workload {workload} was ruled out: {reason}. Apply a mended version, apply the same again \
         to try it anew, or go back to what works with `dwell rollback {workload}`"
    )]
    VersionRuledOut {
        /// Which workload.
        workload: WorkloadName,
        /// Which version.
        number: VersionNumber,
        /// Why.
        reason: String,
    },
    /// Nothing else is known to work.
    #[error(
        "workload {0} has no earlier version that was not ruled out; `dwell history {0}` lists all"
    )]
    NothingToRollBackTo(WorkloadName),
    /// No version waits for it.
    #[error(
        "no version of workload {0} has been tried out and waits to be promoted; `dwell history {0}` shows how far each is. If what \
         tried one out is stopped or gone, `dwell abort {0}` goes back, and it can be declared anew"
    )]
    NoCanary(WorkloadName),
    /// It is not known yet whether the version holds.
    #[error(
        "canary {0} has not held with the new version yet; `dwell wait {0}` waits for it, `dwell explain {0}` says how it is"
    )]
    CanaryUndecided(InstanceName),
    /// What is declared is good.
    #[error(
        "there is no rollout of workload {0} to abort: all instances hold with what is declared. `dwell rollback {0}` goes back to \
         an earlier version"
    )]
    NothingToAbort(WorkloadName),
    /// Something changed since a plan was shown.
    #[error(
        "workload {0}: it would not do any more what the plan says, since something has changed since it was made; nothing was \
         done. `dwell plan --out` makes a new one"
    )]
    PlanOutdated(WorkloadName),
    /// What goes away cannot be changed.
    #[error("instance {0} is being removed")]
    InstanceRemoving(InstanceName),
    /// The name is a living node's.
    #[error(
        "node {0} has joined already; remove it first (`dwell node rm {0}`) or join under another name"
    )]
    NodeExists(NodeName),
    /// The address is another node's.
    #[error("{address} is node {holder}'s address; every node needs one of its own")]
    NodeAddressTaken {
        /// The address.
        address: Ipv4Addr,
        /// Whose it is.
        holder: NodeName,
    },
    /// No block is left.
    #[error(
        "all {blocks} node blocks of {ranges} are taken; remove a node that is no longer used, or add a range to the cluster \
         (`cluster: {{more: [CIDR]}}` in the controller's configuration)"
    )]
    BlocksExhausted {
        /// How many there are.
        blocks: u32,
        /// The cluster's ranges.
        ranges: Ranges,
    },
    /// Unknown, expired, used or with the wrong secret: whoever tries tokens learns no more.
    #[error(
        "the join token is not valid: it may be used once, and until it expires; make another with `dwell node token`"
    )]
    TokenInvalid,
    /// Too many tokens are valid at once.
    #[error("there are {0} join tokens already; wait until some expire")]
    TooManyTokens(usize),
    /// The public half is taken.
    #[error("there is a token of this id already; choose another at random")]
    TokenExists,
    /// Instances are there.
    #[error(
        "node {node} still has {} ({example}{}); drain it first (`dwell node drain {node}`)",
        Counted(*count),
        if *count > 1 { ", …" } else { "" }
    )]
    NodeInUse {
        /// Which node.
        node: NodeName,
        /// How many.
        count: usize,
        /// One of them.
        example: InstanceName,
    },
    /// Data is there.
    #[error(
        "node {node} has {count} volumes, {name} of {instance} among them: `dwell volume ls --node {node}` lists them; delete \
         them (`dwell volume rm`), or give them up with --force",
        name = .example.name, instance = .example.instance
    )]
    NodeHasVolumes {
        /// Which node.
        node: NodeName,
        /// How many.
        count: usize,
        /// One of them.
        example: VolumeKey,
    },
    /// No such volume.
    #[error("{instance} has no volume {name}; `dwell volume ls` lists those there are")]
    NoVolume {
        /// Whose.
        instance: InstanceName,
        /// What was looked for.
        name: VolumeName,
    },
    /// Several nodes have one.
    #[error(
        "{node} and {} have a volume {name} of {instance}; say which with --node",
        .other, node = .one.node, name = .one.name, instance = .one.instance
    )]
    VolumeAmbiguous {
        /// One of them.
        one: VolumeKey,
        /// The node of another one.
        other: NodeName,
    },
    /// Its instance mounts it.
    #[error(
        "{instance} uses its volume {name} on {node}; scale its workload down or remove it first: the volume stays until you \
         delete it",
        instance = .0.instance, name = .0.name, node = .0.node
    )]
    VolumeInUse(VolumeKey),
    /// A running instance cannot mount what another node has.
    #[error(
        "{instance} is on {node}, but its volume {name} is on {place}; delete that (`dwell volume rm {instance} {name}`), or \
         remove the workload and apply it again, to bring {instance} to its volume",
        instance = .volume.instance, name = .volume.name, place = .volume.node
    )]
    VolumeElsewhere {
        /// Where it is.
        volume: VolumeKey,
        /// Where the instance is.
        node: NodeName,
    },
    /// No node can have this address.
    #[error(
        "node {node} cannot have the address {address}: it is none of a host, or lies in the range of the instances; set \
         `address` in agent.yaml"
    )]
    NodeAddress {
        /// Which node.
        node: NodeName,
        /// The address.
        address: Ipv4Addr,
    },
    /// Instances of the last holder of the name may still run.
    #[error(
        "instances of the host that was node {0} may still run there; run `dwell node rm --force {0}` again to vouch that \
         they do not, or join under another name"
    )]
    NameInUse(NodeName),
    /// Two hosts have one identity.
    #[error(
        "two hosts use the identity of node {0}, and neither is served; stop the agent of one, remove its data directory, \
         and run `dwell node admit {0}`"
    )]
    NodeContested(NodeName),
    /// A certificate of a node that is not known.
    #[error("node {0} is not known here; join again with a new token")]
    NotANode(NodeName),
    /// Another machine has the node's identity.
    #[error(
        "the identity of node {node} is used on another machine, at {address}, which is not served. If that is a copy of \
         the node's disk, stop its agent and remove its data directory; if the node has moved there, switch the old \
         machine off. Then run `dwell node admit {node}`"
    )]
    NodeElsewhere {
        /// Whose identity.
        node: NodeName,
        /// Where it is used.
        address: Ipv4Addr,
    },
    /// A newer stream of the node has begun, or this one never did.
    #[error("another stream of node {0} has begun; are there two agents with its identity?")]
    SessionSuperseded(NodeName),
    /// No such key set.
    #[error("there is no key set {0}; `dwell key ls` lists those there are")]
    NoKeySet(KeySetName),
    /// A key set without what is to be taken from it.
    #[error(
        "key set {set} has no key with the fingerprint, comment or line {wanted:?}; `dwell key ls` lists those it has"
    )]
    NoKey {
        /// Which set.
        set: KeySetName,
        /// What was looked for.
        wanted: String,
    },
    /// There are too many.
    #[error("there are {KEY_SETS_MAX} key sets already; remove one first")]
    TooManyKeySets,
    /// There would be too many.
    #[error(
        "key set {0} would have more than {KEYS_MAX} keys; use a certificate authority instead"
    )]
    TooManyKeys(KeySetName),
    /// Every node has all of them.
    #[error(
        "all key sets together would have {0} bytes, more than {KEYS_BYTES_MAX}; use a certificate authority instead"
    )]
    KeysTooLarge(usize),
    /// Nobody has logged in there.
    #[error(
        "the cluster is not logged in to registry {0}; `dwell registry ls` lists where it is. What a node logs in with by its \
         own agent.yaml is that node's"
    )]
    NoRegistryLogin(RegistryHost),
    /// There are too many.
    #[error("there are logins at {LOGINS_MAX} registries already; remove one first")]
    TooManyRegistries,
    /// Nothing was made of that name or serial that is still good.
    #[error(
        "there is no context {0:?} that is good; `dwell context ls` lists all, with their serials"
    )]
    NoContext(String),
    /// There are too many.
    #[error(
        "there are {CONTEXTS_MAX} contexts that have not expired; give them shorter lives (`--valid`)"
    )]
    TooManyContexts,
    /// The name stands for somebody else in events.
    #[error("{0} is who uses the controller's unix socket; give the context another name")]
    ContextName(ClientName),
    /// A label is not usable.
    #[error(
        "label {0:?} is not usable; keys have 1 to 253 bytes without blanks, values at most 1024, both without control characters, and do not begin with \"node.\"; a node has at most 200"
    )]
    Label(String),
}

/// Where an address can be asked for that no instance has got without asking.
fn within(static_range: Option<Ipv4Net>) -> String {
    match static_range {
        Some(range) => format!(" of {range}, from which none is given without asking"),
        None => {
            " (`static_range` in controller.yaml keeps some from being given without asking)".into()
        }
    }
}

/// What kind of refusal it is, for the code of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalClass {
    /// What was named is not there.
    NotFound,
    /// What was to be made is there.
    AlreadyExists,
    /// What was asked is wrong by itself.
    Invalid,
    /// Not in this state.
    FailedPrecondition,
    /// There is no more of it.
    Exhausted,
    /// Not by you.
    Denied,
}

impl Refusal {
    /// What kind of refusal it is.
    #[must_use]
    pub fn class(&self) -> RefusalClass {
        match self {
            Self::NoWorkload(_)
            | Self::NoInstance(_)
            | Self::NoNode(_)
            | Self::NoVersion { .. }
            | Self::NoKeySet(_)
            | Self::NoVolume { .. }
            | Self::NoRegistryLogin(_)
            | Self::NoContext(_)
            | Self::NoKey { .. } => RefusalClass::NotFound,
            Self::NodeExists(_) | Self::NodeAddressTaken { .. } | Self::TokenExists => {
                RefusalClass::AlreadyExists
            }
            Self::Spec { .. }
            | Self::ReplacedTooSoon { .. }
            | Self::TooManyWorkloads(_)
            | Self::TooManyDeclared(_)
            | Self::TooManyNamed(_)
            | Self::DuplicateWorkload(_)
            | Self::ScaledTwice(_)
            | Self::CountedByNodes(_)
            | Self::AddressUnusable { .. }
            | Self::NodeAddress { .. }
            | Self::ContextName(_)
            | Self::Label(_) => RefusalClass::Invalid,
            Self::AddressTaken { .. }
            | Self::AddressQuarantined { .. }
            | Self::AddressInUse { .. }
            | Self::AddressFixed { .. }
            | Self::WorkloadRemoving(_)
            | Self::VersionIsNewest { .. }
            | Self::VersionRuledOut { .. }
            | Self::NothingToRollBackTo(_)
            | Self::NoCanary(_)
            | Self::CanaryUndecided(_)
            | Self::NothingToAbort(_)
            | Self::PlanOutdated(_)
            | Self::InstanceRemoving(_)
            | Self::CarriesNothing { .. }
            | Self::NotAMachine(_)
            | Self::NotAdopted(_)
            | Self::NotLetGo(_)
            | Self::NotMoved(_)
            | Self::NotReaddressed(_)
            | Self::NotResized(_)
            | Self::NotRebooted(_)
            | Self::OfJob(_)
            | Self::OfBlocks(_)
            | Self::NodeInUse { .. }
            | Self::NodeHasVolumes { .. }
            | Self::VolumeAmbiguous { .. }
            | Self::VolumeInUse(_)
            | Self::VolumeElsewhere { .. }
            | Self::NameInUse(_)
            | Self::NodeContested(_)
            | Self::NodeElsewhere { .. }
            | Self::RestoreUnconfirmed
            | Self::NotRestored
            | Self::NodesNotHeard { .. }
            | Self::SessionSuperseded(_) => RefusalClass::FailedPrecondition,
            Self::BlocksExhausted { .. }
            | Self::TooManyInstances { .. }
            | Self::TooManyTokens(_)
            | Self::TooManyKeySets
            | Self::TooManyKeys(_)
            | Self::TooManyRegistries
            | Self::TooManyContexts
            | Self::KeysTooLarge(_) => RefusalClass::Exhausted,
            Self::TokenInvalid | Self::NotANode(_) => RefusalClass::Denied,
        }
    }
}
