//! Why something is where and what it is.

use dwell_proto::v1;
use serde::Serialize;

use super::EventView;

/// `dwell explain`.
#[derive(Debug, Serialize)]
pub(crate) struct ExplainView {
    /// `workload/NAME` or `instance/NAME`.
    pub(crate) subject: String,
    /// The most important first.
    pub(crate) facts: Vec<FactView>,
    /// What happened to it and to its workload, the oldest first.
    pub(crate) history: Vec<EventView>,
    pub(crate) revision: u64,
}

/// One thing that is so.
#[derive(Debug, Serialize)]
pub(crate) struct FactView {
    /// A stable word for what it is about.
    pub(crate) about: String,
    /// What is so and why.
    pub(crate) text: String,
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) since: Option<u64>,
    /// Who asked for it; empty if nobody did, or if that is not known.
    pub(crate) by: String,
}

impl From<v1::ExplainResponse> for ExplainView {
    fn from(wire: v1::ExplainResponse) -> Self {
        let fact = |fact: v1::Fact| FactView {
            about: fact.about,
            text: fact.text,
            since: fact.since_ms,
            by: fact.by,
        };
        Self {
            subject: wire.subject,
            facts: wire.facts.into_iter().map(fact).collect(),
            history: wire.history.into_iter().map(Into::into).collect(),
            revision: wire.revision,
        }
    }
}
