//! A process in a container, as dwell-ssh has it: its streams, its terminal, its end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;

/// A running process.
#[derive(Debug)]
pub struct Session {
    /// What it reads. Shut down or dropped, it sees the end of its input (not in a terminal, which has none).
    pub input: SessionInput,
    /// What it writes; ends when nobody holds it open any more, which may be after the process itself.
    pub output: SessionOutput,
    /// What it writes to its standard error, unless it has a terminal.
    pub errors: Option<SessionOutput>,
    /// Accepts the connections to the client's SSH agent. Absent if none was asked for, or the container has
    /// no directory to put the socket in.
    pub agent_listener: Option<UnixListener>,
    /// Signals and the end. Dropped before that, it sends SIGHUP to the process group.
    pub control: Control,
}

/// Where a session's input goes.
#[derive(Debug)]
pub struct SessionInput {}

/// Where a session's output comes from.
#[derive(Debug)]
pub struct SessionOutput {}

/// Commands a session's process.
#[derive(Debug)]
pub struct Control {}

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

impl Control {
    /// Tells the terminal its new size, in characters and pixels; of no effect without a terminal.
    pub fn resize(&self, _columns: u32, _rows: u32, _pixel_width: u32, _pixel_height: u32) {}

    /// Sends a signal, by its name without `SIG`, to the process group. Unknown names and processes that have
    /// ended are passed over.
    pub fn signal(&self, _name: &str) {}

    /// Waits until the process has ended; more often than once, if need be. Cancel-safe.
    pub async fn wait(&mut self) -> Exit {
        Exit::Code(255)
    }
}

impl AsyncWrite for SessionInput {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        _bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(0))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for SessionOutput {
    fn poll_read(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        _buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
