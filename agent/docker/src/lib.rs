//! The engine that speaks to a Docker daemon, 20.10 (API 1.41) to current.
//!
//! Containers are made with `Runtime::Dwell`, the wrapper of `dwell-oci`, which replaces the host's
//! network by the instance's sandbox. A daemon that does not know that runtime refuses the container,
//! and [`Engine::info`] reports it as not ready. What the wrapper needs to know is written by
//! [`Engine::start`], so that no caller can forget it.
//!
//! What it owns beside the containers: two small files for each in its data directory ([`files`]),
//! the mappings of `dwell-oci`, and Docker volumes named `dwell.INSTANCE.VOLUME`, which go only when the
//! controller says so. What an image declares as a volume gets one of these as well, and so does the root of a machine ([`machine`]).

mod attach;
mod binds;
mod carry;
mod client;
mod create;
pub mod credentials;
pub mod daemon_json;
mod exec;
mod files;
mod foreign;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod grants;
mod hijack;
mod image;
mod images;
mod info;
mod init;
mod leftover;
mod life;
mod load;
mod logs;
mod look;
mod machine;
mod previous;
mod pull;
mod reply;
mod spec;
mod sweep;
mod unfit;
mod unstarted;
mod usage;
mod volumes;
#[cfg(feature = "test-util")]
pub mod world;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dwell_core::foreign::{Foreign, ForeignRestart};
use dwell_core::id::{InstanceName, VolumeName};
use dwell_core::image::ImageDigest;
use dwell_core::instance::Assigned;
use dwell_core::registry::RegistryLogins;
use dwell_core::sandbox::Slot;
use dwell_core::session::{Assignment, SeenVolume};
use dwell_core::workload::{Enforced, Limits};
use dwell_daemon::Lane;
use dwell_daemon::paths::PathLooks;
use dwell_engine::{
    ArchiveStream, Carried, Container, ContainerId, CopyPlace, Engine, EngineError, EngineReport,
    Event, ExecRequest, ExecSession, Image, LogOptions, OutputStream, PullProgress, Usage,
    VolumeCopy, VolumeTurns,
};
use futures_util::stream::BoxStream;
use tokio::sync::watch;

use self::attach::Attachments;
use self::client::{Client, QUICK, limited, meaning};
use self::credentials::Registries;
use self::files::{Claims, Owner};
use self::spec::LABEL_CLUSTER;

/// What of their node instances may have, as its operator says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Paths that they may mount, with all below them.
    pub binds: Vec<PathBuf>,
    /// Capabilities beside those that the engine gives by itself.
    pub capabilities: Vec<String>,
    /// Devices, and directories of them.
    pub devices: Vec<PathBuf>,
}

/// What the engine has to know.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The cluster whose containers it makes and sees.
    pub cluster: String,
    /// The agent's lasting files.
    pub data_dir: PathBuf,
    /// The agent's files until the next reboot: sandboxes beneath `netns`, and mappings for the wrapper.
    pub run_dir: PathBuf,
    /// What of the node instances may have.
    pub allowed: Allowed,
    /// What puts containers into their sandboxes.
    pub runtime: Runtime,
    /// With what images are pulled.
    pub registries: Registries,
    /// What has the zone, if this node answers DNS for its containers; else they ask the host's resolvers.
    pub names: Option<watch::Receiver<Option<Arc<Assignment>>>>,
}

/// What containers are started with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// The wrapper that puts them into their sandboxes.
    #[default]
    Dwell,
    /// Docker's default, with no network at all: for tests of the engine alone.
    WithoutNetwork,
}

impl Runtime {
    /// The name of the wrapper in Docker's configuration.
    pub const NAME: &str = "dwell";
}

/// The engine that speaks to a Docker daemon.
pub struct DockerEngine {
    config: Arc<DockerConfig>,
    client: Arc<Client>,
    /// Containers seen to be of this cluster: no other is touched. Grows by what was listed, made or
    /// inspected; a list replaces it.
    own: Mutex<HashMap<ContainerId, (Owner, Slot)>>,
    /// Containers of others with labels of ours, as far as that was told.
    foreign: Mutex<BTreeSet<String>>,
    paths: PathLooks,
    /// What a start needs on the disk is written whatever else hangs.
    lane: Lane,
    /// What is deleted takes as long as it takes, and is waited for by nobody.
    deletions: Lane,
    claims: Claims,
    /// A volume is not deleted while a copy becomes it: half of that would come after.
    volume_turns: VolumeTurns,
    /// Registries whose certificate the daemon did not trust when it pulled from there last.
    distrusted: Mutex<BTreeSet<String>>,
    /// Why the daemon cannot run instances, by what it said of itself last.
    unfit: Mutex<Option<&'static str>>,
    /// Whether it keeps dangerous system calls from containers, by what it said of itself last.
    filters_calls: Mutex<Option<bool>>,
    /// The limits that it can enforce, by what it said of itself last.
    enforced: Mutex<Option<Enforced>>,
    attachments: Attachments,
}

impl DockerEngine {
    /// An engine by its configuration. The daemon need not run yet.
    #[must_use]
    pub fn new(config: DockerConfig) -> Self {
        let client = Arc::new(Client::new(config.socket.clone()));
        Self {
            config: Arc::new(config),
            client,
            own: Mutex::default(),
            foreign: Mutex::default(),
            paths: PathLooks::default(),
            lane: Lane::new("containers"),
            deletions: Lane::new("roots"),
            claims: Claims::default(),
            volume_turns: VolumeTurns::default(),
            distrusted: Mutex::default(),
            unfit: Mutex::default(),
            filters_calls: Mutex::default(),
            enforced: Mutex::default(),
            attachments: Attachments::default(),
        }
    }

    /// The labels that all containers of the cluster have, as a filter.
    fn filters(&self) -> HashMap<String, Vec<String>> {
        [("label".to_owned(), vec![format!("{LABEL_CLUSTER}={}", self.config.cluster)])].into()
    }

    fn remember(&self, container: &Container) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.insert(container.id.clone(), own_of(container));
    }

    /// Whose a container is, after making sure that it is of this cluster.
    async fn owner(&self, id: &ContainerId) -> Result<Owner, EngineError> {
        Ok(self.place(id).await?.0)
    }

    /// The same, and in which of the instance's sandboxes it runs.
    async fn place(&self, id: &ContainerId) -> Result<(Owner, Slot), EngineError> {
        let known = self.own.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        match known {
            Some(own) => Ok(own),
            None => Ok(own_of(&self.inspect(id).await?)),
        }
    }
}

/// Whose a container is, and in which of the instance's sandboxes it runs.
fn own_of(container: &Container) -> (Owner, Slot) {
    ((container.instance.clone(), container.generation), container.slot)
}

#[async_trait]
impl Engine for DockerEngine {
    async fn info(&self) -> Result<EngineReport, EngineError> {
        info::info(self).await
    }

    async fn ping(&self) -> Result<(), EngineError> {
        let docker = self.client.docker().await?;
        let alive = limited(QUICK, docker.ping()).await;
        alive.map(drop).map_err(|error| meaning(error, "give a sign of life", ""))
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        look::list(self).await
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Container, EngineError> {
        look::inspect(self, id).await
    }

    async fn create_in(&self, slot: Slot, assigned: &Assigned) -> Result<ContainerId, EngineError> {
        create::create(self, slot, assigned).await
    }

    async fn make_ready(
        &self,
        id: &ContainerId,
        assigned: &Assigned,
        remains: &BTreeSet<ContainerId>,
    ) -> Result<(), EngineError> {
        life::make_ready(self, id, assigned, remains).await
    }

    async fn end_unlisted(&self, instance: &InstanceName) -> Result<(), EngineError> {
        life::end_unlisted(self, instance).await
    }

    async fn carry(
        &self,
        from: &ContainerId,
        into: &ContainerId,
        paths: &[String],
    ) -> Result<Carried, EngineError> {
        carry::carry(self, from, into, paths).await
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        life::start(self, id).await
    }

    async fn tell_runtime(&self, id: &ContainerId) -> Result<(), EngineError> {
        life::tell_runtime(self, id).await
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        life::stop(self, id, grace).await
    }

    async fn wait(&self, id: &ContainerId) -> Result<i32, EngineError> {
        life::wait(self, id).await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        life::remove(self, id).await
    }

    fn strangers(&self) -> BTreeSet<String> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn leftovers(&self) -> Result<BTreeSet<PathBuf>, EngineError> {
        self.find_leftovers().await
    }

    async fn sweep(&self) -> Result<(), EngineError> {
        self.remove_leftovers().await
    }

    async fn volumes(&self) -> Result<Vec<SeenVolume>, EngineError> {
        self.list_volumes().await
    }

    async fn volume_data(
        &self,
        instance: &InstanceName,
        name: &VolumeName,
    ) -> Result<PathBuf, EngineError> {
        self.data_of(instance, name).await
    }

    async fn begin_copy(&self, copy: &VolumeCopy) -> Result<CopyPlace, EngineError> {
        let _turn = self.volume_turns.take(&copy.instance, &copy.name).await;
        self.open_copy(copy).await
    }

    async fn adopt_copy(&self, copy: &VolumeCopy) -> Result<(), EngineError> {
        let _turn = self.volume_turns.take(&copy.instance, &copy.name).await;
        self.take_over(copy).await
    }

    async fn remove_volume(
        &self,
        instance: &InstanceName,
        name: &VolumeName,
    ) -> Result<(), EngineError> {
        let _turn = self.volume_turns.take(instance, name).await;
        self.delete_volume(instance, name).await
    }

    async fn foreign(&self, name: &str) -> Result<Foreign, EngineError> {
        Box::pin(foreign::look(self, name)).await
    }

    async fn stop_foreign(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        foreign::stop(self, id, grace).await
    }

    async fn keep_foreign(&self, id: &ContainerId, image: Option<&str>) -> Result<(), EngineError> {
        foreign::keep(self, id, image).await
    }

    async fn foreign_volume(&self, volume: &str) -> Result<PathBuf, EngineError> {
        foreign::volume(self, volume).await
    }

    async fn start_foreign(
        &self,
        id: &ContainerId,
        grace: Duration,
        restart: ForeignRestart,
    ) -> Result<(), EngineError> {
        foreign::start(self, id, grace, restart).await
    }

    async fn usage(&self, id: &ContainerId) -> Result<Usage, EngineError> {
        usage::usage(self, id).await
    }

    async fn update_limits(&self, id: &ContainerId, limits: Limits) -> Result<(), EngineError> {
        life::update_limits(self, id, limits).await
    }

    async fn pull(
        &self,
        image: &str,
        logins: &RegistryLogins,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), EngineError> {
        let docker = self.client.docker().await?;
        match self.config.registries.of(image, logins, &self.paths).await {
            Ok(credentials) => {
                let registry = credentials.registry().to_owned();
                let done = pull::pull(&docker, image, credentials, progress).await;
                let mut distrusted = self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
                pull::note_trust(&mut distrusted, registry, &done);
                done.map_err(|failed| failed.error)
            }
            Err(error) => pull::without_credentials(&docker, image, &error).await,
        }
    }

    async fn images(&self) -> Result<Vec<Image>, EngineError> {
        images::list(&self.client.docker().await?).await
    }

    async fn find_image(&self, reference: &str) -> Result<Option<ImageDigest>, EngineError> {
        images::find(&self.client.docker().await?, reference).await
    }

    async fn remove_image(&self, name: &str) -> Result<(), EngineError> {
        images::remove(&self.client.docker().await?, name).await
    }

    async fn spared_layers(&self, layers: &[ImageDigest]) -> Result<usize, EngineError> {
        load::spared_layers(&self.client.docker().await?, layers).await
    }

    async fn load_images(&self, archive: ArchiveStream) -> Result<(), EngineError> {
        load::load(&self.client.docker().await?, archive).await
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<Event, EngineError>>, EngineError> {
        look::events(self).await
    }

    async fn logs(
        &self,
        id: &ContainerId,
        options: &LogOptions,
    ) -> Result<OutputStream, EngineError> {
        logs::logs(self, id, options).await
    }

    async fn previous_output(
        &self,
        instance: &InstanceName,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        previous::output(self, instance).await
    }

    async fn exec(
        &self,
        id: &ContainerId,
        request: &ExecRequest,
    ) -> Result<ExecSession, EngineError> {
        self.owner(id).await?;
        exec::start(&self.client, id, request).await
    }

    async fn attach(&self, id: &ContainerId) -> Result<ExecSession, EngineError> {
        attach::attach(self, id).await
    }
}
