//! What nodes say of the way to an instance, and of themselves.

use dwell_proto::v1;
use dwell_proto::v1::finding::Outcome;
use serde::Serialize;

/// `dwell route check`.
#[derive(Debug, Serialize)]
pub(crate) struct RouteChecksView {
    pub(crate) instance: String,
    pub(crate) nodes: Vec<RouteCheckView>,
}

/// A node's way to the instance.
#[derive(Debug, Serialize)]
pub(crate) struct RouteCheckView {
    pub(crate) node: String,
    /// What is wrong, or why the node could not be asked; empty if all is well.
    pub(crate) problem: String,
    /// `null` if the node could not be asked.
    pub(crate) route: Option<ProbeView>,
}

/// The route that the node's kernel takes, and how it works.
#[derive(Debug, Serialize)]
pub(crate) struct ProbeView {
    /// Empty if there is no route.
    pub(crate) prefix: String,
    /// The next hop; empty on the instance's own node.
    pub(crate) via: String,
    pub(crate) device: String,
    /// Whether it is dwell's own route.
    pub(crate) own: bool,
    /// Whether the instance is on this node.
    pub(crate) local: bool,
    /// `null` if nothing came back.
    pub(crate) round_trip_us: Option<u64>,
    pub(crate) mtu_bytes: u32,
    /// Whether packets of that size pass; `null` if not even small ones do.
    pub(crate) full_size_passes: Option<bool>,
}

impl RouteChecksView {
    /// In the order of nodes' names.
    pub(crate) fn new(instance: String, checks: Vec<v1::RouteCheck>) -> Self {
        let mut nodes: Vec<RouteCheckView> = checks.into_iter().map(Into::into).collect();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        Self { instance, nodes }
    }
}

impl From<v1::RouteCheck> for RouteCheckView {
    fn from(wire: v1::RouteCheck) -> Self {
        Self { node: wire.node, problem: wire.problem, route: wire.probe.map(Into::into) }
    }
}

impl From<v1::RouteProbe> for ProbeView {
    fn from(wire: v1::RouteProbe) -> Self {
        Self {
            prefix: wire.prefix,
            via: wire.via,
            device: wire.device,
            own: wire.own,
            local: wire.local,
            round_trip_us: wire.round_trip_us,
            mtu_bytes: wire.mtu,
            full_size_passes: wire.full_size_passes,
        }
    }
}

/// `dwell doctor`.
#[derive(Debug, Serialize)]
pub(crate) struct DoctorView {
    pub(crate) nodes: Vec<DiagnosisView>,
}

/// What a node found when it looked itself over.
#[derive(Debug, Serialize)]
pub(crate) struct DiagnosisView {
    pub(crate) node: String,
    /// Why the node could not be asked; empty if it was.
    pub(crate) problem: String,
    /// How far its clock is ahead of the controller's; `null` if it could not be asked.
    pub(crate) clock_ahead_ms: Option<i64>,
    /// The worst first.
    pub(crate) findings: Vec<FindingView>,
}

/// A check and its outcome.
#[derive(Debug, Serialize)]
pub(crate) struct FindingView {
    pub(crate) outcome: Severity,
    /// A stable word.
    pub(crate) check: String,
    pub(crate) message: String,
    /// The command that puts it right; empty if nothing is wrong or no command can.
    pub(crate) fix: String,
}

/// How bad a finding is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Something does not work because of it.
    Problem,
    /// It works, but may not always.
    Warning,
    /// It could not be found out.
    Unknown,
    /// All is well.
    Ok,
}

impl DoctorView {
    /// In the order of nodes' names.
    pub(crate) fn new(diagnoses: Vec<v1::NodeDiagnosis>) -> Self {
        let mut nodes: Vec<DiagnosisView> = diagnoses.into_iter().map(Into::into).collect();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        Self { nodes }
    }
}

impl From<v1::NodeDiagnosis> for DiagnosisView {
    fn from(wire: v1::NodeDiagnosis) -> Self {
        let clock_ahead_ms = wire.diagnosis.is_some().then_some(wire.clock_ahead_ms);
        let findings = wire.diagnosis.unwrap_or_default().findings;
        let mut findings: Vec<FindingView> = findings.into_iter().map(Into::into).collect();
        findings.sort_by(|a, b| (a.outcome, &a.check).cmp(&(b.outcome, &b.check)));
        Self { node: wire.node, problem: wire.problem, clock_ahead_ms, findings }
    }
}

impl From<v1::Finding> for FindingView {
    fn from(wire: v1::Finding) -> Self {
        Self {
            outcome: match wire.outcome() {
                Outcome::Ok => Severity::Ok,
                Outcome::Warning => Severity::Warning,
                Outcome::Problem => Severity::Problem,
                Outcome::Unspecified | Outcome::Unknown => Severity::Unknown,
            },
            check: wire.check,
            message: wire.message,
            fix: wire.fix,
        }
    }
}
