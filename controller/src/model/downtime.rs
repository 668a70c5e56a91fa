//! How long instances are down when they are changed, measured, so that the next change can say it beforehand.
//!
//! What is measured is what the controller sees: from the first word that an instance which served does not any more,
//! because of its change, to the first word that it serves as what it is to be. A change that did not hold is no measure.

use dwell_core::change::ChangeClass;
use dwell_core::clock::{Timestamp, millis};
use dwell_core::id::NodeName;
use dwell_core::instance::InstanceStatus;
use dwell_core::quantity::Millis;
use serde::{Deserialize, Serialize};

use super::Model;
use super::object::{Instance, UpdateState, Workload};

/// How many changes of each class are remembered.
const REMEMBERED: usize = 20;

/// How long the last changes of a workload's instances took them down; the newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downtimes {
    /// Of containers replaced on their node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    in_place: Vec<Millis>,
    /// Of moves to another node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    moves: Vec<Millis>,
}

/// What the next change of a class will take, by the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The median.
    pub usual: Millis,
    /// The longest.
    pub longest: Millis,
    /// Of how many.
    pub changes: usize,
}

impl Downtimes {
    pub(super) fn is_empty(&self) -> bool {
        self.in_place.is_empty() && self.moves.is_empty()
    }

    fn note(&mut self, class: ChangeClass, took: Millis) {
        let list = if class == ChangeClass::Move { &mut self.moves } else { &mut self.in_place };
        list.push(rounded(took));
        list.drain(..list.len().saturating_sub(REMEMBERED));
    }

    /// What a change of a class will take; `None` if there was none that took an instance down.
    pub(super) fn expected(&self, class: ChangeClass) -> Option<Expected> {
        let mut list = match class {
            ChangeClass::None | ChangeClass::Live => return None,
            ChangeClass::InPlace => self.in_place.clone(),
            ChangeClass::Move => self.moves.clone(),
        };
        list.sort_unstable();
        let (usual, longest) = (list.get(list.len() / 2)?, list.last()?);
        Some(Expected { usual: *usual, longest: *longest, changes: list.len() })
    }
}

/// An instance that does not serve because it is being changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Down {
    /// Since when, by the clock for intervals.
    since: Timestamp,
    /// Where it served.
    node: NodeName,
}

impl Model {
    /// Notes when an instance ceases to serve by a change of it, and when it serves again as what it is to be.
    pub(super) fn measure(
        &mut self,
        instance: &Instance,
        before: Option<&InstanceStatus>,
        status: &InstanceStatus,
    ) {
        let Some(node) = instance.node.as_ref().filter(|_| !self.volatile_only) else { return };
        if !InstanceStatus::is_ready(status) {
            return self.note_down(instance, before);
        }
        let arrived = status.generation == instance.generation && instance.leaving.is_none();
        let Some(down) = arrived.then(|| self.down.remove(&instance.name)).flatten() else {
            return;
        };
        let class = if down.node == *node { ChangeClass::InPlace } else { ChangeClass::Move };
        let took = Millis(millis(self.clock.steady.since(down.since)));
        let Some(workload) = self.tables.workloads().get(instance.name.workload()).cloned() else {
            return;
        };
        let mut workload = Workload::clone(&workload);
        workload.downtimes.note(class, took);
        self.put_workload(workload);
    }

    /// An instance does not serve, or is gone from its node.
    pub(super) fn note_down(&mut self, instance: &Instance, before: Option<&InstanceStatus>) {
        let changes = instance.leaving.is_some() || instance.update == UpdateState::Updating;
        let Some(node) = instance.node.as_ref().filter(|_| changes && !instance.removing) else {
            return;
        };
        if before.is_some_and(InstanceStatus::is_ready) {
            let down = Down { since: self.clock.steady, node: node.clone() };
            self.down.entry(instance.name.clone()).or_insert(down);
        }
    }
}

/// Nobody is helped by a thousandth of a second, nor by a hundredth of many.
fn rounded(took: Millis) -> Millis {
    let step = if took.0 < 1000 { 10 } else { 100 };
    Millis(took.0.div_ceil(step) * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_the_median_of_the_last_and_the_longest() {
        let mut downtimes = Downtimes::default();
        assert_eq!(downtimes.expected(ChangeClass::InPlace), None);
        for took in (0..=20).map(|number| Millis(1000 + 100 * number)) {
            downtimes.note(ChangeClass::InPlace, took);
        }
        downtimes.note(ChangeClass::Move, Millis(5));
        let expected = |usual, longest, changes| {
            Some(Expected { usual: Millis(usual), longest: Millis(longest), changes })
        };
        assert_eq!(downtimes.expected(ChangeClass::InPlace), expected(2100, 3000, REMEMBERED));
        assert_eq!(downtimes.expected(ChangeClass::Move), expected(10, 10, 1));
        assert_eq!(downtimes.expected(ChangeClass::Live), None);
    }
}
