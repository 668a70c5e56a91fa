//! The ranges of addresses of a cluster.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// How many ranges a cluster may have. Every rule of a node that is about all of them has as many words.
pub const RANGES_MAX: usize = 16;

/// The ranges of addresses of a cluster: the one that it began with, and what was added to it. No address is in two of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ranges {
    first: Ipv4Net,
    more: Vec<Ipv4Net>,
}

/// Why ranges cannot be those of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    /// There is none.
    #[error("a cluster has at least one range of addresses")]
    None,
    /// What should be one is none.
    #[error("{0:?} is no range of addresses such as 10.80.0.0/16")]
    NoRange(String),
    /// There are too many.
    #[error("{0} ranges of addresses are more than {RANGES_MAX}; use wider ones")]
    TooMany(usize),
    /// An address would be in two of them.
    #[error("the ranges {one} and {other} overlap; leave out the narrower one")]
    Overlap {
        /// One of them.
        one: Ipv4Net,
        /// Another one.
        other: Ipv4Net,
    },
}

impl Ranges {
    /// Takes ranges, the first one first.
    ///
    /// # Errors
    /// [`RangesError`] if they are none, too many, or not apart.
    pub fn new(ranges: impl IntoIterator<Item = Ipv4Net>) -> Result<Self, RangesError> {
        let mut ranges = ranges.into_iter().map(|range| range.trunc());
        let first = ranges.next().ok_or(RangesError::None)?;
        let all = Self { first, more: ranges.collect() };
        if all.more.len() >= RANGES_MAX {
            return Err(RangesError::TooMany(all.more.len() + 1));
        }
        for (number, one) in all.iter().enumerate() {
            if let Some(other) = all.iter().skip(number + 1).find(|other| overlap(one, *other)) {
                return Err(RangesError::Overlap { one, other });
            }
        }
        Ok(all)
    }

    /// The one that the cluster began with.
    #[must_use]
    pub fn first(&self) -> Ipv4Net {
        self.first
    }

    /// Those that were added.
    #[must_use]
    pub fn more(&self) -> &[Ipv4Net] {
        &self.more
    }

    /// All of them, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = Ipv4Net> + Clone + '_ {
        std::iter::once(self.first).chain(self.more.iter().copied())
    }

    /// Which of them an address is in.
    #[must_use]
    pub fn range_of(&self, address: Ipv4Addr) -> Option<Ipv4Net> {
        self.iter().find(|range| range.contains(&address))
    }

    /// Whether an address is in one of them.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.range_of(address).is_some()
    }
}

/// Whether there is an address that is in both.
fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

impl From<Ipv4Net> for Ranges {
    fn from(range: Ipv4Net) -> Self {
        Self { first: range, more: Vec::new() }
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.more.iter().try_for_each(|range| write!(f, ", {range}"))
    }
}

impl FromStr for Ranges {
    type Err = RangesError;
    fn from_str(text: &str) -> Result<Self, RangesError> {
        let one = |range: &str| {
            let range = range.trim();
            range.parse().map_err(|_| RangesError::NoRange(range.to_owned()))
        };
        Self::new(text.split(',').map(one).collect::<Result<Vec<_>, _>>()?)
    }
}

impl TryFrom<String> for Ranges {
    type Error = RangesError;
    fn try_from(text: String) -> Result<Self, RangesError> {
        text.parse()
    }
}

impl From<Ranges> for String {
    fn from(ranges: Ranges) -> Self {
        ranges.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(all: &[&str]) -> Result<Ranges, RangesError> {
        Ranges::new(all.iter().map(|range| range.parse().unwrap()))
    }

    #[test]
    fn ranges_are_read_as_they_are_shown() {
        let two = ranges(&["10.80.0.0/16", "172.20.0.0/16"]).unwrap();
        assert_eq!(two.to_string().parse(), Ok(two));
        assert_eq!("10.80.0.0/16, x".parse::<Ranges>(), Err(RangesError::NoRange("x".to_owned())));
    }

    #[test]
    fn an_address_is_in_one_range_alone() {
        let two = ranges(&["10.80.0.0/16", "172.20.0.0/20"]).unwrap();
        let within =
            |address: &str| two.range_of(address.parse().unwrap()).map(|it| it.to_string());
        assert_eq!(within("10.80.3.1").as_deref(), Some("10.80.0.0/16"));
        assert_eq!(within("172.20.15.255").as_deref(), Some("172.20.0.0/20"));
        assert_eq!(within("172.20.16.0"), None);
        assert_eq!(two.to_string(), "10.80.0.0/16, 172.20.0.0/20");
        for overlapping in [["10.80.0.0/16", "10.80.4.0/24"], ["10.80.4.0/24", "10.0.0.0/8"]] {
            let error = ranges(&overlapping).unwrap_err();
            assert!(matches!(error, RangesError::Overlap { .. }), "{error}");
        }
        assert_eq!(ranges(&[]), Err(RangesError::None));
        let many: Vec<String> = (0..=RANGES_MAX).map(|at| format!("10.{at}.0.0/16")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(ranges(&many), Err(RangesError::TooMany(RANGES_MAX + 1)));
    }

    #[test]
    fn one_range_is_stored_as_it_always_was() {
        let one = ranges(&["10.80.0.0/16"]).unwrap();
        assert_eq!(serde_json::to_string(&one).unwrap(), r#""10.80.0.0/16""#);
        let two = ranges(&["10.80.0.0/16", "172.20.0.0/16"]).unwrap();
        for one in [one, two] {
            let text = serde_json::to_string(&one).unwrap();
            assert_eq!(serde_json::from_str::<Ranges>(&text).unwrap(), one);
        }
    }
}
