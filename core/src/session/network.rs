//! What a node knows of the cluster's network.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::id::NodeName;
use crate::net::{Ipv6Range, Ranges};

/// What a node knows of the cluster's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNetwork {
    /// The ranges of all instances.
    pub cluster: Ranges,
    /// This node's block; a routes-only node has none, nor has one that was removed.
    pub block: Option<Ipv4Net>,
    /// What it has beside that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_blocks: Vec<Ipv4Net>,
    /// The address by which the other nodes know this one; `None` from a controller that does not say it, and for a node
    /// that was removed.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// The other nodes.
    pub peers: BTreeMap<NodeName, NodePeer>,
    /// The node of every instance that lives outside its address's block, also of this node's own.
    pub exceptions: BTreeMap<Ipv4Addr, NodeName>,
    /// Whether instances without `allow_from` are closed to all; else they are open to all.
    #[serde(default)]
    pub closed: bool,
    /// The DNS zone of the instances' names.
    #[serde(default)]
    pub zone: String,
    /// Where instances have an IPv6 address beside their IPv4 address; without, they have none.
    #[serde(default)]
    pub ipv6: Option<Ipv6Range>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePeer {
    /// Its address in the underlay.
    pub address: Ipv4Addr,
    /// Its block; a routes-only node has none.
    pub block: Option<Ipv4Net>,
    /// What it has beside that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_blocks: Vec<Ipv4Net>,
}

impl NodePeer {
    /// All that lead to it, the first one first.
    pub fn blocks(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.block.into_iter().chain(self.more_blocks.iter().copied())
    }
}

/// What has changed in a [`NodeNetwork`]; its cost does not grow with the number of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkDelta {
    /// Nodes that are new or different.
    pub peers: BTreeMap<NodeName, NodePeer>,
    /// Nodes that are gone.
    pub removed_peers: Vec<NodeName>,
    /// Addresses that live outside their block now, or elsewhere than before.
    pub exceptions: BTreeMap<Ipv4Addr, NodeName>,
    /// Addresses that live in their block again, or nowhere.
    pub removed_exceptions: Vec<Ipv4Addr>,
    /// This node's block, if it is another one or none now.
    pub block: Option<Option<Ipv4Net>>,
}

impl NetworkDelta {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl NodeNetwork {
    /// A network of these ranges in which there is nothing yet.
    #[must_use]
    pub fn of_cluster(cluster: Ranges) -> Self {
        Self {
            cluster,
            block: None,
            more_blocks: Vec::new(),
            address: None,
            peers: BTreeMap::new(),
            exceptions: BTreeMap::new(),
            closed: false,
            zone: String::new(),
            ipv6: None,
        }
    }

    /// All blocks of this node, the first one first.
    pub fn blocks(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.block.into_iter().chain(self.more_blocks.iter().copied())
    }

    /// Takes in a change.
    pub fn apply(&mut self, delta: NetworkDelta) {
        for node in &delta.removed_peers {
            self.peers.remove(node);
        }
        for address in &delta.removed_exceptions {
            self.exceptions.remove(address);
        }
        self.peers.extend(delta.peers);
        self.exceptions.extend(delta.exceptions);
        self.block = delta.block.unwrap_or(self.block);
    }
}
