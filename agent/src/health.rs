//! Finding out whether an instance works, by its health check.
//!
//! [`watch`] gives the verdicts over one run of a container, as long as somebody asks for the next.
//! Nothing runs beside that: who drops it has ended the probing, and what waits for its next probe
//! costs a timer and a few hundred bytes.
//!
//! ```text
//!           ┌──────────── pause ◀──────── unchanged ─┐
//!           ▼                                        │
//!   next ─ probe ─▶ record ([`HealthRecord`]) ─▶ verdict ── changed ─▶ told
//! ```
//!
//! Invariants:
//! - what is not known, because the engine does not answer, counts neither way;
//! - probes of different instances are spread in time: a container that was not started just now, as
//!   all are when the agent starts, is first probed at any time within a second; and the first pause
//!   after a verdict is cut to any part of the interval, from where the pauses are even.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::{Clock, Timestamp};
use dwell_core::health::{Health, HealthCheck, HealthRecord};
use dwell_core::sandbox::Slot;

use crate::probe::{self, Asked, Outcome};
use dwell_engine::{ContainerId, SharedEngine};

/// A container that was started longer ago when it is first seen was not started just now.
const FRESH: Duration = Duration::from_secs(2);
/// Within what time the first probes of all others are spread.
const SPREAD: Duration = Duration::from_secs(1);

/// One run of a container, to be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Which container.
    pub container: ContainerId,
    /// Where it is reached.
    pub address: Ipv4Addr,
    /// In which of the sandboxes with this address.
    pub slot: Slot,
    /// How it is probed.
    pub check: HealthCheck,
    /// When its main process was started, by the engine's clock. Says only whether that was just now, so that first
    /// probes are spread.
    pub started: Timestamp,
    /// When the run was first seen, by the agent's clock. All times of the check count from here: the engine's clock
    /// may have been another, or be set since.
    pub since: Timestamp,
}

impl Subject {
    fn asked(&self) -> Asked<'_> {
        let HealthCheck { probe, timeout, .. } = &self.check;
        let (container, address, slot) = (&self.container, self.address, self.slot);
        Asked { container, address, slot, probe, timeout: *timeout }
    }
}

/// The verdicts over one run of a container; see [`watch`].
pub struct Verdicts {
    engine: SharedEngine,
    clock: Arc<dyn Clock>,
    subject: Subject,
    record: HealthRecord,
    /// Whether the pause before the first probe has begun.
    probing: bool,
    /// Whether the pause has begun after which all are even.
    settled: bool,
    reason: String,
}

/// Probes a run of a container for as long as the verdicts are asked for.
#[must_use]
pub fn watch(engine: SharedEngine, clock: Arc<dyn Clock>, subject: Subject) -> Verdicts {
    let record = HealthRecord::new(subject.since);
    Verdicts {
        engine,
        clock,
        subject,
        record,
        probing: false,
        settled: false,
        reason: String::new(),
    }
}

impl Verdicts {
    /// The next verdict that differs from the one before; the first differs from
    /// [`Health::Starting`]. `None` once there is no such container any more.
    ///
    /// Cancel-safe, but for the probe that is under way: that is made again.
    pub async fn next(&mut self) -> Option<Health> {
        loop {
            tokio::time::sleep(self.pause()).await;
            // Not part of this future, which is small while it sleeps.
            let outcome = Box::pin(probe::probe(&*self.engine, self.subject.asked())).await;
            let before = self.record.health();
            let passed = match outcome {
                Outcome::Passed => {
                    self.reason.clear();
                    true
                }
                Outcome::Failed(reason) => {
                    self.reason = reason;
                    false
                }
                Outcome::Unknown => continue,
                Outcome::Gone => return None,
            };
            self.record.observe(&self.subject.check, passed, self.clock.now());
            let health = self.record.health();
            if health != before {
                return Some(health);
            }
        }
    }

    /// What the last probe failed with, for people; empty if it passed.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// How long to wait before the next probe.
    fn pause(&mut self) -> Duration {
        let now = self.clock.now();
        let pause = self.record.pause(&self.subject.check, now).as_duration();
        if !self.probing {
            self.probing = true;
            let fresh = now.since(self.subject.started) < FRESH;
            return if fresh { Duration::ZERO } else { SPREAD.mul_f64(self.share()) };
        }
        if self.settled || self.record.health() == Health::Starting {
            return pause;
        }
        self.settled = true;
        pause.mul_f64(self.share())
    }

    /// A number from 0 to 1: another one for each container, and always the same for one.
    fn share(&self) -> f64 {
        let mut hasher = DefaultHasher::new();
        self.subject.container.as_str().hash(&mut hasher);
        f64::from(hasher.finish() as u32) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
