//! Isolation as elements of nftables sets: a pure function of the policies.
//!
//! A packet to an isolated instance passes if its source, and where it matters its port, is in a set; a packet of a
//! confined one if its destination is. All
//! sets are hash sets, which take thousands of elements, and a change of one, in a moment; the kernel's sets
//! of ranges take seconds for that. So there is one set for each length of prefix and each size of a block
//! of ports that occurs, usually a handful, and a packet's address and port are looked up in each with
//! the rest masked off.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use dwell_core::workload::Protocol;
use ipnet::Ipv4Net;
use nix::libc;

use crate::{Allow, Direction, INTERFACE_PREFIX, Policy, PortRange};

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
pub(super) fn confine() -> String {
    let confined = Set::Confined.name();
    format!("iifname \"{INTERFACE_PREFIX}*\" ip saddr @{confined} jump confinement")
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
    pub(super) fn key_type(self) -> &'static str {
        match self {
            Self::Isolated | Self::Confined => "ipv4_addr",
            Self::Sources(_) | Self::Destinations(_) => "ipv4_addr . ipv4_addr",
            Self::Ports(..) | Self::DestinationPorts(..) => {
                "ipv4_addr . ipv4_addr . inet_proto . inet_service"
            }
        }
    }

    /// What a packet that is in it meets. One that may leave may yet be one that nobody may send to where it goes.
    pub(super) fn rule(self) -> String {
        let name = self.name();
        let from = |length| format!("ip daddr . ip saddr & {}", mask(length));
        let to = |length| format!("ip saddr . ip daddr & {}", mask(length));
        let port = |bits: u8| {
            let ports = u16::MAX.checked_shl(bits.into()).unwrap_or_default();
            format!("meta l4proto . th dport & {ports}")
        };
        match self {
            Self::Isolated => {
                format!("oifname \"{INTERFACE_PREFIX}*\" ip daddr @{name} jump isolation")
            }
            Self::Sources(length) => format!("{} @{name} accept", from(length)),
            Self::Ports(length, bits) => {
                format!("{} . {} @{name} accept", from(length), port(bits))
            }
            Self::Confined => confine(),
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

fn mask(length: u8) -> Ipv4Addr {
    Ipv4Net::new(Ipv4Addr::UNSPECIFIED, length).unwrap_or_default().netmask()
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
    pub(super) fn key(&self) -> &[u8] {
        &self.key[..self.set.key_bytes()]
    }

    /// The instance that it is about.
    pub(super) fn instance(&self) -> Ipv4Addr {
        let [a, b, c, d, ..] = self.key;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Reads [`Self::key`] back.
    pub(super) fn of_key(set: Set, key: &[u8]) -> Option<Self> {
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
/// those that confined ones begin, for these sets.
pub(super) fn rules(sets: &BTreeSet<Set>) -> [usize; 3] {
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
    [ENTRIES * entries, allowing(false) + ALWAYS, allowing(true) + ALWAYS]
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
