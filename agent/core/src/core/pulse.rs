//! Whether the engine is alive: it is pinged when it has been silent for a while, or when something that was asked
//! of it got no answer.

use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_planner::EngineState;

use super::Core;
use crate::call::{Call, CallFailure, Cause};

/// How long the engine may be silent before it is pinged.
const SILENCE: Duration = Duration::from_secs(3);
/// How many pings in a row may get no answer in time: one can be lost on a host that is very busy.
const MISSED_MAX: u32 = 2;

/// When the engine was last heard of.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    heard_at: Timestamp,
    pinging: bool,
    /// Whether there is a reason to ping at once.
    is_suspect: bool,
    missed: u32,
}

impl Pulse {
    /// The engine has said something.
    pub(super) fn hear(&mut self, now: Timestamp) {
        self.heard_at = now;
    }

    /// Something got no answer.
    pub(super) fn suspect(&mut self) {
        self.is_suspect = true;
    }

    pub(super) fn wake_at(&self, engine: &EngineState) -> Option<Timestamp> {
        (*engine == EngineState::Ready && !self.pinging).then(|| self.heard_at.after(SILENCE))
    }

    /// Nobody waits for a ping any more.
    pub(super) fn reset(&mut self, now: Timestamp) {
        *self = Self { heard_at: now, ..Self::default() };
    }
}

impl Core {
    /// Pings the engine if it is time.
    pub(super) fn beat(&mut self, now: Timestamp) {
        let is_ready = self.observed.engine == EngineState::Ready;
        let is_due = self.pulse.is_suspect || self.pulse.heard_at.after(SILENCE) <= now;
        if is_ready && is_due && !self.pulse.pinging {
            self.pulse.pinging = true;
            self.pulse.is_suspect = false;
            self.call(Call::Ping, Call::Ping.limit(), now);
        }
    }

    pub(super) fn pinged(&mut self, outcome: Result<(), CallFailure>, now: Timestamp) {
        self.pulse.pinging = false;
        match outcome {
            Ok(()) => self.pulse.missed = 0,
            Err(failed) => self.lose_engine(failed.failure.message, now),
        }
    }

    /// A ping got no answer in time.
    pub(super) fn missed_ping(&mut self, failed: &CallFailure, now: Timestamp) {
        debug_assert_eq!(failed.cause, Cause::NoAnswer, "only what is given up is missed");
        self.pulse.pinging = false;
        self.pulse.missed += 1;
        if self.pulse.missed >= MISSED_MAX {
            self.lose_engine(failed.failure.message.clone(), now);
        } else {
            self.pulse.suspect();
        }
    }
}
