//! How many of the instances of a workload: a number, or a share of them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many of the instances of a workload, written as a number (`2`) or as a share (`25%`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    /// So many, however many there are.
    Count(u32),
    /// So many of a hundred, rounded down, but at least one unless it is none of them.
    Percent(u8),
}

/// What is no number and no share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a number of instances, such as 2, nor a share of them, such as 25%")]
pub struct PortionError(String);

impl Portion {
    /// How many of so many.
    #[must_use]
    pub fn of(self, instances: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(0) => 0,
            Self::Percent(percent) => {
                let share = u64::from(instances) * u64::from(percent) / 100;
                u32::try_from(share).unwrap_or(u32::MAX).max(1)
            }
        }
    }

    /// Whether it is none, however many there are.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Count(0) | Self::Percent(0))
    }

    /// Whether it is more than all there are.
    #[must_use]
    pub fn is_too_much(self) -> bool {
        matches!(self, Self::Percent(101..))
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Portion {
    type Err = PortionError;

    fn from_str(text: &str) -> Result<Self, PortionError> {
        let number = text.strip_suffix('%').map_or_else(
            || text.parse().map(Self::Count),
            |percent| percent.parse().map(Self::Percent),
        );
        let found = number.ok().filter(|portion| !portion.is_too_much());
        // No sign, no space, no leading zero: one way to write it.
        let found = found.filter(|portion| portion.to_string() == text);
        found.ok_or_else(|| PortionError(text.chars().take(40).collect()))
    }
}

/// A number as a number, a share as text.
impl Serialize for Portion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Portion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Portion;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of instances, such as 2, or a share of them, such as 25%")
            }
            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Portion, E> {
                let unexpected = serde::de::Unexpected::Unsigned(count);
                let count = u32::try_from(count);
                count.map(Portion::Count).map_err(|_| E::invalid_value(unexpected, &self))
            }
            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Portion, E> {
                let unexpected = serde::de::Unexpected::Signed(count);
                let count = u32::try_from(count);
                count.map(Portion::Count).map_err(|_| E::invalid_value(unexpected, &self))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Portion, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Portion {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Portion".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string"],
            "format": "portion",
            "pattern": r"^([0-9]+|[0-9]{1,2}%|100%)$",
            "description": "A number of instances, such as 2, or a share of them, such as 25%.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_shares() {
        let of = |text: &str, instances| text.parse::<Portion>().unwrap().of(instances);
        assert_eq!((of("0", 10), of("3", 10), of("3", 2)), (0, 3, 3));
        assert_eq!((of("25%", 10), of("25%", 3), of("25%", 0)), (2, 1, 1));
        assert_eq!((of("100%", 10), of("0%", 10), of("99%", 10_000)), (10, 0, 9_900));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in ["", "%", "-1", "101%", "2.5%", " 2", "02", "+2", "two", "4294967296", "256%"] {
            let problem = text.parse::<Portion>().unwrap_err().to_string();
            assert!(problem.contains("such as 25%"), "{text}: {problem}");
        }
    }

    #[test]
    fn as_text_and_back() {
        for (portion, json) in [(Portion::Count(2), "2"), (Portion::Percent(25), "\"25%\"")] {
            assert_eq!(serde_json::to_string(&portion).unwrap(), json);
            assert_eq!(serde_json::from_str::<Portion>(json).unwrap(), portion);
        }
        assert_eq!(serde_json::from_str::<Portion>("\"2\"").unwrap(), Portion::Count(2));
        assert!(serde_json::from_str::<Portion>("-2").is_err());
    }
}
