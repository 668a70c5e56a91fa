//! The rules of jobs.

use super::{REPLICAS_MAX, SpecError, refuse};
use crate::job::{Job, Schedule};
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
    if let Some(schedule) = &job.schedule {
        check_schedule(schedule)?;
        if job.ttl.is_some() {
            return refuse(
                "job.ttl",
                "a job with a schedule is not over when its work has ended; leave one of the two out",
            );
        }
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
    if !spec.update.max_failures.is_none() {
        return refuse(
            "update.max_failures",
            "an instance of a job that fails is tried again, `job.attempts` times, and holds up no other; leave it out",
        );
    }
    if spec.update.on_failure != OnFailure::Pause {
        return refuse(
            "update.on_failure",
            "a job does not go back to an earlier version: an instance that fails is tried again, and has then failed; \
             leave it out",
        );
    }
    Ok(())
}

/// What can be said of a schedule without a calendar; the controller has one.
fn check_schedule(schedule: &Schedule) -> Result<(), SpecError> {
    let fields = schedule.cron.split_ascii_whitespace().count();
    if schedule.cron.len() > Schedule::CRON_MAX {
        return refuse("job.schedule.cron", format!("is longer than {} bytes", Schedule::CRON_MAX));
    }
    if fields != 5 || !schedule.cron.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return refuse(
            "job.schedule.cron",
            format!(
                "{:?} is not an expression; write minute, hour, day of the month, month and day of the week, for example \
                 \"30 2 * * *\" for half past two every night",
                schedule.cron
            ),
        );
    }
    let zone = &schedule.time_zone;
    if zone.is_empty()
        || zone.len() > Schedule::TIME_ZONE_MAX
        || !zone.chars().all(|c| c.is_ascii_graphic())
    {
        return refuse(
            "job.schedule.time_zone",
            "is not the name of a time zone; write UTC, or a name such as Europe/Berlin",
        );
    }
    let (least, most) = (Schedule::CATCH_UP_MIN, Job::TIME_MAX);
    if !(least..=most).contains(&schedule.catch_up) {
        return refuse(
            "job.schedule.catch_up",
            format!(
                "{} is not between {least}, which a controller may take to start, and {most}",
                schedule.catch_up
            ),
        );
    }
    if !(1..=Schedule::HISTORY_MAX).contains(&schedule.history) {
        return refuse(
            "job.schedule.history",
            format!("{} is not between 1 and {}", schedule.history, Schedule::HISTORY_MAX),
        );
    }
    Ok(())
}
