//! What changed since: bounded memories of committed changes, for those who follow along.

use std::collections::VecDeque;

use dwell_core::id::Revision;

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

/// The newest entries of something, oldest first.
///
/// Invariant: it holds every entry after `floor`, and at most `max` of them.
#[derive(Debug)]
pub(super) struct Log<T> {
    floor: Revision,
    max: usize,
    entries: VecDeque<(Revision, T)>,
}

impl<T> Log<T> {
    /// One that knows nothing of what was before `floor`.
    pub(super) fn new(floor: Revision, max: usize) -> Self {
        Self { floor, max, entries: VecDeque::new() }
    }

    /// Takes an entry in. Its revision is not below that of the last one.
    pub(super) fn push(&mut self, revision: Revision, entry: T) {
        self.entries.push_back((revision, entry));
        while self.entries.len() > self.max {
            if let Some((oldest, _)) = self.entries.pop_front() {
                self.floor = oldest;
            }
        }
    }

    /// The entries after a revision; the cost is theirs alone, however many were before.
    pub(super) fn since(
        &self,
        asked: Revision,
    ) -> Result<impl Iterator<Item = &T> + use<'_, T>, Compacted> {
        if asked < self.floor {
            return Err(Compacted { asked, floor: self.floor });
        }
        let start = self.entries.partition_point(|(revision, _)| *revision <= asked);
        Ok(self.entries.range(start..).map(|(_, entry)| entry))
    }
}
