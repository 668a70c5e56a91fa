//! Byte streams to instances, over connections that only agents can open.
//!
//! ```text
//!   API call ─▶ open ── OpenTunnel ──▶ agent (on the session's stream)
//!                │                       │
//!                └──── waits ◀── Carry ──┘  same id, same node, once, in time
//!                          │
//!                        Tunnel: both directions, bounded; it ends when either side drops its end
//! ```
//!
//! Owns: who waits for which tunnel, and the way to each node's session. Both maps are locked for a
//! look-up only. Back-pressure needs nothing here: a slow reader lets HTTP/2's window fill, which stops
//! the writer at the other end.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dwell_core::id::NodeName;
use dwell_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::model::SessionId;

/// How long an agent may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How many requests for tunnels may wait in one session.
const REQUESTS_MAX: usize = 256;
/// How many messages may wait on their way down a tunnel.
const DOWN_MAX: usize = 8;

/// Why there is no tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// The node has no session.
    #[error(
        "node {0} is not connected to the controller; try again when `dwell node ls` shows it ready"
    )]
    NoSession(NodeName),
    /// The agent did not answer in time.
    #[error("node {0} did not answer within {seconds} s; look at its agent's log", seconds = ANSWER_TIME.as_secs())]
    NoAnswer(NodeName),
    /// Too many at once.
    #[error("too much is being asked of node {0} at once; try again in a moment")]
    Busy(NodeName),
    /// An agent carries what nobody asked this node for.
    #[error("nobody waits for this tunnel")]
    Unknown,
}

/// The controller's end of a tunnel.
pub struct Tunnel {
    /// What comes from the instance.
    pub up: Streaming<v1::TunnelUp>,
    /// What goes to it.
    pub down: mpsc::Sender<v1::TunnelDown>,
}

/// All sessions and all tunnels that are being opened; clones share them.
#[derive(Clone, Default)]
pub struct Tunnels {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    sessions: HashMap<NodeName, Registered>,
    waiting: HashMap<String, (NodeName, oneshot::Sender<Tunnel>)>,
    /// Ends what a node carries.
    expelled: HashMap<NodeName, CancellationToken>,
}

/// The session of a node.
struct Registered {
    session: SessionId,
    requests: mpsc::Sender<v1::OpenTunnel>,
    /// Where its stream comes from, if that is known.
    from: Option<IpAddr>,
}

impl Tunnels {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's session has begun, on a stream from there; it takes the place of an earlier one. What is received is to be
    /// sent to the agent. Beside it, where the stream of a session comes from that had not ended.
    pub fn register(
        &self,
        node: NodeName,
        session: SessionId,
        from: Option<IpAddr>,
    ) -> (mpsc::Receiver<v1::OpenTunnel>, Option<IpAddr>) {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let registered = Registered { session, requests, from };
        let earlier = self.shared().sessions.insert(node, registered);
        (receiver, earlier.and_then(|earlier| earlier.from))
    }

    /// A session has ended; a later one of the same node stays.
    pub fn unregister(&self, node: &NodeName, session: SessionId) {
        let mut shared = self.shared();
        if shared.sessions.get(node).is_some_and(|current| current.session == session) {
            shared.sessions.remove(node);
        }
    }

    /// Asks a node for a tunnel and waits for it.
    ///
    /// # Errors
    /// [`TunnelError`]. Dropped early, it leaves nothing behind.
    pub async fn open(
        &self,
        node: &NodeName,
        purpose: v1::open_tunnel::Purpose,
    ) -> Result<Tunnel, TunnelError> {
        let id = format!("{:032x}", rand::random::<u128>());
        let (answer, carried) = oneshot::channel();
        let session = {
            let mut shared = self.shared();
            let current =
                shared.sessions.get(node).ok_or_else(|| TunnelError::NoSession(node.clone()))?;
            let session = current.requests.clone();
            shared.waiting.insert(id.clone(), (node.clone(), answer));
            session
        };
        let _waiting = Waiting { tunnels: self, id: id.clone() };
        let request = v1::OpenTunnel { tunnel: id, purpose: Some(purpose) };
        session.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TunnelError::Busy(node.clone()),
            mpsc::error::TrySendError::Closed(_) => TunnelError::NoSession(node.clone()),
        })?;
        let no_answer = || TunnelError::NoAnswer(node.clone());
        let carried = tokio::time::timeout(ANSWER_TIME, carried).await.map_err(|_| no_answer())?;
        carried.map_err(|_| no_answer())
    }

    /// A node brings a tunnel that was asked for. What is received is to be sent to the agent.
    ///
    /// # Errors
    /// [`TunnelError::Unknown`] if nobody waits for it, or it was asked of another node.
    pub fn carry(
        &self,
        node: &NodeName,
        id: &str,
        up: Streaming<v1::TunnelUp>,
    ) -> Result<(mpsc::Receiver<v1::TunnelDown>, CancellationToken), TunnelError> {
        let mut shared = self.shared();
        if shared.waiting.get(id).is_none_or(|(asked, _)| asked != node) {
            return Err(TunnelError::Unknown);
        }
        let (_, answer) = shared.waiting.remove(id).ok_or(TunnelError::Unknown)?;
        let (down, receiver) = mpsc::channel(DOWN_MAX);
        answer.send(Tunnel { up, down }).map_err(|_| TunnelError::Unknown)?;
        let expelled = shared.expelled.entry(node.clone()).or_default().clone();
        Ok((receiver, expelled))
    }

    /// Ends all that a node carries: it is out.
    pub fn expel(&self, node: &NodeName) {
        let mut shared = self.shared();
        shared.sessions.remove(node);
        if let Some(expelled) = shared.expelled.remove(node) {
            expelled.cancel();
        }
    }
}

/// Someone waits for a tunnel; no longer, when this is dropped.
struct Waiting<'a> {
    tunnels: &'a Tunnels,
    id: String,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.tunnels.shared().waiting.remove(&self.id);
    }
}
