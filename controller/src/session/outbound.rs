//! What goes to an agent: Welcome, its assignment, answers to heartbeats, the directory, tunnels to open, and whom to trust
//! when that changes.
//!
//! Nothing is queued here: each message is computed from the model when there is a place for it, so the newest
//! state replaces what a slow agent missed. The assignment comes before the directory, always. Without a change
//! nothing happens, no timer either.

use std::sync::Arc;
use std::time::Duration;

use dwell_core::id::{NodeName, Revision};
use dwell_core::session::{AssignmentChange, Lent};
use dwell_proto::v1::controller_message::Message;
use dwell_proto::{pieces, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::admission::Place;
use super::directory::DirectoryFeed;
use super::secrets::{self, MadeAt};
use crate::model::{Command, Model, Refusal, SessionId};
use crate::owner::Handle;
use crate::pki::{PkiError, SshAuthority, Trusted};
use crate::status::into_status;

/// Within what time all nodes are told whom to trust, so that they do not all come at once for other certificates.
const TRUST_SPREAD_MS: u64 = 3_000;

pub(super) type Outgoing = mpsc::Sender<Result<v1::ControllerMessage, Status>>;

/// What goes to one agent.
pub(super) struct Outbound {
    pub(super) owner: Handle,
    pub(super) ssh: Arc<SshAuthority>,
    pub(super) node: NodeName,
    pub(super) session: SessionId,
    /// The version of the protocol that the agent speaks.
    pub(super) protocol: u32,
    pub(super) changes: watch::Receiver<()>,
    /// Whether the agent takes assignments in pieces, and templates by their digest.
    pub(super) takes_pieces: bool,
    /// Whom it is to trust, beside what it was welcomed with.
    pub(super) trust: watch::Receiver<Arc<Trusted>>,
    /// Why it could not be told what to do; empty if it could.
    pub(super) unserved: String,
    /// The newest heartbeat that was heard; 0 for one that wants no answer.
    pub(super) heard: watch::Receiver<u64>,
    /// The revision that the agent was brought to.
    pub(super) sent: Option<Revision>,
    pub(super) directory: DirectoryFeed,
    pub(super) sender: Outgoing,
}

impl Outbound {
    /// Sends until one side ends; why, if the agent should know. The place among those that are being taken in is given
    /// back when the agent has been told all that it is to do.
    pub(super) async fn run(
        &mut self,
        place: Place,
        welcome: v1::Welcome,
        mut requests: mpsc::Receiver<v1::OpenTunnel>,
    ) -> Option<Status> {
        let taken_in = async {
            self.send(Message::Welcome(welcome)).await?;
            self.assignment().await
        };
        if let Err(reason) = place.hold(taken_in).await {
            return reason;
        }
        let mut trust_due = None;
        loop {
            // Cancel-safe: a change that was not seen will be, a request that was not taken stays queued, and what
            // is due of the directory or of whom to trust stays due.
            let sent = tokio::select! {
                Ok(()) = self.trust.changed() => {
                    let spread_ms = rand::random::<u64>() % TRUST_SPREAD_MS;
                    trust_due = Some(Instant::now() + Duration::from_millis(spread_ms));
                    Ok(())
                }
                () = until(trust_due) => {
                    trust_due = None;
                    self.trust().await
                }
                changed = self.changes.changed() => match changed {
                    Ok(()) => self.assignment().await,
                    Err(_) => return None,
                },
                heard = self.heard.changed() => match heard {
                    Ok(()) => self.lend().await,
                    Err(_) => return None,
                },
                request = requests.recv() => match request {
                    Some(request) => self.send(Message::OpenTunnel(request)).await,
                    // Another session has registered in this one's place.
                    None => return Some(into_status(Refusal::SessionSuperseded(self.node.clone()))),
                },
                due = self.directory.due(&self.owner) => match due {
                    Ok(()) => self.directory().await,
                    Err(stopped) => return Some(into_status(stopped)),
                },
            };
            if let Err(reason) = sent {
                return reason;
            }
        }
    }

    /// Tells whom to trust from now on, and everything again: the authorities of SSH are in the assignment, and what they
    /// have signed.
    async fn trust(&mut self) -> Result<(), Option<Status>> {
        let ca_pem = self.trust.borrow_and_update().pem();
        self.send(Message::Trust(v1::Trust { ca_pem })).await?;
        self.sent = None;
        self.assignment().await
    }

    async fn send(&self, message: Message) -> Result<(), Option<Status>> {
        let message = v1::ControllerMessage { message: Some(message) };
        self.sender.send(Ok(message)).await.map_err(|_| None)
    }

    /// Brings the agent to the newest revision. The place in the queue comes first, so that what is sent
    /// is as new as can be when there is room again.
    async fn assignment(&mut self) -> Result<(), Option<Status>> {
        let place = self.sender.reserve().await.map_err(|_| None)?;
        self.changes.mark_unchanged();
        let (node, session, sent) = (self.node.clone(), self.session, self.sent);
        // In one read, so that nothing is made for a stream that is not the node's any more.
        let look = move |model: &Model| {
            model.check_session(&node, session).map(|()| Next::of(model, &node, sent))
        };
        let next = self.owner.read(look).await.map_err(|stopped| Some(into_status(stopped)))?;
        let next = next.map_err(|refusal| Some(into_status(refusal)))?;
        // An agent of the first version would take away what an unconfirmed assignment does not have.
        let next = next.filter(|next| self.protocol >= 2 || !next.is_unconfirmed());
        let Some(Next { mut change, made_at }) = next else { return Ok(()) };
        let revision = change.position().revision;
        let ssh = Arc::clone(&self.ssh);
        let takes_pieces = self.takes_pieces;
        #[expect(clippy::disallowed_methods, reason = "it computes, and waits for nothing")]
        let made = tokio::task::spawn_blocking(move || {
            secrets::add(&mut change, &made_at, &ssh)?;
            Ok(if takes_pieces {
                pieces::of_assignment(v1::Assignment::digested(&change))
            } else {
                pieces::in_one((&change).into())
            })
        });
        let made = made.await.map_err(|_| Some(Status::internal("an assignment was not made")))?;
        let made = made.map_err(|error: PkiError| Some(into_status(error)))?;
        drop(place);
        match made {
            Ok(messages) => {
                for message in messages {
                    self.send(message).await?;
                }
                self.sent = Some(revision);
                self.served(String::new()).await
            }
            // The stream goes on: what else the node is asked for (logs, commands) still works.
            Err(too_large) => self.served(too_large.to_string()).await,
        }
    }

    /// Answers a heartbeat: what the node has is lent to it anew. All that was decided before the heartbeat was heard goes
    /// first, so that nothing is lent that was taken from the node meanwhile; what cannot be told is not lent either.
    async fn lend(&mut self) -> Result<(), Option<Status>> {
        let heartbeat = *self.heard.borrow_and_update();
        if self.changes.has_changed().unwrap_or(true) {
            self.assignment().await?;
        }
        if !self.unserved.is_empty() {
            return Ok(());
        }
        let (node, session) = (self.node.clone(), self.session);
        let look = move |model: &Model| {
            model.check_session(&node, session)?;
            Ok::<_, Refusal>((model.is_unconfirmed(), model.reboot_order(&node)))
        };
        let looked = self.owner.read(look).await.map_err(|stopped| Some(into_status(stopped)))?;
        let (only_renewed, order) = looked.map_err(|refusal| Some(into_status(refusal)))?;
        // Without a number it is of a node to which nothing is lent; it may be told to reboot all the same.
        if heartbeat > 0 {
            self.send(Message::Lent((&Lent { heartbeat, only_renewed }).into())).await?;
        }
        match order {
            Some(order) => self.send(Message::Reboot((&order).into())).await,
            None => Ok(()),
        }
    }

    /// Notes why the node cannot be told what it is to do, or that it can be.
    async fn served(&mut self, unserved: String) -> Result<(), Option<Status>> {
        if self.unserved == unserved {
            return Ok(());
        }
        if unserved.is_empty() {
            tracing::info!(node = %self.node, "the node can be told what to do again");
        } else {
            tracing::error!(node = %self.node, reason = unserved, "the node cannot be told what to do");
        }
        self.unserved.clone_from(&unserved);
        let (node, session) = (self.node.clone(), self.session);
        let told =
            self.owner.command(Command::NoteUnserved { node, session, reason: unserved }).await;
        told.map(drop).map_err(|error| Some(into_status(error)))
    }

    /// Sends a message about the directory, unless the assignment has changed while there was no place for it.
    async fn directory(&mut self) -> Result<(), Option<Status>> {
        let place = self.sender.reserve().await.map_err(|_| None)?;
        if self.changes.has_changed().unwrap_or(true) {
            return Ok(());
        }
        if let Some(change) = self.directory.take() {
            place.send(Ok(v1::ControllerMessage { message: Some(Message::Directory(change)) }));
        }
        Ok(())
    }
}

/// Then; never, without a time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What brings an agent to the newest revision.
struct Next {
    change: AssignmentChange,
    made_at: MadeAt,
}

impl Next {
    fn is_unconfirmed(&self) -> bool {
        matches!(&self.change, AssignmentChange::Snapshot(all) if all.unconfirmed)
    }

    /// What brings it there from `sent`; `None` if nothing changed.
    fn of(model: &Model, node: &NodeName, sent: Option<Revision>) -> Option<Self> {
        let change = model.assignment_change(node, sent)?;
        let made_at = MadeAt::of(model, &change);
        Some(Self { change, made_at })
    }
}

#[cfg(test)]
mod tests;
