//! The cluster's authority.

use dwell_proto::v1;
use serde::Serialize;

/// `dwell ca status`.
#[derive(Debug, Serialize)]
pub(crate) struct AuthorityView {
    /// That are trusted, the oldest first: two while a rotation goes on.
    pub(crate) authorities: Vec<OneAuthority>,
    pub(crate) nodes: Vec<OldNodeView>,
    pub(crate) contexts: Vec<OldContextView>,
    /// When the last certificate for SSH ends that an earlier one may have signed; `null` if none can be left.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) ssh_until: Option<u64>,
}

/// An authority.
#[derive(Debug, Serialize)]
pub(crate) struct OneAuthority {
    pub(crate) number: u32,
    /// `null` for the cluster's first.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) made_at: Option<u64>,
    pub(crate) made_by: String,
    pub(crate) fingerprint: String,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) expires_at: u64,
}

/// A node that lives by an earlier authority than the newest.
#[derive(Debug, Serialize)]
pub(crate) struct OldNodeView {
    pub(crate) name: String,
    pub(crate) attached: bool,
    pub(crate) issuer: u32,
}

/// A context of which the same is true.
#[derive(Debug, Serialize)]
pub(crate) struct OldContextView {
    pub(crate) serial: String,
    pub(crate) name: String,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) expires_at: u64,
    pub(crate) issuer: u32,
}

impl From<v1::GetAuthorityResponse> for AuthorityView {
    fn from(wire: v1::GetAuthorityResponse) -> Self {
        let known = |at: u64| Some(at).filter(|at| *at > 0);
        let authorities = wire.authorities.into_iter().map(|one| OneAuthority {
            number: one.number,
            made_at: known(one.made_at_ms),
            made_by: one.made_by,
            fingerprint: one.fingerprint,
            expires_at: one.expires_at_ms,
        });
        let nodes = wire.nodes.into_iter().map(|node| OldNodeView {
            name: node.name,
            attached: node.attached,
            issuer: node.issuer,
        });
        let contexts = wire.contexts.into_iter().map(|one| OldContextView {
            serial: one.serial,
            name: one.name,
            expires_at: one.expires_at_ms,
            issuer: one.issuer,
        });
        Self {
            authorities: authorities.collect(),
            nodes: nodes.collect(),
            contexts: contexts.collect(),
            ssh_until: known(wire.ssh_until_ms),
        }
    }
}
