//! What concerns names rather than open files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, StatVfsMountFlags, renameat_with, statvfs};
use rustix::io::Errno;

use super::failure::Failure;

/// The absolute path without links; the last part need not exist.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, Failure> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let error = match fs::canonicalize(path) {
        Ok(resolved) => return Ok(resolved),
        Err(error) => error,
    };
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(fs::canonicalize(parent)?.join(name))
        }
        _ => Err(error.into()),
    }
}

/// Renames unless the new name is taken, as version 3 demands.
pub(super) fn rename_to_new(from: &Path, to: &Path) -> Result<(), Failure> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A filesystem that does not know how; another process might be in between.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(Errno::EXIST.into());
            }
            Ok(fs::rename(from, to)?)
        }
        result => Ok(result?),
    }
}

/// The numbers of a filesystem, in the order of the extension.
pub(super) fn filesystem(path: &Path) -> Result<[u64; 11], Failure> {
    const READ_ONLY: u64 = 1;
    const NO_SETUID: u64 = 2;
    let found = statvfs(path)?;
    let flag = |mount, bit| if found.f_flag.contains(mount) { bit } else { 0 };
    let flags =
        flag(StatVfsMountFlags::RDONLY, READ_ONLY) | flag(StatVfsMountFlags::NOSUID, NO_SETUID);
    Ok([
        found.f_bsize,
        found.f_frsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        found.f_favail,
        found.f_fsid,
        flags,
        found.f_namemax,
    ])
}

/// A path that may begin with `~`, the user's home; of other users' homes nothing is known.
pub(super) fn expand(path: &Path, home: &Path) -> Result<PathBuf, Failure> {
    let mut parts = path.components();
    match parts.next() {
        Some(first) if first.as_os_str() == "~" => resolve(&home.join(parts.as_path())),
        Some(first) if first.as_os_str().as_encoded_bytes().starts_with(b"~") => {
            Err(Errno::NOENT.into())
        }
        _ => resolve(path),
    }
}
