//! Backups: everything that a controller is, in one file, made while it runs, and put back whole.
//!
//! A backup is a tar archive, so that it can be looked into with what every host has:
//!
//! ```text
//!   dwell-backup.json     format, version, how far the store is, size and SHA-256 of what follows
//!   store.sqlite
//!   pki/…                 the CA, and what SSH is trusted by
//! ```
//!
//! The mark beside the store (`continuity`) is not in it, so that a controller that starts with what was put back knows
//! that it knows less than its fleet. A backup holds every key of the cluster: it is for its owner only.

mod entries;
pub(crate) mod put_back;
mod take;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::controller::RangeError;
use crate::pki::PkiError;
use crate::store::StoreError;

pub(crate) use put_back::finish;
pub use put_back::{Restored, restore};
pub use take::{Target, backup};

/// The name of the first entry.
const SUMMARY: &str = "dwell-backup.json";
/// What this program writes, and the newest that it reads.
const FORMAT: u32 = 1;
/// The largest summary that is read, in bytes.
const SUMMARY_MAX: u64 = 1 << 20;
/// The name of the store in an archive and in the controller's directory.
const STORE: &str = "store.sqlite";
/// The directory of the CA, in both.
const PKI: &str = "pki";

/// What an archive says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Of the archive.
    format: u32,
    /// The version of dwell that made it.
    pub dwell: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// The revision of the newest change in it.
    pub revision: u64,
    /// The files, in the order in which they follow.
    files: Vec<Entry>,
}

/// A file of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Its place below the controller's directory.
    name: String,
    /// In bytes.
    size: u64,
    /// In hexadecimal digits.
    sha256: String,
}

/// Why nothing was backed up or put back. What was there before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no controller's directory.
    #[error(
        "there is no store at {}; name the configuration of the controller with --config, or start it once",
        .0.display()
    )]
    NoStore(PathBuf),
    /// The backup would replace something.
    #[error("{} is there already; choose another name, or move it away", .0.display())]
    Exists(PathBuf),
    /// It would be printed on a terminal.
    #[error("a backup is no text for a terminal; name a file, or pass it on with a pipe")]
    Terminal,
    /// A file cannot be read or written.
    #[error("cannot {doing} {} ({reason}); {next}", path.display())]
    File {
        /// To read, to write.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
        /// What to do.
        next: &'static str,
    },
    /// It is no backup, or not a whole one.
    #[error("{origin} is not a whole backup of a controller: {problem}; take another one")]
    Damaged {
        /// Where it was read from.
        origin: String,
        /// What was found.
        problem: String,
    },
    /// A later version made it.
    #[error(
        "{origin} has the format {found}, and this version of dwell knows {FORMAT}; restore it with dwell {dwell}"
    )]
    Format {
        /// Where it was read from.
        origin: String,
        /// Its format.
        found: u64,
        /// The version that made it.
        dwell: String,
    },
    /// The store, of the controller or of the backup.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is of a cluster with other addresses than the configuration says.
    #[error("the backup does not fit the configuration: {0}")]
    Range(#[from] RangeError),
    /// The CA of the backup.
    #[error("the CA of the backup cannot be used: {0}")]
    Pki(#[from] PkiError),
}

/// A file that cannot be read.
fn unreadable(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.into();
    move |reason| BackupError::File {
        doing: "read",
        path,
        reason,
        next: "run this as the controller's user, mostly root",
    }
}

/// A file that cannot be written.
fn unwritable(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.into();
    move |reason| BackupError::File {
        doing: "write",
        path,
        reason,
        next: "look at the room on its disk and who may write there",
    }
}

#[cfg(test)]
mod tests;
