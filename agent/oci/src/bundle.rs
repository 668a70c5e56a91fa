//! The bundle's `config.json`: made to join a network namespace that exists, and to mount what was opened.
//!
//! The file belongs to the engine; it is replaced as a whole (written beside it, then renamed), so
//! that the runtime never reads half of one. Nothing but the network, settings of the kernel, the sources of bind mounts and, of machines, the root and
//! where control groups are is changed in it. Doing it twice changes nothing more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// Largest `config.json` accepted, in bytes. Docker writes some 20 KB, plus the environment.
const MAX_CONFIG_BYTES: u64 = 16 * 1024 * 1024;

/// How libnetwork's hook is called: it would connect the container to Docker's own network, by
/// asking `dockerd` about a namespace that is not there.
const LIBNETWORK_HOOK: &str = "libnetwork-setkey";

/// Where an engine mounts control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What becomes of a container's configuration.
#[derive(Debug, Clone, Copy)]
pub struct Changes<'a> {
    /// The network namespace that it joins, and no other.
    pub netns: &'a Path,
    /// What it mounts at each target, and nothing else.
    pub held: &'a [(&'a str, PathBuf)],
    /// Its root, in place of the engine's, and the target of the volume that it is made of, which is not mounted.
    pub root: Option<(&'a str, &'a Path)>,
    /// Settings of the kernel in its namespaces.
    pub sysctls: &'a BTreeMap<String, String>,
    /// Where its control groups are that it manages; `None` if it only sees them.
    pub cgroups: Option<Cgroups>,
}

/// Control groups that a container manages, in a namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// What the engine mounts, version 2.
    Mounted,
    /// Version 2, beside which the host has the controllers in version 1, where the container does not see them.
    Beside,
}

/// Changes the configuration of `bundle`.
///
/// # Errors
///
/// When `config.json` cannot be read, is not an OCI configuration, or cannot be replaced. It is
/// unchanged then.
pub fn rewrite(bundle: &Path, changes: &Changes<'_>) -> Result<(), BundleError> {
    let path = bundle.join("config.json");
    let (text, permissions) = read(&path)?;
    let text = rewritten(&path, &text, changes)?;

    let temporary = bundle.join("config.json.dwell");
    fs::write(&temporary, text)
        .and_then(|()| fs::set_permissions(&temporary, permissions))
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(|source| BundleError::Write { path, source })
}

/// What becomes of the configuration `text`, which is at `path`.
pub(crate) fn rewritten(
    path: &Path,
    text: &[u8],
    changes: &Changes<'_>,
) -> Result<Vec<u8>, BundleError> {
    let malformed = |source| BundleError::Malformed { path: path.to_owned(), source };
    let shape = |key| BundleError::Shape { path: path.to_owned(), key };
    let mut config: Map<String, Value> = serde_json::from_slice(text).map_err(malformed)?;
    replace_network(&mut config, changes.netns).map_err(shape)?;
    if let Some((target, root)) = changes.root {
        replace_root(&mut config, target, root).map_err(shape)?;
    }
    set_sysctls(&mut config, changes.sysctls).map_err(shape)?;
    if let Some(cgroups) = changes.cgroups {
        give_cgroups(&mut config, cgroups).map_err(shape)?;
    }
    for (target, source) in changes.held {
        if !replace_source(&mut config, target, source) {
            let (path, target) = (path.to_owned(), (*target).to_owned());
            return Err(BundleError::NoMount { path, target });
        }
    }
    serde_json::to_vec(&config).map_err(malformed)
}

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read.
    #[error("cannot read the container's configuration {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// It is larger than any that an engine writes.
    #[error("the container's configuration {path:?} is larger than {MAX_CONFIG_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },

    /// It is no JSON object.
    #[error("the container's configuration {path:?} is not a JSON object")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it is not.
        source: serde_json::Error,
    },

    /// It is no OCI configuration for Linux.
    #[error("the container's configuration {path:?} has no usable `{key}`, is it for Linux?")]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is missing, or of another kind.
        key: &'static str,
    },

    /// A mount is missing that the container was made with.
    #[error(
        "the container's configuration {path:?} has no bind mount at {target:?}, although the container was made \
         with one; replace the container"
    )]
    NoMount {
        /// The file.
        path: PathBuf,
        /// Where in the container.
        target: String,
    },

    /// It cannot be replaced.
    #[error("cannot replace the container's configuration {path:?}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The root that the engine has made for the container of `bundle`, and the source of what it is to mount at `target`.
///
/// # Errors
///
/// As [`rewrite`]; [`BundleError::NoMount`].
pub fn root_and_source(bundle: &Path, target: &str) -> Result<(PathBuf, PathBuf), BundleError> {
    let path = bundle.join("config.json");
    let (text, _) = read(&path)?;
    let config: Map<String, Value> = serde_json::from_slice(&text)
        .map_err(|source| BundleError::Malformed { path: path.clone(), source })?;
    let root = config.get("root").and_then(|root| root["path"].as_str());
    let root = root.ok_or_else(|| BundleError::Shape { path: path.clone(), key: "root.path" })?;
    let mounts = config.get("mounts").and_then(Value::as_array).into_iter().flatten();
    let source =
        mounts.filter(|one| is_bind_at(one, target)).find_map(|one| one["source"].as_str());
    match source {
        // A relative one is relative to the bundle.
        Some(source) => Ok((bundle.join(root), PathBuf::from(source))),
        None => Err(BundleError::NoMount { path, target: target.to_owned() }),
    }
}

fn read(path: &Path) -> Result<(Vec<u8>, fs::Permissions), BundleError> {
    let unreadable = |source| BundleError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let permissions = file.metadata().map_err(unreadable)?.permissions();
    let mut text = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(BundleError::TooLarge { path: path.to_owned() });
    }
    Ok((text, permissions))
}

/// Changes the parsed configuration; the error is the key that is not what it should be.
fn replace_network(config: &mut Map<String, Value>, netns: &Path) -> Result<(), &'static str> {
    let linux = config.get_mut("linux").and_then(Value::as_object_mut).ok_or("linux")?;
    let namespaces =
        linux.get_mut("namespaces").and_then(Value::as_array_mut).ok_or("linux.namespaces")?;
    namespaces.retain(|namespace| namespace["type"] != "network");
    namespaces.push(json!({"type": "network", "path": netns}));

    for stage in ["prestart", "createRuntime"] {
        let hooks = config.get_mut("hooks").and_then(|hooks| hooks.get_mut(stage));
        if let Some(hooks) = hooks.and_then(Value::as_array_mut) {
            hooks.retain(|hook| hook["args"][0] != LIBNETWORK_HOOK);
        }
    }
    Ok(())
}

/// Puts another root in the place of the engine's, and leaves out the mount that it is made of.
fn replace_root(
    config: &mut Map<String, Value>,
    target: &str,
    root: &Path,
) -> Result<(), &'static str> {
    let described = config.get_mut("root").and_then(Value::as_object_mut).ok_or("root")?;
    described.insert("path".to_owned(), json!(root));
    let mounts = config.get_mut("mounts").and_then(Value::as_array_mut).ok_or("mounts")?;
    mounts.retain(|one| !is_bind_at(one, target));
    Ok(())
}

/// Adds to what the engine has set.
fn set_sysctls(
    config: &mut Map<String, Value>,
    sysctls: &BTreeMap<String, String>,
) -> Result<(), &'static str> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let linux = config.get_mut("linux").and_then(Value::as_object_mut).ok_or("linux")?;
    let set = linux.entry("sysctl").or_insert_with(|| json!({}));
    if set.is_null() {
        *set = json!({});
    }
    let set = set.as_object_mut().ok_or("linux.sysctl")?;
    set.extend(sysctls.iter().map(|(name, value)| (name.clone(), json!(value))));
    Ok(())
}

/// Lets a container manage its own control groups, in a namespace in which it sees no others.
fn give_cgroups(config: &mut Map<String, Value>, cgroups: Cgroups) -> Result<(), &'static str> {
    let linux = config.get_mut("linux").and_then(Value::as_object_mut).ok_or("linux")?;
    let namespaces =
        linux.get_mut("namespaces").and_then(Value::as_array_mut).ok_or("linux.namespaces")?;
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    namespaces.push(json!({"type": "cgroup"}));
    let mounts = config.get_mut("mounts").and_then(Value::as_array_mut).ok_or("mounts")?;
    let mount = mounts.iter_mut().find(|one| one["destination"] == CGROUPS);
    let mount = mount.ok_or("mounts[destination=/sys/fs/cgroup]")?;
    let kind = match cgroups {
        Cgroups::Mounted => "cgroup",
        Cgroups::Beside => "cgroup2",
    };
    *mount = json!({
        "destination": CGROUPS,
        "type": kind,
        "source": kind,
        "options": ["rw", "nosuid", "noexec", "nodev", "relatime"],
    });
    Ok(())
}

fn is_bind_at(mount: &Value, target: &str) -> bool {
    // Compared by their components: engines clean what they are given.
    let is_there = |at: &str| Path::new(at) == Path::new(target);
    mount["type"] == "bind" && mount["destination"].as_str().is_some_and(is_there)
}

/// Changes what is mounted at a target; whether there is such a bind mount.
fn replace_source(config: &mut Map<String, Value>, target: &str, source: &Path) -> bool {
    let mounts = config.get_mut("mounts").and_then(Value::as_array_mut);
    let mut is_there = false;
    for one in mounts.into_iter().flatten() {
        if is_bind_at(one, target) {
            one["source"] = json!(source);
            is_there = true;
        }
    }
    is_there
}

#[cfg(test)]
mod tests;
