//! A store that forgets when it is dropped, fails and stalls on request: for tests and simulations.
//!
//! The clones of a [`MemoryStore`] share what is stored, so that a test can "restart" a controller by
//! giving a clone to a second one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Batch, Cause, CommitError, Doing, Failure, Store, StoreError};
use crate::model::Record;

/// What stands for the path of its file.
const MEMORY: &str = "memory";

/// A store in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
    /// One permit lets a commit pass; with none, commits stall. It is opened wide at the start.
    gate: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Shared {
    rows: BTreeMap<(&'static str, String), (u64, Vec<u8>)>,
    commits: u64,
    failing: bool,
    unknown: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { shared: Arc::default(), gate: Arc::new(Semaphore::new(1)) }
    }
}

impl MemoryStore {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every commit fails as on a full disk, or none does.
    pub fn set_failing(&self, failing: bool) {
        self.shared().failing = failing;
    }

    /// The next commit is done, but fails: whether it was done is not known.
    pub fn fail_after_writing(&self) {
        self.shared().unknown = true;
    }

    /// Commits wait from now on until what is returned is dropped, as on a disk that stalls.
    pub async fn stall(&self) -> Option<OwnedSemaphorePermit> {
        // Never `None`: the semaphore is never closed.
        Arc::clone(&self.gate).acquire_owned().await.ok()
    }

    /// How many commits there were.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.shared().commits
    }
}

impl Store for MemoryStore {
    async fn load(&mut self) -> Result<Vec<Record>, StoreError> {
        let mut rows: Vec<_> = self
            .shared()
            .rows
            .iter()
            .map(|((kind, _), (revision, json))| (*revision, *kind, json.clone()))
            .collect();
        rows.sort();
        let records = rows.iter().map(|(_, kind, json)| Record::decode(kind, json));
        let records: Result<_, _> = records.collect();
        records.map_err(|reason| StoreError::Record { path: MEMORY.into(), reason })
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), CommitError> {
        let failure = |cause| Failure { path: MEMORY.into(), doing: Doing::Write, cause };
        let stopped = |_| CommitError::Unknown(failure(Cause::Stopped));
        let _passing = self.gate.acquire().await.map_err(stopped)?;
        let mut shared = self.shared();
        if shared.failing {
            return Err(CommitError::NotStored(failure(Cause::Full)));
        }
        shared.commits += 1;
        for row in batch.0 {
            match row.json {
                Some(json) => {
                    shared.rows.insert((row.kind, row.name), (row.revision.0, json));
                }
                None => {
                    shared.rows.remove(&(row.kind, row.name));
                }
            }
        }
        if std::mem::take(&mut shared.unknown) {
            return Err(CommitError::Unknown(failure(Cause::Disk)));
        }
        Ok(())
    }
}
