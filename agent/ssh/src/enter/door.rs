//! A door into a container: its helper, as dwell-ssh has it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;

use dwell_daemon::cgroups;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tracing::warn;

use super::agent::AgentDirectory;
use super::failure::{Failure, Step as _};
use super::message::{self, MAX_BYTES, Open, Report, Start};
use super::program::Program;
use super::session::{Control, Session, SessionInput, SessionOutput};
use super::{Work, helper, sys};

/// The size of the pipes of an SFTP server, in bytes, so that it and dwell-ssh work at the same time; more than
/// the largest packet either way.
const SFTP_PIPE_BYTES: i32 = 1 << 20;
/// Longest file about a cgroup's state that is read, in bytes.
const MAX_STATE_BYTES: usize = 256;

/// A container that a helper stands in.
#[derive(Debug)]
pub(super) struct Door {
    socket: Socket,
    /// Tells whether the container is frozen; the helper is then, too.
    freezer: Option<File>,
    /// Killed when this is dropped, unless it has ended since its socket was closed.
    _helper: Child,
}

/// Why a start failed.
#[derive(Debug)]
pub(super) enum StartError {
    /// The door is of no use any more; another one might be.
    Broken(io::Error),
    /// It cannot be.
    Failed(Failure),
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Door {
    /// Opens a container.
    pub(super) async fn open(program: &Program, open: &Open) -> Result<Self, Failure> {
        let what = "start a helper";
        let (ours, theirs) = message::socket_pair().step(what)?;
        let helper = Command::new(program.path())
            .arg0(helper::NAME)
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .step(what)?;
        let socket = Socket::new(ours).step(what)?;
        socket.send(open, &[]).await.step(what)?;
        match socket.receive().await.step(what)? {
            Some((Report::Opened { notes }, descriptors)) => {
                for note in notes {
                    warn!(
                        instance = open.instance,
                        note, "a session is restricted more than its container"
                    );
                }
                let freezer = descriptors.into_iter().next().map(File::from);
                Ok(Self { socket, freezer, _helper: helper })
            }
            Some((Report::Failed(failure), _)) => Err(failure),
            _ => Err("it ended; was it killed?").step(what),
        }
    }

    /// Starts a process.
    pub(super) async fn start(&self, start: &Start) -> Result<Session, StartError> {
        if self.is_frozen() {
            return Err(Failure::Paused.into());
        }
        let what = "connect the process";
        let (ours, theirs) = message::socket_pair().step(what)?;
        let pipes = start.terminal.is_none().then(|| Pipes::new(start)).transpose().step(what)?;
        let mut descriptors = vec![theirs.as_fd()];
        descriptors
            .extend(pipes.iter().flat_map(|pipes| pipes.theirs.iter().map(|end| end.as_fd())));
        self.socket.send(start, &descriptors).await.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => Failure::TooLarge { limit: MAX_BYTES }.into(),
            _ => StartError::Broken(error),
        })?;
        // Nobody here holds the other side's ends, so that their end is seen.
        drop(theirs);
        let ends = pipes.map(|pipes| pipes.ours);

        let session = Socket::new(ours).step(what)?;
        let mut process = None;
        let mut made = None;
        // They come from two processes, in any order. Also a child that failed has to be waited for.
        while process.is_none() || made.is_none() {
            match session.receive().await.map_err(StartError::Broken)? {
                Some((Report::Cloned { pid }, descriptors)) => {
                    let pidfd = descriptors.into_iter().next().ok_or("no descriptor").step(what)?;
                    process = Some(Control::adopt(pid, pidfd).step(what)?);
                }
                Some((Report::Ready { terminal, socket, agent }, descriptors)) => {
                    made = Some(Ready::new(terminal, socket, agent, descriptors).step(what));
                }
                Some((Report::Failed(failure), _)) => made = Some(Err(failure)),
                Some((Report::Opened { .. }, _)) => {}
                None => break,
            }
        }
        match (process, made) {
            (Some(control), Some(Ok(ready))) => {
                ready.into_session(control, ends).step(what).map_err(StartError::Failed)
            }
            (_, Some(Err(failure))) => Err(failure.into()),
            // Killed by its own filter of system calls, for one.
            (Some(mut control), None) => {
                let exit = control.wait().await;
                Err(format!("it ended at once: {exit}"))
                    .step("make the process")
                    .map_err(StartError::Failed)
            }
            (None, _) => Err(StartError::Broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn is_frozen(&self) -> bool {
        let mut state = [0; MAX_STATE_BYTES];
        let Some(Ok(length)) = self.freezer.as_ref().map(|file| file.read_at(&mut state, 0)) else {
            return false;
        };
        cgroups::is_frozen(&String::from_utf8_lossy(state.get(..length).unwrap_or_default()))
    }
}

/// The ends of the three pipes of a process without a terminal.
struct Pipes {
    ours: Ends,
    theirs: [OwnedFd; 3],
}

type Ends = (SessionInput, SessionOutput, SessionOutput);

impl Pipes {
    fn new(start: &Start) -> io::Result<Self> {
        let (input, their_input) = pipe::pipe()?;
        let (their_output, output) = pipe::pipe()?;
        let (their_errors, errors) = pipe::pipe()?;
        let theirs = [
            their_input.into_blocking_fd()?,
            their_output.into_blocking_fd()?,
            their_errors.into_blocking_fd()?,
        ];
        if matches!(start.work, Work::Sftp(_)) {
            use nix::fcntl::{FcntlArg, fcntl};
            for end in theirs.iter().take(2) {
                // It works with less, too.
                fcntl(end, FcntlArg::F_SETPIPE_SZ(SFTP_PIPE_BYTES)).ok();
            }
        }
        let ours =
            (SessionInput::pipe(input), SessionOutput::pipe(output), SessionOutput::pipe(errors));
        Ok(Self { ours, theirs })
    }
}

/// What a child made that is the session's.
struct Ready {
    terminal: Option<OwnedFd>,
    socket: Option<OwnedFd>,
    agent: Option<(UnixListener, AgentDirectory)>,
}

impl Ready {
    fn new(
        terminal: bool,
        socket: bool,
        agent: Option<String>,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(io::ErrorKind::InvalidData);
        let terminal = terminal.then(&mut next).transpose()?;
        let socket = socket.then(&mut next).transpose()?;
        let agent = match agent {
            None => None,
            Some(name) => {
                let listener = std::os::unix::net::UnixListener::from(next()?);
                listener.set_nonblocking(true)?;
                let directory = AgentDirectory { directory: next()?, parent: next()?, name };
                Some((UnixListener::from_std(listener)?, directory))
            }
        };
        Ok(Self { terminal, socket, agent })
    }

    fn into_session(self, control: Control, pipes: Option<Ends>) -> io::Result<Session> {
        let mut control = control;
        let agent_listener = self.agent.map(|(listener, directory)| {
            control.keep(directory);
            listener
        });
        let (input, output, errors) = match (self.terminal, pipes) {
            (Some(terminal), _) => {
                let (input, output) = control.with_terminal(terminal)?;
                (input, output, None)
            }
            (None, Some((input, output, errors))) => (input, output, Some(errors)),
            (None, None) => return Err(io::ErrorKind::InvalidData.into()),
        };
        control.hand_over();
        Ok(Session { input, output, errors, socket: self.socket, agent_listener, control })
    }
}

/// One of the sockets, as a task uses it.
#[derive(Debug)]
struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self(sys::wait_on(socket, Interest::READABLE | Interest::WRITABLE)?))
    }

    async fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[std::os::fd::BorrowedFd<'_>],
    ) -> io::Result<()> {
        let send = |socket: &OwnedFd| message::send(socket, message, descriptors);
        self.0.async_io(Interest::WRITABLE, send).await
    }

    async fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        self.0.async_io(Interest::READABLE, |socket| message::receive(socket)).await
    }
}
