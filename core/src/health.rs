//! Health checks: what is probed, and how single results become a verdict.
//!
//! ```text
//!            start          success
//!   (none) ────────▶ Starting ─────────▶ Healthy ◀──┐
//!                       │                   │ `retries` failures in a row
//!                       │ `retries` failures│       │ success
//!                       │ after start_period▼       │
//!                       └──────────────▶ Unhealthy ─┘
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::quantity::Millis;

/// How an instance shows that it works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is done to find out.
    pub probe: Probe,
    /// Pause between two probes.
    #[serde(default = "HealthCheck::default_interval")]
    pub interval: Millis,
    /// How long one probe may take.
    #[serde(default = "HealthCheck::default_timeout")]
    pub timeout: Millis,
    /// How many failures in a row make it unhealthy, at least 1.
    #[serde(default = "HealthCheck::default_retries")]
    pub retries: u32,
    /// How long after its start failures do not count. Meanwhile it is probed often, so that the
    /// first success is seen at once.
    #[serde(default)]
    pub start_period: Millis,
}

/// What is done to find out whether an instance works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// A TCP connection to the instance's address is accepted.
    Tcp {
        /// Port number.
        port: u16,
    },
    /// An HTTP GET is answered with a status from 200 to 399. Redirects are not followed.
    Http {
        /// Port number.
        port: u16,
        /// Path and query, beginning with `/`.
        path: String,
    },
    /// A command inside the instance exits with 0.
    Exec {
        /// The command and its arguments.
        command: Vec<String>,
    },
}

impl HealthCheck {
    /// A check with the default times.
    #[must_use]
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: Self::default_interval(),
            timeout: Self::default_timeout(),
            retries: Self::default_retries(),
            start_period: Millis(0),
        }
    }

    fn default_interval() -> Millis {
        Millis::seconds(10)
    }

    fn default_timeout() -> Millis {
        Millis::seconds(5)
    }

    fn default_retries() -> u32 {
        3
    }
}

/// The verdict over an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It has no check.
    #[default]
    None,
    /// It was started and has not answered yet.
    Starting,
    /// It answers.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl Health {
    /// Whether nothing speaks against it: healthy, or without a check.
    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::None | Self::Healthy)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// The record of one container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthRecord {
    started: Timestamp,
    health: Health,
    failures: u32,
}

impl HealthRecord {
    /// A container was started.
    #[must_use]
    pub fn new(started: Timestamp) -> Self {
        Self { started, health: Health::Starting, failures: 0 }
    }

    /// The verdict so far.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes in the result of a probe.
    pub fn observe(&mut self, check: &HealthCheck, passed: bool, now: Timestamp) {
        if passed {
            self.failures = 0;
            self.health = Health::Healthy;
            return;
        }
        let forgiven = self.health == Health::Starting
            && now.since(self.started) < check.start_period.as_duration();
        if forgiven {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= check.retries {
            self.health = Health::Unhealthy;
        }
    }

    /// How long to wait before the next probe: short while starting, with the same growth for all.
    #[must_use]
    pub fn pause(&self, check: &HealthCheck, now: Timestamp) -> Millis {
        if self.health != Health::Starting {
            return check.interval;
        }
        let age = crate::clock::millis(now.since(self.started));
        Millis((age / 4).clamp(50, 1000).min(check.interval.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> HealthCheck {
        HealthCheck {
            start_period: Millis::seconds(5),
            ..HealthCheck::new(Probe::Tcp { port: 80 })
        }
    }

    #[test]
    fn failures_in_the_start_period_are_forgiven() {
        let mut record = HealthRecord::new(Timestamp(0));
        for at in 0..10 {
            record.observe(&check(), false, Timestamp(at * 100));
        }
        assert_eq!(record.health(), Health::Starting);
        for _ in 0..3 {
            record.observe(&check(), false, Timestamp(6_000));
        }
        assert_eq!(record.health(), Health::Unhealthy);
    }

    #[test]
    fn only_failures_in_a_row_count() {
        let mut record = HealthRecord::new(Timestamp(0));
        record.observe(&check(), true, Timestamp(100));
        for _ in 0..5 {
            record.observe(&check(), false, Timestamp(200));
            record.observe(&check(), false, Timestamp(200));
            record.observe(&check(), true, Timestamp(200));
        }
        assert_eq!(record.health(), Health::Healthy);
    }

    #[test]
    fn a_starting_instance_is_probed_often() {
        let record = HealthRecord::new(Timestamp(0));
        assert_eq!(record.pause(&check(), Timestamp(0)), Millis(50));
        assert_eq!(record.pause(&check(), Timestamp(60_000)), Millis(1000));
    }
}
