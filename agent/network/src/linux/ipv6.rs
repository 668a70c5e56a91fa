//! IPv6 of the host: what it needs itself to be a router of instances' IPv6 addresses, and a next hop of other nodes.
//!
//! ```text
//!   192.0.2.1 ── lo       fd00:5::c000:201/128            what the host sends from to instances, also ICMP errors
//!                uplink   fe80::6477:6c6c:c000:201/128    what peers on the segment have as their next hop
//!   peer 192.0.2.2 ────── nexthop via fe80::6477:6c6c:c000:202 dev uplink
//! ```
//!
//! All of it follows from the addresses of IPv4, so that nodes have nothing to tell each other. How a peer is reached is decided
//! by IPv4 alone; only the routes are made a second time, with what the [plan](super::plan) says of the [family](super::family).
//! Addresses of ours are known by how they are made.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use dwell_core::net::ipv6::extract;
use dwell_core::net::{Ipv6Range, Mac};
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::libc;

use super::family::{Family, link_local, node_of};
use super::nexthop::Nexthop;
use super::observe::{Address6, Neighbour, Route};
use super::overlay::DEVICE;
use super::owner::Owner;
use super::plan::{self, Kernel};
use super::{LOOPBACK, refused, request, send};
use crate::{Exception, Ipv6Routes, NetworkError, ROUTE_PROTOCOL, RouteReport, RouteTable};

impl Owner {
    /// Makes the routes to the IPv6 addresses of other nodes' instances, and to the nodes; removes them if there are to be none.
    /// `kernel` is what there is of IPv4.
    pub(super) fn sync_ipv6(
        &mut self,
        table: &RouteTable,
        tunnelled: &BTreeSet<Ipv4Addr>,
        kernel: &Kernel,
    ) -> Result<RouteReport, NetworkError> {
        self.ensure_own_addresses(table, kernel)?;
        let Some(ipv6) = table.ipv6 else {
            self.forget_next_hops(&kernel.of_ipv6)?;
            return Ok(RouteReport::default());
        };
        if let Some(device) = kernel.overlay.filter(|_| !tunnelled.is_empty()) {
            self.ensure_overlay_ipv6(device, tunnelled)?;
        }
        let kernel = self.observe_ipv6(ipv6, kernel)?;
        self.carry_out(plan::plan(&with_nodes(table), &kernel))
    }

    /// What the kernel shows of IPv6, as its IPv4 image, beside what it shows of IPv4.
    pub(super) fn observe_ipv6(
        &mut self,
        ipv6: Ipv6Routes,
        of_ipv4: &Kernel,
    ) -> Result<Kernel, NetworkError> {
        let family = Family::of(ipv6.range);
        let foreign = of_ipv4.nexthops.iter().filter(|nexthop| !nexthop.is_ours());
        let mut routes = self.ipv6_routes()?;
        routes.retain(|route| route.family == family && route.table == libc::RT_TABLE_MAIN);
        Ok(Kernel {
            family,
            addresses: of_ipv4.addresses.clone(),
            nexthops: of_ipv4.of_ipv6.iter().chain(foreign).copied().collect(),
            routes,
            overlay: of_ipv4.overlay,
            source: Some(ipv6.local),
            ..Kernel::default()
        })
    }

    /// The unreachable routes of the node's own blocks in `wanted`, and no route of ours that is not of that range. A host that has
    /// `just_begun` may have some of an earlier agent's.
    pub(super) fn ensure_ipv6_blocks(
        &mut self,
        wanted: Option<Ipv6Range>,
        blocks: &[Ipv4Net],
        just_begun: bool,
    ) -> Result<(), NetworkError> {
        if wanted.is_none() && !just_begun {
            return Ok(());
        }
        let family = wanted.map(Family::of);
        let routes = self.ipv6_routes()?;
        let ours = routes.into_iter().filter(|route| route.protocol == ROUTE_PROTOCOL);
        let (current, stale): (Vec<_>, Vec<_>) =
            ours.partition(|route| Some(route.family) == family);
        let stale = stale.iter().map(request::delete_route).collect();
        let action = || "remove routes of another IPv6 prefix".to_owned();
        send(&mut self.route, stale, |errno| errno == Errno::ESRCH, action)?;
        match family {
            Some(family) => self.ensure_blocks_of(family, blocks, &current),
            None => Ok(()),
        }
    }

    /// Those that have an IPv4 image.
    pub(super) fn ipv6_routes(&mut self) -> Result<Vec<Route>, NetworkError> {
        let routes = self.route.dump(request::routes6, Route::parse_ipv6);
        routes.map_err(refused(|| "read the routes of IPv6".to_owned()))
    }

    /// Gives the host the addresses that follow from its own, and takes away those that followed from another one.
    fn ensure_own_addresses(
        &mut self,
        table: &RouteTable,
        kernel: &Kernel,
    ) -> Result<(), NetworkError> {
        if table.ipv6.is_none() && self.own_ipv6 == Some(None) {
            return Ok(());
        }
        let action = || "read the IPv6 addresses of this host".to_owned();
        let found =
            self.route.dump(request::addresses6, Address6::parse).map_err(refused(action))?;
        let wanted = own_addresses(table, kernel);
        let before = self.own_ipv6.flatten();
        let stale = found.iter().filter(|it| {
            let was_given = it.link == LOOPBACK && Some(it.address) == before;
            let is_ours = was_given || node_of(it.address).is_some() || is_own(it, kernel);
            is_ours && !wanted.contains(&(it.link, it.address))
        });
        let stale = stale.map(request::delete_address6).collect();
        let gone = |errno| errno == Errno::EADDRNOTAVAIL;
        send(&mut self.route, stale, gone, || "take IPv6 addresses away".to_owned())?;
        let has = |(link, address)| found.iter().any(|it| (it.link, it.address) == (link, address));
        for (link, address) in wanted {
            if !has((link, address)) {
                let name = self.link_names()?.remove(&link).unwrap_or_default();
                let action = || {
                    format!(
                        "give {name} the address {address}, which instances' IPv6 needs; it takes IPv6 there, which \
                         `sysctl net.ipv6.conf.{name}.disable_ipv6=0` lets in, and an MTU of 1280"
                    )
                };
                let add = vec![request::add_address6(link, address)];
                send(&mut self.route, add, |errno| errno == Errno::EEXIST, action)?;
            }
        }
        self.own_ipv6 = Some(table.ipv6.map(|ipv6| ipv6.range.address(ipv6.local)));
        Ok(())
    }

    /// Lets IPv6 into the overlay's device, where peers are known as they are in IPv4.
    fn ensure_overlay_ipv6(
        &mut self,
        device: u32,
        peers: &BTreeSet<Ipv4Addr>,
    ) -> Result<(), NetworkError> {
        self.sysctls.let_ipv6_in(DEVICE)?;
        let action = || format!("tell {DEVICE} where peers are");
        let found = self.route.dump(request::neighbours6, Neighbour::parse);
        let mut found = found.map_err(refused(action))?;
        found.retain(|entry| entry.link == device && entry.is_permanent);
        let is_right = |entry: &Neighbour, peer: &Ipv4Addr| {
            entry.address == link_local(*peer) && entry.mac == Mac::of_address(*peer)
        };
        let missing = peers.iter().filter(|peer| !found.iter().any(|entry| is_right(entry, peer)));
        let add = missing
            .map(|peer| request::set_neighbour(device, link_local(*peer), Mac::of_address(*peer)));
        let foreign = found.iter().filter(|entry| !peers.iter().any(|peer| is_right(entry, peer)));
        let replaced = |entry: &&Neighbour| peers.iter().any(|it| entry.address == link_local(*it));
        let delete = foreign.filter(|entry| !replaced(entry)).map(request::delete_neighbour);
        let requests = add.chain(delete).collect();
        send(&mut self.route, requests, |errno| errno == Errno::ENOENT, action)
    }

    /// Takes the next hops away, and so their routes.
    fn forget_next_hops(&mut self, ours: &[Nexthop]) -> Result<(), NetworkError> {
        let requests = ours.iter().map(Nexthop::delete).collect();
        let action = || "remove the next hops of IPv6".to_owned();
        send(&mut self.route, requests, |errno| errno == Errno::ENOENT, action)
    }

    /// Removes all that is the host's: see [`crate::Network::cleanup`].
    pub(super) fn remove_ipv6(&mut self, kernel: &Kernel) -> Result<(), NetworkError> {
        self.ensure_ipv6_blocks(None, &[], true)?;
        self.forget_next_hops(&kernel.of_ipv6)?;
        self.ensure_own_addresses(&RouteTable::default(), kernel)
    }
}

/// The same table, with the nodes themselves, each at the address that follows from its own.
pub(super) fn with_nodes(table: &RouteTable) -> RouteTable {
    let mut table = table.clone();
    let nodes = table.peers.iter();
    let nodes = nodes.map(|peer| Exception { address: peer.via, node: peer.node.clone() });
    let nodes: Vec<_> = nodes.collect();
    table.exceptions.extend(nodes);
    table
}

/// What addresses the host is to have, on which links.
fn own_addresses(table: &RouteTable, kernel: &Kernel) -> BTreeSet<(u32, Ipv6Addr)> {
    let Some(ipv6) = table.ipv6 else { return BTreeSet::new() };
    let uplinks = plan::direct(table, &kernel.addresses).into_iter();
    uplinks
        .map(|link| (link, link_local(ipv6.local)))
        .chain([(LOOPBACK, ipv6.range.address(ipv6.local))])
        .collect()
}

/// Whether an address follows from one of the host's, and was given to it by an agent before.
fn is_own(found: &Address6, kernel: &Kernel) -> bool {
    const WHOLE: u8 = 128;
    let (base, node) = extract(found.address);
    let is_in_a_range = base.to_bits() << 64 == 0 && !base.is_unspecified();
    let has_it = kernel.addresses.iter().any(|address| address.net.addr() == node);
    found.link == LOOPBACK && found.prefix_length == WHOLE && is_in_a_range && has_it
}
