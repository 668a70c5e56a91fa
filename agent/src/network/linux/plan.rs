//! Which routes and nexthops to make, redirect and remove: a pure function of what is declared and what
//! the kernel shows.
//!
//! Ours are the routes with our protocol and [`METRIC_PEER`], and the nexthops with our protocol; nothing
//! else is ever redirected or removed. A plan is empty when all is as declared. Its parts are
//! to be carried out in the order of its fields, so that a redirected route always leads somewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dwell_core::id::NodeName;
use ipnet::Ipv4Net;

use super::METRIC_PEER;
use super::nexthop::{self, Nexthop};
use super::observe::{Address, Route};
use crate::network::{Peer, PeerFailure, ROUTE_PROTOCOL, RouteConflict, RouteTable};

/// What the kernel shows, as far as it matters to routes.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) addresses: Vec<Address>,
    pub(super) nexthops: Vec<Nexthop>,
    pub(super) routes: Vec<Route>,
}

/// What has to change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Nexthops to make, or to redirect where there is one with the number.
    pub(super) nexthops: Vec<(NodeName, Nexthop)>,
    pub(super) add: Vec<PeerRoute>,
    pub(super) change: Vec<PeerRoute>,
    pub(super) remove: Vec<Ipv4Net>,
    pub(super) remove_nexthops: Vec<Nexthop>,
    pub(super) in_place: usize,
    pub(super) conflicts: Vec<RouteConflict>,
    pub(super) failures: Vec<PeerFailure>,
}

/// A block or an exception, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerRoute {
    pub(super) node: NodeName,
    pub(super) prefix: Ipv4Net,
    pub(super) nexthop: u32,
}

/// Leads from what the `kernel` shows to what is `declared`.
pub(super) fn plan(declared: &RouteTable, kernel: &Kernel) -> Plan {
    let mut plan = Plan::default();
    let nexthops = plan.nexthops(declared, kernel);
    let wanted = plan.wanted(declared, &nexthops);
    plan.routes(wanted, kernel);
    plan
}

impl Plan {
    /// The nexthop of every peer that has one; plans those that are missing or wrong.
    fn nexthops<'a>(
        &mut self,
        declared: &'a RouteTable,
        kernel: &Kernel,
    ) -> BTreeMap<&'a NodeName, u32> {
        let existing: HashMap<u32, &Nexthop> =
            kernel.nexthops.iter().map(|nexthop| (nexthop.id, nexthop)).collect();
        let mut taken: BTreeSet<u32> = kernel
            .nexthops
            .iter()
            .filter(|nexthop| !nexthop.is_ours())
            .map(|nexthop| nexthop.id)
            .collect();
        // By name, so that two names with one hash get the same numbers every time.
        let peers: BTreeMap<_, _> = declared.peers.iter().map(|peer| (&peer.node, peer)).collect();
        let mut ids = BTreeMap::new();
        for (node, peer) in peers {
            let link = match link_to(peer, &kernel.addresses) {
                Ok(link) => link,
                Err(failure) => {
                    self.failures.push(failure);
                    continue;
                }
            };
            let id = nexthop::id_for(node, &taken);
            taken.insert(id);
            ids.insert(node, id);
            let nexthop = Nexthop::new(id, link, peer.via);
            if existing.get(&id).is_none_or(|existing| **existing != nexthop) {
                self.nexthops.push((node.clone(), nexthop));
            }
        }
        let kept: BTreeSet<u32> = ids.values().copied().collect();
        self.remove_nexthops = kernel
            .nexthops
            .iter()
            .filter(|nexthop| nexthop.is_ours() && !kept.contains(&nexthop.id))
            .copied()
            .collect();
        ids
    }

    /// Every prefix that is to lead to a peer.
    fn wanted(
        &mut self,
        declared: &RouteTable,
        nexthops: &BTreeMap<&NodeName, u32>,
    ) -> BTreeMap<Ipv4Net, PeerRoute> {
        let blocks =
            declared.peers.iter().filter_map(|peer| Some((&peer.node, peer.block?.trunc())));
        let exceptions = declared
            .exceptions
            .iter()
            .map(|exception| (&exception.node, Ipv4Net::from(exception.address)));
        let known: BTreeSet<_> = declared.peers.iter().map(|peer| &peer.node).collect();
        let mut wanted: BTreeMap<Ipv4Net, PeerRoute> = BTreeMap::new();
        for (node, prefix) in blocks.chain(exceptions) {
            // A peer without a nexthop has its failure already.
            let Some(&nexthop) = nexthops.get(node) else {
                if !known.contains(node) {
                    let reason = format!("{prefix} is to lead to a node that is not in the table");
                    self.failures.push(PeerFailure { node: node.clone(), reason });
                }
                continue;
            };
            let route = PeerRoute { node: node.clone(), prefix, nexthop };
            if let Some(first) = wanted.get(&prefix) {
                let reason = format!("{prefix} is also declared for {}, which has it", first.node);
                self.failures.push(PeerFailure { node: node.clone(), reason });
            } else {
                wanted.insert(prefix, route);
            }
        }
        wanted
    }

    fn routes(&mut self, mut wanted: BTreeMap<Ipv4Net, PeerRoute>, kernel: &Kernel) {
        self.find_conflicts(&mut wanted, kernel);
        for route in kernel.routes.iter().filter(|route| is_ours(route)) {
            match wanted.remove(&route.prefix) {
                Some(peer_route) if route.nexthop == Some(peer_route.nexthop) => self.in_place += 1,
                Some(peer_route) => self.change.push(peer_route),
                None => self.remove.push(route.prefix),
            }
        }
        self.add = wanted.into_values().collect();
    }

    /// Foreign routes that take traffic of a wanted one. Where the kernel has no room for both, ours is
    /// no longer wanted.
    fn find_conflicts(&mut self, wanted: &mut BTreeMap<Ipv4Net, PeerRoute>, kernel: &Kernel) {
        let lengths: BTreeSet<u8> = wanted.keys().map(Ipv4Net::prefix_len).collect();
        let mut without_room = Vec::new();
        for foreign in kernel.routes.iter().filter(|route| route.protocol != ROUTE_PROTOCOL) {
            for &length in lengths.iter().filter(|&&length| length <= foreign.prefix.prefix_len()) {
                let Ok(wider) = Ipv4Net::new(foreign.prefix.addr(), length) else { continue };
                let Some(route) = wanted.get(&wider.trunc()) else { continue };
                let is_same = route.prefix == foreign.prefix;
                if is_same && foreign.metric > METRIC_PEER {
                    continue;
                }
                if is_same && foreign.metric == METRIC_PEER {
                    without_room.push(route.prefix);
                }
                self.conflicts.push(RouteConflict {
                    node: route.node.clone(),
                    wanted: route.prefix,
                    holder: foreign.describe(),
                });
            }
        }
        for prefix in without_room {
            wanted.remove(&prefix);
        }
    }
}

fn is_ours(route: &Route) -> bool {
    route.protocol == ROUTE_PROTOCOL && route.metric == METRIC_PEER
}

/// The interface on whose network the peer is.
fn link_to(peer: &Peer, addresses: &[Address]) -> Result<u32, PeerFailure> {
    let fail = |reason| PeerFailure { node: peer.node.clone(), reason };
    if addresses.iter().any(|address| address.net.addr() == peer.via) {
        return Err(fail(format!(
            "its address {} is this host's own; give every node an address of its own",
            peer.via
        )));
    }
    addresses
        .iter()
        .filter(|address| address.net.contains(&peer.via))
        .max_by_key(|address| address.net.prefix_len())
        .map(|address| address.link)
        .ok_or_else(|| {
            fail(format!(
                "its address {} is not on a network of this host; nodes must share a network segment",
                peer.via
            ))
        })
}

#[cfg(test)]
mod tests;
