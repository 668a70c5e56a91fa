//! `<directory>/<instance>.json`: what has to be known of an instance after a crash of the agent.
//!
//! Owned by the reconciler, which never writes one file twice at a time. A file is whole and durable
//! when [`Journals::write`] returns. One that cannot be read counts as none: what it knew is then taken
//! from the containers, at worst with one restart too many.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dwell_core::id::InstanceName;
use dwell_planner::Journal;

use dwell_daemon::{Lane, durable};

/// The largest file that is read, in bytes; a usual one has less than 500.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// The journals of a node.
#[derive(Clone, Debug)]
pub(crate) struct Journals {
    directory: Arc<Path>,
    /// Journals are written whatever else hangs.
    lane: Lane,
}

impl Journals {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory: directory.into(), lane: Lane::new("journals") }
    }

    /// All journals there are, after those that are being written.
    pub(super) async fn read_anew(&self) -> io::Result<BTreeMap<InstanceName, Journal>> {
        let journals = self.clone();
        self.lane.run(move || journals.read_all()).await
    }

    /// All journals there are. Blocks.
    pub(crate) fn read_all(&self) -> io::Result<BTreeMap<InstanceName, Journal>> {
        fs::create_dir_all(&self.directory)?;
        let mut journals = BTreeMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let Some(name) = owner(&path) else { continue };
            match read(&path) {
                Ok(journal) => drop(journals.insert(name, journal)),
                Err(error) => {
                    tracing::warn!(instance = %name, path = %path.display(), %error, "cannot read a journal; going on without");
                }
            }
        }
        Ok(journals)
    }

    /// Whose journals there are; changes nothing. Blocks.
    pub(crate) fn names(&self) -> io::Result<BTreeSet<InstanceName>> {
        match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            entries => entries?
                .filter_map(|entry| entry.map(|entry| owner(&entry.path())).transpose())
                .collect(),
        }
    }

    /// Makes a journal durable. One in which nothing is remembered is no file: nobody would take that away.
    pub(crate) async fn write(&self, name: &InstanceName, journal: &Journal) -> io::Result<()> {
        if *journal == Journal::default() {
            return self.remove(name).await;
        }
        let path = self.path(name);
        let text = serde_json::to_vec(journal)?;
        self.lane.run(move || durable::replace(&path, &text, 0o600)).await
    }

    /// Removes a journal; one that is not there is fine.
    pub(super) async fn remove(&self, name: &InstanceName) -> io::Result<()> {
        let path = self.path(name);
        let removed = self.lane.run(move || fs::remove_file(path)).await;
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, name: &InstanceName) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }
}

/// Whose journal a file is. What a crash left half-written has another name.
fn owner(path: &Path) -> Option<InstanceName> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}

fn read(path: &Path) -> io::Result<Journal> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_MAX_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use dwell_daemon::hung_pool;

    use super::*;

    #[tokio::test]
    async fn a_journal_that_remembers_nothing_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let journals = Journals::new(directory.path().to_owned());
        let web: InstanceName = "web-0".parse().unwrap();
        let journal = Journal { restarts: 1, ..Journal::default() };
        journals.write(&web, &journal).await.unwrap();
        journals.write(&web, &Journal::default()).await.unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(journals.read_all().unwrap().is_empty());
    }

    #[test]
    fn a_journal_is_written_while_the_blocking_pool_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let web: InstanceName = "web-0".parse().unwrap();
        let journal = Journal { restarts: 1, ..Journal::default() };
        let known = hung_pool::run(async || {
            let journals = Journals::new(directory.path().to_owned());
            journals.write(&web, &journal).await.unwrap();
            journals.read_anew().await.unwrap()
        });
        assert_eq!(known, [(web.clone(), journal)].into());
        hung_pool::run(async || {
            Journals::new(directory.path().to_owned()).remove(&web).await.unwrap();
        });
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_journal_of_before_is_read() {
        let old = r#"{"verdict":{"generation":3,"ruling":"committed"},"ordered_ends":{"c1":7},"restarts_done":3,
            "restarts":2,"crashes":0,"last_exit_code":1}"#;
        let journal: Journal = serde_json::from_str(old).unwrap();
        assert_eq!((journal.restarts_done, journal.stop_grace), (3, None));
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_what_is_broken_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let journals = Journals::new(dir.path().join("journals"));
        assert!(journals.read_all().unwrap().is_empty());
        let (web, db) = ("web-0".parse().unwrap(), "db-0".parse().unwrap());
        let journal = Journal { restarts_done: 3, ..Journal::default() };
        journals.write(&web, &journal).await.unwrap();
        journals.write(&db, &journal).await.unwrap();
        fs::write(dir.path().join("journals/db-0.json"), "{\"restarts_done\":").unwrap();
        fs::write(dir.path().join("journals/other"), "").unwrap();
        assert_eq!(journals.read_all().unwrap(), [(web.clone(), journal)].into());
        journals.remove(&web).await.unwrap();
        journals.remove(&web).await.unwrap();
        assert!(journals.read_all().unwrap().is_empty());
    }
}
