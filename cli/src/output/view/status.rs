//! What of the fleet is not as declared.

use dwell_proto::v1;
use serde::Serialize;

/// `dwell status`.
#[derive(Debug, Serialize)]
pub(crate) struct StatusView {
    /// The worst first.
    pub(crate) found: Vec<FleetFindingView>,
    /// How many more there are than the controller names.
    pub(crate) left_out: u64,
    pub(crate) counts: CountsView,
    pub(crate) revision: u64,
}

/// How bad a finding is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Gravity {
    Problem,
    Warning,
    Progress,
}

/// One thing that is not as declared.
#[derive(Debug, Serialize)]
pub(crate) struct FleetFindingView {
    pub(crate) gravity: Gravity,
    /// `workload/NAME`, `instance/NAME`, `node/NAME` or `cluster`.
    pub(crate) subject: String,
    /// A stable word, such as `node-down`.
    pub(crate) kind: String,
    pub(crate) message: String,
    /// The next step.
    pub(crate) next: String,
    /// Since when, if that is known.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) since: Option<u64>,
    /// When it will be worse, if that is known.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) until: Option<u64>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct CountsView {
    pub(crate) nodes: u64,
    pub(crate) nodes_ready: u64,
    pub(crate) workloads: u64,
    pub(crate) workloads_as_declared: u64,
    pub(crate) instances: u64,
    pub(crate) instances_well: u64,
    pub(crate) instances_stopped: u64,
}

impl From<v1::GetStatusResponse> for StatusView {
    fn from(wire: v1::GetStatusResponse) -> Self {
        let counts = wire.counts.unwrap_or_default();
        Self {
            found: wire.found.into_iter().map(Into::into).collect(),
            left_out: wire.left_out,
            counts: CountsView {
                nodes: counts.nodes,
                nodes_ready: counts.nodes_ready,
                workloads: counts.workloads,
                workloads_as_declared: counts.workloads_as_declared,
                instances: counts.instances,
                instances_well: counts.instances_well,
                instances_stopped: counts.instances_stopped,
            },
            revision: wire.revision,
        }
    }
}

impl From<v1::FleetFinding> for FleetFindingView {
    fn from(wire: v1::FleetFinding) -> Self {
        use v1::fleet_finding::Gravity as Wire;
        Self {
            gravity: match wire.gravity() {
                // What a later controller may know is worth a look.
                Wire::Problem | Wire::Unspecified => Gravity::Problem,
                Wire::Warning => Gravity::Warning,
                Wire::Progress => Gravity::Progress,
            },
            subject: wire.subject,
            kind: wire.kind,
            message: wire.message,
            next: wire.next,
            since: wire.since_ms,
            until: wire.until_ms,
        }
    }
}
