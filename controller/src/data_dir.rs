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
    /// [`StoreError::Failed`] if it cannot be made or written to, [`StoreError::InUse`] if another
    /// controller has it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(path);
        made.map_err(|error| StoreError::opening(path, error))?;
        let lock_path = path.join("lock");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let file = file.map_err(|error| StoreError::opening(&lock_path, error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                backup::finish(path).map_err(|error| StoreError::opening(path, error))?;
                Ok(Self { path: path.to_owned(), _lock: lock })
            }
            Err((_, Errno::EWOULDBLOCK)) => Err(StoreError::InUse { path: lock_path }),
            Err((_, errno)) => Err(StoreError::opening(lock_path, errno.into())),
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
