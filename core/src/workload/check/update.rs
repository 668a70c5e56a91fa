//! The rules of how changes reach the instances of a workload.

use super::{SpecError, refuse};
use crate::workload::{OnFailure, UpdatePolicy};

pub(super) fn check(update: &UpdatePolicy) -> Result<(), SpecError> {
    let UpdatePolicy { parallelism, canary, max_failures, .. } = update;
    if parallelism.is_none() {
        return refuse("update.parallelism", "0 would never change anything; use at least 1");
    }
    let portions = [
        ("update.parallelism", parallelism),
        ("update.canary", canary),
        ("update.max_failures", max_failures),
    ];
    for (field, portion) in portions {
        if portion.is_too_much() {
            return refuse(
                field,
                format!("{portion} is more than all instances; use at most 100%"),
            );
        }
    }
    if update.on_failure == OnFailure::Continue && !max_failures.is_none() {
        return refuse(
            "update.max_failures",
            "with \"on_failure: continue\" the rollout goes on however many fail; leave it out, or write \
             \"on_failure: pause\" or \"rollback\" for what is done when more fail",
        );
    }
    Ok(())
}
