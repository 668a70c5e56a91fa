//! Capabilities and devices beyond what Docker gives to every container, which the node's operator has to have allowed.
//!
//! As with paths, this is judged twice: when a container is made, and at every start after that, since Docker keeps what an
//! operator has ceased to allow.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard::models::{DeviceMapping, HostConfig};
use dwell_core::workload::{Process, USUAL_CAPABILITIES};
use dwell_engine::EngineError;

use super::client::NAME;
use super::{Allowed, DockerEngine};

const OPERATION: &str = "give an instance what it declares";

impl DockerEngine {
    /// The devices of an instance as Docker is told of them, if it may have these and its capabilities.
    pub(super) async fn grant(&self, process: &Process) -> Result<Vec<DeviceMapping>, EngineError> {
        for name in process.granted_capabilities() {
            check_capability(name, &self.config.allowed)?;
        }
        let mut devices = Vec::new();
        for device in &process.devices {
            let (config, source) = (Arc::clone(&self.config), device.source.clone());
            let resolved =
                self.look_at(&device.source, move || resolve(&source, &config.allowed)).await??;
            devices.push(DeviceMapping {
                path_on_host: Some(resolved),
                path_in_container: Some(device.target.clone()),
                cgroup_permissions: Some(device.permissions.clone()),
            });
        }
        Ok(devices)
    }

    /// Whether a container may still have what it was made with; some may reboot themselves without anybody's leave.
    pub(super) async fn check_grants(
        &self,
        host: &HostConfig,
        may_reboot: bool,
    ) -> Result<(), EngineError> {
        for name in host.cap_add.iter().flatten() {
            let name = name.strip_prefix("CAP_").unwrap_or(name);
            let is_usual = USUAL_CAPABILITIES.contains(&name) || (may_reboot && name == "SYS_BOOT");
            if !is_usual {
                check_capability(name, &self.config.allowed)?;
            }
        }
        for path in host.devices.iter().flatten().filter_map(|one| one.path_on_host.clone()) {
            let (config, source) = (Arc::clone(&self.config), path.clone());
            self.look_at(&path, move || resolve(&source, &config.allowed)).await??;
        }
        Ok(())
    }
}

fn check_capability(name: &str, allowed: &Allowed) -> Result<(), EngineError> {
    match allowed.capabilities.iter().any(|one| one == name) {
        true => Ok(()),
        false => Err(refused(&format!("the capability {name}"), "allow_capabilities")),
    }
}

/// The real path of a device that is allowed.
fn resolve(path: &str, allowed: &Allowed) -> Result<String, EngineError> {
    let other = |reason| EngineError::Other { engine: NAME, operation: OPERATION, reason };
    let real =
        fs::canonicalize(path).map_err(|error| other(format!("the device {path:?}: {error}")))?;
    let mut roots = allowed.devices.iter().filter_map(|root| fs::canonicalize(root).ok());
    let is_allowed = |root: PathBuf| real.starts_with(root) && real.starts_with(Path::new("/dev"));
    match real.to_str().filter(|_| roots.any(is_allowed)) {
        Some(real) => Ok(real.to_owned()),
        None => Err(refused(&format!("the device {path:?}"), "allow_devices")),
    }
}

fn refused(what: &str, key: &str) -> EngineError {
    EngineError::Refused {
        engine: NAME,
        operation: OPERATION,
        reason: format!(
            "{what} is not in `{key}` in the configuration of this node's agent; have its operator add it, or choose nodes that \
             allow it with constraints"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_allowed_is_given() {
        let allowed = Allowed {
            capabilities: vec!["SYS_PTRACE".to_owned()],
            devices: vec!["/dev/null".into(), "/dev/pts".into(), "/etc".into()],
            ..Allowed::default()
        };
        assert!(check_capability("SYS_PTRACE", &allowed).is_ok());
        let told = check_capability("SYS_ADMIN", &allowed).unwrap_err();
        assert!(told.is_permanent() && told.to_string().contains("`allow_capabilities`"), "{told}");
        assert_eq!(resolve("/dev/null", &allowed).unwrap(), "/dev/null");
        assert!(resolve("/dev/pts/ptmx", &allowed).is_ok());
        for path in ["/dev/zero", "/etc/passwd"] {
            let told = resolve(path, &allowed).unwrap_err();
            assert!(told.is_permanent() && told.to_string().contains("`allow_devices`"), "{told}");
        }
        assert!(!resolve("/dev/none", &allowed).unwrap_err().is_permanent());
    }
}
