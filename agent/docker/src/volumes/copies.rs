//! Copies of other nodes' volumes: Docker volumes with a name of their own, until their data moves into the real one.
//!
//! ```text
//!   (none) ──begin──▶ copy ──adopt──▶ copy and an empty volume ──rename──▶ volume and an empty copy ──▶ volume
//! ```
//!
//! The data changes over by one rename, onto a directory that the kernel only replaces if it is empty. The volume bears the
//! number of the move, so that whatever crashes in between, the next call knows how far it was.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bollard::models::{Volume, VolumeCreateRequest};
use dwell_core::id::{InstanceName, VolumeName};
use dwell_engine::{CopyPlace, VolumeCopy};

use crate::client::{QUICK, limited, meaning};
use crate::spec::{LABEL_IMAGE_PATH, volume_labels, volume_name};
use crate::{DockerEngine, EngineError};

/// On a copy, and on the volume that it has become: the move that it was made for.
const LABEL_MOVE: &str = "dwell.move";
const OPERATION: &str = "copy a volume";

/// The name of a copy. No volume has it, since their names have no dots.
pub(super) fn copy_name(instance: &InstanceName, name: &VolumeName) -> String {
    format!("{}.copy", volume_name(instance, name))
}

fn is_of(volume: &Volume, copy: &VolumeCopy) -> bool {
    volume.labels.get(LABEL_MOVE).is_some_and(|of| *of == copy.of_move.to_string())
}

fn other(reason: String) -> EngineError {
    EngineError::Other { engine: "docker", operation: OPERATION, reason }
}

impl DockerEngine {
    pub(crate) async fn data_of(
        &self,
        instance: &InstanceName,
        name: &VolumeName,
    ) -> Result<PathBuf, EngineError> {
        let volume = volume_name(instance, name);
        let there = self.all_volumes().await?;
        match there.into_iter().find(|one| one.name == volume) {
            Some(found) => Ok(PathBuf::from(found.mountpoint)),
            None => Err(EngineError::NotFound { id: volume }),
        }
    }

    pub(crate) async fn open_copy(&self, copy: &VolumeCopy) -> Result<CopyPlace, EngineError> {
        match self.places_of(copy).await? {
            (None, Some(staged)) if is_of(&staged, copy) => {
                Ok(CopyPlace::Open(staged.mountpoint.into()))
            }
            (None, staged) => {
                if let Some(staged) = staged {
                    // Of a move that was given up.
                    self.delete(&staged.name).await?;
                }
                let name = copy_name(&copy.instance, &copy.name);
                let made = self.make_volume(name, self.labels_of(copy)).await?;
                Ok(CopyPlace::Open(made.mountpoint.into()))
            }
            // It was whole when it began to become the volume.
            (Some(_), _) => {
                self.take_over(copy).await?;
                Ok(CopyPlace::Adopted)
            }
        }
    }

    pub(crate) async fn take_over(&self, copy: &VolumeCopy) -> Result<(), EngineError> {
        let (volume, staged) = match self.places_of(copy).await? {
            (Some(_), None) => return Ok(()),
            (None, None) => {
                return Err(EngineError::NotFound { id: copy_name(&copy.instance, &copy.name) });
            }
            (volume, Some(staged)) => (volume, staged),
        };
        if !is_of(&staged, copy) {
            return Err(EngineError::NotFound { id: copy_name(&copy.instance, &copy.name) });
        }
        // Without data in the copy it has changed over already, if it was to before.
        let was_begun = volume.is_some();
        let volume = match volume {
            Some(volume) => volume,
            None => {
                let name = volume_name(&copy.instance, &copy.name);
                self.make_volume(name, self.labels_of(copy)).await?
            }
        };
        let (from, to) = (PathBuf::from(&staged.mountpoint), PathBuf::from(volume.mountpoint));
        let renamed = self.lane.run(move || change_over(&from, &to, was_begun)).await;
        renamed.map_err(|error| other(error.to_string()))?;
        self.delete(&staged.name).await
    }

    /// The volume, which has to be of this move, and the copy, as far as they are there.
    async fn places_of(
        &self,
        copy: &VolumeCopy,
    ) -> Result<(Option<Volume>, Option<Volume>), EngineError> {
        let (name, staged) =
            (volume_name(&copy.instance, &copy.name), copy_name(&copy.instance, &copy.name));
        let (mut volume, mut found) = (None, None);
        for one in self.all_volumes().await? {
            if one.name == name {
                volume = Some(one);
            } else if one.name == staged {
                found = Some(one);
            }
        }
        match volume {
            Some(volume) if !is_of(&volume, copy) => Err(EngineError::Refused {
                engine: "docker",
                operation: OPERATION,
                reason: format!("there is a volume {name} already, which is not of this move"),
            }),
            volume => Ok((volume, found)),
        }
    }

    fn labels_of(&self, copy: &VolumeCopy) -> HashMap<String, String> {
        let mut labels = volume_labels(&self.config.cluster, &copy.instance, &copy.name);
        labels.insert(LABEL_MOVE.to_owned(), copy.of_move.to_string());
        let path = copy.image_path.clone();
        labels.extend(path.map(|path| (LABEL_IMAGE_PATH.to_owned(), path)));
        labels
    }

    /// Makes a volume, or finds the one of that name as it is.
    pub(crate) async fn make_volume(
        &self,
        name: String,
        labels: HashMap<String, String>,
    ) -> Result<Volume, EngineError> {
        let docker = self.client.docker().await?;
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(labels),
            ..VolumeCreateRequest::default()
        };
        let made = limited(QUICK, docker.create_volume(request)).await;
        made.map_err(|error| meaning(error, "make a volume", &name))
    }
}

/// Puts the data of a copy in the place of an empty directory, unless that was begun and has been done.
fn change_over(from: &Path, to: &Path, was_begun: bool) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && was_begun && to.is_dir() => {}
        renamed => renamed?,
    }
    for directory in [from, to] {
        if let Some(parent) = directory.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}
