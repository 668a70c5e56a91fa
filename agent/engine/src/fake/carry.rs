//! Files in the fake engine's containers, and how they are carried over.

use std::collections::BTreeMap;

use dwell_core::quantity::Bytes;
use dwell_core::workload::CARRIED_MAX;

use super::state::State;
use super::{Carried, ContainerId, ContainerState, EngineError, FakeEngine, NAME};

const OPERATION: &str = "carry files over";

impl FakeEngine {
    /// Writes a file in a container; one that there is none of has no files.
    pub fn write_file(&self, id: &ContainerId, path: &str, content: &[u8]) {
        if let Ok(container) = self.shared.state().container_mut(id) {
            container.files.insert(path.to_owned(), content.to_vec());
        }
    }

    /// What is in a file of a container, if there is one.
    #[must_use]
    pub fn read_file(&self, id: &ContainerId, path: &str) -> Option<Vec<u8>> {
        self.shared.state().container(id).ok()?.files.get(path).cloned()
    }
}

impl State {
    pub(super) fn carry(
        &mut self,
        from: &ContainerId,
        into: &ContainerId,
        paths: &[String],
    ) -> Result<Carried, EngineError> {
        let other = |reason: &str| EngineError::Other {
            engine: NAME,
            operation: OPERATION,
            reason: reason.to_owned(),
        };
        let old = self.container(from)?;
        if old.seen.state == ContainerState::Running {
            return Err(other("the old container runs"));
        }
        let mut files = BTreeMap::new();
        let mut missing = Vec::new();
        for path in paths {
            let is_in = |file: &&String| {
                file.strip_prefix(path.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let before = files.len();
            files.extend(
                old.files
                    .iter()
                    .filter(|(file, _)| is_in(file))
                    .map(|(file, content)| (file.clone(), content.clone())),
            );
            if files.len() == before {
                missing.push(path.clone());
            }
        }
        let size = files.values().map(|content| content.len() as u64).sum();
        if size > CARRIED_MAX.0 {
            let reason = format!("it is more than {CARRIED_MAX}");
            return Err(EngineError::Refused { engine: NAME, operation: OPERATION, reason });
        }
        let new = self.container_mut(into)?;
        if new.seen.state != ContainerState::Created {
            return Err(other("the new container was started"));
        }
        new.files.extend(files);
        Ok(Carried { size: Bytes(size), missing })
    }
}
