//! The directory on its way to one agent: all of it once, then what changed.
//!
//! Changes go together: the first is sent at once, then at most one message in [`PAUSE`]. All of it is the same for
//! every agent, and much to make, so it is made once and kept ([`WholeDirectory`]); who gets it gets what has changed
//! since with it. When a thousand agents need it in the same moment, because the controller has started
//! again, they take it one after the other, and everything else goes on between.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::id::{Incarnation, NodeName, Position, Revision};
use dwell_proto::v1;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::pieces;
use crate::model::{Model, SessionId};
use crate::owner::{Handle, Stopped};

/// How long changes are collected after a message: a name is to follow within 100 ms also when much changes.
const PAUSE: Duration = Duration::from_millis(50);
/// How fast whole directories are given away: what a network of 1 Gbit/s takes. Faster, they would pile up in memory.
const BYTES_PER_SECOND: f64 = 100e6;

/// Messages that belong together.
type Pieces = VecDeque<v1::DirectoryChange>;

/// All of the directory as it was at some revision, for all sessions; clones are the same one.
#[derive(Clone, Default)]
pub struct WholeDirectory(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    pieces: Pieces,
    /// How long the network of a controller takes to send it.
    sending: Duration,
    /// When the last one that was given away has been sent.
    free: Option<Instant>,
}

impl WholeDirectory {
    /// All of it, and what has changed since.
    async fn get(&self, owner: &Handle) -> Result<Pieces, Stopped> {
        // Who waits here waits in line, and holds nothing meanwhile.
        let mut kept = self.0.lock().await;
        if let Some(free) = kept.free {
            tokio::time::sleep_until(free).await;
        }
        let made_at = Revision(kept.pieces.back().map_or(0, |last| last.revision));
        let later = owner.read(move |model| model.directory_since(made_at)).await?;
        let later = if let Some(later) = later {
            pieces::of_directory(&later)
        } else {
            kept.pieces = pieces::of_directory(&owner.read(Model::directory).await?);
            let bytes: usize = kept.pieces.iter().map(prost::Message::encoded_len).sum();
            kept.sending = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND);
            Pieces::new()
        };
        kept.free = Some(Instant::now() + kept.sending);
        Ok(kept.pieces.iter().cloned().chain(later).collect())
    }
}

/// How far an agent is with the directory.
pub(super) struct DirectoryFeed {
    /// Whose it is, on which stream.
    of: (NodeName, SessionId),
    revisions: watch::Receiver<Option<Revision>>,
    whole: WholeDirectory,
    /// What the agent holds, or will when it has all pieces.
    held: Position,
    /// Whether what it held at first has been compared with what there is.
    compared: bool,
    /// No message before this.
    not_before: Instant,
    /// Messages yet to be sent.
    pieces: Pieces,
}

impl DirectoryFeed {
    /// For an agent that says that it holds the directory of this revision.
    pub(super) fn new(
        owner: &Handle,
        of: (NodeName, SessionId),
        whole: WholeDirectory,
        held: Position,
    ) -> Self {
        let revisions = owner.directory_revisions();
        let (not_before, pieces) = (Instant::now(), Pieces::new());
        Self { of, revisions, whole, held, compared: false, not_before, pieces }
    }

    /// Returns when there is something to say and the time for it has come. Cancel-safe: what it has made is
    /// kept, and what it was about to make is made the next time.
    pub(super) async fn due(&mut self, owner: &Handle) -> Result<(), Stopped> {
        while self.pieces.is_empty() {
            let (held, compared) = (self.held, self.compared);
            let news = |newest: &Option<Revision>| {
                newest.is_some_and(|newest| !compared || newest > held.revision)
            };
            self.revisions.wait_for(news).await.map_err(|_| Stopped)?;
            tokio::time::sleep_until(self.not_before).await;
            let (node, session) = self.of.clone();
            // In one read, so that nothing is made for a stream that is not the node's any more.
            let look = move |model: &Model| {
                let is_told = model.is_member(&node) && model.check_session(&node, session).is_ok();
                is_told.then(|| model.directory_since(held.within(model.incarnation())))
            };
            self.pieces = match owner.read(look).await? {
                Some(Some(change)) => pieces::of_directory(&change),
                Some(None) => self.whole.get(owner).await?,
                // A removed node, which has no business with names; should it join again, it has another stream.
                None => std::future::pending().await,
            };
            self.compared = true;
            if let Some(last) = self.pieces.back() {
                self.held = Position {
                    incarnation: Incarnation(last.incarnation),
                    revision: Revision(last.revision),
                };
                self.not_before = Instant::now() + PAUSE;
            }
        }
        Ok(())
    }

    /// The next message, if one is [due](Self::due).
    pub(super) fn take(&mut self) -> Option<v1::DirectoryChange> {
        self.pieces.pop_front()
    }
}

#[cfg(test)]
mod tests;
