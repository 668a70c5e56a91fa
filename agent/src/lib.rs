//! The host daemon of dwell: the shell around the planner that watches a node and carries plans out.

pub mod assignment;
pub mod audit;
pub mod capacity;
pub mod cleanup;
pub mod config;
pub mod daemon;
pub mod directory;
pub(crate) mod disk_pressure;
pub mod dns;
pub mod doctor;
pub mod enroll;
pub mod fence;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod health;
pub(crate) mod hooks;
pub mod host_mark;
pub mod host_network;
pub mod host_report;
pub mod identity;
pub mod images;
pub mod isolation;
pub mod link;
pub mod lock;
pub(crate) mod probe;
pub mod reboot;
pub mod reconciler;
pub mod sealed;
pub mod session;
pub mod shutdown;
pub mod ssh;
pub mod trust;
pub mod tunnel;
pub mod underlay;
pub mod volumes;

#[cfg(test)]
mod fake_controller;
