//! Following changes over lost connections: from revision to revision, without missing one or saying so.

use std::time::Duration;

use dwell_proto::v1;
use tonic::{Code, Status, Streaming};

use crate::client::{Client, Target, connect};
use crate::failure::Failure;
use crate::output::say;

/// How long to wait before connecting again, at first and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A stream of changes that connects again when it breaks.
///
/// Invariant: `after` is the revision of the last change that was handed out, or of a later bookmark.
pub(crate) struct Watcher<'a> {
    target: &'a Target,
    kinds: Vec<v1::Kind>,
    client: Client,
    after: u64,
    stream: Option<Streaming<v1::WatchResponse>>,
    pause: Duration,
}

/// What a [`Watcher`] has next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Something changed, or a bookmark.
    Change(Box<v1::WatchResponse>),
    /// Changes were missed: list again, and watch from there with [`Watcher::resume`].
    Missed(Client),
}

impl<'a> Watcher<'a> {
    /// Follows what changes after revision `after`.
    pub(crate) fn new(
        client: Client,
        target: &'a Target,
        kinds: Vec<v1::Kind>,
        after: u64,
    ) -> Self {
        Self { target, kinds, client, after, stream: None, pause: PAUSE_FIRST }
    }

    /// Continues after a list that was true at `after`.
    pub(crate) fn resume(&mut self, after: u64) {
        self.after = after;
        self.stream = None;
    }

    /// The next change; waits for it, and for the controller to come back, as long as it takes.
    ///
    /// # Errors
    /// If the controller refuses.
    pub(crate) async fn next(&mut self) -> Result<Next, Failure> {
        loop {
            let result = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => match self.open().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            match result {
                Ok(Some(change)) => {
                    self.pause = PAUSE_FIRST;
                    self.after = self.after.max(change.revision);
                    return Ok(Next::Change(Box::new(change)));
                }
                Err(status) if status.code() == Code::OutOfRange => {
                    self.stream = None;
                    return Ok(Next::Missed(self.client.clone()));
                }
                Ok(None) => self.connect_again().await,
                Err(status) => match Failure::from(status) {
                    Failure::Unavailable(_) => self.connect_again().await,
                    failure => return Err(failure),
                },
            }
        }
    }

    async fn open(&mut self) -> Result<Streaming<v1::WatchResponse>, Status> {
        let request = v1::WatchRequest {
            after_revision: Some(self.after),
            kinds: self.kinds.iter().map(|&kind| kind.into()).collect(),
        };
        Ok(self.client.watch(request).await?.into_inner())
    }

    async fn connect_again(&mut self) {
        self.stream = None;
        let mut told = false;
        loop {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            match connect(self.target).await {
                Ok(client) => {
                    self.client = client;
                    return;
                }
                Err(failure) if !told => {
                    say(&format!("connection lost, trying again: {failure}"));
                    told = true;
                }
                Err(_) => {}
            }
        }
    }
}
