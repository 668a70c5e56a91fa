//! The data of the fake engine's volumes: real directories, once somebody asks for them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use dwell_core::id::{InstanceName, VolumeName};
use dwell_core::session::SeenVolume;

use super::state::State;
use super::{CopyPlace, EngineError, NAME, VolumeCopy};

/// A directory of this engine's own, which goes with it.
pub(super) struct Directory(PathBuf);

impl Directory {
    fn make() -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dwell-fake-{}-{number}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed stays in the directory for temporary files.
        fs::remove_dir_all(&self.0).ok();
    }
}

fn failed(error: &io::Error) -> EngineError {
    let reason = error.to_string();
    EngineError::Other { engine: NAME, operation: "copy a volume", reason }
}

fn file_name(instance: &InstanceName, name: &VolumeName) -> String {
    format!("{instance}.{name}")
}

impl State {
    pub(super) fn seen_volumes(&self) -> Vec<SeenVolume> {
        let copies = self.copies.iter().map(|copy| SeenVolume {
            instance: copy.instance.clone(),
            name: copy.name.clone(),
            image_path: copy.image_path.clone(),
            is_copy: true,
        });
        self.volumes.iter().cloned().chain(copies).collect()
    }

    pub(super) fn path(&mut self, file: &str) -> Result<PathBuf, EngineError> {
        if self.directory.is_none() {
            self.directory = Some(Directory::make().map_err(|error| failed(&error))?);
        }
        let root = self.directory.as_ref().map_or(Path::new("/"), |directory| &directory.0);
        let path = root.join(file);
        fs::create_dir_all(&path).map_err(|error| failed(&error))?;
        Ok(path)
    }

    pub(super) fn volume_data(
        &mut self,
        instance: &InstanceName,
        name: &VolumeName,
    ) -> Result<PathBuf, EngineError> {
        if !self.volumes.iter().any(|one| one.instance == *instance && one.name == *name) {
            return Err(EngineError::NotFound { id: file_name(instance, name) });
        }
        self.path(&file_name(instance, name))
    }

    pub(super) fn begin_copy(&mut self, copy: &VolumeCopy) -> Result<CopyPlace, EngineError> {
        let VolumeCopy { instance, name, .. } = copy;
        if self.adopted.contains(copy) {
            return Ok(CopyPlace::Adopted);
        }
        if self.volumes.iter().any(|one| one.instance == *instance && one.name == *name) {
            return Err(EngineError::Refused {
                engine: NAME,
                operation: "copy a volume",
                reason: format!("there is a volume {name} of {instance} already"),
            });
        }
        if !self.copies.contains(copy) {
            self.forget_data(instance, name);
            self.copies.push(copy.clone());
        }
        self.path(&format!("{}.copy", file_name(instance, name))).map(CopyPlace::Open)
    }

    pub(super) fn adopt_copy(&mut self, copy: &VolumeCopy) -> Result<(), EngineError> {
        let VolumeCopy { instance, name, image_path, .. } = copy;
        let CopyPlace::Open(data) = (match self.copies.contains(copy) {
            true => self.begin_copy(copy)?,
            false if self.adopted.contains(copy) => return Ok(()),
            false => return Err(EngineError::NotFound { id: file_name(instance, name) }),
        }) else {
            return Ok(());
        };
        let volume = self.path(&file_name(instance, name))?;
        fs::rename(data, volume).map_err(|error| failed(&error))?;
        self.copies.retain(|one| one != copy);
        self.adopted.push(copy.clone());
        self.volumes.push(SeenVolume {
            instance: instance.clone(),
            name: name.clone(),
            image_path: image_path.clone(),
            is_copy: false,
        });
        Ok(())
    }

    /// Nothing is left of a volume, nor of a copy.
    pub(super) fn forget_data(&mut self, instance: &InstanceName, name: &VolumeName) {
        let is_it = |copy: &VolumeCopy| copy.instance == *instance && copy.name == *name;
        self.copies.retain(|copy| !is_it(copy));
        self.adopted.retain(|copy| !is_it(copy));
        if let Some(Directory(root)) = &self.directory {
            for file in [file_name(instance, name), format!("{}.copy", file_name(instance, name))] {
                fs::remove_dir_all(root.join(file)).ok();
            }
        }
    }
}
