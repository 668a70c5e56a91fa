//! Nodes, what lets a host become one, and the connections to them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::access::Issuer;
use dwell_core::clock::Timestamp;
use dwell_core::host_mark::HostMark;
use dwell_core::id::{NodeName, PoolName, Revision};
use dwell_core::node::{Capacity, NodeState};
use dwell_core::session::Boot;
use dwell_core::skill::Skills;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::model::drains::{Drain, GivenUp};
use crate::model::reboots::Reboot;

/// A host that has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its address in the underlay: the next hop of its block.
    pub address: Ipv4Addr,
    /// Where its instances' addresses come from; `None` for a node that only wants the routes, or was removed.
    pub block: Option<Ipv4Net>,
    /// Where they come from when that is full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_blocks: Vec<Ipv4Net>,
    /// Blocks that are its own as long as somebody has an address of them, which nobody gets any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired_blocks: Vec<Ipv4Net>,
    /// The pool it is in.
    pub pool: Option<PoolName>,
    /// Free words that constraints can ask for.
    pub labels: BTreeMap<String, String>,
    /// Nothing new is placed here.
    pub cordoned: bool,
    /// Its instances are moved elsewhere.
    pub draining: bool,
    /// When it takes new instances again by itself; `None` if somebody has to say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What is known of its drain, also after that was given up; `None` if it is not drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Its part in a reboot of nodes, also after that; `None` if it has had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<Reboot>,
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
    /// Which of the cluster's authorities signed the certificate with which it attached last.
    #[serde(default)]
    pub issuer: Issuer,
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
    /// The blocks from which its instances get addresses, in that order.
    pub fn open_blocks(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.block.into_iter().chain(self.more_blocks.iter().copied())
    }

    /// All blocks that lead to it.
    pub fn blocks(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.open_blocks().chain(self.retired_blocks.iter().copied())
    }

    /// Whether its instances get addresses like this one.
    pub(in crate::model) fn gives_out(&self, address: Ipv4Addr) -> bool {
        self.open_blocks().any(|block| block.contains(&address))
    }

    /// That its last drain came to its deadline, and nobody has done anything about it since.
    #[must_use]
    pub fn given_up(&self) -> Option<&GivenUp> {
        self.drain.as_ref()?.given_up.as_ref()
    }

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

/// The connection to a node. Volatile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Which node.
    pub node: NodeName,
    /// Its stream, if it has one.
    pub session: Option<SessionId>,
    /// Whether its agent keeps leases, as it said when the stream began.
    pub keeps_leases: bool,
    /// Whether its agent fetches images ahead of turns, as it said then.
    pub fetches_ahead: bool,
    /// Whether its agent carries files over from a container to its successor, as it said when the stream began.
    pub carries: bool,
    /// Whether its agent knows that nodes may have more than one block, as it said then.
    pub knows_blocks: bool,
    /// Whether its agent knows that a cluster may have more than one range, as it said then.
    pub knows_ranges: bool,
    /// What its agent knows of, as it said then.
    pub skills: Skills,
    /// Whether its agent can let go of an instance, as it said then.
    pub lets_go: bool,
    /// Whether its agent can put an instance in the place of a container that dwell did not make, as it said then.
    pub takes_over: bool,
    /// Whether its agent sends and takes in the data of volumes, as it said when the stream began.
    pub moves_volumes: bool,
    /// Which boot of its host it is in, as its agent said when the stream began; `None` from one that does not know of reboots.
    pub boot: Option<Boot>,
    /// How sure we are of it.
    pub state: NodeState,
    /// What it has; unknown until it has been heard of since the controller's start.
    pub capacity: Option<Arc<Capacity>>,
    /// The address that its agent says it has, if it is known by another one.
    pub claimed: Option<Ipv4Addr>,
    /// Whether there is an event about that: there is none while the store cannot be written.
    pub claim_told: bool,
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
