//! Output and commands of the fake engine's containers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use dwell_core::clock::Timestamp;
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio_util::bytes::Bytes;

use super::behaviour::Command;
use super::state::{FakeContainer, Shared, State};
use super::{
    ContainerId, ContainerState, EngineError, ExecRequest, ExecSession, LogOptions, OutputStream,
};
use crate::{ExecControl, Output, TerminalSize};

/// How many bytes a command's input holds before it is read.
const PIPE_BYTES: usize = 16 * 1024;

/// What a container wrote, and, to follow, what it writes until it ends or the engine goes away.
pub(super) fn logs(shared: Arc<Shared>, id: ContainerId, options: &LogOptions) -> OutputStream {
    let LogOptions { follow, since, timestamps, .. } = *options;
    let there = shared.state().container(&id).map_or(0, |container| container.output.len());
    let tail = options.tail.map_or(there, |lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let start = (shared, id, there.saturating_sub(tail));
    stream::unfold(start, move |(shared, id, read)| async move {
        let mut changes = shared.changes();
        loop {
            let (lines, ended) = {
                let state = shared.state();
                let container = state.container(&id).ok()?;
                let running = container.seen.state == ContainerState::Running;
                (container.output.get(read..)?.to_vec(), !running || state.down)
            };
            if !lines.is_empty() {
                let read = read + lines.len();
                let meant = lines.iter().filter(|(at, _)| since.is_none_or(|since| *at >= since));
                let piece: Vec<u8> =
                    meant.flat_map(|(at, line)| shown(*at, line, timestamps)).collect();
                return Some((Ok(Output::Stdout(piece.into())), (shared, id, read)));
            }
            if ended || !follow {
                return None;
            }
            changes.changed().await.ok()?;
        }
    })
    .boxed()
}

/// A line as it is asked for.
fn shown(at: Timestamp, line: &[u8], timestamps: bool) -> Vec<u8> {
    let at = i64::try_from(at.0).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    let time = at.filter(|_| timestamps).map(|at| format!("{at} ")).unwrap_or_default();
    [time.as_bytes(), line].concat()
}

/// A main process, whose input if it has one is what it writes, until that ends with 0.
pub(super) fn attach(shared: Arc<Shared>, id: ContainerId) -> ExecSession {
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let output = logs(Arc::clone(&shared), id.clone(), &follow);
    let input = Box::pin(MainInput { shared: Arc::clone(&shared), id: id.clone() });
    ExecSession { input, output, control: Box::new(MainControl { shared, id }) }
}

struct MainInput {
    shared: Arc<Shared>,
    id: ContainerId,
}

impl MainInput {
    /// Does something to the process, if it runs and has an input.
    fn with(&self, done: impl FnOnce(&mut State, Timestamp)) {
        let now = self.shared.now();
        let mut state = self.shared.state();
        let reads = |one: &FakeContainer| one.reads && one.seen.state == ContainerState::Running;
        if state.container(&self.id).is_ok_and(reads) {
            done(&mut state, now);
        }
        drop(state);
        self.shared.announce();
    }
}

impl AsyncWrite for MainInput {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|state, now| {
            if let Some(container) = state.containers.get_mut(&self.id) {
                container.print(&String::from_utf8_lossy(bytes), now);
            }
        });
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|state, now| {
            state.end(&self.id, 0, now);
        });
        Poll::Ready(Ok(()))
    }
}

struct MainControl {
    shared: Arc<Shared>,
    id: ContainerId,
}

impl MainControl {
    fn end(&self, exit_code: i32) {
        let now = self.shared.now();
        self.shared.state().end(&self.id, exit_code, now);
        self.shared.announce();
    }
}

#[async_trait]
impl ExecControl for MainControl {
    async fn resize(&self, _size: TerminalSize) -> Result<(), EngineError> {
        Ok(())
    }

    async fn exit_code(&self) -> Result<Option<i32>, EngineError> {
        Ok(self.shared.state().container(&self.id)?.details.exit_code)
    }

    async fn hang_up(&self) -> Result<(), EngineError> {
        self.shared.state().hang_ups += 1;
        self.end(129);
        Ok(())
    }

    async fn kill(&self) -> Result<(), EngineError> {
        self.shared.state().kills += 1;
        self.end(137);
        Ok(())
    }
}

/// A command that does as it was told to; else one that hangs, or prints its words; with an input, that and no more.
pub(super) fn exec(shared: Arc<Shared>, request: &ExecRequest) -> ExecSession {
    let (told, exit_code, hangs) = {
        let state = shared.state();
        (state.commands.get(&request.command).cloned(), state.exec_exits, state.exec_hangs)
    };
    let (input, echo) = tokio::io::duplex(PIPE_BYTES);
    let command = told.unwrap_or_else(|| Command {
        stdout: match hangs || request.stdin {
            true => String::new(),
            false => format!("{}\n", request.command.join(" ")),
        },
        stderr: String::new(),
        ends: (!hangs).then_some(exit_code),
    });
    let (ended, end) = watch::channel(command.ends);
    let output = if request.stdin && command.ends.is_some() {
        stream::try_unfold(echo, |mut echo| async {
            let mut piece = vec![0; PIPE_BYTES];
            // The pipe is memory and cannot fail.
            let length = echo.read(&mut piece).await.unwrap_or(0);
            piece.truncate(length);
            Ok((length > 0).then(|| (Output::Stdout(Bytes::from(piece)), echo)))
        })
        .boxed()
    } else {
        let stdout = Some(command.stdout).filter(|text| !text.is_empty());
        let stderr = Some(command.stderr).filter(|text| !text.is_empty());
        let stdout = stdout.map(|text| Output::Stdout(text.into()));
        let stderr = stderr.map(|text| Output::Stderr(text.into()));
        let pieces = stdout.into_iter().chain(stderr);
        stream::iter(pieces.map(Ok).collect::<Vec<_>>()).chain(until(end)).boxed()
    };
    ExecSession { input: Box::pin(input), output, control: Box::new(FakeControl { shared, ended }) }
}

/// Nothing, until the command has ended.
fn until(mut end: watch::Receiver<Option<i32>>) -> OutputStream {
    let ended = async move {
        // An error would mean that nobody can end it any more.
        if end.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        stream::empty()
    };
    stream::once(ended).flatten().boxed()
}

struct FakeControl {
    shared: Arc<Shared>,
    /// The exit code, once the command has ended.
    ended: watch::Sender<Option<i32>>,
}

impl FakeControl {
    fn end(&self, exit_code: i32) {
        self.ended.send_if_modified(|ended| {
            let runs = ended.is_none();
            ended.get_or_insert(exit_code);
            runs
        });
    }
}

#[async_trait]
impl ExecControl for FakeControl {
    async fn resize(&self, _size: TerminalSize) -> Result<(), EngineError> {
        Ok(())
    }

    async fn exit_code(&self) -> Result<Option<i32>, EngineError> {
        Ok(*self.ended.borrow())
    }

    async fn hang_up(&self) -> Result<(), EngineError> {
        self.shared.state().hang_ups += 1;
        self.end(129);
        Ok(())
    }

    async fn kill(&self) -> Result<(), EngineError> {
        self.shared.state().kills += 1;
        self.end(137);
        Ok(())
    }
}
