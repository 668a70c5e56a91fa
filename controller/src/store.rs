//! Where the model is kept: a trait, SQLite behind it, and an in-memory fake beside it.
//!
//! The store knows nothing of what it keeps: records of a kind and a name, written in batches that are
//! on the disk, whole, when `commit` returns, or not at all. The [owner](crate::owner) is its only user.

mod error;
pub mod memory;
pub mod sqlite;

use std::future::Future;

use dwell_core::id::Revision;

pub use self::error::{Cause, CommitError, Damage, Doing, Failure, StoreError};
use crate::model::{Change, Key, Record, RecordError};

/// Keeps records.
pub trait Store: Send + 'static {
    /// Everything that is stored, in order of revision.
    fn load(&mut self) -> impl Future<Output = Result<Vec<Record>, StoreError>> + Send;

    /// Writes and deletes as one: everything is durable when this returns well. What it means when it
    /// does not, the error says.
    fn commit(&mut self, batch: Batch) -> impl Future<Output = Result<(), CommitError>> + Send;
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
