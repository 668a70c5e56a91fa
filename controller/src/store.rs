//! Where the model is kept: a trait, SQLite behind it, and an in-memory fake beside it.
//!
//! The store knows nothing of what it keeps: records of a kind and a name, written in batches that are
//! on the disk, whole, when `commit` returns, or not at all. The [owner](crate::owner) is its only user.

pub mod memory;
pub mod sqlite;

use std::future::Future;
use std::path::PathBuf;

use dwell_core::id::Revision;

use crate::model::{Change, Key, Record, RecordError};

/// Keeps records.
pub trait Store: Send + 'static {
    /// Everything that is stored, in order of revision.
    fn load(&mut self) -> impl Future<Output = Result<Vec<Record>, StoreError>> + Send;

    /// Writes and deletes as one: everything is durable when this returns well. What it means when it
    /// does not, the error says.
    fn commit(&mut self, batch: Batch) -> impl Future<Output = Result<(), CommitError>> + Send;
}

/// Why a commit did not return well, by what follows from it.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written. Once the reason is gone, it works again.
    #[error("{reason}")]
    NotStored {
        /// What is in the way, and what to do about it.
        reason: String,
    },
    /// Somebody else has written. What this controller knows is out of date; it has to end.
    #[error("another program has written to the store ({reason})")]
    Conflict {
        /// What the store says.
        reason: String,
    },
    /// Nobody knows what is on the disk. Only reading it again tells; this controller has to end.
    #[error("whether it was stored is not known ({reason})")]
    Unknown {
        /// What the store says.
        reason: String,
    },
}

impl CommitError {
    /// Whether the controller can go on.
    #[must_use]
    pub fn is_survivable(&self) -> bool {
        matches!(self, Self::NotStored { .. })
    }
}

/// What one commit changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch(pub Vec<Row>);

/// One record's new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its kind; see [`Key::table`].
    pub kind: &'static str,
    /// Its name, unique within the kind.
    pub name: String,
    /// When it changed.
    pub revision: Revision,
    /// Its stored form; `None` deletes it.
    pub json: Option<Vec<u8>>,
}

impl Batch {
    /// The durable ones of some changes; of several changes to one record the last counts.
    ///
    /// # Errors
    /// [`RecordError`] if a record has no stored form.
    pub fn of<'a>(changes: impl Iterator<Item = &'a Change>) -> Result<Self, RecordError> {
        let mut newest: std::collections::BTreeMap<&Key, &Change> =
            std::collections::BTreeMap::new();
        for change in changes {
            newest.insert(&change.key, change);
        }
        let mut rows = Vec::new();
        for (key, change) in newest {
            let Some(kind) = key.table() else { continue };
            let json = change.new.as_ref().map(Record::encode).transpose()?;
            rows.push(Row { kind, name: key.name(), revision: change.revision, json });
        }
        Ok(Self(rows))
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why a store cannot be opened or read. An operator has to do what it says.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be made or written to.
    #[error(
        "cannot use {} ({reason}); give the controller's user the right to write there, or set \
         data_dir",
        path.display()
    )]
    Directory {
        /// The directory or the file in it.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// Another process uses the directory.
    #[error(
        "{} is locked by another controller; stop it, or give this one a data_dir of its own",
        path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// It is a database of something else, or of another version.
    #[error(
        "{} has schema version {found}, this controller knows {known}; start the version of dwell \
         that wrote it, or move the file away",
        path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The one that this program writes.
        known: i64,
    },
    /// The file is damaged.
    #[error(
        "{} is damaged ({problem}); restore it from a backup (with its -wal file), or move it away \
         to start empty",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// Anything else that the database says.
    #[error("cannot use {} ({problem})", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What it says.
        problem: String,
    },
    /// A record that this program cannot read or write.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The store's thread has ended.
    #[error("the store has stopped; the controller is ending")]
    Stopped,
}
