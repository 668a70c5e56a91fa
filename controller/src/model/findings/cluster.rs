//! Findings about the controller and its certificates.

use std::time::Duration;

use dwell_core::clock::Timestamp;

use super::{FindingKind, FleetFinding, FleetStatus, Surroundings};
use crate::model::object::Subject;
use crate::model::{Context, Model};

/// How long before its end an authority is a finding: long enough for a rotation that waits for everybody.
const AUTHORITY_ENDS: Duration = Duration::from_secs(60 * 24 * 3600);
/// The same of a context.
const CONTEXT_ENDS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Contexts with a shorter life than this are made to end soon.
const CONTEXT_LIVES: Duration = Duration::from_secs(14 * 24 * 3600);

impl Model {
    pub(super) fn find_of_cluster(&self, around: &Surroundings, status: &mut FleetStatus) {
        let find = |kind, message: String, next: &str| {
            FleetFinding::new(Subject::Cluster, kind, message, next.to_owned())
        };
        if let Some(why) = &around.store_fails {
            let message = format!("changes cannot be stored, so none is accepted: {why}");
            let next = "on the controller's host: journalctl -u dwell-controller";
            status.find(find(FindingKind::StoreFailing, message, next));
        }
        if let Some(restored) = self.tables.history().and_then(|history| history.restored.as_ref())
        {
            let message = format!(
                "the controller was restored from a backup ({}); nothing is placed or changed until that is confirmed",
                restored.reason
            );
            let finding = find(FindingKind::RestoreUnconfirmed, message, "dwell restore status");
            status.find(FleetFinding { since: Some(restored.at), ..finding });
        }
        if let Some((number, ends)) = around.authorities.last() {
            let finding = if *ends <= around.now {
                let message = format!("the certificate of authority {number} has ended");
                Some(find(FindingKind::AuthorityExpired, message, "dwell ca rotate"))
            } else if *ends <= around.now.after(AUTHORITY_ENDS) {
                let message = format!(
                    "the certificate of authority {number} ends, and with it all that it has signed"
                );
                Some(find(FindingKind::AuthorityExpiring, message, "dwell ca rotate"))
            } else {
                None
            };
            if let Some(finding) = finding {
                status.find(FleetFinding { until: Some(*ends), ..finding });
            }
        }
        if around.authorities.len() > 1 {
            let message = "the cluster has a new authority, and trusts the earlier one as well \
                           until `dwell ca finish`";
            let kind = FindingKind::AuthorityRotating;
            status.find(find(kind, message.to_owned(), "dwell ca status"));
        }
        self.find_of_contexts(around.now, status);
    }

    /// Contexts that somebody uses, that end soon, and in whose place there is no other.
    fn find_of_contexts(&self, now: Timestamp, status: &mut FleetStatus) {
        let contexts = self.contexts();
        let ends = now.after(CONTEXT_ENDS);
        let is_missed = |context: &Context| {
            let life = context.issued_at.map(|issued| context.expires_at.since(issued));
            context.revoked_at.is_none()
                && context.expires_at > now
                && context.expires_at <= ends
                && context.used_at.is_some()
                && life.is_none_or(|life| life >= CONTEXT_LIVES)
        };
        for context in contexts.iter().filter(|context| is_missed(context)) {
            let is_replaced = contexts.iter().any(|other| {
                other.name == context.name && other.revoked_at.is_none() && other.expires_at > ends
            });
            if is_replaced {
                continue;
            }
            let message = format!("the context {} of {} ends", context.id, context.name);
            let next = format!(
                "on the controller's host: dwell context issue {} --role {}",
                context.name, context.role
            );
            let kind = FindingKind::ContextExpiring;
            let finding = FleetFinding::new(Subject::Cluster, kind, message, next);
            status.find(FleetFinding { until: Some(context.expires_at), ..finding });
        }
    }
}
