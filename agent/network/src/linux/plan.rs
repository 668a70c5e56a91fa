//! Which routes and nexthops to make, redirect and remove: a pure function of what is declared and what
//! the kernel shows.
//!
//! Ours are the routes with our protocol and [`METRIC_PEER`], and the nexthops with our protocol; nothing
//! else is ever redirected or removed. A plan is empty when all is as declared. Its parts are
//! to be carried out in the order of its fields, so that a redirected route always leads somewhere: the
//! new one is made behind the old one, which then goes.
//!
//! Both sides are sorted by prefix and walked together: a table of 100,000 routes that is right already takes a
//! few milliseconds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use dwell_core::id::NodeName;
use ipnet::Ipv4Net;
use nix::libc;

use super::family::Family;
use super::nexthop::{self, Group, Nexthop};
use super::observe::{Address, Route};
use super::request::Mode;
use super::{LOOPBACK, METRIC_PEER, OVERLAY_TABLE};
use crate::{Overlay, Peer, PeerFailure, ROUTE_PROTOCOL, RouteTable};

/// What the kernel shows of one protocol, as far as it matters to routes.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    /// The protocol of the routes and nexthops.
    pub(super) family: Family,
    /// The hosts' addresses, by which it is decided how a peer is reached, in IPv6 too.
    pub(super) addresses: Vec<Address>,
    pub(super) nexthops: Vec<Nexthop>,
    /// Of several nexthops, if a default route leads by one.
    pub(super) groups: Vec<Group>,
    /// Ours of IPv6, where these are of IPv4.
    pub(super) of_ipv6: Vec<Nexthop>,
    /// Of the main table, in the order of the dump, in which the first of several with one prefix and metric is in force.
    pub(super) routes: Vec<Route>,
    /// Of the overlay's table.
    pub(super) overlay_routes: Vec<Route>,
    /// The overlay's device, if it is there.
    pub(super) overlay: Option<u32>,
    /// What the host sends from to instances of other nodes, if its links do not say so.
    pub(super) source: Option<Ipv4Addr>,
}

/// How the instances of a peer are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Over the network of this link.
    Direct(u32),
    /// Through the overlay: sent from this address of the host, in packets between the two hosts.
    Vxlan(Ipv4Addr),
}

/// What routes to a peer lead by.
#[derive(Clone, Copy, Debug)]
struct Reach {
    nexthop: u32,
    way: Way,
}

/// Why a peer in the overlay has no routes.
pub(super) const NO_DEVICE: &str = "the overlay's device is missing";

/// What has to change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan<'a> {
    /// Nexthops to make, or to redirect where there is one with the number.
    pub(super) nexthops: Vec<(&'a NodeName, Nexthop, Mode)>,
    /// Routes where there is none of ours.
    pub(super) add: Vec<PeerRoute<'a>>,
    /// Routes to make behind those in `replaced`.
    pub(super) change: Vec<PeerRoute<'a>>,
    pub(super) replaced: Vec<&'a Route>,
    pub(super) remove: Vec<&'a Route>,
    pub(super) remove_nexthops: Vec<Nexthop>,
    pub(super) in_place: usize,
    pub(super) conflicts: Vec<Conflict<'a>>,
    pub(super) failures: Vec<PeerFailure>,
}

/// A block or an exception, or, in the overlay's table, a node's own address, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerRoute<'a> {
    pub(super) family: Family,
    pub(super) table: u8,
    pub(super) prefix: Ipv4Net,
    pub(super) node: &'a NodeName,
    pub(super) nexthop: u32,
    /// What the host sends from by it, where the link has no address.
    pub(super) source: Option<Ipv4Addr>,
}

/// A foreign route that takes traffic of a wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conflict<'a> {
    pub(super) wanted: PeerRoute<'a>,
    pub(super) holder: &'a Route,
}

/// Leads from what the `kernel` shows to what is `declared`.
pub(super) fn plan<'a>(declared: &'a RouteTable, kernel: &'a Kernel) -> Plan<'a> {
    let mut plan = Plan::default();
    let nexthops = plan.nexthops(declared, kernel);
    let mut wanted = plan.wanted(declared, kernel, &nexthops);
    plan.find_conflicts(&mut wanted, kernel);
    plan.routes(&wanted, &kernel.routes);
    if !kernel.family.is_ipv6() {
        plan.routes(&nodes(declared, &nexthops), &kernel.overlay_routes);
    }
    plan
}

/// The links over whose networks peers are reached.
pub(super) fn direct(declared: &RouteTable, addresses: &[Address]) -> BTreeSet<u32> {
    let link = |peer: &Peer| match way_to(peer, declared.overlay.as_ref(), addresses) {
        Ok(Way::Direct(link)) => Some(link),
        _ => None,
    };
    declared.peers.iter().filter_map(link).collect()
}

/// The addresses of the peers that are reached through the overlay, in order.
pub(super) fn tunnelled(declared: &RouteTable, addresses: &[Address]) -> BTreeSet<Ipv4Addr> {
    let through = |peer: &&Peer| {
        matches!(way_to(peer, declared.overlay.as_ref(), addresses), Ok(Way::Vxlan(_)))
    };
    declared.peers.iter().filter(through).map(|peer| peer.via).collect()
}

/// What leads instances to the peers' own addresses through the overlay. Its own packets go there by the main table.
fn nodes<'a>(
    declared: &'a RouteTable,
    nexthops: &HashMap<&'a NodeName, Reach>,
) -> Vec<PeerRoute<'a>> {
    let mut nodes: Vec<_> = declared
        .peers
        .iter()
        .filter_map(|peer| {
            let Reach { nexthop, way: Way::Vxlan(_) } = *nexthops.get(&peer.node)? else {
                return None;
            };
            let (family, table) = (Family::V4, OVERLAY_TABLE);
            let (prefix, node) = (Ipv4Net::from(peer.via), &peer.node);
            Some(PeerRoute { family, table, prefix, node, nexthop, source: None })
        })
        .collect();
    nodes.sort_by_key(|route| route.prefix);
    nodes.dedup_by_key(|route| route.prefix);
    nodes
}

impl<'a> Plan<'a> {
    /// The nexthop of every peer that has one; plans those that are missing or wrong.
    fn nexthops(
        &mut self,
        declared: &'a RouteTable,
        kernel: &'a Kernel,
    ) -> HashMap<&'a NodeName, Reach> {
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
        let mut ids = HashMap::with_capacity(peers.len());
        for (node, peer) in peers {
            let way = way_to(peer, declared.overlay.as_ref(), &kernel.addresses);
            let nexthop = |way| match way {
                Way::Direct(link) => Ok(Nexthop::direct(0, link, peer.via)),
                Way::Vxlan(_) => match kernel.overlay {
                    Some(device) => Ok(Nexthop::vxlan(0, device, peer.via)),
                    None => Err(PeerFailure { node: node.clone(), reason: NO_DEVICE.to_owned() }),
                },
            };
            let (way, nexthop) = match way.and_then(|way| Ok((way, nexthop(way)?))) {
                Ok(found) => found,
                Err(failure) => {
                    self.failures.push(failure);
                    continue;
                }
            };
            let is_ipv6 = kernel.family.is_ipv6();
            let id = nexthop::id_for(node, is_ipv6, &taken);
            taken.insert(id);
            ids.insert(node, Reach { nexthop: id, way });
            let nexthop = Nexthop { id, is_ipv6, ..nexthop };
            match existing.get(&id) {
                Some(existing) if **existing == nexthop => {}
                Some(_) => self.nexthops.push((node, nexthop, Mode::Replace)),
                None => self.nexthops.push((node, nexthop, Mode::Add)),
            }
        }
        let kept: BTreeSet<u32> = ids.values().map(|reach| reach.nexthop).collect();
        self.remove_nexthops = kernel
            .nexthops
            .iter()
            .filter(|nexthop| nexthop.is_ours() && !kept.contains(&nexthop.id))
            .copied()
            .collect();
        ids
    }

    /// Every prefix that is to lead to a peer, once, in order.
    fn wanted(
        &mut self,
        declared: &'a RouteTable,
        kernel: &Kernel,
        nexthops: &HashMap<&'a NodeName, Reach>,
    ) -> Vec<PeerRoute<'a>> {
        let of_peer = |peer: &'a Peer| peer.blocks.iter().map(|block| (&peer.node, block.trunc()));
        let blocks = declared.peers.iter().flat_map(of_peer);
        let exceptions = declared
            .exceptions
            .iter()
            .map(|exception| (&exception.node, Ipv4Net::from(exception.address)));
        let mut wanted = Vec::with_capacity(declared.peers.len() + declared.exceptions.len());
        let mut strangers = Vec::new();
        for (node, prefix) in blocks.chain(exceptions) {
            match nexthops.get(node) {
                Some(&Reach { nexthop, way }) => {
                    let source = match way {
                        Way::Direct(_) => kernel.source,
                        Way::Vxlan(local) => Some(local),
                    };
                    let (family, table) = (kernel.family, libc::RT_TABLE_MAIN);
                    wanted.push(PeerRoute { family, table, prefix, node, nexthop, source });
                }
                None => strangers.push((node, prefix)),
            }
        }
        if !strangers.is_empty() {
            // A peer without a nexthop has its failure already.
            let known: BTreeSet<_> = declared.peers.iter().map(|peer| &peer.node).collect();
            strangers.retain(|(node, _)| !known.contains(node));
        }
        self.failures.extend(strangers.into_iter().map(|(node, prefix)| PeerFailure {
            node: node.clone(),
            reason: format!(
                "{} is to lead to a node that is not in the table",
                kernel.family.net(prefix)
            ),
        }));
        // Stable: of two that want the same, the first has it.
        wanted.sort_by_key(|route| route.prefix);
        wanted.dedup_by(|later, first| {
            let is_same = later.prefix == first.prefix;
            if is_same {
                let (prefix, holder) = (first.family.net(first.prefix), first.node);
                let reason = format!("{prefix} is also declared for {holder}, which has it");
                self.failures.push(PeerFailure { node: later.node.clone(), reason });
            }
            is_same
        });
        wanted
    }

    /// Foreign routes that take traffic of a wanted one. Where the kernel has no room for both, ours is
    /// no longer wanted.
    fn find_conflicts(&mut self, wanted: &mut Vec<PeerRoute<'a>>, kernel: &'a Kernel) {
        let lengths: BTreeSet<u8> = wanted.iter().map(|route| route.prefix.prefix_len()).collect();
        let mut without_room = BTreeSet::new();
        for foreign in kernel.routes.iter().filter(|route| route.protocol != ROUTE_PROTOCOL) {
            for &length in lengths.iter().filter(|&&length| length <= foreign.prefix.prefix_len()) {
                let Ok(wider) = Ipv4Net::new(foreign.prefix.addr(), length) else { continue };
                let at = wanted.binary_search_by_key(&wider.trunc(), |route| route.prefix);
                let Some(&route) = at.ok().and_then(|at| wanted.get(at)) else { continue };
                let is_same = route.prefix == foreign.prefix;
                if is_same && foreign.metric > METRIC_PEER {
                    continue;
                }
                if is_same && foreign.metric == METRIC_PEER {
                    without_room.insert(route.prefix);
                }
                self.conflicts.push(Conflict { wanted: route, holder: foreign });
            }
        }
        if !without_room.is_empty() {
            wanted.retain(|route| !without_room.contains(&route.prefix));
        }
    }

    /// Compares the `wanted` routes of a table, in order, with ours of those that it has.
    fn routes(&mut self, wanted: &[PeerRoute<'a>], existing: &'a [Route]) {
        let mut ours: Vec<_> = existing.iter().filter(|route| is_ours(route)).collect();
        // Stable, and nearly done: the kernel dumps in the order of addresses.
        ours.sort_by_key(|route| route.prefix);
        let mut wanted = wanted.iter().copied().peekable();
        for same in ours.chunk_by(|one, next| one.prefix == next.prefix) {
            let Some(prefix) = same.first().map(|route| route.prefix) else { continue };
            while let Some(missing) = wanted.next_if(|route| route.prefix < prefix) {
                self.add.push(missing);
            }
            match wanted.next_if(|route| route.prefix == prefix) {
                Some(route) => self.compare(route, same),
                None => self.remove.extend(same),
            }
        }
        self.add.extend(wanted);
    }

    /// Compares a wanted route with ours of the same prefix. There are several if we were cut short in changing it.
    fn compare(&mut self, wanted: PeerRoute<'a>, ours: &[&'a Route]) {
        let is_right =
            |route: &&Route| (route.nexthop, route.source) == (Some(wanted.nexthop), wanted.source);
        let right = ours.iter().position(is_right);
        let others = ours.iter().enumerate().filter(|(at, _)| Some(*at) != right);
        let others = others.map(|(_, route)| *route);
        if right.is_some() {
            self.in_place += 1;
            self.remove.extend(others);
        } else {
            self.change.push(wanted);
            self.replaced.extend(others);
        }
    }
}

fn is_ours(route: &Route) -> bool {
    route.protocol == ROUTE_PROTOCOL && route.metric == METRIC_PEER
}

/// How the peer's instances are reached: over the network that its address and this host's own are on, or through the
/// overlay. The peer, which knows this host by that address alone, decides the same.
fn way_to(
    peer: &Peer,
    overlay: Option<&Overlay>,
    addresses: &[Address],
) -> Result<Way, PeerFailure> {
    let fail = |reason| Err(PeerFailure { node: peer.node.clone(), reason });
    let via = peer.via;
    let has = |own| addresses.iter().any(|address| address.net.addr() == own);
    if has(via) {
        return fail(format!(
            "its address {via} is this host's own; give every node an address of its own"
        ));
    }
    let link = addresses
        .iter()
        .filter(|address| address.link != LOOPBACK && address.net.contains(&via))
        .filter(|address| overlay.is_none_or(|overlay| address.net.contains(&overlay.local)))
        .max_by_key(|address| address.net.prefix_len())
        .map(|address| address.link);
    match (link.filter(|_| overlay.is_none_or(|overlay| !overlay.always)), overlay) {
        (Some(link), _) => Ok(Way::Direct(link)),
        (None, Some(overlay)) if has(overlay.local) => Ok(Way::Vxlan(overlay.local)),
        (None, Some(Overlay { local, .. })) => fail(format!(
            "the overlay has to send from {local}, by which the others know this node, and no interface of this host \
             has that address; give it to the host, or tell the others the right one by `dwell node address`"
        )),
        (None, None) => fail(format!(
            "its address {via} is not on a network of this host; nodes must share a network segment, or `overlay` \
             be `auto` in agent.yaml"
        )),
    }
}

#[cfg(test)]
mod tests;
