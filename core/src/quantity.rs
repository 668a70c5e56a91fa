//! Amounts with their units: processor time, memory, durations, as people write them and as numbers.
//!
//! | type | written | meaning |
//! |---|---|---|
//! | [`Millicores`] | `500m`, `2`, `0.5` | thousandths of a processor |
//! | [`Bytes`] | `256Mi`, `256m`, `1Gi`, `1gb`, `4096` | bytes; every unit is a power of 1024, as in Compose files |
//! | [`Millis`] | `500ms`, `30s`, `1m30s`, `2h` | milliseconds |

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {kind}; {hint}")]
pub struct QuantityError {
    text: String,
    kind: &'static str,
    hint: &'static str,
}

/// Thousandths of a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millicores(pub u64);

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// A span of time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millicores {
    const HINT: &'static str = "write processors (2, 0.5) or thousandths of one (500m)";
    /// One million processors: beyond any host, far from any overflow.
    const MAX: u64 = 1_000_000_000;
}

impl Bytes {
    const HINT: &'static str =
        "write a number with an optional unit, such as 256Mi, 1.5Gi or 512k, of whole bytes";
    /// One exbibyte.
    const MAX: u64 = 1 << 60;

    /// A number of mebibytes.
    #[must_use]
    pub const fn mebi(count: u64) -> Self {
        Self(count << 20)
    }
}

impl Millis {
    const HINT: &'static str = "write numbers with units, such as 500ms, 30s, 1m30s, 2h or 30d";
    /// One year.
    const MAX: u64 = 366 * 24 * 3_600_000;

    /// A number of seconds.
    #[must_use]
    pub const fn seconds(count: u64) -> Self {
        Self(count * 1000)
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

fn refuse(text: &str, kind: &'static str, hint: &'static str) -> QuantityError {
    // What is shown is bounded: the text may be megabytes long.
    QuantityError { text: text.chars().take(40).collect(), kind, hint }
}

/// A decimal number without sign or exponent, times 1000, rounded down.
fn parse_thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || text.ends_with('.') {
        return None;
    }
    let thousandths: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(thousandths)
}

impl FromStr for Millicores {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let value = match text.strip_suffix('m') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
            Some(_) => None,
            None => parse_thousandths(text),
        };
        value
            .filter(|&value| value <= Self::MAX)
            .map(Self)
            .ok_or_else(|| refuse(text, "an amount of processor", Self::HINT))
    }
}

impl FromStr for Bytes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let split = text.find(|c: char| !is_of_number(c)).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => Some(0),
            "k" | "kb" | "ki" | "kib" => Some(10),
            "m" | "mb" | "mi" | "mib" => Some(20),
            "g" | "gb" | "gi" | "gib" => Some(30),
            "t" | "tb" | "ti" | "tib" => Some(40),
            _ => None,
        };
        let value = shift.and_then(|shift| times(number, 1 << shift));
        value
            .filter(|&value| value <= Self::MAX)
            .map(Self)
            .ok_or_else(|| refuse(text, "an amount of memory", Self::HINT))
    }
}

fn is_of_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

/// A number such as `3` or `1.5` times a factor, if that is a whole number: nothing is rounded.
fn times(number: &str, factor: u64) -> Option<u64> {
    /// The most digits after the point.
    const FRACTION_MAX: usize = 9;
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if (1..=FRACTION_MAX).contains(&fraction.len()) => {
            (whole, fraction)
        }
        Some(_) => return None,
        None => (number, ""),
    };
    let parts = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let whole = u128::from(whole.parse::<u64>().ok()?);
    let fraction = if fraction.is_empty() { 0 } else { u128::from(fraction.parse::<u64>().ok()?) };
    let product = whole.checked_mul(parts)?.checked_add(fraction)?.checked_mul(factor.into())?;
    if product.is_multiple_of(parts) { u64::try_from(product / parts).ok() } else { None }
}

impl FromStr for Millis {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || refuse(text, "a duration", Self::HINT);
        let mut rest = text;
        let mut total: u64 = 0;
        if rest.is_empty() || rest.len() > 40 {
            return Err(error());
        }
        while !rest.is_empty() {
            let split = rest.find(|c: char| !is_of_number(c)).ok_or_else(error)?;
            let (number, after) = rest.split_at(split);
            rest = after;
            let units = rest.find(is_of_number).unwrap_or(rest.len());
            let factor = match &rest[..units] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(error()),
            };
            rest = &rest[units..];
            total = times(number, factor)
                .and_then(|part| total.checked_add(part))
                .filter(|&total| total <= Self::MAX)
                .ok_or_else(error)?;
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Millicores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            f.pad(&(self.0 / 1000).to_string())
        } else {
            f.pad(&format!("{}m", self.0))
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
        let exact = units.iter().find(|(shift, _)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((shift, unit)) => f.pad(&format!("{}{unit}", self.0 >> shift)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
        let mut rest = self.0;
        let mut text = String::new();
        for (factor, unit) in units {
            if rest >= factor {
                text.push_str(&format!("{}{unit}", rest / factor));
                rest %= factor;
            }
        }
        f.pad(if text.is_empty() { "0s" } else { &text })
    }
}

macro_rules! quantity_serde {
    ($name:ident, $format:literal, $plain:expr, $pattern:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a quantity: {}", $name::HINT)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                    fn visit_f64<E: de::Error>(self, number: f64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": $plain, "format": $format, "pattern": $pattern, "description": $name::HINT,
                })
            }
        }
    };
}

quantity_serde!(Millicores, "amount-of-processor", ["string", "number"], r"^[0-9]+(\.[0-9]+|m)?$");
quantity_serde!(
    Bytes,
    "amount-of-memory",
    ["string", "integer"],
    r"^[0-9]+(\.[0-9]+)?([bB]|[kKmMgGtT](i|b|B|iB)?)?$"
);
quantity_serde!(Millis, "span", ["string"], r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$");

#[cfg(test)]
mod tests;
