//! What every daemon of dwell does, done once.
//!
//! Purpose: the agent, the SSH front and the controller read a strict configuration, log to the journal, tell systemd
//! how they are, replace files so that a loss of power leaves a whole one, show an error with all its causes, tell
//! a process from a later one with the same id, find its cgroups, look at paths that may hang, write what must be
//! written whatever else hangs, and give memory back. Nothing in here knows what a node or a workload is, or holds state.

pub mod causes;
pub mod cgroups;
pub mod config;
#[cfg(any(test, feature = "test-util"))]
pub mod corpus;
pub mod durable;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(any(test, feature = "test-util"))]
pub mod hung_pool;
pub mod lane;
pub mod logging;
pub mod memory;
pub mod paths;
mod pow;
pub mod process;
pub mod readiness;
#[cfg(any(test, feature = "test-util"))]
pub mod script;

pub use causes::Causes;
pub use lane::Lane;
