//! The bundle's `config.json`: made to join a network namespace that exists, and to mount what was opened.
//!
//! The file belongs to the engine; it is replaced as a whole (written beside it, then renamed), so
//! that the runtime never reads half of one. Nothing but the network and the sources of bind mounts is changed in
//! it. Doing it twice changes nothing more.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// Largest `config.json` accepted, in bytes. Docker writes some 20 KB, plus the environment.
const MAX_CONFIG_BYTES: u64 = 16 * 1024 * 1024;

/// How libnetwork's hook is called: it would connect the container to Docker's own network, by
/// asking `dockerd` about a namespace that is not there.
const LIBNETWORK_HOOK: &str = "libnetwork-setkey";

/// Makes the container of `bundle` join the network namespace at `netns`, and no other, and mount at each target of `held`
/// the path beside it, and no other.
///
/// # Errors
///
/// When `config.json` cannot be read, is not an OCI configuration, or cannot be replaced. It is
/// unchanged then.
pub fn rewrite(bundle: &Path, netns: &Path, held: &[(&str, PathBuf)]) -> Result<(), BundleError> {
    let path = bundle.join("config.json");
    let (text, permissions) =
        read(&path).map_err(|source| BundleError::Read { path: path.clone(), source })?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(BundleError::TooLarge { path });
    }
    let text = rewritten(&path, &text, netns, held)?;

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
    netns: &Path,
    held: &[(&str, PathBuf)],
) -> Result<Vec<u8>, BundleError> {
    let malformed = |source| BundleError::Malformed { path: path.to_owned(), source };
    let mut config: Map<String, Value> = serde_json::from_slice(text).map_err(malformed)?;
    replace_network(&mut config, netns)
        .map_err(|key| BundleError::Shape { path: path.to_owned(), key })?;
    for (target, source) in held {
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

fn read(path: &Path) -> io::Result<(Vec<u8>, fs::Permissions)> {
    let file = File::open(path)?;
    let permissions = file.metadata()?.permissions();
    let mut text = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text)?;
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

/// Changes what is mounted at a target; whether there is such a bind mount.
fn replace_source(config: &mut Map<String, Value>, target: &str, source: &Path) -> bool {
    let mounts = config.get_mut("mounts").and_then(Value::as_array_mut);
    let mut is_there = false;
    for one in mounts.into_iter().flatten() {
        // Compared by their components: engines clean what they are given.
        let is_it = one["type"] == "bind"
            && one["destination"].as_str().is_some_and(|it| Path::new(it) == Path::new(target));
        if is_it {
            one["source"] = json!(source);
            is_there = true;
        }
    }
    is_there
}

#[cfg(test)]
mod tests;
