//! What the kernel says there is: the few attributes we look at, read from netlink messages.
//!
//! Everything else in a message is skipped, whatever it is; see [`super::netlink`] for why.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dwell_core::net::Mac;
use dwell_core::net::ipv6::extract;
use ipnet::Ipv4Net;
use nix::libc;

use super::OVERLAY_TABLE;
use super::family::{self, Family, is_ipv6, node_of};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// The driver, such as `veth` or `bridge`; empty for hardware.
    pub(super) kind: String,
    pub(super) alias: String,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) group: u32,
    /// The index of a veth's other end, in its own namespace.
    pub(super) peer: Option<u32>,
    /// The number that this namespace has for that of the other end, if it is in another one.
    pub(super) peer_namespace: Option<u32>,
    pub(super) is_up: bool,
    /// Whether the other end is up as well.
    pub(super) has_carrier: bool,
    /// Whether it carries packets: it is up, its other end is too, and the kernel has noticed.
    pub(super) is_running: bool,
}

impl Link {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        const HEADER_BYTES: usize = 16;
        const IF_OPER_UP: u8 = 6;
        const IFF_LOWER_UP: u32 = 0x10000;
        let index = u32_at(payload, 4)?;
        let flags = u32_at(payload, 8)?;
        let mut link = Self {
            index,
            name: String::new(),
            kind: String::new(),
            alias: String::new(),
            mac: None,
            mtu: 0,
            group: 0,
            peer: None,
            peer_namespace: None,
            is_up: flags & libc::IFF_UP.cast_unsigned() != 0,
            has_carrier: flags & IFF_LOWER_UP != 0,
            is_running: false,
        };
        for attribute in attributes(payload, HEADER_BYTES) {
            let value = attribute.value;
            match attribute.kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_IFALIAS => link.alias = text(value),
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
                libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
                libc::IFLA_GROUP => link.group = u32_at(value, 0)?,
                libc::IFLA_OPERSTATE => link.is_running = value == [IF_OPER_UP],
                libc::IFLA_LINK => link.peer = u32_at(value, 0),
                libc::IFLA_LINK_NETNSID => link.peer_namespace = u32_at(value, 0),
                libc::IFLA_LINKINFO => {
                    link.kind = attributes(value, 0)
                        .find(|info| info.kind == libc::IFLA_INFO_KIND)
                        .map(|info| text(info.value))
                        .unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// The number that this namespace has for another one, in an answer of the kernel; `None` if it has none.
pub(super) fn namespace_number(payload: &[u8]) -> Option<u32> {
    const HEADER_BYTES: usize = 4;
    const NETNSA_NSID: u16 = 1;
    const NOT_ASSIGNED: u32 = u32::MAX;
    let mut attributes = attributes(payload, HEADER_BYTES);
    let number = attributes.find(|attribute| attribute.kind == NETNSA_NSID)?;
    u32_at(number.value, 0).filter(|number| *number != NOT_ASSIGNED)
}

/// An IPv4 address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) link: u32,
    /// The address itself, with the length of the prefix that is on the link.
    pub(super) net: Ipv4Net,
    /// `RT_SCOPE_*`.
    pub(super) scope: u8,
}

impl Address {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        const HEADER_BYTES: usize = 8;
        let mut local = None;
        let mut address = None;
        for attribute in attributes(payload, HEADER_BYTES) {
            match attribute.kind {
                libc::IFA_LOCAL => local = ipv4(attribute.value),
                libc::IFA_ADDRESS => address = ipv4(attribute.value),
                _ => {}
            }
        }
        let prefix_length = *payload.get(1)?;
        let scope = *payload.get(3)?;
        let net = Ipv4Net::new(local.or(address)?, prefix_length).ok()?;
        Some(Self { link: u32_at(payload, 4)?, net, scope })
    }
}

/// An IPv6 address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address6 {
    pub(super) link: u32,
    pub(super) address: Ipv6Addr,
    pub(super) prefix_length: u8,
}

impl Address6 {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        const HEADER_BYTES: usize = 8;
        if !is_ipv6(payload) {
            return None;
        }
        let find = |kind| attributes(payload, HEADER_BYTES).find(|it| it.kind == kind);
        let found = find(libc::IFA_LOCAL).or_else(|| find(libc::IFA_ADDRESS))?;
        let (link, prefix_length) = (u32_at(payload, 4)?, *payload.get(1)?);
        Some(Self { link, address: family::ipv6(found.value)?, prefix_length })
    }
}

/// A route of the main table, or of the overlay's. One of IPv6 is there as its IPv4 image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// In which `prefix`, `via` and `source` are written.
    pub(super) family: Family,
    /// [`libc::RT_TABLE_MAIN`] or [`OVERLAY_TABLE`].
    pub(super) table: u8,
    pub(super) prefix: Ipv4Net,
    /// `RTPROT_*`, or [`crate::ROUTE_PROTOCOL`].
    pub(super) protocol: u8,
    /// `RTN_*`.
    pub(super) kind: u8,
    pub(super) metric: u32,
    pub(super) link: Option<u32>,
    /// The links of a route with several next hops of its own.
    pub(super) links: Vec<u32>,
    pub(super) via: Option<Ipv4Addr>,
    pub(super) nexthop: Option<u32>,
    /// The address that the host sends from by this route, if the route says so.
    pub(super) source: Option<Ipv4Addr>,
}

/// Whether a table is one that routes of ours are in.
fn is_known(table: u8) -> bool {
    table == libc::RT_TABLE_MAIN || table == OVERLAY_TABLE
}

impl Route {
    /// `None` for other tables, other types of service, cloned entries, and IPv6.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        const TABLE_AT: usize = 4;
        if is_known(*payload.get(TABLE_AT)?) { Self::of_any_table(payload) } else { None }
    }

    /// As [`Route::parse`], of all tables.
    pub(super) fn of_any_table(payload: &[u8]) -> Option<Self> {
        let mut route = Self::begin(payload, libc::AF_INET)?;
        let mut address = Ipv4Addr::UNSPECIFIED;
        for attribute in attributes(payload, Self::HEADER_BYTES) {
            match attribute.kind {
                libc::RTA_PREFSRC => route.source = ipv4(attribute.value),
                libc::RTA_DST => address = ipv4(attribute.value)?,
                libc::RTA_GATEWAY => route.via = ipv4(attribute.value),
                _ => route.take(attribute)?,
            }
        }
        route.prefix = Ipv4Net::new(address, *payload.get(1)?).ok()?;
        Some(route)
    }

    /// A route of IPv6, as its image. `None` for one that is wider than all that IPv4 has.
    pub(super) fn parse_ipv6(payload: &[u8]) -> Option<Self> {
        const BEFORE: u8 = 96;
        let mut route = Self::begin(payload, libc::AF_INET6).filter(|it| is_known(it.table))?;
        let length = payload.get(1)?.checked_sub(BEFORE)?;
        let mut address = None;
        for attribute in attributes(payload, Self::HEADER_BYTES) {
            match attribute.kind {
                libc::RTA_PREFSRC => {
                    route.source = family::ipv6(attribute.value).map(|source| extract(source).1);
                }
                libc::RTA_DST => address = family::ipv6(attribute.value),
                libc::RTA_GATEWAY => route.via = family::ipv6(attribute.value).and_then(node_of),
                _ => route.take(attribute)?,
            }
        }
        let (base, address) = extract(address?);
        route.family = Family::V6(base);
        route.prefix = Ipv4Net::new(address, length).ok()?;
        Some(route)
    }

    const HEADER_BYTES: usize = 12;

    /// What its header says, if it is of this family.
    fn begin(payload: &[u8], wanted: i32) -> Option<Self> {
        const RTM_F_CLONED: u32 = 0x200;
        let &[family, _, _, tos, table, protocol, _, kind, ..] = payload else { return None };
        let is_cloned = u32_at(payload, 8)? & RTM_F_CLONED != 0;
        if i32::from(family) != wanted || tos != 0 || is_cloned {
            return None;
        }
        Some(Self {
            family: Family::V4,
            table,
            prefix: Ipv4Net::default(),
            protocol,
            kind,
            metric: 0,
            link: None,
            links: Vec::new(),
            via: None,
            nexthop: None,
            source: None,
        })
    }

    /// What is the same in both protocols.
    fn take(&mut self, attribute: Attribute<'_>) -> Option<()> {
        match attribute.kind {
            libc::RTA_PRIORITY => self.metric = u32_at(attribute.value, 0)?,
            libc::RTA_OIF => self.link = u32_at(attribute.value, 0),
            libc::RTA_MULTIPATH => self.links = links_of_hops(attribute.value).collect(),
            RTA_NH_ID => self.nexthop = u32_at(attribute.value, 0),
            _ => {}
        }
        Some(())
    }

    /// Whether packets that no other route is for go by it.
    pub(super) fn is_default(&self) -> bool {
        self.prefix.prefix_len() == 0 && self.kind == libc::RTN_UNICAST
    }

    /// As `ip route` would name it, for people. `name_of` knows the names of interfaces.
    pub(super) fn describe(&self, name_of: impl Fn(u32) -> Option<String>) -> String {
        let mut words = self.family.net(self.prefix).to_string();
        if let Some(via) = self.via {
            match self.family {
                Family::V4 => words += &format!(" via {via}"),
                Family::V6(_) => words += &format!(" via {}", family::link_local(via)),
            }
        }
        for &index in self.link.iter().chain(&self.links) {
            words += &format!(" dev {}", name_of(index).unwrap_or_else(|| format!("if{index}")));
        }
        if let Some(nexthop) = self.nexthop {
            words += &format!(" nhid {nexthop}");
        }
        words += &match PROTOCOLS.iter().find(|(number, _)| *number == self.protocol) {
            Some((_, name)) => format!(" proto {name}"),
            None => format!(" proto {}", self.protocol),
        };
        words + &format!(" metric {}", self.metric)
    }
}

/// The links of the next hops (`struct rtnexthop`) of a route with several.
fn links_of_hops(hops: &[u8]) -> impl Iterator<Item = u32> {
    const LINK_AT: usize = 4;
    const ALIGNMENT: usize = 4;
    let mut rest = hops;
    std::iter::from_fn(move || {
        let link = u32_at(rest, LINK_AT)?;
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        // One without a length would be read for ever.
        let next = length.max(ALIGNMENT).next_multiple_of(ALIGNMENT);
        rest = rest.get(next..).unwrap_or_default();
        Some(link)
    })
}

/// Those that one is likely to meet, as in iproute2's `rt_protos`.
const PROTOCOLS: [(u8, &str); 9] = [
    (2, "kernel"),
    (3, "boot"),
    (4, "static"),
    (11, "zebra"),
    (12, "bird"),
    (16, "dhcp"),
    (157, "dwell"),
    (186, "bgp"),
    (188, "ospf"),
];

/// A neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) link: u32,
    pub(super) address: IpAddr,
    pub(super) mac: Mac,
    pub(super) is_permanent: bool,
}

impl Neighbour {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        const HEADER_BYTES: usize = 12;
        const NDA_DST: u16 = 1;
        const NDA_LLADDR: u16 = 2;
        const NUD_PERMANENT: u16 = 0x80;
        let state = u16::from_ne_bytes(*payload.get(8..)?.first_chunk()?);
        let mut address = None;
        let mut mac = None;
        for attribute in attributes(payload, HEADER_BYTES) {
            match attribute.kind {
                NDA_DST => address = ip(attribute.value),
                NDA_LLADDR => mac = attribute.value.try_into().ok().map(Mac),
                _ => {}
            }
        }
        let is_permanent = state & NUD_PERMANENT != 0;
        Some(Self { link: u32_at(payload, 4)?, address: address?, mac: mac?, is_permanent })
    }
}

/// `RTA_NH_ID`, which `libc` does not have.
pub(super) const RTA_NH_ID: u16 = 30;

/// An attribute of a message.
#[derive(Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub(super) kind: u16,
    pub(super) value: &'a [u8],
}

/// The attributes that follow a header of `skip` bytes; a malformed one ends them.
pub(super) fn attributes(payload: &[u8], skip: usize) -> impl Iterator<Item = Attribute<'_>> {
    const HEADER_BYTES: usize = 4;
    /// Without the flags for nesting and byte order.
    const KIND: u16 = 0x3fff;
    let mut rest = payload.get(skip..).unwrap_or_default();
    std::iter::from_fn(move || {
        let &[length_0, length_1, kind_0, kind_1] = rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([length_0, length_1]));
        let kind = u16::from_ne_bytes([kind_0, kind_1]) & KIND;
        let value = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(HEADER_BYTES)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

/// Of either protocol, by its length.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    ipv4(bytes).map(IpAddr::from).or_else(|| family::ipv6(bytes).map(IpAddr::from))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned()
}
