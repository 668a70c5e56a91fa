//! Health checks: what is probed, and how single results become a verdict.
//!
//! ```text
//!            start          success
//!   (none) ────────▶ Starting ─────────▶ Healthy ◀──┐
//!                       │                   │ `retries` failures in a row
//!                       │ `retries` counted │       │ success
//!                       │ failures          ▼       │
//!                       └──────────────▶ Unhealthy ─┘
//! ```
//!
//! Until its first success a container is probed often, so that readiness is seen at once. Those probes say
//! little about failing: at most one failure in each `interval` counts, the first one when the start period is
//! over, or after one interval without a start period. A program that needs two seconds to listen is slow, not
//! unhealthy.

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
    /// How long after its start failures do not count.
    #[serde(default)]
    pub start_period: Millis,
    /// How long it may be unhealthy before its main process is restarted; `None` leaves it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Millis>,
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
            restart: None,
        }
    }

    /// How long after a start it takes, at the most, until failures make an instance unhealthy: whoever waits
    /// for its first success should wait that long.
    #[must_use]
    pub fn patience(&self) -> Millis {
        let more = u64::from(self.retries.saturating_sub(1)).saturating_mul(self.interval.0);
        Millis(self.first_failure_after().0.saturating_add(more).saturating_add(self.timeout.0))
    }

    /// From when after a start on failures count.
    fn first_failure_after(&self) -> Millis {
        self.start_period.max(self.interval)
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
    /// Whether a probe has ever succeeded.
    has_answered: bool,
    /// When the last failure was counted before the first success.
    counted_at: Option<Timestamp>,
}

impl HealthRecord {
    /// A container was started.
    #[must_use]
    pub fn new(started: Timestamp) -> Self {
        Self {
            started,
            health: Health::Starting,
            failures: 0,
            has_answered: false,
            counted_at: None,
        }
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
            self.has_answered = true;
            self.health = Health::Healthy;
            return;
        }
        if !self.has_answered && !self.counts(check, now) {
            return;
        }
        self.counted_at = Some(now);
        self.failures = self.failures.saturating_add(1);
        if self.failures >= check.retries {
            self.health = Health::Unhealthy;
        }
    }

    /// Whether a failure before the first success counts.
    fn counts(&self, check: &HealthCheck, now: Timestamp) -> bool {
        match self.counted_at {
            None => now.since(self.started) >= check.first_failure_after().as_duration(),
            Some(last) => now.since(last) >= check.interval.as_duration(),
        }
    }

    /// How long to wait before the next probe: short until the first success, with the same growth for all.
    #[must_use]
    pub fn pause(&self, check: &HealthCheck, now: Timestamp) -> Millis {
        if self.has_answered {
            return check.interval;
        }
        let age = crate::clock::millis(now.since(self.started));
        let growing = (age / 4).clamp(50, 1000).max(age / 32);
        Millis(growing.min(check.interval.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> HealthCheck {
        HealthCheck::new(Probe::Tcp { port: 80 })
    }

    /// Probes a program that listens after a time, as often as the record says. Returns when it was first seen
    /// healthy, and whether it was called unhealthy before.
    fn first_seen(check: &HealthCheck, listens_after: Millis) -> (Millis, bool) {
        let mut record = HealthRecord::new(Timestamp(0));
        let (mut now, mut was_unhealthy) = (Timestamp(0), false);
        while record.health() != Health::Healthy {
            record.observe(check, now.0 >= listens_after.0, now);
            was_unhealthy |= record.health() == Health::Unhealthy;
            if record.health() != Health::Healthy {
                now = now.after(record.pause(check, now).as_duration());
            }
        }
        (Millis(now.0), was_unhealthy)
    }

    #[test]
    fn a_program_that_is_slow_to_listen_is_not_unhealthy_and_seen_soon_after_it_listens() {
        for (needs, most) in [(300, 400), (3_000, 4_000), (25_000, 26_000)] {
            let (at, was_unhealthy) = first_seen(&check(), Millis(needs));
            assert!(!was_unhealthy, "{needs} ms");
            assert!(at.0 <= most, "needs {needs} ms, seen after {at}");
        }
        let patient = HealthCheck { start_period: Millis::seconds(180), ..check() };
        let (at, was_unhealthy) = first_seen(&patient, Millis::seconds(75));
        assert!(!was_unhealthy && at.0 <= 79_000, "seen after {at}");
    }

    #[test]
    fn before_the_first_success_one_failure_counts_in_each_interval() {
        // Compose's `interval: 10s, retries: 5` is 50 s, not five of the quick probes at the start.
        let compose = HealthCheck { retries: 5, ..check() };
        let mut record = HealthRecord::new(Timestamp(0));
        let mut now = Timestamp(0);
        while record.health() == Health::Starting {
            record.observe(&compose, false, now);
            now = now.after(record.pause(&compose, now).as_duration());
        }
        assert!((50_000..56_000).contains(&now.0), "{now}");
        assert!(Millis(now.0) <= compose.patience().max(Millis(55_000)), "{now}");
        assert_eq!(compose.patience(), Millis::seconds(55));
    }

    #[test]
    fn failures_in_the_start_period_are_forgiven() {
        let check = HealthCheck { start_period: Millis::seconds(60), ..check() };
        let mut record = HealthRecord::new(Timestamp(0));
        for second in 0..60 {
            record.observe(&check, false, Timestamp(second * 1_000));
        }
        assert_eq!((record.health(), record.failures), (Health::Starting, 0));
        for second in [60, 61, 70, 79] {
            record.observe(&check, false, Timestamp(second * 1_000));
            assert_eq!(record.health(), Health::Starting, "after {second} s");
        }
        record.observe(&check, false, Timestamp(80_000));
        assert_eq!(record.health(), Health::Unhealthy);
        assert_eq!(check.patience(), Millis::seconds(85));
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
        for _ in 0..3 {
            record.observe(&check(), false, Timestamp(300));
        }
        assert_eq!(
            record.health(),
            Health::Unhealthy,
            "one that has answered fails by its retries"
        );
        assert_eq!(record.pause(&check(), Timestamp(300)), check().interval);
    }

    #[test]
    fn a_starting_instance_is_probed_often() {
        let record = HealthRecord::new(Timestamp(0));
        assert_eq!(record.pause(&check(), Timestamp(0)), Millis(50));
        assert_eq!(record.pause(&check(), Timestamp(30_000)), Millis(1000));
        assert_eq!(record.pause(&check(), Timestamp(600_000)), check().interval);
    }
}
