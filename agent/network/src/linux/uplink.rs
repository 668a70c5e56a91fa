//! Which interfaces of the host lead to other hosts, and the largest packet they carry.

use std::collections::BTreeSet;

use nix::libc;

use super::nexthop::links_of;
use super::observe::{Link, Route};
use super::plan::Kernel;
use super::{LOOPBACK, overlay, veth};

/// What Ethernet carries, for a host that has no uplink (yet).
const MTU_WITHOUT_UPLINK: u32 = 1500;

/// The interfaces through which the cluster's traffic may come and go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Uplinks {
    pub(super) names: BTreeSet<String>,
    /// What fits through the interfaces of the best default route and those that lead to peers, or else through all; in
    /// bytes.
    pub(super) underlay_mtu: u32,
    /// Of what instances send: as large as it fits, also through the overlay if there is one.
    pub(super) mtu: u32,
}

impl Uplinks {
    /// An uplink has a default route, or leads to a peer, or has an address and is no bridge: a bridge
    /// that nothing leads through belongs to Docker or another maker of private networks. The overlay is one, too.
    pub(super) fn find(kernel: &Kernel, links: &[Link]) -> Self {
        let links_of = |route: &Route| links_of(route, &kernel.nexthops, &kernel.groups);
        let defaults = kernel.routes.iter().filter(|route| route.is_default());
        let best = defaults.clone().min_by_key(|route| route.metric);
        let to_peers = kernel.nexthops.iter().filter(|nexthop| nexthop.is_ours());
        let to_peers = to_peers.filter_map(|nexthop| nexthop.link);
        let taken: BTreeSet<u32> = best.into_iter().flat_map(links_of).chain(to_peers).collect();
        let mut leading: BTreeSet<u32> = defaults.flat_map(links_of).collect();
        leading.extend(&taken);
        let addressed: BTreeSet<u32> = kernel
            .addresses
            .iter()
            .filter(|address| address.scope == libc::RT_SCOPE_UNIVERSE)
            .map(|address| address.link)
            .collect();
        let uplinks: Vec<_> = links
            .iter()
            .filter(|link| !veth::is_ours(link) && link.index != LOOPBACK)
            .filter(|link| {
                let has_own_address = addressed.contains(&link.index) && link.kind != "bridge";
                leading.contains(&link.index) || has_own_address || overlay::is_device(link)
            })
            .collect();
        let (overlay, uplinks): (Vec<_>, Vec<_>) =
            uplinks.into_iter().partition(|link| overlay::is_device(link));
        let taken = uplinks.iter().filter(|link| taken.contains(&link.index));
        let underlay_mtu = taken
            .map(|link| link.mtu)
            .min()
            .or_else(|| uplinks.iter().map(|link| link.mtu).min())
            .unwrap_or(MTU_WITHOUT_UPLINK);
        let mtu = match overlay.as_slice() {
            [] => underlay_mtu,
            _ => underlay_mtu.saturating_sub(overlay::HEADERS_BYTES),
        };
        let names = uplinks.into_iter().chain(overlay).map(|link| link.name.clone()).collect();
        Self { names, underlay_mtu, mtu }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::family::Family;
    use crate::linux::nexthop::{Group, Nexthop};
    use crate::linux::observe::Address;

    fn link(index: u32, name: &str, kind: &str, mtu: u32) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: kind.to_owned(),
            alias: String::new(),
            mac: None,
            mtu,
            group: 0,
            peer: None,
            peer_namespace: None,
            is_up: true,
            has_carrier: true,
            is_running: true,
        }
    }

    fn address(link: u32, net: &str) -> Address {
        Address { link, net: net.parse().unwrap(), scope: libc::RT_SCOPE_UNIVERSE }
    }

    fn default_route(link: u32, metric: u32) -> Route {
        Route {
            family: Family::V4,
            table: libc::RT_TABLE_MAIN,
            prefix: "0.0.0.0/0".parse().unwrap(),
            protocol: 3,
            kind: libc::RTN_UNICAST,
            metric,
            link: Some(link),
            links: Vec::new(),
            via: None,
            nexthop: None,
            source: None,
        }
    }

    fn names(uplinks: &Uplinks) -> Vec<&str> {
        uplinks.names.iter().map(String::as_str).collect()
    }

    #[test]
    fn dockers_bridges_are_no_uplinks() {
        let links = [
            link(1, "lo", "", 65536),
            link(2, "eth0", "", 1400),
            link(3, "eth1", "", 9000),
            link(4, "docker0", "bridge", 1500),
            link(5, "wg0", "wireguard", 1380),
        ];
        let kernel = Kernel {
            addresses: vec![
                address(2, "192.0.2.1/24"),
                address(3, "198.51.100.1/24"),
                address(4, "172.17.0.1/16"),
                address(5, "203.0.113.1/24"),
            ],
            routes: vec![default_route(3, 100), default_route(2, 0)],
            ..Kernel::default()
        };
        let uplinks = Uplinks::find(&kernel, &links);
        assert_eq!(names(&uplinks), ["eth0", "eth1", "wg0"]);
        assert_eq!(uplinks.mtu, 1400);
    }

    #[test]
    fn what_instances_send_fits_through_every_link_of_the_default_route_and_to_peers() {
        let links = [
            link(2, "eth0", "", 9000),
            link(3, "eth1", "", 1450),
            link(4, "eth2", "", 1400),
            link(5, "eth3", "", 1300),
        ];
        let several =
            |route: Route, links: &[u32]| Route { link: None, links: links.into(), ..route };
        let object = |id, link| Nexthop::direct(id, link, [192, 0, 2, 9].into());
        let foreign = |id, link| Nexthop { protocol: 11, ..object(id, link) };
        let base = || Kernel { addresses: vec![address(5, "192.0.2.1/24")], ..Kernel::default() };
        // Two links without an address of their own, which only the route shows to be uplinks.
        let multipath = Kernel {
            routes: vec![several(default_route(2, 0), &[2, 3]), default_route(5, 100)],
            ..base()
        };
        let group = Route { link: None, nexthop: Some(30), ..default_route(2, 0) };
        let grouped = Kernel {
            nexthops: vec![foreign(10, 2), foreign(20, 3), foreign(21, 4)],
            groups: vec![Group { id: 30, members: vec![10, 20] }],
            routes: vec![group],
            ..base()
        };
        for kernel in [multipath, grouped] {
            let uplinks = Uplinks::find(&kernel, &links);
            assert_eq!((names(&uplinks), uplinks.mtu), (vec!["eth0", "eth1", "eth3"], 1450));
        }
        let with_peer =
            Kernel { nexthops: vec![object(1, 4)], routes: vec![default_route(2, 0)], ..base() };
        let uplinks = Uplinks::find(&with_peer, &links);
        assert_eq!((names(&uplinks), uplinks.mtu), (vec!["eth0", "eth2", "eth3"], 1400));
    }

    #[test]
    fn a_bridge_with_a_default_route_is_an_uplink() {
        let links = [link(1, "lo", "", 65536), link(2, "br0", "bridge", 9000)];
        let kernel = Kernel {
            addresses: vec![address(2, "192.0.2.1/24")],
            routes: vec![default_route(2, 0)],
            ..Kernel::default()
        };
        let uplinks = Uplinks::find(&kernel, &links);
        assert_eq!((names(&uplinks), uplinks.mtu), (vec!["br0"], 9000));
    }

    #[test]
    fn instances_send_what_fits_through_the_overlay_too() {
        let links = [link(2, "eth0", "", 1400), link(9, "dwell-vxlan", "vxlan", 1350)];
        let kernel = Kernel {
            addresses: vec![address(2, "192.0.2.1/24")],
            routes: vec![default_route(2, 0)],
            ..Kernel::default()
        };
        let uplinks = Uplinks::find(&kernel, &links);
        assert_eq!(names(&uplinks), ["dwell-vxlan", "eth0"]);
        assert_eq!((uplinks.underlay_mtu, uplinks.mtu), (1400, 1350));
    }

    #[test]
    fn a_host_without_uplinks_has_ethernets_mtu() {
        let uplinks = Uplinks::find(&Kernel::default(), &[link(1, "lo", "", 65536)]);
        assert_eq!((names(&uplinks), uplinks.mtu), (vec![], 1500));
    }
}
