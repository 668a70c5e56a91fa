//! The controller's directory: made, found writable, and locked against a second controller.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::backup;
use crate::store::StoreError;

/// The locked directory. The lock ends with this value, or with the process however that ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl DataDir {
    /// Makes the directory if need be, and locks it. A backup that was to be put back into it is in its place then, also if
    /// whoever put it back did not come to an end.
    ///
    /// # Errors
    /// [`StoreError::Directory`] if it cannot be made or written to, [`StoreError::Locked`] if another
    /// controller has it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let refuse = |path: &Path, reason| StoreError::Directory { path: path.to_owned(), reason };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(|reason| refuse(path, reason))?;
        let lock_path = path.join("lock");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let file = file.map_err(|reason| refuse(&lock_path, reason))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                backup::finish(path).map_err(|reason| refuse(path, reason))?;
                Ok(Self { path: path.to_owned(), _lock: lock })
            }
            Err((_, Errno::EWOULDBLOCK)) => Err(StoreError::Locked { path: lock_path }),
            Err((_, errno)) => Err(refuse(&lock_path, errno.into())),
        }
    }

    /// The store's file.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path.join("store.sqlite")
    }

    /// The mark beside the store.
    #[must_use]
    pub fn continuity(&self) -> PathBuf {
        self.path.join("continuity")
    }

    /// The CA's directory.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.path.join("pki")
    }
}
