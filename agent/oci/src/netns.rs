//! Is this path a network namespace, and not the host's?
//!
//! *The host's* are two: the one this process runs in, which is `dockerd`'s and in a lab not that
//! of the machine, and that of the machine's first process. If either cannot be told, no
//! namespace is accepted.

#![expect(unsafe_code, reason = "the kind of a namespace is told by an ioctl without safe wrapper")]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The namespace of this process.
const OWN: &str = "/proc/self/ns/net";
/// The namespace of the machine: that of `init`, or where `init` is shielded even from root, that of
/// the kernel's first thread.
const MACHINE: [&str; 2] = ["/proc/1/ns/net", "/proc/2/ns/net"];

/// Returns if a container may be put into the namespace at `path`.
///
/// # Errors
///
/// When `path` is not a network namespace, is the host's, or cannot be compared with it.
pub(crate) fn verify(path: &Path) -> Result<(), NetnsError> {
    let candidate = Inode::of_netns(path)?;
    if candidate == Inode::of(OWN.as_ref())? || candidate == machine()? {
        return Err(NetnsError::Host(path.to_owned()));
    }
    Ok(())
}

/// Why a path was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetnsError {
    #[error("cannot open the network namespace {path:?}")]
    Open { path: PathBuf, source: io::Error },

    #[error("{0:?} is not a network namespace")]
    NotNetns(PathBuf),

    #[error("{0:?} is the network namespace of the host")]
    Host(PathBuf),
}

/// What tells two namespaces apart. Only of use while the namespace is held by something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    fn of(path: &Path) -> Result<Self, NetnsError> {
        let metadata = fs::metadata(path)
            .map_err(|source| NetnsError::Open { path: path.to_owned(), source })?;
        Ok(Self { device: metadata.dev(), number: metadata.ino() })
    }

    fn of_netns(path: &Path) -> Result<Self, NetnsError> {
        let inode = Self::of(path)?;
        // All namespaces are files of one kernel-internal filesystem. Anything else is not even
        // opened: that could block (a pipe) or have effects (a device).
        if inode.device != Self::of(OWN.as_ref())?.device {
            return Err(NetnsError::NotNetns(path.to_owned()));
        }
        let file = File::open(path)
            .map_err(|source| NetnsError::Open { path: path.to_owned(), source })?;
        // SAFETY: the descriptor is open, and this request takes no argument and touches no memory.
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
        if kind == libc::CLONE_NEWNET {
            Ok(inode)
        } else {
            Err(NetnsError::NotNetns(path.to_owned()))
        }
    }
}

fn machine() -> Result<Inode, NetnsError> {
    let [init, kernel_thread] = MACHINE;
    Inode::of(init.as_ref()).or_else(|error| Inode::of(kernel_thread.as_ref()).map_err(|_| error))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_hosts_namespace_is_refused_under_any_name() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("web-0");
        std::os::unix::fs::symlink(OWN, &link).unwrap();

        for path in [Path::new(OWN), Path::new("/proc/thread-self/ns/net"), &link] {
            assert!(matches!(verify(path), Err(NetnsError::Host(_))), "{path:?}");
        }
    }

    #[test]
    fn other_files_are_refused_without_opening_them() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());

        for path in
            [&pipe, directory.path(), Path::new("/dev/null"), Path::new("/proc/self/ns/uts")]
        {
            assert!(matches!(verify(path), Err(NetnsError::NotNetns(_))), "{path:?}");
        }
        let absent = verify(&directory.path().join("absent"));
        assert!(matches!(absent, Err(NetnsError::Open { .. })), "{absent:?}");
    }
}
