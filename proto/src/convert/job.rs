//! Jobs: their rules, what their instances have to complete, and what became of that.

use dwell_core::clock::Timestamp;
use dwell_core::id::{Generation, Revision};
use dwell_core::job::{Job, Overlap, RunOutcome, Schedule, Task, TaskEnd, TaskOutcome, TaskReport};
use dwell_core::quantity::Millis;

use super::{FromWireError, duration};
use crate::v1;

impl From<&Job> for v1::Job {
    fn from(job: &Job) -> Self {
        Self {
            parallelism: job.parallelism.unwrap_or_default(),
            deadline_ms: job.deadline.map(|deadline| deadline.0),
            ttl_ms: job.ttl.map(|ttl| ttl.0),
            schedule: job.schedule.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Job> for Job {
    type Error = FromWireError;

    fn try_from(wire: v1::Job) -> Result<Self, FromWireError> {
        Ok(Self {
            parallelism: Some(wire.parallelism).filter(|&most| most != 0),
            deadline: wire.deadline_ms.map(|ms| duration("job.deadline_ms", ms)).transpose()?,
            ttl: wire.ttl_ms.map(|ms| duration("job.ttl_ms", ms)).transpose()?,
            schedule: wire.schedule.map(Schedule::try_from).transpose()?,
        })
    }
}

impl From<&Schedule> for v1::Schedule {
    fn from(schedule: &Schedule) -> Self {
        let overlap = match schedule.overlap {
            Overlap::Skip => v1::Overlap::Skip,
            Overlap::Wait => v1::Overlap::Wait,
            Overlap::Replace => v1::Overlap::Replace,
        };
        Self {
            cron: schedule.cron.clone(),
            time_zone: schedule.time_zone.clone(),
            overlap: overlap.into(),
            catch_up_ms: Some(schedule.catch_up.0),
            history: schedule.history,
        }
    }
}

impl TryFrom<v1::Schedule> for Schedule {
    type Error = FromWireError;

    fn try_from(wire: v1::Schedule) -> Result<Self, FromWireError> {
        let overlap = match wire.overlap() {
            v1::Overlap::Unspecified | v1::Overlap::Skip => Overlap::Skip,
            v1::Overlap::Wait => Overlap::Wait,
            v1::Overlap::Replace => Overlap::Replace,
        };
        let catch_up = wire.catch_up_ms.map(|ms| duration("job.schedule.catch_up_ms", ms));
        let catch_up = catch_up.transpose()?.unwrap_or_else(Self::default_catch_up);
        let time_zone = if wire.time_zone.is_empty() { Self::utc() } else { wire.time_zone };
        let history = if wire.history == 0 { Self::default_history() } else { wire.history };
        Ok(Self { cron: wire.cron, time_zone, overlap, catch_up, history })
    }
}

impl From<RunOutcome> for v1::past_run::Outcome {
    fn from(outcome: RunOutcome) -> Self {
        match outcome {
            RunOutcome::Completed => Self::Completed,
            RunOutcome::Failed => Self::Failed,
            RunOutcome::Replaced => Self::Replaced,
            RunOutcome::Skipped => Self::Skipped,
            RunOutcome::Missed => Self::Missed,
        }
    }
}

impl From<v1::past_run::Outcome> for RunOutcome {
    fn from(wire: v1::past_run::Outcome) -> Self {
        use v1::past_run::Outcome;
        match wire {
            Outcome::Completed => Self::Completed,
            Outcome::Unspecified | Outcome::Failed => Self::Failed,
            Outcome::Replaced => Self::Replaced,
            Outcome::Skipped => Self::Skipped,
            Outcome::Missed => Self::Missed,
        }
    }
}

impl From<Task> for v1::Task {
    fn from(task: Task) -> Self {
        Self { number: task.number.0, failed_before: task.failed_before }
    }
}

impl From<v1::Task> for Task {
    fn from(wire: v1::Task) -> Self {
        Self { number: Generation(wire.number), failed_before: wire.failed_before }
    }
}

impl From<TaskReport> for v1::TaskReport {
    fn from(report: TaskReport) -> Self {
        Self {
            life: report.life.0,
            number: report.number.0,
            failed: report.failed,
            end: report.end.map(|end| v1::TaskEnd {
                outcome: v1::task_end::Outcome::from(end.outcome).into(),
                code: Some(end.code),
                at_ms: end.at.0,
                ran_for_ms: end.ran_for.0,
            }),
        }
    }
}

impl From<v1::TaskReport> for TaskReport {
    fn from(wire: v1::TaskReport) -> Self {
        Self {
            life: Revision(wire.life),
            number: Generation(wire.number),
            failed: wire.failed,
            end: wire.end.map(|end| TaskEnd {
                outcome: end.outcome().into(),
                code: end.code.unwrap_or_default(),
                at: Timestamp(end.at_ms),
                ran_for: Millis(end.ran_for_ms),
            }),
        }
    }
}

impl From<TaskOutcome> for v1::task_end::Outcome {
    fn from(outcome: TaskOutcome) -> Self {
        match outcome {
            TaskOutcome::Completed => Self::Completed,
            TaskOutcome::Failed => Self::Failed,
        }
    }
}

impl From<v1::task_end::Outcome> for TaskOutcome {
    fn from(wire: v1::task_end::Outcome) -> Self {
        match wire {
            v1::task_end::Outcome::Completed => Self::Completed,
            v1::task_end::Outcome::Unspecified | v1::task_end::Outcome::Failed => Self::Failed,
        }
    }
}
