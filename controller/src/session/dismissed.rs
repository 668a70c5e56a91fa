//! A stream of a host whose name is another host's by now: it is told to run nothing, and gets nothing else.
//!
//! Such a host was removed by force while it was away, and its instances are elsewhere. It must not go on running them,
//! so it is not refused but answered, with an empty assignment on a stream that the model knows nothing of: what it
//! says is read, and believed only in that it runs nothing any more.

use std::sync::Arc;

use dwell_core::id::Revision;
use dwell_core::session::{AssignmentChange, Hello, StatusReport};
use dwell_proto::v1;
use dwell_proto::v1::agent_message::Message as Up;
use dwell_proto::v1::controller_message::Message as Down;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Caller, ServerStream, Sessions, attached};
use crate::model::{Command, Model, Subject};
use crate::status::into_status;

/// How many messages may wait for such a host. It gets two.
const QUEUE_MAX: usize = 4;

impl Sessions {
    pub(super) async fn dismiss(
        &self,
        caller: Caller,
        hello: &Hello,
        messages: Streaming<v1::AgentMessage>,
    ) -> Result<ServerStream<v1::ControllerMessage>, Status> {
        let node = caller.node.clone();
        let protocol = attached::protocol(&node, hello)?;
        tracing::warn!(%node, address = %hello.address, "a host whose name is another host's by now is back");
        let back = Command::NoteDismissed {
            node,
            enrolment: caller.enrolment.0.clone(),
            address: hello.address,
            instances: hello.claims.len(),
        };
        self.owner.command(back).await.map_err(into_status)?;
        let confirmed = self.owner.directory_revisions();
        let nothing = self.owner.read(Model::dismissal).await.map_err(into_status)?;
        let until_confirmed = nothing.unconfirmed.then_some(confirmed);
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let welcome = Down::Welcome(self.welcome(protocol).await?);
        let nothing = Down::Assignment((&AssignmentChange::Snapshot(nothing)).into());
        for message in [welcome, nothing] {
            let message = v1::ControllerMessage { message: Some(message) };
            sender.send(Ok(message)).await.map_err(|_| Status::cancelled("the stream ended"))?;
        }
        tokio::spawn(listen(self.clone(), Arc::new(caller), messages, sender, until_confirmed));
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

/// Reads what the host says until one side ends. Before a restore is confirmed, the host was told to go on as it is: the
/// stream ends with the confirmation, so that the host begins another one and is told to run nothing.
async fn listen(
    sessions: Sessions,
    caller: Arc<Caller>,
    mut messages: Streaming<v1::AgentMessage>,
    sender: super::outbound::Outgoing,
    until_confirmed: Option<watch::Receiver<Option<Revision>>>,
) {
    // The directory is shown to nobody while a restore is unconfirmed.
    let confirmed = async {
        match until_confirmed {
            Some(mut shown) => drop(shown.wait_for(Option::is_some).await),
            None => std::future::pending().await,
        }
    };
    tokio::pin!(confirmed);
    let mut has_ended = false;
    loop {
        // Cancel-safe: what is interrupted ends for good.
        let message = tokio::select! {
            message = messages.message() => message,
            () = sender.closed() => return,
            () = sessions.stop.cancelled() => return,
            () = &mut confirmed => return,
        };
        let Ok(Some(v1::AgentMessage { message })) = message else { return };
        let Some(Up::Status(report)) = message else { continue };
        let Ok(report) = StatusReport::try_from(report) else { return };
        if report.complete && report.instances.is_empty() && !has_ended {
            has_ended = true;
            let note = Command::Note {
                subject: Subject::Node(caller.node.clone()),
                reason: "old-host-ended",
                message: "the host that had this name before says that it runs nothing any more"
                    .to_owned(),
            };
            if sessions.owner.command(note).await.is_err() {
                return;
            }
        }
    }
}
