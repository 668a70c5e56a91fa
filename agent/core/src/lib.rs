//! Everything the agent decides about its node, as a value that is told what happens and says what to do.
//!
//! [`Core`] owns what is known of the node and what is under way. It has no tasks, no I/O, no clock and no
//! randomness: a shell (the agent's reconciler, or a simulation) tells it each [`Input`] together with the
//! time, and carries out each [`Output`]. The same inputs give the same outputs.
//!
//! ```text
//!   desired state ───┐                    ┌──▶ Begin, Abandon: calls to engine, network, disk ──┐
//!   engine's events ─┤                    │                                                     │
//!   ends of processes┼──▶ hear ─▶ advance ┼──▶ Watch, Unwatch: processes and their health       │
//!   health ──────────┤                    │                                                     │
//!   ends of calls ◀──┼────────────────────┼─────────────────────────────────────────────────────┘
//!   time ────────────┘                    └──▶ Statuses, Engine, Sightings: what others are to know
//! ```
//!
//! How a shell uses it:
//!
//! 1. make one with [`Core::new`] from the journals on disk;
//! 2. tell it what happens with [`Core::hear`], any number of times;
//! 3. call [`Core::advance`], which plans, and carry out what it returns, in its order;
//! 4. wait until something happens, or until [`Core::wake_at`], and go on with 2 or 3.
//!
//! [`Core::handle`] is 2 and 3 in one. A call that was begun ends with [`Input::Done`], once; the shell needs
//! no time limits of its own, since the core abandons what takes too long. After [`Output::Abandon`] the end of
//! that call need not be told, and is ignored if it is. What an abandoned call did may or may not have taken
//! effect.
//!
//! How sure it is of the engine:
//!
//! ```text
//!   Unknown ──▶ connected, everything looked at ──▶ Ready ──▶ events lost, list or ping without answer ──▶ Away ──┐
//!                         ▲                                                                                      │
//!                         └──────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - nothing is planned before a desired state and a first complete look;
//! - [`dwell_core::session::Statuses::complete`] is false before that look: an instance that is not in such statuses is not gone;
//! - an event is a hint: it makes the core look, and what it sees then is what counts;
//! - only events, lists and pings decide about the engine. Any other call that fails or takes too long is a
//!   doubt about the one instance it was for: that one is unknown, by name, and all others go on;
//! - while a step of an instance is under way, or what is known of it is in doubt, none is started;
//! - calls are bounded in time ([`Call::limit`]) and in number per kind; one that takes long does not count, so
//!   that some that hang do not hold up the rest;
//! - what the kernel says of a process is believed before what the engine says of its container;
//! - nothing polls but a ping of an engine that has been silent; a complete look every [`Settings::backstop`]
//!   catches what nobody told.

mod call;
mod core;
mod sights;

pub use crate::call::{
    Call, CallFailure, CallId, Cause, Input, Listed, Outcome, Output, Probed, Watch,
};
pub use crate::core::{Core, Settings};
pub use crate::sights::{Run, Sighted, Sights};
