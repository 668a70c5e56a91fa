//! The `Session` service: one stream per agent, which brings what the node sees and takes what it is to do.
//!
//! ```text
//!   Attach: certificate ─▶ Hello ─▶ AttachNode ─▶ Welcome, snapshot ─▶ deltas, tunnels ◀─▶ reports
//!                 │           │          │                                     │
//!                 ▼           ▼          ▼                                     ▼
//!             refused      refused    refused                          end of either side:
//!                                                                         DetachNode
//! ```
//!
//! Invariants: a node is who its certificate says, and only if it is of the node's present enrolment; who was removed,
//! or whose name is another host's by now, is told to run nothing and gets nothing else; who is not known is refused, unless that proves
//! that the store is a backup; of
//! two streams of a node the newer counts; a node that was removed is told to run nothing; nothing is queued for a slow agent, since what it gets is
//! computed from the model when it can take it, so the newest state replaces what it missed.

mod admission;
mod attached;
mod directory;
mod dismissed;
#[cfg(test)]
mod fixture;
mod outbound;
mod pieces;
mod secrets;
mod standing;

pub use admission::Admission;
pub use directory::WholeDirectory;
pub(crate) use standing::Caller;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dwell_core::quantity::Millis;
use dwell_core::session::Hello;
use dwell_proto::v1;
use dwell_proto::v1::session_server::Session;
use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::standing::Standing;
use crate::model::{Command, SessionId};
use crate::owner::Handle;
use crate::pki::{self, Authority, By, SshAuthority};
use crate::status::into_status;
use crate::tunnel::Tunnels;

type Answer<T> = Result<Response<T>, Status>;
type ServerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The `Session` service; clones are the same service.
#[derive(Clone)]
pub struct Sessions {
    /// The model.
    pub owner: Handle,
    /// What API calls ask of agents.
    pub tunnels: Tunnels,
    /// Renews certificates.
    pub authority: Arc<Authority>,
    /// Makes the instances' host keys.
    pub ssh: Arc<SshAuthority>,
    /// The directory, for those who need all of it.
    pub directory: WholeDirectory,
    /// Whose turn it is to be taken in.
    pub admission: Admission,
    /// How often agents are asked to report.
    pub heartbeat: Millis,
    /// How long a renewed certificate is valid.
    pub valid: Duration,
    /// The number of the last stream.
    pub next: Arc<AtomicU64>,
    /// Ends the streams.
    pub stop: CancellationToken,
}

#[tonic::async_trait]
impl Session for Sessions {
    type AttachStream = ServerStream<v1::ControllerMessage>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Answer<Self::AttachStream> {
        let caller = Caller::of(&request)?;
        let standing = caller.standing(&self.owner);
        let mut messages = request.into_inner();
        let Some(v1::agent_message::Message::Hello(hello)) = first(&mut messages).await?.message
        else {
            return Err(Status::invalid_argument("the first message of a session has to be Hello"));
        };
        let session = SessionId(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let hello = Hello::try_from(hello).map_err(into_status)?;
        match standing {
            // A removed node attaches as well, to be told to run nothing.
            // The model refuses a contested one, and says why.
            Standing::Member | Standing::Removed | Standing::Contested => {
                self.begin(caller, session, hello, messages).await
            }
            Standing::Superseded => self.dismiss(caller, &hello, messages).await,
            Standing::Unknown => {
                let (node, enrolment) = (caller.node.clone(), caller.enrolment.0.clone());
                let hello_of = Box::new(hello.clone());
                let adopt = Command::AdoptNode { node, enrolment, hello: hello_of };
                self.owner.command(adopt).await.map_err(into_status)?;
                self.begin(caller, session, hello, messages).await
            }
        }
        .map(Response::new)
    }

    type CarryStream = ServerStream<v1::TunnelDown>;

    async fn carry(&self, request: Request<Streaming<v1::TunnelUp>>) -> Answer<Self::CarryStream> {
        let caller = Caller::of(&request)?;
        caller.check_member(&self.owner)?;
        let mut up = request.into_inner();
        let Some(v1::tunnel_up::Message::Tunnel(id)) = first(&mut up).await?.message else {
            return Err(Status::invalid_argument(
                "the first message of a tunnel has to be its name",
            ));
        };
        let (down, expelled) = self.tunnels.carry(&caller.node, &id, up).map_err(into_status)?;
        let down = ReceiverStream::new(down).map(Ok).take_until(expelled.cancelled_owned());
        Ok(Response::new(Box::pin(down)))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Answer<v1::RenewResponse> {
        let caller = Caller::of(&request)?;
        caller.check_member(&self.owner)?;
        let v1::RenewRequest { certificate_request, keeps_trust } = request.into_inner();
        let key = pki::Request::read(&certificate_request).map_err(into_status)?;
        let (node, by) = (caller.node.clone(), By::of(keeps_trust));
        let certificate_pem =
            self.authority.issue_node(&key, &caller.into(), self.valid, by).map_err(into_status)?;
        tracing::info!(%node, "renewed a node's certificate");
        let ca_pem = self.authority.certificates_pem();
        Ok(Response::new(v1::RenewResponse { certificate_pem, ca_pem }))
    }
}

/// The first message of a stream. That it comes soon and is small is seen to by the [intake](crate::intake).
async fn first<T>(messages: &mut Streaming<T>) -> Result<T, Status> {
    let message = messages.message().await?;
    message.ok_or_else(|| Status::invalid_argument("the stream ended before it began"))
}
