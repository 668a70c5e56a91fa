//! Putting a backup back.
//!
//! ```text
//!   restoring/            what was unpacked; nothing counts yet, and it is removed at the next try
//!      │ checked, synced, renamed: from here on the backup is what counts
//!      ▼
//!   restore-ready-TIME/   moved into place by whoever opens the directory next, however the one before ended
//!   before-restore-TIME/  what was there before; nobody removes it but the operator
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::entries::{Digesting, is_ours};
use super::{
    BackupError, Entry, FORMAT, PKI, STORE, SUMMARY, SUMMARY_MAX, Summary, take, unreadable,
    unwritable,
};
use crate::config::Config;
use crate::controller::check_range;
use crate::data_dir::DataDir;
use crate::pki::Authority;
use crate::store::sqlite;

/// Where an archive is unpacked.
const SCRATCH: &str = "restoring";
/// Before the time, of a backup that counts and is not in its place yet.
const READY: &str = "restore-ready-";
/// Before the time, of what was there before.
const BEFORE: &str = "before-restore-";
/// What belongs to a store and would be taken for part of the one that is put in its place.
const BESIDE: [&str; 3] = ["store.sqlite-wal", "store.sqlite-shm", "continuity"];

/// What was put back.
#[derive(Debug)]
pub struct Restored {
    /// What the backup said of itself.
    pub summary: Summary,
    /// Where what was there before is, if there was something.
    pub before: Option<PathBuf>,
}

/// Puts a backup in the place of what is in the controller's directory, which must not run. Blocks for as long as that takes.
///
/// `origin` is what errors call the archive.
///
/// # Errors
/// [`BackupError`]; nothing was changed. An error of the very last step says that the backup counts already, and is put
/// into its place at the next start.
pub fn restore(config: &Config, archive: impl Read, origin: &str) -> Result<Restored, BackupError> {
    let data_dir = config.data_dir.as_path();
    let directory = DataDir::open(data_dir)?;
    let scratch = data_dir.join(SCRATCH);
    discard(&scratch)?;
    let unpacked = unpack(&scratch, archive, origin).and_then(|summary| {
        check(&scratch, &summary, config, origin)?;
        Ok(summary)
    });
    let summary = match unpacked {
        Ok(summary) => summary,
        Err(error) => {
            discard(&scratch)?;
            return Err(error);
        }
    };
    sync(&scratch).map_err(unwritable(&scratch))?;
    let ready = data_dir.join(format!("{READY}{}", free_time(data_dir)?));
    fs::rename(&scratch, &ready).map_err(unwritable(&ready))?;
    sync_directory(data_dir).map_err(unwritable(data_dir))?;
    let before = finish(data_dir).map_err(unwritable(data_dir))?;
    drop(directory);
    Ok(Restored { summary, before })
}

/// Moves a backup that counts into its place, if there is one; says where what was there before is now.
///
/// Can be interrupted anywhere and done again. The directory is locked by whoever calls this, and the store is not open.
///
/// # Errors
/// What the file system said.
pub(crate) fn finish(data_dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut before = None;
    for (ready, time) in ready(data_dir)? {
        let aside = data_dir.join(format!("{BEFORE}{time}"));
        match fs::DirBuilder::new().mode(0o700).create(&aside) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // The store comes last: as long as it is not in its place, what lies beside it is the earlier one's.
        if ready.join(STORE).try_exists()? {
            for name in BESIDE {
                move_if_there(&data_dir.join(name), &aside.join(name))?;
            }
        }
        for name in [PKI, STORE] {
            if ready.join(name).try_exists()? {
                move_if_there(&data_dir.join(name), &aside.join(name))?;
                // Nothing of the earlier one is beside the new one after a loss of power.
                sync_directory(data_dir)?;
                fs::rename(ready.join(name), data_dir.join(name))?;
            }
        }
        sync_directory(data_dir)?;
        fs::remove_dir(&ready)?;
        // Empty if there was nothing before.
        before = fs::remove_dir(&aside).is_err().then_some(aside);
        sync_directory(data_dir)?;
    }
    Ok(before)
}

/// The time, in seconds since 1970, or the next one under which nothing was moved aside yet.
fn free_time(data_dir: &Path) -> Result<u64, BackupError> {
    let mut time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    loop {
        let aside = data_dir.join(format!("{BEFORE}{time}"));
        if !aside.try_exists().map_err(unreadable(&aside))? {
            return Ok(time);
        }
        time += 1;
    }
}

/// Backups that count and are not in their places, with their times, the earliest first.
fn ready(data_dir: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data_dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(time) = name.strip_prefix(READY) {
            found.push((entry.path(), time.to_owned()));
        }
    }
    found.sort();
    Ok(found)
}

fn move_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        moved => moved,
    }
}

pub(crate) fn unpack(
    scratch: &Path,
    archive: impl Read,
    origin: &str,
) -> Result<Summary, BackupError> {
    let damaged = |problem: String| BackupError::Damaged { origin: origin.to_owned(), problem };
    let broken = |reason: io::Error| damaged(reason.to_string());
    let mut archive = tar::Archive::new(archive);
    let mut entries = archive.entries().map_err(broken)?;
    let first = entries.next().ok_or_else(|| damaged("it is empty".to_owned()))?;
    let summary = read_summary(first.map_err(broken)?, origin)?;
    make_directory(scratch)?;
    for expected in &summary.files {
        let name = &expected.name;
        if !is_ours(name) {
            return Err(damaged(format!("{name} has no place in a controller's directory")));
        }
        let entry = entries.next().ok_or_else(|| damaged(format!("{name} is missing")))?;
        let entry = entry.map_err(broken)?;
        if entry.path_bytes() != name.as_bytes() || !entry.header().entry_type().is_file() {
            let found = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            return Err(damaged(format!("where {name} should be there is {found:?}")));
        }
        unpack_file(&scratch.join(name), entry, expected, origin)?;
    }
    match entries.next() {
        None => Ok(summary),
        Some(_) => Err(damaged("there is more in it than it says".to_owned())),
    }
}

fn read_summary(
    mut entry: tar::Entry<'_, impl Read>,
    origin: &str,
) -> Result<Summary, BackupError> {
    let damaged = |problem: String| BackupError::Damaged { origin: origin.to_owned(), problem };
    if entry.path_bytes() != SUMMARY.as_bytes() || entry.size() > SUMMARY_MAX {
        return Err(damaged(format!("it does not begin with {SUMMARY}")));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).map_err(|error| damaged(error.to_string()))?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| damaged(format!("{SUMMARY}: {error}")))?;
    // Before its fields are judged: those of a later format may be others.
    match value["format"].as_u64() {
        Some(found) if found > u64::from(FORMAT) => {
            let dwell = value["dwell"].as_str().unwrap_or("of a later version").to_owned();
            Err(BackupError::Format { origin: origin.to_owned(), found, dwell })
        }
        _ => serde_json::from_value(value).map_err(|error| damaged(format!("{SUMMARY}: {error}"))),
    }
}

fn unpack_file(
    path: &Path,
    mut entry: impl Read,
    expected: &Entry,
    origin: &str,
) -> Result<(), BackupError> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut digesting = Digesting::new(file.map_err(unwritable(path))?);
    copy(&mut entry, &mut digesting, path, origin)?;
    let (file, size, sha256) = digesting.end();
    if (size, &sha256) != (expected.size, &expected.sha256) {
        let problem = format!("{} is not what was written", expected.name);
        return Err(BackupError::Damaged { origin: origin.to_owned(), problem });
    }
    file.sync_all().map_err(unwritable(path))
}

/// Tells a backup that cannot be read from a disk that cannot be written to.
fn copy(
    from: &mut impl Read,
    to: &mut impl io::Write,
    path: &Path,
    origin: &str,
) -> Result<(), BackupError> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let (origin, problem) = (origin.to_owned(), error.to_string());
                return Err(BackupError::Damaged { origin, problem });
            }
        };
        to.write_all(&buffer[..read]).map_err(unwritable(path))?;
    }
}

/// Whether a controller could start with what was unpacked.
fn check(
    scratch: &Path,
    summary: &Summary,
    config: &Config,
    origin: &str,
) -> Result<(), BackupError> {
    let damaged = |problem: &str| BackupError::Damaged {
        origin: origin.to_owned(),
        problem: problem.to_owned(),
    };
    let has = |name: &str| summary.files.iter().any(|entry| entry.name == name);
    // What is missing would be made anew, and nobody would trust it.
    // Since the first rotation the CA is in a file of its own.
    let of_authority: &[&str] = match has("pki/authorities.json") {
        true => &[],
        false => &["pki/ca.pem", "pki/ca.key"],
    };
    for name in [STORE].iter().chain(of_authority) {
        if !has(name) {
            return Err(damaged(&format!("{name} is missing")));
        }
    }
    let records = sqlite::check(&scratch.join(STORE))?;
    if take::newest(&records) != summary.revision {
        return Err(damaged("its store is not as far as it says"));
    }
    check_range(&config.cluster, &records)?;
    Authority::open(&scratch.join(PKI))?;
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), BackupError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).map_err(unwritable(path))
}

fn discard(scratch: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unwritable(scratch)(error)),
        _ => Ok(()),
    }
}

/// Syncs the directories of what was unpacked; the files were synced one by one, but for what SQLite wrote since.
fn sync(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
