//! Making a container, with what it needs of the node.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use bollard::query_parameters::CreateContainerOptions;
use dwell_core::id::Generation;
use dwell_core::instance::Assigned;
use dwell_core::sandbox::Slot;
use dwell_core::workload::MountSource;
use dwell_engine::{ContainerId, EngineError};
use tracing::warn;

use super::client::{NAME, QUICK, SLOW, limited, meaning, reason, status};
use super::spec::Surroundings;
use super::{DockerEngine, carry, files, image, init, spec};

pub(super) async fn create(
    engine: &DockerEngine,
    slot: Slot,
    assigned: &Assigned,
) -> Result<ContainerId, EngineError> {
    if let Some(error) = engine.unfit() {
        return Err(error);
    }
    let docker = engine.client.docker().await?;
    let owner = (assigned.instance.clone(), assigned.generation);
    let _claim = engine.claims.take(owner.clone()).ok_or_else(|| EngineError::Other {
        engine: NAME,
        operation: "create a container",
        reason: "files of an earlier one are being removed; trying again".to_owned(),
    })?;
    let image = image::find(&docker, &assigned.image()).await?;
    if let Some(path) = spec::shared_by_two(assigned, &image.volumes) {
        let reason = format!(
            "its image declares the volume {path}, to which two containers of an instance would write at once; declare \
             \"update: {{order: stop-first}}\""
        );
        return Err(EngineError::Refused { engine: NAME, operation: "create a container", reason });
    }
    let declared = image.volumes.iter().map(String::as_str);
    if let Some((path, mount)) = carry::mounted(&assigned.template.carry, declared) {
        return Err(carry::refused_for(path, mount));
    }
    engine.find_kept_volumes(assigned, &image.volumes).await?;
    let root = match &assigned.template.machine {
        Some(machine) => Some(engine.prepare_root(assigned, machine, &image).await?),
        None => None,
    };
    // The capability for it is also that for a new kernel, which only the filter refuses.
    let may_reboot = spec::reboots(&assigned.template) && engine.filters_calls().await?;
    let devices = engine.grant(&assigned.template.process).await?;
    let (binds, files) = engine.prepare(assigned).await?;
    let body = spec::body(
        assigned,
        &Surroundings {
            cluster: &engine.config.cluster,
            runtime: engine.config.runtime,
            slot,
            files: &files,
            binds: &binds,
            devices: &devices,
            image: &image.reference,
            image_volumes: &image.volumes,
            root: root.as_deref(),
            init: init::has_one(&assigned.template, &image.runs),
            may_reboot,
        },
    );
    let name = spec::container_name(&assigned.instance, assigned.generation);
    let options =
        CreateContainerOptions { name: Some(name.clone()), ..CreateContainerOptions::default() };
    match limited(SLOW, docker.create_container(Some(options), body)).await {
        Ok(made) => {
            let id = ContainerId(made.id);
            engine.attachments.expect(&id, assigned);
            let mut own = engine.own.lock().unwrap_or_else(PoisonError::into_inner);
            own.insert(id.clone(), (owner, slot));
            Ok(id)
        }
        // It has the files that were written just now.
        Err(error) if status(&error) == Some(409) => Err(EngineError::AlreadyExists { name }),
        Err(error) => {
            // Without a reply it may have been made all the same, and need its files.
            if status(&error).is_some()
                && let Err(error) =
                    files::remove(&engine.config.data_dir, &assigned.instance, assigned.generation)
            {
                warn!(instance = %assigned.instance, %error, "cannot remove the files of a container");
            }
            if status(&error) == Some(404) {
                let gone = engine.image_missing(&image.reference).await;
                return Err(missing(&error, gone.then_some(image.reference)));
            }
            let error = meaning(error, "create a container", &name);
            Err(engine.unless_runtime_missing(error).await)
        }
    }
}

/// What was not found when a container was to be made: its image, or a thing that it was to have. There is no container yet
/// that could be missing.
fn missing(error: &bollard::errors::Error, image: Option<String>) -> EngineError {
    match image {
        Some(image) => EngineError::ImageMissing { image },
        None => EngineError::Other {
            engine: NAME,
            operation: "create a container",
            reason: reason(error),
        },
    }
}

impl DockerEngine {
    /// What a container needs of the node: its bind mounts, resolved, and its files.
    async fn prepare(
        &self,
        assigned: &Assigned,
    ) -> Result<(HashMap<String, String>, PathBuf), EngineError> {
        let mut binds = HashMap::new();
        for mount in &assigned.template.mounts {
            let MountSource::Bind(path) = &mount.source else { continue };
            let resolved = self.resolve_bind(path).await?;
            binds.insert(mount.target.clone(), resolved);
        }
        Ok((binds, self.write_files(assigned, assigned.generation).await?))
    }

    /// Writes the files of the container of a generation, if they are not there as they should be.
    pub(super) async fn write_files(
        &self,
        assigned: &Assigned,
        generation: Generation,
    ) -> Result<PathBuf, EngineError> {
        let (config, assigned) = (Arc::clone(&self.config), assigned.clone());
        let written = self.lane.run(move || {
            let names = config.names.as_ref().and_then(|names| names.borrow().clone());
            let zone = names.as_ref().map(|names| names.network.zone.as_str());
            let zone = zone.filter(|zone| !zone.is_empty());
            Ok(files::write(&config.data_dir, &assigned, generation, zone))
        });
        let other = |reason: &str| EngineError::Other {
            engine: NAME,
            operation: "write the files of a container",
            reason: reason.to_owned(),
        };
        let written = tokio::time::timeout(QUICK, written).await;
        written
            .map_err(|_| other("the disk of the agent's data does not answer"))?
            .map_err(|error| other(&error.to_string()))?
    }

    async fn image_missing(&self, image: &str) -> bool {
        let Ok(docker) = self.client.docker().await else { return false };
        let seen = limited(QUICK, docker.inspect_image(image)).await;
        seen.is_err_and(|error| status(&error) == Some(404))
    }
}

#[cfg(test)]
mod tests {
    use bollard::errors::Error;

    use super::*;

    #[test]
    fn what_a_container_was_to_have_is_named_and_no_container_is() {
        let message = "network shared not found".to_owned();
        let error = Error::DockerResponseServerError { status_code: 404, message };
        let told = missing(&error, None).to_string();
        assert_eq!(told, "docker failed to create a container: network shared not found");
        let gone = missing(&error, Some("hello".to_owned()));
        assert_eq!(gone, EngineError::ImageMissing { image: "hello".to_owned() });
    }
}
