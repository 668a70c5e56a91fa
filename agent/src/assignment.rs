//! All that this node is to do, at a revision: its instances and its view of the cluster's network.
//!
//! The session owns it: it merges what the controller sends ([`Assignment::merge`]) and publishes the
//! result, to the reconciler at once, and to the [`keeper`](cache::keep) which writes it to disk. Only
//! what is on disk is acknowledged. A crash in between does no harm: an agent that starts says which revision it
//! holds and gets a snapshot, whatever it says.
//!
//! Invariants:
//! - a delta is merged only into exactly the revision it builds upon; anything else ends the stream, and
//!   the next one begins with a snapshot;
//! - the revision never goes back, so that a controller that was restored from an old backup does not take
//!   away what it has forgotten;
//! - an assignment that cannot be read from disk is as good as none, and without one nothing is touched.

pub mod cache;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dwell_core::id::{InstanceName, NodeName, Revision};
use dwell_core::instance::Assigned;
use dwell_core::ssh::SshTrust;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use dwell_network::{Exception, HostNetwork, Peer, RouteTable};

/// All that a node is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The revision of the controller's model that this is of.
    pub revision: Revision,
    /// What the node knows of the cluster's network.
    pub network: NodeNetwork,
    /// Its instances.
    pub instances: BTreeMap<InstanceName, Assigned>,
    /// Who may log in to instances; its zone is empty, since that is the network's.
    #[serde(default)]
    pub ssh_trust: SshTrust,
}

/// What the controller sent: everything, or what has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Everything.
    Snapshot(Assignment),
    /// What has changed.
    Delta(Delta),
}

/// What has changed since a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The revision after the change.
    pub revision: Revision,
    /// The revision it builds upon.
    pub base: Revision,
    /// Instances that are new or different.
    pub changed: Vec<Assigned>,
    /// Instances that are no longer this node's.
    pub removed: Vec<InstanceName>,
    /// All of the network, if something of it is different that [`NetworkDelta`] has no word for.
    pub network: Option<NodeNetwork>,
    /// What is different in the network.
    pub network_delta: NetworkDelta,
    /// Who may log in to instances, if that is different.
    pub ssh_trust: Option<SshTrust>,
}

/// What has changed in a [`NodeNetwork`]; its cost does not grow with the number of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkDelta {
    /// Nodes that are new or different.
    pub peers: BTreeMap<NodeName, NodePeer>,
    /// Nodes that are gone.
    pub removed_peers: Vec<NodeName>,
    /// Exceptions that are new or different.
    pub exceptions: BTreeMap<Ipv4Addr, NodeName>,
    /// Exceptions that are gone.
    pub removed_exceptions: Vec<Ipv4Addr>,
    /// This node's block, if it is another one or none now.
    pub block: Option<Option<Ipv4Net>>,
}

/// Why a change cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Something between was lost.
    #[error(
        "got the changes since revision {base}, but hold revision {held}; asking for everything again"
    )]
    OtherBase {
        /// What the change builds upon.
        base: Revision,
        /// What is here.
        held: Revision,
    },
    /// The controller has forgotten something.
    #[error(
        "the controller is at revision {offered}, this node was at {held} already; nothing is touched. If the \
         controller was restored from a backup and is right, stop the agent, delete assignment.json in its data \
         directory and start it again"
    )]
    GoesBack {
        /// What the controller sent.
        offered: Revision,
        /// What is here.
        held: Revision,
    },
}

impl Assignment {
    /// What is to be done after a change.
    ///
    /// # Errors
    /// [`MergeError`]; what was held stays right.
    pub fn merge(held: Option<&Self>, change: Change) -> Result<Self, MergeError> {
        let revision = held.map_or(Revision(0), |held| held.revision);
        let goes_back = |offered| MergeError::GoesBack { offered, held: revision };
        match (change, held) {
            (Change::Snapshot(all), _) if all.revision < revision => Err(goes_back(all.revision)),
            (Change::Snapshot(all), _) => Ok(all),
            (Change::Delta(delta), Some(held)) if delta.base == held.revision => {
                if delta.revision < held.revision {
                    return Err(goes_back(delta.revision));
                }
                Ok(held.with(delta))
            }
            (Change::Delta(delta), _) => {
                Err(MergeError::OtherBase { base: delta.base, held: revision })
            }
        }
    }

    fn with(&self, delta: Delta) -> Self {
        let mut instances = self.instances.clone();
        for name in &delta.removed {
            instances.remove(name);
        }
        instances.extend(delta.changed.into_iter().map(|one| (one.instance.clone(), one)));
        let mut network = delta.network.unwrap_or_else(|| self.network.clone());
        network.apply(delta.network_delta);
        Self {
            revision: delta.revision,
            network,
            instances,
            ssh_trust: delta.ssh_trust.unwrap_or_else(|| self.ssh_trust.clone()),
        }
    }
}

/// What a node knows of the cluster's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeNetwork {
    /// The range of all instances.
    pub cluster: Ipv4Net,
    /// This node's block; a routes-only node has none.
    pub block: Option<Ipv4Net>,
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
}

/// Another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePeer {
    /// Its address in the underlay.
    pub address: Ipv4Addr,
    /// Its block; a routes-only node has none.
    pub block: Option<Ipv4Net>,
}

impl NodeNetwork {
    fn apply(&mut self, delta: NetworkDelta) {
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

    /// What the host is to provide.
    #[must_use]
    pub fn host(&self, masquerade: bool) -> HostNetwork {
        HostNetwork { cluster: self.cluster, block: self.block, masquerade }
    }

    /// The routes to other nodes. Exceptions that lead here need none: a sandbox brings its route along.
    #[must_use]
    pub fn routes(&self) -> RouteTable {
        let peers = self.peers.iter();
        let exceptions = self.exceptions.iter();
        RouteTable {
            peers: peers
                .map(|(node, peer)| Peer {
                    node: node.clone(),
                    block: peer.block,
                    via: peer.address,
                })
                .collect(),
            exceptions: exceptions
                .filter(|(_, node)| self.peers.contains_key(*node))
                .map(|(&address, node)| Exception { address, node: node.clone() })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
