//! In which protocol addresses are written.
//!
//! Everything is declared, compared and decided in IPv4 addresses. Where instances have IPv6 addresses as well, which
//! [follow](dwell_core::net::ipv6) from these, the same plan is carried out a second time with other words: this module
//! translates. What of the kernel's IPv6 has no IPv4 image is not ours and in nobody's way.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dwell_core::net::ipv6::{embed, extract};
use dwell_core::net::{Ipv6Range, Ranges};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::AddressFamily;
use nix::libc;

/// Bits of an IPv6 address before its IPv4 image.
const BEFORE: u8 = 96;

/// The link-local addresses under which nodes are next hops to each other: this, and the IPv4 address by which the others know
/// a node ("dwll" in its middle, by which it can be told whose it is).
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x6477, 0x6c6c, 0, 0);

/// A protocol, and how IPv4 addresses are written in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Family {
    /// As they are.
    #[default]
    V4,
    /// In the low bits of this address.
    V6(Ipv6Addr),
}

impl Family {
    /// Of the addresses in this range.
    pub(super) fn of(range: Ipv6Range) -> Self {
        Self::V6(range.prefix().network())
    }

    /// IPv4, and IPv6 if there is a range for it.
    pub(super) fn all(range: Option<Ipv6Range>) -> impl Iterator<Item = Self> + Clone {
        std::iter::once(Self::V4).chain(range.map(Self::of))
    }

    pub(super) fn is_ipv6(self) -> bool {
        self != Self::V4
    }

    /// As it is written in netlink's headers.
    pub(super) fn number(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6(_) => AddressFamily::Inet6,
        }
    }

    pub(super) fn address(self, address: Ipv4Addr) -> IpAddr {
        match self {
            Self::V4 => address.into(),
            Self::V6(base) => embed(base, address).into(),
        }
    }

    pub(super) fn net(self, net: Ipv4Net) -> IpNet {
        match self {
            Self::V4 => net.into(),
            Self::V6(base) => {
                Ipv6Net::new_assert(embed(base, net.addr()), BEFORE + net.prefix_len()).into()
            }
        }
    }

    /// All ranges, each as it is written in this protocol.
    pub(super) fn nets(self, ranges: &Ranges) -> Vec<IpNet> {
        ranges.iter().map(|range| self.net(range)).collect()
    }

    /// What a rule of nftables compares an address with that is to be in one of the ranges.
    pub(super) fn any_of(self, ranges: &Ranges) -> String {
        let nets: Vec<String> = self.nets(ranges).iter().map(ToString::to_string).collect();
        match &nets[..] {
            [net] => net.clone(),
            nets => format!("{{ {} }}", nets.join(", ")),
        }
    }

    /// The bytes of an address.
    pub(super) fn octets(self, address: Ipv4Addr) -> Octets {
        self.address(address).into()
    }

    /// What rules of nftables call it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6(_) => "ip6",
        }
    }

    /// The type of an address in a set of nftables.
    pub(super) fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6(_) => "ipv6_addr",
        }
    }

    /// The set of nftables that holds in this protocol what `set` holds in IPv4.
    pub(super) fn set(self, set: &str) -> String {
        match self {
            Self::V4 => set.to_owned(),
            Self::V6(_) => format!("ip6_{set}"),
        }
    }

    /// How long a prefix is that is this long in IPv4.
    pub(super) fn length(self, of: u8) -> u8 {
        match self {
            Self::V4 => of,
            Self::V6(_) => BEFORE + of,
        }
    }
}

/// The address under which a node is a next hop for IPv6 on its segment.
pub(super) fn link_local(node: Ipv4Addr) -> Ipv6Addr {
    embed(LINK_LOCAL, node)
}

/// Reads [`link_local`] back.
pub(super) fn node_of(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (base, node) = extract(address);
    (base == LINK_LOCAL).then_some(node)
}

/// Whether a message of netlink is about IPv6.
pub(super) fn is_ipv6(payload: &[u8]) -> bool {
    payload.first().is_some_and(|family| i32::from(*family) == libc::AF_INET6)
}

pub(super) fn ipv6(bytes: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)
}

/// The value of an attribute: an address, or a number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Octets {
    bytes: [u8; 16],
    length: usize,
}

impl AsRef<[u8]> for Octets {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl From<[u8; 4]> for Octets {
    fn from([a, b, c, d]: [u8; 4]) -> Self {
        Self { bytes: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], length: 4 }
    }
}

impl From<u32> for Octets {
    fn from(number: u32) -> Self {
        number.to_ne_bytes().into()
    }
}

impl From<IpAddr> for Octets {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.octets().into(),
            IpAddr::V6(address) => Self { bytes: address.octets(), length: 16 },
        }
    }
}

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Octets").field(&self.as_ref()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_next_hop_under_an_address_that_tells_whose_it_is() {
        let node = Ipv4Addr::new(192, 0, 2, 7);
        assert_eq!(link_local(node).to_string(), "fe80::6477:6c6c:c000:207");
        assert_eq!(node_of(link_local(node)), Some(node));
        assert_eq!(node_of("fe80::1".parse().unwrap()), None);
    }

    #[test]
    fn a_range_is_written_as_its_addresses_are() {
        let range: Ipv6Range = "fd00:5::/64".parse().unwrap();
        let block: Ipv4Net = "10.80.1.0/24".parse().unwrap();
        assert_eq!(Family::of(range).net(block), IpNet::from(range.net(block)));
        assert_eq!(Family::of(range).octets(block.addr()).as_ref().len(), 16);
        assert_eq!(Family::V4.octets(block.addr()).as_ref(), [10, 80, 1, 0]);
    }

    #[test]
    fn several_ranges_are_written_as_a_set() {
        let (one, two) = ("10.80.0.0/16", "10.80.0.0/16, 172.20.0.0/16");
        let any_of = |family: Family, ranges: &str| family.any_of(&ranges.parse().unwrap());
        assert_eq!(any_of(Family::V4, one), one);
        assert_eq!(any_of(Family::V4, two), format!("{{ {two} }}"));
        let ipv6 = Family::of("fd00:5::/64".parse().unwrap());
        assert_eq!(any_of(ipv6, one), "fd00:5::a50:0/112");
        assert_eq!(any_of(ipv6, two), "{ fd00:5::a50:0/112, fd00:5::ac14:0/112 }");
    }
}
