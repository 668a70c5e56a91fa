//! What goes over a stream between a node and the controller.

use dwell_core::directory::DirectoryChange;
use dwell_core::id::Position;
use dwell_core::session::{AssignmentChange, Hello, Lent, StatusReport};

/// From a node to the controller.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    /// The first message of a stream, with all that the node sees.
    Hello(Box<Hello>),
    /// What the node sees.
    Report(StatusReport),
    /// The assignment of this position is on the node's disk.
    Acknowledge(Position),
    /// It lives. Numbered if an answer is wanted.
    Heartbeat(u64),
}

/// From the controller to a node.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    /// What it is to do, or what has changed of it.
    Assignment(Box<AssignmentChange>),
    /// Who is where, or what has changed of it.
    Directory(Box<DirectoryChange>),
    /// What the node has is lent to it anew.
    Lent(Lent),
}
