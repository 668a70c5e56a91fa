//! What a node needs to know of the cluster's network: all of it, or what changed since a revision.
//!
//! A change costs what it touches, never what there is: a bounded log notes which node or which address
//! changed when, and a delta looks up these alone. An instance in its own node's block is no change at all.
//!
//! A move, as the other nodes see it (invariant 1 of the architecture forbids two containers of one instance, so
//! the old one is gone before the new one is anywhere):
//!
//! ```text
//!   on n1 ──told to leave──▶ still on n1 ──n1: gone──▶ on n2, from the same revision on:
//!   (n1's block)            (n1's block)               exception for all, assignment for n2
//! ```
//!
//! Guaranteed, and tested in `tests/network.rs`:
//! - until the old node confirms, every route still leads to the old node, whose process may be ending gracefully;
//! - the exception is announced at the very revision that gives the instance to its new node, so it is under way
//!   to everybody before the new node can have made the sandbox;
//! - from a second home to a third the exception is replaced in one step: no delta takes a /32 away without
//!   giving the new one, unless the instance lives nowhere (its node was removed by force and no other has
//!   room);
//! - going home takes the exception away at the revision that gives the instance to its home.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dwell_core::id::{NodeName, Revision};
use ipnet::Ipv4Net;

use super::object::{Instance, Node};
use super::record::{Change, Record};
use super::{Model, Touched};

/// How many changes of the network a node may be behind before it is sent everything again.
pub(super) const LOG_MAX: usize = 4096;

/// All that a node needs to know.
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
    /// Whether instances without `allow_from` are closed to all.
    pub closed: bool,
    /// The DNS zone of the instances' names.
    pub zone: String,
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

/// What changed. The node's own block is not in here: it changes only when the node is removed or joins
/// again, and then everything is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkDelta {
    /// Nodes that are new or changed.
    pub peers: Vec<Peer>,
    /// Nodes that are gone.
    pub removed_peers: Vec<NodeName>,
    /// Addresses that live outside their block now, or elsewhere than before.
    pub exceptions: Vec<Exception>,
    /// Addresses that live in their block again, or nowhere.
    pub removed_exceptions: Vec<Ipv4Addr>,
}

/// Something of the network that changed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NetworkEntry {
    Node(NodeName),
    Address(Ipv4Addr),
}

impl NetworkDelta {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Model {
    /// Notes what a committed change does to the network.
    pub(super) fn note_for_network(&mut self, change: &Change, touched: &mut Touched) {
        let entry = match (&change.old, &change.new) {
            (Some(Record::Node(old)), Some(Record::Node(new))) => {
                let shown = |node: &Node| (node.address, node.block, node.removed);
                (shown(old) != shown(new)).then(|| NetworkEntry::Node(new.name.clone()))
            }
            (None, Some(Record::Node(new))) => Some(NetworkEntry::Node(new.name.clone())),
            (old, new) => {
                let exception = |record: &Option<Record>| match record {
                    Some(Record::Instance(instance)) => self.exception(instance),
                    _ => None,
                };
                let (old, new) = (exception(old), exception(new));
                let address = old.as_ref().or(new.as_ref()).map(|found| found.address);
                address.filter(|_| old != new).map(NetworkEntry::Address)
            }
        };
        if let Some(entry) = entry {
            self.network_log.push(change.revision, entry);
            touched.everyone = true;
        }
    }

    fn exception(&self, instance: &Instance) -> Option<Exception> {
        let (address, node) = self.tables.index().exception(instance)?;
        Some(Exception { address, node: node.clone() })
    }

    /// All that a node needs to know; next to nothing if it was removed.
    pub(super) fn network(&self, name: &NodeName) -> NodeNetwork {
        let mut network = NodeNetwork {
            cluster: self.settings.range.cidr(),
            block: None,
            peers: Vec::new(),
            exceptions: Vec::new(),
            closed: self.settings.closed,
            zone: self.settings.zone.clone(),
        };
        let Some(own) = self.tables.nodes().get(name).filter(|node| !node.removed) else {
            return network;
        };
        let others = self.tables.nodes().values();
        let others = others.filter(|node| !node.removed && node.name != *name);
        let exceptions = self.tables.index().exceptions.iter();
        network.block = own.block;
        network.peers = others.map(|node| peer(node)).collect();
        network.exceptions =
            exceptions.map(|(&address, node)| Exception { address, node: node.clone() }).collect();
        network
    }

    /// What changed for a node; `None` if that is not known any more, or if it is the node itself that
    /// changed.
    pub(super) fn network_since(&self, name: &NodeName, base: Revision) -> Option<NetworkDelta> {
        let changed: BTreeSet<&NetworkEntry> = self.network_log.since(base).ok()?.collect();
        let nodes = self.tables.nodes();
        let mut delta = NetworkDelta::default();
        for entry in changed {
            match entry {
                NetworkEntry::Node(other) if other == name => return None,
                NetworkEntry::Node(other) => match nodes.get(other).filter(|node| !node.removed) {
                    Some(node) => delta.peers.push(peer(node)),
                    None => delta.removed_peers.push(other.clone()),
                },
                &NetworkEntry::Address(address) => {
                    match self.tables.index().exceptions.get(&address).cloned() {
                        Some(node) => delta.exceptions.push(Exception { address, node }),
                        None => delta.removed_exceptions.push(address),
                    }
                }
            }
        }
        // A removed node has no network, whatever becomes of that of the others.
        Some(if self.is_member(name) { delta } else { NetworkDelta::default() })
    }
}

fn peer(node: &Node) -> Peer {
    Peer { node: node.name.clone(), address: node.address, block: node.block }
}
