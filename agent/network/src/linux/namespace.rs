//! Named network namespaces: `RUN_DIR/netns/INSTANCE`, with `.b` behind it for a second one, each a bind mount that keeps one alive.
//!
//! They are made, named and entered by the [keeper](super::keeper). A name that is mounted is a namespace with its settings
//! complete, a plain file is one that was never finished.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use dwell_core::sandbox::SandboxId;
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::keeper::{Call, Keeper};
use super::netlink::Netlink;
use crate::{NetworkError, sandbox_directory, sandbox_path};

/// The namespace of a sandbox, and a socket in it.
pub(super) struct Namespace {
    /// Refers to the namespace.
    pub(super) file: File,
    /// Opened inside.
    pub(super) netlink: Netlink,
}

/// The directory of the names.
pub(super) struct Namespaces {
    run_dir: PathBuf,
    keeper: Keeper,
    pub(super) directory: PathBuf,
}

impl Namespaces {
    pub(super) fn new(run_dir: &Path, keeper: Keeper) -> Self {
        Self { run_dir: run_dir.to_owned(), keeper, directory: sandbox_directory(run_dir) }
    }

    /// The namespace of `sandbox`, if there is a complete one.
    pub(super) fn open(&self, sandbox: &SandboxId) -> Result<Option<Namespace>, NetworkError> {
        let opened = self.keeper.call(&Call::Open(sandbox.clone()), None);
        let opened = opened.and_then(|found| found.map(Namespace::of).transpose());
        opened.map_err(|source| self.failed("enter", sandbox, source))
    }

    /// Gives the namespace that `file` refers to the name of `sandbox`.
    pub(super) fn adopt(&self, sandbox: &SandboxId, file: &File) -> Result<(), NetworkError> {
        let adopted = self.keeper.call(&Call::Adopt(sandbox.clone()), Some(file.as_fd()));
        let action = "give the network namespace its name again at";
        adopted.map(drop).map_err(|source| self.failed(action, sandbox, source))
    }

    /// Makes a namespace for `sandbox`, which has none.
    pub(super) fn create(&self, sandbox: &SandboxId) -> Result<Namespace, NetworkError> {
        let created = self.keeper.call(&Call::Create(sandbox.clone()), None);
        let created = created.and_then(|made| Namespace::of(made.unwrap_or_default()));
        created.map_err(|source| self.failed("make the network namespace", sandbox, source))
    }

    /// Takes the name away; the namespace itself goes with its last process.
    pub(super) fn remove(&self, sandbox: &SandboxId) -> Result<(), NetworkError> {
        let removed = self.keeper.call(&Call::Remove(sandbox.clone()), None);
        removed.map(drop).map_err(|source| self.failed("remove", sandbox, source))
    }

    /// Lets IPv6 into the sandbox, or keeps it out, with all that it has of it.
    pub(super) fn set_ipv6(&self, sandbox: &SandboxId, on: bool) -> Result<(), NetworkError> {
        let set = self.keeper.call(&Call::Ipv6 { sandbox: sandbox.clone(), on }, None);
        set.map(drop).map_err(|source| self.failed("switch IPv6 in", sandbox, source))
    }

    /// All names, in order, also of namespaces that were never finished.
    pub(super) fn list(&self) -> Result<Vec<SandboxId>, NetworkError> {
        let fail = |source| {
            let path = self.directory.clone();
            NetworkError::File { action: "list", path, source }
        };
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(fail)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(fail)?.file_name();
            names.extend(name.to_str().and_then(|name| name.parse().ok()));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes the directory, which must be empty.
    pub(super) fn remove_directory(&self) -> Result<(), NetworkError> {
        let path = self.directory.clone();
        let removed = self.keeper.call(&Call::RemoveDirectory, None);
        removed.map(drop).map_err(|source| NetworkError::File { action: "remove", path, source })
    }

    /// Whether there is a complete one of `sandbox`.
    pub(super) fn has(&self, sandbox: &SandboxId) -> bool {
        is_namespace(&self.path(sandbox))
    }

    fn path(&self, sandbox: &SandboxId) -> PathBuf {
        sandbox_path(&self.run_dir, sandbox)
    }

    fn failed(&self, action: &'static str, sandbox: &SandboxId, source: io::Error) -> NetworkError {
        NetworkError::File { action, path: self.path(sandbox), source }
    }
}

impl Namespace {
    /// Of what the keeper gives.
    fn of(given: Vec<OwnedFd>) -> io::Result<Self> {
        let [namespace, socket] = <[OwnedFd; 2]>::try_from(given)
            .map_err(|given| io::Error::other(format!("{} descriptors came", given.len())))?;
        Ok(Self { file: namespace.into(), netlink: Netlink::of_route(socket)? })
    }
}

/// Whether a complete namespace is mounted there.
pub(super) fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|statistics| statistics.filesystem_type() == NSFS_MAGIC)
}
