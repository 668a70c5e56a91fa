//! Making a backup, beside a controller that runs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::entries::digest;
use super::{BackupError, Entry, FORMAT, PKI, STORE, SUMMARY, Summary, unreadable, unwritable};
use crate::model::Record;
use crate::store::sqlite;

/// The largest file of `pki` that is taken along, in bytes.
const PKI_FILE_MAX: u64 = 1 << 20;

/// Where a backup goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file, which must not be there yet.
    File(PathBuf),
    /// Standard output.
    Output,
}

/// Writes a backup of the controller whose directory this is, which may run meanwhile. Blocks for as long as that takes.
///
/// What is in it is as of one moment, and was read back and checked. A file is there whole or not at all.
///
/// # Errors
/// [`BackupError`]; nothing is left behind.
pub fn backup(data_dir: &Path, target: &Target) -> Result<Summary, BackupError> {
    let store = data_dir.join(STORE);
    if !store.try_exists().map_err(unreadable(&store))? {
        return Err(BackupError::NoStore(store));
    }
    match target {
        Target::Output => {
            let output = io::stdout();
            if output.is_terminal() {
                return Err(BackupError::Terminal);
            }
            // Where the store itself is there is room for a store, and nobody else may look.
            write(data_dir, data_dir, output.lock(), Path::new("the standard output"))
        }
        Target::File(path) => to_file(data_dir, path),
    }
}

fn to_file(data_dir: &Path, path: &Path) -> Result<Summary, BackupError> {
    if path.try_exists().map_err(unreadable(path))? {
        return Err(BackupError::Exists(path.to_owned()));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().prefix(".dwell-backup").tempfile_in(parent);
    // Only its owner may read it. It goes away with this value, unless it is kept.
    let file = made.map_err(unwritable(path))?;
    let summary = write(data_dir, parent, file.as_file(), path)?;
    file.as_file().sync_all().map_err(unwritable(path))?;
    file.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => BackupError::Exists(path.to_owned()),
        _ => unwritable(path)(error.error),
    })?;
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(unwritable(path))?;
    Ok(summary)
}

/// `scratch` is where the copy of the store lies meanwhile, `path` is what errors call the output.
fn write(
    data_dir: &Path,
    scratch: &Path,
    output: impl Write,
    path: &Path,
) -> Result<Summary, BackupError> {
    let made = tempfile::Builder::new().prefix(".dwell-store").tempdir_in(scratch);
    let scratch = made.map_err(unwritable(scratch))?;
    let copy = scratch.path().join(STORE);
    let records = sqlite::copy(&data_dir.join(STORE), &copy)?;

    let store = File::open(&copy).map_err(unreadable(&copy))?;
    let (size, sha256) = digest(&store).map_err(unreadable(&copy))?;
    let mut files = vec![Entry { name: STORE.to_owned(), size, sha256 }];
    let pki = read_pki(data_dir)?;
    for (name, content) in &pki {
        let (size, sha256) = digest(content.as_slice()).map_err(unreadable(name))?;
        files.push(Entry { name: name.clone(), size, sha256 });
    }
    let summary = Summary {
        format: FORMAT,
        dwell: env!("CARGO_PKG_VERSION").to_owned(),
        made: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        revision: newest(&records),
        files,
    };

    let mut archive = tar::Builder::new(output);
    let mut append = |name: &str, size: u64, content: &mut dyn io::Read| {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o600);
        header.set_mtime(summary.made);
        archive.append_data(&mut header, name, content)
    };
    let told = serde_json::to_vec_pretty(&summary).map_err(io::Error::other);
    let told = told.map_err(unwritable(path))?;
    append(SUMMARY, told.len() as u64, &mut told.as_slice()).map_err(unwritable(path))?;
    let mut store = File::open(&copy).map_err(unreadable(&copy))?;
    append(STORE, size, &mut store).map_err(unwritable(path))?;
    for (name, content) in &pki {
        append(name, content.len() as u64, &mut content.as_slice()).map_err(unwritable(path))?;
    }
    let mut output = archive.into_inner().map_err(unwritable(path))?;
    output.flush().map_err(unwritable(path))?;
    Ok(summary)
}

/// How far a store is.
pub(super) fn newest(records: &[Record]) -> u64 {
    let stored = records.iter().map(|record| match record {
        Record::Stored(stored) => stored.revision.0,
        _ => 0,
    });
    stored.max().unwrap_or(0)
}

/// The files below `pki`, by their place in the controller's directory, in order. Each is replaced as a whole by whoever
/// changes it.
fn read_pki(data_dir: &Path) -> Result<Vec<(String, Vec<u8>)>, BackupError> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from(PKI)];
    while let Some(directory) = directories.pop() {
        let path = data_dir.join(&directory);
        for entry in fs::read_dir(&path).map_err(unreadable(&path))? {
            let entry = entry.map_err(unreadable(&path))?;
            let kind = entry.file_type().map_err(unreadable(entry.path()))?;
            let name = directory.join(entry.file_name());
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if kind.is_dir() {
                directories.push(name);
            } else if kind.is_file() && !hidden {
                let content = read_small(&entry.path())?;
                found.push((name.to_string_lossy().into_owned(), content));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read_small(path: &Path) -> Result<Vec<u8>, BackupError> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path);
    let mut content = Vec::new();
    let read = file.and_then(|file| file.take(PKI_FILE_MAX + 1).read_to_end(&mut content));
    let read = read.map_err(unreadable(path))?;
    if read as u64 > PKI_FILE_MAX {
        return Err(unreadable(path)(io::Error::other("it is larger than 1 MiB")));
    }
    Ok(content)
}
