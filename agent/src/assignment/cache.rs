//! The last assignment on disk, `assignment.json` in the data directory, so that a node that starts
//! without a controller knows what it is to run.
//!
//! It is a [`sealed`] file. One that is cut off, altered, or written by a version that knows more is set aside
//! under `assignment.json.damaged`: a wrong assignment would stop what is to run. Host keys of instances are
//! in it, so that only root may read it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dwell_core::session::Assignment;
use dwell_planner::session::OnDisk;
use tokio::sync::watch;

use crate::sealed;
use dwell_daemon::{Causes, Lane, durable};

const FILE_NAME: &str = "assignment.json";
const KIND: &str = "dwell-assignment 1";

/// How long to wait before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What is on disk.
#[expect(clippy::large_enum_variant, reason = "there is one, at the start")]
#[derive(Debug)]
pub enum Cached {
    /// Nothing: the node never had an assignment.
    Nothing,
    /// The last assignment.
    Assignment(Assignment),
    /// A file that cannot be trusted. It was set aside.
    Damaged {
        /// What is wrong with it.
        problem: String,
        /// Where it is now.
        aside: PathBuf,
    },
}

/// Where the assignment of a data directory is.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

/// Reads the last assignment; sets a damaged file aside. Blocks for the disk.
///
/// # Errors
/// The file exists and cannot be read or set aside.
pub fn load(data_dir: &Path) -> io::Result<Cached> {
    let path = path(data_dir);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cached::Nothing),
        Err(error) => return Err(error),
    };
    match sealed::open(KIND, &text) {
        Ok(assignment) => Ok(Cached::Assignment(assignment)),
        Err(problem) => {
            let aside = path.with_extension("json.damaged");
            fs::rename(&path, &aside)?;
            Ok(Cached::Damaged { problem, aside })
        }
    }
}

/// The last assignment, if there is one that can be trusted; touches nothing. Blocks for the disk.
#[must_use]
pub fn peek(data_dir: &Path) -> Option<Assignment> {
    let text = fs::read(path(data_dir)).ok()?;
    sealed::open(KIND, &text).ok()
}

/// Stores an assignment durably. Blocks for the disk.
///
/// # Errors
/// What the file system said; what was stored before is still there.
pub fn store(data_dir: &Path, assignment: &Assignment) -> io::Result<()> {
    durable::replace(&path(data_dir), &sealed::seal(KIND, assignment)?, 0o600)
}

/// Takes the stored assignment away; one that is not there is fine.
///
/// # Errors
/// What the file system said.
pub fn remove(data_dir: &Path) -> io::Result<()> {
    match fs::remove_file(path(data_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Stores each new assignment (the newest, if they come faster than the disk) and tells up to where it is
/// stored. A write that fails is tried again until it succeeds. Ends when nobody publishes assignments any more.
pub async fn keep(
    data_dir: PathBuf,
    mut assignments: watch::Receiver<Option<Arc<Assignment>>>,
    stored: watch::Sender<OnDisk>,
) {
    let lane = Lane::new("assignment");
    while assignments.changed().await.is_ok() {
        loop {
            let Some(assignment) = assignments.borrow_and_update().clone() else { break };
            let position = assignment.position();
            // Nobody need know before it is there.
            stored.send_if_modified(|on_disk| {
                on_disk.begin(Arc::clone(&assignment));
                false
            });
            let (directory, written) = (data_dir.clone(), Arc::clone(&assignment));
            match lane.run(move || store(&directory, &written)).await {
                Ok(()) => {
                    stored.send_modify(|on_disk| on_disk.stored(assignment));
                    break;
                }
                Err(error) => {
                    tracing::error!(
                        revision = %position.revision, error = %Causes(&error), data_dir = %data_dir.display(),
                        "cannot store the assignment; make room or mend the disk. What runs goes on"
                    );
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
