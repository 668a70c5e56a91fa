//! What the controller asks of a node: logs of instances, commands in them, connections to their ports, probes of
//! routes, a diagnosis of the node itself, an audit of what its layers claim, its images, the data of its volumes, what containers are
//! that dwell did not make.
//!
//! The controller asks for a tunnel on the session's stream; the agent answers with a call of its own
//! (`Carry`) over the same connection, whose first message names the tunnel. Each tunnel is a task that owns
//! all of its state and ends with its call:
//!
//! ```text
//!   OpenTunnel ─▶ Carry ─┬─ logs: engine ─▶ controller
//!                        ├─ exec: engine ◀─▶ controller ─▶ exit code
//!                        ├─ connect: instance ◀─▶ controller
//!                        ├─ images: engine ─▶ controller, in pages
//!                        └─ probe, diagnose, audit, foreign: one answer
//! ```
//!
//! Invariants:
//! - each side is read only as fast as the other takes it, so that a tunnel holds a few messages at most;
//! - when the one who asked goes away, reading stops, a command is hung up, a connection closed;
//! - of each kind there is a bounded number at a time, so that connections, which SSH makes in numbers, leave
//!   room for logs and commands. One too many is told so, as long as there are no more than [`TUNNELS_MAX`].

mod audit;
mod connect;
mod diagnose;
mod exec;
mod foreign;
mod images;
mod logs;
mod probe;
pub(crate) mod volumes;

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::id::InstanceName;
use dwell_core::instance::{InstanceStatus, MESSAGE_MAX, Phase, sanitize};
use dwell_core::session::{Assignment, Statuses};
use dwell_network::{Network, NetworkError};
use dwell_proto::v1;
use dwell_proto::v1::open_tunnel::Purpose;
use dwell_proto::v1::session_client::SessionClient;
use dwell_proto::v1::tunnel_up::Message;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use self::connect::{ConnectError, Target};
use self::volumes::{Copies, CopyError};
use crate::audit::{Audited, Recheck};
use crate::config::Config;
use crate::doctor;
use crate::images::{Images, ImagesError};
use dwell_daemon::Causes;
use dwell_engine::{ContainerId, EngineError, SharedEngine};

/// The most logs and commands at a time.
const COMMANDS_MAX: usize = 256;
/// The most connections to instances at a time.
const CONNECTIONS_MAX: usize = 1024;
/// The most probes, diagnoses, audits and lists of images at a time.
const LOOKS_MAX: usize = 16;
/// The most volumes that are sent or taken in at a time.
const VOLUMES_MAX: usize = 8;
/// How many more can be told that they are too many.
const REFUSALS_MAX: usize = 64;
/// The most tunnels at a time, all together.
pub const TUNNELS_MAX: usize =
    COMMANDS_MAX + CONNECTIONS_MAX + LOOKS_MAX + VOLUMES_MAX + REFUSALS_MAX;
// Each is a call of its own, beside the session and a renewal.
const _: () = assert!(TUNNELS_MAX + 2 <= dwell_proto::STREAMS_MAX as usize);
/// Messages of a tunnel on their way out beside those that HTTP/2 holds.
const OUTGOING: usize = 2;
/// The largest piece of output in one message, in bytes.
const PIECE_MAX: usize = 32 * 1024;
/// How long the controller may take to accept a tunnel, and to end it after the last message.
const PEER_LIMIT: Duration = Duration::from_secs(10);

/// What tunnels lead to. Clones are the same node.
#[derive(Clone)]
pub struct Node {
    /// Runs the instances; a routes-only node has none.
    pub engine: Option<SharedEngine>,
    /// Which container is an instance's, and whether it runs.
    pub statuses: watch::Receiver<Option<Arc<Statuses>>>,
    /// Which address is an instance's.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// The engine's images, if there is one.
    pub images: Option<Images>,
    /// Knows the routes.
    pub network: Arc<dyn Network>,
    /// Makes whoever keeps something in order look at it.
    pub recheck: Arc<Recheck>,
    /// How the agent is configured.
    pub config: Arc<Config>,
}

/// Opens tunnels. Clones share the bounds.
#[derive(Clone)]
pub struct Tunnels {
    node: Node,
    all: Arc<Semaphore>,
    commands: Bound,
    connections: Bound,
    looks: Bound,
    volumes: Bound,
    copies: Copies,
    /// A host is looked over by one at a time.
    diagnosing: Arc<Mutex<()>>,
    /// And so it is audited.
    auditing: Arc<Mutex<()>>,
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnels({} free)", self.all.available_permits())
    }
}

/// So many of a kind at a time.
#[derive(Clone)]
struct Bound {
    what: &'static str,
    most: usize,
    free: Arc<Semaphore>,
}

impl Bound {
    fn new(what: &'static str, most: usize) -> Self {
        Self { what, most, free: Arc::new(Semaphore::new(most)) }
    }

    fn take(&self) -> Result<OwnedSemaphorePermit, TunnelError> {
        let Self { what, most, ref free } = *self;
        Arc::clone(free).try_acquire_owned().map_err(|_| TunnelError::TooMany { what, most })
    }
}

/// Why a tunnel could not be had or broke off, for the one who asked for it.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("{0}")]
    BadRequest(String),
    #[error("this node runs no instances")]
    NoEngine,
    #[error(
        "container {0} does not run on this node; only what runs can be adopted: start it first"
    )]
    ForeignRests(String),
    #[error("{0} is not on this node")]
    NotHere(InstanceName),
    #[error(
        "nothing is kept of an earlier container of {0} on the node where it is now; what one printed stays on the node on \
         which it ended, for 7 days, and the last lines of one that failed an update are in its events: \
         `dwell events --about instance/{0}`"
    )]
    NothingBefore(InstanceName),
    #[error("{0} has no container yet; `dwell inspect {0}` says what it waits for")]
    NoContainer(InstanceName),
    #[error("{instance} is not running ({phase}); `dwell inspect {instance}` says why")]
    NotRunning { instance: InstanceName, phase: Phase },
    #[error("{0} has just stopped running; `dwell inspect {0}` says why")]
    Stopped(InstanceName),
    #[error("this node has {most} {what} open, which is the most; close some, or try again later")]
    TooMany { what: &'static str, most: usize },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("this node cannot be audited: {0}")]
    NotAudited(String),
    #[error(transparent)]
    Images(#[from] ImagesError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(
        "nothing has come for {0} s, and the archive has not ended; nothing of it was taken in"
    )]
    Silent(u64),
    #[error("the volume was not copied: {0}")]
    Copy(CopyError),
    /// Nobody is left to be told.
    #[error("the other end has gone away")]
    Gone,
}

impl TunnelError {
    fn code(&self) -> Code {
        match self {
            Self::BadRequest(_) => Code::InvalidArgument,
            Self::NotHere(_)
            | Self::NothingBefore(_)
            | Self::Images(ImagesError::NotHere(_))
            | Self::Engine(EngineError::NotFound { .. }) => Code::NotFound,
            Self::NoEngine
            | Self::ForeignRests(_)
            | Self::NoContainer(_)
            | Self::NotRunning { .. }
            | Self::Stopped(_)
            | Self::Images(
                ImagesError::Needed { .. } | ImagesError::Unsure | ImagesError::Offer(_),
            )
            | Self::Connect(ConnectError::Refused(_))
            | Self::Engine(EngineError::NotRunning { .. } | EngineError::Refused { .. }) => {
                Code::FailedPrecondition
            }
            Self::TooMany { .. } | Self::Images(ImagesError::NoRoom { .. }) => {
                Code::ResourceExhausted
            }
            Self::Copy(error) if error.is_permanent() => Code::FailedPrecondition,
            Self::Silent(_) => Code::DeadlineExceeded,
            Self::Engine(_)
            | Self::Copy(_)
            | Self::Images(_)
            | Self::Connect(_)
            | Self::Network(_)
            | Self::NotAudited(_) => Code::Unavailable,
            Self::Gone => Code::Cancelled,
        }
    }
}

impl Tunnels {
    /// Tunnels to a node's instances.
    #[must_use]
    pub fn new(node: Node) -> Self {
        Self {
            node,
            all: Arc::new(Semaphore::new(TUNNELS_MAX)),
            commands: Bound::new("logs and commands", COMMANDS_MAX),
            connections: Bound::new("connections", CONNECTIONS_MAX),
            looks: Bound::new("route checks, diagnoses, audits and lists of images", LOOKS_MAX),
            volumes: Bound::new("copies of volumes", VOLUMES_MAX),
            copies: Copies::default(),
            diagnosing: Arc::default(),
            auditing: Arc::default(),
        }
    }

    /// Opens a tunnel in a task of its own. One for which there is not even room to say so is not opened; the
    /// controller gives up on it.
    pub fn open(&self, channel: Channel, request: v1::OpenTunnel) {
        let Ok(permit) = Arc::clone(&self.all).try_acquire_owned() else {
            tracing::warn!(most = TUNNELS_MAX, "too many tunnels at a time; one was not opened");
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
            let message = sanitize(&Causes(&error).to_string(), MESSAGE_MAX);
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
        match purpose {
            Some(Purpose::Logs(request)) => {
                let _permit = self.commands.take()?;
                if request.previous {
                    let (engine, instance, _) = self.node.status(&request.instance)?;
                    return logs::carry_previous(engine, &instance, &request, ends).await;
                }
                let (engine, _, container) = self.node.container(&request.instance)?;
                logs::carry(engine, &container, &request, ends).await
            }
            Some(Purpose::Exec(request)) => {
                let _permit = self.commands.take()?;
                let (engine, instance, container) = if request.attach {
                    // What has ended has an exit code still, and what it printed.
                    self.node.container(&request.instance)?
                } else {
                    self.node.running(&request.instance)?
                };
                let carried = exec::carry(engine, &container, request, ends).await;
                carried.map_err(|error| match error {
                    // It has ended since it was looked at; its container is nothing that anybody asked for.
                    TunnelError::Engine(
                        EngineError::NotRunning { .. } | EngineError::NotFound { .. },
                    ) => TunnelError::Stopped(instance),
                    error => error,
                })
            }
            Some(Purpose::Connect(request)) => {
                let _permit = self.connections.take()?;
                connect::carry(self.node.target(&request)?, ends).await
            }
            Some(Purpose::Probe(request)) => {
                let _permit = self.looks.take()?;
                let address = request.address.parse::<Ipv4Addr>().map_err(|_| {
                    TunnelError::BadRequest(format!("{:?} is no IPv4 address", request.address))
                })?;
                probe::carry(self.node.network.as_ref(), address, ends).await
            }
            Some(Purpose::Diagnose(_)) => {
                let _permit = self.looks.take()?;
                diagnose::carry(&self.node.host(), &self.diagnosing, ends).await
            }
            Some(Purpose::Audit(request)) => {
                let _permit = self.looks.take()?;
                audit::carry(&self.node.audited(), request.repair, &self.auditing, ends).await
            }
            Some(Purpose::Images(order)) => {
                let _permit = self.looks.take()?;
                let images = self.node.images.as_ref().ok_or(TunnelError::NoEngine)?;
                images::carry(images, order, ends).await
            }
            Some(Purpose::Foreign(request)) => {
                let _permit = self.looks.take()?;
                let engine = self.node.engine.as_ref().ok_or(TunnelError::NoEngine)?;
                foreign::carry(engine, &request.container, ends).await
            }
            Some(Purpose::Volume(order)) => {
                let _permit = self.volumes.take()?;
                let engine = self.node.engine.as_ref().ok_or(TunnelError::NoEngine)?;
                self.copies.carry(engine, order, ends).await
            }
            None => Err(TunnelError::BadRequest("a tunnel for an unknown purpose".to_owned())),
        }
    }
}

impl Node {
    fn host(&self) -> doctor::Host {
        doctor::Host {
            config: Arc::clone(&self.config),
            engine: self.engine.clone(),
            network: Some(Arc::clone(&self.network)),
            assignment: self.assignment.borrow().clone(),
            is_agent: true,
        }
    }

    fn audited(&self) -> Audited {
        Audited {
            engine: self.engine.clone(),
            network: Arc::clone(&self.network),
            assignment: self.assignment.clone(),
            statuses: self.statuses.clone(),
            recheck: Arc::clone(&self.recheck),
            config: Arc::clone(&self.config),
        }
    }

    /// The container that is an instance's now.
    fn container(
        &self,
        instance: &str,
    ) -> Result<(&SharedEngine, InstanceName, ContainerId), TunnelError> {
        let (engine, name, status) = self.status(instance)?;
        match status.container_id.as_str() {
            "" => Err(TunnelError::NoContainer(name)),
            id => Ok((engine, name, ContainerId(id.to_owned()))),
        }
    }

    /// The container of an instance in which a command can run.
    fn running(
        &self,
        instance: &str,
    ) -> Result<(&SharedEngine, InstanceName, ContainerId), TunnelError> {
        let (engine, _, container) = self.container(instance)?;
        let (_, instance, InstanceStatus { phase, .. }) = self.status(instance)?;
        match phase {
            // Whatever else goes on, there may be a process.
            Phase::Running | Phase::Stopping | Phase::Preparing | Phase::Unknown => {
                Ok((engine, instance, container))
            }
            Phase::Pending | Phase::Stopped | Phase::Backoff | Phase::Failed | Phase::Completed => {
                Err(TunnelError::NotRunning { instance, phase })
            }
        }
    }

    /// A port of an instance that is to run here and does.
    fn target(&self, request: &v1::ConnectRequest) -> Result<Target, TunnelError> {
        let (_, instance, status) = self.status(&request.instance)?;
        let assignment = self.assignment.borrow().clone();
        let assigned = assignment.as_ref().and_then(|all| all.instances.get(&instance));
        let Some(assigned) = assigned else { return Err(TunnelError::NotHere(instance)) };
        if status.phase != Phase::Running {
            return Err(TunnelError::NotRunning { instance, phase: status.phase });
        }
        match u16::try_from(request.port) {
            Ok(port @ 1..) => Ok(Target { instance, address: assigned.address, port }),
            _ => Err(TunnelError::BadRequest(format!("{} is no port", request.port))),
        }
    }

    /// What was seen of an instance.
    fn status(
        &self,
        instance: &str,
    ) -> Result<(&SharedEngine, InstanceName, InstanceStatus), TunnelError> {
        let engine = self.engine.as_ref().ok_or(TunnelError::NoEngine)?;
        let name: InstanceName =
            instance.parse().map_err(|error| TunnelError::BadRequest(format!("{error}")))?;
        let statuses = self.statuses.borrow().clone();
        match statuses.as_ref().and_then(|all| all.instances.get(&name)) {
            Some(status) => Ok((engine, name, status.clone())),
            None => Err(TunnelError::NotHere(name)),
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
