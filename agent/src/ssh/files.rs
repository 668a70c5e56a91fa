//! The files that tell `dwell-ssh` what to serve. Everything here blocks for the file system.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use dwell_core::sandbox::SandboxId;
use dwell_core::ssh::{SshContainer, SshInstance, SshTrust};
use sha2::{Digest, Sha256};

use dwell_daemon::durable;

/// What is in the directory, as far as it has been read or written.
pub(super) struct Files {
    directory: PathBuf,
    trust: Option<Content>,
    instances: BTreeMap<SandboxId, Written>,
    /// Whether what an earlier agent left was taken in.
    is_read: bool,
}

/// Stands for the content of a file: the files themselves hold keys.
type Content = [u8; 32];

/// What the file of a sandbox has.
pub(super) struct Written {
    content: Content,
    pub(super) container: Option<SshContainer>,
}

impl Files {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self {
            directory: directory(run_dir),
            trust: None,
            instances: BTreeMap::new(),
            is_read: false,
        }
    }

    /// Makes the directories if need be, and takes in, once, what an earlier agent left there.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        make_directory(&self.directory)?;
        make_directory(&self.directory.join("instances"))?;
        if !self.is_read {
            self.trust = fs::read(self.trust_path()).ok().map(|text| content(&text));
            for entry in fs::read_dir(self.directory.join("instances"))? {
                self.take_in(&entry?.path())?;
            }
            self.is_read = true;
        }
        Ok(())
    }

    fn take_in(&mut self, path: &Path) -> io::Result<()> {
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
        let Some(name) = name.and_then(|name| name.parse::<SandboxId>().ok()) else {
            // What a crash left half-written, with keys in it.
            fs::remove_file(path).ok();
            return Ok(());
        };
        let text = fs::read(path)?;
        // One that makes no sense is written anew, or goes.
        let container =
            serde_json::from_slice::<SshInstance>(&text).ok().and_then(|one| one.container);
        self.instances.insert(name, Written { content: content(&text), container });
        Ok(())
    }

    /// What the file of a sandbox has, if there is one.
    pub(super) fn written(&self, name: &SandboxId) -> Option<&Written> {
        self.instances.get(name)
    }

    pub(super) fn write_trust(&mut self, trust: &SshTrust) -> io::Result<()> {
        let text = serde_json::to_vec(trust).map_err(io::Error::other)?;
        let content = content(&text);
        if self.trust != Some(content) {
            durable::replace_volatile(&self.trust_path(), &text, 0o600)?;
            self.trust = Some(content);
        }
        Ok(())
    }

    pub(super) fn write(&mut self, name: &SandboxId, instance: &SshInstance) -> io::Result<()> {
        let text = serde_json::to_vec(instance).map_err(io::Error::other)?;
        let content = content(&text);
        if self.instances.get(name).is_none_or(|written| written.content != content) {
            durable::replace_volatile(&self.path(name), &text, 0o600)?;
            let container = instance.container.clone();
            self.instances.insert(name.clone(), Written { content, container });
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &SandboxId) -> io::Result<()> {
        if self.instances.contains_key(name) {
            match fs::remove_file(self.path(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            self.instances.remove(name);
        }
        Ok(())
    }

    /// Removes the files of all others.
    pub(super) fn retain(&mut self, keep: impl Fn(&SandboxId) -> bool) -> io::Result<()> {
        let gone: Vec<_> = self.instances.keys().filter(|name| !keep(name)).cloned().collect();
        gone.iter().try_for_each(|name| self.remove(name))
    }

    fn trust_path(&self) -> PathBuf {
        self.directory.join("trust.json")
    }

    fn path(&self, name: &SandboxId) -> PathBuf {
        self.directory.join("instances").join(format!("{name}.json"))
    }
}

/// The directory of SSH in a run directory.
pub(super) fn directory(run_dir: &Path) -> PathBuf {
    run_dir.join("ssh")
}

/// Makes a directory that only root can look into.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

fn content(text: &[u8]) -> Content {
    Sha256::digest(text).into()
}
