//! When the work of a job is done anew.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::quantity::Millis;

/// At which times the work of a job is begun anew, by the clock on the wall of a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Minute, hour, day of the month, month and day of the week, as in crontab(5).
    pub cron: String,
    /// The place, by its name in the time zone database, such as `Europe/Berlin`.
    #[serde(default = "Schedule::utc")]
    pub time_zone: String,
    /// What a due time means while earlier work is under way.
    #[serde(default)]
    pub overlap: Overlap,
    /// How late the work may begin, if nobody could begin it when it was due.
    #[serde(default = "Schedule::default_catch_up")]
    pub catch_up: Millis,
    /// How many runs that are over are remembered.
    #[serde(default = "Schedule::default_history")]
    pub history: u32,
}

/// What a due time means while earlier work of the same job is under way. The same instances do both, so it is not done twice at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// Nothing: the work of that time is left out.
    #[default]
    Skip,
    /// The work begins when the earlier one has ended. One due time waits at most, the newest.
    Wait,
    /// The earlier work is stopped, and the new one begins.
    Replace,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Skip => "skip",
            Self::Wait => "wait",
            Self::Replace => "replace",
        })
    }
}

impl Schedule {
    /// The longest expression, in bytes.
    pub const CRON_MAX: usize = 256;
    /// The longest name of a time zone, in bytes.
    pub const TIME_ZONE_MAX: usize = 64;
    /// The shortest catch-up: what a controller needs to start and hear of its nodes.
    pub const CATCH_UP_MIN: Millis = Millis::seconds(30);
    /// The most runs that are remembered.
    pub const HISTORY_MAX: u32 = 100;

    /// A schedule with defaults for all but its times.
    #[must_use]
    pub fn of(cron: impl Into<String>) -> Self {
        Self {
            cron: cron.into(),
            time_zone: Self::utc(),
            overlap: Overlap::default(),
            catch_up: Self::default_catch_up(),
            history: Self::default_history(),
        }
    }

    /// The time zone of those that name none.
    #[must_use]
    pub fn utc() -> String {
        "UTC".to_owned()
    }

    /// How late a run may begin where nobody says otherwise.
    #[must_use]
    pub fn default_catch_up() -> Millis {
        Millis::seconds(600)
    }

    /// How many runs are remembered where nobody says otherwise.
    #[must_use]
    pub fn default_history() -> u32 {
        10
    }

    /// Whether it has the same due times as another.
    #[must_use]
    pub fn is_due_when(&self, other: &Self) -> bool {
        (&self.cron, &self.time_zone) == (&other.cron, &other.time_zone)
    }
}

/// What became of a due time, or of a run that nobody's schedule began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// All instances have completed.
    Completed,
    /// All have ended, and at least one has failed.
    Failed,
    /// It was under way when the next one was due, which replaced it.
    Replaced,
    /// Its work was not begun, since earlier work was under way.
    Skipped,
    /// Its work was not begun, since nobody could begin it in time.
    Missed,
}

impl fmt::Display for RunOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Replaced => "replaced",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        })
    }
}
