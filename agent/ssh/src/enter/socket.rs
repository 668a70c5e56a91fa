//! Unix sockets that a client forwards: made in the container, as the user.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::Mode;
use rustix::process::umask;

/// What others may not do with a socket that is listened on: anything, as with sshd.
const MASK: Mode = Mode::RWXG.union(Mode::RWXO).union(Mode::XUSR);

/// A connection to the socket at `path`.
pub(super) fn connect(path: &str) -> io::Result<OwnedFd> {
    Ok(UnixStream::connect(path)?.into())
}

/// A listener at `path`, for this process's user alone. A socket that is there already goes if nobody listens on it.
pub(super) fn listen(path: &str) -> io::Result<OwnedFd> {
    umask(MASK);
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        listener => listener,
    };
    Ok(listener?.into())
}

/// Whether it is a socket that nobody listens on, as one whose session has ended.
fn is_abandoned(path: &str) -> bool {
    let is_socket =
        fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refuses =
        || UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    is_socket && refuses()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_abandoned_socket_makes_room_for_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let first = listen(&path("socket")).unwrap();
        connect(&path("socket")).unwrap();
        assert_eq!(listen(&path("socket")).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let _second = listen(&path("socket")).unwrap();
        fs::write(path("file"), "").unwrap();
        assert_eq!(listen(&path("file")).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(fs::exists(path("file")).unwrap());
    }
}
