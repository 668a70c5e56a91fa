//! How long to wait before the next attempt to reach the controller.
//!
//! The first attempt after a loss comes within [`FIRST`], so that a controller that restarts has its nodes
//! back at once; then the bound doubles up to [`MOST`]. The wait is a random part of the bound (full
//! jitter): ten thousand agents that lose a controller together come back spread out.

use std::time::Duration;

use dwell_core::workload::OnLost;

/// The bound of the first wait.
const FIRST: Duration = Duration::from_millis(100);
/// The bound that is never exceeded.
const MOST: Duration = Duration::from_secs(30);
/// The bound for a node to which instances are lent. They are placed elsewhere if it is not heard of for as short as
/// [`OnLost::AFTER_MIN`], which a controller that was away counts from when it is back.
const MOST_LENT: Duration = Duration::from_millis(OnLost::AFTER_MIN.0 / 3);
/// A stream that held this long was a success, and the next loss is a new story.
pub(super) const SUCCESS: Duration = Duration::from_secs(5);

/// The state between two attempts.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after an attempt that held for `held`. `is_lent`: whether anything is lent to the node. `random` is evenly
    /// spread over 0 to 1.
    pub(super) fn after(&mut self, held: Duration, is_lent: bool, random: f64) -> Duration {
        if held >= SUCCESS {
            self.failures = 0;
        }
        let most = if is_lent { MOST_LENT } else { MOST };
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(most);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_and_start_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let mut waits = || backoff.after(Duration::ZERO, false, 1.0).as_millis();
        let bounds: Vec<u128> = (0..11).map(|_| waits()).collect();
        assert_eq!(bounds, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(backoff.after(SUCCESS, false, 0.5), FIRST / 2);
        assert_eq!(backoff.after(Duration::ZERO, false, 0.0), Duration::ZERO);
    }

    #[test]
    fn a_node_to_which_something_is_lent_is_back_before_that_is_placed_elsewhere() {
        let mut backoff = Backoff::default();
        let longest = (0..20).map(|_| backoff.after(Duration::ZERO, true, 1.0)).max();
        assert!(longest.unwrap() * 2 < OnLost::AFTER_MIN.as_duration(), "{longest:?}");
    }
}
