//! Why a process could not be started, in words for the person who wanted it.

use dwell_core::id::InstanceName;
use serde::{Deserialize, Serialize};

/// A process could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot enter {instance}: {failure}")]
pub struct EnterError {
    /// The instance.
    pub instance: InstanceName,
    /// Why.
    pub failure: Failure,
}

/// Why a process could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// Its main process is not the one that was meant, or there is none.
    #[error("its container has ended; try again when it runs")]
    Gone,

    /// Who logs in under a name is the user of that name and no other.
    #[error("its container has no user {login:?}; {}", instead(known))]
    NoUser {
        /// The name.
        login: String,
        /// Some that it has: those that a person would log in as.
        known: Vec<String>,
    },

    /// Nothing in it runs until somebody lets it.
    #[error("its container is paused; somebody on its node has to let it go on")]
    Paused,

    /// The bound on a start.
    #[error(
        "its container did not let the process in within {seconds} s; is its disk or its CPU overloaded?"
    )]
    Slow {
        /// The bound, in seconds.
        seconds: u64,
    },

    /// Its limit of processes, or the host's.
    #[error("its container has as many processes as it may have")]
    Full,

    /// Its `/dev/pts` is not there, or not what it should be.
    #[error("its container has no terminals (/dev/pts); `ssh -T` does without")]
    NoTerminal,

    /// The command, the environment or the terminal's modes.
    #[error(
        "the request is larger than {limit} bytes; send the data on standard input or with sftp"
    )]
    TooLarge {
        /// The bound, in bytes.
        limit: usize,
    },

    /// What the container is made of cannot be read.
    #[error("the container's configuration cannot be used: {0}")]
    Bundle(String),

    /// A restriction of the container; without it nothing is started.
    #[error("the container's {what} cannot be applied: {reason}")]
    Restriction {
        /// Such as `seccomp filter`.
        what: String,
        /// What the kernel said.
        reason: String,
    },

    /// Anything else.
    #[error("cannot {what}: {reason}")]
    Step {
        /// What was tried.
        what: String,
        /// What the kernel said.
        reason: String,
    },
}

/// Which names there are.
fn instead(known: &[String]) -> String {
    match known {
        [] => "it has none with a shell, only its own: @container".to_owned(),
        known => format!("it has {}, and its own: @container", known.join(", ")),
    }
}

/// Says which step it was that failed.
pub(super) trait Step<T> {
    /// Of something that is needed.
    fn step(self, what: &str) -> Result<T, Failure>;

    /// Of something that restricts the process.
    fn restriction(self, what: &str) -> Result<T, Failure>;
}

impl<T, E: std::fmt::Display> Step<T> for Result<T, E> {
    fn step(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Step { what: what.to_owned(), reason: error.to_string() })
    }

    fn restriction(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Restriction {
            what: what.to_owned(),
            reason: error.to_string(),
        })
    }
}
