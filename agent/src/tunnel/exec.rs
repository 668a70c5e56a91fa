//! A command in an instance, or its main process, with input, terminal and exit code.

use std::pin::Pin;
use std::time::Duration;

use dwell_proto::v1;
use dwell_proto::v1::exec_input::Input;
use dwell_proto::v1::exec_output::Output as Up;
use dwell_proto::v1::tunnel_up::Message;
use futures_util::StreamExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::codegen::Bytes;

use super::{Ends, PIECE_MAX, TunnelError, send};
use dwell_daemon::Causes;
use dwell_engine::{
    ContainerId, ExecControl, ExecRequest, ExecSession, Output, OutputStream, SharedEngine,
    TerminalSize,
};

/// Bounds of a request: arguments and variables, and their bytes together.
const WORDS_MAX: usize = 4_096;
const BYTES_MAX: usize = 1 << 20;
/// How often, and with which pauses, the exit code is asked for once the output has ended: the engine may
/// close the output a moment before it has noticed the end of the process.
const EXIT_ATTEMPTS: u32 = 50;
const EXIT_PAUSE: Duration = Duration::from_millis(20);

/// Runs the command, or attaches to the main process, until it ends or the one who asked goes away, which hangs it up.
pub(super) async fn carry(
    engine: &SharedEngine,
    container: &ContainerId,
    request: v1::ExecRequest,
    ends: &mut Ends,
) -> Result<(), TunnelError> {
    let session = if request.attach {
        let session = engine.attach(container).await?;
        if let Some(wire) = request.size
            && let Err(error) = session.control.resize(size(wire)).await
        {
            // It may have ended, or have no terminal.
            tracing::debug!(error = %Causes(&error), "cannot resize a terminal");
        }
        session
    } else {
        engine.exec(container, &checked(request)?).await?
    };
    let ExecSession { input, mut output, control } = session;
    send(&ends.up, Message::Exec(v1::ExecOutput { output: Some(Up::Started(true)) })).await?;

    // Both directions at once: a command may not read before it has been read from.
    let result = tokio::select! {
        result = carry_output(&mut output, &ends.up) => result,
        gone = carry_input(input, control.as_ref(), &mut ends.down) => Err(gone),
    };
    if let Err(error) = result {
        if let Err(error) = control.hang_up().await {
            tracing::warn!(%container, error = %Causes(&error), "cannot hang up a command that nobody waits for");
        }
        return Err(error);
    }
    let code = exit_code(control.as_ref()).await?;
    send(&ends.up, Message::Exec(v1::ExecOutput { output: Some(Up::ExitCode(code)) })).await
}

fn checked(request: v1::ExecRequest) -> Result<ExecRequest, TunnelError> {
    let bad = |problem: &str| Err(TunnelError::BadRequest(problem.to_owned()));
    if request.command.is_empty() {
        return bad("the command is empty");
    }
    let variables = request.environment.iter().map(|(name, value)| name.len() + value.len());
    let bytes: usize = request.command.iter().map(String::len).chain(variables).sum();
    if request.command.len() + request.environment.len() > WORDS_MAX || bytes > BYTES_MAX {
        return bad("the command and its environment are too long");
    }
    if request.environment.keys().any(|name| name.is_empty() || name.contains('=')) {
        return bad("the environment has a variable without a proper name");
    }
    let terminal = request.tty.then(|| size(request.size.unwrap_or_default()));
    Ok(ExecRequest {
        command: request.command,
        environment: request
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        user: request.user,
        working_dir: request.working_dir,
        stdin: request.stdin,
        terminal,
    })
}

/// A size that a terminal can have; none given is the customary one.
fn size(wire: v1::TerminalSize) -> TerminalSize {
    let fit = |given: u32, customary: u16| match given {
        0 => customary,
        given => u16::try_from(given).unwrap_or(u16::MAX),
    };
    TerminalSize { rows: fit(wire.rows, 24), columns: fit(wire.columns, 80) }
}

/// Carries the output until it ends.
async fn carry_output(
    output: &mut OutputStream,
    up: &mpsc::Sender<v1::TunnelUp>,
) -> Result<(), TunnelError> {
    while let Some(output) = output.next().await {
        let (wrap, mut data): (fn(Bytes) -> Up, Bytes) = match output? {
            Output::Stdout(data) => (Up::Stdout, data),
            Output::Stderr(data) => (Up::Stderr, data),
        };
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE_MAX));
            send(up, Message::Exec(v1::ExecOutput { output: Some(wrap(piece)) })).await?;
        }
    }
    Ok(())
}

/// Carries input and sizes until the one who asked goes away.
async fn carry_input(
    input: Pin<Box<dyn AsyncWrite + Send>>,
    control: &dyn ExecControl,
    down: &mut Streaming<v1::TunnelDown>,
) -> TunnelError {
    let mut input = Some(input);
    while let Ok(Some(message)) = down.message().await {
        match message.exec.and_then(|message| message.input) {
            Some(Input::Stdin(data)) => {
                let Some(open) = &mut input else { continue };
                // A command that has closed its input still has output and an exit code to give.
                if open.write_all(&data).await.is_err() || open.flush().await.is_err() {
                    input = None;
                }
            }
            Some(Input::StdinClosed(true)) => {
                if let Some(mut open) = input.take() {
                    open.shutdown().await.ok();
                }
            }
            Some(Input::Resize(wire)) => {
                if let Err(error) = control.resize(size(wire)).await {
                    tracing::debug!(error = %Causes(&error), "cannot resize a terminal");
                }
            }
            Some(Input::StdinClosed(false) | Input::Request(_)) | None => {}
        }
    }
    TunnelError::Gone
}

async fn exit_code(control: &dyn ExecControl) -> Result<i32, TunnelError> {
    for _ in 0..EXIT_ATTEMPTS {
        if let Some(code) = control.exit_code().await? {
            return Ok(code);
        }
        tokio::time::sleep(EXIT_PAUSE).await;
    }
    Err(TunnelError::BadRequest("the command closed its output and runs on".to_owned()))
}
