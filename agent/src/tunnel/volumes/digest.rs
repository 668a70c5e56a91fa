//! The content of files, piece by piece, and its digests.
//!
//! What is all zeros is neither read twice nor sent: a digest counts the pieces that are not, with their places, so that it is the
//! same however a file lies on its disk.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::PIECE;

/// How many digests are remembered.
const REMEMBERED_MAX: usize = 200_000;
/// How long a file has to be unchanged for its digest to be remembered: clocks of file systems are coarse.
const AT_REST: Duration = Duration::from_secs(2);

/// The digest of some content.
pub(super) type Digest = [u8; 32];

/// Makes a digest.
#[derive(Default)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    /// Adds a piece that is not all zeros. Pieces come in order.
    pub(super) fn add(&mut self, offset: u64, piece: &[u8]) {
        self.0.update(offset.to_le_bytes());
        self.0.update(piece);
    }

    /// The digest of a file of this size.
    pub(super) fn finish(mut self, size: u64) -> Digest {
        self.0.update(size.to_le_bytes());
        self.0.finalize().into()
    }
}

/// Hands over the pieces of a file that are not all zeros, up to `size`.
pub(super) fn pieces<E: From<io::Error>>(
    file: &File,
    size: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let step = PIECE as u64;
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    while offset < size {
        match seek(file, SeekFrom::Data(offset)) {
            Ok(data) => offset = data / step * step,
            // A hole up to the end.
            Err(Errno::NXIO) => return Ok(()),
            // A file system without holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        if offset >= size {
            return Ok(());
        }
        let most = usize::try_from(size - offset).map_or(PIECE, |left| left.min(PIECE));
        let mut read = 0;
        while let Some(rest) = buffer.get_mut(read..most).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + read as u64)? {
                // It has become shorter.
                0 => break,
                more => read += more,
            }
        }
        let piece = buffer.get(..read).unwrap_or_default();
        if piece.iter().any(|&byte| byte != 0) {
            each(offset, piece)?;
        }
        if read < most {
            return Ok(());
        }
        offset += step;
    }
    Ok(())
}

/// A file as it was when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(file: &File) -> io::Result<Self> {
        let is = file.metadata()?;
        Ok(Self {
            device: is.dev(),
            inode: is.ino(),
            size: is.size(),
            modified: (is.mtime(), is.mtime_nsec()),
            changed: (is.ctime(), is.ctime_nsec()),
        })
    }

    /// Whether a later change would show in it.
    fn is_at_rest(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or(u64::MAX / 2));
        changed.saturating_add(AT_REST) < now
    }
}

/// Digests of files that have not changed since they were read.
#[derive(Default)]
pub(super) struct Digests(Mutex<HashMap<Version, Digest>>);

impl Digests {
    /// The digest of a file, if it is known.
    pub(super) fn known(&self, file: &File) -> io::Result<Option<Digest>> {
        let version = Version::of(file)?;
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&version).copied())
    }

    /// Reads a file by `read`, which returns its digest, and remembers that. What was written before is written out first: from
    /// then on also a change through a mapping changes the file's time.
    pub(super) fn remember<E: From<io::Error>>(
        &self,
        file: &File,
        read: impl FnOnce() -> Result<Digest, E>,
    ) -> Result<Digest, E> {
        file.sync_data()?;
        let before = Version::of(file)?;
        let is_at_rest = before.is_at_rest();
        let digest = read()?;
        if is_at_rest && Version::of(file)? == before {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= REMEMBERED_MAX {
                known.clear();
            }
            known.insert(before, digest);
        }
        Ok(digest)
    }

    /// The digest of a file, read if need be. `each` is told of every piece that was read.
    pub(super) fn of<E: From<io::Error>>(
        &self,
        file: &File,
        size: u64,
        mut each: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Digest, E> {
        if let Some(known) = self.known(file)? {
            return Ok(known);
        }
        self.remember(file, || {
            let mut hasher = Hasher::default();
            pieces(file, size, |offset, piece| {
                hasher.add(offset, piece);
                each(piece.len())
            })?;
            Ok(hasher.finish(size))
        })
    }
}
