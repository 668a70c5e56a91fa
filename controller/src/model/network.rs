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
use dwell_core::session::{NetworkDelta, NodeNetwork, NodePeer};
use ipnet::Ipv4Net;

use super::object::Node;
use super::record::{Change, Record};
use super::tables::changed_blocks;
use super::{Model, Touched};

/// How many changes of the network a node may be behind before it is sent everything again.
pub(super) const LOG_MAX: usize = 4096;

/// Something of the network that changed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NetworkEntry {
    Node(NodeName),
    Address(Ipv4Addr),
}

impl Model {
    /// Notes what a committed change does to the network.
    pub(super) fn note_for_network(&mut self, change: &Change, touched: &mut Touched) {
        let entry = match (&change.old, &change.new) {
            (Some(Record::Node(old)), Some(Record::Node(new))) => {
                self.note_exceptions_of(old, new, change.revision);
                (shown(old) != shown(new)).then(|| NetworkEntry::Node(new.name.clone()))
            }
            (None, Some(Record::Node(new))) => Some(NetworkEntry::Node(new.name.clone())),
            (old, new) => {
                let (old, new) = (self.exception(old.as_ref()), self.exception(new.as_ref()));
                let address = old.or(new).map(|(address, _)| address);
                address.filter(|_| old != new).map(NetworkEntry::Address)
            }
        };
        if let Some(entry) = entry {
            self.network_log.push(change.revision, entry);
            touched.everyone = true;
        }
    }

    /// Instances on a node live within its blocks, or outside of them, for that those are others.
    fn note_exceptions_of(&mut self, old: &Node, new: &Node, revision: Revision) {
        let addresses: Vec<Ipv4Addr> = changed_blocks(Some(old), Some(new))
            .into_iter()
            .flat_map(|block| self.tables.index().holders_in(block))
            .filter_map(|holder| self.tables.instances().get(holder)?.identity)
            .map(|identity| identity.address)
            .collect();
        for address in addresses {
            self.network_log.push(revision, NetworkEntry::Address(address));
        }
    }

    fn exception<'a>(&'a self, record: Option<&'a Record>) -> Option<(Ipv4Addr, &'a NodeName)> {
        match record {
            Some(Record::Instance(instance)) => self.tables.index().exception(instance),
            _ => None,
        }
    }

    /// All that a node needs to know; next to nothing if it was removed.
    pub(super) fn network(&self, name: &NodeName) -> NodeNetwork {
        let mut network = NodeNetwork {
            closed: self.settings.closed,
            zone: self.settings.zone.clone(),
            ipv6: self.settings.ipv6,
            ..NodeNetwork::of_cluster(self.settings.range.ranges().clone())
        };
        let Some(own) = self.tables.nodes().get(name).filter(|node| !node.removed) else {
            return network;
        };
        let others = self.tables.nodes().values();
        let others = others.filter(|node| !node.removed && node.name != *name);
        (network.block, network.address) = (own.block, Some(own.address));
        network.more_blocks = own.blocks().skip(1).collect();
        network.peers = others.map(|node| (node.name.clone(), peer(node))).collect();
        network.exceptions.clone_from(&self.tables.index().exceptions);
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
                    Some(node) => drop(delta.peers.insert(other.clone(), peer(node))),
                    None => delta.removed_peers.push(other.clone()),
                },
                &NetworkEntry::Address(address) => {
                    match self.tables.index().exceptions.get(&address).cloned() {
                        Some(node) => drop(delta.exceptions.insert(address, node)),
                        None => delta.removed_exceptions.push(address),
                    }
                }
            }
        }
        // A removed node has no network, whatever becomes of that of the others.
        Some(if self.is_member(name) { delta } else { NetworkDelta::default() })
    }
}

fn peer(node: &Node) -> NodePeer {
    let more_blocks = node.blocks().skip(1).collect();
    NodePeer { address: node.address, block: node.block, more_blocks }
}

/// What the others see of a node.
fn shown(node: &Node) -> (Ipv4Addr, Vec<Ipv4Net>, bool) {
    (node.address, node.blocks().collect(), node.removed)
}
