//! The file itself: what survives, and what is refused with which words.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;

use dwell_core::id::Revision;

use super::*;

fn row(name: &str, revision: u64, text: &str) -> Row {
    // A workload as the model writes it, without the model.
    let json = format!(
        r#"{{"spec":{{"name":"{name}","replicas":1,"template":{{"image":"{text}"}}}},"generation":1,
        "run":"running","restarts_asked":0,"paused":null,"removing":false,"created_at":0,"revision":{revision}}}"#
    );
    let (name, json) = (name.to_owned(), Some(json.into_bytes()));
    Row { kind: "workload", name, revision: Revision(revision), json }
}

fn images(records: &[Record]) -> Vec<&str> {
    let mut images = Vec::new();
    for record in records {
        let Record::Workload(workload) = record else { panic!("{record:?}") };
        images.push(workload.spec.template.image.as_str());
    }
    images
}

/// A directory and the path of a store in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.sqlite");
    (directory, path)
}

#[tokio::test]
async fn records_are_written_replaced_deleted_and_read_in_order() {
    let (_directory, path) = place();
    let mut store = SqliteStore::open(&path).unwrap();
    assert!(store.load().await.unwrap().is_empty());
    store
        .commit(Batch(vec![row("web", 2, "a"), row("db", 1, "b"), row("old", 3, "c")]))
        .await
        .unwrap();
    let gone = Row { json: None, ..row("old", 5, "") };
    store.commit(Batch(vec![row("db", 4, "d"), gone])).await.unwrap();
    drop(store);
    let records = SqliteStore::open(&path).unwrap().load().await.unwrap();
    assert_eq!(images(&records), ["a", "d"]);
}

/// A copy of the files at this moment is what a loss of power leaves.
#[tokio::test]
async fn what_was_committed_survives_a_crash() {
    let (directory, path) = place();
    let mut store = SqliteStore::open(&path).unwrap();
    store.commit(Batch(vec![row("web", 1, "a")])).await.unwrap();
    let crashed = directory.path().join("crashed.sqlite");
    fs::copy(&path, &crashed).unwrap();
    let log = |path: &Path| path.with_extension("sqlite-wal");
    fs::copy(log(&path), log(&crashed)).unwrap();
    // A commit that was being written when the power went.
    let mut torn = OpenOptions::new().append(true).open(log(&crashed)).unwrap();
    torn.write_all(&[0x5a; 3_000]).unwrap();
    let records = SqliteStore::open(&crashed).unwrap().load().await.unwrap();
    assert_eq!(images(&records), ["a"]);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let (_directory, path) = place();
    fs::write(&path, "not a database, but long enough to be read as one".repeat(40)).unwrap();
    let before = fs::read(&path).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { damage: Damage::NotADatabase, .. }), "{error}");
    assert!(error.to_string().contains("store.sqlite"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn foreign_and_newer_databases_are_refused_and_left_alone() {
    let (_directory, path) = place();
    let foreign = Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(foreign);
    let before = fs::read(&path).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);

    fs::remove_file(&path).unwrap();
    drop(SqliteStore::open(&path).unwrap());
    let newer = Connection::open(&path).unwrap();
    newer.execute("UPDATE meta SET value = 7", []).unwrap();
    drop(newer);
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Format { found: 7, .. }), "{error}");
    assert_eq!(
        error.to_string(),
        format!(
            "{} has format 7, and this controller knows 1; start the version of dwell that wrote it, or put a backup \
             of this version in its place",
            path.display()
        )
    );
}

#[tokio::test]
async fn damage_is_found() {
    let (_directory, path) = place();
    let mut store = SqliteStore::open(&path).unwrap();
    let rows = (1..200).map(|number| row(&format!("w{number}"), number, "image")).collect();
    store.commit(Batch(rows)).await.unwrap();
    drop(store);
    // A value that was changed behind our back.
    let other = Connection::open(&path).unwrap();
    other
        .execute("UPDATE record SET json = CAST(replace(json, 'image', 'imagf') AS BLOB) WHERE name = 'w7'", [])
        .unwrap();
    other.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(other);
    let error = SqliteStore::open(&path).unwrap().load().await.unwrap_err();
    assert!(error.to_string().contains("workload/w7"), "{error}");
    // A page that was torn.
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(2 * 4096)).unwrap();
    file.write_all(&[0xff; 4096]).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { damage: Damage::Structure, .. }), "{error}");
    assert_eq!(
        error.to_string(),
        format!(
            "{} is damaged (its parts do not fit together); restore it from a backup (with its -wal file), or move it \
             away to start empty",
            path.display()
        )
    );
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let error = SqliteStore::open(Path::new("/nonexistent/store.sqlite")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot open /nonexistent/store.sqlite: No such file or directory (os error 2); correct that, or set data_dir"
    );
}

/// SQLite's own limit stands for the disk's: it fails the same way, in the middle of a transaction.
#[tokio::test]
async fn a_full_disk_changes_nothing_and_is_survived() {
    let (_directory, path) = place();
    let mut database = Database::open(&path, Duration::ZERO).unwrap();
    database.commit(&Batch(vec![row("web", 1, "a")])).unwrap();
    let pages: i64 =
        database.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    let limit = |database: &Database, pages: i64| {
        database
            .connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
            .unwrap();
    };
    limit(&database, pages);
    let large = "x".repeat(100_000);
    let batch = Batch(vec![row("db", 2, "b"), row("web", 3, &large)]);
    let error = database.commit(&batch).unwrap_err();
    assert!(error.is_survivable(), "{error}");
    assert_eq!(
        error.to_string(),
        format!(
            "cannot write to {}: its disk is full; free some space, then try again",
            path.display()
        )
    );
    assert_eq!(images(&database.load().unwrap()), ["a"]);
    limit(&database, 1_000_000);
    database.commit(&batch).unwrap();
    assert_eq!(images(&database.load().unwrap()), ["b", large.as_str()]);
}

/// Somebody has the file open with a tool of the database.
#[test]
fn a_file_that_another_program_has_locked_is_named_with_what_to_do() {
    let (_directory, path) = place();
    let mut database = Database::open(&path, Duration::ZERO).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = database.commit(&Batch(vec![row("web", 1, "a")])).unwrap_err();
    assert!(matches!(error, CommitError::Conflict { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        format!(
            "another program writes to {}, which only this controller may; end that one (`fuser` with this path names \
             it)",
            path.display()
        )
    );
    drop(database);
    other.execute_batch("ROLLBACK; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    other.execute_batch("UPDATE meta SET value = value").unwrap();
    let error = Database::open(&path, Duration::ZERO).err().unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot open {}: another program has it locked; end that one (`fuser` with this path names it), then try \
             again",
            path.display()
        )
    );
}

#[test]
fn a_record_of_a_later_version_is_named_with_its_file() {
    let (_directory, path) = place();
    let mut database = Database::open(&path, Duration::ZERO).unwrap();
    database.commit(&Batch(vec![Row { kind: "volcano", ..row("web", 1, "a") }])).unwrap();
    let error = database.load().unwrap_err();
    assert!(matches!(error, StoreError::Record { .. }), "{error}");
    let text = dwell_daemon::Causes(&error).to_string();
    let told = format!("cannot read a record of {}; start the version", path.display());
    assert!(text.starts_with(&told) && text.contains("volcano"), "{text}");
}

/// A constraint that is checked at the end stands for an fsync that fails: COMMIT itself reports an error.
#[test]
fn after_an_error_of_commit_nobody_claims_to_know() {
    let (_directory, path) = place();
    let mut database = Database::open(&path, Duration::ZERO).unwrap();
    database
        .connection
        .execute_batch(
            "PRAGMA foreign_keys = ON;
             CREATE TABLE parent (id INTEGER PRIMARY KEY);
             CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
             CREATE TEMP TRIGGER late AFTER INSERT ON record BEGIN INSERT INTO child VALUES (7); END;",
        )
        .unwrap();
    let error = database.commit(&Batch(vec![row("web", 1, "a")])).unwrap_err();
    assert!(matches!(error, CommitError::Unknown { .. }), "{error}");
    assert!(!error.is_survivable());
}

#[test]
fn the_file_is_for_its_owner_only() {
    let (_directory, path) = place();
    drop(SqliteStore::open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
}
