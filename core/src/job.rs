//! Jobs: workloads whose instances run to completion.
//!
//! Each instance of a job is one *completion*: it runs until its main process ends with 0, and then never again. What an
//! instance is to complete is its *task*, which has a number: the generation at which it was given that work. A move, a drain
//! or a live change goes on with the same task; another template, or somebody who asks for the work to be done anew, makes
//! another one. An end is an end of one task and says nothing of any other.
//!
//! ```text
//!   controller ── Task ─▶ node: runs it, again after each failure, until attempts are spent
//!   controller ◀─ TaskReport ── node: what is on its disk: failures so far, and how the task ended
//! ```

mod schedule;

use serde::{Deserialize, Serialize};

pub use schedule::{Overlap, RunOutcome, Schedule};

use crate::clock::Timestamp;
use crate::id::{Generation, Revision};
use crate::quantity::Millis;
use crate::workload::RestartPolicy;

/// The rules of a job, beside those of any workload. How often an instance is tried is its template's restart policy:
/// [`RestartPolicy::attempts`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// How many instances may be at work at the same time, at least 1; all of them if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
    /// How long the whole job may take, from the first start of one of its instances on; as long as it takes if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
    /// How long after the end of all of its instances the workload is removed; never if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Millis>,
    /// When its work is done anew, by the same instances; once, when it is declared, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
}

impl Job {
    /// How often an instance is tried where nobody says otherwise.
    pub const ATTEMPTS_DEFAULT: u32 = 6;
    /// The most that may be said.
    pub const ATTEMPTS_MAX: u32 = 1_000;
    /// The longest of its times.
    pub const TIME_MAX: Millis = Millis::seconds(366 * 24 * 3600);
}

impl RestartPolicy {
    /// The policy of a job whose instances are tried so often.
    #[must_use]
    pub fn of_attempts(attempts: u32) -> Self {
        match attempts.saturating_sub(1) {
            0 => Self::Never,
            more => Self::OnFailure { max_retries: Some(more) },
        }
    }

    /// How often an instance of a job is tried before it has failed; `None` for as often as it takes.
    #[must_use]
    pub fn attempts(self) -> Option<u32> {
        match self {
            Self::Never => Some(1),
            Self::OnFailure { max_retries } => max_retries.map(|more| more.saturating_add(1)),
            Self::Always => None,
        }
    }
}

/// What an instance of a job is to complete, as its node is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Which work: the generation at which the instance was given it.
    pub number: Generation,
    /// How often it has failed on other nodes.
    #[serde(default)]
    pub failed_before: u32,
}

/// What a node has on its disk about the task of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Of which life of the instance.
    pub life: Revision,
    /// Which task.
    pub number: Generation,
    /// How often the main process has failed there.
    pub failed: u32,
    /// How the task ended; `None` while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<TaskEnd>,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEnd {
    /// Whether the work is done.
    pub outcome: TaskOutcome,
    /// The exit code of the last run of the main process.
    pub code: i32,
    /// When that ended, by the engine's clock.
    pub at: Timestamp,
    /// How long it had run.
    pub ran_for: Millis,
}

/// How an instance failed at its task, for people.
#[must_use]
pub fn failed_in_words(failures: u32, code: i32) -> String {
    match failures {
        0 | 1 => format!("failed at its only attempt, with exit code {code}"),
        failures => {
            format!("failed at each of its {failures} attempts, last with exit code {code}")
        }
    }
}

/// What became of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskOutcome {
    /// The main process ended with 0.
    Completed,
    /// It failed as often as it was tried.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_what_the_restart_policy_says() {
        for attempts in [1, 2, 6, Job::ATTEMPTS_MAX] {
            assert_eq!(RestartPolicy::of_attempts(attempts).attempts(), Some(attempts));
        }
        assert_eq!(RestartPolicy::of_attempts(1), RestartPolicy::Never);
        assert_eq!(RestartPolicy::OnFailure { max_retries: None }.attempts(), None);
    }
}
