//! What the verdicts of nodes say of what is waited for.

use dwell_proto::v1;

use super::with_message;

/// Whether a rollout goes on although an instance has failed with the new version.
pub(super) fn some_may_fail(workload: &v1::Workload) -> bool {
    let update = workload.spec.as_ref().and_then(|spec| spec.update.as_ref());
    update.is_some_and(|update| {
        update.max_failures > 0
            || update.max_failures_percent > 0
            || update.on_failure() == v1::OnFailure::Continue
    })
}

/// Why waiting for a generation is in vain, if its node has decided so.
pub(super) fn gave_up(status: &v1::InstanceStatus, generation: u64) -> Option<String> {
    use v1::verdict::Outcome;
    let rolled_back = "the update failed and the old container was put back";
    match &status.verdict {
        Some(verdict) if verdict.generation >= generation => match verdict.outcome() {
            Outcome::RolledBack => Some(with_message(rolled_back.to_owned(), &verdict.reason)),
            Outcome::Failing => Some(with_message("it does not work".to_owned(), &verdict.reason)),
            Outcome::Unspecified | Outcome::Open | Outcome::Held => None,
        },
        Some(_) => None,
        // A node of an older version says nothing else.
        None => status
            .failed_generation
            .filter(|failed| *failed >= generation)
            .map(|_| with_message(rolled_back.to_owned(), &status.message)),
    }
}

/// Whether a generation has shown that it works; a node of an older version does not say.
pub(super) fn has_held(status: &v1::InstanceStatus, generation: u64) -> bool {
    use v1::verdict::Outcome;
    status.verdict.as_ref().is_none_or(|verdict| {
        verdict.generation >= generation
            && matches!(verdict.outcome(), Outcome::Held | Outcome::RolledBack)
    })
}
