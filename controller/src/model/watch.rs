//! What changed since: a bounded memory of committed changes, for those who follow along.

use std::collections::VecDeque;

use dwell_core::id::Revision;

use super::record::Change;

/// What a watcher asks for is no longer known; it has to list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "changes after revision {asked} are no longer known (the oldest known follow revision {floor}); list again and watch from there"
)]
pub struct Compacted {
    /// What was asked for.
    pub asked: Revision,
    /// From here on a watch is possible.
    pub floor: Revision,
}

/// The newest changes, oldest first.
///
/// Invariant: it holds every committed change after `floor`, and at most `max` of them.
#[derive(Clone, Debug)]
pub(super) struct ChangeLog {
    floor: Revision,
    max: usize,
    changes: VecDeque<Change>,
}

impl ChangeLog {
    pub(super) fn new(floor: Revision, max: usize) -> Self {
        Self { floor, max, changes: VecDeque::new() }
    }

    pub(super) fn push(&mut self, change: Change) {
        self.changes.push_back(change);
        while self.changes.len() > self.max {
            if let Some(oldest) = self.changes.pop_front() {
                self.floor = oldest.revision;
            }
        }
    }

    pub(super) fn since(
        &self,
        asked: Revision,
        limit: usize,
    ) -> Result<impl Iterator<Item = &Change>, Compacted> {
        if asked < self.floor {
            return Err(Compacted { asked, floor: self.floor });
        }
        let start = self.changes.partition_point(|change| change.revision <= asked);
        Ok(self.changes.range(start..).take(limit))
    }
}
