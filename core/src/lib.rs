//! The words of dwell as types, and the rules that need nothing but values.
//!
//! Everything here is plain data: no runtime, no I/O, no clock of its own. The controller, the agent,
//! the command line and the tests share these types; the wire (dwell-proto) converts to and from
//! them and goes no further inwards.
//!
//! Where to start: [`workload::WorkloadSpec`] is what a user declares, [`instance::Assigned`] is what a
//! node is told to run, [`instance::InstanceStatus`] and [`node::Capacity`] are what a node reports, and [`session`] is
//! the language in which node and controller speak of all that.

pub mod access;
pub mod audit;
pub mod change;
pub mod clock;
pub mod container;
pub mod directory;
#[cfg(any(test, feature = "test-util"))]
pub mod fixtures;
pub mod foreign;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod health;
pub mod hook;
pub mod host_mark;
pub mod id;
pub mod image;
pub mod instance;
pub mod job;
pub mod net;
pub mod node;
pub mod quantity;
pub mod registry;
pub mod sandbox;
pub mod session;
pub mod skill;
pub mod ssh;
pub mod workload;
