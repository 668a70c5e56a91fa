//! The lock of a data directory: two agents with one identity would undo each other's work.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a lock is waited for. An agent that was killed may have left a process that has yet to begin its own program,
/// and has the lock open until then.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Held until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody uses it.
    #[error("{} is in use by another dwell-agent; stop that one first (`systemctl stop dwell-agent`)", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be made or written to.
    #[error("cannot use the data directory {}", path.display())]
    File {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl DataDirLock {
    /// Makes the directory, for root alone, if it is not there, and locks it.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(data_dir: &Path) -> Result<Self, LockError> {
        let path = || data_dir.to_owned();
        let failed = |source| LockError::File { path: path(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed)?;
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).mode(0o600);
        let file = file.open(data_dir.join("lock")).map_err(failed)?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(LockError::InUse { path: path() }),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("a/b");
        let held = DataDirLock::take(&data_dir).unwrap();
        assert!(matches!(DataDirLock::take(&data_dir), Err(LockError::InUse { .. })));
        // What is let go of in a moment is waited for.
        let holder = thread::spawn(move || {
            thread::sleep(PATIENCE / 5);
            drop(held);
        });
        DataDirLock::take(&data_dir).unwrap();
        holder.join().unwrap();
    }
}
