//! The language of a session: what a node's agent and the controller say to each other, as values.
//!
//! ```text
//!   agent                          controller
//!     Hello             ───────▶
//!                       ◀───────   Welcome, AssignmentChange (a snapshot), DirectoryChange
//!     StatusReport      ───────▶
//!     Acknowledge       ───────▶
//!     SshEvents         ───────▶
//!     Heartbeat         ───────▶
//!                       ◀───────   Lent
//!                       ◀───────   AssignmentChange (differences), DirectoryChange
//! ```
//!
//! Both sides use these types and nothing of the wire; dwell-proto converts each of them once. What is kept on disk
//! ([`Assignment`]) has its form here as well.
//!
//! Invariants: whatever is numbered by a revision says of which history it is ([`Position`]); a difference is taken
//! in only upon exactly the position that it builds upon; a type that is read from disk passes over fields that it
//! does not know, because agents are upgraded and downgraded in any order.

mod assignment;
mod network;
mod report;

pub use assignment::{Assignment, AssignmentChange, AssignmentDelta, MergeError};
pub use network::{NetworkDelta, NodeNetwork, NodePeer};
pub use report::{
    Acknowledge, BOOT_ID_MAX, Boot, Claim, GONE_MAX, Heartbeat, Hello, INSTANCES_MAX, Lent,
    RebootFailed, RebootOrder, SSH_EVENTS_MAX, SeenVolume, SshEvents, StatusReport, Statuses,
    VOLUMES_MAX, Welcome,
};
