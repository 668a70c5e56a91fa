//! Why a request failed, and the number that SFTP has for it.

use std::io;

use rustix::io::Errno;

use super::packet::{self, Malformed};

/// Why a request failed; each becomes a status.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    System(#[from] io::Error),
    #[error("end of file")]
    EndOfFile,
    #[error("not supported")]
    Unsupported,
    #[error("malformed request")]
    Malformed,
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

impl Failure {
    /// The number for it, as OpenSSH chooses them.
    pub(super) fn status(&self) -> u32 {
        let error = match self {
            Self::System(error) => error,
            Self::EndOfFile => return packet::END_OF_FILE,
            Self::Unsupported => return packet::UNSUPPORTED,
            Self::Malformed => return packet::BAD_MESSAGE,
        };
        match Errno::from_io_error(error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP) => packet::NO_SUCH_FILE,
            Some(Errno::PERM | Errno::ACCESS | Errno::ROFS) => packet::PERMISSION_DENIED,
            Some(Errno::NAMETOOLONG | Errno::INVAL) => packet::BAD_MESSAGE,
            Some(Errno::NOSYS | Errno::OPNOTSUPP) => packet::UNSUPPORTED,
            // Not the system's, but the standard library's: a NUL in a name, for one.
            None if error.kind() == io::ErrorKind::InvalidInput => packet::BAD_MESSAGE,
            None if error.kind() == io::ErrorKind::NotFound => packet::NO_SUCH_FILE,
            _ => packet::FAILURE,
        }
    }
}
