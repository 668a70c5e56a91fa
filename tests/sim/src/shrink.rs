//! Finds the few actions of a scenario that a violation needs.

use crate::action::Scenario;
use crate::{Violation, run};

/// The most runs that this may take.
const RUNS_MAX: usize = 400;

/// A scenario with as few actions as possible that breaks the same rule: delta debugging. Everything that is not an
/// action is decided by the seed, so that leaving one out may change what comes after it; what matters is that the
/// rule is still broken.
#[must_use]
pub fn shrink(scenario: &Scenario, violation: &Violation) -> Scenario {
    let mut best = scenario.clone();
    let mut runs = 0;
    let mut size = best.actions.len().div_ceil(2).max(1);
    loop {
        let mut shrunk = false;
        let mut from = 0;
        while from < best.actions.len() && runs < RUNS_MAX {
            let mut fewer = best.actions.clone();
            fewer.drain(from..(from + size).min(fewer.len()));
            let candidate = best.with(fewer);
            runs += 1;
            let same = run(&candidate).violation.is_some_and(|other| other.rule == violation.rule);
            if same {
                best = candidate;
                shrunk = true;
            } else {
                from += size;
            }
        }
        if runs >= RUNS_MAX || (size == 1 && !shrunk) {
            return best;
        }
        if !shrunk {
            size = size.div_ceil(2);
        }
    }
}
