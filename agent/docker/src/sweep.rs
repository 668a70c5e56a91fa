//! The files of containers that are gone: they were removed by hand, or by a call whose end nobody saw.
//!
//! What goes with a container is told in one place ([`DockerEngine::forget`]): as soon as the daemon says that one of
//! ours is gone, whoever asked. What was missed, for example while no agent ran, is found by comparing all files with all
//! containers. The files are read first and the containers are listed after that, so that the files of a container that
//! was started meanwhile are never taken for a leftover; those of one that is being made are [claimed](Claims).

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use dwell_daemon::Causes;
use dwell_oci::Mapping;
use tracing::{info, warn};

use super::client::{NAME, QUICK};
use super::files::{self, Owner};
use super::{ContainerId, DockerEngine, Engine as _, EngineError};

/// What is left of containers that are gone.
#[derive(Debug, Default)]
struct Leftovers {
    /// Containers of which the wrapper was told.
    mappings: BTreeSet<String>,
    /// Containers that have files of their own.
    owners: BTreeSet<Owner>,
}

impl DockerEngine {
    /// A container is gone: what the node keeps for it goes as well, unless another one has it by now.
    pub(super) fn forget(&self, id: &ContainerId) {
        self.attachments.forget(id);
        if let Err(error) = Mapping::remove(&self.config.run_dir, id.as_str()) {
            warn!(container = %id, error = %Causes(&error), "cannot remove the mapping of a container");
        }
        let owner = self.own.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some((owner, _)) = owner
            && let Err(error) = self.remove_files(&owner)
        {
            warn!(instance = %owner.0, %error, "cannot remove the files of a container");
        }
    }

    /// Removes the files of a container that is gone, unless another one has the same or is being made.
    fn remove_files(&self, owner: &Owner) -> io::Result<()> {
        match self.claims.take(owner.clone()) {
            Some(_claim) if !self.is_owned(owner) => {
                files::remove(&self.config.data_dir, &owner.0, owner.1)
            }
            _ => Ok(()),
        }
    }

    fn is_owned(&self, owner: &Owner) -> bool {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.values().any(|(other, _)| other == owner)
    }

    pub(super) async fn find_leftovers(&self) -> Result<BTreeSet<PathBuf>, EngineError> {
        let (run, data) = (&self.config.run_dir, &self.config.data_dir);
        let Leftovers { mappings, owners } = self.compare_files().await?;
        let mappings = mappings.iter().flat_map(|id| Mapping::paths(run, id));
        let directories = owners
            .iter()
            .map(|(instance, generation)| files::directory(data, instance, *generation));
        Ok(mappings.chain(directories).collect())
    }

    pub(super) async fn remove_leftovers(&self) -> Result<(), EngineError> {
        let Leftovers { mappings, owners } = self.compare_files().await?;
        let mut failed = None;
        for id in mappings {
            match Mapping::remove(&self.config.run_dir, &id) {
                Ok(()) => info!(container = id, "removed the mapping of a container that is gone"),
                Err(error) => failed = Some(Causes(&error).to_string()),
            }
        }
        for owner in owners {
            match self.remove_files(&owner) {
                Ok(()) => {
                    info!(instance = %owner.0, generation = %owner.1, "removed the files of a container that is gone");
                }
                Err(error) => failed = Some(format!("{}: {error}", owner.0)),
            }
        }
        failed.map_or(Ok(()), |reason| {
            Err(other("remove the files of containers that are gone", reason))
        })
    }

    async fn compare_files(&self) -> Result<Leftovers, EngineError> {
        const OPERATION: &str = "list the files of containers";
        let config = Arc::clone(&self.config);
        let reading = self.lane.run(move || {
            let mappings = Mapping::containers(&config.run_dir);
            let mappings =
                mappings.map_err(|error| io::Error::other(Causes(&error).to_string()))?;
            Ok(Leftovers { mappings, owners: files::owners(&config.data_dir)? })
        });
        let read = tokio::time::timeout(QUICK, reading).await;
        let hangs = |_| other(OPERATION, "the disk of the agent's data does not answer".to_owned());
        let read = read.map_err(hangs)?;
        let mut found = read.map_err(|error| other(OPERATION, error.to_string()))?;
        for container in self.list().await? {
            found.mappings.remove(container.id.as_str());
            found.owners.remove(&(container.instance, container.generation));
        }
        // One may have been made since, or be about to.
        found
            .owners
            .retain(|owner| self.claims.take(owner.clone()).is_some() && !self.is_owned(owner));
        Ok(found)
    }
}

fn other(operation: &'static str, reason: String) -> EngineError {
    EngineError::Other { engine: NAME, operation, reason }
}

#[cfg(test)]
mod tests {
    use dwell_core::sandbox::Slot;
    use dwell_core::workload::Template;

    use super::super::{DockerConfig, Runtime};
    use super::*;
    use dwell_engine::fake;

    #[test]
    fn what_is_kept_for_a_container_goes_with_it_unless_another_has_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let (run, data) = (directory.path().join("run"), directory.path().join("data"));
        let engine = DockerEngine::new(DockerConfig {
            socket: "/nonexistent".into(),
            cluster: "lab".to_owned(),
            data_dir: data.clone(),
            run_dir: run.clone(),
            allowed: crate::Allowed::default(),
            runtime: Runtime::Dwell,
            registries: crate::credentials::Registries::default(),
            names: None,
        });
        let assigned = fake::assigned("web-0", 1, Template::of_image("a"));
        let owner: Owner = (assigned.instance.clone(), assigned.generation);
        let files = files::write(&data, &assigned, assigned.generation, None).unwrap();
        let ids = ["c1", "c2", "c3"].map(|id| ContainerId(id.to_owned()));
        let there = |id: &ContainerId| Mapping::read(&run, id.as_str()).is_ok();
        for id in &ids {
            let mapping = Mapping {
                root: None,
                sysctls: std::collections::BTreeMap::new(),
                systemd: false,
                instance: "web-0".to_owned(),
                netns: "/run/netns/x".into(),
                binds: Vec::new(),
                copies: Vec::new(),
            };
            mapping.write(&run, id.as_str()).unwrap();
            engine.own.lock().unwrap().insert(id.clone(), (owner.clone(), Slot::A));
        }

        engine.forget(&ids[0]);
        assert!(!there(&ids[0]) && there(&ids[1]) && files.exists(), "the others have it");
        engine.own.lock().unwrap().remove(&ids[1]);
        let claim = engine.claims.take(owner.clone());
        engine.forget(&ids[2]);
        assert!(!there(&ids[2]) && files.exists(), "one is being made");
        drop(claim);
        engine.own.lock().unwrap().insert(ids[1].clone(), (owner, Slot::A));
        engine.forget(&ids[1]);
        assert!(!there(&ids[1]) && !files.exists());
    }
}
