//! Output and commands of the fake engine's containers.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::io::AsyncReadExt;
use tokio_util::bytes::Bytes;

use super::state::Shared;
use super::{ContainerId, ContainerState, EngineError, ExecRequest, ExecSession, OutputStream};
use crate::{ExecControl, Output, TerminalSize};

/// How many bytes a command's input holds before it is read.
const PIPE_BYTES: usize = 16 * 1024;

/// What a container wrote, and, to follow, what it writes until it ends or the engine goes away.
pub(super) fn logs(shared: Arc<Shared>, id: ContainerId, follow: bool) -> OutputStream {
    let start = (shared, id, 0);
    stream::unfold(start, move |(shared, id, read)| async move {
        let mut changes = shared.changes();
        loop {
            let (piece, ended) = {
                let state = shared.state();
                let container = state.container(&id).ok()?;
                let running = container.seen.state == ContainerState::Running;
                (Bytes::copy_from_slice(container.output.get(read..)?), !running || state.down)
            };
            if !piece.is_empty() {
                let read = read + piece.len();
                return Some((Ok(Output::Stdout(piece)), (shared, id, read)));
            }
            if ended || !follow {
                return None;
            }
            changes.changed().await.ok()?;
        }
    })
    .boxed()
}

/// A command that prints its words; with an input, that and no more. Or one that hangs.
pub(super) fn exec(shared: Arc<Shared>, request: &ExecRequest) -> ExecSession {
    let (exit_code, hangs) = {
        let state = shared.state();
        (state.exec_exits, state.exec_hangs)
    };
    let (input, echo) = tokio::io::duplex(PIPE_BYTES);
    let output = if hangs {
        stream::pending().boxed()
    } else if request.stdin {
        stream::try_unfold(echo, |mut echo| async {
            let mut piece = vec![0; PIPE_BYTES];
            // The pipe is memory and cannot fail.
            let length = echo.read(&mut piece).await.unwrap_or(0);
            piece.truncate(length);
            Ok((length > 0).then(|| (Output::Stdout(Bytes::from(piece)), echo)))
        })
        .boxed()
    } else {
        let words = Bytes::from(format!("{}\n", request.command.join(" ")));
        stream::iter([Ok(Output::Stdout(words))]).boxed()
    };
    let exit_code = (!hangs).then_some(exit_code);
    let control = Box::new(FakeControl { shared, exit_code });
    ExecSession { input: Box::pin(input), output, control }
}

struct FakeControl {
    shared: Arc<Shared>,
    exit_code: Option<i32>,
}

#[async_trait]
impl ExecControl for FakeControl {
    async fn resize(&self, _size: TerminalSize) -> Result<(), EngineError> {
        Ok(())
    }

    async fn exit_code(&self) -> Result<Option<i32>, EngineError> {
        Ok(self.exit_code)
    }

    async fn hang_up(&self) -> Result<(), EngineError> {
        self.shared.state().hang_ups += 1;
        Ok(())
    }

    async fn kill(&self) -> Result<(), EngineError> {
        self.shared.state().kills += 1;
        Ok(())
    }
}
