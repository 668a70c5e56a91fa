//! Jobs: their rules, what their instances have to complete, and what became of that.

use dwell_core::clock::Timestamp;
use dwell_core::id::{Generation, Revision};
use dwell_core::job::{Job, Task, TaskEnd, TaskOutcome, TaskReport};
use dwell_core::quantity::Millis;

use super::{FromWireError, duration};
use crate::v1;

impl From<&Job> for v1::Job {
    fn from(job: &Job) -> Self {
        Self {
            parallelism: job.parallelism.unwrap_or_default(),
            deadline_ms: job.deadline.map(|deadline| deadline.0),
            ttl_ms: job.ttl.map(|ttl| ttl.0),
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
        })
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
