//! The store in one SQLite file, driven from a thread of its own.
//!
//! ```text
//!   meta   (key, value)                         schema version
//!   record (kind, name) -> revision, json, check
//! ```
//!
//! Invariants: write-ahead log with `synchronous=FULL`, so a commit that returned survives a loss of
//! power; one transaction per batch; `check` is a digest over the rest of its row, because SQLite
//! itself does not notice a flipped bit in a value. A file that is damaged, foreign or of another
//! version is refused at the start and left untouched.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use dwell_core::id::Revision;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Transaction, params};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::{Batch, Cause, CommitError, Damage, Doing, Failure, Row, Store, StoreError};
use crate::model::Record;

/// The version of the tables below.
const SCHEMA: i64 = 1;
/// Marks a file as ours ("dwel").
const APPLICATION_ID: i64 = 0x6477_656c;
/// The write-ahead log is taken into the file when it has so many pages of 4 KiB.
const CHECKPOINT_PAGES: i64 = 1_000;
/// How long somebody else, who copies the file for example, may have it locked.
const LOCKED_MAX: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE record (
        kind TEXT NOT NULL, name TEXT NOT NULL,
        revision INTEGER NOT NULL, json BLOB NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (kind, name)
    ) STRICT, WITHOUT ROWID;";

/// How long a copy waits for whoever has the store locked.
const COPY_PATIENCE: Duration = Duration::from_secs(10);

/// Copies a store as it is at one moment to a file that is not there yet, beside a controller that goes on writing to it.
/// Reads the copy back, and says what is in it.
///
/// # Errors
/// [`StoreError`] if the store or its copy cannot be used, or is damaged.
pub fn copy(from: &Path, to: &Path) -> Result<Vec<Record>, StoreError> {
    let unread = |error: rusqlite::Error| explain(from, Doing::Read, &error);
    let unwritten = |error: rusqlite::Error| explain(to, Doing::Write, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let source = Connection::open_with_flags(from, flags).map_err(unread)?;
    source.busy_timeout(COPY_PATIENCE).map_err(unread)?;
    let mut target = Connection::open(to).map_err(unwritten)?;
    {
        // All pages in one step: one transaction, which holds up nobody in a store with a write-ahead log.
        let backup = Backup::new(&source, &mut target).map_err(unread)?;
        if backup.step(-1).map_err(unwritten)? != StepResult::Done {
            let (path, cause) = (from.to_owned(), Cause::Locked);
            return Err(Failure { path, doing: Doing::Read, cause }.into());
        }
    }
    target.close().map_err(|(_, error)| unwritten(error))?;
    check(to)
}

/// Checks all of a store that nobody uses, and says what is in it.
///
/// # Errors
/// [`StoreError`] if it cannot be opened, is damaged, foreign or of another version.
pub fn check(path: &Path) -> Result<Vec<Record>, StoreError> {
    Database::open(path, LOCKED_MAX)?.load()
}

/// A store in one file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    /// Of one: the owner waits for each answer before it asks again. Taken when the store is dropped.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
enum Request {
    Load(oneshot::Sender<Result<Vec<Record>, StoreError>>),
    Commit(Batch, oneshot::Sender<Result<(), CommitError>>),
}

impl SqliteStore {
    /// Opens the file, or makes it; checks all of it.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be opened, is damaged, foreign or of another version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut database = Database::open(path, LOCKED_MAX)?;
        let (requests, mut inbox) = mpsc::channel(1);
        let work = move || {
            while let Some(request) = inbox.blocking_recv() {
                // Whoever asked may have gone; there is nobody else to tell.
                match request {
                    Request::Load(reply) => drop(reply.send(database.load())),
                    Request::Commit(batch, reply) => drop(reply.send(database.commit(&batch))),
                }
            }
        };
        let thread = thread::Builder::new().name("store".into()).spawn(work);
        let thread = Some(thread.map_err(StoreError::Thread)?);
        Ok(Self { path: path.to_owned(), requests: Some(requests), thread })
    }

    /// `None` if the thread has ended.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request + Send,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.as_ref()?.send(request(reply)).await.ok()?;
        answer.await.ok()
    }
}

impl Drop for SqliteStore {
    /// Waits until the file is closed (which writes the log into it), so that whoever opens it next, in
    /// this process too, finds nobody there: SQLite 3.51.1 can deadlock when one thread opens a file that
    /// another is closing.
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(Err(_)) = self.thread.take().map(thread::JoinHandle::join) {
            tracing::error!("the store's thread did not end well");
        }
    }
}

impl Store for SqliteStore {
    async fn load(&mut self) -> Result<Vec<Record>, StoreError> {
        self.ask(Request::Load).await.ok_or(StoreError::Stopped)?
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), CommitError> {
        let answer = self.ask(|reply| Request::Commit(batch, reply)).await;
        let stopped = || {
            let (path, cause) = (self.path.clone(), Cause::Stopped);
            CommitError::Unknown(Failure { path, doing: Doing::Write, cause })
        };
        answer.ok_or_else(stopped)?
    }
}

struct Database {
    path: PathBuf,
    connection: Connection,
}

impl Database {
    /// Waits so long for others who have it locked.
    fn open(path: &Path, locked_max: Duration) -> Result<Self, StoreError> {
        // Made by us, for its owner only (there are secrets in environments); SQLite takes an empty file
        // for a new one and gives its log the same mode.
        let mut options = OpenOptions::new();
        let made = options.append(true).create(true).mode(0o600).open(path);
        made.map_err(|error| StoreError::opening(path, error))?;
        let failed = |error: rusqlite::Error| explain(path, Doing::Open, &error);
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(locked_max).map_err(failed)?;
        let mut database = Self { path: path.to_owned(), connection };
        database.prepare().map_err(failed)??;
        Ok(database)
    }

    /// Settings, schema and integrity. The outer error is the database's, the inner one ours.
    fn prepare(&mut self) -> rusqlite::Result<Result<(), StoreError>> {
        let connection = &mut self.connection;
        // Read before anything is written: what is not ours stays as it is.
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let application: i64 =
            connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        if tables > 0 {
            let path = || self.path.clone();
            if application != APPLICATION_ID {
                return Ok(Err(StoreError::Foreign { path: path() }));
            }
            let found = version_of(connection)?;
            if found != SCHEMA {
                return Ok(Err(StoreError::Format { path: path(), found, known: SCHEMA }));
            }
            let verdict: String =
                connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
            if verdict != "ok" {
                tracing::error!(path = %self.path.display(), verdict, "the store is damaged");
                return Ok(Err(StoreError::Damaged { path: path(), damage: Damage::Structure }));
            }
        }
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        // Bounds what the page cache may hold: 1 MiB.
        connection.pragma_update(None, "cache_size", -1024)?;
        if tables == 0 {
            let transaction = connection.transaction()?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.execute_batch(TABLES)?;
            transaction.execute("INSERT INTO meta VALUES ('schema', ?)", [SCHEMA])?;
            transaction.commit()?;
        }
        Ok(Ok(()))
    }

    /// The rows come in the order in which they lie in the file, and are put into that of their revisions here: SQLite
    /// would write all of them to a temporary file for that.
    fn load(&self) -> Result<Vec<Record>, StoreError> {
        let failed = |error: rusqlite::Error| explain(&self.path, Doing::Read, &error);
        let sql = "SELECT kind, name, revision, json, digest FROM record ORDER BY kind, name";
        let mut statement = self.connection.prepare(sql).map_err(failed)?;
        let rows = statement.query_map([], StoredRow::read).map_err(failed)?;
        let mut records = Vec::new();
        for stored in rows {
            let stored = stored.map_err(failed)?;
            if stored.digest != digest(&stored.kind, &stored.name, stored.revision, &stored.json) {
                let damage = Damage::Record { kind: stored.kind, name: stored.name };
                return Err(StoreError::Damaged { path: self.path.clone(), damage });
            }
            let record = Record::decode(&stored.kind, &stored.json);
            let unread = |reason| StoreError::Record { path: self.path.clone(), reason };
            records.push((stored.revision, record.map_err(unread)?));
        }
        records.sort_by_key(|(revision, _)| *revision);
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    /// An error before COMMIT rolls back. One of COMMIT itself does not say what is on the disk (after a
    /// failed fsync the kernel may show what the disk does not have), unless the disk was full: then the
    /// record that would have ended the transaction could not be written.
    fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        let path = &self.path;
        let transaction =
            write(&mut self.connection, batch).map_err(|error| refuse(path, &error))?;
        transaction.commit().map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                refuse(path, &error)
            }
            _ => CommitError::Unknown(failure(path, Doing::Write, &error)),
        })
    }
}

struct StoredRow {
    kind: String,
    name: String,
    revision: i64,
    json: Vec<u8>,
    digest: Vec<u8>,
}

impl StoredRow {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            kind: row.get(0)?,
            name: row.get(1)?,
            revision: row.get(2)?,
            json: row.get(3)?,
            digest: row.get(4)?,
        })
    }
}

fn write<'a>(connection: &'a mut Connection, batch: &Batch) -> rusqlite::Result<Transaction<'a>> {
    // Dropped before its commit, a transaction rolls back.
    let transaction = connection.transaction()?;
    {
        let mut put =
            transaction.prepare_cached("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?)")?;
        let mut delete =
            transaction.prepare_cached("DELETE FROM record WHERE kind = ? AND name = ?")?;
        for Row { kind, name, revision, json } in &batch.0 {
            match json {
                Some(json) => {
                    let revision = stored_revision(*revision);
                    let digest = digest(kind, name, revision, json);
                    put.execute(params![kind, name, revision, json, digest])?;
                }
                None => {
                    delete.execute(params![kind, name])?;
                }
            }
        }
    }
    Ok(transaction)
}

/// SQLite's integers are signed; no controller lives to see half of them.
fn stored_revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn digest(kind: &str, name: &str, revision: i64, json: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in [kind.as_bytes(), name.as_bytes(), &revision.to_le_bytes(), json] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..8].to_vec()
}

/// The schema's version, 0 if the file does not say.
fn version_of(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT value FROM meta WHERE key = 'schema'";
    Ok(connection.query_row(sql, [], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// What follows from an error after which nothing is written.
fn refuse(path: &Path, error: &rusqlite::Error) -> CommitError {
    match error.sqlite_error_code() {
        // There is a lock beside the file, which whoever writes should have taken.
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            CommitError::Conflict { path: path.to_owned() }
        }
        _ => CommitError::NotStored(failure(path, Doing::Write, error)),
    }
}

/// What an operator needs to know of a database's error.
fn explain(path: &Path, doing: Doing, error: &rusqlite::Error) -> StoreError {
    let damaged = |damage| StoreError::Damaged { path: path.to_owned(), damage };
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => damaged(Damage::NotADatabase),
        Some(ErrorCode::DatabaseCorrupt) => damaged(Damage::Structure),
        _ => failure(path, doing, error).into(),
    }
}

/// The same, where the file itself is sound. The database's own words go to the log and no further.
fn failure(path: &Path, doing: Doing, error: &rusqlite::Error) -> Failure {
    let cause = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Cause::Full,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Cause::Locked,
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            Cause::Forbidden
        }
        Some(ErrorCode::SystemIoFailure) => Cause::Disk,
        Some(ErrorCode::OutOfMemory) => Cause::Memory,
        _ => Cause::Unexpected,
    };
    tracing::debug!(path = %path.display(), %error, "the database's own words");
    if matches!(cause, Cause::Unexpected) {
        tracing::error!(path = %path.display(), %error, "the database failed as nobody expects");
    }
    Failure { path: path.to_owned(), doing, cause }
}

#[cfg(test)]
mod tests;
