//! What the layers of the fleet claim, and where they disagree.

use dwell_proto::v1;
use dwell_proto::v1::audit_finding::Remedy as Wire;
use serde::Serialize;

/// `dwell audit`.
#[derive(Debug, Serialize)]
pub(crate) struct AuditView {
    /// How many nodes the fleet has, those that do not answer among them.
    pub(crate) nodes: usize,
    /// What a person has to see to first.
    pub(crate) findings: Vec<AuditFindingView>,
}

/// Two claims about one thing that cannot both be true.
#[derive(Debug, Serialize)]
pub(crate) struct AuditFindingView {
    pub(crate) remedy: RemedyView,
    /// The node it is on; empty if it is the controller's.
    pub(crate) node: String,
    /// A stable word.
    pub(crate) kind: String,
    /// The thing, such as `instance web-0`.
    pub(crate) subject: String,
    /// The two, the one that should be right first.
    pub(crate) claims: Vec<ClaimView>,
    /// What to do; empty if it was repaired.
    pub(crate) next: String,
}

/// What a layer claims.
#[derive(Debug, Serialize)]
pub(crate) struct ClaimView {
    /// A stable word, such as `kernel`.
    pub(crate) by: String,
    pub(crate) says: String,
}

/// What becomes of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RemedyView {
    /// A person has to decide.
    Person,
    /// `dwell audit --fix` puts it right.
    Repair,
    /// It was put right.
    Repaired,
}

impl AuditView {
    pub(crate) fn new(answers: Vec<v1::AuditAnswer>) -> Self {
        let nodes = answers.iter().filter(|answer| !answer.node.is_empty()).count();
        let findings = answers.into_iter().flat_map(|answer| answer.findings);
        let mut findings: Vec<AuditFindingView> = findings.map(Into::into).collect();
        findings.sort_by(|a, b| {
            (a.remedy, &a.node, &a.kind, &a.subject).cmp(&(b.remedy, &b.node, &b.kind, &b.subject))
        });
        Self { nodes, findings }
    }
}

impl From<v1::AuditFinding> for AuditFindingView {
    fn from(wire: v1::AuditFinding) -> Self {
        let remedy = match wire.remedy() {
            Wire::Repair => RemedyView::Repair,
            Wire::Repaired => RemedyView::Repaired,
            Wire::Person | Wire::Unspecified => RemedyView::Person,
        };
        let next = match remedy {
            RemedyView::Person => wire.next,
            RemedyView::Repair => "`dwell audit --fix` repairs it".to_owned(),
            RemedyView::Repaired => String::new(),
        };
        let claims = wire.claims.into_iter();
        Self {
            remedy,
            node: wire.node,
            kind: wire.kind,
            subject: wire.subject,
            claims: claims.map(|claim| ClaimView { by: claim.by, says: claim.says }).collect(),
            next,
        }
    }
}
