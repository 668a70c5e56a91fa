//! Conversions between the wire and [`dwell_core`].
//!
//! To the wire: `From<&core type>`, which cannot fail. From the wire: `TryFrom<wire type>`, which checks
//! everything that a type of core promises and names the field that is wrong.

mod assignment;
mod audit;
mod directory;
mod foreign;
mod instance;
mod job;
mod network;
mod node;
mod process;
mod registry;
mod session;
mod ssh;
mod template;
mod workload;

pub use network::ranges;

use std::str::FromStr;

use dwell_core::quantity::Millis;

/// A message from the wire that does not make sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FromWireError {
    /// The field, such as `template.image`.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl FromWireError {
    pub(crate) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

/// A message field that has to be there.
fn required<T>(field: &'static str, value: Option<T>) -> Result<T, FromWireError> {
    value.ok_or_else(|| FromWireError::new(field, "is missing"))
}

/// A text that has to mean something.
fn parse<T>(field: &'static str, text: &str) -> Result<T, FromWireError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| FromWireError::new(field, error.to_string()))
}

/// A text that may be empty, and has to mean something if it is not.
fn parse_optional<T>(field: &'static str, text: &str) -> Result<Option<T>, FromWireError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

/// An absent optional value, as its empty text.
fn text_or_empty<T: ToString>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

fn port(field: &'static str, number: u32) -> Result<u16, FromWireError> {
    u16::try_from(number)
        .map_err(|_| FromWireError::new(field, format!("{number} is not a port; use 1 to 65535")))
}

/// A duration in milliseconds, at most a year.
fn duration(field: &'static str, value_ms: u64) -> Result<Millis, FromWireError> {
    const YEAR_MS: u64 = 366 * 24 * 3_600_000;
    if value_ms > YEAR_MS {
        return Err(FromWireError::new(field, format!("{value_ms} ms is more than a year")));
    }
    Ok(Millis(value_ms))
}

#[cfg(test)]
mod tests;
