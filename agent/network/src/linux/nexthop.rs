//! Nexthop objects, which `netlink-packet-route` does not know.
//!
//! One object stands for one node. Its number is made from the node's name, so that a restarted agent
//! finds its own again without a memory, and a node that gets another address is redirected by one
//! message however many routes lead to it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dwell_core::id::NodeName;
use netlink_packet_core::{DefaultNla, Emitable, NetlinkSerializable};
use netlink_packet_route::AddressFamily;
use sha2::{Digest, Sha256};

use super::family::{self, is_ipv6, link_local, node_of};
use super::netlink::Request;
use super::observe::{Route, attributes, ipv4, u32_at};
use super::request::Mode;
use crate::ROUTE_PROTOCOL;

/// Our numbers are the 2²⁸ from here on, and as many for IPv6.
const FIRST_ID: u32 = 0x6000_0000;
const FIRST_IPV6_ID: u32 = 0x7000_0000;
const IDS: u32 = 1 << 28;

pub(super) const RTM_NEWNEXTHOP: u16 = 104;
pub(super) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
const NHA_ID: u16 = 1;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const HEADER_BYTES: usize = 8;
const FLAGS_AT: usize = 4;
const RTNH_F_ONLINK: u32 = 4;

/// A nexthop object of the kernel; groups and blackholes have no link or gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nexthop {
    pub(super) id: u32,
    pub(super) protocol: u8,
    /// Whether it is for IPv6. Its gateway is then under its [address on the link](link_local).
    pub(super) is_ipv6: bool,
    pub(super) link: Option<u32>,
    pub(super) gateway: Option<Ipv4Addr>,
    /// Whether the gateway is taken to be on the link although no address of it says so: a peer in the overlay.
    pub(super) is_onlink: bool,
}

impl Nexthop {
    /// One of ours, to a peer on the network of `link`.
    pub(super) fn direct(id: u32, link: u32, gateway: Ipv4Addr) -> Self {
        let (link, gateway) = (Some(link), Some(gateway));
        let protocol = ROUTE_PROTOCOL;
        Self { id, protocol, is_ipv6: false, link, gateway, is_onlink: false }
    }

    /// One of ours, to a peer in the overlay, whose `device` knows where to send what is for `peer`.
    pub(super) fn vxlan(id: u32, device: u32, peer: Ipv4Addr) -> Self {
        Self { is_onlink: true, ..Self::direct(id, device, peer) }
    }

    pub(super) fn is_ours(&self) -> bool {
        self.protocol == ROUTE_PROTOCOL
    }

    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let mut id = None;
        let is_onlink = u32_at(payload, FLAGS_AT)? & RTNH_F_ONLINK != 0;
        let protocol = *payload.get(2)?;
        let is_ipv6 = is_ipv6(payload);
        let mut found = Self { id: 0, protocol, is_ipv6, link: None, gateway: None, is_onlink };
        for attribute in attributes(payload, HEADER_BYTES) {
            match attribute.kind {
                NHA_ID => id = u32_at(attribute.value, 0),
                NHA_OIF => found.link = u32_at(attribute.value, 0),
                NHA_GATEWAY if is_ipv6 => {
                    found.gateway = family::ipv6(attribute.value).and_then(node_of);
                }
                NHA_GATEWAY => found.gateway = ipv4(attribute.value),
                _ => {}
            }
        }
        found.id = id?;
        Some(found)
    }

    /// `ip nexthop add|replace id ID via GATEWAY dev LINK`.
    pub(super) fn set(&self, mode: Mode) -> Request {
        let mut attributes = vec![DefaultNla::new(NHA_ID, self.id.to_ne_bytes().to_vec())];
        let octets = |gateway: Ipv4Addr| match self.is_ipv6 {
            true => link_local(gateway).octets().to_vec(),
            false => gateway.octets().to_vec(),
        };
        attributes.extend(self.gateway.map(|it| DefaultNla::new(NHA_GATEWAY, octets(it))));
        attributes
            .extend(self.link.map(|link| DefaultNla::new(NHA_OIF, link.to_ne_bytes().to_vec())));
        let message = NexthopMessage {
            message_type: RTM_NEWNEXTHOP,
            family: if self.is_ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet },
            protocol: self.protocol,
            flags: if self.is_onlink { RTNH_F_ONLINK } else { 0 },
            attributes,
        };
        Request::new(message, mode.flags())
    }

    /// `ip nexthop del id ID`; its routes go with it.
    pub(super) fn delete(&self) -> Request {
        let message = NexthopMessage {
            message_type: RTM_DELNEXTHOP,
            family: AddressFamily::Unspec,
            protocol: 0,
            flags: 0,
            attributes: vec![DefaultNla::new(NHA_ID, self.id.to_ne_bytes().to_vec())],
        };
        Request::new(message, 0)
    }
}

/// A nexthop object that stands for several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) id: u32,
    /// The numbers of its nexthops.
    pub(super) members: Vec<u32>,
}

impl Group {
    /// `None` for a nexthop that is no group.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        const NHA_GROUP: u16 = 2;
        const MEMBER_BYTES: usize = 8;
        let value_of =
            |kind| attributes(payload, HEADER_BYTES).find(|it| it.kind == kind).map(|it| it.value);
        let members = value_of(NHA_GROUP)?.chunks_exact(MEMBER_BYTES);
        let members = members.filter_map(|member| u32_at(member, 0)).collect();
        Some(Self { id: u32_at(value_of(NHA_ID)?, 0)?, members })
    }
}

/// The links that `route` leads to.
pub(super) fn links_of(route: &Route, nexthops: &[Nexthop], groups: &[Group]) -> Vec<u32> {
    let Some(id) = route.nexthop else {
        return route.link.iter().chain(&route.links).copied().collect();
    };
    let group = groups.iter().find(|group| group.id == id);
    let members = group.map_or_else(|| vec![id], |group| group.members.clone());
    let found = nexthops.iter().filter(|nexthop| members.contains(&nexthop.id));
    found.filter_map(|nexthop| nexthop.link).collect()
}

/// `ip nexthop show`, as a dump.
pub(super) fn nexthops() -> Request {
    let message = NexthopMessage {
        message_type: RTM_GETNEXTHOP,
        family: AddressFamily::Unspec,
        protocol: 0,
        flags: 0,
        attributes: Vec::new(),
    };
    Request::new(message, 0)
}

/// The number of a node's nexthop: from its name, or the next one that is not `taken`.
pub(super) fn id_for(node: &NodeName, is_ipv6: bool, taken: &BTreeSet<u32>) -> u32 {
    let first = if is_ipv6 { FIRST_IPV6_ID } else { FIRST_ID };
    let digest = Sha256::digest(node.as_str());
    let start = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % IDS;
    (0..IDS)
        .map(|step| first + (start + step) % IDS)
        .find(|id| !taken.contains(id))
        .unwrap_or(first)
}

/// `struct nhmsg` and its attributes.
struct NexthopMessage {
    message_type: u16,
    family: AddressFamily,
    protocol: u8,
    /// `RTNH_F_*`.
    flags: u32,
    attributes: Vec<DefaultNla>,
}

impl NetlinkSerializable for NexthopMessage {
    fn message_type(&self) -> u16 {
        self.message_type
    }

    fn buffer_len(&self) -> usize {
        HEADER_BYTES + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..HEADER_BYTES].fill(0);
        buffer[0] = u8::from(self.family);
        buffer[2] = self.protocol;
        buffer[FLAGS_AT..HEADER_BYTES].copy_from_slice(&self.flags.to_ne_bytes());
        self.attributes.as_slice().emit(&mut buffer[HEADER_BYTES..]);
    }
}
