//! The rules of jobs.

use super::{REPLICAS_MAX, SpecError, refuse};
use crate::job::Job;
use crate::quantity::Millis;
use crate::workload::{OnFailure, RestartPolicy, UpdateOrder, WorkloadSpec};

/// The shortest time that a whole job may be given.
const DEADLINE_MIN: Millis = Millis::seconds(1);

pub(super) fn check(spec: &WorkloadSpec) -> Result<(), SpecError> {
    let Some(job) = &spec.job else { return Ok(()) };
    if let Some(parallelism) = job.parallelism
        && !(1..=REPLICAS_MAX).contains(&parallelism)
    {
        return refuse(
            "job.parallelism",
            format!(
                "{parallelism} is not between 1 and {REPLICAS_MAX}; leave it out for all at once"
            ),
        );
    }
    if let Some(deadline) = job.deadline
        && !(DEADLINE_MIN..=Job::TIME_MAX).contains(&deadline)
    {
        let most = Job::TIME_MAX;
        return refuse(
            "job.deadline",
            format!(
                "{deadline} is not between {DEADLINE_MIN} and {most}; leave it out for no deadline"
            ),
        );
    }
    if job.ttl.is_some_and(|ttl| ttl > Job::TIME_MAX) {
        return refuse(
            "job.ttl",
            format!(
                "more than {}; leave it out to keep the job until it is removed",
                Job::TIME_MAX
            ),
        );
    }
    let restart = spec.template.restart;
    if restart == RestartPolicy::Always {
        return refuse(
            "restart",
            "what is started again whenever it ends never completes; leave it out of a job, whose job.attempts says how \
             often it is tried",
        );
    }
    if restart.attempts().is_some_and(|attempts| attempts > Job::ATTEMPTS_MAX) {
        return refuse("job.attempts", format!("at most {} are allowed", Job::ATTEMPTS_MAX));
    }
    if !spec.update.canary.is_none() {
        return refuse(
            "update.canary",
            "a job tries no version out: each of its instances does work of its own; leave it out",
        );
    }
    if spec.update.order == UpdateOrder::StartFirst {
        return refuse(
            "update.order",
            "two containers of an instance would do the same work at once; leave start-first out of a job",
        );
    }
    if spec.update.on_failure == OnFailure::Rollback {
        return refuse(
            "update.on_failure",
            "a job does not go back to an earlier version: an instance that fails is tried again, and has then failed; \
             leave it out",
        );
    }
    Ok(())
}
