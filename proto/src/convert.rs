//! Conversions between the wire and [`dwell_core`].

/// A message from the wire that does not make sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FromWireError {
    /// The field, such as `template.image`.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}
