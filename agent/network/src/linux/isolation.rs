//! Isolation as elements of nftables sets: a pure function of the policies.
//!
//! A packet to an isolated instance passes if its source, and where it matters its port, is in a set; a packet of a
//! confined one if its destination is. All
//! sets are hash sets, which take thousands of elements, and a change of one, in a moment; the kernel's sets
//! of ranges take seconds for that. So there is one set for each length of prefix and each size of a block
//! of ports that occurs, usually a handful, and a packet's address and port are looked up in each with
//! the rest masked off.
//!
//! Where instances have IPv6 addresses, each set has a twin with the same elements in IPv6, and both are always changed in
//! one transaction: who reaches an instance by the one reaches it by the other. A range of `0.0.0.0/0` is anybody; every other one
//! is those who have an address of the cluster's IPv6 prefix that follows from it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dwell_core::net::ipv6::extract;
use dwell_core::workload::Protocol;
use ipnet::{IpNet, Ipv4Net};
use nix::libc;

use super::family::{self, Family};
use crate::{Allow, Direction, INTERFACE_PREFIX, Policy, PortRange};

/// What every address is with everything masked off.
const ANYBODY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// How many low bits of a port the blocks leave open: from one port to all of them.
const BLOCK_BITS: [u8; 5] = [16, 12, 8, 4, 0];

/// A set of our nftables table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// Instances that are not open to all.
    Isolated,
    /// An instance, and a prefix of this length that reaches all of it.
    Sources(u8),
    /// An instance, a prefix of this length, a protocol, and ports that differ in this many bits.
    Ports(u8, u8),
    /// Instances that do not reach all.
    Confined,
    /// As [`Self::Sources`], of what the instance reaches.
    Destinations(u8),
    /// As [`Self::Ports`], likewise.
    DestinationPorts(u8, u8),
}

/// What a packet meets that begins a connection out of a confined instance.
pub(super) fn confine(family: Family) -> String {
    let (ip, confined) = (family.word(), family.set(&Set::Confined.name()));
    format!("iifname \"{INTERFACE_PREFIX}*\" {ip} saddr @{confined} jump confinement")
}

impl Set {
    pub(super) fn name(self) -> String {
        match self {
            Self::Isolated => "isolated".to_owned(),
            Self::Sources(length) => format!("from_{length}"),
            Self::Ports(length, bits) => format!("from_{length}_ports_{bits}"),
            Self::Confined => "confined".to_owned(),
            Self::Destinations(length) => format!("to_{length}"),
            Self::DestinationPorts(length, bits) => format!("to_{length}_ports_{bits}"),
        }
    }

    /// What its keys are, as `nft` has it.
    pub(super) fn key_type(self, family: Family) -> String {
        let address = family.address_type();
        match self {
            Self::Isolated | Self::Confined => address.to_owned(),
            Self::Sources(_) | Self::Destinations(_) => format!("{address} . {address}"),
            Self::Ports(..) | Self::DestinationPorts(..) => {
                format!("{address} . {address} . inet_proto . inet_service")
            }
        }
    }

    /// What a packet that is in it meets. One that may leave may yet be one that nobody may send to where it goes.
    pub(super) fn rule(self, family: Family) -> String {
        let (name, ip) = (family.set(&self.name()), family.word());
        let from = |length| format!("{ip} daddr . {ip} saddr & {}", mask(family, length));
        let to = |length| format!("{ip} saddr . {ip} daddr & {}", mask(family, length));
        let port = |bits: u8| {
            let ports = u16::MAX.checked_shl(bits.into()).unwrap_or_default();
            format!("meta l4proto . th dport & {ports}")
        };
        match self {
            Self::Isolated => {
                format!("oifname \"{INTERFACE_PREFIX}*\" {ip} daddr @{name} jump isolation")
            }
            Self::Sources(length) => format!("{} @{name} accept", from(length)),
            Self::Ports(length, bits) => {
                format!("{} . {} @{name} accept", from(length), port(bits))
            }
            Self::Confined => confine(family),
            Self::Destinations(length) => format!("{} @{name} return", to(length)),
            Self::DestinationPorts(length, bits) => {
                format!("{} . {} @{name} return", to(length), port(bits))
            }
        }
    }

    /// Whether it is about what instances begin.
    pub(super) fn is_out(self) -> bool {
        matches!(self, Self::Confined | Self::Destinations(_) | Self::DestinationPorts(..))
    }

    fn key_bytes(self) -> usize {
        match self {
            Self::Isolated | Self::Confined => 4,
            Self::Sources(_) | Self::Destinations(_) => 8,
            Self::Ports(..) | Self::DestinationPorts(..) => 16,
        }
    }
}

fn mask(family: Family, length: u8) -> IpAddr {
    let net = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, length).unwrap_or_default();
    match (family, length) {
        (Family::V6(_), 0) => ANYBODY.into(),
        _ => match family.net(net) {
            IpNet::V4(net) => net.netmask().into(),
            IpNet::V6(net) => net.netmask().into(),
        },
    }
}

/// An element of one of the sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) set: Set,
    /// Each field begins at a multiple of four bytes; the unused end is zero.
    key: [u8; 16],
}

impl Element {
    /// As the kernel has it.
    pub(super) fn key(&self, family: Family) -> Vec<u8> {
        let key = &self.key[..self.set.key_bytes()];
        let Family::V6(_) = family else { return key.to_vec() };
        let mut written = family.octets(self.instance()).as_ref().to_vec();
        match self.set {
            Set::Isolated | Set::Confined => {}
            Set::Sources(0)
            | Set::Ports(0, _)
            | Set::Destinations(0)
            | Set::DestinationPorts(0, _) => written.extend(ANYBODY.octets()),
            Set::Sources(_) | Set::Ports(..) | Set::Destinations(_) | Set::DestinationPorts(..) => {
                written.extend(family.octets(self.other()).as_ref());
            }
        }
        written.extend(key.get(8..).unwrap_or_default());
        written
    }

    /// The instance that it is about.
    pub(super) fn instance(&self) -> Ipv4Addr {
        let [a, b, c, d, ..] = self.key;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Where the packets come from or go to that it is about.
    fn other(&self) -> Ipv4Addr {
        let [_, _, _, _, a, b, c, d, ..] = self.key;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Reads [`Self::key`] back. `None` also for one that is in the set and cannot be ours.
    pub(super) fn of_key(set: Set, family: Family, key: &[u8]) -> Option<Self> {
        if let Family::V6(_) = family {
            let is_alone = matches!(set, Set::Isolated | Set::Confined);
            let (addresses, rest) = key.split_at_checked(if is_alone { 16 } else { 32 })?;
            let mut ipv4 = Vec::new();
            for address in addresses.chunks(16) {
                ipv4.extend(extract(family::ipv6(address)?).1.octets());
            }
            ipv4.extend(rest);
            let found = Self::of_key(set, Family::V4, &ipv4)?;
            return (found.key(family) == key).then_some(found);
        }
        let mut whole = [0; 16];
        whole.get_mut(..set.key_bytes())?.copy_from_slice(key.get(..set.key_bytes())?);
        Some(Self { set, key: whole })
    }

    fn new(set: Set, instance: Ipv4Addr, source: Ipv4Addr, protocol: u8, port: u16) -> Self {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&instance.octets());
        key[4..8].copy_from_slice(&source.octets());
        key[8] = protocol;
        key[12..14].copy_from_slice(&port.to_be_bytes());
        Self { set, key }
    }
}

/// The elements for these policies, in order, each once.
pub(super) fn elements(policies: &[Policy]) -> Vec<Element> {
    let mut elements = Vec::new();
    for policy in policies {
        let nobody = Ipv4Addr::UNSPECIFIED;
        let whole = match policy.direction {
            Direction::In => Set::Isolated,
            Direction::Out => Set::Confined,
        };
        elements.push(Element::new(whole, policy.address, nobody, 0, 0));
        for allow in &policy.allowed {
            add(policy, allow, &mut elements);
        }
    }
    elements.sort_unstable();
    elements.dedup();
    elements
}

fn add(policy: &Policy, allow: &Allow, elements: &mut Vec<Element>) {
    let (instance, is_out) = (policy.address, policy.direction == Direction::Out);
    let (source, length) = (allow.source.network(), allow.source.prefix_len());
    if allow.ports.is_empty() {
        let set = if is_out { Set::Destinations(length) } else { Set::Sources(length) };
        elements.push(Element::new(set, instance, source, 0, 0));
    }
    for range in &allow.ports {
        let protocol = match range.protocol {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
        };
        let protocol = u8::try_from(protocol).unwrap_or_default();
        let blocks = blocks(range).into_iter();
        elements.extend(blocks.map(|(port, bits)| {
            let set = match is_out {
                true => Set::DestinationPorts(length, bits),
                false => Set::Ports(length, bits),
            };
            Element::new(set, instance, source, protocol, port)
        }));
    }
}

/// The fewest blocks that make up the range: the first port of each, and how many bits it leaves open.
fn blocks(range: &PortRange) -> Vec<(u16, u8)> {
    let (mut next, end) = (u32::from(range.first), u32::from(range.last) + 1);
    let mut blocks = Vec::new();
    while let Ok(port) = u16::try_from(next)
        && next < end
    {
        let fits = |bits: &u8| next.trailing_zeros() >= (*bits).into() && next + (1 << bits) <= end;
        let bits = BLOCK_BITS.into_iter().find(fits).unwrap_or_default();
        blocks.push((port, bits));
        next += 1 << bits;
    }
    blocks
}

/// How many rules the chain has that forwarded packets come by, the one of those to isolated instances, and the one of
/// those that confined ones begin, for these sets and as many protocols.
pub(super) fn rules(sets: &BTreeSet<Set>, protocols: usize) -> [usize; 3] {
    /// What is an answer or belongs to one, and what is allowed by nothing.
    const ALWAYS: usize = 3;
    /// What leads to the chain of isolated or of confined instances, and what ends connections of which nobody knows who
    /// began them.
    const ENTRIES: usize = 2;
    let entries =
        usize::from(sets.contains(&Set::Isolated)) + usize::from(sets.contains(&Set::Confined));
    let allowing = |out: bool| {
        let of_direction = sets.iter().filter(|set| set.is_out() == out);
        of_direction.filter(|set| !matches!(set, Set::Isolated | Set::Confined)).count()
    };
    let allowing = |out| allowing(out) * protocols + ALWAYS;
    [ENTRIES * entries * protocols, allowing(false), allowing(true)]
}

/// The sets that `elements` are in.
pub(super) fn sets(elements: &[Element]) -> BTreeSet<Set> {
    elements.iter().map(|element| element.set).collect()
}

/// What leads from one ordered list of elements to another: those to delete, and those to add.
pub(super) fn difference(from: &[Element], to: &[Element]) -> (Vec<Element>, Vec<Element>) {
    let missing_in = |all: &[Element], some: &[Element]| {
        let is_missing = |element: &&Element| all.binary_search(element).is_err();
        some.iter().filter(is_missing).copied().collect()
    };
    (missing_in(to, from), missing_in(from, to))
}

#[cfg(test)]
mod tests;
