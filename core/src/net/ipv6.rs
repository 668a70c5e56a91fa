//! IPv6 addresses of instances, which follow from their IPv4 addresses.
//!
//! ```text
//!   10.80.1.5        in fd00:5::/64   is   fd00:5::a50:105
//!   10.80.1.0/24                      is   fd00:5::a50:100/120
//! ```
//!
//! Nothing of it is stored or given out: uniqueness, moves, quarantine, blocks and exceptions are those of IPv4.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The low bits of an address, which are an IPv4 address.
const LOW: u128 = u32::MAX as u128;
/// Bits before them.
const BEFORE: u8 = 96;
/// The longest prefix, which is what a network is commonly given.
const LONGEST: u8 = 64;

/// The prefix in which every IPv4 address of the cluster has an IPv6 address: the prefix, zeros, and the 32 bits of the
/// IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Ipv6Net", into = "Ipv6Net")]
pub struct Ipv6Range(Ipv6Net);

/// Why a prefix cannot be the instances'.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{prefix} cannot hold the addresses of instances: {reason}; use a prefix of /64 or shorter, such as fd00:5::/64"
)]
pub struct Ipv6RangeError {
    prefix: String,
    reason: &'static str,
}

impl Ipv6Range {
    /// Checks and takes a prefix.
    ///
    /// # Errors
    /// [`Ipv6RangeError`] if it is longer than /64, has bits set beyond its length, or is not for hosts.
    pub fn new(prefix: Ipv6Net) -> Result<Self, Ipv6RangeError> {
        let wrong = |reason| Err(Ipv6RangeError { prefix: prefix.to_string(), reason });
        if prefix.prefix_len() > LONGEST {
            return wrong("it is too long");
        }
        if prefix.addr() != prefix.network() {
            return wrong("it has bits set beyond its length");
        }
        // Global addresses, and those that are unique within a site.
        if !matches!(prefix.network().segments()[0], 0x2000..=0x3fff | 0xfc00..=0xfdff) {
            return wrong("its addresses are reserved");
        }
        if prefix.prefix_len() < 7 {
            return wrong("it is too short");
        }
        Ok(Self(prefix))
    }

    /// The whole prefix.
    #[must_use]
    pub fn prefix(self) -> Ipv6Net {
        self.0
    }

    /// The address of whoever has an IPv4 address.
    #[must_use]
    pub fn address(self, of: Ipv4Addr) -> Ipv6Addr {
        embed(self.0.network(), of)
    }

    /// The addresses of those who have one of these.
    #[must_use]
    pub fn net(self, of: Ipv4Net) -> Ipv6Net {
        Ipv6Net::new_assert(self.address(of.addr()), BEFORE + of.prefix_len())
    }

    /// Reads [`Self::address`] back.
    #[must_use]
    pub fn ipv4(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let (base, ipv4) = extract(address);
        (base == self.0.network()).then_some(ipv4)
    }
}

/// `base` with `low` in its low 32 bits, which are zero.
#[must_use]
pub fn embed(base: Ipv6Addr, low: Ipv4Addr) -> Ipv6Addr {
    (base.to_bits() & !LOW | u128::from(low.to_bits())).into()
}

/// What [`embed`] was given.
#[must_use]
pub fn extract(address: Ipv6Addr) -> (Ipv6Addr, Ipv4Addr) {
    let [.., a, b, c, d] = address.octets();
    ((address.to_bits() & !LOW).into(), Ipv4Addr::new(a, b, c, d))
}

impl fmt::Display for Ipv6Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Ipv6Range {
    type Err = Ipv6RangeError;

    fn from_str(text: &str) -> Result<Self, Ipv6RangeError> {
        let wrong =
            |_| Ipv6RangeError { prefix: format!("{text:?}"), reason: "it is no IPv6 prefix" };
        Self::new(text.parse().map_err(wrong)?)
    }
}

impl TryFrom<Ipv6Net> for Ipv6Range {
    type Error = Ipv6RangeError;
    fn try_from(prefix: Ipv6Net) -> Result<Self, Ipv6RangeError> {
        Self::new(prefix)
    }
}

impl From<Ipv6Range> for Ipv6Net {
    fn from(range: Ipv6Range) -> Self {
        range.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Ipv6Range {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_the_prefix_and_the_ipv4_address() {
        let range = range("fd00:5::/64");
        assert_eq!(range.address([10, 80, 1, 5].into()).to_string(), "fd00:5::a50:105");
        assert_eq!(range.net("10.80.1.0/24".parse().unwrap()).to_string(), "fd00:5::a50:100/120");
        assert_eq!(range.net("10.80.1.5/32".parse().unwrap()).to_string(), "fd00:5::a50:105/128");
        assert_eq!(range.ipv4("fd00:6::a50:105".parse().unwrap()), None);
    }

    #[test]
    fn unusable_prefixes_are_refused() {
        for wrong in [
            "fd00:5::/65",
            "fd00:5::1/64",
            "fe80::/64",
            "ff02::/64",
            "::/64",
            "::ffff:0.0.0.0/96",
            "2000::/3",
            "64:ff9b::/64",
            "10.80.0.0/16",
            "fd00:5::",
        ] {
            let error = wrong.parse::<Ipv6Range>().unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
        for right in ["fd00:5::/64", "2001:db8:7::/48", "fc00::/7"] {
            assert_eq!(range(right).to_string(), right);
        }
    }

    proptest! {
        #[test]
        fn no_two_have_the_same_address(one: [u8; 4], other: [u8; 4], prefix: u64) {
            let network = u128::from(prefix) << 64 & !(0xff << 120) | 0xfd << 120;
            let range = Ipv6Range::new(Ipv6Net::new_assert(network.into(), 64)).unwrap();
            let (one, other) = (Ipv4Addr::from(one), Ipv4Addr::from(other));
            prop_assert_eq!(one == other, range.address(one) == range.address(other));
            prop_assert_eq!(range.ipv4(range.address(one)), Some(one));
            prop_assert!(range.prefix().contains(&range.address(one)));
        }

        #[test]
        fn an_address_is_in_a_block_as_its_ipv4_address_is(
            block: [u8; 4], length in 0u8..=32, address: [u8; 4],
        ) {
            let range = range("2001:db8:7::/48");
            let block = Ipv4Net::new(block.into(), length).unwrap().trunc();
            let address = Ipv4Addr::from(address);
            let beside = range.net(block);
            prop_assert_eq!(beside, beside.trunc());
            prop_assert_eq!(beside.prefix_len(), 96 + length);
            prop_assert_eq!(block.contains(&address), beside.contains(&range.address(address)));
        }
    }
}
