//! The stream of changes.
//!
//! A watcher asks for what follows the revision it has; the model remembers a bounded number of changes
//! for that. A watcher that falls further behind is told OUT_OF_RANGE and lists again. Nothing is queued for
//! a slow one: the next piece is read when the last one has been taken.
//!
//! What is sent is the object as it is now, not as it was at that revision, once per piece: following
//! along leads to the present, not through the past.

use std::collections::BTreeSet;
use std::time::Duration;

use dwell_core::id::{InstanceName, NodeName, Revision, WorkloadName};
use dwell_proto::v1;
use dwell_proto::v1::watch_response::Change as Sent;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Api, ServerStream, view};
use crate::model::{Change, Compacted, Key, Model, Record};
use crate::owner::Handle;
use crate::status::into_status;

/// How many changes are read at once.
const PIECE: usize = 256;
/// How many messages may wait for a slow watcher.
const QUEUE_MAX: usize = 16;
/// How often a stream without changes says that it lives.
const BOOKMARK: Duration = Duration::from_secs(15);

impl Api {
    pub(super) async fn open_watch(
        &self,
        request: v1::WatchRequest,
    ) -> Result<ServerStream<v1::WatchResponse>, Status> {
        let kinds: BTreeSet<v1::Kind> = request.kinds().collect();
        let mut revisions = self.owner.revisions();
        let now = *revisions.borrow_and_update();
        let position = request.after_revision.map_or(now, Revision);
        if position > now {
            return Err(Status::out_of_range(format!(
                "revision {position} has not been reached, the newest is {now}; list again and watch \
                 from there"
            )));
        }
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let follower = Follower { owner: self.owner.clone(), revisions, position, kinds, sender };
        let stop = self.stop.clone();
        tokio::spawn(follower.run(stop));
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

/// One watcher's place.
struct Follower {
    owner: Handle,
    revisions: watch::Receiver<Revision>,
    position: Revision,
    kinds: BTreeSet<v1::Kind>,
    sender: mpsc::Sender<Result<v1::WatchResponse, Status>>,
}

/// The watcher has gone.
struct Gone;

impl Follower {
    async fn run(mut self, stop: CancellationToken) {
        let sender = self.sender.clone();
        // Cancel-safe: whoever is interrupted ends for good.
        tokio::select! {
            Err(Gone) = self.follow() => {}
            () = sender.closed() => {}
            () = stop.cancelled() => {
                let ending = Status::unavailable("the controller is ending; watch again in a moment");
                // It may be slow, or gone; then it finds out by the end of the stream.
                drop(sender.try_send(Err(ending)));
            }
        }
    }

    async fn follow(&mut self) -> Result<(), Gone> {
        self.bookmark().await?;
        loop {
            while self.catch_up().await? {}
            let changed = tokio::time::timeout(BOOKMARK, self.revisions.changed());
            match changed.await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Gone),
                Err(_) => self.bookmark().await?,
            }
        }
    }

    /// Sends one piece; whether there may be more.
    async fn catch_up(&mut self) -> Result<bool, Gone> {
        let (after, kinds) = (self.position, self.kinds.clone());
        let read = self.owner.read(move |model| piece(model, after, &kinds)).await;
        let piece = match read {
            Ok(Ok(piece)) => piece,
            Ok(Err(compacted)) => return self.fail(into_status(compacted)).await,
            Err(stopped) => return self.fail(into_status(stopped)).await,
        };
        for response in piece.responses {
            self.sender.send(Ok(response)).await.map_err(|_| Gone)?;
        }
        self.position = piece.position;
        Ok(piece.full)
    }

    async fn fail<T>(&self, status: Status) -> Result<T, Gone> {
        // It makes no difference whether it is still there to hear.
        drop(self.sender.send(Err(status)).await);
        Err(Gone)
    }

    async fn bookmark(&self) -> Result<(), Gone> {
        let change = Some(Sent::Bookmark(true));
        let response = v1::WatchResponse { revision: self.position.0, change };
        self.sender.send(Ok(response)).await.map_err(|_| Gone)
    }
}

/// What to send next.
struct Piece {
    responses: Vec<v1::WatchResponse>,
    position: Revision,
    full: bool,
}

/// What a change is about, as watchers see it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Workload(WorkloadName),
    Instance(InstanceName),
    Node(NodeName),
}

impl Subject {
    fn kind(&self) -> v1::Kind {
        match self {
            Self::Workload(_) => v1::Kind::Workload,
            Self::Instance(_) => v1::Kind::Instance,
            Self::Node(_) => v1::Kind::Node,
        }
    }

    /// The subjects that look different after a change: an instance's health shows in its workload too.
    fn of(key: &Key) -> Vec<Self> {
        match key {
            Key::Workload(name) => vec![Self::Workload(name.clone())],
            Key::Instance(name) | Key::Observed(name) | Key::Waiting(name) => {
                vec![Self::Instance(name.clone()), Self::Workload(name.workload().clone())]
            }
            Key::Node(name) | Key::Link(name) => vec![Self::Node(name.clone())],
            Key::Version(name, _) => vec![Self::Workload(name.clone())],
            Key::Token(_)
            | Key::KeySet(_)
            | Key::Registry(_)
            | Key::Context(_)
            | Key::Event(_)
            | Key::Volume(_)
            | Key::Quarantine(_)
            | Key::Reserved
            | Key::History
            | Key::Stored
            | Key::Unmet(_) => Vec::new(),
        }
    }

    fn look(&self, model: &Model) -> Sent {
        let sent = match self {
            Self::Workload(name) => {
                model.workload(name).map(|found| Sent::Workload(view::workload(&found)))
            }
            Self::Instance(name) => {
                model.instance(name).map(|found| Sent::Instance(view::instance(&found)))
            }
            Self::Node(name) => {
                let found = model.node(name).filter(|found| !found.node.removed);
                found.map(|found| Sent::Node(view::node(&found)))
            }
        };
        sent.unwrap_or_else(|| {
            Sent::Deleted(v1::Deleted { kind: self.kind().into(), name: self.name() })
        })
    }

    fn name(&self) -> String {
        match self {
            Self::Workload(name) => name.to_string(),
            Self::Instance(name) => name.to_string(),
            Self::Node(name) => name.to_string(),
        }
    }
}

fn piece(model: &Model, after: Revision, kinds: &BTreeSet<v1::Kind>) -> Result<Piece, Compacted> {
    let changes = model.changes_since(after, PIECE)?;
    let wanted = |kind: v1::Kind| kinds.is_empty() || kinds.contains(&kind);
    let mut seen = BTreeSet::new();
    let mut responses = Vec::new();
    // Newest first, so that the last mention of an object is the one that is kept: whoever resumes after
    // any message misses nothing.
    for change in changes.iter().rev() {
        if let (Some(event), true) = (new_event(change), wanted(v1::Kind::Event)) {
            responses.push(v1::WatchResponse { revision: change.revision.0, change: Some(event) });
        }
        for subject in Subject::of(&change.key) {
            if wanted(subject.kind()) && seen.insert(subject.clone()) {
                let sent = Some(subject.look(model));
                responses.push(v1::WatchResponse { revision: change.revision.0, change: sent });
            }
        }
    }
    responses.reverse();
    let position = changes.last().map_or(after, |change| change.revision);
    Ok(Piece { responses, position, full: changes.len() == PIECE })
}

fn new_event(change: &Change) -> Option<Sent> {
    match &change.new {
        Some(Record::Event(event)) => Some(Sent::Event(view::event(event))),
        _ => None,
    }
}
