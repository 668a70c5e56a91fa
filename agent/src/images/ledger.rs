//! What this agent has fetched: the journal of images, which outlives the agent.
//!
//! An image is ours if it was not there before the fetch of a reference, and was after it. What is about to be fetched is
//! written down first, with what the reference meant before, so that a crash in between leaves no image that nobody answers
//! for:
//!
//! ```text
//!   begin: pending {reference, before} ─▶ fetch ─▶ settle: what does it mean now? ─┬─ the same as before: not ours
//!              │                                                                    └─ another image: ours
//!              └── crash ─▶ settled at the next look
//! ```
//!
//! For how long nothing has needed an image is counted here, too, while somebody watches: no step of a clock and no time
//! while the agent was away makes an image older.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dwell_core::clock::millis;
use dwell_core::image::ImageDigest;
use dwell_core::quantity::Millis;
use dwell_core::registry::RegistryLogins;
use dwell_daemon::{Causes, Lane, durable};
use dwell_engine::{EngineError, Image, PullProgress, SharedEngine};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::uses::Uses;
use crate::sealed;

/// What the file is, and its version.
const KIND: &str = "dwell-images 1";
/// The name of the file.
const FILE: &str = "images";
/// The largest file that is read, in bytes.
const FILE_MAX_BYTES: u64 = 16 << 20;
/// How many images, and fetches that are not settled, are remembered. What is beyond that is not ours, and stays.
const ENTRIES_MAX: usize = 10_000;

/// How an image came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// From a registry, which has it still, as a rule.
    Pull,
    /// From somebody's machine.
    Push,
}

/// An image that this agent fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// By which references.
    pub names: BTreeSet<String>,
    /// How.
    pub via: Via,
    /// For how long nothing has needed it, as far as somebody watched.
    pub unused: Millis,
}

/// All that this agent fetched.
pub type Own = BTreeMap<ImageDigest, Fetched>;

/// A fetch that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    via: Via,
    /// What the reference meant before.
    before: Option<ImageDigest>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    own: Own,
    pending: BTreeMap<String, Pending>,
}

#[derive(Debug, Default)]
struct State {
    record: Record,
    /// How many fetches of a reference are under way.
    under_way: BTreeMap<String, usize>,
}

/// The journal of images. Clones are the same.
#[derive(Clone)]
pub struct Ledger {
    engine: SharedEngine,
    path: Arc<PathBuf>,
    lane: Lane,
    state: Arc<Mutex<State>>,
}

impl Ledger {
    /// The journal in a directory. Blocks. One that cannot be read is begun anew: what it had counts as somebody else's, and stays.
    #[must_use]
    pub fn load(engine: SharedEngine, data_dir: &Path) -> Self {
        let path = Self::path(data_dir);
        let record = read(&path).unwrap_or_else(|problem| {
            tracing::warn!(
                problem, path = %path.display(),
                "the journal of images cannot be used; those that were fetched so far are left alone"
            );
            Record::default()
        });
        let state = State { record, under_way: BTreeMap::new() };
        Self {
            engine,
            path: Arc::new(path),
            lane: Lane::new("images"),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Where the journal of a data directory is.
    #[must_use]
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE)
    }

    /// Takes the journal away; one that is not there is fine.
    ///
    /// # Errors
    /// What the file system said.
    pub fn remove(data_dir: &Path) -> io::Result<()> {
        match std::fs::remove_file(Self::path(data_dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Does what fetches images, and notes which came with it.
    ///
    /// # Errors
    /// As `work` or the engine says.
    pub async fn fetch<T>(
        &self,
        references: &[String],
        via: Via,
        work: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        let mut begun = BTreeMap::new();
        for reference in references {
            begun.insert(reference.clone(), self.engine.find_image(reference).await?);
        }
        let under_way = UnderWay::begin(self, begun, via);
        self.write().await;
        let done = work.await;
        let references = under_way.end();
        // Whatever came of it: it may have fetched something.
        self.settle(references.iter()).await;
        self.write().await;
        done
    }

    /// Fetches an image from its registry.
    ///
    /// # Errors
    /// As [`dwell_engine::Engine::pull`].
    pub async fn pull(
        &self,
        image: &str,
        logins: &RegistryLogins,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), EngineError> {
        let pulling = self.engine.pull(image, logins, progress);
        self.fetch(&[image.to_owned()], Via::Pull, pulling).await
    }

    /// Whether there is an image of this reference, whoever fetched it.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn has(&self, image: &str) -> Result<bool, EngineError> {
        Ok(self.engine.find_image(image).await?.is_some())
    }

    /// What this agent has fetched.
    #[must_use]
    pub fn own(&self) -> Own {
        self.state().record.own.clone()
    }

    /// Takes in a look at the node: what was fetched before a crash, what is gone, and what was not needed for another while.
    /// `known` is what had been fetched when the images were listed: what came since is not in the list.
    pub async fn look(&self, images: &[Image], known: &Own, uses: &Uses, watched: Duration) {
        let left: Vec<String> = {
            let state = self.state();
            let pending = state.record.pending.keys();
            pending.filter(|one| !state.under_way.contains_key(*one)).cloned().collect()
        };
        self.settle(left.iter()).await;
        {
            let mut state = self.state();
            let is_there = |id: &ImageDigest| images.iter().any(|image| image.id == *id);
            state.record.own.retain(|id, _| !known.contains_key(id) || is_there(id));
            for image in images {
                let is_needed = image.containers > 0 || uses.is_needed(image.id);
                if let Some(fetched) = state.record.own.get_mut(&image.id) {
                    let unused = fetched.unused.0.saturating_add(millis(watched));
                    fetched.unused = Millis(if is_needed { 0 } else { unused });
                }
            }
        }
        self.write().await;
    }

    /// Finds out what came of fetches that have ended.
    async fn settle(&self, references: impl Iterator<Item = &String>) {
        for reference in references {
            // An engine that does not answer is asked again at the next look.
            let Ok(now) = self.engine.find_image(reference).await else { continue };
            let mut state = self.state();
            if state.under_way.contains_key(reference) {
                continue;
            }
            let Some(pending) = state.record.pending.remove(reference) else { continue };
            let Some(image) = now.filter(|_| now != pending.before) else { continue };
            if state.record.own.len() >= ENTRIES_MAX && !state.record.own.contains_key(&image) {
                continue;
            }
            let fresh = Fetched { names: BTreeSet::new(), via: pending.via, unused: Millis(0) };
            let fetched = state.record.own.entry(image).or_insert(fresh);
            fetched.names.insert(reference.clone());
            fetched.unused = Millis(0);
            if pending.via == Via::Push {
                fetched.via = Via::Push;
            }
        }
    }

    /// Makes what is known durable. If that fails, an image may be left of which nobody knows after a crash that it was
    /// fetched; it stays then, and no instance has to wait.
    async fn write(&self) {
        let (path, state) = (Arc::clone(&self.path), Arc::clone(&self.state));
        let write = move || {
            // What is newest when it is this one's turn.
            let record = lock(&state).record.clone();
            durable::replace(&path, &sealed::seal(KIND, &record)?, 0o600)
        };
        if let Err(error) = self.lane.run(write).await {
            tracing::warn!(error = %Causes(&error), "cannot write the journal of images");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fetches that are under way; no longer, when this is dropped. What is pending stays so.
struct UnderWay<'a> {
    ledger: &'a Ledger,
    references: Vec<String>,
}

impl<'a> UnderWay<'a> {
    fn begin(ledger: &'a Ledger, begun: BTreeMap<String, Option<ImageDigest>>, via: Via) -> Self {
        let references = begun.keys().cloned().collect();
        let mut state = ledger.state();
        for (reference, before) in begun {
            if state.record.pending.len() < ENTRIES_MAX {
                // One that has begun before knows better what there was before.
                state.record.pending.entry(reference.clone()).or_insert(Pending { via, before });
            }
            *state.under_way.entry(reference).or_default() += 1;
        }
        drop(state);
        Self { ledger, references }
    }

    fn end(self) -> Vec<String> {
        self.references.clone()
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.ledger.state();
        for reference in &self.references {
            let count = state.under_way.get(reference).copied().unwrap_or(0);
            match count.saturating_sub(1) {
                0 => drop(state.under_way.remove(reference)),
                left => drop(state.under_way.insert(reference.clone(), left)),
            }
        }
    }
}

fn read(path: &Path) -> Result<Record, String> {
    let length = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
        Err(error) => return Err(error.to_string()),
    };
    if length > FILE_MAX_BYTES {
        return Err(format!("it has {length} bytes"));
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    sealed::open(KIND, &text)
}

#[cfg(test)]
mod tests;
