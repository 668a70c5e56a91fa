//! Containers of the fake engine that dwell did not make.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dwell_core::foreign::{Foreign, ForeignRestart};

use super::state::State;
use super::{ContainerId, EngineError, FakeEngine, NAME};

/// A container that dwell did not make.
#[derive(Clone, Debug)]
pub(super) struct FakeForeign {
    /// As it is told while it runs.
    said: Foreign,
    runs: bool,
    restart: ForeignRestart,
}

/// How a foreign container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignState {
    /// Whether its main process runs.
    pub runs: bool,
    /// What the engine does when that ends.
    pub restart: ForeignRestart,
}

pub(super) type Foreigners = BTreeMap<ContainerId, FakeForeign>;

fn error(reason: &str) -> EngineError {
    EngineError::Other { engine: NAME, operation: "adopt a container", reason: reason.to_owned() }
}

impl State {
    fn stranger(&mut self, id: &ContainerId) -> Result<&mut FakeForeign, EngineError> {
        self.check_is_not_own(&id.0)?;
        self.foreigners.get_mut(id).ok_or_else(|| EngineError::NotFound { id: id.0.clone() })
    }

    fn check_is_not_own(&self, id: &str) -> Result<(), EngineError> {
        if !self.containers.contains_key(&ContainerId(id.to_owned())) {
            return Ok(());
        }
        Err(EngineError::Refused {
            engine: NAME,
            operation: "adopt a container",
            reason: "it is dwell's own".to_owned(),
        })
    }

    pub(super) fn foreign(&self, name: &str) -> Result<Foreign, EngineError> {
        self.check_is_not_own(name)?;
        let is_it = |one: &&FakeForeign| one.said.name == name || one.said.id.0 == name;
        match self.foreigners.values().find(is_it) {
            Some(found) if found.runs => Ok(found.said.clone()),
            Some(_) => Err(EngineError::NotRunning { id: name.to_owned() }),
            None => Err(EngineError::NotFound { id: name.to_owned() }),
        }
    }

    pub(super) fn stop_foreign(&mut self, id: &ContainerId) -> Result<(), EngineError> {
        let found = self.stranger(id)?;
        (found.runs, found.restart) = (false, ForeignRestart::No);
        Ok(())
    }

    pub(super) fn keep_foreign(
        &mut self,
        id: &ContainerId,
        image: Option<&str>,
    ) -> Result<(), EngineError> {
        let found = self.stranger(id)?;
        match (found.runs, image, found.said.own_files) {
            (true, ..) => Err(error("it runs")),
            (false, None, Some(_)) => Err(EngineError::Refused {
                engine: NAME,
                operation: "adopt a container",
                reason: "it has written files of its own".to_owned(),
            }),
            (false, None, None) => Ok(()),
            (false, Some(image), _) => {
                self.images.remove(image);
                self.hold_image(image);
                Ok(())
            }
        }
    }

    pub(super) fn foreign_volume(&mut self, volume: &str) -> Result<PathBuf, EngineError> {
        self.path(&format!("foreign.{volume}"))
    }

    pub(super) fn start_foreign(
        &mut self,
        id: &ContainerId,
        restart: ForeignRestart,
    ) -> Result<(), EngineError> {
        let found = self.stranger(id)?;
        (found.runs, found.restart) = (true, restart);
        Ok(())
    }
}

impl FakeEngine {
    /// Adds a running container that dwell did not make.
    pub fn add_foreign(&self, said: Foreign) {
        let (id, restart) = (said.id.clone(), said.restart);
        let foreign = FakeForeign { said, runs: true, restart };
        self.shared.state().foreigners.insert(id, foreign);
        self.shared.announce();
    }

    /// Somebody removes a container that dwell did not make.
    pub fn remove_foreign(&self, id: &ContainerId) {
        self.shared.state().foreigners.remove(id);
        self.shared.announce();
    }

    /// How a container is that dwell did not make; `None` if there is none.
    #[must_use]
    pub fn foreign_state(&self, id: &ContainerId) -> Option<ForeignState> {
        let state = self.shared.state();
        let found = state.foreigners.get(id)?;
        Some(ForeignState { runs: found.runs, restart: found.restart })
    }
}
