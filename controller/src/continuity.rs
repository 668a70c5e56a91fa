//! A mark beside the store that a backup of the store does not carry along, so that a restore is noticed.
//!
//! After each commit the mark says how far the store is, in which history. A store that is not as far as the mark says
//! was put there from a backup. Only when the file is made and when another history begins is the mark synced to the disk:
//! a loss of power can set it back within a history, and then it says nothing, but it cannot take it away.
//!
//! A store with something in it and no mark beside it counts as a backup, whether the mark is lost, cannot be read, or was
//! never there because the store is of a version without marks. So does one whose mark was copied: the mark says when its
//! own file was made, and a copy was made later. Only a file system or a machine that is set back as a whole takes the
//! mark along; that is noticed by what nodes hold (`model/history.rs`).

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::UNIX_EPOCH;

use dwell_core::id::{Incarnation, Revision};

use crate::model::{History, Record};
use crate::store::{Batch, CommitError, Doing, Failure, Store, StoreError};

/// The first word of the file, and its version.
const KIND: &str = "dwell-continuity 1";
/// Before the time when the file was made.
const MADE: &str = "made:";

/// Where a store was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    incarnation: Incarnation,
    stored: Revision,
}

impl Mark {
    /// Where a store is after these records were written to it.
    #[must_use]
    pub fn after<'a>(self, records: impl IntoIterator<Item = &'a Record>) -> Self {
        records.into_iter().fold(self, |mark, record| match record {
            Record::History(history) => Self { incarnation: history.incarnation, ..mark },
            Record::Stored(stored) => Self { stored: stored.revision, ..mark },
            _ => mark,
        })
    }

    /// Why a store that holds these records is a backup, if it is one, by the mark that was found beside it.
    #[must_use]
    pub fn judge(records: &[Record], mark: Option<Self>) -> Option<&'static str> {
        let store = Self::default().after(records);
        match mark {
            None if records.is_empty() => None,
            None => {
                Some("there is no mark beside the store, as if it had been copied here without it")
            }
            Some(mark) if store.stored < mark.stored => {
                Some("the store is older than the mark beside it")
            }
            // One that was made for a new store says nothing of a history yet.
            Some(mark) if ![Incarnation(0), store.incarnation].contains(&mark.incarnation) => {
                Some("the store is of another history than the mark beside it")
            }
            Some(_) => None,
        }
    }

    /// As it is in a file that was made then. Always of the same length, so that a shorter text never leaves the end of a
    /// longer one.
    fn text(self, made: Option<Made>) -> String {
        let (incarnation, stored) = (self.incarnation.0, self.stored.0);
        let made = made.map_or(0, |made| made.0);
        format!("{KIND} {incarnation:016x} {stored:020} {MADE}{made:032x}\n")
    }

    /// From a file that was made then: not from a copy of the one that it was written to.
    fn read(text: &str, made: Option<Made>) -> Option<Self> {
        // Earlier versions wrote a shorter line, and leave the end of a longer one behind it.
        let line = text.lines().next()?;
        let mut words = line.strip_prefix(KIND)?.split_ascii_whitespace();
        let incarnation = u64::from_str_radix(words.next()?, 16).ok()?;
        let stored = words.next()?.parse().ok()?;
        let written = words.next().and_then(|word| word.strip_prefix(MADE));
        let written = written.and_then(|word| u128::from_str_radix(word, 16).ok());
        let is_copy =
            made.zip(written).is_some_and(|(made, written)| written != 0 && written != made.0);
        (!is_copy)
            .then_some(Self { incarnation: Incarnation(incarnation), stored: Revision(stored) })
    }
}

/// When a file was made, in nanoseconds since 1970, where the file system keeps that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Made(u128);

impl Made {
    fn of(file: &File) -> Option<Self> {
        let made = file.metadata().and_then(|metadata| metadata.created()).ok()?;
        made.duration_since(UNIX_EPOCH).ok().map(|since| Self(since.as_nanos()))
    }
}

/// A store, with the mark kept in step.
#[derive(Debug)]
pub struct Continuous<S> {
    inner: S,
    file: File,
    made: Option<Made>,
    mark: Mark,
}

impl<S: Store> Continuous<S> {
    /// Keeps the mark at `path` for a store that holds `records`. Also says why the store is a backup, if it is one.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the mark cannot be read or written.
    pub fn open(
        path: &Path,
        inner: S,
        records: &[Record],
    ) -> Result<(Self, Option<&'static str>), StoreError> {
        let failure = |doing| {
            move |error: std::io::Error| Failure {
                path: path.to_owned(),
                doing,
                cause: error.into(),
            }
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(failure(Doing::Open))?;
        let made = Made::of(&file);
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failure(Doing::Read))?;
        let text = String::from_utf8_lossy(&text);
        let found = Mark::read(&text, made);
        let evidence = Mark::judge(records, found);
        let mark = Mark::default().after(records);
        if found.is_none() && records.is_empty() {
            // Before anything is in the store, so that a store that is not empty has a mark, whatever happens.
            let written = file.write_all_at(mark.text(made).as_bytes(), 0);
            written.and_then(|()| file.sync_all()).map_err(failure(Doing::Write))?;
            let directory = path.parent().map_or_else(|| Ok(()), |dir| File::open(dir)?.sync_all());
            directory.map_err(failure(Doing::Write))?;
        }
        Ok((Self { inner, file, made, mark }, evidence))
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
            let begins = mark.incarnation != self.mark.incarnation;
            self.mark = mark;
            // A write of one short line into the page cache. One that fails leaves an older mark, as a loss of power does.
            let text = mark.text(self.made);
            let written = self.file.write_all_at(text.as_bytes(), 0);
            let written =
                written.and_then(|()| if begins { self.file.sync_data() } else { Ok(()) });
            if let Err(error) = written {
                tracing::warn!(%error, "cannot write the mark beside the store");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dwell_core::id::Term;

    use super::*;
    use crate::model::{Change, Stored};
    use crate::store::memory::MemoryStore;

    fn store(incarnation: u64, stored: u64) -> Vec<Record> {
        let history = History {
            incarnation: Incarnation(incarnation),
            term: Term(1),
            past: Vec::new(),
            restored: None,
            revision: Revision(1),
        };
        let stored = Stored { revision: Revision(stored) };
        vec![Record::History(Arc::new(history)), Record::Stored(stored)]
    }

    fn mark(incarnation: u64, stored: u64) -> Option<Mark> {
        Some(Mark { incarnation: Incarnation(incarnation), stored: Revision(stored) })
    }

    #[test]
    fn a_store_that_is_not_as_far_as_its_mark_is_a_backup() {
        // As it was before there were histories.
        let old = vec![Record::Stored(Stored { revision: Revision(5) })];
        for (store, beside, is_backup) in [
            (Vec::new(), None, false),
            (store(1, 5), mark(1, 5), false),
            // A loss of power set the mark back.
            (store(1, 5), mark(1, 4), false),
            (store(1, 5), mark(1, 6), true),
            (store(1, 5), mark(2, 5), true),
            (store(1, 5), mark(0, 0), false),
            (Vec::new(), mark(0, 0), false),
            (Vec::new(), mark(1, 0), true),
            (store(1, 5), None, true),
            (old.clone(), None, true),
            (old, mark(1, 4), true),
            (Vec::new(), mark(1, 5), true),
        ] {
            assert_eq!(Mark::judge(&store, beside).is_some(), is_backup, "{store:?} {beside:?}");
        }
    }

    #[test]
    fn a_mark_is_read_back_and_nonsense_is_none() {
        let (mark, made) = (mark(u64::MAX, u64::MAX).unwrap(), Some(Made(u128::MAX)));
        assert_eq!(Mark::read(&mark.text(made), made), Some(mark));
        for text in ["", "dwell-continuity 1", "dwell-continuity 1 x 1", "another 1 1"] {
            assert_eq!(Mark::read(text, made), None, "{text}");
        }
    }

    #[test]
    fn a_mark_that_was_copied_is_none() {
        let mark = mark(1, 5).unwrap();
        let text = mark.text(Some(Made(7)));
        assert_eq!(Mark::read(&text, Some(Made(7))), Some(mark));
        assert_eq!(Mark::read(&text, Some(Made(8))), None);
        // Where the file system does not say when files were made, nothing can be told.
        assert_eq!(Mark::read(&text, None), Some(mark));
        assert_eq!(Mark::read(&mark.text(None), Some(Made(8))), Some(mark));
    }

    #[test]
    fn a_mark_of_an_earlier_version_counts_also_over_one_of_this_version() {
        let earlier = "dwell-continuity 1 00000000000000ff 00000000000000000042\n";
        let mark = mark(255, 42).unwrap();
        assert_eq!(Mark::read(earlier, Some(Made(7))), Some(mark));
        let later = mark.text(Some(Made(7)));
        let over = format!("{earlier}{}", &later[earlier.len()..]);
        assert_eq!(Mark::read(&over, Some(Made(8))), Some(mark));
    }

    #[tokio::test]
    async fn a_directory_that_was_copied_is_noticed_and_one_that_was_not_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (path, copy) = (directory.path().join("continuity"), directory.path().join("copy"));
        let records = store(1, 5);
        let evidence = |path: &Path, records: &[Record]| {
            Continuous::open(path, MemoryStore::default(), records).unwrap().1
        };
        assert_eq!(evidence(&path, &[]), None);
        assert_eq!(
            evidence(&path, &records),
            None,
            "its mark was lost with the power, but for its beginning"
        );
        let (mut continuous, _) = Continuous::open(&path, MemoryStore::default(), &[]).unwrap();
        let changes = records.iter().map(|record| Change {
            revision: Revision(5),
            key: record.key(),
            old: None,
            new: Some(record.clone()),
        });
        let changes: Vec<_> = changes.collect();
        continuous.commit(Batch::of(changes.iter()).unwrap()).await.unwrap();
        assert_eq!(evidence(&path, &records), None);
        // Nobody knows how to read it.
        std::fs::write(&copy, [0xff, 0xfe, 0x00]).unwrap();
        assert!(evidence(&copy, &records).is_some());
        std::fs::remove_file(&copy).unwrap();
        std::fs::copy(&path, &copy).unwrap();
        if continuous.made.is_some() {
            assert!(evidence(&copy, &records).is_some());
        }
    }
}
