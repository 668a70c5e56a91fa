//! Contexts that were made.

use dwell_proto::v1;
use serde::Serialize;

/// `dwell context ls`.
#[derive(Debug, Serialize)]
pub(crate) struct ContextsView {
    pub(crate) contexts: Vec<ContextView>,
}

/// A context, without what is secret in it.
#[derive(Debug, Serialize)]
pub(crate) struct ContextView {
    pub(crate) serial: String,
    pub(crate) name: String,
    pub(crate) role: String,
    /// `null` if a version made it that kept no list.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) issued_at: Option<u64>,
    pub(crate) issued_by: String,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) expires_at: u64,
    /// To the hour; `null` if it was not used.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) used_at: Option<u64>,
    /// `null` if it is good.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) revoked_at: Option<u64>,
    pub(crate) revoked_by: String,
}

impl ContextsView {
    /// In the order that they are given in.
    pub(crate) fn new(contexts: Vec<v1::Context>) -> Self {
        Self { contexts: contexts.into_iter().map(Into::into).collect() }
    }
}

impl From<v1::Context> for ContextView {
    fn from(wire: v1::Context) -> Self {
        Self {
            serial: wire.serial,
            name: wire.name,
            role: wire.role,
            issued_at: wire.issued_at_ms,
            issued_by: wire.issued_by,
            expires_at: wire.expires_at_ms,
            used_at: wire.used_at_ms,
            revoked_at: wire.revoked_at_ms,
            revoked_by: wire.revoked_by,
        }
    }
}
