//! What a node says of itself, and how it is welcomed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::host_mark::HostMark;
use crate::id::{Generation, Incarnation, InstanceName, Position, Revision, Term, VolumeName};
use crate::instance::{Assigned, InstanceStatus};
use crate::node::Capacity;
use crate::quantity::Millis;
use crate::skill::Skills;
use crate::ssh::SshEvent;

/// The most instances that one report may speak of.
pub const INSTANCES_MAX: usize = 10_000;
/// The most instances that one report may say are gone.
pub const GONE_MAX: usize = 10_000;
/// The most volumes that one report may speak of.
pub const VOLUMES_MAX: usize = 100_000;
/// The longest name of a boot, in bytes.
pub const BOOT_ID_MAX: usize = 64;
/// The most log-ins and the like in one message.
pub const SSH_EVENTS_MAX: usize = 100;

/// How a stream begins: who is there, what it has and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version of the session protocol that the agent speaks.
    pub protocol: u32,
    /// The newest one; 0 from an agent that speaks only one.
    pub protocol_newest: u32,
    /// Names this run of the agent, chosen at random at its start; 0 from an agent that has no such name. A host whose
    /// identity was copied to another one is noticed by it.
    pub run: u64,
    /// The node's address in the underlay, as its configuration has it now.
    pub address: Ipv4Addr,
    /// What the host has.
    pub capacity: Capacity,
    /// Everything that is there, whoever asked for it.
    pub status: StatusReport,
    /// The assignment that the agent holds; its revision is 0 for none.
    pub held: Position,
    /// The term of the controller that the assignment came from.
    pub term: Term,
    /// The directory that the agent holds; its revision is 0 for none.
    pub directory: Position,
    /// Whether it takes assignments in pieces, and templates by their digest.
    pub takes_pieces: bool,
    /// How far the controller's store was when it made the assignment that the agent holds.
    pub durable: Revision,
    /// The instances of the assignment that the agent holds, at most [`INSTANCES_MAX`]: a controller that was restored
    /// from a backup may have forgotten some of them.
    pub claims: Vec<Claim>,
    /// The block of the assignment that the agent holds: a controller that was restored from a backup may have forgotten the
    /// node.
    pub block: Option<Ipv4Net>,
    /// By the assignment that the agent holds, the node runs no instances.
    pub routes_only: bool,
    /// The machine that the agent is on; `None` from one that cannot tell, or does not know of marks.
    pub host_mark: Option<HostMark>,
    /// It lets an instance with a [`Lease`](crate::workload::Lease) be reached no longer than that says. An agent that does
    /// not know of leases keeps none.
    pub keeps_leases: bool,
    /// It fetches images that it is told of ahead of an instance's turn, and says how far it is. An agent that does not know of
    /// that is not waited for.
    pub fetches_ahead: bool,
    /// Whether the agent carries files over from a container to its successor.
    pub carries: bool,
    /// Whether the agent knows that a node may have more than one block.
    pub knows_blocks: bool,
    /// Whether the agent knows that a cluster may have more than one range of addresses.
    pub knows_ranges: bool,
    /// What the agent knows of.
    pub skills: Skills,
    /// Whether the agent can let go of an instance, and take it back.
    pub lets_go: bool,
    /// Whether the agent can put an instance in the place of a container that dwell did not make.
    pub takes_over: bool,
    /// Whether the agent sends and takes in the data of volumes.
    pub moves_volumes: bool,
    /// Which boot of its host it is in; `None` from an agent that does not know of reboots.
    pub boot: Option<Boot>,
}

/// Which boot of its host an agent is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Names it, as the kernel does: another one after each boot. At most [`BOOT_ID_MAX`] bytes.
    pub id: String,
    /// The agent's configuration allows the controller to have the host rebooted.
    pub may_reboot: bool,
}

/// That a node is to reboot its host, once. It is told again and again until the node is in another boot or has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebootOrder {
    /// The history of the controller that it is of.
    pub incarnation: Incarnation,
    /// Which order, growing within a history.
    pub number: u64,
    /// The boot that is to end. In another one there is nothing to do.
    pub boot_id: String,
}

/// A node could not do what a [`RebootOrder`] asks, or will not do it a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebootFailed {
    /// The history that the order was of.
    pub incarnation: Incarnation,
    /// Which order.
    pub number: u64,
    /// Why, for people.
    pub reason: String,
}

impl Hello {
    /// Of an agent that has nothing and holds nothing.
    #[must_use]
    pub fn of(address: Ipv4Addr) -> Self {
        Self {
            protocol: 1,
            protocol_newest: 0,
            run: 0,
            address,
            capacity: Capacity::default(),
            status: StatusReport::default(),
            held: Position::default(),
            term: Term(0),
            directory: Position::default(),
            takes_pieces: false,
            durable: Revision(0),
            claims: Vec::new(),
            block: None,
            routes_only: false,
            host_mark: None,
            keeps_leases: false,
            fetches_ahead: false,
            carries: false,
            knows_blocks: false,
            knows_ranges: false,
            skills: Skills::default(),
            lets_go: false,
            takes_over: false,
            moves_volumes: false,
            boot: None,
        }
    }
}

/// An instance that a node was told to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which one.
    pub instance: InstanceName,
    /// Its generation, as the node was told.
    pub generation: Generation,
    /// Its address; unspecified if the node does not say, because it is of an older version.
    pub address: Ipv4Addr,
}

impl Claim {
    /// The claim to what was assigned.
    #[must_use]
    pub fn of(assigned: &Assigned) -> Self {
        let Assigned { instance, generation, address, .. } = assigned;
        Self { instance: instance.clone(), generation: *generation, address: *address }
    }
}

/// The controller's answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version of the session protocol that both speak; 0 from a controller that speaks only the first.
    pub protocol: u32,
    /// How often to send a heartbeat.
    pub heartbeat: Millis,
    /// The cluster that the controller is of.
    pub cluster_id: String,
    /// The history that the controller is in.
    pub incarnation: Incarnation,
    /// How often it has started in that history.
    pub term: Term,
    /// The CAs to trust, PEM; empty from a controller that knows of no rotation.
    pub ca_pem: String,
}

/// A node lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Which one it is, from 1 on each stream; 0 from an agent that does not want an answer.
    pub number: u64,
    /// What the host has, if that has changed.
    pub capacity: Option<Capacity>,
    /// The order to reboot that has failed, for as long as it is told.
    pub reboot_failed: Option<RebootFailed>,
}

/// The controller's answer to a [`Heartbeat`]: what the node holds is lent to it anew, from when it sent the heartbeat. It
/// comes after all that was assigned before the heartbeat was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lent {
    /// Which heartbeat.
    pub heartbeat: u64,
    /// Only what is lent to the node still: the controller was restored from a backup, and may have lent the rest to
    /// another node before.
    pub only_renewed: bool,
}

/// What was seen of a node's instances, as the reconciler publishes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses {
    /// The assignment under which it was seen.
    pub revision: Revision,
    /// Whether everything on the node was looked at since the agent's start. Until then there may be instances that
    /// are not listed here: none of them may be taken to be gone.
    pub complete: bool,
    /// Every instance of which something is on the node, or is to be.
    pub instances: BTreeMap<InstanceName, InstanceStatus>,
}

/// What a node tells of its instances: all of them, or those that are different since the last report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusReport {
    /// The assignment that all this was seen under.
    pub seen_under: Position,
    /// Whether instances that are not in here are gone from the node.
    pub complete: bool,
    /// What is there, at most [`INSTANCES_MAX`].
    pub instances: Vec<InstanceStatus>,
    /// Instances of which nothing is left there, at most [`GONE_MAX`].
    pub gone: Vec<InstanceName>,
    /// All volumes that are there, if somebody has looked.
    pub volumes: Option<Vec<SeenVolume>>,
}

/// A volume that a node says it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenVolume {
    /// Whose.
    pub instance: InstanceName,
    /// Its name.
    pub name: VolumeName,
    /// The path at which the image asked for it, if no declaration did.
    pub image_path: Option<String>,
    /// It is a copy that is not a volume yet.
    pub is_copy: bool,
}

/// The assignment up to here is stored on the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledge {
    /// Up to where.
    pub stored: Position,
}

/// What happened on the port 22 of a node's instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshEvents {
    /// At most [`SSH_EVENTS_MAX`].
    pub events: Vec<SshEvent>,
    /// How many were lost before these.
    pub dropped: u64,
}
