//! Addresses of instances: hardware addresses, the carving of the cluster's range into blocks, and IPv6 beside IPv4.

pub mod ipv6;
mod ranges;

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use self::ipv6::{Ipv6Range, Ipv6RangeError};
pub use self::ranges::{RANGES_MAX, Ranges, RangesError};

/// A hardware (MAC) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of an instance's `eth0`: locally administered, and since it is made from the
    /// instance's IPv4 address, as unique and as lasting as that.
    #[must_use]
    pub fn of_address(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0xd0, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a hardware address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hardware address; write six pairs of hexadecimal digits, such as 02:d0:0a:50:00:05")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(MacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        if parts.next().is_some() { Err(MacError) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;
    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// The cluster's ranges of addresses and how they are carved into blocks, of one size all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RangeConfig", into = "RangeConfig")]
pub struct ClusterRange {
    ranges: Ranges,
    node_prefix: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeConfig {
    cidr: Ipv4Net,
    #[serde(default = "default_node_prefix")]
    node_prefix: u8,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more: Vec<Ipv4Net>,
}

fn default_node_prefix() -> u8 {
    24
}

/// Why a range cannot be a cluster's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Too wide or too narrow, or not of usable addresses.
    #[error(
        "cluster range {cidr} is not usable: {reason}; use a private range between /8 and /28, such as 10.80.0.0/16"
    )]
    Cidr {
        /// The range.
        cidr: Ipv4Net,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Blocks do not fit the range.
    #[error(
        "node blocks of /{node_prefix} do not fit {cidr}; use a prefix between /{least} and /29"
    )]
    Prefix {
        /// The range.
        cidr: Ipv4Net,
        /// The blocks asked for.
        node_prefix: u8,
        /// The widest block possible.
        least: u8,
    },
    /// They cannot be those of one cluster.
    #[error(transparent)]
    Several(#[from] RangesError),
}

impl ClusterRange {
    /// Checks and takes one range.
    ///
    /// # Errors
    /// [`RangeError`] if the range or the blocks make no sense.
    pub fn new(cidr: Ipv4Net, node_prefix: u8) -> Result<Self, RangeError> {
        Self::of([cidr], node_prefix)
    }

    /// Checks and takes ranges, the first one first.
    ///
    /// # Errors
    /// [`RangeError`] if one of them or the blocks make no sense, or they are not apart.
    pub fn of(
        ranges: impl IntoIterator<Item = Ipv4Net>,
        node_prefix: u8,
    ) -> Result<Self, RangeError> {
        let ranges: Vec<Ipv4Net> = ranges.into_iter().collect();
        ranges.iter().try_for_each(|range| check(*range, node_prefix))?;
        Ok(Self { ranges: Ranges::new(ranges)?, node_prefix })
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// The prefix length of a node's block.
    #[must_use]
    pub fn node_prefix(&self) -> u8 {
        self.node_prefix
    }

    /// All blocks, in order.
    pub fn blocks(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        // The prefix was checked when the ranges were taken; without blocks nothing is allocated.
        self.ranges.iter().flat_map(|range| range.subnets(self.node_prefix).into_iter().flatten())
    }

    /// How many blocks there are.
    #[must_use]
    pub fn block_count(&self) -> u32 {
        let counts = self.ranges.iter().map(|range| 1 << (self.node_prefix - range.prefix_len()));
        counts.fold(0, u32::saturating_add)
    }

    /// The block an address lies in, if it is of one of the ranges.
    #[must_use]
    pub fn block_of(&self, address: Ipv4Addr) -> Option<Ipv4Net> {
        if !self.ranges.contains(address) {
            return None;
        }
        Ipv4Net::new(address, self.node_prefix).ok().map(|block| block.trunc())
    }

    /// Whether instances may have an address: not a block's first or last one, which other hosts'
    /// software may take for network and broadcast addresses.
    #[must_use]
    pub fn is_usable(&self, address: Ipv4Addr) -> bool {
        self.block_of(address)
            .is_some_and(|block| address != block.network() && address != block.broadcast())
    }
}

fn check(cidr: Ipv4Net, node_prefix: u8) -> Result<(), RangeError> {
    let wrong = |reason| Err(RangeError::Cidr { cidr, reason });
    if cidr.addr() != cidr.network() {
        return wrong("it has bits set beyond its prefix");
    }
    if !(8..=28).contains(&cidr.prefix_len()) {
        return wrong("its prefix is outside /8 to /28");
    }
    let first = cidr.network();
    if first.is_loopback()
        || first.is_multicast()
        || first.is_link_local()
        || first.octets()[0] == 0
        || first.octets()[0] >= 240
    {
        return wrong("its addresses are reserved");
    }
    if node_prefix < cidr.prefix_len() || node_prefix > 29 {
        return Err(RangeError::Prefix { cidr, node_prefix, least: cidr.prefix_len() });
    }
    Ok(())
}

impl TryFrom<RangeConfig> for ClusterRange {
    type Error = RangeError;
    fn try_from(config: RangeConfig) -> Result<Self, RangeError> {
        Self::of(std::iter::once(config.cidr).chain(config.more), config.node_prefix)
    }
}

impl From<ClusterRange> for RangeConfig {
    fn from(range: ClusterRange) -> Self {
        let ClusterRange { ranges, node_prefix } = range;
        Self { cidr: ranges.first(), node_prefix, more: ranges.more().to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cidr: &str, prefix: u8) -> Result<ClusterRange, RangeError> {
        ClusterRange::new(cidr.parse().unwrap(), prefix)
    }

    #[test]
    fn blocks_cover_the_range() {
        let range = range("10.80.0.0/16", 24).unwrap();
        assert_eq!(range.block_count(), 256);
        assert_eq!(range.blocks().count(), 256);
        assert_eq!(
            range.block_of("10.80.7.9".parse().unwrap()),
            Some("10.80.7.0/24".parse().unwrap())
        );
        assert_eq!(range.block_of("10.81.0.1".parse().unwrap()), None);
        assert!(!range.is_usable("10.80.7.0".parse().unwrap()));
        assert!(!range.is_usable("10.80.7.255".parse().unwrap()));
        assert!(range.is_usable("10.80.7.1".parse().unwrap()));
    }

    #[test]
    fn a_second_range_has_blocks_of_the_same_size() {
        let of = |ranges: &[&str], prefix| {
            ClusterRange::of(ranges.iter().map(|range| range.parse().unwrap()), prefix)
        };
        let two = of(&["10.80.0.0/23", "172.20.0.0/22"], 24).unwrap();
        assert_eq!(two.block_count(), 6);
        let blocks: Vec<String> = two.blocks().map(|block| block.to_string()).collect();
        assert_eq!(blocks[1..3], ["10.80.1.0/24", "172.20.0.0/24"]);
        let block = two.block_of("172.20.3.9".parse().unwrap());
        assert_eq!(block, Some("172.20.3.0/24".parse().unwrap()));
        assert_eq!(two.block_of("172.20.4.1".parse().unwrap()), None);
        assert!(!two.is_usable("172.20.3.255".parse().unwrap()));
        of(&["10.80.0.0/23", "10.80.0.0/24"], 24).unwrap_err();
        of(&["10.80.0.0/23", "127.0.0.0/24"], 24).unwrap_err();
        of(&["10.80.0.0/23", "172.20.0.0/28"], 24).unwrap_err();
    }

    #[test]
    fn unusable_ranges_are_refused() {
        for (cidr, prefix) in [
            ("0.0.0.0/0", 24),
            ("10.80.0.1/16", 24),
            ("127.0.0.0/8", 24),
            ("224.0.0.0/8", 24),
            ("169.254.0.0/16", 24),
            ("10.80.0.0/30", 30),
            ("10.80.0.0/16", 8),
            ("10.80.0.0/16", 30),
        ] {
            assert!(range(cidr, prefix).is_err(), "{cidr} {prefix}");
        }
    }

    #[test]
    fn hardware_addresses() {
        let mac = Mac::of_address("10.80.0.5".parse().unwrap());
        assert_eq!(mac.to_string(), "02:d0:0a:50:00:05");
        assert_eq!("02:d0:0a:50:00:05".parse(), Ok(mac));
        for wrong in
            ["", "02:d0:0a:50:00", "02:d0:0a:50:00:05:06", "2:d0:0a:50:00:05", "gg:d0:0a:50:00:05"]
        {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}
