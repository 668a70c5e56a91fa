//! The model as its owner, its nodes and its users see it: stories in tables, and a random fleet.

mod addresses;
mod fleet;
mod nodes;
mod random;
mod reads;
mod rollouts;
mod workloads;
