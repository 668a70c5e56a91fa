//! How long to wait before trying again: all pauses in one place.
//!
//! | after | first | then | at most |
//! |---|---|---|---|
//! | the main process ended by itself, or was given up | none | 100 ms, doubling | 60 s |
//! | an instance of a job failed | 1.6 s | doubling | 60 s |
//! | a step or a pull failed | 100 ms | doubling | 30 s |
//! | it failed in a way that only somebody can mend | 10 s | doubling | 5 min |
//!
//! A main process that ran for [`CALM`], or worked for that long before it was given up, counts as ending for the first
//! time again.

use std::time::Duration;

use crate::step::FailureKind;

/// How long a main process has to run for its earlier ends to be forgotten.
pub(crate) const CALM: Duration = Duration::from_secs(60);

/// The pause before a main process is started again that ended `crashes` times in a row before.
pub(crate) fn after_crash(crashes: u32) -> Duration {
    if crashes == 0 {
        return Duration::ZERO;
    }
    doubled(Duration::from_millis(100), crashes, Duration::from_secs(60))
}

/// The pause before an instance of a job is tried again that has failed `failed` times. What it needs may not be there yet, and its
/// attempts are counted: it begins further on.
pub(crate) fn after_attempt(failed: u32) -> Duration {
    after_crash(failed.saturating_add(4))
}

/// The pause after the `attempts`th failure in a row of a step or a pull.
pub(crate) fn after_failure(kind: FailureKind, attempts: u32) -> Duration {
    let transient =
        |attempts| doubled(Duration::from_millis(100), attempts, Duration::from_secs(30));
    match kind {
        FailureKind::Transient => transient(attempts),
        // The pull comes in between; only an image that keeps vanishing is worth a pause.
        FailureKind::ImageMissing if attempts <= 1 => Duration::ZERO,
        FailureKind::ImageMissing => transient(attempts - 1),
        // What comes next is another step.
        FailureKind::SandboxLost => Duration::ZERO,
        FailureKind::Permanent => {
            doubled(Duration::from_secs(10), attempts, Duration::from_secs(300))
        }
    }
}

/// `first` at 1, twice that at 2, and so on up to `most`.
fn doubled(first: Duration, attempts: u32, most: Duration) -> Duration {
    let factor = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        let crashes: Vec<u128> = (0..13).map(|n| after_crash(n).as_millis()).collect();
        assert_eq!(
            crashes,
            [0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 60_000, 60_000]
        );
        assert_eq!(after_crash(u32::MAX), Duration::from_secs(60));
        let attempts: Vec<u128> = (1..8).map(|n| after_attempt(n).as_millis()).collect();
        assert_eq!(attempts, [1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 60_000]);
        assert_eq!(after_attempt(u32::MAX), Duration::from_secs(60));
        assert_eq!(after_failure(FailureKind::Transient, 1), Duration::from_millis(100));
        assert_eq!(after_failure(FailureKind::Transient, 40), Duration::from_secs(30));
        assert_eq!(after_failure(FailureKind::ImageMissing, 1), Duration::ZERO);
        assert_eq!(after_failure(FailureKind::ImageMissing, 2), Duration::from_millis(100));
        assert_eq!(after_failure(FailureKind::Permanent, 1), Duration::from_secs(10));
        assert_eq!(after_failure(FailureKind::Permanent, 99), Duration::from_secs(300));
    }
}
