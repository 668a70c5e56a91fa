//! The overlay: packets to instances within packets between hosts (VXLAN), for peers on no network of this host.
//!
//! ```text
//!  main table      10.80.7.0/24 nhid PEER src OWN ──┐       nexthop PEER: via 198.51.100.7 dev dwell-vxlan onlink
//!  overlay table   198.51.100.7 nhid PEER ──────────┤       neighbour   198.51.100.7 is at 02:d0:c6:33:64:07
//!    (what instances send to the node itself)       ▼       forwarding  02:d0:c6:33:64:07 is behind 198.51.100.7
//!                                              dwell-vxlan ──▶ UDP from OWN to 198.51.100.7, by the main table
//! ```
//!
//! There is one device. It learns nothing and asks nobody: where packets go is only what is written here, in one entry
//! of each kind for every peer, and a hardware address follows from the host's address, so that there is nothing to
//! exchange. Nothing of it exists where no peer needs it.
//!
//! A node's own address leads two ways: the outer packets, and all that hosts say to each other, go by the main table; what
//! instances send there is marked by the firewall and goes through the overlay, since no router between the hosts
//! knows instances. The last route of the overlay's table is a fence: what is marked never leaves by the default route.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use dwell_core::net::Mac;
use ipnet::Ipv4Net;
use netlink_packet_route::link::LinkAttribute;
use nix::errno::Errno;
use nix::libc;

use super::netlink::Request;
use super::observe::{Address, Link, Neighbour, attributes, ipv4, u32_at};
use super::owner::Owner;
use super::plan::Kernel;
use super::uplink::Uplinks;
use super::{METRIC_BLOCK, OVERLAY_TABLE, refused, request, send};
use crate::{NetworkError, Overlay, ROUTE_PROTOCOL};

/// The device. It does not begin as the veths of instances do, whose rules must not apply to it.
pub(super) const DEVICE: &str = "dwell-vxlan";
/// The number of the overlay among all that use the port.
pub(super) const VNI: u32 = 157;
/// What is added to a packet: an Ethernet header, that of VXLAN, of UDP and of IP.
pub(super) const HEADERS_BYTES: u32 = 14 + 8 + 8 + 20;
/// The address of links of ours that need one, the same everywhere. Without one, the kernel's reverse-path filter would drop
/// what hosts themselves send through the device, also where it is loose.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);
/// The bit of a packet's mark that leads it into the overlay.
pub(super) const MARK: u32 = 0x0100_0000;

/// Whether it is the overlay's device.
pub(super) fn is_device(link: &Link) -> bool {
    link.name == DEVICE && link.kind == "vxlan"
}

/// A VXLAN device as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    link: Link,
    vni: u32,
    local: Option<Ipv4Addr>,
    port: u16,
    learns: bool,
}

impl Device {
    /// `None` for a link of another kind.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        const HEADER_BYTES: usize = 16;
        const IFLA_VXLAN_ID: u16 = 1;
        const IFLA_VXLAN_LOCAL: u16 = 4;
        const IFLA_VXLAN_LEARNING: u16 = 7;
        const IFLA_VXLAN_PORT: u16 = 15;
        let link = Link::parse(payload).filter(|link| link.kind == "vxlan")?;
        let mut device = Self { link, vni: 0, local: None, port: 0, learns: false };
        let info = attributes(payload, HEADER_BYTES).find(|it| it.kind == libc::IFLA_LINKINFO)?;
        let data = attributes(info.value, 0).find(|it| it.kind == libc::IFLA_INFO_DATA)?;
        for attribute in attributes(data.value, 0) {
            let value = attribute.value;
            match attribute.kind {
                IFLA_VXLAN_ID => device.vni = u32_at(value, 0)?,
                IFLA_VXLAN_LOCAL => device.local = ipv4(value),
                IFLA_VXLAN_LEARNING => device.learns = value != [0],
                IFLA_VXLAN_PORT => device.port = u16::from_be_bytes(value.try_into().ok()?),
                _ => {}
            }
        }
        Some(device)
    }

    /// Whether it is the one that `overlay` wants; its size and whether it is up can be changed.
    fn is_for(&self, overlay: &Overlay) -> bool {
        (self.vni, self.local, self.port) == (VNI, Some(overlay.local), overlay.port)
            && self.link.mac == Some(Mac::of_address(overlay.local))
            && !self.learns
    }
}

/// The addresses of the peers in the overlay.
type Peers = BTreeSet<Ipv4Addr>;

/// What entries of one kind the device lacks, and which it has too many.
#[derive(Debug, Default, PartialEq, Eq)]
struct Differences {
    missing: Peers,
    foreign: Vec<Neighbour>,
}

impl Owner {
    /// Makes the device, and all that leads packets into it and to the `peers` at its other ends. Returns whether the
    /// device was made anew, which takes routes along.
    pub(super) fn ensure_overlay(
        &mut self,
        overlay: &Overlay,
        peers: &Peers,
        kernel: &Kernel,
    ) -> Result<bool, NetworkError> {
        let links = self.links()?;
        let mtu = Uplinks::find(kernel, &links).underlay_mtu.saturating_sub(HEADERS_BYTES);
        let found = self.overlay_device()?;
        let right = found.as_ref().filter(|device| device.is_for(overlay));
        if let (Some(wrong), None) = (&found, right) {
            let delete = vec![request::delete_link(wrong.link.index)];
            send(&mut self.route, delete, |errno| errno == Errno::ENODEV, making)?;
        }
        let (index, is_new) = match right {
            Some(device) => (device.link.index, false),
            None => (self.make_overlay(overlay, mtu)?, true),
        };
        if right.is_none_or(|device| !device.link.is_up || device.link.mtu != mtu) {
            let up = request::set_link_up(index, vec![LinkAttribute::Mtu(mtu)]);
            send(&mut self.route, vec![up], |_| false, making)?;
        }
        let is_its_own = |it: &Address| it.link == index && it.net.addr() == ADDRESS;
        if is_new || !kernel.addresses.iter().any(is_its_own) {
            let add = request::add_link_address(index, ADDRESS);
            send(&mut self.route, vec![add], |errno| errno == Errno::EEXIST, making)?;
        }
        let [neighbours, forwarding] = self.overlay_entries(index, peers)?;
        let know = |&peer: &Ipv4Addr| request::set_neighbour(index, peer, Mac::of_address(peer));
        let add = neighbours.missing.iter().map(know);
        let forward = |&peer: &Ipv4Addr| request::add_forwarding(index, peer);
        let add = add.chain(forwarding.missing.iter().map(forward)).collect();
        send(&mut self.route, add, |_| false, making)?;
        self.ensure_overlay_rule()?;
        if !kernel.overlay_routes.iter().any(|route| route.kind == libc::RTN_UNREACHABLE) {
            let fence = request::add_unreachable(Ipv4Net::default(), OVERLAY_TABLE, METRIC_BLOCK);
            send(&mut self.route, vec![fence], |errno| errno == Errno::EEXIST, making)?;
        }
        Ok(is_new)
    }

    fn make_overlay(&mut self, overlay: &Overlay, mtu: u32) -> Result<u32, NetworkError> {
        let add = request::add_vxlan(DEVICE, VNI, overlay, mtu);
        send(&mut self.route, vec![add], |_| false, making)?;
        // An IPv6 address of its own would be a way in; and the way there need not be the way back.
        self.sysctls.set_own(&format!("net/ipv6/conf/{DEVICE}/disable_ipv6"), "1")?;
        self.sysctls.set_own(&format!("net/ipv4/conf/{DEVICE}/rp_filter"), "2")?;
        let made = self.overlay_device()?;
        made.map(|device| device.link.index).ok_or_else(|| refused(making)(Errno::ENODEV.into()))
    }

    /// The device's entries of peers that are none any more, once no route leads to them.
    pub(super) fn forget_overlay_peers(&mut self, peers: &Peers) -> Result<(), NetworkError> {
        let Some(device) = self.overlay_device()? else { return Ok(()) };
        let [neighbours, forwarding] = self.overlay_entries(device.link.index, peers)?;
        let delete = neighbours.foreign.iter().map(request::delete_neighbour);
        let delete = delete.chain(forwarding.foreign.iter().map(request::delete_forwarding));
        let gone = |errno| errno == Errno::ENOENT;
        send(&mut self.route, delete.collect(), gone, || "forget peers of the overlay".to_owned())
    }

    /// Takes away what there is of it, once no route leads to a peer.
    pub(super) fn remove_overlay(&mut self, kernel: &Kernel) -> Result<(), NetworkError> {
        let ours = kernel.overlay_routes.iter().filter(|route| {
            route.protocol == ROUTE_PROTOCOL && route.kind == libc::RTN_UNREACHABLE
        });
        let mut requests: Vec<_> = ours.map(request::delete_route).collect();
        if let Some(device) = self.overlay_device()? {
            requests.push(request::delete_link(device.link.index));
        }
        if requests.is_empty() {
            return Ok(());
        }
        let gone = |errno| matches!(errno, Errno::ESRCH | Errno::ENODEV);
        send(&mut self.route, requests, gone, || "remove the overlay".to_owned())?;
        self.remove_overlay_rule()
    }

    /// What the device that there is was made for.
    pub(super) fn found_overlay(&mut self) -> Result<Option<Overlay>, NetworkError> {
        let device = self.overlay_device()?;
        Ok(device.and_then(|device| {
            let (local, port) = (device.local?, device.port);
            Some(Overlay { local, port, always: false })
        }))
    }

    /// Where the device and its entries are not what `overlay` and `peers` want; `None` if they are.
    pub(super) fn overlay_difference(
        &mut self,
        overlay: &Overlay,
        peers: &Peers,
    ) -> Result<Option<String>, NetworkError> {
        let Some(device) = self.overlay_device()? else {
            return Ok(Some("there is none".to_owned()));
        };
        if !device.is_for(overlay) || !device.link.is_up {
            let Device { vni, local, port, .. } = device;
            let local = local.unwrap_or(Ipv4Addr::UNSPECIFIED);
            return Ok(Some(format!("its number is {vni}, its address {local}, its port {port}")));
        }
        let entries = self.overlay_entries(device.link.index, peers)?;
        let missing: usize = entries.iter().map(|kind| kind.missing.len()).sum();
        let foreign: usize = entries.iter().map(|kind| kind.foreign.len()).sum();
        let found = format!("{missing} of its entries are missing, {foreign} do not belong there");
        Ok((missing + foreign > 0).then_some(found))
    }

    /// The device's index, if it is there.
    pub(super) fn overlay_link(&mut self) -> Result<Option<u32>, NetworkError> {
        Ok(self.overlay_device()?.map(|device| device.link.index))
    }

    fn overlay_device(&mut self) -> Result<Option<Device>, NetworkError> {
        let action = || format!("look up interface {DEVICE}");
        let found = self.route.get(request::get_link_by_name(DEVICE), Device::parse);
        match found.map_err(refused(action))? {
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
            found => found.map_err(|refusal| refused(action)(refusal.into())),
        }
    }

    /// Neighbours, and forwarding entries.
    fn overlay_entries(
        &mut self,
        device: u32,
        peers: &Peers,
    ) -> Result<[Differences; 2], NetworkError> {
        let action = || format!("read the entries of {DEVICE}");
        let mut of = |request: fn() -> Request| {
            let mut found = self.route.dump(request, Neighbour::parse).map_err(refused(action))?;
            found.retain(|entry| entry.link == device);
            Ok(Differences::between(peers, found))
        };
        Ok([of(request::neighbours)?, of(request::forwarding)?])
    }
}

impl Differences {
    fn between(peers: &Peers, found: Vec<Neighbour>) -> Self {
        let peer = |entry: &Neighbour| match entry.address {
            IpAddr::V4(peer) => Some(peer).filter(|peer| peers.contains(peer)),
            IpAddr::V6(_) => None,
        };
        let is_right = |entry: &Neighbour| {
            entry.is_permanent && peer(entry).is_some_and(|it| entry.mac == Mac::of_address(it))
        };
        let (right, foreign): (Vec<_>, _) = found.into_iter().partition(is_right);
        let right: Peers = right.iter().filter_map(peer).collect();
        Self { missing: peers - &right, foreign }
    }
}

fn making() -> String {
    format!("set up interface {DEVICE} for peers on other segments")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(last: u8, is_permanent: bool) -> Neighbour {
        let address = Ipv4Addr::new(198, 51, 100, last);
        Neighbour { link: 9, address: address.into(), mac: Mac::of_address(address), is_permanent }
    }

    #[test]
    fn entries_are_compared_by_address_hardware_address_and_state() {
        let address = |last| Ipv4Addr::new(198, 51, 100, last);
        let peers: Peers = [1, 2, 3, 4].map(address).into();
        let wrong = Neighbour { mac: Mac([0; 6]), ..entry(3, true) };
        let found = vec![entry(1, true), entry(2, false), wrong, entry(9, true)];
        let differences = Differences::between(&peers, found);
        assert_eq!(differences.missing, [2, 3, 4].map(address).into());
        assert_eq!(differences.foreign, [entry(2, false), wrong, entry(9, true)]);
    }
}
