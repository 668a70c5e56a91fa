//! Gathering what the layers of this node claim.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use dwell_core::id::{InstanceName, Position};
use dwell_core::sandbox::SandboxId;
use dwell_core::session::{Assignment, SeenVolume, Statuses};
use dwell_core::workload::Limits;
use dwell_network::{Look, sandbox_path};
use dwell_oci::Mapping;
use futures_util::{StreamExt, stream};
use rustix::fs::stat;

use super::{Audited, limits};
use crate::assignment::{cache, routes};
use crate::reconciler::Journals;
use dwell_daemon::Causes;
use dwell_engine::death;
use dwell_engine::{Container, ContainerId, EngineError, SharedEngine};

/// How many containers are looked at side by side.
const LOOKS_MAX: usize = 8;

/// What the layers of a node claim, gathered in one pass.
#[derive(Debug)]
pub(super) struct Facts {
    /// What the node is to do, and whether that is on disk.
    pub(super) assignment: Arc<Assignment>,
    pub(super) stored: Option<Position>,
    /// What its agent reports.
    pub(super) statuses: Option<Arc<Statuses>>,
    /// Instances that have a journal on disk.
    pub(super) journals: BTreeSet<InstanceName>,
    /// What its engine has, or why it cannot be asked. A node without one has nothing.
    pub(super) engine: Result<EngineFacts, String>,
    /// What its kernel has of the network.
    pub(super) network: Look,
}

/// What an engine has.
#[derive(Debug, Default)]
pub(super) struct EngineFacts {
    pub(super) containers: Vec<ContainerFacts>,
    /// Containers of others with the cluster's label.
    pub(super) strangers: BTreeSet<String>,
    /// Files of containers that are gone.
    pub(super) leftovers: BTreeSet<PathBuf>,
    pub(super) volumes: Vec<SeenVolume>,
}

/// A container, and what the kernel and the files have of it.
#[derive(Clone, Debug)]
pub(super) struct ContainerFacts {
    /// With its details.
    pub(super) container: Container,
    /// What the kernel has of its main process, if the engine names one.
    pub(super) process: Option<Process>,
    /// Whether the runtime would find its sandbox.
    pub(super) is_mapped: bool,
}

impl ContainerFacts {
    /// In which sandbox it is to run.
    pub(super) fn sandbox(&self) -> SandboxId {
        self.container.sandbox()
    }
}

/// What the kernel has of a main process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// There is no such process in the container's control group.
    Gone,
    /// It lives.
    Lives {
        /// The inode of its network namespace, if that can be told.
        namespace: Option<u64>,
        /// The limits of its control groups, if they can be told.
        limits: Option<Limits>,
    },
}

impl Audited {
    pub(super) async fn facts(&self) -> Result<Facts, String> {
        let assignment = self.assignment.borrow().clone();
        let assignment = assignment.ok_or("it has no assignment yet")?;
        let engine = match &self.engine {
            Some(engine) => self.ask(engine).await.map_err(|error| Causes(&error).to_string()),
            None => Ok(EngineFacts::default()),
        };
        let own = self.config.underlay_address().await.ok();
        let routes = routes(&assignment.network, self.config.overlay_choice(), own);
        let network = self.network.look(&routes).await;
        let network = network.map_err(|error| Causes(&error).to_string())?;
        let data = self.config.data_dir.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "an audit that waits for a disk that hangs is late, and nothing else"
        )]
        let reading = tokio::task::spawn_blocking(move || {
            let stored = cache::peek(&data).map(|stored| stored.position());
            let journals = Journals::new(data.join("journals")).read_all();
            journals.map(|journals| (stored, journals.into_keys().collect()))
        });
        let read = reading.await.map_err(|error| error.to_string())?;
        let (stored, journals) =
            read.map_err(|error| format!("cannot read its journals: {error}"))?;
        // Last, so that what was seen to be on its way somewhere may have arrived by now.
        let statuses = self.statuses.borrow().clone();
        Ok(Facts { assignment, stored, statuses, journals, engine, network })
    }

    async fn ask(&self, engine: &SharedEngine) -> Result<EngineFacts, EngineError> {
        let listed = engine.list().await?;
        let strangers = engine.strangers();
        let mut looks = stream::iter(listed.into_iter().map(|one| one.id))
            .map(|id| async move { engine.inspect(&id).await })
            .buffer_unordered(LOOKS_MAX);
        let mut containers = Vec::new();
        while let Some(found) = looks.next().await {
            match found {
                Ok(container) => containers.push(self.look_at(container)),
                Err(EngineError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        drop(looks);
        containers.sort_by(|a, b| a.container.id.cmp(&b.container.id));
        Ok(EngineFacts {
            containers,
            strangers,
            leftovers: engine.leftovers().await?,
            volumes: engine.volumes().await?,
        })
    }

    /// All that is read here is in memory.
    fn look_at(&self, container: Container) -> ContainerFacts {
        let pid = container.details.and_then(|details| details.pid);
        let process = pid.map(|pid| process(pid, &container.id));
        let netns = sandbox_path(&self.config.run_dir, &container.sandbox());
        let mapping = Mapping::read(&self.config.run_dir, container.id.as_str());
        let is_mapped = mapping.is_ok_and(|mapping| mapping.netns == netns);
        ContainerFacts { container, process, is_mapped }
    }
}

fn process(pid: u32, container: &ContainerId) -> Process {
    let namespace = stat(format!("/proc/{pid}/ns/net")).ok().map(|found| found.st_ino);
    let limits = limits::of(pid).ok();
    // Afterwards, so that nothing of another process is taken for this one's.
    match death::start_ticks(pid, container) {
        Ok(_) => Process::Lives { namespace, limits },
        Err(_) => Process::Gone,
    }
}

impl Facts {
    /// The containers of each instance.
    pub(super) fn by_instance(&self) -> BTreeMap<&InstanceName, Vec<&ContainerFacts>> {
        let mut by_instance: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for one in self.engine.iter().flat_map(|engine| &engine.containers) {
            by_instance.entry(&one.container.instance).or_default().push(one);
        }
        by_instance
    }
}
