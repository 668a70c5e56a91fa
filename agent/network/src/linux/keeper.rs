//! What the agent does not do itself: makes and enters network namespaces, mounts them on their names, writes settings of
//! the kernel.
//!
//! That takes `CAP_SYS_ADMIN` and the host's mount namespace, and nothing else of the agent does. So it is done by the
//! *keeper*, a small program of its own (`dwell-agent keep-sandboxes`), and the agent runs without both.
//!
//! ```text
//!   agent ── one call, at most one descriptor ──▶ keeper ──▶ unshare, setns, mount, /proc/sys
//!         ◀── done, missing or failed; a namespace and a socket in it ──
//! ```
//!
//! A call names a sandbox of the run directory, or one of a [fixed list](setting) of settings; a path can not be named. Programs
//! that run with all rights anyway, such as `dwell-agent cleanup`, and tests have the same calls answered by a thread of their own
//! ([`Keeping::Here`]).

mod setting;
mod wire;
mod work;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with, socketpair,
};

use self::wire::Answer;
pub(super) use self::wire::Call;
use self::work::Work;

/// How many may be connected at a time: the agent, and what an operator runs beside it. One more is turned away.
const CONNECTIONS_MAX: usize = 8;
/// How long an answer may take; the slowest call makes a namespace, in milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a keeper that is being started anew is waited for, and how often to look.
const RETURN_LIMIT: Duration = Duration::from_secs(2);
const RETURN_POLL: Duration = Duration::from_millis(20);

/// Who answers the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeping {
    /// A thread of this process, which has to have the rights.
    #[default]
    Here,
    /// The keeper that listens in the run directory.
    Served,
}

/// Where the keeper listens.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("sandboxes.sock")
}

/// Answers the calls of root's programs until it is killed; `ready` is called once it listens.
///
/// # Errors
/// If it cannot listen.
pub fn serve(run_dir: &Path, ready: impl FnOnce()) -> io::Result<()> {
    fs::create_dir_all(run_dir)?;
    let path = socket_path(run_dir);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = socket()?;
    bind(&listener, &SocketAddrUnix::new(&path)?)?;
    // Before anybody can connect.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    listen(&listener, i32::try_from(CONNECTIONS_MAX).unwrap_or(i32::MAX))?;
    ready();
    let work = Arc::new(Mutex::new(Work::new(run_dir)));
    loop {
        let connection = accept_with(&listener, SocketFlags::CLOEXEC)?;
        if !socket_peercred(&connection).is_ok_and(|peer| peer.uid.is_root()) {
            tracing::warn!("a program that is not root's was turned away");
            continue;
        }
        if Arc::strong_count(&work) > CONNECTIONS_MAX {
            tracing::warn!(CONNECTIONS_MAX, "one connection too many was turned away");
            continue;
        }
        answer_on_own_thread(connection, Arc::clone(&work))?;
    }
}

/// Who makes the calls. Clones share one connection.
#[derive(Clone)]
pub(super) struct Keeper {
    connection: Arc<Mutex<Option<OwnedFd>>>,
    /// Where to connect anew; `None` where a thread of this process answers.
    path: Option<PathBuf>,
}

impl Keeper {
    /// In the namespaces of the calling thread if it is `Here`. A keeper that is served need not be there yet.
    pub(super) fn open(keeping: Keeping, run_dir: &Path) -> io::Result<Self> {
        let (connection, path) = match keeping {
            Keeping::Served => (None, Some(socket_path(run_dir))),
            Keeping::Here => {
                let kind = SocketType::SEQPACKET;
                let (own, other) =
                    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
                answer_on_own_thread(other, Arc::new(Mutex::new(Work::new(run_dir))))?;
                (Some(limited(own)?), None)
            }
        };
        Ok(Self { connection: Arc::new(Mutex::new(connection)), path })
    }

    /// Has `call` done, with what it is about; `None` if there is no such thing.
    pub(super) fn call(
        &self,
        call: &Call,
        about: Option<BorrowedFd<'_>>,
    ) -> io::Result<Option<Vec<OwnedFd>>> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let is_sent = connection.as_ref().is_some_and(|it| wire::send(it, call, about).is_ok());
        if !is_sent {
            // The keeper has been started anew, and has seen nothing of it.
            *connection = None;
            let new = self.connect()?;
            wire::send(&new, call, about)?;
            *connection = Some(new);
        }
        let Some(connected) = connection.as_ref() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        match wire::receive(connected) {
            Ok(Some((Answer::Done, given))) => Ok(Some(given)),
            Ok(Some((Answer::Missing, _))) => Ok(None),
            Ok(Some((Answer::Failed { errno: Some(errno), .. }, _))) => {
                Err(io::Error::from_raw_os_error(errno))
            }
            Ok(Some((Answer::Failed { reason, .. }, _))) => Err(io::Error::other(reason)),
            // What comes later would be taken for the answer to another call.
            lost => {
                *connection = None;
                let ended = || io::Error::from(io::ErrorKind::ConnectionAborted);
                Err(lost.err().unwrap_or_else(ended))
            }
        }
    }

    fn connect(&self) -> io::Result<OwnedFd> {
        let Some(path) = &self.path else {
            return Err(io::Error::other("the thread that keeps sandboxes has ended"));
        };
        let address = SocketAddrUnix::new(path)?;
        let start = Instant::now();
        loop {
            let socket = socket()?;
            match connect(&socket, &address) {
                Ok(()) => return limited(socket),
                Err(_) if start.elapsed() < RETURN_LIMIT => thread::sleep(RETURN_POLL),
                Err(source) => {
                    let unreachable = Unreachable { path: path.clone(), source: source.into() };
                    return Err(io::Error::new(io::ErrorKind::NotConnected, unreachable));
                }
            }
        }
    }
}

/// Nobody makes sandboxes.
#[derive(Debug, thiserror::Error)]
#[error(
    "nobody listens at {}; `systemctl start dwell-sandboxes` starts what makes sandboxes, and `journalctl -u dwell-sandboxes` \
     says why it has ended",
    path.display()
)]
struct Unreachable {
    path: PathBuf,
    source: io::Error,
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn limited(connection: OwnedFd) -> io::Result<OwnedFd> {
    set_socket_timeout(&connection, Timeout::Recv, Some(ANSWER_LIMIT))?;
    set_socket_timeout(&connection, Timeout::Send, Some(ANSWER_LIMIT))?;
    Ok(connection)
}

/// The thread ends with the connection.
fn answer_on_own_thread(connection: OwnedFd, work: Arc<Mutex<Work>>) -> io::Result<()> {
    let thread = thread::Builder::new().name("dwell-keeper".to_owned());
    thread.spawn(move || answer(&connection, &work))?;
    Ok(())
}

fn answer(connection: &OwnedFd, work: &Mutex<Work>) {
    while let Ok(Some((call, given))) = wire::receive(connection) {
        // One call at a time, whoever makes it.
        let work = work.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, found) = match work.carry_out(&call, given.first()) {
            Ok(Some(found)) => (Answer::Done, found),
            Ok(None) => (Answer::Missing, Vec::new()),
            Err(error) => (Answer::from(&error), Vec::new()),
        };
        drop(work);
        let found: Vec<_> = found.iter().map(|it| it.as_fd()).collect();
        if wire::send_all(connection, &answer, &found).is_err() {
            return;
        }
    }
}
