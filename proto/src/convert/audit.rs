//! Audits: what nodes find, and what they hold.

use dwell_core::audit::{FINDINGS_MAX, Finding, NodeAudit, Remedy, Statement, TEXT_MAX};
use dwell_core::id::Position;
use dwell_core::instance::sanitize;
use dwell_core::session::{Claim, INSTANCES_MAX};

use super::session::{at_most, position, seen_volumes, volumes_of};
use super::{FromWireError, parse, parse_optional, text_or_empty};
use crate::v1;
use crate::v1::audit_finding::Remedy as WireRemedy;

impl From<&Finding> for v1::AuditFinding {
    fn from(finding: &Finding) -> Self {
        let (remedy, next) = match &finding.remedy {
            Remedy::Repair => (WireRemedy::Repair, String::new()),
            Remedy::Repaired => (WireRemedy::Repaired, String::new()),
            Remedy::Person(next) => (WireRemedy::Person, next.clone()),
        };
        let claims = finding.claims.iter();
        Self {
            kind: finding.kind.to_string(),
            subject: finding.subject.clone(),
            node: text_or_empty(finding.node.as_ref()),
            claims: claims
                .map(|claim| v1::AuditClaim { by: claim.by.to_string(), says: claim.says.clone() })
                .collect(),
            remedy: remedy.into(),
            next,
        }
    }
}

impl TryFrom<v1::AuditFinding> for Finding {
    type Error = FromWireError;

    /// Texts are cut and cleaned: they come from another machine and end up on terminals.
    fn try_from(wire: v1::AuditFinding) -> Result<Self, FromWireError> {
        let text = |text: &str| sanitize(text, TEXT_MAX);
        let remedy = match wire.remedy() {
            WireRemedy::Repair => Remedy::Repair,
            WireRemedy::Repaired => Remedy::Repaired,
            WireRemedy::Person | WireRemedy::Unspecified => Remedy::Person(text(&wire.next)),
        };
        let claims = wire.claims.iter().map(|claim| {
            Ok(Statement { by: parse("finding.claims.by", &claim.by)?, says: text(&claim.says) })
        });
        let claims: Vec<Statement> = claims.collect::<Result<_, FromWireError>>()?;
        let claims = <[Statement; 2]>::try_from(claims)
            .map_err(|_| FromWireError::new("finding.claims", "are not two"))?;
        Ok(Self {
            kind: parse("finding.kind", &wire.kind)?,
            subject: text(&wire.subject),
            node: parse_optional("finding.node", &wire.node)?,
            claims,
            remedy,
        })
    }
}

impl From<&NodeAudit> for v1::NodeAudit {
    fn from(audit: &NodeAudit) -> Self {
        let Position { incarnation, revision } = audit.held;
        Self {
            findings: audit.findings.iter().map(Into::into).collect(),
            revision: revision.0,
            incarnation: incarnation.0,
            assigned: audit.assigned.iter().map(Into::into).collect(),
            engine_known: audit.running.is_some() && audit.volumes.is_some(),
            running: audit.running.iter().flatten().map(Into::into).collect(),
            volumes: volumes_of(audit.volumes.as_deref(), false),
            copies: volumes_of(audit.volumes.as_deref(), true),
        }
    }
}

impl TryFrom<v1::NodeAudit> for NodeAudit {
    type Error = FromWireError;

    fn try_from(wire: v1::NodeAudit) -> Result<Self, FromWireError> {
        at_most("audit.findings", wire.findings.len(), FINDINGS_MAX)?;
        at_most("audit.assigned", wire.assigned.len(), INSTANCES_MAX)?;
        at_most("audit.running", wire.running.len(), INSTANCES_MAX)?;
        let findings = wire.findings.into_iter().map(Finding::try_from);
        let running = claims(wire.running)?;
        let volumes = seen_volumes(&wire.volumes, &wire.copies)?;
        Ok(Self {
            findings: findings.collect::<Result<_, _>>()?,
            held: position(wire.incarnation, wire.revision),
            assigned: claims(wire.assigned)?,
            running: wire.engine_known.then_some(running),
            volumes: wire.engine_known.then_some(volumes),
        })
    }
}

fn claims(wire: Vec<v1::Claim>) -> Result<Vec<Claim>, FromWireError> {
    wire.into_iter().map(Claim::try_from).collect()
}

#[cfg(test)]
mod tests {
    use dwell_core::audit::{Kind, Layer};

    use super::*;

    #[test]
    fn what_a_node_says_is_read_back() {
        let claim = Claim {
            instance: "web-0".parse().unwrap(),
            generation: dwell_core::id::Generation(3),
            address: "10.80.0.1".parse().unwrap(),
        };
        let finding = |remedy| Finding {
            kind: Kind::LimitsKernel,
            subject: "instance web-0".to_owned(),
            node: Some("h1".parse().unwrap()),
            claims: [Layer::Engine, Layer::Kernel]
                .map(|by| Statement { by, says: format!("{by} says so") }),
            remedy,
        };
        let seen = |is_copy| dwell_core::session::SeenVolume {
            instance: "db-0".parse().unwrap(),
            name: "data".parse().unwrap(),
            image_path: None,
            is_copy,
        };
        let remedies = [Remedy::Repair, Remedy::Repaired, Remedy::Person("do it".to_owned())];
        let mut audit = NodeAudit {
            findings: remedies.map(finding).into(),
            held: position(7, 9),
            assigned: vec![claim.clone()],
            running: Some(vec![claim]),
            volumes: Some([false, true].map(seen).into()),
        };
        assert_eq!(NodeAudit::try_from(v1::NodeAudit::from(&audit)), Ok(audit.clone()));
        (audit.running, audit.volumes) = (None, None);
        assert_eq!(NodeAudit::try_from(v1::NodeAudit::from(&audit)), Ok(audit.clone()));

        let mut wire = v1::AuditFinding::from(&finding(Remedy::Repair));
        wire.kind = "of-tomorrow".to_owned();
        assert!(Finding::try_from(wire.clone()).is_err());
        wire.kind = "mapping".to_owned();
        wire.claims.pop();
        assert!(Finding::try_from(wire).is_err());
    }
}
