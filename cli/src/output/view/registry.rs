//! Registries that nodes log in to.

use dwell_proto::v1;
use serde::Serialize;

/// `dwell registry ls`.
#[derive(Debug, Serialize)]
pub(crate) struct RegistriesView {
    pub(crate) registries: Vec<RegistryView>,
}

/// A login at a registry. With what is shown to nobody.
#[derive(Debug, Serialize)]
pub(crate) struct RegistryView {
    pub(crate) host: String,
    pub(crate) username: String,
    pub(crate) changed_at_ms: u64,
    /// Empty if that is not known.
    pub(crate) by: String,
}

impl RegistriesView {
    /// In the order that they are given in.
    pub(crate) fn new(registries: Vec<v1::Registry>) -> Self {
        let view = |one: v1::Registry| RegistryView {
            host: one.host,
            username: one.username,
            changed_at_ms: one.changed_at_ms,
            by: one.by,
        };
        Self { registries: registries.into_iter().map(view).collect() }
    }
}
