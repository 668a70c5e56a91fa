//! A process in a container, as dwell-ssh has it: its streams, its terminal, its end.
//!
//! dwell-ssh is the parent, though it did not make the process itself. A task waits for each process until it has ended,
//! also for one whose session is long gone: nothing else would, and the container could not end.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use super::agent::AgentDirectory;
use super::{sys, terminal};

/// What is reported of a process whose end nobody saw.
const UNKNOWN: Exit = Exit::Code(255);
/// The pauses between two looks at a process that has ended and cannot be waited for yet: the first, and the longest.
const REAP_PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// A running process.
#[derive(Debug)]
pub struct Session {
    /// What it reads. Shut down or dropped, it sees the end of its input (not in a terminal, which has none).
    pub input: SessionInput,
    /// What it writes; ends when nobody holds it open any more, which may be after the process itself.
    pub output: SessionOutput,
    /// What it writes to its standard error, unless it has a terminal.
    pub errors: Option<SessionOutput>,
    /// The Unix socket that was wanted: a connection or a listener.
    pub socket: Option<OwnedFd>,
    /// Accepts the connections to the client's SSH agent. Absent if none was asked for, or the container has
    /// no directory to put the socket in.
    pub agent_listener: Option<UnixListener>,
    /// Signals and the end. Dropped before that, it sends SIGHUP to the process group.
    pub control: Control,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with a code.
    Code(u32),
    /// By a signal.
    Signal {
        /// Its name without `SIG`, such as `KILL`.
        name: String,
        /// Whether a core was written.
        core_dumped: bool,
        /// For the user.
        message: String,
    },
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "status {code}"),
            Self::Signal { message, .. } => f.write_str(message),
        }
    }
}

/// Commands a session's process.
#[derive(Debug)]
pub struct Control {
    group: Arc<Mutex<Group>>,
    /// Whether the process has become the user's. Before that it has more rights than the container.
    is_users: bool,
    exit: watch::Receiver<Option<Exit>>,
    terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    _agent: Option<AgentDirectory>,
}

/// The process group, which is a target for signals as long as its leader was not waited for: only so long is
/// the number surely its own.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Control {
    /// Takes over a child of this process; `pid` is its number and `pidfd` refers to it.
    pub(super) fn adopt(pid: i32, pidfd: OwnedFd) -> io::Result<Self> {
        let group = Arc::new(Mutex::new(Group(Some(Pid::from_raw(pid)))));
        let (ended, exit) = watch::channel(None);
        let pidfd = sys::wait_on(pidfd, Interest::READABLE)?;
        tokio::spawn(reap(pidfd, Arc::clone(&group), ended));
        Ok(Self { group, is_users: false, exit, terminal: None, _agent: None })
    }

    /// Notes that the process has taken on all restrictions: from here on it is hung up and not killed when this is
    /// dropped.
    pub(super) fn hand_over(&mut self) {
        self.is_users = true;
    }

    /// Takes the directory of the agent's socket, which goes when this is dropped.
    pub(super) fn keep(&mut self, agent: AgentDirectory) {
        self._agent = Some(agent);
    }

    /// Takes the master of the process's terminal; returns what is written to and read from it.
    pub(super) fn with_terminal(
        &mut self,
        master: OwnedFd,
    ) -> io::Result<(SessionInput, SessionOutput)> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let terminal = Arc::new(sys::wait_on(master, Interest::READABLE | Interest::WRITABLE)?);
        self.terminal = Some(Arc::clone(&terminal));
        let input = SessionInput(Some(Sink::Terminal(Arc::clone(&terminal))));
        Ok((input, SessionOutput(Source::Terminal(terminal))))
    }

    /// Tells the terminal its new size, in characters and pixels; of no effect without a terminal.
    pub fn resize(&self, columns: u32, rows: u32, pixel_width: u32, pixel_height: u32) {
        let Some(terminal) = &self.terminal else { return };
        let resized =
            terminal::resize(terminal.get_ref(), columns, rows, pixel_width, pixel_height);
        if let Err(error) = resized {
            debug!(%error, "cannot resize a terminal");
        }
    }

    /// Sends a signal, by its name without `SIG`, to the process group. Unknown names and processes that have
    /// ended are passed over.
    pub fn signal(&self, name: &str) {
        let Ok(signal) = format!("SIG{name}").parse::<Signal>() else {
            debug!(name, "an unknown signal is not sent");
            return;
        };
        if let Group(Some(group)) = *lock(&self.group)
            && let Err(error) = killpg(group, signal)
        {
            debug!(%error, name, "cannot send a signal");
        }
    }

    /// Waits until the process has ended; more often than once, if need be. Cancel-safe.
    pub async fn wait(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(UNKNOWN),
            Err(_) => UNKNOWN,
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if self.is_users {
            self.signal("HUP");
        } else if let Group(Some(process)) = *lock(&self.group)
            // It need not have a group of its own yet, and it may be stopped: nothing else ends it then.
            && let Err(error) = kill(process, Signal::SIGKILL)
        {
            debug!(%error, "cannot end a process that did not become a session's");
        }
    }
}

fn lock(group: &Mutex<Group>) -> MutexGuard<'_, Group> {
    group.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the end of a process, so that it is no zombie.
///
/// A process that is traced belongs to its tracer first: it has ended, and the pidfd says so, but until the tracer has
/// waited for it, or has ended itself, there is no status for us. Tracers are programs in containers, so that can take any
/// time; but who gave up here would leave a zombie for ever, and with it the whole container.
async fn reap(
    pidfd: AsyncFd<OwnedFd>,
    group: Arc<Mutex<Group>>,
    ended: watch::Sender<Option<Exit>>,
) {
    if let Err(error) = pidfd.readable().await {
        debug!(%error, "cannot wait for the end of a process; looking for it");
    }
    let (mut pause, longest) = REAP_PAUSES;
    let exit = loop {
        if let Some(exit) = try_reap(&pidfd, &mut lock(&group)) {
            break exit;
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    };
    ended.send_replace(Some(exit));
}

/// How a process ended, if it can be waited for. Its number is not its own any more then.
fn try_reap(pidfd: &AsyncFd<OwnedFd>, group: &mut Group) -> Option<Exit> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let exit = match waitid(WaitId::PidFd(pidfd.as_fd()), options) {
        Ok(None) => return None,
        Ok(Some(status)) => Exit::of(&status),
        Err(error) => {
            debug!(%error, "cannot tell how a process ended");
            UNKNOWN
        }
    };
    *group = Group(None);
    Some(exit)
}

impl Exit {
    fn of(status: &WaitIdStatus) -> Self {
        if let Some(code) = status.exit_status() {
            return Self::Code(code.unsigned_abs());
        }
        let number = status.terminating_signal().unwrap_or_default();
        let name = Signal::try_from(number)
            .ok()
            .and_then(|signal| signal.as_str().strip_prefix("SIG"))
            .map_or_else(|| number.to_string(), str::to_owned);
        let message = format!("ended by signal {name}");
        Self::Signal { name, core_dumped: status.dumped(), message }
    }
}

/// Where a session's input goes.
#[derive(Debug)]
pub struct SessionInput(Option<Sink>);

#[derive(Debug)]
enum Sink {
    Pipe(pipe::Sender),
    Terminal(Arc<AsyncFd<OwnedFd>>),
}

/// Where a session's output comes from.
#[derive(Debug)]
pub struct SessionOutput(Source);

#[derive(Debug)]
enum Source {
    Pipe(pipe::Receiver),
    Terminal(Arc<AsyncFd<OwnedFd>>),
}

impl SessionInput {
    pub(super) fn pipe(pipe: pipe::Sender) -> Self {
        Self(Some(Sink::Pipe(pipe)))
    }
}

impl SessionOutput {
    pub(super) fn pipe(pipe: pipe::Receiver) -> Self {
        Self(Source::Pipe(pipe))
    }
}

impl AsyncWrite for SessionInput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(Sink::Pipe(pipe)) => Pin::new(pipe).poll_write(context, bytes),
            Some(Sink::Terminal(terminal)) => loop {
                let mut guard = ready!(terminal.poll_write_ready(context))?;
                let write = |terminal: &AsyncFd<OwnedFd>| Ok(rustix::io::write(terminal, bytes)?);
                if let Ok(result) = guard.try_io(write) {
                    return Poll::Ready(result);
                }
            },
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The last writer of a pipe ends it by closing.
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for SessionOutput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let terminal = match &mut self.0 {
            Source::Pipe(pipe) => return Pin::new(pipe).poll_read(context, buffer),
            Source::Terminal(terminal) => terminal,
        };
        loop {
            let mut guard = ready!(terminal.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            let read = |terminal: &AsyncFd<OwnedFd>| Ok(rustix::io::read(terminal, unfilled)?);
            let Ok(result) = guard.try_io(read) else { continue };
            return Poll::Ready(match result {
                Ok(read) => {
                    buffer.advance(read);
                    Ok(())
                }
                // Nobody has the terminal any more.
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(()),
                Err(error) => Err(error),
            });
        }
    }
}
