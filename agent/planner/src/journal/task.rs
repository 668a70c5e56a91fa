//! What is remembered of the task of an instance of a job.
//!
//! A run that has ended is counted before anything relies on it: the next start, or the report that the task has ended. So no
//! crash of the agent gives an instance more attempts than it has, and what was reported is on disk.

use dwell_core::clock::{Timestamp, millis};
use dwell_core::id::Generation;
use dwell_core::job::{Task, TaskEnd, TaskOutcome, TaskReport};
use dwell_core::quantity::Millis;
use dwell_core::workload::RestartPolicy;
use serde::{Deserialize, Serialize};

use super::Journal;
use crate::observed::{Container, ContainerState};

/// How far an instance is with its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Which task.
    pub number: Generation,
    /// How often its main process has failed here.
    #[serde(default)]
    pub failed: u32,
    /// The run that was counted last, by its start by the engine's clock.
    #[serde(default)]
    pub counted: Option<Timestamp>,
    /// How it ended, for good.
    #[serde(default)]
    pub end: Option<TaskEnd>,
}

impl Journal {
    /// What is told of the task that is remembered.
    pub(crate) fn task_report(&self) -> Option<TaskReport> {
        let TaskRecord { number, failed, end, .. } = self.task?;
        Some(TaskReport { life: self.life, number, failed, end })
    }

    /// What is remembered of a task; nothing of it yet, if it is another one.
    pub(crate) fn of_task(&self, task: Task) -> TaskRecord {
        let blank = TaskRecord { number: task.number, failed: 0, counted: None, end: None };
        self.task.filter(|record| record.number == task.number).unwrap_or(blank)
    }

    /// The journal when the last run of a container is counted, if it has yet to be: it has done the work, or has failed once
    /// more.
    pub(crate) fn counting(
        &self,
        task: Task,
        policy: RestartPolicy,
        container: &Container,
    ) -> Option<Self> {
        let ContainerState::Exited { started_at, ran_for, code, .. } = container.state else {
            return None;
        };
        let before = self.of_task(task);
        if self.has_ordered_end(container)
            || before.end.is_some()
            || before.counted == Some(started_at)
        {
            return None;
        }
        let is_done = code == 0 && self.given_up(container).is_none();
        let failed = before.failed.saturating_add(u32::from(!is_done));
        let spent = failed.saturating_add(task.failed_before);
        let outcome = if is_done {
            Some(TaskOutcome::Completed)
        } else {
            let is_last = policy.attempts().is_some_and(|attempts| spent >= attempts);
            is_last.then_some(TaskOutcome::Failed)
        };
        let ran_for = Millis(millis(ran_for));
        let at = Timestamp(started_at.0.saturating_add(ran_for.0));
        let end = outcome.map(|outcome| TaskEnd { outcome, code, at, ran_for });
        let record = TaskRecord { failed, counted: Some(started_at), end, ..before };
        Some(Self { task: Some(record), ..self.clone() })
    }
}
