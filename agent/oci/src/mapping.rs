//! `<state-dir>/containers/<container-id>`: the sandbox of one container, as a small JSON file.
//!
//! ```json
//! {"instance":"web-0","netns":"/run/dwell/netns/web-0",
//!  "binds":[{"target":"/data","root":"/srv/shared","path":"web"}],
//!  "copies":[{"target":"/etc/hosts","source":"/var/lib/dwell/agent/instances/web-0/g1/hosts"}]}
//! ```
//!
//! The agent owns these files: it writes one before it first starts the container and removes it
//! after it removed the container. The wrapper only reads.
//!
//! The other way round, `<state-dir>/bundles/<container-id>` is a symbolic link to the container's OCI bundle, which
//! the wrapper makes at every start and the agent removes with the mapping: who wants to run a further process in the
//! container finds there what its processes are like.
//!
//! Invariants:
//! - A file is complete or absent (written beside its place, then renamed). It is not synced to
//!   disk: the directory is in memory, as the sandboxes are.
//! - No container id leads out of the directory or onto a half-written file.
//! - Unknown fields are ignored, because agent and wrapper are replaced at different moments
//!   during an upgrade. A field the wrapper must not overlook therefore needs a new file name: what has `root`, `sysctls` or `systemd` is in
//!   `<state-dir>/machines/<container-id>`, where a wrapper that does not know these finds no sandbox.
//!   `binds` and `copies` are missing in what an agent before them wrote; that agent's word is replaced at the next start by the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest container id accepted, in bytes. Docker's have 64.
const MAX_ID_BYTES: usize = 128;

/// Largest mapping file accepted, in bytes. A usual one has less than 100.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The directory in the state directory in which the wrapper mounts what it has opened, where only the runtime sees it.
pub const BINDS: &str = "binds";

/// The sandbox that a container is to run in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Name of the instance, for messages only; the wrapper takes no decision by it.
    pub instance: String,
    /// Absolute path of the sandbox's network namespace.
    pub netns: PathBuf,
    /// The paths of the node that it mounts. Each is opened anew at every start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub binds: Vec<Bind>,
    /// Small files of the agent's of which it gets a copy at every start, to do with as it likes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Copied>,
    /// The root of the machine that it is; without one, the container's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// Settings of the kernel that are its own, by their names in sysctl(8).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Its main process is systemd, which manages control groups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub systemd: bool,
}

/// A machine's root: what differs from its image, in a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Where in the container the volume was to be mounted, by which it is found; it is not mounted there.
    pub mount: String,
    /// The directory in the volume that has [`UPPER`] and [`WORK`], a plain name.
    pub directory: String,
}

/// In the directory of a machine's root, all that differs from its image.
pub const UPPER: &str = "upper";
/// Beside it, what the kernel needs to write there.
pub const WORK: &str = "work";

/// A file of which a container gets a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Where in the container, an absolute path.
    pub target: String,
    /// The file, in a directory that only the agent writes.
    pub source: PathBuf,
}

/// A path of the node that a container mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Where in the container, an absolute path.
    pub target: String,
    /// The root that the node's operator has allowed: absolute, and itself through no symbolic link.
    pub root: PathBuf,
    /// What is mounted, beneath the root; empty for the root itself.
    pub path: PathBuf,
}

impl Bind {
    /// What is mounted, as an absolute path; for people.
    #[must_use]
    pub fn source(&self) -> PathBuf {
        if self.path.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(&self.path)
        }
    }
}

impl Root {
    fn is_plain(&self) -> bool {
        !self.directory.is_empty()
            && !self.directory.starts_with('.')
            && !self.directory.contains('/')
    }
}

impl Mapping {
    /// Reads the mapping of `container_id`.
    ///
    /// # Errors
    ///
    /// [`MappingError::Missing`] when the agent made no sandbox for this container; otherwise the
    /// reason why the file cannot be trusted.
    pub fn read(state_dir: &Path, container_id: &str) -> Result<Self, MappingError> {
        let name = file_name(container_id)?;
        for path in [machines(state_dir).join(name), directory(state_dir).join(name)] {
            let unreadable = |source| MappingError::Read { path: path.clone(), source };
            let mut text = Vec::new();
            match File::open(&path) {
                Ok(file) => {
                    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unreadable(error)),
            };
            if text.len() as u64 > MAX_FILE_BYTES {
                return Err(MappingError::TooLarge { path });
            }
            return Self::parse(path, &text);
        }
        let path = directory(state_dir).join(name);
        Err(MappingError::Missing { container_id: container_id.to_owned(), path })
    }

    /// What the file at `path` says.
    pub(crate) fn parse(path: PathBuf, text: &[u8]) -> Result<Self, MappingError> {
        let mapping: Self = serde_json::from_slice(text)
            .map_err(|source| MappingError::Malformed { path: path.clone(), source })?;
        if !mapping.netns.is_absolute() {
            return Err(MappingError::RelativeNetns { path, netns: mapping.netns });
        }
        if let Some(bind) = mapping.binds.iter().find(|bind| !bind.root.is_absolute()) {
            return Err(MappingError::RelativeRoot { path, root: bind.root.clone() });
        }
        if let Some(root) = mapping.root.as_ref().filter(|root| !root.is_plain()) {
            return Err(MappingError::OddRoot { path, directory: root.directory.clone() });
        }
        Ok(mapping)
    }

    /// Writes the mapping of `container_id`, in place of an older one.
    ///
    /// Returns once a start of the container would find it. A few blocking calls on an in-memory
    /// filesystem, so there is no need to leave an async thread for it.
    ///
    /// # Errors
    ///
    /// When the id is no container id, the path of the namespace is not absolute UTF-8, or the
    /// state directory cannot be written.
    pub fn write(&self, state_dir: &Path, container_id: &str) -> Result<(), MappingError> {
        let name = file_name(container_id)?;
        let is_known_to_all = self.root.is_none() && self.sysctls.is_empty() && !self.systemd;
        let (directory, other) = match is_known_to_all {
            true => (directory(state_dir), machines(state_dir)),
            false => (machines(state_dir), directory(state_dir)),
        };
        let path = directory.join(name);
        if !self.netns.is_absolute() {
            return Err(MappingError::RelativeNetns { path, netns: self.netns.clone() });
        }
        let text = serde_json::to_vec(self)
            .map_err(|source| MappingError::Malformed { path: path.clone(), source })?;

        // The leading dot keeps the temporary name from ever being a container id.
        let temporary = directory.join(format!(".{name}"));
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&temporary, text))
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| remove_file(&other.join(name)))
            .map_err(|source| MappingError::Write { path, source })
    }

    /// Leaves word where the bundle of `container_id` is, an absolute path, in place of older word.
    ///
    /// # Errors
    ///
    /// When the id is no container id, or the state directory cannot be written.
    pub fn record_bundle(
        state_dir: &Path,
        container_id: &str,
        bundle: &Path,
    ) -> Result<(), MappingError> {
        let name = file_name(container_id)?;
        let directory = bundles(state_dir);
        let (path, temporary) = (directory.join(name), directory.join(format!(".{name}")));
        remove_file(&temporary)
            .and_then(|()| fs::create_dir_all(&directory))
            .and_then(|()| symlink(bundle, &temporary))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| MappingError::Write { path, source })
    }

    /// Removes the mapping of `container_id` and the word of its bundle; what is not there is fine.
    ///
    /// # Errors
    ///
    /// When the id is no container id, or the file exists and cannot be removed.
    pub fn remove(state_dir: &Path, container_id: &str) -> Result<(), MappingError> {
        let name = file_name(container_id)?;
        for path in all(state_dir).map(|directory| directory.join(name)) {
            remove_file(&path).map_err(|source| MappingError::Write { path, source })?;
        }
        Ok(())
    }

    /// The containers of which there is a mapping or word of a bundle.
    ///
    /// # Errors
    ///
    /// When a directory exists and cannot be read.
    pub fn containers(state_dir: &Path) -> Result<BTreeSet<String>, MappingError> {
        let mut ids = BTreeSet::new();
        for path in all(state_dir) {
            let unreadable = |source| MappingError::Read { path: path.clone(), source };
            let entries = match fs::read_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(unreadable)?,
            };
            for entry in entries {
                let name = entry.map_err(unreadable)?.file_name();
                ids.extend(name.to_str().and_then(|name| file_name(name).ok()).map(str::to_owned));
            }
        }
        Ok(ids)
    }

    /// The files that [`Mapping::remove`] would remove.
    #[must_use]
    pub fn paths(state_dir: &Path, container_id: &str) -> Vec<PathBuf> {
        let Ok(name) = file_name(container_id) else { return Vec::new() };
        let files = all(state_dir).into_iter().map(|directory| directory.join(name));
        files.filter(|path| fs::symlink_metadata(path).is_ok()).collect()
    }

    /// Removes all mappings and all words of bundles, with their directories.
    ///
    /// # Errors
    ///
    /// When a directory exists and cannot be removed.
    pub fn remove_all(state_dir: &Path) -> Result<(), MappingError> {
        for path in all(state_dir).into_iter().chain([state_dir.join(BINDS)]) {
            match fs::remove_dir_all(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(MappingError::Write { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Why a mapping could not be read, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The id could not be the name of a file in the directory.
    #[error("{0:?} is not a container id: letters, digits and `_.+-`, a letter or digit first")]
    InvalidId(String),

    /// The agent made no sandbox for this container.
    #[error(
        "container {container_id:?} has no sandbox: {path:?} does not exist; \
         the runtime `dwell` starts only what dwell-agent created, \
         give any other container another `--runtime`"
    )]
    Missing {
        /// The container.
        container_id: String,
        /// Where its mapping would be.
        path: PathBuf,
    },

    /// The file is there but cannot be read.
    #[error("cannot read the sandbox mapping {path:?}")]
    Read {
        /// The mapping file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },

    /// The file is larger than any mapping.
    #[error("the sandbox mapping {path:?} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// The mapping file.
        path: PathBuf,
    },

    /// The content is not a mapping, or a mapping cannot be written as JSON.
    #[error("the sandbox mapping {path:?} is malformed; restart dwell-agent to write it again")]
    Malformed {
        /// The mapping file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// The path of the namespace would depend on the working directory.
    #[error("the sandbox mapping {path:?} names {netns:?}, which is not an absolute path")]
    RelativeNetns {
        /// The mapping file.
        path: PathBuf,
        /// The path in it.
        netns: PathBuf,
    },

    /// What is allowed to be mounted would depend on the working directory.
    #[error("the sandbox mapping {path:?} names the root {root:?}, which is not an absolute path")]
    RelativeRoot {
        /// The mapping file.
        path: PathBuf,
        /// The root in it.
        root: PathBuf,
    },

    /// The directory of a root could lie outside of its volume.
    #[error(
        "the sandbox mapping {path:?} names {directory:?} for the machine's root, which is no plain name"
    )]
    OddRoot {
        /// The mapping file.
        path: PathBuf,
        /// The directory in it.
        directory: String,
    },

    /// The file cannot be written or removed.
    #[error("cannot change the sandbox mapping {path:?}")]
    Write {
        /// The mapping file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("containers")
}

fn machines(state_dir: &Path) -> PathBuf {
    state_dir.join("machines")
}

/// The directories in which a container may have a file.
fn all(state_dir: &Path) -> [PathBuf; 3] {
    [bundles(state_dir), machines(state_dir), directory(state_dir)]
}

/// Removes a file; one that is not there is fine.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn bundles(state_dir: &Path) -> PathBuf {
    state_dir.join("bundles")
}

/// The id itself, once it is known to name a plain file: no separator, no leading dot.
fn file_name(container_id: &str) -> Result<&str, MappingError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
    let valid = container_id.len() <= MAX_ID_BYTES
        && container_id.starts_with(|first: char| first.is_ascii_alphanumeric())
        && container_id.bytes().all(plain);
    if valid { Ok(container_id) } else { Err(MappingError::InvalidId(container_id.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web_0() -> Mapping {
        Mapping {
            instance: "web-0".into(),
            netns: "/run/dwell/netns/web-0".into(),
            binds: Vec::new(),
            copies: Vec::new(),
            root: None,
            sysctls: BTreeMap::new(),
            systemd: false,
        }
    }

    fn with_content(content: impl AsRef<[u8]>) -> Result<Mapping, MappingError> {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("containers")).unwrap();
        fs::write(state.path().join("containers/c1"), content).unwrap();
        Mapping::read(state.path(), "c1")
    }

    #[test]
    fn what_is_written_is_read_until_it_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let binds =
            vec![Bind { target: "/a".to_owned(), root: "/srv".into(), path: PathBuf::new() }];
        let moved = Mapping { netns: "/run/dwell/netns/other".into(), binds, ..web_0() };

        web_0().write(state.path(), "c1").unwrap();
        assert_eq!(Mapping::read(state.path(), "c1").unwrap(), web_0());
        moved.write(state.path(), "c1").unwrap();
        assert_eq!(Mapping::read(state.path(), "c1").unwrap(), moved);
        let files = fs::read_dir(state.path().join("containers")).unwrap().count();
        assert_eq!(files, 1, "a temporary file stayed behind");

        Mapping::remove(state.path(), "c1").unwrap();
        Mapping::remove(state.path(), "c1").unwrap();
        let gone = Mapping::read(state.path(), "c1").unwrap_err();
        assert!(matches!(gone, MappingError::Missing { .. }), "{gone}");
    }

    #[test]
    fn what_an_older_wrapper_must_not_overlook_is_where_it_finds_nothing() {
        let state = tempfile::tempdir().unwrap();
        let files = || {
            let of = |name: &str| state.path().join(name).join("c1").exists();
            (of("containers"), of("machines"))
        };
        let root = Root { mount: "/.dwell-root".to_owned(), directory: "0-1".to_owned() };
        let machine = Mapping { root: Some(root), ..web_0() };
        for (mapping, there) in [
            (web_0(), (true, false)),
            (machine.clone(), (false, true)),
            (Mapping { systemd: true, ..web_0() }, (false, true)),
            (Mapping { sysctls: [("net.a".into(), "1".into())].into(), ..web_0() }, (false, true)),
            (web_0(), (true, false)),
        ] {
            mapping.write(state.path(), "c1").unwrap();
            assert_eq!((Mapping::read(state.path(), "c1").unwrap(), files()), (mapping, there));
        }
        machine.write(state.path(), "c1").unwrap();
        assert_eq!(Mapping::containers(state.path()).unwrap(), ["c1".to_owned()].into());
        Mapping::remove(state.path(), "c1").unwrap();
        assert_eq!(files(), (false, false));
        for odd in ["", "..", "a/b", "/a"] {
            let text = format!(
                r#"{{"instance":"a-0","netns":"/n","root":{{"mount":"/.dwell-root","directory":"{odd}"}}}}"#
            );
            let error = with_content(text).unwrap_err();
            assert!(matches!(error, MappingError::OddRoot { .. }), "{odd}: {error}");
        }
    }

    #[test]
    fn the_word_of_a_bundle_is_the_newest_and_goes_with_the_mapping() {
        let state = tempfile::tempdir().unwrap();
        let link = state.path().join("bundles/c1");
        for bundle in ["/run/bundles/first", "/run/bundles/second"] {
            Mapping::record_bundle(state.path(), "c1", Path::new(bundle)).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(bundle));
        }
        assert!(Mapping::record_bundle(state.path(), "../c1", Path::new("/x")).is_err());
        Mapping::remove(state.path(), "c1").unwrap();
        assert!(fs::symlink_metadata(&link).is_err());
    }

    #[test]
    fn every_container_is_listed_once_and_all_can_be_removed() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Mapping::containers(state.path()).unwrap(), BTreeSet::new());
        Mapping::remove_all(state.path()).unwrap();
        web_0().write(state.path(), "c1").unwrap();
        Mapping::record_bundle(state.path(), "c1", Path::new("/run/bundles/c1")).unwrap();
        Mapping::record_bundle(state.path(), "c2", Path::new("/run/bundles/c2")).unwrap();
        fs::write(state.path().join("containers/.c3"), "half-written").unwrap();
        let listed = Mapping::containers(state.path()).unwrap();
        assert_eq!(listed, ["c1".to_owned(), "c2".to_owned()].into());
        Mapping::remove_all(state.path()).unwrap();
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
    }

    #[test]
    fn ids_that_are_not_plain_names_are_refused_everywhere() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("outside"), r#"{"instance":"x","netns":"/x"}"#).unwrap();
        let long = "a".repeat(MAX_ID_BYTES + 1);
        let absolute = state.path().join("outside");

        for id in [
            "",
            ".",
            "..",
            ".c1",
            "../outside",
            "a/b",
            "/etc/passwd",
            "a\0b",
            "a\nb",
            "\u{202e}c1",
            "-c1",
            "c 1",
            "\u{e9}",
            &long,
            absolute.to_str().unwrap(),
        ] {
            let refused = |result: Result<(), MappingError>| {
                assert!(matches!(result, Err(MappingError::InvalidId(_))), "{id:?}: {result:?}");
            };
            refused(Mapping::read(state.path(), id).map(drop));
            refused(web_0().write(state.path(), id));
            refused(Mapping::remove(state.path(), id));
        }
        assert!(absolute.exists());
    }

    #[test]
    fn messages_show_strange_ids_escaped() {
        let message = Mapping::read(Path::new("/nowhere"), "\u{1b}[2J\n").unwrap_err().to_string();
        assert!(message.starts_with(r#""\u{1b}[2J\n" is not a container id"#), "{message}");
    }

    #[test]
    fn fields_of_a_newer_agent_are_ignored() {
        let mapping =
            with_content(r#"{"instance":"web-0","netns":"/run/dwell/netns/web-0","generation":7}"#);
        assert_eq!(mapping.unwrap(), web_0());
    }

    #[test]
    fn files_that_are_no_mapping_are_refused() {
        for content in ["", "{", "null", "[]", r#"{"instance":"web-0"}"#, r#"{"netns":7}"#] {
            let refused = with_content(content).unwrap_err();
            assert!(matches!(refused, MappingError::Malformed { .. }), "{content}: {refused}");
        }
        let relative = with_content(r#"{"instance":"web-0","netns":"netns/web-0"}"#).unwrap_err();
        assert!(matches!(relative, MappingError::RelativeNetns { .. }), "{relative}");
        let root =
            r#"{"instance":"web-0","netns":"/n","binds":[{"target":"/a","root":"srv","path":""}]}"#;
        let relative = with_content(root).unwrap_err();
        assert!(matches!(relative, MappingError::RelativeRoot { .. }), "{relative}");
        let oversized = with_content(vec![b' '; 2 << 20]).unwrap_err();
        assert!(matches!(oversized, MappingError::TooLarge { .. }), "{oversized}");
    }
}
