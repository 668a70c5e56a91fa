//! A mark beside the store that a backup of the store does not carry along, so that a restore is noticed.
//!
//! After each commit the mark says how far the store is, in which history. A store that is not as far as the mark says
//! was put there from a backup. The mark is not synced to the disk: a loss of power can only set it back, and then it
//! says nothing. Whoever restores the whole directory restores the mark with it; that is noticed by what nodes hold
//! (`model/history.rs`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use dwell_core::id::{Incarnation, Revision};

use crate::model::{History, Record};
use crate::store::{Batch, CommitError, Store, StoreError};

/// The first word of the file, and its version.
const KIND: &str = "dwell-continuity 1";

/// Where a store was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    incarnation: Incarnation,
    stored: Revision,
}

impl Mark {
    fn of(records: &[Record]) -> Option<Self> {
        let history = records.iter().find_map(|record| match record {
            Record::History(history) => Some(history),
            _ => None,
        })?;
        let stored = records.iter().find_map(|record| match record {
            Record::Stored(stored) => Some(stored.revision),
            _ => None,
        });
        Some(Self { incarnation: history.incarnation, stored: stored.unwrap_or_default() })
    }

    /// Always of the same length, so that a shorter text never leaves the end of a longer one.
    fn text(self) -> String {
        format!("{KIND} {:016x} {:020}\n", self.incarnation.0, self.stored.0)
    }

    fn read(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix(KIND)?.split_ascii_whitespace();
        let incarnation = u64::from_str_radix(words.next()?, 16).ok()?;
        let stored = words.next()?.parse().ok()?;
        Some(Self { incarnation: Incarnation(incarnation), stored: Revision(stored) })
    }

    /// Why a store that is here is a backup, if it is one.
    fn judge(store: Option<Self>, mark: Option<Self>) -> Option<String> {
        let text = match (store, mark) {
            // A new cluster, or one of a version without histories.
            (None, None) => return None,
            (None, Some(_)) => "the store is older than the mark beside it",
            (Some(_), None) => "the store was copied here without the mark beside it",
            (Some(store), Some(mark)) if store.incarnation != mark.incarnation => {
                "the store is of another history than the mark beside it"
            }
            (Some(store), Some(mark)) if store.stored < mark.stored => {
                "the store is older than the mark beside it"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// A store, with the mark kept in step.
#[derive(Debug)]
pub struct Continuous<S> {
    inner: S,
    file: File,
    mark: Mark,
}

impl<S: Store> Continuous<S> {
    /// Keeps the mark at `path` for a store that holds `records`. Also says why the store is a backup, if it is one.
    ///
    /// # Errors
    /// [`StoreError::Directory`] if the mark cannot be read or written.
    pub fn open(
        path: &Path,
        inner: S,
        records: &[Record],
    ) -> Result<(Self, Option<String>), StoreError> {
        let refuse = |reason| StoreError::Directory { path: path.to_owned(), reason };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(refuse(error)),
        };
        let found = text.as_deref().and_then(Mark::read);
        let store = Mark::of(records);
        let evidence = Mark::judge(store, found);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(path);
        let mark = store.unwrap_or_default();
        Ok((Self { inner, file: file.map_err(refuse)?, mark }, evidence))
    }

    /// What a batch makes of the mark.
    fn after(&self, batch: &Batch) -> Mark {
        let mut mark = self.mark;
        for row in &batch.0 {
            match row.kind {
                "stored" => mark.stored = row.revision,
                "history" => {
                    let history = row.json.as_deref().map(serde_json::from_slice::<History>);
                    if let Some(Ok(history)) = history {
                        mark.incarnation = history.incarnation;
                    }
                }
                _ => {}
            }
        }
        mark
    }
}

impl<S: Store> Store for Continuous<S> {
    async fn load(&mut self) -> Result<Vec<Record>, StoreError> {
        self.inner.load().await
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), CommitError> {
        let mark = self.after(&batch);
        self.inner.commit(batch).await?;
        if mark != self.mark {
            self.mark = mark;
            // A write of one short line into the page cache. Without it a restore may go unnoticed here, and is noticed
            // by what nodes hold.
            if let Err(error) = self.file.write_all_at(mark.text().as_bytes(), 0) {
                tracing::warn!(%error, "cannot write the mark beside the store");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(incarnation: u64, stored: u64) -> Option<Mark> {
        Some(Mark { incarnation: Incarnation(incarnation), stored: Revision(stored) })
    }

    #[test]
    fn a_store_that_is_not_as_far_as_its_mark_is_a_backup() {
        for (store, beside, is_backup) in [
            (None, None, false),
            (mark(1, 5), mark(1, 5), false),
            // A loss of power set the mark back.
            (mark(1, 5), mark(1, 4), false),
            (mark(1, 5), mark(1, 6), true),
            (mark(1, 5), mark(2, 5), true),
            (mark(1, 5), None, true),
            (None, mark(1, 5), true),
        ] {
            assert_eq!(Mark::judge(store, beside).is_some(), is_backup, "{store:?} {beside:?}");
        }
    }

    #[test]
    fn a_mark_is_read_back_and_nonsense_is_none() {
        let mark = mark(u64::MAX, u64::MAX).unwrap();
        assert_eq!(Mark::read(&mark.text()), Some(mark));
        let first_form = "dwell-continuity 1 00000000000000ff 00000000000000000042\n";
        assert_eq!(
            Mark::read(first_form),
            Some(Mark { incarnation: Incarnation(255), stored: Revision(42) })
        );
        for text in ["", "dwell-continuity 1", "dwell-continuity 1 x 1", "another 1 1"] {
            assert_eq!(Mark::read(text), None, "{text}");
        }
    }
}
