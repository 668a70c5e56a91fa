//! Why nodes are not rebooted.

use dwell_core::id::NodeName;

use crate::model::reboots::REBOOT_MAX;

/// Why nodes are not rebooted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRebooted {
    /// None, or too many, were named.
    #[error("{0} nodes are named; a reboot is of 1 to {REBOOT_MAX}")]
    Number(usize),
    /// One was named twice.
    #[error("a node is named twice; name each once")]
    Twice,
    /// There is one at a time.
    #[error(
        "a reboot is under way, of {0}; wait for its end (`dwell node ls`), or end it with `dwell node reboot --cancel`"
    )]
    UnderWay(NodeName),
    /// There is nothing to take back.
    #[error("no reboot is under way; `dwell node ls` shows the nodes")]
    NoneUnderWay,
    /// It would not hear the order.
    #[error(
        "{0} is not heard of, so it cannot be told to reboot; `dwell node ls` shows since when"
    )]
    NotHeard(NodeName),
    /// Its configuration does not allow it.
    #[error(
        "{0} does not allow reboots; set `reboot_command: [systemctl, reboot]` in its agent.yaml and restart its agent"
    )]
    NotAllowed(NodeName),
    /// Its agent knows nothing of orders.
    #[error("the agent of {0} is of a version that cannot be told to reboot; upgrade it")]
    OldAgent(NodeName),
}
