//! What a store refuses, in words that know nothing of the database behind it: which file, what was being done, why, and
//! what to do next.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use crate::model::RecordError;

/// Something could not be done with a file of the store.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}: {cause}", path.display())]
pub struct Failure {
    /// The file, or the directory.
    pub path: PathBuf,
    /// What was being done with it.
    pub doing: Doing,
    /// Why, and what to do about it.
    pub cause: Cause,
}

/// What was being done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It was opened, or made.
    Open,
    /// It was read.
    Read,
    /// It was written to.
    Write,
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write to",
        })
    }
}

/// Why something cannot be done with a file, by what an operator does about it.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// There is no room.
    #[error("its disk is full; free some space, then try again")]
    Full,
    /// Another program has it locked.
    #[error(
        "another program has it locked; end that one (`fuser` with this path names it), then try again"
    )]
    Locked,
    /// The right is missing, or the file system can only be read.
    #[error(
        "its owner, its mode or its file system does not let this controller; give the controller's user the right to \
         write there, or set data_dir"
    )]
    Forbidden,
    /// The disk fails.
    #[error(
        "its disk reports an error; look what the kernel says of that (`dmesg`), and go on with a backup on another \
         disk if this one is broken"
    )]
    Disk,
    /// There is no memory.
    #[error("there is no memory left; free some, then start the controller again")]
    Memory,
    /// Anything else that the system says.
    #[error("{0}; correct that, or set data_dir")]
    System(io::Error),
    /// Anything else that the database says. Its words are in the log.
    #[error(
        "the database failed as nobody expects; its words are in the controller's log: report them as a defect of \
         dwell-controller"
    )]
    Unexpected,
    /// Whoever works on the store has ended.
    #[error("the store has stopped; the controller is ending")]
    Stopped,
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::Forbidden,
            ErrorKind::OutOfMemory => Self::Memory,
            _ => Self::System(error),
        }
    }
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is something else, or its beginning is gone.
    #[error("it is no database")]
    NotADatabase,
    /// Its parts contradict each other.
    #[error("its parts do not fit together")]
    Structure,
    /// The digest of a record is another one's.
    #[error("the record {kind}/{name} is not what was written")]
    Record {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// Why a commit did not return well, by what follows from it.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written. Once the reason is gone, it works again.
    #[error(transparent)]
    NotStored(Failure),
    /// Nothing was written, since this cannot be.
    #[error("{0}; this is a defect of dwell-controller")]
    Unfit(RecordError),
    /// Somebody else writes. What this controller knows is out of date; it has to end.
    #[error(
        "another program writes to {}, which only this controller may; end that one (`fuser` with this path names it)",
        path.display()
    )]
    Conflict {
        /// The file.
        path: PathBuf,
    },
    /// Nobody knows what is on the disk. Only reading it again tells; this controller has to end.
    #[error("whether it was stored is not known: {0}")]
    Unknown(Failure),
}

impl CommitError {
    /// Whether the controller can go on.
    #[must_use]
    pub fn is_survivable(&self) -> bool {
        matches!(self, Self::NotStored(_) | Self::Unfit(_))
    }
}

/// Why a store cannot be opened or read. An operator has to do what it says.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or a directory cannot be used.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Another controller uses the directory.
    #[error(
        "{} is locked by another controller; stop it, or give this one a data_dir of its own",
        path.display()
    )]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// It is a database of something else.
    #[error("{} is a database of another program; move it away, or set data_dir", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It was written by another version.
    #[error(
        "{} has format {found}, and this controller knows {known}; start the version of dwell that wrote it, or put a \
         backup of this version in its place",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The one that this program writes.
        known: i64,
    },
    /// The file is damaged.
    #[error(
        "{} is damaged ({damage}); restore it from a backup (with its -wal file), or move it away to start empty",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        damage: Damage,
    },
    /// A record that this program cannot read.
    #[error(
        "cannot read a record of {}; start the version of dwell that wrote it, or restore it from a backup",
        path.display()
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        reason: RecordError,
    },
    /// The system gives no thread for the store.
    #[error("cannot start a thread ({0}); raise the limits of this process or of its user")]
    Thread(io::Error),
    /// The store's thread has ended.
    #[error("the store has stopped; the controller is ending")]
    Stopped,
}

impl StoreError {
    /// The system does not let a file be opened or made.
    pub(crate) fn opening(path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self::Failed(Failure { path: path.into(), doing: Doing::Open, cause: error.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_names_the_file_what_was_done_and_the_next_step() {
        let causes = [
            Cause::Full,
            Cause::Locked,
            Cause::Forbidden,
            Cause::Disk,
            Cause::Memory,
            Cause::System(ErrorKind::NotADirectory.into()),
            Cause::Unexpected,
        ];
        for cause in causes {
            let failure = Failure { path: "/data/store.sqlite".into(), doing: Doing::Write, cause };
            let text = CommitError::NotStored(failure).to_string();
            let (what, why) = text.split_once(": ").unwrap();
            assert_eq!(what, "cannot write to /data/store.sqlite");
            let (_reason, step) = why.split_once("; ").unwrap_or_else(|| panic!("{text}"));
            assert!(!step.is_empty(), "{text}");
        }
    }

    #[test]
    fn what_the_system_says_is_told_by_what_to_do_about_it() {
        let cause = |kind: ErrorKind| Cause::from(io::Error::from(kind));
        assert!(matches!(cause(ErrorKind::StorageFull), Cause::Full));
        assert!(matches!(cause(ErrorKind::ReadOnlyFilesystem), Cause::Forbidden));
        assert!(matches!(cause(ErrorKind::NotADirectory), Cause::System(_)));
    }
}
