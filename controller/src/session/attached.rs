//! A stream from its Hello to its end.
//!
//! One task, two loops: one takes what the agent says, one sends what it is to do; when one ends, so does
//! the stream, with the reason as its status. An agent's messages are taken one by one, each after the last
//! one was settled, which bounds what a single agent can have waiting in the owner's queue.

use std::net::IpAddr;
use std::sync::Arc;

use dwell_core::access::Issuer;
use dwell_core::id::NodeName;
use dwell_core::session::{Acknowledge, Heartbeat, Hello, RebootFailed, Welcome};
use dwell_proto::{PROTOCOL, PROTOCOL_NEWEST, common_protocol, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::admission::Place;
use super::directory::DirectoryFeed;
use super::outbound::Outbound;
use super::{Caller, ServerStream, Sessions};
use crate::model::{Command, Reply, SessionId};
use crate::owner::{CommandError, Done};
use crate::status::into_status;

/// How many messages may wait for a slow agent.
const QUEUE_MAX: usize = 2;

impl Sessions {
    /// Attaches a node, and goes on by itself.
    pub(super) async fn begin(
        &self,
        Caller { node, from, enrolment, issuer }: Caller,
        session: SessionId,
        hello: Hello,
        messages: Streaming<v1::AgentMessage>,
    ) -> Result<ServerStream<v1::ControllerMessage>, Status> {
        let (held, takes_pieces) = (hello.directory, hello.takes_pieces);
        let protocol = protocol(&node, &hello)?;
        let attach = Command::AttachNode {
            node: node.clone(),
            enrolment: enrolment.0.clone(),
            session,
            hello: Box::new(hello),
        };
        let place = self.admission.enter().await?;
        // Before the model knows of the session, so that no change is missed.
        let changes = self.owner.follow(node.clone()).await.map_err(into_status)?;
        let attached = match self.owner.command(attach).await {
            Ok(Done { reply: Reply::Unserved(refusal), .. }) => Err(CommandError::Refused(refusal)),
            attached => attached,
        };
        if let Err(error) = attached {
            tracing::warn!(%node, %error, "refused a session");
            return Err(into_status(error));
        }
        let (requests, earlier) = self.tunnels.register(node.clone(), session, from);
        self.note_superseded(&node, earlier, from).await;
        self.note_issuer(&node, enrolment.0, issuer).await;
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        // Before it is welcomed with them, so that no change is missed.
        let trust = self.authority.changes();
        let heard = watch::Sender::new(0);
        let outbound = Outbound {
            owner: self.owner.clone(),
            ssh: Arc::clone(&self.ssh),
            node: node.clone(),
            session,
            protocol,
            changes,
            takes_pieces,
            unserved: String::new(),
            trust,
            heard: heard.subscribe(),
            sent: None,
            directory: DirectoryFeed::new(
                &self.owner,
                (node.clone(), session),
                self.directory.clone(),
                held,
            ),
            sender,
        };
        let welcome = self.welcome(protocol).await?;
        let attached = Attached { sessions: self.clone(), node, session, heard };
        tokio::spawn(attached.run(place, welcome, outbound, messages, requests));
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

impl Sessions {
    /// Notes that a stream has taken the place of one that was alive and came from elsewhere: it may be a thief's.
    async fn note_superseded(
        &self,
        node: &NodeName,
        earlier: Option<IpAddr>,
        present: Option<IpAddr>,
    ) {
        let (Some(earlier), Some(present)) = (earlier, present) else { return };
        if earlier == present {
            return;
        }
        let note = Command::NoteSuperseded { node: node.clone(), earlier, present };
        if let Err(error) = self.owner.command(note).await {
            tracing::warn!(%node, %earlier, %present, %error, "a stream was taken over from elsewhere");
        }
    }

    /// Notes who signed the certificate that a node lives by, if that is not known.
    async fn note_issuer(&self, node: &NodeName, enrolment: String, issuer: Issuer) {
        let known = self.owner.roster().node(node);
        if known.is_none_or(|known| known.removed || known.issuer == issuer) {
            return;
        }
        let note = Command::NoteIssuer { node: node.clone(), enrolment, issuer };
        if let Err(error) = self.owner.command(note).await {
            // It is said again when it attaches again; until then it counts as living by the earlier one.
            tracing::warn!(%node, %issuer, %error, "who signed the certificate of a node is not written down");
        }
    }

    /// How a stream is answered.
    pub(super) async fn welcome(&self, protocol: u32) -> Result<v1::Welcome, Status> {
        let history = self.owner.read(|model| (model.incarnation(), model.term())).await;
        let (incarnation, term) = history.map_err(into_status)?;
        let cluster_id = self.authority.cluster_id().to_owned();
        let heartbeat = self.heartbeat;
        let ca_pem = self.authority.certificates_pem();
        Ok((&Welcome { protocol, heartbeat, cluster_id, incarnation, term, ca_pem }).into())
    }
}

/// The version of the protocol that is spoken with a node.
pub(super) fn protocol(node: &NodeName, hello: &Hello) -> Result<u32, Status> {
    let (oldest, newest) = (hello.protocol, hello.protocol_newest.max(hello.protocol));
    common_protocol(oldest, newest).ok_or_else(|| {
        Status::failed_precondition(format!(
            "the agent of node {node} speaks versions {oldest} to {newest} of the session protocol, this controller \
             {PROTOCOL} to {PROTOCOL_NEWEST}; install the same version of dwell on both"
        ))
    })
}

/// A stream that has begun.
struct Attached {
    sessions: Sessions,
    node: NodeName,
    session: SessionId,
    /// The newest heartbeat that was heard; 0 for one that wants no answer.
    heard: watch::Sender<u64>,
}

impl Attached {
    async fn run(
        self,
        place: Place,
        welcome: v1::Welcome,
        mut outbound: Outbound,
        messages: Streaming<v1::AgentMessage>,
        requests: mpsc::Receiver<v1::OpenTunnel>,
    ) {
        tracing::info!(node = %self.node, session = self.session.0, "an agent attached");
        let sender = outbound.sender.clone();
        // Cancel-safe: what is interrupted ends for good, and the agent begins anew.
        let reason = tokio::select! {
            reason = self.inbound(messages) => reason,
            reason = outbound.run(place, welcome, requests) => reason,
            () = sender.closed() => None,
            () = self.sessions.stop.cancelled() => {
                Some(Status::unavailable("the controller is ending; attach again in a moment"))
            }
        };
        let message = reason.as_ref().map(Status::message);
        tracing::info!(node = %self.node, session = self.session.0, reason = message, "an agent's stream ended");
        self.sessions.tunnels.unregister(&self.node, self.session);
        let detach = Command::DetachNode { node: self.node.clone(), session: self.session };
        match self.sessions.owner.command(detach).await {
            // A later stream has taken its place, or the controller ends.
            Ok(_) | Err(CommandError::Refused(_) | CommandError::Stopped(_)) => {}
            Err(error) => {
                tracing::warn!(node = %self.node, %error, "a detached node is found out by its silence");
            }
        }
        if let Some(reason) = reason {
            // It may have gone already, or not be reading.
            drop(sender.try_send(Err(reason)));
        }
    }

    /// Takes what the agent says until it ends; why, if the agent should know.
    async fn inbound(&self, mut messages: Streaming<v1::AgentMessage>) -> Option<Status> {
        loop {
            let message = match messages.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return None,
                Err(status) => {
                    tracing::info!(node = %self.node, %status, "a session broke");
                    return None;
                }
            };
            let (heartbeat, failed) = match &message.message {
                Some(v1::agent_message::Message::Heartbeat(heartbeat)) => {
                    (Some(heartbeat.number), heartbeat.reboot_failed.clone())
                }
                _ => (None, None),
            };
            let command = match self.command(message) {
                Ok(Some(command)) => command,
                Ok(None) => continue,
                Err(status) => return Some(status),
            };
            if let Err(error) = self.sessions.owner.command(command).await {
                return Some(into_status(error));
            }
            if let Some(failed) = failed {
                self.note_reboot_failed(failed.into()).await;
            }
            if let Some(number) = heartbeat {
                self.heard.send_replace(number);
            }
        }
    }

    /// Notes that the node could not reboot. It says so with each heartbeat, as long as it is ordered to.
    async fn note_reboot_failed(&self, failed: RebootFailed) {
        let (node, session) = (self.node.clone(), self.session);
        let note = Command::NoteRebootFailed { node, session, failed };
        if let Err(error) = self.sessions.owner.command(note).await {
            tracing::warn!(node = %self.node, %error, "that a node could not reboot is not written down");
        }
    }

    /// What a message asks of the model. An empty one is a newer agent's, and passed over.
    fn command(&self, message: v1::AgentMessage) -> Result<Option<Command>, Status> {
        use v1::agent_message::Message;
        let (node, session) = (self.node.clone(), self.session);
        Ok(Some(match message.message {
            Some(Message::Heartbeat(heartbeat)) => {
                let Heartbeat { capacity, .. } = heartbeat.into();
                Command::Heartbeat { node, session, capacity }
            }
            Some(Message::Status(report)) => {
                let report = report.try_into().map_err(into_status)?;
                Command::NodeStatus { node, session, report }
            }
            Some(Message::Acknowledge(ack)) => {
                let Acknowledge { stored } = ack.into();
                Command::Acknowledge { node, session, stored }
            }
            Some(Message::Hello(_)) => {
                return Err(Status::invalid_argument("a second Hello on one stream"));
            }
            Some(Message::SshEvents(told)) => {
                let told = told.try_into().map_err(into_status)?;
                Command::SshEvents { node, session, told }
            }
            None => return Ok(None),
        }))
    }
}
