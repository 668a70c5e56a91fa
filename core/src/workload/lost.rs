//! What becomes of instances whose node is lost.
//!
//! A node that nobody hears of may well be running its instances. Before one of them is put up elsewhere it has to be
//! certain that the lost one is not reached any more. So the node is lent each instance that may be replaced: it lets it be
//! reached for the time of a [`Lease`] after the last time that the controller has answered it, and no longer.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::quantity::Millis;

/// What becomes of an instance whose node is not heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLost {
    /// It stays the node's, until the node returns or an operator removes it by force.
    #[default]
    Keep,
    /// It is placed on another node once its own has not been heard of for so long, from
    /// [`OnLost::AFTER_MIN`] to [`OnLost::AFTER_MAX`].
    ReplaceAfter(Millis),
}

/// What is no answer to what becomes of lost instances.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither \"keep\" nor \"replace after\" and a time from {min} to {max}, such as \"replace after 2m\"",
    min = OnLost::AFTER_MIN,
    max = OnLost::AFTER_MAX
)]
pub struct OnLostError(String);

impl OnLost {
    /// The shortest time after which something is replaced: a node is to be able to miss some answers.
    pub const AFTER_MIN: Millis = Millis::seconds(15);
    /// The longest.
    pub const AFTER_MAX: Millis = Millis::seconds(7 * 24 * 3600);
    const REPLACE: &str = "replace after ";

    /// After what time it is replaced, if it is.
    #[must_use]
    pub fn replaced_after(self) -> Option<Millis> {
        match self {
            Self::Keep => None,
            Self::ReplaceAfter(after) => Some(after),
        }
    }

    /// For how long a node may let the instance be reached that has heard nothing.
    #[must_use]
    pub fn lease(self) -> Option<Lease> {
        self.replaced_after().map(Lease::shorter_than)
    }

    /// Whether nothing is replaced.
    #[must_use]
    pub fn is_keep(&self) -> bool {
        *self == Self::Keep
    }

    /// Whether the time is one that is allowed.
    #[must_use]
    pub fn is_in_bounds(self) -> bool {
        self.replaced_after()
            .is_none_or(|after| (Self::AFTER_MIN..=Self::AFTER_MAX).contains(&after))
    }
}

impl fmt::Display for OnLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::ReplaceAfter(after) => write!(f, "{}{after}", Self::REPLACE),
        }
    }
}

impl FromStr for OnLost {
    type Err = OnLostError;

    fn from_str(text: &str) -> Result<Self, OnLostError> {
        let after = || text.strip_prefix(Self::REPLACE)?.parse().ok().map(Self::ReplaceAfter);
        let found = if text == "keep" { Some(Self::Keep) } else { after() };
        found
            .filter(|found| found.is_in_bounds())
            .ok_or_else(|| OnLostError(text.chars().take(60).collect()))
    }
}

impl Serialize for OnLost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OnLost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for OnLost {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "OnLost".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "on-lost",
            "pattern": r"^(keep|replace after ([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+)$",
            "description": "keep, or replace after a time, such as replace after 2m.",
        })
    }
}

/// For how long a node may let an instance be reached after it has said that it lives, if the controller answered that; not
/// longer whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lease(pub Millis);

impl Lease {
    /// What two clocks may differ in at most, and a kernel be late: a tenth of the time, and at least this.
    const MARGIN_MIN: Millis = Millis::seconds(3);
    /// A tenth of a long time is more than any clock is off.
    const MARGIN_MAX: Millis = Millis::seconds(60);

    /// The lease of what is replaced after this time: so much shorter that it is over by then for sure.
    #[must_use]
    pub fn shorter_than(after: Millis) -> Self {
        let margin = (after.0 / 10).clamp(Self::MARGIN_MIN.0, Self::MARGIN_MAX.0);
        Self(Millis(after.0.saturating_sub(margin)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_text_and_back() {
        for (text, after) in [
            ("keep", None),
            ("replace after 15s", Some(15_000)),
            ("replace after 2m", Some(120_000)),
            ("replace after 1h30m", Some(5_400_000)),
        ] {
            let found: OnLost = text.parse().unwrap();
            assert_eq!(found.replaced_after(), after.map(Millis));
            assert_eq!(found.to_string(), text);
            let json = serde_json::to_string(&found).unwrap();
            assert_eq!(serde_json::from_str::<OnLost>(&json).unwrap(), found);
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_with_an_example() {
        let wrong = [
            "",
            "replace",
            "replace after",
            "replace after 2",
            "replace after 14s",
            "replace after 8d",
            "Keep",
            "replace  after 2m",
        ];
        for text in wrong {
            let problem = text.parse::<OnLost>().unwrap_err().to_string();
            assert!(problem.contains("such as \"replace after 2m\""), "{text}: {problem}");
            assert!(problem.contains("15s to 168h"), "{problem}");
        }
    }

    #[test]
    fn a_lease_is_over_before_anything_is_replaced() {
        for (after, lease) in [(15, 12), (30, 27), (120, 108), (600, 540), (3600, 3540)] {
            let found = OnLost::ReplaceAfter(Millis::seconds(after)).lease();
            assert_eq!(found, Some(Lease(Millis::seconds(lease))), "{after}");
        }
        assert_eq!(OnLost::Keep.lease(), None);
    }
}
