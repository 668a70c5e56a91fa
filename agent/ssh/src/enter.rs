//! Getting a process into a container: shells, commands and SFTP.
//!
//! Neither the engine nor the OCI runtime is asked, since both are slow and the engine may be away. What the
//! container is, is read from the kernel (namespaces, cgroups, limits of its main process) and from the OCI bundle
//! that it was made of (user, environment, capabilities, seccomp).
//!
//! ```text
//!   dwell-ssh ──spawns──► helper (this program, re-executed), one for each container that is in use
//!       ▲ ▲                 │ verifies the container, reads its bundle, joins its cgroups, enters its namespaces
//!       │ │                 │ for each session: clone (the child is dwell-ssh's)
//!       │ └── pid, pidfd ───┤
//!       │                   └─► child, in the container's process namespace, too
//!       └── terminal, agent socket ──│ takes on all restrictions, then execs (or is the SFTP server)
//! ```
//!
//! So a session costs one process, the user's own, and dwell-ssh is its parent. What takes long is done once: to move
//! into a cgroup of version 1 waits for the kernel's RCU, up to 20 ms. A helper stays for [`IDLE`] after the
//! last start.
//!
//! Invariants:
//! - Nothing of the host gets in: no descriptor, environment, directory, limit, keyring or privilege.
//! - The host's program cannot be changed from inside: helpers run from a sealed copy of it in memory.
//! - A restriction of the container that cannot be applied ends the attempt; it is never left out.
//! - What the container contains (`/etc/passwd`, `/dev`, programs) is read from within it, bounded, and believed only as
//!   far as it concerns the container itself.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dwell_core::id::InstanceName;
use dwell_core::ssh::SshContainer;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use self::door::{Door, StartError};
use self::failure::Step as _;
use self::message::{Open, Start};
use self::program::Program;
use crate::auth::clean;

mod account_keys;
mod accounts;
mod agent;
mod bundle;
mod capabilities;
mod child;
mod command;
mod container;
mod door;
mod environment;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod helper;
mod limits;
mod message;
mod program;
mod seccomp;
mod session;
mod sftp;
mod socket;
mod sys;
mod terminal;

pub use failure::{EnterError, Failure};
pub use session::{Control, Exit, Session, SessionInput, SessionOutput};

/// How long a start may take.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest reason for which an account's keys do not count, in characters: it is the container's.
const MAX_REASON: usize = 512;
/// How long a helper stays where nothing is started any more.
const IDLE: Duration = Duration::from_secs(30);

/// Starts processes in containers.
#[derive(Debug)]
pub struct Enter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The agent's run directory, where the links to the bundles are.
    run_dir: PathBuf,
    program: Program,
    /// By the container's id. Bounded by the containers that were entered within [`IDLE`].
    doors: Mutex<HashMap<String, Entry>>,
}

/// A door that is open or about to be.
#[derive(Clone, Debug)]
struct Entry {
    container: SshContainer,
    door: Arc<OnceCell<Door>>,
    used: Instant,
}

/// A process that is wanted in a container.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where.
    pub container: SshContainer,
    /// The container's instance, for messages.
    pub instance: InstanceName,
    /// As whom: a name that is looked up in the container's `/etc/passwd`, or [`CONTAINERS_USER`].
    ///
    /// [`CONTAINERS_USER`]: dwell_core::ssh::CONTAINERS_USER
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// The user's login shell.
    Shell,
    /// A command line, by the user's shell if there is one.
    Command(String),
    /// An SFTP server; it needs nothing of the image.
    Sftp(SftpOptions),
    /// Nothing: whoever starts it wants to know whether there is such an account.
    Account {
        /// And whom it lets in: its `authorized_keys` is written to standard output; why it does not count, to standard
        /// error.
        keys: bool,
    },
    /// A connection to the Unix socket at this path; see [`Session::socket`].
    Connect(String),
    /// A listener at this path, likewise.
    Listen(String),
}

impl Request {
    /// One for something that dwell does itself.
    pub fn own(container: SshContainer, instance: InstanceName, login: String, work: Work) -> Self {
        Self {
            container,
            instance,
            login,
            work,
            environment: Vec::new(),
            terminal: None,
            agent_forwarding: false,
        }
    }
}

/// What an SFTP server is to do and to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SftpOptions {
    /// Nothing can be changed by it.
    pub read_only: bool,
    /// Where it begins, if it can be entered; absent: the user's home.
    pub directory: Option<String>,
}

/// A terminal as the client has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Enter {
    /// Makes the sealed copy of the running program that helpers are run from. Its `main` has to call
    /// [`helper_main`].
    ///
    /// # Errors
    /// If the program cannot be read or there is no memory for the copy.
    pub fn new(run_dir: PathBuf) -> io::Result<Self> {
        Self::with_program(run_dir, Path::new("/proc/self/exe"))
    }

    /// As [`Enter::new`], but with another program.
    ///
    /// # Errors
    /// As there.
    pub fn with_program(run_dir: PathBuf, program: &Path) -> io::Result<Self> {
        let program = Program::copy(program)?;
        Ok(Self { shared: Arc::new(Shared { run_dir, program, doors: Mutex::default() }) })
    }

    /// Enters a container ahead of the first start, so that this is faster: while a client logs in, for example.
    /// What goes wrong here is told by the start.
    pub fn prepare(&self, container: &SshContainer, instance: &InstanceName) {
        let (shared, container) = (Arc::clone(&self.shared), container.clone());
        let instance = instance.clone();
        tokio::spawn(async move {
            match timeout(START_TIMEOUT, shared.door(&container, &instance)).await {
                Ok(Ok(_)) => {}
                Ok(Err(failure)) => debug!(%instance, %failure, "cannot enter ahead"),
                Err(_) => shared.close(&container),
            }
            shared.close_later();
        });
    }

    /// Starts a process in a container. Takes a few milliseconds, and at most 10 seconds.
    ///
    /// If the call is cancelled, the process is started all the same, and gets SIGHUP.
    ///
    /// # Errors
    /// If the container is gone or paused, if what restricts it cannot be read or applied, or if the host or the
    /// container is out of something. What is wrong with the command itself is told by the session, as sshd does.
    pub async fn start(&self, request: Request) -> Result<Session, EnterError> {
        let shared = Arc::clone(&self.shared);
        let instance = request.instance.clone();
        // A task of its own, since a child that was made has to be waited for.
        let started = tokio::spawn(async move {
            let started = timeout(START_TIMEOUT, shared.start(&request)).await;
            if started.is_err() {
                shared.close(&request.container);
            }
            shared.close_later();
            started.unwrap_or(Err(Failure::Slow { seconds: START_TIMEOUT.as_secs() }))
        });
        let result = started.await.step("start a process").flatten();
        result.map_err(|failure| EnterError { instance, failure })
    }
}

impl Enter {
    /// Looks an account of a container up, and with `keys` whom it lets in itself: the text of its `authorized_keys`, which
    /// is empty without `keys`, if it has none, and if that does not count. Takes at most twice 10 seconds.
    ///
    /// # Errors
    /// [`Failure::NoUser`] if it has none of this name; otherwise as [`Enter::start`].
    pub async fn account(
        &self,
        container: &SshContainer,
        instance: &InstanceName,
        login: &str,
        keys: bool,
    ) -> Result<String, EnterError> {
        let (work, login) = (Work::Account { keys }, login.to_owned());
        let request = Request::own(container.clone(), instance.clone(), login.clone(), work);
        let session = self.start(request).await?;
        if !keys {
            return Ok(String::new());
        }
        let read = async |output: SessionOutput| {
            let mut bytes = Vec::new();
            output.take(account_keys::MAX_BYTES).read_to_end(&mut bytes).await?;
            io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let errors = async {
            match session.errors {
                Some(errors) => read(errors).await,
                None => Ok(String::new()),
            }
        };
        let both = async { tokio::try_join!(read(session.output), errors) };
        match timeout(START_TIMEOUT, both).await {
            Ok(Ok((text, reason))) if reason.is_empty() => Ok(text),
            Ok(Ok((_, reason))) => {
                let reason = clean(&reason, MAX_REASON);
                info!(%instance, login, reason, "the authorized_keys of an account do not count");
                Ok(String::new())
            }
            Ok(Err(error)) => Err(error).step("read authorized_keys"),
            Err(_) => Err(Failure::Slow { seconds: START_TIMEOUT.as_secs() }),
        }
        .map_err(|failure| EnterError { instance: instance.clone(), failure })
    }
}

/// What [`Work::Connect`] or [`Work::Listen`] made.
///
/// # Errors
/// As [`Enter::start`], and if the socket cannot be made so.
pub(crate) async fn socket<S: From<OwnedFd>>(
    enter: &Enter,
    request: Request,
) -> Result<S, EnterError> {
    let instance = request.instance.clone();
    let session = enter.start(request).await?;
    let socket = session.socket.ok_or("there is none").step("make a socket");
    let socket = socket.and_then(|socket| {
        rustix::io::ioctl_fionbio(&socket, true).step("make a socket")?;
        Ok(socket.into())
    });
    socket.map_err(|failure| EnterError { instance, failure })
}

impl Shared {
    async fn start(self: &Arc<Self>, request: &Request) -> Result<Session, Failure> {
        let start = Start {
            login: request.login.clone(),
            work: request.work.clone(),
            environment: request.environment.clone(),
            terminal: request.terminal.clone(),
            agent_forwarding: request.agent_forwarding,
        };
        let mut attempts = 2;
        loop {
            attempts -= 1;
            let door = self.door(&request.container, &request.instance).await?;
            match door.get().ok_or("it was closed").step("open a door")?.start(&start).await {
                Ok(session) => return Ok(session),
                Err(StartError::Failed(failure)) => return Err(failure),
                // The helper may have been killed, by the container's limit of memory for one.
                Err(StartError::Broken(error)) => {
                    self.close(&request.container);
                    if attempts == 0 {
                        return Err(error).step("reach the helper");
                    }
                }
            }
        }
    }

    /// The open door to a container; several who want it wait for the one that opens it.
    async fn door(
        &self,
        container: &SshContainer,
        instance: &InstanceName,
    ) -> Result<Arc<OnceCell<Door>>, Failure> {
        let door = {
            let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Entry {
                container: container.clone(),
                door: Arc::default(),
                used: Instant::now(),
            };
            let entry = doors.entry(container.id.clone()).or_insert_with(fresh);
            if entry.container != *container {
                *entry = fresh();
            }
            entry.used = Instant::now();
            Arc::clone(&entry.door)
        };
        let open = Open {
            instance: instance.to_string(),
            pid: container.pid,
            start_ticks: container.start_ticks,
            bundle: self.run_dir.join("bundles").join(&container.id),
        };
        door.get_or_try_init(|| Door::open(&self.program, &open)).await?;
        Ok(door)
    }

    fn close(&self, container: &SshContainer) {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner).remove(&container.id);
    }

    /// Closes the doors that nobody used, when the present one's time has come, too.
    fn close_later(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            sleep(IDLE).await;
            let mut doors = shared.doors.lock().unwrap_or_else(PoisonError::into_inner);
            doors.retain(|_, entry| entry.used.elapsed() < IDLE);
        });
    }
}

/// Does the helper's part, if this process is one; `main` calls this first, while there is one thread.
#[must_use]
pub fn helper_main() -> Option<ExitCode> {
    let is_helper = std::env::args_os().next().is_some_and(|name| name == helper::NAME);
    is_helper.then(helper::run)
}
