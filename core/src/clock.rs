//! Time as a value: decisions take `now` as an argument and never ask for it themselves.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Whether it is the epoch, which stands for never.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// This instant plus `duration`, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Seconds since the epoch, and the nanoseconds beyond them.
    #[must_use]
    pub fn as_seconds_and_nanos(self) -> (u64, u32) {
        (self.0 / 1000, u32::try_from(self.0 % 1000).unwrap_or(0) * 1_000_000)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// Whole milliseconds of a duration, saturating.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The present, for those who both tell people what time it is and measure how long something took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// What the wall clock shows: for what people read, and what is kept.
    pub wall: Timestamp,
    /// What [`Clock::now`] says: for intervals.
    pub steady: Timestamp,
}

impl Now {
    /// What the wall clock would have shown at an earlier moment, if it is right now.
    #[must_use]
    pub fn wall_at(self, steady: Timestamp) -> Timestamp {
        Timestamp(self.wall.0.saturating_sub(millis(self.steady.since(steady))))
    }
}

/// A clock that never steps.
impl From<Timestamp> for Now {
    fn from(now: Timestamp) -> Self {
        Self { wall: now, steady: now }
    }
}

/// Where a shell gets its `now` from; a simulation brings its own.
pub trait Clock: Send + Sync + 'static {
    /// The present by a clock that only goes forward, at the speed of time: for intervals.
    fn now(&self) -> Timestamp;

    /// The present by the wall clock, which may step: for what people read, and for certificates.
    fn wall(&self) -> Timestamp {
        self.now()
    }

    /// Both.
    fn both(&self) -> Now {
        Now { wall: self.wall(), steady: self.now() }
    }
}

/// The host's clocks. `now` is the wall clock read once and then carried on by the clock that counts from
/// the host's boot, sleep included, so that a step of the wall clock (NTP, an operator) can neither fire
/// nor postpone a time-out.
#[derive(Debug)]
pub struct SystemClock {
    started: Duration,
    wall: Timestamp,
}

impl SystemClock {
    /// Anchors the clock at the wall time of this moment.
    #[must_use]
    pub fn new() -> Self {
        Self { started: since_boot(), wall: wall_clock() }
    }
}

fn wall_clock() -> Timestamp {
    Timestamp(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
}

fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Never negative, and the nanoseconds below a second.
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.wall.after(since_boot().saturating_sub(self.started))
    }

    fn wall(&self) -> Timestamp {
        wall_clock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp(u64::MAX).after(Duration::from_secs(1)), Timestamp(u64::MAX));
        assert_eq!(Timestamp(5).since(Timestamp(10)), Duration::ZERO);
        assert_eq!(Timestamp(1_500).as_seconds_and_nanos(), (1, 500_000_000));
    }

    #[test]
    fn what_was_is_told_by_the_wall_clock_of_now() {
        // It was an hour slow when this was noted, and has been put right since.
        let now = Now { wall: Timestamp(3_600_000 + 50_000), steady: Timestamp(50_000) };
        assert_eq!(now.wall_at(Timestamp(40_000)), Timestamp(3_600_000 + 40_000));
        assert_eq!(Now::from(Timestamp(7)).wall_at(Timestamp(5)), Timestamp(5));
    }

    #[test]
    fn the_steady_clock_goes_forward_from_the_wall_clock() {
        let before = wall_clock();
        let clock = SystemClock::new();
        let (one, two) = (clock.now(), clock.now());
        assert!(one >= before && two >= one);
    }
}
