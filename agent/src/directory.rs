//! The directory of all instances of the cluster, as this node holds it.
//!
//! The session owns it ([`HeldDirectory`]): it takes in what the controller sends and publishes the result to whoever
//! answers by it ([`Directories`]); [`keep`] writes it to disk, `directory.json` in the data directory, so that names are
//! answered and isolation holds when an agent starts without a controller.
//!
//! What a change costs: it is made in place, so its own size, as long as no reader holds on to an [`Arc`] of the
//! directory, which has about 110 bytes an instance. One that does costs the next change a copy. So a reader
//! looks at what it `borrow()`s and takes an [`Arc`] only for what is long or waits. The writing to disk takes one
//! for as long as it makes the text (about 60 bytes an instance), and rests afterwards for twenty times as long as
//! the writing took.
//!
//! Invariants:
//! - a change is taken in only upon exactly the revision that it builds upon; otherwise the stream ends, and the
//!   next one asks for all of it;
//! - a file that cannot be read is as good as none: revision 0, no names.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dwell_core::directory::{Directory, DirectoryChange, DirectoryGap};
use dwell_core::id::{Position, Revision};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use dwell_daemon::{Causes, Lane, durable};

use crate::sealed;

/// The newest directory. Its revision is 0 until there is one.
pub type Directories = watch::Receiver<Arc<Directory>>;

const FILE_NAME: &str = "directory.json";
const KIND: &str = "dwell-directory 1";
/// A longer file is not one of ours.
const FILE_MAX_BYTES: u64 = 64 << 20;
/// The revision of a whole directory that comes in pieces, until the last one. Nothing has an address at it.
const INCOMPLETE: Revision = Revision(1);
/// The least time between two writings; changes in between go together.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// How many times as long as a writing took the disk is left alone.
const REST_FACTOR: u32 = 20;

/// The directory that this node holds. The session owns it.
#[derive(Debug)]
pub struct HeldDirectory {
    published: watch::Sender<Arc<Directory>>,
    /// The pieces of a whole one whose last has not come yet. Nobody is told of half a directory.
    coming: Option<Directory>,
    /// Whether a change was lost, so that all of it is needed.
    has_gap: bool,
}

impl HeldDirectory {
    /// What was found on disk; an empty one of revision 0 for nothing.
    #[must_use]
    pub fn new(found: Directory) -> Self {
        Self { published: watch::Sender::new(Arc::new(found)), coming: None, has_gap: false }
    }

    /// For those who answer by it.
    #[must_use]
    pub fn subscribe(&self) -> Directories {
        self.published.subscribe()
    }

    /// Begins a stream: where the directory is that its first change may build upon; revision 0 if all of it is needed.
    pub fn begin(&mut self) -> Position {
        self.coming = None;
        if self.has_gap { Position::default() } else { self.published.borrow().position() }
    }

    /// Takes in a change and tells everybody.
    ///
    /// # Errors
    /// [`DirectoryGap`] if something between was lost: what is held stays, and all of it is needed.
    pub fn apply(&mut self, change: DirectoryChange) -> Result<(), DirectoryGap> {
        let applied = self.take_in(change);
        self.has_gap = applied.is_err();
        applied
    }

    fn take_in(&mut self, change: DirectoryChange) -> Result<(), DirectoryGap> {
        let is_whole = change.base.is_none();
        match self.coming.take().or_else(|| is_whole.then(Directory::default)) {
            Some(mut coming) => {
                coming.apply(change)?;
                if coming.revision > INCOMPLETE {
                    self.published.send_replace(Arc::new(coming));
                } else {
                    self.coming = Some(coming);
                }
                Ok(())
            }
            None => {
                let mut applied = Ok(());
                self.published.send_if_modified(|held| {
                    applied = Arc::make_mut(held).apply(change);
                    applied.is_ok()
                });
                applied
            }
        }
    }
}

/// Where the directory is in a data directory.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

/// Reads the last directory; an empty one if there is none or it cannot be read. Blocks for the disk.
#[must_use]
pub fn load(data_dir: &Path) -> Directory {
    match read(&path(data_dir)) {
        Ok(found) => found.unwrap_or_default(),
        Err(problem) => {
            tracing::warn!(
                problem,
                "the stored directory of the cluster's instances cannot be used; there are no names until the \
                 controller sends it again"
            );
            Directory::default()
        }
    }
}

fn read(path: &Path) -> Result<Option<Directory>, String> {
    let length = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if length > FILE_MAX_BYTES {
        return Err(format!("it has {length} bytes"));
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    sealed::open(KIND, &text).map(Some)
}

/// Takes the stored directory away; one that is not there is fine.
///
/// # Errors
/// What the file system said.
pub fn remove(data_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(path(data_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Stores each new directory, the newest if they come fast. Ends when nobody publishes any more.
pub async fn keep(data_dir: PathBuf, mut directories: Directories) {
    let lane = Lane::new("directory");
    while directories.changed().await.is_ok() {
        let directory = directories.borrow_and_update().clone();
        let path = path(&data_dir);
        let begun = Instant::now();
        let written = lane.run(move || {
            let text = sealed::seal(KIND, &*directory)?;
            drop(directory);
            durable::replace(&path, &text, 0o600)
        });
        if let Err(error) = written.await {
            // The assignment's keeper complains of the same disk, and the next change tries again.
            tracing::warn!(error = %Causes(&error), "cannot store the directory of the cluster's instances");
            directories.mark_changed();
        }
        sleep((begun.elapsed() * REST_FACTOR).max(PAUSE_MIN)).await;
    }
}

#[cfg(test)]
mod tests;
