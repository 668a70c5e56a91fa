//! A container's main process, with its input, its terminal and its exit code.
//!
//! The daemon shows who attaches what is printed from then on, and the lines printed so far, but not a line that has no end yet: the prompt
//! of a shell would be lost. So the connection to what somebody is about to attach to, the main process of a job's instance that has
//! an input, is made before the process is started:
//!
//! ```text
//!   create ─▶ expected ── start ─▶ held ─┬─ attach ─▶ whoever asked for it
//!                                        └─ HELD_LIMIT is over, or the container is gone ─▶ closed, and so is the input
//! ```
//!
//! What is printed meanwhile waits in the connection; a process that prints more than that holds has to wait.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{KillContainerOptions, ResizeContainerTTYOptions};
use dwell_core::instance::Assigned;
use dwell_engine::{
    ContainerId, ContainerState, Engine as _, EngineError, ExecControl, ExecSession, LogOptions,
    TerminalSize,
};
use tracing::warn;

use super::DockerEngine;
use super::client::{Client, QUICK, limited, meaning, status};
use super::hijack::{Connection, DETACH_KEYS, output};

const OPERATION: &str = "attach to a container";
/// How long a connection is held for somebody to attach.
const HELD_LIMIT: Duration = Duration::from_secs(30);
/// How long a main process that was hung up may take to end before it is killed.
const HANG_UP_GRACE: Duration = Duration::from_secs(5);
/// The pause between two looks whether it has ended.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections to main processes that nobody has attached to yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Attachments(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// Containers whose starts are to be attached to.
    expected: HashSet<ContainerId>,
    connections: HashMap<ContainerId, (Instant, Connection)>,
}

impl Attachments {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container was made: somebody may be about to attach to it.
    pub(super) fn expect(&self, id: &ContainerId, assigned: &Assigned) {
        if assigned.template.stdin && assigned.task.is_some() {
            self.held().expected.insert(id.clone());
        }
    }

    /// A container is gone.
    pub(super) fn forget(&self, id: &ContainerId) {
        let mut held = self.held();
        held.expected.remove(id);
        held.connections.remove(id);
    }

    fn is_expected(&self, id: &ContainerId) -> bool {
        self.held().expected.contains(id)
    }

    /// Keeps a connection until somebody takes it, for a while.
    fn hold(&self, id: &ContainerId, connection: Connection) {
        let made = Instant::now();
        self.held().connections.insert(id.clone(), (made, connection));
        let (held, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(HELD_LIMIT).await;
            let mut held = held.held();
            if held.connections.get(&id).is_some_and(|(at, _)| *at == made) {
                held.connections.remove(&id);
            }
        });
    }

    fn take(&self, id: &ContainerId) -> Option<Connection> {
        self.held().connections.remove(id).map(|(_, connection)| connection)
    }
}

/// Attaches to what is about to be started, if somebody may want that. Without it, only what is no whole line is lost.
pub(super) async fn before_start(engine: &DockerEngine, id: &ContainerId) {
    if !engine.attachments.is_expected(id) {
        return;
    }
    match connect(&engine.client, id, &["stdin=1"]).await {
        Ok(connection) => engine.attachments.hold(id, connection),
        Err(error) => {
            warn!(container = %id, %error, "cannot attach to a container before its start");
        }
    }
}

pub(super) async fn attach(
    engine: &DockerEngine,
    id: &ContainerId,
) -> Result<ExecSession, EngineError> {
    let container = engine.inspect(id).await?;
    let control = Box::new(Control { client: Arc::clone(&engine.client), container: id.clone() });
    let config = control.inspect().await?.config.unwrap_or_default();
    let terminal = config.tty.unwrap_or(false);
    let is_running = container.state == ContainerState::Running;
    let connection = match engine.attachments.take(id) {
        Some(connection) => connection,
        None if is_running => {
            let input = config.open_stdin.unwrap_or(false);
            let wanted: &[&str] = if input { &["logs=1", "stdin=1"] } else { &["logs=1"] };
            connect(&engine.client, id, wanted).await?
        }
        None if container.state == ContainerState::Created => {
            return Err(EngineError::NotRunning { id: id.to_string() });
        }
        None => {
            let output = engine.logs(id, &LogOptions::default()).await?;
            return Ok(ExecSession { input: Box::pin(tokio::io::sink()), output, control });
        }
    };
    let Connection { reader, writer } = connection;
    Ok(ExecSession { input: Box::pin(writer), output: output(reader, terminal), control })
}

async fn connect(
    client: &Client,
    id: &ContainerId,
    wanted: &[&str],
) -> Result<Connection, EngineError> {
    let docker = client.docker().await?;
    let keys = DETACH_KEYS.replace('@', "%40").replace('^', "%5E").replace(',', "%2C");
    let path = format!(
        "containers/{id}/attach?stream=1&stdout=1&stderr=1&{}&detachKeys={keys}",
        wanted.join("&")
    );
    Connection::open(client, &docker, (&path, ""), QUICK).await
}

struct Control {
    client: Arc<Client>,
    container: ContainerId,
}

impl Control {
    async fn inspect(&self) -> Result<ContainerInspectResponse, EngineError> {
        let docker = self.client.docker().await?;
        let seen = limited(QUICK, docker.inspect_container(self.container.as_str(), None)).await;
        seen.map_err(|error| meaning(error, OPERATION, &self.container))
    }

    /// Sends the main process a signal; one that has ended is fine.
    async fn signal(&self, signal: &str) -> Result<(), EngineError> {
        let docker = self.client.docker().await?;
        let options = KillContainerOptions { signal: signal.to_owned() };
        match limited(QUICK, docker.kill_container(self.container.as_str(), Some(options))).await {
            Err(error) if !matches!(status(&error), Some(404 | 409)) => {
                Err(meaning(error, "send a signal to a container", &self.container))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl ExecControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<(), EngineError> {
        let docker = self.client.docker().await?;
        let options = ResizeContainerTTYOptions { h: size.rows.into(), w: size.columns.into() };
        let resized =
            limited(QUICK, docker.resize_container_tty(self.container.as_str(), options)).await;
        resized.map_err(|error| meaning(error, "resize a terminal", &self.container))
    }

    async fn exit_code(&self) -> Result<Option<i32>, EngineError> {
        let state = self.inspect().await?.state.unwrap_or_default();
        if state.running.unwrap_or(true) {
            return Ok(None);
        }
        Ok(state.exit_code.and_then(|code| i32::try_from(code).ok()))
    }

    async fn hang_up(&self) -> Result<(), EngineError> {
        self.signal("SIGHUP").await?;
        let begun = Instant::now();
        while begun.elapsed() < HANG_UP_GRACE {
            match self.exit_code().await {
                Ok(None) => tokio::time::sleep(PAUSE).await,
                Ok(Some(_)) | Err(EngineError::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.kill().await
    }

    async fn kill(&self) -> Result<(), EngineError> {
        self.signal("SIGKILL").await
    }
}
