//! Commands beside a container's main process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::{ExecConfig, ExecInspectResponse};
use bollard::query_parameters::ResizeExecOptions;
use serde_json::json;

use super::client::{Client, NAME, QUICK, limited, meaning, status};
use super::hijack::{Connection, DETACH_KEYS, output};
use super::unstarted::{Code, in_our_words};
use dwell_engine::death;
use dwell_engine::{ContainerId, EngineError, ExecControl, ExecRequest, ExecSession, TerminalSize};

/// The pause between two looks whether a command has a process yet.
const START_PAUSE: Duration = Duration::from_millis(20);

/// Starts a command in a container.
pub(super) async fn start(
    client: &Arc<Client>,
    container: &ContainerId,
    request: &ExecRequest,
) -> Result<ExecSession, EngineError> {
    let docker = client.docker().await?;
    let config = ExecConfig {
        attach_stdin: Some(request.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(request.terminal.is_some()),
        detach_keys: Some(DETACH_KEYS.to_owned()),
        cmd: Some(request.command.clone()),
        env: Some(request.environment.clone()),
        user: Some(request.user.clone()).filter(|user| !user.is_empty()),
        working_dir: Some(request.working_dir.clone()).filter(|path| !path.is_empty()),
        ..ExecConfig::default()
    };
    let made = limited(QUICK, docker.create_exec(container.as_str(), config)).await;
    let id = made.map_err(|error| exec_error(error, container))?.id;

    // Opening its connection starts it.
    let path = format!("exec/{id}/start");
    let size = request.terminal.map(|size| [size.rows, size.columns]);
    let body = json!({ "Detach": false, "Tty": size.is_some(), "ConsoleSize": size }).to_string();
    let Connection { reader, writer } =
        Connection::open(client, &docker, (&path, &body), QUICK).await?;
    let unstarted = Code::default();
    let control = Control {
        client: Arc::clone(client),
        id,
        container: container.clone(),
        unstarted: Arc::clone(&unstarted),
    };
    if let Some(size) = request.terminal {
        // Before API 1.42 the size cannot be given beforehand. A command that has ended is no reason to fail.
        drop(control.resize(size).await);
    }
    let output = output(reader, request.terminal.is_some());
    let command = request.command.first().cloned().unwrap_or_default();
    Ok(ExecSession {
        input: Box::pin(writer),
        output: in_our_words(output, command, unstarted),
        control: Box::new(control),
    })
}

struct Control {
    client: Arc<Client>,
    /// Docker's name for the command.
    id: String,
    container: ContainerId,
    /// The exit code of a command that could not be started.
    unstarted: Code,
}

impl Control {
    /// What Docker says of the command's process, once it has started it; `None` if its container is gone.
    async fn process(&self) -> Result<Option<ExecInspectResponse>, EngineError> {
        let docker = self.client.docker().await?;
        let started = async {
            loop {
                let seen = limited(QUICK, docker.inspect_exec(&self.id)).await;
                match seen.map_err(|error| exec_error(error, &self.container)) {
                    // Docker calls a command running before there is a process.
                    Ok(seen) if seen.running == Some(true) && seen.pid.unwrap_or(0) == 0 => {
                        tokio::time::sleep(START_PAUSE).await;
                    }
                    Ok(seen) => return Ok(Some(seen)),
                    Err(EngineError::NotFound { .. }) => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        };
        let started = tokio::time::timeout(QUICK, started).await;
        started.map_err(|_| EngineError::timed_out(NAME, QUICK))?
    }
}

#[async_trait]
impl ExecControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<(), EngineError> {
        let docker = self.client.docker().await?;
        let options = ResizeExecOptions { h: size.rows.into(), w: size.columns.into() };
        let resized = limited(QUICK, docker.resize_exec(&self.id, options)).await;
        resized.map_err(|error| exec_error(error, &self.container))
    }

    async fn exit_code(&self) -> Result<Option<i32>, EngineError> {
        if let Some(&code) = self.unstarted.get() {
            return Ok(Some(code));
        }
        let docker = self.client.docker().await?;
        let seen = limited(QUICK, docker.inspect_exec(&self.id)).await;
        let seen = seen.map_err(|error| exec_error(error, &self.container))?;
        if seen.running.unwrap_or(true) {
            return Ok(None);
        }
        Ok(seen.exit_code.and_then(|code| i32::try_from(code).ok()))
    }

    async fn hang_up(&self) -> Result<(), EngineError> {
        let Some(seen) = self.process().await? else { return Ok(()) };
        let pid = seen.pid.and_then(|pid| u32::try_from(pid).ok());
        if let (Some(true), Some(pid)) = (seen.running, pid) {
            // A process that is gone, or another by now, needs no signal.
            death::hang_up(pid, &self.container).ok();
        }
        Ok(())
    }

    async fn kill(&self) -> Result<(), EngineError> {
        let Some(seen) = self.process().await? else { return Ok(()) };
        // Also of one that has ended: what it left running holds on to its output.
        if let Some(pid) = seen.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid > 0) {
            let container = self.container.clone();
            #[expect(
                clippy::disallowed_methods,
                reason = "it reads /proc, and only this session waits for it"
            )]
            let ended = tokio::task::spawn_blocking(move || death::end_session(pid, &container));
            drop(ended.await);
        }
        Ok(())
    }
}

/// Docker says 409 of a container, or a command, that does not run.
fn exec_error(error: bollard::errors::Error, container: &ContainerId) -> EngineError {
    if status(&error) == Some(409) {
        return EngineError::NotRunning { id: container.to_string() };
    }
    meaning(error, "run a command in a container", container)
}
