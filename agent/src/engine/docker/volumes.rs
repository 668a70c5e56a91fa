//! The volumes of instances, for when a node is cleaned up: the only moment at which any is removed.

use bollard::query_parameters::{ListVolumesOptions, RemoveVolumeOptions};

use super::client::{QUICK, limited, meaning};
use super::{DockerEngine, EngineError};

impl DockerEngine {
    /// Removes all volumes of the cluster with everything in them; how many there were.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`]; [`EngineError::Refused`] for one that a container still has.
    pub async fn remove_volumes(&self) -> Result<usize, EngineError> {
        let docker = self.client.docker().await?;
        let options = ListVolumesOptions { filters: Some(self.filters()) };
        let listed = limited(QUICK, docker.list_volumes(Some(options))).await;
        let listed = listed.map_err(|error| meaning(error, "list volumes", ""))?;
        let volumes = listed.volumes.unwrap_or_default();
        for volume in &volumes {
            let options = RemoveVolumeOptions::default();
            limited(QUICK, docker.remove_volume(&volume.name, Some(options)))
                .await
                .map_err(|error| meaning(error, "remove a volume", &volume.name))?;
        }
        Ok(volumes.len())
    }
}
