//! The controller's store: a log of committed batches, from which any earlier state can be had again, and the mark
//! beside it, by which that is noticed.

use std::collections::BTreeMap;

use dwell_controller::continuity::Mark;
use dwell_controller::model::{Change, Key, Record};

/// A place in the log: what a backup that was made then would hold.
pub(crate) type Backup = usize;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Store {
    log: Vec<Vec<(Key, Option<Record>)>>,
    /// How far the store was; a crash between a commit and the mark leaves it behind.
    mark: Option<Mark>,
    /// Nothing can be written.
    pub(crate) full: bool,
}

impl Store {
    /// Writes what is durable of some changes, as one. Returns whether it could.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> bool {
        let durable = changes.iter().filter(|change| change.is_durable());
        let batch: Vec<_> =
            durable.map(|change| (change.key.clone(), change.new.clone())).collect();
        if batch.is_empty() {
            return true;
        }
        if self.full {
            return false;
        }
        self.log.push(batch);
        true
    }

    /// Writes the mark after a commit.
    pub(crate) fn mark(&mut self) {
        let written = self.log.last().into_iter().flatten().filter_map(|(_, new)| new.as_ref());
        self.mark = Some(self.mark.unwrap_or_default().after(written));
    }

    /// Why the store is a backup, if it is one as far as its mark says.
    pub(crate) fn evidence(&self) -> Option<&'static str> {
        Mark::judge(&self.records(), self.mark)
    }

    /// Takes the last batch away: it was written, but had not reached the disk.
    pub(crate) fn lose_last(&mut self) {
        self.log.pop();
    }

    /// How many batches there are.
    pub(crate) fn len(&self) -> Backup {
        self.log.len()
    }

    /// Makes the store what it was at a backup. The mark stays beside it, or is lost.
    pub(crate) fn restore(&mut self, backup: Backup, keeps_mark: bool) {
        self.log.truncate(backup);
        self.mark = self.mark.filter(|_| keeps_mark);
    }

    /// All that is stored.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records = BTreeMap::new();
        for (key, record) in self.log.iter().flatten() {
            match record {
                Some(record) => drop(records.insert(key.clone(), record.clone())),
                None => drop(records.remove(key)),
            }
        }
        records.into_values().collect()
    }
}
