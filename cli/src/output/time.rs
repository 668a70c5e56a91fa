//! Points in time for people: how long ago, or when.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dwell_core::clock::millis;
use serde::Serializer;

/// The moment ages are counted to, in milliseconds since the epoch. A value, so that tests have theirs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now(pub(crate) u64);

impl Now {
    /// By this machine's clock.
    pub(crate) fn read() -> Self {
        Self(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    /// How long ago something was, in its two largest units; a dash if nobody knows. A moment of another
    /// host's clock that lies ahead of this one is `0s` ago.
    pub(crate) fn age(self, at_ms: Option<u64>) -> String {
        let Some(at_ms) = at_ms.filter(|&at| at > 0) else { return "-".into() };
        let seconds = self.0.saturating_sub(at_ms) / 1000;
        match seconds {
            0..60 => format!("{seconds}s"),
            60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
            3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
            _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
        }
    }
}

/// A minute, in UTC.
pub(crate) fn minute(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%MZ").to_string())
}

/// How long something took: `0.3 s`, `42 s`, `5m12s`.
pub(crate) fn duration(took: Duration) -> String {
    match took.as_secs() {
        0..10 => format!("{:.1} s", took.as_secs_f64()),
        seconds @ 10..60 => format!("{seconds} s"),
        seconds => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

/// A moment for programs: RFC 3339 in UTC, as everything in dwell that shows one.
pub(crate) fn serialize<S: Serializer>(at_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&moment(*at_ms))
}

/// The same where nobody may know it: `null`.
pub(crate) fn serialize_known<S: Serializer>(
    at_ms: &Option<u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at_ms {
        Some(at_ms) => serialize(at_ms, serializer),
        None => serializer.serialize_none(),
    }
}

/// A moment in UTC, such as `2026-01-31T12:00:00.250Z`.
pub(crate) fn moment(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    at.map_or_else(|| "-".into(), |at| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let now = Now(1_000_000_000);
        let age = |before_ms| now.age(Some(now.0 - before_ms));
        assert_eq!(age(0), "0s");
        assert_eq!(age(59_999), "59s");
        assert_eq!(age(61_000), "1m1s");
        assert_eq!(age(3_720_000), "1h2m");
        assert_eq!(age(90_000_000), "1d1h");
        assert_eq!(now.age(Some(now.0 + 5)), "0s");
        assert_eq!(now.age(None), "-");
        assert_eq!(moment(1_769_860_800_250), "2026-01-31T12:00:00.250Z");
        assert_eq!(moment(u64::MAX), "-");
        assert_eq!(duration(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(duration(Duration::from_secs(42)), "42 s");
        assert_eq!(duration(Duration::from_secs(312)), "5m12s");
    }
}
