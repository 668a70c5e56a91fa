//! How a command can fail: what is said, and the exit code that programs go by.

use std::error::Error;
use std::io;

use dwell_core::instance::sanitize;
use tonic::{Code, Status};

use crate::manifest::ManifestError;

/// The longest message of a server that is shown, in bytes.
const MESSAGE_MAX: usize = 4096;

/// Why a command failed. The message names the thing, the reason and the next step.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Arguments, a file or a request that make no sense.
    #[error("{0}")]
    Usage(String),
    /// What it is about does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Not in this state, or not for this caller.
    #[error("{0}")]
    Refused(String),
    /// The controller, or the node that is needed, does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// `--timeout` has passed.
    #[error("{0}")]
    TimedOut(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
    /// Nobody reads the output any more; nothing is left to say.
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    /// The exit code, as the long help has it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Other(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Refused(_) => 4,
            Self::Unavailable(_) => 5,
            Self::TimedOut(_) => 6,
            // What a program ends with that does not ignore SIGPIPE.
            Self::OutputClosed => 141,
        }
    }
}

impl From<Status> for Failure {
    /// The server's message as it is, but for what would command the terminal.
    fn from(status: Status) -> Self {
        let said = sanitize(status.message(), MESSAGE_MAX);
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Self::Usage(said),
            Code::NotFound => Self::NotFound(said),
            Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Aborted => Self::Refused(said),
            Code::DeadlineExceeded => Self::TimedOut(said),
            Code::Unimplemented => Self::Other(
                "the controller is older than this command line and cannot do that; update it"
                    .into(),
            ),
            // The transport's own errors have no words for people, but a source.
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
                if status.source().is_some() =>
            {
                Self::Unavailable(format!(
                    "the connection to the controller was lost before it answered: {}; look with \
                     `dwell ps` whether the request took effect, and try again",
                    first_cause(&status)
                ))
            }
            Code::Unavailable => Self::Unavailable(said),
            _ => Self::Other(said),
        }
    }
}

/// The deepest source of an error: what is above it says only that something went wrong.
pub(crate) fn first_cause(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    sanitize(&deepest.to_string(), MESSAGE_MAX)
}

impl From<io::Error> for Failure {
    /// Of writing the output.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Other(format!("cannot write the output: {error}")),
        }
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        Self::Usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_server_become_exit_codes() {
        let cases = [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 3),
            (Code::FailedPrecondition, 4),
            (Code::AlreadyExists, 4),
            (Code::PermissionDenied, 4),
            (Code::Unavailable, 5),
            (Code::DeadlineExceeded, 6),
            (Code::Internal, 1),
        ];
        for (code, exit) in cases {
            let failure = Failure::from(Status::new(code, "\u{1b}[31mno\r\n"));
            assert_eq!((failure.exit_code(), failure.to_string()), (exit, " [31mno".into()));
        }
    }
}
