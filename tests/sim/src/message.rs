//! What goes over a stream between a node and the controller.

use dwell_controller::model::{Assignment, AssignmentDelta, Report};
use dwell_core::id::Revision;

/// From a node to the controller.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    /// The first message of a stream, with all that the node sees.
    Hello(Report),
    /// What the node sees.
    Report(Report),
    /// The assignment of this revision is on the node's disk.
    Acknowledge(Revision),
    /// It lives.
    Heartbeat,
}

/// From the controller to a node.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    /// All that it is to do.
    Snapshot(Box<Assignment>),
    /// What has changed of it.
    Delta(Box<AssignmentDelta>),
}
