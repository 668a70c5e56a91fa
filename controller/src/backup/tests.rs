//! Backups as they are made, damaged and put back, without a controller.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use dwell_core::id::Revision;
use rusqlite::Connection;

use super::*;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::model::{Change, Record, Stored};
use crate::pki::Authority;
use crate::store::sqlite::{self, SqliteStore};
use crate::store::{Batch, Store as _};

/// A controller's directory whose store is that far.
async fn place(revision: u64) -> (tempfile::TempDir, Config) {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { data_dir: directory.path().join("data"), ..Config::default() };
    let data_dir = DataDir::open(&config.data_dir).unwrap();
    Authority::open(&data_dir.pki()).unwrap();
    fs::write(data_dir.continuity(), "a mark").unwrap();
    commit(&config, revision).await;
    (directory, config)
}

async fn commit(config: &Config, revision: u64) {
    let mut store = SqliteStore::open(&config.data_dir.join(STORE)).unwrap();
    let record = Record::Stored(Stored { revision: Revision(revision) });
    let (key, revision) = (record.key(), Revision(revision));
    let change = Change { revision, key, old: None, new: Some(record) };
    store.commit(Batch::of(std::iter::once(&change)).unwrap()).await.unwrap();
}

fn taken(config: &Config) -> Vec<u8> {
    let file = config.data_dir.parent().unwrap().join("taken.tar");
    backup(&config.data_dir, &Target::File(file.clone())).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(file).unwrap();
    bytes
}

fn revision(config: &Config) -> u64 {
    take::newest(&sqlite::check(&config.data_dir.join(STORE)).unwrap())
}

fn put_back(config: &Config, archive: &[u8]) -> Result<Restored, BackupError> {
    restore(config, Cursor::new(archive), "taken.tar")
}

/// The files of a directory with their contents, without the lock.
fn tree(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
        } else if !path.ends_with("lock") {
            found.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_backup_is_put_back_whole_and_what_was_there_is_kept() {
    let (_directory, config) = place(5).await;
    let ca = fs::read(config.data_dir.join("pki/ca.pem")).unwrap();
    let archive = taken(&config);
    commit(&config, 9).await;
    fs::write(config.data_dir.join("pki/ca.pem"), "another").unwrap();

    let restored = put_back(&config, &archive).unwrap();
    assert_eq!((restored.summary.revision, revision(&config)), (5, 5));
    assert_eq!(fs::read(config.data_dir.join("pki/ca.pem")).unwrap(), ca);
    // Else the controller would take the store for the newest one.
    assert!(!config.data_dir.join("continuity").exists());
    let before = restored.before.unwrap();
    assert_eq!(fs::read(before.join("pki/ca.pem")).unwrap(), b"another");
    assert_eq!(fs::read(before.join("continuity")).unwrap(), b"a mark");
    assert_eq!(take::newest(&sqlite::check(&before.join(STORE)).unwrap()), 9);
}

#[tokio::test]
async fn restores_within_one_second_are_all_kept_apart() {
    let (_directory, config) = place(5).await;
    let archive = taken(&config);
    let mut asides = std::collections::BTreeSet::new();
    for _ in 0..3 {
        asides.insert(put_back(&config, &archive).unwrap().before.unwrap());
    }
    assert_eq!(asides.len(), 3);
    assert!(asides.iter().all(|aside| aside.join("pki/ca.key").exists()), "{asides:?}");
}

#[tokio::test]
async fn a_backup_is_put_where_nothing_is() {
    let (_directory, config) = place(5).await;
    let archive = taken(&config);
    let new = tempfile::tempdir().unwrap();
    let config = Config { data_dir: new.path().join("data"), ..config };
    assert!(put_back(&config, &archive).unwrap().before.is_none());
    assert_eq!(revision(&config), 5);
}

#[tokio::test]
async fn a_backup_has_what_a_writer_has_not_taken_into_the_file_yet() {
    let (_directory, config) = place(5).await;
    // Stays open, so that what is committed stays in the log beside the store.
    let writer = Connection::open(config.data_dir.join(STORE)).unwrap();
    let count: i64 = writer.query_row("SELECT count(*) FROM record", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
    commit(&config, 9).await;
    assert!(fs::metadata(config.data_dir.join("store.sqlite-wal")).unwrap().len() > 0);
    let archive = taken(&config);
    drop(writer);
    put_back(&config, &archive).unwrap();
    assert_eq!(revision(&config), 9);
}

/// Ended after each of its steps, it is finished by whoever opens the directory next.
#[tokio::test]
async fn a_restore_that_was_interrupted_is_finished_by_whoever_opens_the_directory() {
    let steps: &[(&str, &str)] = &[
        ("store.sqlite-wal", "before-restore-1/store.sqlite-wal"),
        ("continuity", "before-restore-1/continuity"),
        ("pki", "before-restore-1/pki"),
        ("restore-ready-1/pki", "pki"),
        ("store.sqlite", "before-restore-1/store.sqlite"),
        ("restore-ready-1/store.sqlite", "store.sqlite"),
    ];
    for done in 0..=steps.len() {
        let (_directory, config) = place(9).await;
        let (_other, other) = place(5).await;
        let data = &config.data_dir;
        fs::write(data.join("store.sqlite-wal"), "of the earlier store").unwrap();
        fs::create_dir(data.join("restore-ready-1")).unwrap();
        for name in [STORE, PKI] {
            fs::rename(other.data_dir.join(name), data.join("restore-ready-1").join(name)).unwrap();
        }
        if done > 0 {
            fs::create_dir(data.join("before-restore-1")).unwrap();
        }
        for (from, to) in &steps[..done] {
            fs::rename(data.join(from), data.join(to)).unwrap();
        }
        drop(DataDir::open(data).unwrap());
        assert_eq!(revision(&config), 5, "after {done} steps");
        assert!(!data.join("restore-ready-1").exists() && !data.join("continuity").exists());
        let before = data.join("before-restore-1");
        assert!(before.join("pki/ca.key").exists(), "after {done} steps");
        let log = fs::read(before.join("store.sqlite-wal")).unwrap();
        assert_eq!(log, b"of the earlier store", "after {done} steps");
    }
}

/// An archive of these entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        // Not by `append_data`, which refuses what an attacker would not.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn summary(files: &[(&str, &[u8])]) -> Vec<u8> {
    let files = files.iter().map(|(name, content)| {
        let (size, sha256) = entries::digest(*content).unwrap();
        Entry { name: (*name).to_owned(), size, sha256 }
    });
    let (dwell, files) = ("1".to_owned(), files.collect());
    serde_json::to_vec(&Summary { format: 1, dwell, made: 0, revision: 5, files }).unwrap()
}

#[tokio::test]
async fn what_is_no_whole_backup_changes_nothing() {
    let (_directory, config) = place(5).await;
    let good = taken(&config);
    let other = |files: &[(&str, &[u8])]| {
        let summary = summary(files);
        let mut all = vec![(SUMMARY, summary.as_slice())];
        all.extend(files);
        archive(&all)
    };
    let mut bad: Vec<(&str, Vec<u8>)> = vec![
        ("it is empty", Vec::new()),
        ("it does not begin with", archive(&[("another", b"x")])),
        ("dwell-backup.json: ", archive(&[(SUMMARY, b"{}")])),
        ("dwell-backup.json: ", archive(&[(SUMMARY, b"nonsense")])),
        ("has the format 7", archive(&[(SUMMARY, br#"{"format": 7, "dwell": "9.1"}"#)])),
        ("has no place", other(&[("pki/../../evil", b"x")])),
        ("has no place", other(&[("/etc/passwd", b"x")])),
        ("has no place", other(&[("continuity", b"x")])),
        ("pki/ca.pem is missing", other(&[(STORE, b"")])),
        ("there is more in it", archive(&[(SUMMARY, &summary(&[])), ("pki/more", b"x")])),
        ("is missing", archive(&[(SUMMARY, &summary(&[("pki/a", b"x")]))])),
        ("is not what was written", {
            let summary = summary(&[("pki/a", b"x")]);
            archive(&[(SUMMARY, &summary), ("pki/a", b"y")])
        }),
        ("should be there is", {
            let summary = summary(&[("pki/a", b"x")]);
            archive(&[(SUMMARY, &summary), ("pki/b", b"x")])
        }),
        ("is damaged", other(&[(STORE, b"no store"), ("pki/ca.pem", b""), ("pki/ca.key", b"")])),
    ];
    for part in 1..8 {
        bad.push(("", good[..good.len() * part / 8].to_owned()));
    }
    let mut flipped = good.clone();
    // In the middle of the store, after its two headers and the summary.
    flipped[6000] ^= 1;
    bad.push(("is not what was written", flipped));

    commit(&config, 9).await;
    let before = tree(&config.data_dir);
    for (problem, archive) in bad {
        let error = put_back(&config, &archive).unwrap_err().to_string();
        assert!(error.contains(problem), "{problem}: {error}");
        assert_eq!(tree(&config.data_dir), before, "{error}");
    }
    put_back(&config, &good).unwrap();
}

#[tokio::test]
async fn names_that_are_taken_and_directories_without_a_store_are_refused() {
    let (directory, config) = place(5).await;
    let taken = directory.path().join("taken.tar");
    fs::write(&taken, "mine").unwrap();
    let error = backup(&config.data_dir, &Target::File(taken.clone())).unwrap_err();
    assert!(matches!(&error, BackupError::Exists(path) if *path == taken), "{error}");
    assert_eq!(fs::read(&taken).unwrap(), b"mine");

    let nothing = directory.path().join("nothing");
    let error = backup(&nothing, &Target::File(directory.path().join("new.tar"))).unwrap_err();
    assert!(matches!(error, BackupError::NoStore(_)), "{error}");
    assert!(!nothing.exists() && !directory.path().join("new.tar").exists());
    // Nothing of the copy of the store was left either.
    let mut names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["data", "taken.tar"]);
}

#[tokio::test]
async fn a_controller_that_runs_is_not_replaced() {
    let (_directory, config) = place(5).await;
    let archive = taken(&config);
    let runs = DataDir::open(&config.data_dir).unwrap();
    let error = put_back(&config, &archive).unwrap_err().to_string();
    assert!(error.contains("locked by another controller; stop it"), "{error}");
    drop(runs);
    put_back(&config, &archive).unwrap();
}
