//! The controller of dwell: it owns what is declared, decides where it runs, and tells the nodes.
//!
//! A functional core and an imperative shell: [`model`] decides, as a function of values; everything else
//! here moves bytes. One task, the [`owner`], has the model and the [`store`]; the [`api`] (people and
//! programs) and the [`session`]s (agents) send it commands and watch its revisions.
//!
//! Where to start: [`controller`] puts it all together; [`owner`] is the heart.

pub mod access;
pub mod api;
pub mod backup;
pub mod config;
pub mod continuity;
pub mod controller;
pub mod data_dir;
pub mod enrollment;
mod fetcher;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod intake;
pub mod listen;
pub mod model;
mod mover;
pub mod owner;
pub mod pki;
mod refusals;
mod serve;
pub mod session;
mod status;
pub mod store;
pub mod tunnel;
