//! What is kept of jobs, with their workloads and instances.

use dwell_core::clock::Timestamp;
use dwell_core::id::Generation;
use dwell_core::job::{Task, TaskEnd, TaskOutcome};
use dwell_core::quantity::Millis;
use dwell_core::workload::Resources;
use serde::{Deserialize, Serialize};

use super::schedule::Scheduled;
use crate::model::object::Instance;

/// How far a job is. How its instances are is kept with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    /// When the first of its instances was seen to have started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Since when none of its instances has anything left to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How far it is with its schedule, if it has one.
    #[serde(default, skip_serializing_if = "Scheduled::is_new")]
    pub scheduled: Scheduled,
}

impl JobRun {
    pub(in crate::model) fn is_new(&self) -> bool {
        *self == Self::default()
    }
}

/// What an instance of a job has to complete, and what became of that.
///
/// ```text
///   begun ── its node has on its disk that it ended ──▶ ended ── somebody asks for it to be done anew ──▶ begun, as another task
///     └───── the deadline of the job is over ─────────────▲
/// ```
///
/// Invariant: what has ended is told to no node as something to run, and nothing is promised for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceTask {
    /// Which task: the generation at which it was given to the instance.
    pub number: Generation,
    /// How often the main process has failed at it on other nodes.
    #[serde(default)]
    pub failed_before: u32,
    /// The same on the present node, as far as that has told.
    #[serde(default)]
    pub failed: u32,
    /// How it ended, for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Ended>,
    /// There is nothing to complete yet: its job has a schedule, and was not due since it was made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Whether the work is done.
    pub outcome: TaskOutcome,
    /// The exit code of the last run of the main process; `None` if it was stopped, or never ran.
    pub code: Option<i32>,
    /// When: by the engine's clock, or by the controller's if that ended it.
    pub at: Timestamp,
    /// How long the last run took.
    pub ran_for: Millis,
    /// Why it failed, for people; empty if it has not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl InstanceTask {
    /// One that has yet to begin.
    pub(in crate::model) fn new(number: Generation) -> Self {
        Self { number, failed_before: 0, failed: 0, end: None, idle: false }
    }

    /// One of a job that has to be due first.
    pub(in crate::model) fn idle(number: Generation) -> Self {
        Self { idle: true, ..Self::new(number) }
    }

    /// What a node is told of it.
    pub(in crate::model) fn assigned(&self) -> Task {
        Task { number: self.number, failed_before: self.failed_before }
    }

    /// How often it has failed, wherever that was.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failed_before.saturating_add(self.failed)
    }

    /// The same when its instance has left its node.
    pub(in crate::model) fn elsewhere(self) -> Self {
        Self { failed_before: self.failures(), failed: 0, ..self }
    }
}

impl Ended {
    /// As a node tells it.
    pub(super) fn told(end: TaskEnd, reason: String) -> Self {
        let TaskEnd { outcome, code, at, ran_for } = end;
        Self { outcome, code: Some(code), at, ran_for, reason }
    }
}

impl Instance {
    /// How its task ended, if it has one and that has.
    #[must_use]
    pub fn ended(&self) -> Option<&Ended> {
        self.task.as_ref()?.end.as_ref()
    }

    /// Whether it has done its work, or has failed at it: it does not run any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    /// Whether it has nothing to do before the schedule of its job gives it something.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.task.as_ref().is_some_and(|task| task.idle)
    }

    /// Whether it has nothing to do: it has ended, or has to be due first. It needs no node and no room.
    #[must_use]
    pub fn rests(&self) -> bool {
        self.has_ended() || self.is_idle()
    }

    /// The room that it is promised: nothing while it rests, else what its container may need.
    #[must_use]
    pub fn share(&self) -> Resources {
        if self.rests() { Resources::default() } else { self.room() }
    }

    /// As it is when it is given other work: that is begun anew, and nothing is gone back to.
    pub(in crate::model) fn with_new_task(self, differs: bool) -> Self {
        let Some(task) = self.task.clone() else { return self };
        let task = if differs { InstanceTask::new(self.generation) } else { task };
        Self { task: Some(task), fallback: None, unseen: None, edition_before: None, ..self }
    }
}
