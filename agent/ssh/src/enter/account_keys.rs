//! Whom an account itself lets in: its `~/.ssh/authorized_keys`, in the container.
//!
//! Read as the user, once the process is restricted as any of the user's is: what the user may not read is not read.
//! As with sshd's `StrictModes` the file counts only if nobody but the user and root may change it or what it lies in, up
//! to the user's home. Links are followed within the container alone.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::accounts::Account;

/// The longest file that counts, in bytes; what is longer counts not at all.
pub(super) const MAX_BYTES: u64 = 64 * 1024;
/// Where it lies in the home.
const FILE: &str = ".ssh/authorized_keys";

/// What the account's file says; nothing if it has none.
///
/// # Errors
/// If the file does not count, with the reason.
pub(super) fn read(account: &Account) -> io::Result<Vec<u8>> {
    let Some(home) = &account.home else { return Ok(Vec::new()) };
    let home = fs::canonicalize(home)?;
    let path = match fs::canonicalize(home.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        path => path?,
    };
    // All links are gone from the path, so that one found now was put there since.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(openat2(CWD, &path, flags, Mode::empty(), resolve)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    check(&path, &metadata, account.uid)?;
    for directory in path.ancestors().skip(1) {
        check(directory, &fs::symlink_metadata(directory)?, account.uid)?;
        if directory == home {
            break;
        }
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_BYTES} bytes")));
    }
    Ok(text)
}

/// Whether nobody but the user and root may change it.
fn check(path: &Path, metadata: &Metadata, uid: u32) -> io::Result<()> {
    let path = path.display();
    if ![0, uid].contains(&metadata.uid()) {
        return Err(io::Error::other(format!("{path} belongs to the user {}", metadata.uid())));
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(io::Error::other(format!(
            "others may write {path}, of mode {mode:04o}; chmod go-w it"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use nix::unistd::getuid;

    use super::*;

    #[test]
    fn only_what_nobody_else_may_change_counts() {
        let home = tempfile::tempdir().unwrap();
        let account = Account {
            name: "alice".to_owned(),
            uid: getuid().as_raw(),
            gid: 0,
            groups: Vec::new(),
            home: Some(home.path().display().to_string()),
            shell: None,
        };
        let chmod = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        let says = || read(&account).map_err(|error| error.to_string());
        assert_eq!(says(), Ok(Vec::new()), "there is none");
        let directory = home.path().join(".ssh");
        let file = directory.join("authorized_keys");
        fs::create_dir(&directory).unwrap();
        fs::write(&file, "keys").unwrap();
        assert_eq!(says(), Ok(b"keys".to_vec()));
        for path in [&*file, &*directory, home.path()] {
            let before = fs::metadata(path).unwrap().permissions();
            for mode in [0o722, 0o770, 0o707] {
                chmod(path, mode).unwrap();
                assert!(says().unwrap_err().contains("others may write"), "{path:?} {mode:o}");
            }
            fs::set_permissions(path, before).unwrap();
        }
        assert_eq!(says(), Ok(b"keys".to_vec()));

        // A link is followed, and what it leads to is looked at up to the root.
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("keys"), "others").unwrap();
        fs::remove_file(&file).unwrap();
        symlink(elsewhere.path().join("keys"), &file).unwrap();
        assert!(says().unwrap_err().contains("/tmp, of mode 1777"), "{:?}", says());
        fs::remove_file(&file).unwrap();
        symlink("/proc/self/root/etc/hostname", &file).unwrap();
        assert_ne!(says(), Ok(Vec::new()), "within the root that this process has");
        fs::remove_file(&file).unwrap();
        fs::write(&file, vec![b'a'; 65_537]).unwrap();
        assert!(says().unwrap_err().contains("larger than"));
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(says(), Err("it is no file".to_owned()));
    }
}
