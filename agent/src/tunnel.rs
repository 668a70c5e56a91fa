//! Logs of instances and commands in them, carried to the controller.
//!
//! The controller asks for a tunnel on the session's stream; the agent answers with a call of its own
//! (`Carry`) over the same connection, whose first message names the tunnel. Each tunnel is a task that owns
//! all of its state and ends with its call:
//!
//! ```text
//!   OpenTunnel ─▶ find the container ─▶ Carry ─┬─ logs: engine ─▶ controller
//!                                              └─ exec: engine ◀─▶ controller ─▶ exit code
//! ```
//!
//! Invariants:
//! - the engine is read only as fast as the controller takes it, and the other way round, so that a tunnel
//!   holds a few messages at most;
//! - when the one who asked goes away, reading stops and a command is hung up;
//! - there are at most [`TUNNELS_MAX`] at a time.

mod exec;
mod logs;

use std::sync::Arc;
use std::time::Duration;

use dwell_core::id::InstanceName;
use dwell_core::instance::{MESSAGE_MAX, sanitize};
use dwell_proto::v1;
use dwell_proto::v1::open_tunnel::Purpose;
use dwell_proto::v1::session_client::SessionClient;
use dwell_proto::v1::tunnel_up::Message;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::engine::{ContainerId, EngineError, SharedEngine};
use crate::session::Statuses;

/// The most tunnels at a time.
pub const TUNNELS_MAX: usize = 256;
/// Messages of a tunnel on their way out beside those that HTTP/2 holds.
const OUTGOING: usize = 2;
/// The largest piece of output in one message, in bytes.
const PIECE_MAX: usize = 32 * 1024;
/// How long the controller may take to accept a tunnel, and to end it after the last message.
const PEER_LIMIT: Duration = Duration::from_secs(10);

/// Opens tunnels.
#[derive(Clone)]
pub struct Tunnels {
    engine: Option<SharedEngine>,
    statuses: watch::Receiver<Option<Arc<Statuses>>>,
    free: Arc<Semaphore>,
}

impl std::fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tunnels({} free)", self.free.available_permits())
    }
}

/// Why a tunnel could not be had or broke off, for the one who asked for it.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("{0}")]
    BadRequest(String),
    #[error("this node runs no instances")]
    NoEngine,
    #[error("{0} is not on this node")]
    NotHere(InstanceName),
    #[error("{0} has no container yet; `dwell inspect {0}` says what it waits for")]
    NoContainer(InstanceName),
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Nobody is left to be told.
    #[error("the other end has gone away")]
    Gone,
}

impl TunnelError {
    fn code(&self) -> Code {
        match self {
            Self::BadRequest(_) => Code::InvalidArgument,
            Self::NotHere(_) | Self::Engine(EngineError::NotFound { .. }) => Code::NotFound,
            Self::NoEngine
            | Self::NoContainer(_)
            | Self::Engine(EngineError::NotRunning { .. } | EngineError::Refused { .. }) => {
                Code::FailedPrecondition
            }
            Self::Engine(_) => Code::Unavailable,
            Self::Gone => Code::Cancelled,
        }
    }
}

impl Tunnels {
    /// Tunnels to the instances of an engine; a routes-only node has none. `statuses` says which
    /// container is an instance's.
    #[must_use]
    pub fn new(
        engine: Option<SharedEngine>,
        statuses: watch::Receiver<Option<Arc<Statuses>>>,
    ) -> Self {
        Self { engine, statuses, free: Arc::new(Semaphore::new(TUNNELS_MAX)) }
    }

    /// Opens a tunnel in a task of its own. One too many is not opened; the controller gives up on it.
    pub fn open(&self, channel: Channel, request: v1::OpenTunnel) {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            tracing::warn!(
                most = TUNNELS_MAX,
                "too many logs and commands at a time; one was not opened"
            );
            return;
        };
        let tunnels = self.clone();
        tokio::spawn(async move {
            tunnels.carry(channel, request).await;
            drop(permit);
        });
    }

    async fn carry(&self, channel: Channel, request: v1::OpenTunnel) {
        let (up, receiver) = mpsc::channel(OUTGOING);
        let name = v1::TunnelUp { message: Some(Message::Tunnel(request.tunnel)) };
        let mut client = SessionClient::new(channel);
        let opening = async {
            up.send(name).await.ok()?;
            client.carry(ReceiverStream::new(receiver)).await.ok()
        };
        let Ok(Some(answer)) = timeout(PEER_LIMIT, opening).await else {
            tracing::debug!("the controller no longer wants the tunnel it asked for");
            return;
        };
        let mut ends = Ends { up, down: answer.into_inner() };
        if let Err(error) = self.serve(request.purpose, &mut ends).await {
            tracing::debug!(%error, "a tunnel ended early");
            let message = sanitize(&error.to_string(), MESSAGE_MAX);
            let error = v1::TunnelError { code: error.code().into(), message };
            ends.up.send(v1::TunnelUp { message: Some(Message::Error(error)) }).await.ok();
        }
        // The controller ends the call when it has read the last message; leaving earlier could take
        // that message back.
        let Ends { up, mut down } = ends;
        drop(up);
        timeout(PEER_LIMIT, async { while let Ok(Some(_)) = down.message().await {} }).await.ok();
    }

    async fn serve(&self, purpose: Option<Purpose>, ends: &mut Ends) -> Result<(), TunnelError> {
        let engine = self.engine.as_ref().ok_or(TunnelError::NoEngine)?;
        match purpose {
            Some(Purpose::Logs(request)) => {
                let container = self.container(&request.instance)?;
                logs::carry(engine, &container, &request, ends).await
            }
            Some(Purpose::Exec(request)) => {
                let container = self.container(&request.instance)?;
                exec::carry(engine, &container, request, ends).await
            }
            Some(Purpose::Connect(_) | Purpose::Probe(_) | Purpose::Diagnose(_)) | None => {
                Err(TunnelError::BadRequest("a tunnel for an unknown purpose".to_owned()))
            }
        }
    }

    /// The container that is an instance's now.
    fn container(&self, instance: &str) -> Result<ContainerId, TunnelError> {
        let name: InstanceName =
            instance.parse().map_err(|error| TunnelError::BadRequest(format!("{error}")))?;
        let statuses = self.statuses.borrow().clone();
        let status = statuses.as_ref().and_then(|all| all.instances.get(&name));
        match status.map(|status| status.container_id.as_str()) {
            None => Err(TunnelError::NotHere(name)),
            Some("") => Err(TunnelError::NoContainer(name)),
            Some(id) => Ok(ContainerId(id.to_owned())),
        }
    }
}

/// The two directions of a `Carry` call.
struct Ends {
    up: mpsc::Sender<v1::TunnelUp>,
    down: Streaming<v1::TunnelDown>,
}

/// Sends one message, as soon as the controller takes it.
async fn send(up: &mpsc::Sender<v1::TunnelUp>, message: Message) -> Result<(), TunnelError> {
    let message = v1::TunnelUp { message: Some(message) };
    up.send(message).await.map_err(|_| TunnelError::Gone)
}

#[cfg(test)]
mod tests;
