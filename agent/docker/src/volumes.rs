//! The volumes of instances: Docker's own, known by their labels.

mod copies;

use bollard::models::Volume;
use bollard::query_parameters::{ListVolumesOptions, RemoveVolumeOptions};
use dwell_core::id::{InstanceName, VolumeName};
use dwell_core::instance::Assigned;
use dwell_core::session::SeenVolume;

use super::client::{QUICK, SLOW, limited, meaning, status};
use super::spec::{LABEL_IMAGE_PATH, LABEL_INSTANCE, LABEL_VOLUME, volume_name};
use super::{DockerEngine, EngineError, spec};

impl DockerEngine {
    /// All volumes of the cluster that say whose they are.
    pub(super) async fn list_volumes(&self) -> Result<Vec<SeenVolume>, EngineError> {
        Ok(self.all_volumes().await?.iter().filter_map(seen).collect())
    }

    /// Sees to it that no volume is made in place of one that the node has had, which Docker would do.
    pub(super) async fn find_kept_volumes(
        &self,
        assigned: &Assigned,
        image_volumes: &[String],
    ) -> Result<(), EngineError> {
        let kept = spec::kept_volumes(assigned, image_volumes);
        if kept.is_empty() {
            return Ok(());
        }
        let instance = &assigned.instance;
        let there = self.all_volumes().await?;
        let is_there =
            |name: &VolumeName| there.iter().any(|one| one.name == volume_name(instance, name));
        match kept.into_iter().find(|name| !is_there(name)) {
            Some(volume) => Err(EngineError::VolumeMissing { instance: instance.clone(), volume }),
            None => Ok(()),
        }
    }

    /// Deletes one volume, which is this cluster's by its name, and a copy that was to become it.
    pub(super) async fn delete_volume(
        &self,
        instance: &InstanceName,
        name: &VolumeName,
    ) -> Result<(), EngineError> {
        let there = self.all_volumes().await?;
        let is_it = |volume: &SeenVolume| volume.instance == *instance && volume.name == *name;
        // A volume of this name without our labels is somebody else's.
        for volume in there.iter().filter(|volume| seen(volume).is_some_and(|one| is_it(&one))) {
            self.delete(&volume.name).await?;
        }
        Ok(())
    }

    /// Removes all volumes of the cluster with everything in them; how many there were.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`]; [`EngineError::Other`] for one that a container still has.
    pub async fn remove_volumes(&self) -> Result<usize, EngineError> {
        let volumes = self.all_volumes().await?;
        for volume in &volumes {
            self.delete(&volume.name).await?;
        }
        Ok(volumes.len())
    }

    async fn all_volumes(&self) -> Result<Vec<Volume>, EngineError> {
        let docker = self.client.docker().await?;
        let options = ListVolumesOptions { filters: Some(self.filters()) };
        let listed = limited(QUICK, docker.list_volumes(Some(options))).await;
        let listed = listed.map_err(|error| meaning(error, "list volumes", ""))?;
        Ok(listed.volumes.unwrap_or_default())
    }

    async fn delete(&self, name: &str) -> Result<(), EngineError> {
        let docker = self.client.docker().await?;
        let options = RemoveVolumeOptions::default();
        // As long as it takes to delete the files.
        match limited(SLOW, docker.remove_volume(name, Some(options))).await {
            Ok(()) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) => Err(meaning(error, "remove a volume", name)),
        }
    }
}

/// Whose a volume is; `None` for one that does not say, or that was made under another name.
fn seen(volume: &Volume) -> Option<SeenVolume> {
    let instance: InstanceName = volume.labels.get(LABEL_INSTANCE)?.parse().ok()?;
    let name: VolumeName = volume.labels.get(LABEL_VOLUME)?.parse().ok()?;
    let image_path = volume.labels.get(LABEL_IMAGE_PATH).cloned();
    let is_copy = volume.name == copies::copy_name(&instance, &name);
    let is_known = is_copy || volume.name == volume_name(&instance, &name);
    is_known.then_some(SeenVolume { instance, name, image_path, is_copy })
}
