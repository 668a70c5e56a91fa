//! The SSH server of a node's instances: port 22 inside every sandbox, with no sshd in any image.
//!
//! ```text
//!   agent's files ──► state ──► listen (one per instance) ──► connection (one per client)
//!                       │                                        │ auth        who is it?
//!                       │                                        │ session     shell, command, SFTP ──► enter
//!                       └─ trust, host keys, containers ────────►│ forward     -L, -R, -D, agent
//!                                                                └─► events ──► agent
//! ```
//!
//! A process of its own, so that an agent that is restarted or upgraded cuts no session. What passes between
//! the two is [`dwell_core::ssh`]. Pure parts, which read bytes of others: [`authorized_keys`], [`pattern`],
//! [`auth`], [`guard`].

pub mod algorithms;
pub mod auth;
pub mod authorized_keys;
mod connection;
pub mod daemon;
pub mod enter;
mod events;
mod front;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gate;
pub mod guard;
mod intake;
mod listen;
mod netns;
pub mod pattern;
pub mod permit;
pub mod resolve;
pub mod state;
