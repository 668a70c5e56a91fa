//! The whole of dwell, simulated: the real model of the controller, the real core of each agent, and fakes for
//! what they cannot rely on. One thread, its own time, everything decided by one seed.
//!
//! ```text
//!   seed ──▶ Scenario: a fleet, and what befalls it when ──▶ World: one event after the other ──▶ Outcome
//!                          ▲                                                                       │
//!                          └──────────── shrink: the same with fewer actions ◀── a violation ──────┘
//! ```
//!
//! What is simulated, which faults there are, what must hold and how a seed is replayed is written in
//! `docs/simulation.md`. A violation means that dwell broke a promise, not that something failed: everything here
//! is allowed to fail.

mod action;
mod agent;
mod controller;
mod host;
mod message;
mod schedule;
mod shrink;
mod store;
mod truth;
mod world;

pub use action::{Class, Scenario};
pub use shrink::shrink;
pub use truth::Violation;
pub use world::Outcome;

/// How many things befall a fleet, unless somebody wants it otherwise.
pub const ACTIONS: usize = 24;

/// Lets a scenario happen.
#[must_use]
pub fn run(scenario: &Scenario) -> Outcome {
    world::World::run(scenario, false)
}

/// Lets a scenario happen, and keeps what happened in [`Outcome::trace`].
#[must_use]
pub fn trace(scenario: &Scenario) -> Outcome {
    world::World::run(scenario, true)
}
