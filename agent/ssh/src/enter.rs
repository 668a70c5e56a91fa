//! Getting a process into a container: shells, commands and SFTP.
//!
//! Neither the engine nor the OCI runtime is asked, since both are slow and the engine may be away. What the
//! container is, is read from the kernel (namespaces, cgroups, limits of its main process) and from the OCI bundle
//! that it was made of (user, environment, capabilities, seccomp).
//!
//! ```text
//!   dwell-ssh ──spawns──► helper (this program, re-executed, on the host)
//!       ▲ ▲                 │ verifies the container, reads its bundle, opens its cgroups,
//!       │ │                 │ setns, clone (the child is dwell-ssh's), reports the child, ends
//!       │ └── pid, pidfd ───┘
//!       │                   └─► child (in the container's namespaces)
//!       └── terminal, agent socket ──│ joins the cgroups, drops all privileges, execs (or is the SFTP server)
//! ```
//!
//! So a session costs one process, the user's own, and dwell-ssh is its parent.
//!
//! Invariants:
//! - Nothing of the host gets in: no descriptor, environment, directory, limit, keyring or privilege.
//! - The host's program cannot be changed from inside: helpers run from a sealed copy of it in memory.
//! - A restriction of the container that cannot be applied ends the attempt; it is never left out.
//! - What the container contains (`/etc/passwd`, `/dev`, programs) is read from within it, bounded, and believed only as
//!   far as it concerns the container itself.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use dwell_core::id::InstanceName;
use dwell_core::ssh::SshContainer;

mod session;

pub use session::{Control, Exit, Session, SessionInput, SessionOutput};

/// Starts processes in containers.
#[derive(Debug)]
pub struct Enter {
    /// The agent's run directory, where the links to the bundles are.
    run_dir: PathBuf,
}

/// A process that is wanted in a container.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where.
    pub container: SshContainer,
    /// The container's instance, for messages.
    pub instance: InstanceName,
    /// The name the client logged in with; if the container's `/etc/passwd` does not have it, the container's
    /// own user is taken.
    pub login: String,
    /// What is to run.
    pub work: Work,
    /// The client's additions to the container's environment. Those that change which code a program loads
    /// are dropped.
    pub environment: Vec<(String, String)>,
    /// The terminal to run in; without one, three pipes.
    pub terminal: Option<Terminal>,
    /// Whether the process gets a socket to the client's SSH agent.
    pub agent_forwarding: bool,
}

/// What is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// The user's login shell.
    Shell,
    /// A command line, by the user's shell if there is one.
    Command(String),
    /// An SFTP server; it needs nothing of the image.
    Sftp,
}

/// A terminal as the client has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Its kind, for `TERM`.
    pub term: String,
    /// Width in characters.
    pub columns: u32,
    /// Height in characters.
    pub rows: u32,
    /// Width in pixels; 0 is unknown.
    pub pixel_width: u32,
    /// Height in pixels; 0 is unknown.
    pub pixel_height: u32,
    /// Modes: the codes of RFC 4254, section 8, and their values.
    pub modes: Vec<(u8, u32)>,
}

/// Why a process could not be started; for the user's eyes.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A resource of the host is missing.
    #[error("cannot start a process for {instance}")]
    Host {
        /// The instance.
        instance: InstanceName,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Enter {
    /// Makes the sealed copy of the running program that helpers are run from.
    ///
    /// # Errors
    /// If the program cannot be read or there is no memory for the copy.
    pub fn new(run_dir: PathBuf) -> io::Result<Self> {
        Ok(Self { run_dir })
    }

    /// Starts a process in a container. Takes a few milliseconds, and at most 10 seconds.
    ///
    /// Not cancel-safe in one respect only: a process started for a cancelled call gets SIGHUP.
    ///
    /// # Errors
    /// If the container is gone or paused, if what restricts it cannot be read or applied, or if the host or the
    /// container is out of something. What is wrong with the command itself is told by the session, as sshd does.
    pub async fn start(&self, request: Request) -> Result<Session, EnterError> {
        Err(EnterError::Host {
            instance: request.instance,
            source: io::Error::other(format!("not there yet: {:?}", self.run_dir)),
        })
    }
}

/// Does the helper's part, if this process is one; `main` calls this first, while there is one thread.
#[must_use]
pub fn helper_main() -> Option<ExitCode> {
    None
}
