//! The host daemon of dwell: the shell around the planner that watches a node and carries plans out.

pub mod engine;
pub mod network;
