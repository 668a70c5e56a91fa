//! The node's paths that instances mount, which have to be beneath a root of `allow_binds`.
//!
//! A path is judged twice. When the container is made, links are resolved and Docker is told the real path ([`resolve`]):
//! so what the specification names may be a link of the operator's. At every start after that, the path Docker has kept is
//! divided into its root and the rest ([`beneath`]), and `dwell-oci` opens the rest beneath the root through no link: who
//! can write there could have put one in its place. Neither is left to Docker, which follows links, and keeps what an
//! operator has ceased to allow.
//!
//! A root beneath another one counts for nothing, since what can write in the outer could move the inner. The link that
//! leads to a root is the operator's: it must not itself lie where containers write.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::MountType;
use dwell_engine::{ContainerId, EngineError};
use dwell_oci::{Bind, Copied, Root};

use super::client::{NAME, QUICK, limited, malformed, meaning};
use super::spec::{LABEL_ROOT, LABEL_SYSCTLS, LABEL_SYSTEMD, ROOT_MOUNT};
use super::{DockerEngine, files};

/// How long a path that instances mount may take to answer.
const PATH_LIMIT: Duration = Duration::from_secs(5);
const OPERATION: &str = "mount a path of the node";

/// The real path of a bind mount, for Docker to keep.
pub(super) fn resolve(path: &str, allowed: &[PathBuf]) -> Result<String, EngineError> {
    let real = fs::canonicalize(path)
        .map_err(|error| other(format!("{path:?}: {error}; make it on the node")))?;
    let real = real.to_str().filter(|real| beneath(Path::new(real), allowed).is_some());
    Ok(real.ok_or_else(|| refused(path))?.to_owned())
}

/// The root that a real path is beneath, and the rest.
fn beneath(real: &Path, allowed: &[PathBuf]) -> Option<(PathBuf, PathBuf)> {
    let is_outermost = |root: &Path| {
        !allowed.iter().any(|other| other.as_path() != root && root.starts_with(other))
    };
    let outermost = allowed.iter().filter(|root| is_outermost(root));
    let roots = outermost.filter_map(|root| fs::canonicalize(root).ok());
    let root =
        roots.filter(|root| real.starts_with(root)).min_by_key(|root| root.as_os_str().len());
    let root = root?;
    let rest = real.strip_prefix(&root).ok()?.to_owned();
    Some((root, rest))
}

/// What a container mounts of its node, as the wrapper is told.
#[derive(Debug, Default)]
pub(super) struct NodeMounts {
    /// Paths, with the roots that they are beneath now.
    pub(super) binds: Vec<Bind>,
    /// The files that the agent has written for it.
    pub(super) copies: Vec<Copied>,
    /// Its root, if it is a machine.
    pub(super) root: Option<Root>,
    /// Settings of the kernel that are its own.
    pub(super) sysctls: BTreeMap<String, String>,
    /// Whether it has control groups to manage.
    pub(super) systemd: bool,
}

impl DockerEngine {
    /// The real path of what an instance is to mount.
    pub(super) async fn resolve_bind(&self, path: &str) -> Result<String, EngineError> {
        let (config, source) = (Arc::clone(&self.config), path.to_owned());
        self.look_at(path, move || resolve(&source, &config.allowed.binds)).await?
    }

    /// What a container mounts of its node, as Docker keeps it.
    pub(super) async fn mounts_of(&self, id: &ContainerId) -> Result<NodeMounts, EngineError> {
        let docker = self.client.docker().await?;
        let seen = limited(QUICK, docker.inspect_container(id.as_str(), None)).await;
        let seen = seen.map_err(|error| meaning(error, "inspect a container", id))?;
        let labels = seen.config.and_then(|config| config.labels).unwrap_or_default();
        let host = seen.host_config.unwrap_or_default();
        let may_reboot = labels.contains_key(LABEL_ROOT) || labels.contains_key(LABEL_SYSTEMD);
        self.check_grants(&host, may_reboot).await?;
        let mounts = host.mounts.unwrap_or_default();
        let own = files::root(&self.config.data_dir);
        let (mut binds, mut copies) = (Vec::new(), Vec::new());
        for mount in mounts.into_iter().filter(|one| one.typ == Some(MountType::BIND)) {
            let (Some(target), Some(source)) = (mount.target, mount.source) else { continue };
            // Its `hosts` and `resolv.conf`, in a directory that only the agent writes.
            if Path::new(&source).starts_with(&own) {
                copies.push(Copied { target, source: source.into() });
                continue;
            }
            let (config, real) = (Arc::clone(&self.config), PathBuf::from(&source));
            let look = move || beneath(&real, &config.allowed.binds);
            let (root, path) =
                self.look_at(&source, look).await?.ok_or_else(|| refused(&source))?;
            binds.push(Bind { target, root, path });
        }
        let directory = labels.get(LABEL_ROOT).cloned();
        let root = directory.map(|directory| Root { mount: ROOT_MOUNT.to_owned(), directory });
        let systemd = labels.contains_key(LABEL_SYSTEMD);
        let sysctls = labels.get(LABEL_SYSCTLS).map_or(Ok(BTreeMap::new()), |text| {
            let odd = |error| {
                malformed("start a container", &format!("its label {LABEL_SYSCTLS}: {error}"))
            };
            serde_json::from_str(text).map_err(odd)
        })?;
        Ok(NodeMounts { binds, copies, root, sysctls, systemd })
    }

    /// Looks at a path that may hang.
    pub(super) async fn look_at<T: Send + 'static>(
        &self,
        path: &str,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let looked = self.paths.look(Path::new(path), PATH_LIMIT, look).await;
        looked.map_err(|error| other(error.to_string()))
    }
}

fn refused(path: &str) -> EngineError {
    EngineError::Refused {
        engine: NAME,
        operation: OPERATION,
        reason: format!(
            "{path:?} is not beneath a path of `allow_binds` in the configuration of this node's agent"
        ),
    }
}

fn other(reason: String) -> EngineError {
    EngineError::Other { engine: NAME, operation: OPERATION, reason }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn binds_only_beneath_what_is_allowed() {
        let root = tempfile::tempdir().unwrap();
        let allowed = root.path().join("allowed");
        fs::create_dir_all(allowed.join("inside")).unwrap();
        fs::create_dir(root.path().join("allowed-not")).unwrap();
        symlink("/etc", allowed.join("escape")).unwrap();
        let resolve = |path: &str| {
            let path = format!("{}/{path}", root.path().display());
            resolve(&path, std::slice::from_ref(&allowed))
        };
        assert!(resolve("allowed/inside").unwrap().ends_with("/allowed/inside"));
        assert!(resolve("allowed").is_ok());
        for refused in ["allowed-not", "allowed/escape", ""] {
            assert!(resolve(refused).unwrap_err().is_permanent(), "{refused}");
        }
        assert!(!resolve("allowed/missing").unwrap_err().is_permanent());
    }

    #[test]
    fn a_root_is_the_outermost_and_may_be_a_link_of_the_operators() {
        let directory = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(directory.path()).unwrap();
        let shared = top.join("shared");
        fs::create_dir_all(shared.join("web/data")).unwrap();
        symlink(&shared, top.join("link")).unwrap();
        let inner = [shared.clone(), shared.join("web")];
        let found = beneath(&shared.join("web/data"), &inner);
        assert_eq!(found, Some((shared.clone(), "web/data".into())));
        let found = beneath(&shared, &[top.join("link")]);
        assert_eq!(found, Some((shared.clone(), PathBuf::new())));
        // What can write in the outer root makes a link of the inner one: it allows nothing.
        fs::rename(shared.join("web"), shared.join("moved")).unwrap();
        symlink("/etc", shared.join("web")).unwrap();
        assert_eq!(beneath(Path::new("/etc/ssl"), &inner), None);
    }
}
