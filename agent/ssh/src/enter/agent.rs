//! The socket through which a process reaches the client's SSH agent.
//!
//! It lies in a directory of its own that only the user may enter. Both are removed from outside when the session ends,
//! by descriptors, since the process itself has become another program by then.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{AtFlags, unlinkat};
use rustix::rand::GetRandomFlags;

/// Where the directory may lie, in order; the latter is there in any image.
const PARENTS: [&str; 2] = ["/tmp", "/dev/shm"];
/// The socket's name in its directory.
const SOCKET: &str = "agent";

/// The socket as the process makes it.
#[derive(Debug)]
pub(super) struct AgentSocket {
    pub(super) listener: UnixListener,
    pub(super) directory: OwnedFd,
    /// The directory's name in `parent`.
    pub(super) name: String,
    pub(super) parent: OwnedFd,
    /// For `SSH_AUTH_SOCK`.
    pub(super) path: String,
}

/// The directory with the socket, as dwell-ssh has it. Both are removed when this is dropped.
#[derive(Debug)]
pub(super) struct AgentDirectory {
    pub(super) directory: OwnedFd,
    pub(super) parent: OwnedFd,
    pub(super) name: String,
}

impl AgentSocket {
    /// Makes a socket as the user and in the container that this process runs as and in.
    pub(super) fn make() -> io::Result<Self> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
        let name = format!("ssh-{:016x}", u64::from_ne_bytes(random));
        let mut result = Err(io::ErrorKind::NotFound.into());
        for parent in PARENTS {
            result = Self::make_in(Path::new(parent), &name);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn make_in(parent: &Path, name: &str) -> io::Result<Self> {
        let directory = parent.join(name);
        // Fails if the name is taken, also by a link.
        std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let path = directory.join(SOCKET);
        Ok(Self {
            listener: UnixListener::bind(&path)?,
            directory: open(&directory)?,
            name: name.to_owned(),
            parent: open(parent)?,
            path: path.display().to_string(),
        })
    }
}

impl Drop for AgentDirectory {
    fn drop(&mut self) {
        // Whoever lives in the container may have changed all this; it is only theirs, and no link is followed.
        let socket = unlinkat(&self.directory, SOCKET, AtFlags::empty());
        let directory = unlinkat(&self.parent, &*self.name, AtFlags::REMOVEDIR);
        if let Err(error) = socket.and(directory) {
            tracing::debug!(%error, name = self.name, "an agent's socket stays behind");
        }
    }
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    Ok(File::options().read(true).custom_flags(flags).open(directory)?.into())
}
