//! When is a node drained, or back from its reboot?

use dwell_proto::v1::{self, reboot::State};

use super::{Progress, instances, with_message};

/// Whether no instance is left on a node, but for what belongs to it.
pub(super) fn drained(node: Option<&v1::Node>) -> Progress {
    match node {
        None => Progress::Done,
        Some(node) if to_leave(node) == 0 => Progress::Done,
        Some(node) if node.drain_given_up_ms.is_some() => {
            Progress::Failed(format!("{} {}", node.name, node.message))
        }
        Some(node) if !node.draining => {
            Progress::Failed(format!("{} is not being drained any more", node.name))
        }
        Some(node) if node.staying >= to_leave(node) => Progress::Failed(format!(
            "{name} is drained but for {}, whose volumes are there; `dwell ps --node {name}` lists what is left, \
             `dwell move INSTANCE --volumes` takes them along, `dwell node uncordon {name}` ends the drain",
            instances(node.staying),
            name = node.name,
        )),
        Some(node) => Progress::Waiting(left(node)),
    }
}

/// How many instances a drain is to move.
fn to_leave(node: &v1::Node) -> u32 {
    node.instances.saturating_sub(node.own)
}

/// What is left on a node that is drained: the first with its reason and what to do.
fn left(node: &v1::Node) -> String {
    let left = format!("{}: {} left", node.name, instances(to_leave(node)));
    match node.obstacles.first() {
        Some(v1::DrainObstacle { instance, reason, next }) => {
            with_message(left, &format!("{instance}: {reason}; next: {next}"))
        }
        None => with_message(left, &node.message),
    }
}

/// Whether a node has rebooted and is back.
pub(super) fn rebooted(name: &str, run: u64, node: Option<&v1::Node>) -> Progress {
    let Some(node) = node else { return Progress::Failed(format!("{name} was removed")) };
    // What is shown may be older than the answer that named the reboot.
    let Some(reboot) = node.reboot.as_ref().filter(|reboot| reboot.run >= run) else {
        return Progress::Waiting(format!("{name}: waits for its turn to reboot"));
    };
    if reboot.run > run {
        return Progress::Failed(format!("{name} is part of another reboot by now"));
    }
    match reboot.state() {
        State::Done => Progress::Done,
        State::Failed | State::Cancelled => Progress::Failed(format!("{name}: {}", reboot.message)),
        State::Draining => Progress::Waiting(left(node)),
        State::Unspecified | State::Waiting | State::Rebooting => {
            Progress::Waiting(format!("{name}: {}", reboot.message))
        }
    }
}
