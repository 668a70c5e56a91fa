//! Files that are whole or not there, also after a loss of power.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces a file: written beside its place, synced, renamed, the directory synced.
///
/// Blocks for as long as the disk takes. On an error the old file is there as before, or the new one if it was the directory that
/// could not be synced: whether that outlives a loss of power is known once it was written anew. Two writers of one file at a
/// time are not provided for.
///
/// # Errors
/// What the file system said.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put(path, content, mode, File::sync_all)?;
    File::open(parent(path))?.sync_all()
}

/// The same for a file that a loss of power takes away anyhow: no program ever sees half of it, and the disk is not
/// waited for.
///
/// # Errors
/// What the file system said.
pub fn replace_volatile(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put(path, content, mode, |_| Ok(()))
}

fn put(
    path: &Path,
    content: &[u8],
    mode: u32,
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent(path).join(format!(".{name}.new"));
    // One that a crash left may have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    let written = file
        .write_all(content)
        .and_then(|()| sync(&file))
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // A disk that is full should get its bytes back; the first error is what counts.
        fs::remove_file(&temporary).ok();
        return Err(error);
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_whole_files_with_the_right_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(dir.path().join(".f.new"), "left by a crash").unwrap();
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("f")).unwrap();
        assert!(replace(&dir.path().join("f"), b"x", 0o600).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("none/f"), b"x", 0o600).is_err());
    }
}
