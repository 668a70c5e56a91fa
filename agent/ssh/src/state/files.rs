//! Reading the agent's files.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use dwell_core::id::InstanceName;
use dwell_core::sandbox::SandboxId;
use dwell_core::ssh::{SshInstance, SshTrust};
use russh::keys::PublicKey;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::{Served, Trust};
use crate::authorized_keys::{AuthorizedKey, check_key, parse_line};

/// Largest `trust.json`, in bytes: some 50,000 keys.
const MAX_TRUST: u64 = 8 << 20;
/// Largest file of an instance, in bytes.
const MAX_INSTANCE: u64 = 1 << 20;
/// Most instances of a node.
const MAX_INSTANCES: usize = 10_000;
/// Most lines of keys, of an instance or of a set, and most faults told of.
const MAX_LINES: usize = 10_000;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Reading.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too large.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// What.
        path: PathBuf,
        /// Largest that is read, in bytes.
        limit: u64,
    },
    /// Not the JSON that it should be.
    #[error("{} is malformed: {reason}", path.display())]
    Malformed {
        /// What.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// More instances than a node can have.
    #[error("{} holds more than {MAX_INSTANCES} files", path.display())]
    TooMany {
        /// Where.
        path: PathBuf,
    },
}

impl StateError {
    /// Whether there is no such file.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The names of the instances' files, in `dir`.
pub(super) fn instance_files(dir: &Path) -> Result<Vec<OsString>, StateError> {
    let path = dir.join("instances");
    let entries =
        fs::read_dir(&path).map_err(|source| StateError::Read { path: path.clone(), source })?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| StateError::Read { path: path.clone(), source })?;
        if files.len() == MAX_INSTANCES {
            return Err(StateError::TooMany { path });
        }
        files.push(entry.file_name());
    }
    Ok(files)
}

/// Whose file it is; nothing for files that are not yet in their place.
pub(super) fn sandbox_of(file: &OsStr) -> Option<SandboxId> {
    file.to_str()?.strip_suffix(".json")?.parse().ok()
}

pub(super) fn read_trust(path: &Path) -> Result<Trust, StateError> {
    trust(path, read(path, MAX_TRUST)?)
}

/// What the file at `path` says.
pub(super) fn trust(path: &Path, trust: SshTrust) -> Result<Trust, StateError> {
    let malformed = |reason| StateError::Malformed { path: path.to_owned(), reason };
    let mut user_authorities = Vec::new();
    let lines = [&trust.user_authority].into_iter().chain(&trust.more_user_authorities);
    for line in lines.map(|line| line.trim()).filter(|line| !line.is_empty()) {
        let key = PublicKey::from_openssh(line)
            .map_err(|error| malformed(format!("user_authority: {error}")))?;
        check_key(key.key_data()).map_err(|error| malformed(format!("user_authority {error}")))?;
        user_authorities.push(key.key_data().clone());
    }
    let mut sets = std::collections::BTreeMap::new();
    for (name, lines) in trust.key_sets {
        let (keys, faults) = parse(&lines);
        for fault in faults {
            warn!(key_set = %name, "a key {fault}");
        }
        sets.insert(name, keys);
    }
    Ok(Trust { user_authorities, zone: trust.zone, sets })
}

pub(super) fn read_instance(path: &Path, name: &InstanceName) -> Result<Served, StateError> {
    served(path, name, read(path, MAX_INSTANCE)?)
}

/// What the file at `path` says, which is to be that of `name`.
pub(super) fn served(
    path: &Path,
    name: &InstanceName,
    served: SshInstance,
) -> Result<Served, StateError> {
    if served.instance != *name {
        let reason = format!("it is {}'s", served.instance);
        return Err(StateError::Malformed { path: path.to_owned(), reason });
    }
    let (keys, faults) = parse(&served.authorized_keys);
    Ok(Served {
        instance: served.instance,
        address: served.address,
        ipv6: served.ipv6,
        netns: served.netns.into(),
        host_key: served.host_key,
        keys,
        key_sets: served.key_sets,
        users: served.users,
        login_as: served.login_as,
        account_keys: served.account_keys,
        container: served.container,
        faults,
    })
}

/// The keys that `lines` hold, and what is wrong with the others.
pub(crate) fn parse<T: AsRef<str>>(
    lines: impl IntoIterator<Item = T>,
) -> (Vec<AuthorizedKey>, Vec<String>) {
    let mut keys = Vec::new();
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(lines) {
        if number > MAX_LINES {
            faults.push(format!("(line {MAX_LINES}) is the last one read"));
            break;
        }
        match parse_line(line.as_ref()) {
            Ok(key) => keys.extend(key),
            Err(error) => faults.push(format!("(line {number}) {error}")),
        }
    }
    (keys, faults)
}

fn read<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<T, StateError> {
    let failed = |source| StateError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(StateError::TooLarge { path: path.to_owned(), limit });
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| StateError::Malformed { path: path.to_owned(), reason: error.to_string() })
}
