//! How fast the simulation is: that is how much of what may happen can be tried.

use std::time::Instant;

use dwell_sim::{ACTIONS, Class, Scenario, run};

use super::report::{Report, least};

/// How many fleets one sample is of.
const SEEDS: u64 = 200;
/// Steps per second on one core.
const GOAL: f64 = 200_000.0;

/// The same seeds again and again.
pub(super) fn run_seeds() -> Report {
    let sample = || {
        let begun = Instant::now();
        let seeds = (0..SEEDS).map(|seed| Scenario::of_seed(seed, &Class::ALL, ACTIONS));
        let steps: u64 = seeds.map(|scenario| run(&scenario).steps).sum();
        steps as f64 / begun.elapsed().as_secs_f64()
    };
    least("sim-speed", "steps/s", (0..super::FEW).map(|_| sample()).collect(), GOAL)
}
