//! The model as its owner, its nodes and its users see it: stories in tables, and a random fleet.

mod addresses;
mod adoption;
mod audit;
mod contexts;
mod digests;
mod directory;
mod ends;
mod events;
mod findings;
mod fleet;
mod history;
mod key_sets;
mod membership;
mod network;
mod nodes;
mod orders;
mod random;
mod reads;
mod registries;
mod rollouts;
mod settling;
mod ssh;
mod versions;
mod volumes;
mod workloads;
