//! What a node is to do: all of it, or what changed since a revision.

use std::net::Ipv4Addr;

use dwell_core::id::{InstanceName, NodeName, Revision};
use dwell_core::instance::Assigned;
use ipnet::Ipv4Net;

/// All that a node is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Up to which revision this is true.
    pub revision: Revision,
    /// The instances, by name.
    pub instances: Vec<Assigned>,
    /// What it needs to know of the network.
    pub network: NodeNetwork,
}

/// What changed in an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignmentDelta {
    /// The revision it builds upon.
    pub base: Revision,
    /// Up to which revision this is true.
    pub revision: Revision,
    /// Instances that are new or changed.
    pub instances: Vec<Assigned>,
    /// Instances that are not assigned, and may have been.
    pub removed: Vec<InstanceName>,
    /// The network, complete, if it changed.
    pub network: Option<NodeNetwork>,
}

impl AssignmentDelta {
    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.removed.is_empty() && self.network.is_none()
    }
}

/// What a node needs to know of the cluster's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetwork {
    /// The range of all instances.
    pub cluster: Ipv4Net,
    /// The node's own block.
    pub block: Option<Ipv4Net>,
    /// All other nodes, by name.
    pub peers: Vec<Peer>,
    /// Instances that live outside their address's block, by address.
    pub exceptions: Vec<Exception>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: NodeName,
    /// Its address in the underlay.
    pub address: Ipv4Addr,
    /// Its block; `None` if it runs no instances.
    pub block: Option<Ipv4Net>,
}

/// An instance's address that lies in another node's block, or in none's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The address.
    pub address: Ipv4Addr,
    /// Where it lives.
    pub node: NodeName,
}
