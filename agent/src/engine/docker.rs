//! The engine that speaks to a Docker daemon, 20.10 (API 1.41) to current.
//!
//! Containers are made with `Runtime::Dwell`, the wrapper of `dwell-oci`, which replaces the host's
//! network by the instance's sandbox. A daemon that does not know that runtime refuses the container,
//! and [`Engine::info`] reports it as not ready. What the wrapper needs to know is written by
//! [`Engine::start`], so that no caller can forget it.
//!
//! What it owns beside the containers: two small files for each in its data directory ([`files`]),
//! the mappings of `dwell-oci`, and Docker volumes named `dwell.INSTANCE.VOLUME`, which go only when the
//! controller says so. What an image declares as a volume gets one of these as well.

mod client;
mod exec;
mod files;
mod image;
mod leftover;
mod previous;
mod pull;
mod reply;
mod since;
mod spec;
mod sweep;
mod unfit;
mod unstarted;
mod volumes;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::query_parameters::{
    CreateContainerOptions, EventsOptions, ListContainersOptions, LogsOptions,
    RemoveContainerOptions, StopContainerOptions, WaitContainerOptions,
};
use dwell_core::id::{Generation, InstanceName, VolumeName};
use dwell_core::instance::Assigned;
use dwell_core::node::EngineInfo;
use dwell_core::session::{Assignment, SeenVolume};
use dwell_core::workload::{MountSource, Resources};
use dwell_oci::Mapping;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::watch;
use tracing::warn;

use self::client::{Client, NAME, QUICK, SLOW, limited, meaning, status};
use self::files::Claims;
use self::spec::{LABEL_CLUSTER, Surroundings};
use super::{
    Container, ContainerId, ContainerState, Engine, EngineError, EngineReport, Event, ExecRequest,
    ExecSession, LogOptions, Output, OutputStream, PullProgress,
};
use crate::paths::PathLooks;
use dwell_daemon::Causes;

/// How long a path that instances mount may take to answer.
const PATH_LIMIT: Duration = Duration::from_secs(5);
/// The events that are listened to; a health check by command would make three more each time.
const EVENTS: [&str; 9] =
    ["create", "start", "die", "oom", "destroy", "pause", "unpause", "rename", "update"];

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
    /// Paths of the node beneath which instances may mount.
    pub allow_binds: Vec<PathBuf>,
    /// What puts containers into their sandboxes.
    pub runtime: Runtime,
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
    own: Mutex<HashMap<ContainerId, (InstanceName, Generation)>>,
    /// Containers of others with labels of ours, as far as that was told.
    foreign: Mutex<BTreeSet<String>>,
    paths: PathLooks,
    claims: Claims,
    /// Why the daemon cannot run instances, by what it said of itself last.
    unfit: Mutex<Option<&'static str>>,
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
            claims: Claims::default(),
            unfit: Mutex::default(),
        }
    }

    /// The labels that all containers of the cluster have, as a filter.
    fn filters(&self) -> HashMap<String, Vec<String>> {
        [("label".to_owned(), vec![format!("{LABEL_CLUSTER}={}", self.config.cluster)])].into()
    }

    fn remember(&self, container: &Container) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.insert(container.id.clone(), (container.instance.clone(), container.generation));
    }

    /// Whose a container is, after making sure that it is of this cluster.
    async fn owner(&self, id: &ContainerId) -> Result<(InstanceName, Generation), EngineError> {
        let known = self.own.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Some(owner) = known {
            return Ok(owner);
        }
        let container = self.inspect(id).await?;
        Ok((container.instance, container.generation))
    }

    /// After a failure that has this for a possible reason: whether the runtime is missing.
    async fn unless_runtime_missing(&self, error: EngineError) -> EngineError {
        let failed = matches!(error, EngineError::Refused { .. } | EngineError::Other { .. });
        match (failed, self.info().await) {
            (true, Ok(report)) if !report.info.ready => self.runtime_missing(),
            _ => error,
        }
    }

    /// Ends what a killed daemon may have left of a container that it does not run.
    async fn end_leftover(&self, id: &ContainerId, instance: &InstanceName) {
        match leftover::end(id).await {
            Ok(false) => {}
            Ok(true) => {
                warn!(%instance, container = %id, "ended what a killed daemon had left running");
            }
            Err(error) => {
                warn!(%instance, container = %id, %error, "cannot end what a killed daemon may have left");
            }
        }
    }

    fn runtime_missing(&self) -> EngineError {
        EngineError::RuntimeMissing {
            engine: NAME,
            runtime: Runtime::NAME.to_owned(),
            fix: "run `dwell-agent install-runtime` on its host",
        }
    }

    /// Why the daemon, as it said of itself last, cannot run a container in its sandbox.
    fn unfit(&self) -> Option<EngineError> {
        let reason = (*self.unfit.lock().unwrap_or_else(PoisonError::into_inner))?;
        let reason = reason.to_owned();
        Some(EngineError::Other { engine: NAME, operation: "create a container", reason })
    }

    async fn image_missing(&self, image: &str) -> bool {
        let Ok(docker) = self.client.docker().await else { return false };
        let seen = limited(QUICK, docker.inspect_image(image)).await;
        seen.is_err_and(|error| status(&error) == Some(404))
    }

    /// What a container needs of the node: its bind mounts, resolved, and its files.
    async fn prepare(
        &self,
        assigned: &Assigned,
    ) -> Result<(HashMap<String, String>, PathBuf), EngineError> {
        let mut binds = HashMap::new();
        for mount in &assigned.template.mounts {
            let MountSource::Bind(path) = &mount.source else { continue };
            let (config, source) = (Arc::clone(&self.config), path.clone());
            let resolve = move || files::resolve_bind(&source, &config.allow_binds);
            let resolved = self.paths.look(Path::new(path), PATH_LIMIT, resolve).await;
            let resolved = resolved.map_err(|error| EngineError::Other {
                engine: NAME,
                operation: "mount a path of the node",
                reason: error.to_string(),
            })??;
            binds.insert(mount.target.clone(), resolved);
        }
        Ok((binds, self.write_files(assigned, assigned.generation).await?))
    }

    /// Writes the files of the container of a generation, if they are not there as they should be.
    async fn write_files(
        &self,
        assigned: &Assigned,
        generation: Generation,
    ) -> Result<PathBuf, EngineError> {
        let (config, assigned) = (Arc::clone(&self.config), assigned.clone());
        let written = tokio::task::spawn_blocking(move || {
            let names = config.names.as_ref().and_then(|names| names.borrow().clone());
            let zone = names.as_ref().map(|names| names.network.zone.as_str());
            let zone = zone.filter(|zone| !zone.is_empty());
            files::write(&config.data_dir, &assigned, generation, zone)
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

    /// Tells the wrapper the sandbox of a container.
    fn map(&self, id: &ContainerId, instance: &InstanceName) -> Result<(), EngineError> {
        let netns = dwell_network::sandbox_path(&self.config.run_dir, instance);
        let other =
            |reason| EngineError::Other { engine: NAME, operation: "start a container", reason };
        if !netns.exists() {
            return Err(other(format!("its sandbox {} is not there", netns.display())));
        }
        Mapping { instance: instance.to_string(), netns }
            .write(&self.config.run_dir, id.as_str())
            .map_err(|error| other(Causes(&error).to_string()))
    }
}

#[async_trait]
impl Engine for DockerEngine {
    async fn info(&self) -> Result<EngineReport, EngineError> {
        const OPERATION: &str = "describe itself";
        let docker = self.client.negotiate().await?;
        let seen = limited(QUICK, docker.info()).await;
        let seen = seen.map_err(|error| meaning(error, OPERATION, ""))?;
        let runtimes = seen.runtimes.unwrap_or_default();
        let knows =
            self.config.runtime == Runtime::WithoutNetwork || runtimes.contains_key(Runtime::NAME);
        let unfit = unfit::reason(seen.security_options.as_deref().unwrap_or_default());
        *self.unfit.lock().unwrap_or_else(PoisonError::into_inner) = unfit;
        let message = match unfit {
            Some(why) => format!("{NAME} cannot run instances: {why}"),
            None if knows => String::new(),
            None => self.runtime_missing().to_string(),
        };
        Ok(EngineReport {
            info: EngineInfo {
                version: seen.server_version.unwrap_or_default(),
                api_version: docker.client_version().to_string(),
                ready: message.is_empty(),
                message,
            },
            unfit,
            data_root: seen.docker_root_dir.map(PathBuf::from),
        })
    }

    async fn ping(&self) -> Result<(), EngineError> {
        let docker = self.client.docker().await?;
        let alive = limited(QUICK, docker.ping()).await;
        alive.map(drop).map_err(|error| meaning(error, "give a sign of life", ""))
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        const OPERATION: &str = "list containers";
        let docker = self.client.docker().await?;
        let options = ListContainersOptions {
            all: true,
            filters: Some(self.filters()),
            ..ListContainersOptions::default()
        };
        let known: BTreeSet<ContainerId> =
            self.own.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let entries = limited(QUICK, docker.list_containers(Some(options))).await;
        let entries = entries.map_err(|error| meaning(error, OPERATION, ""))?;
        let mut containers = Vec::new();
        let mut foreign = BTreeSet::new();
        for entry in entries {
            let id = entry.id.clone().unwrap_or_default();
            match reply::listed(entry) {
                Ok(container) => containers.push(container),
                Err(reason) => {
                    let known = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
                    if !known.contains(&id) {
                        warn!(
                            container = id,
                            reason, "somebody else's container has the cluster's label; left alone"
                        );
                    }
                    foreign.insert(id);
                }
            }
        }
        *self.foreign.lock().unwrap_or_else(PoisonError::into_inner) = foreign;
        let owners = containers
            .iter()
            .map(|seen| (seen.id.clone(), (seen.instance.clone(), seen.generation)));
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        // What was made since the question was asked need not be in the answer.
        own.retain(|id, _| !known.contains(id));
        own.extend(owners);
        drop(own);
        Ok(containers)
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Container, EngineError> {
        const OPERATION: &str = "inspect a container";
        let docker = self.client.docker().await?;
        let seen = limited(QUICK, docker.inspect_container(id.as_str(), None)).await;
        let seen = seen.map_err(|error| meaning(error, OPERATION, id)).inspect_err(|error| {
            if matches!(error, EngineError::NotFound { .. }) {
                self.forget(id);
            }
        })?;
        let labels = seen.config.as_ref().and_then(|config| config.labels.as_ref());
        if labels.and_then(|labels| labels.get(LABEL_CLUSTER)) != Some(&self.config.cluster) {
            return Err(EngineError::NotFound { id: id.to_string() });
        }
        if labels.is_none_or(|labels| !reply::is_ours(labels)) {
            return Err(EngineError::NotFound { id: id.to_string() });
        }
        let container = reply::inspected(seen).map_err(|reason| malformed(OPERATION, reason))?;
        self.remember(&container);
        Ok(container)
    }

    async fn create(&self, assigned: &Assigned) -> Result<ContainerId, EngineError> {
        if let Some(error) = self.unfit() {
            return Err(error);
        }
        let docker = self.client.docker().await?;
        let owner = (assigned.instance.clone(), assigned.generation);
        let _claim = self.claims.take(owner.clone()).ok_or_else(|| EngineError::Other {
            engine: NAME,
            operation: "create a container",
            reason: "files of an earlier one are being removed; trying again".to_owned(),
        })?;
        let image = image::find(&docker, &assigned.image()).await?;
        let (binds, files) = self.prepare(assigned).await?;
        let body = spec::body(
            assigned,
            &Surroundings {
                cluster: &self.config.cluster,
                runtime: self.config.runtime,
                files: &files,
                binds: &binds,
                image: &image.reference,
                image_volumes: &image.volumes,
            },
        );
        let name = spec::container_name(&assigned.instance, assigned.generation);
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..CreateContainerOptions::default()
        };
        match limited(SLOW, docker.create_container(Some(options), body)).await {
            Ok(made) => {
                let id = ContainerId(made.id);
                let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
                own.insert(id.clone(), owner);
                Ok(id)
            }
            // It has the files that were written just now.
            Err(error) if status(&error) == Some(409) => Err(EngineError::AlreadyExists { name }),
            Err(error) => {
                // Without a reply it may have been made all the same, and need its files.
                if status(&error).is_some()
                    && let Err(error) = files::remove(
                        &self.config.data_dir,
                        &assigned.instance,
                        assigned.generation,
                    )
                {
                    warn!(instance = %assigned.instance, %error, "cannot remove the files of a container");
                }
                Err(match status(&error) {
                    Some(404) if self.image_missing(&image.reference).await => {
                        EngineError::ImageMissing { image: image.reference }
                    }
                    // Of a thing that the container was to have: there is no container yet that could be missing.
                    Some(404) => EngineError::Other {
                        engine: NAME,
                        operation: "create a container",
                        reason: client::reason(&error),
                    },
                    _ => {
                        let error = meaning(error, "create a container", &name);
                        self.unless_runtime_missing(error).await
                    }
                })
            }
        }
    }

    async fn make_ready(
        &self,
        id: &ContainerId,
        assigned: &Assigned,
        remains: &BTreeSet<ContainerId>,
    ) -> Result<(), EngineError> {
        let (_, generation) = self.owner(id).await?;
        self.write_files(assigned, generation).await?;
        let other = |reason| EngineError::Other {
            engine: NAME,
            operation: "make sure that nothing of the instance is left running",
            reason,
        };
        let left = leftover::of(remains).await.map_err(|error| other(error.to_string()))?;
        for one in &left {
            let runs = match self.inspect(one).await {
                Ok(found) => found.state == ContainerState::Running,
                Err(EngineError::NotFound { .. }) => false,
                Err(error) => return Err(error),
            };
            if runs {
                return Err(other(format!("container {one} runs")));
            }
            warn!(instance = %assigned.instance, container = %one, "ending what is left of a container that does not run");
        }
        if left.is_empty()
            || leftover::end_all(&left).await.map_err(|error| other(error.to_string()))?
        {
            Ok(())
        } else {
            Err(other("a process of it does not end".to_owned()))
        }
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let docker = self.client.docker().await?;
        let (instance, _) = self.owner(id).await?;
        if self.config.runtime == Runtime::Dwell {
            self.map(id, &instance)?;
        }
        match limited(SLOW, docker.start_container(id.as_str(), None)).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let answered = status(&error).is_some();
                let error = meaning(error, "start a container", id);
                let rests = |found: Container| found.state != ContainerState::Running;
                if answered && self.inspect(id).await.is_ok_and(rests) {
                    self.end_leftover(id, &instance).await;
                }
                Err(self.unless_runtime_missing(error).await)
            }
        }
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        self.owner(id).await?;
        let limit = grace.saturating_add(SLOW);
        let docker = self.client.docker().await?.with_timeout(limit);
        let options = StopContainerOptions {
            t: Some(i32::try_from(spec::seconds(grace)).unwrap_or(i32::MAX)),
            signal: None,
        };
        limited(limit, docker.stop_container(id.as_str(), Some(options)))
            .await
            .map_err(|error| meaning(error, "stop a container", id))
    }

    async fn wait(&self, id: &ContainerId) -> Result<i32, EngineError> {
        self.owner(id).await?;
        let docker = self.client.docker().await?;
        let options = WaitContainerOptions { condition: "not-running".to_owned() };
        let code = match docker.wait_container(id.as_str(), Some(options)).next().await {
            Some(Ok(ended)) => ended.status_code,
            // How bollard says that the exit code was not 0.
            Some(Err(Error::DockerContainerWaitError { code, .. })) => code,
            Some(Err(error)) => return Err(meaning(error, "wait for a container", id)),
            None => return Err(malformed("wait for a container", "it ended without an exit code")),
        };
        i32::try_from(code).map_err(|_| malformed("wait for a container", "a strange exit code"))
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        let (instance, generation) = match self.owner(id).await {
            Err(EngineError::NotFound { .. }) => return Ok(()),
            owner => owner?,
        };
        self.keep_output(id, &instance, generation).await;
        let docker = self.client.docker().await?;
        // `v` takes along the volumes that the image declares and nobody named; never a named one.
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        let removed = limited(SLOW, docker.remove_container(id.as_str(), Some(options))).await;
        match removed.map_err(|error| meaning(error, "remove a container", id)) {
            Ok(()) | Err(EngineError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        self.end_leftover(id, &instance).await;
        self.forget(id);
        Ok(())
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

    async fn remove_volume(
        &self,
        instance: &InstanceName,
        name: &VolumeName,
    ) -> Result<(), EngineError> {
        self.delete_volume(instance, name).await
    }

    async fn update_limits(&self, id: &ContainerId, limits: Resources) -> Result<(), EngineError> {
        self.owner(id).await?;
        let docker = self.client.docker().await?;
        limited(QUICK, docker.update_container(id.as_str(), spec::update(limits)))
            .await
            .map_err(|error| meaning(error, "change the limits of a container", id))
    }

    async fn pull(
        &self,
        image: &str,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), EngineError> {
        let docker = self.client.docker().await?;
        pull::pull(&docker, image, progress).await
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<Event, EngineError>>, EngineError> {
        let docker = self.client.negotiate().await?;
        // Docker begins to listen a little after it was asked: the last second is told again.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = now.as_secs().saturating_sub(1);
        let mut filters = self.filters();
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        filters.insert("event".to_owned(), EVENTS.map(str::to_owned).into());
        let options =
            EventsOptions { since: Some(since.to_string()), until: None, filters: Some(filters) };
        let events = docker.events(Some(options)).filter_map(|message| async {
            message.map(reply::event).map_err(|error| meaning(error, "tell events", "")).transpose()
        });
        Ok(events.boxed())
    }

    async fn logs(
        &self,
        id: &ContainerId,
        options: &LogOptions,
    ) -> Result<OutputStream, EngineError> {
        // Also finds out whether it is still there, which the stream would tell late.
        self.inspect(id).await?;
        let docker = self.client.docker().await?;
        let (since, timestamps) = (options.since, options.timestamps);
        let options = LogsOptions {
            follow: options.follow,
            stdout: true,
            stderr: true,
            since: since.map_or(0, since::asked),
            until: 0,
            timestamps: timestamps || since.is_some(),
            tail: options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
        };
        let id = id.clone();
        let output = docker.logs(id.as_str(), Some(options)).map(move |piece| match piece {
            Ok(LogOutput::StdErr { message }) => Ok(Output::Stderr(message)),
            Ok(
                LogOutput::StdOut { message }
                | LogOutput::StdIn { message }
                | LogOutput::Console { message },
            ) => Ok(Output::Stdout(message)),
            Err(error) => Err(meaning(error, "read what a container wrote", &id)),
        });
        let Some(since) = since else { return Ok(output.boxed()) };
        let later = move |output| {
            let kept = match output {
                Ok(output) => since::later(output, since, timestamps).map(Ok),
                Err(error) => Some(Err(error)),
            };
            std::future::ready(kept)
        };
        Ok(output.filter_map(later).boxed())
    }

    async fn previous_output(
        &self,
        instance: &InstanceName,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let (data, instance) = (self.config.data_dir.clone(), instance.clone());
        let read = tokio::task::spawn_blocking(move || previous::read(&data, &instance)).await;
        read.map_err(|error| error.to_string())
            .and_then(|read| read.map_err(|error| error.to_string()))
            .map_err(|reason| EngineError::Other {
                engine: NAME,
                operation: "read what was kept of an earlier container",
                reason,
            })
    }

    async fn exec(
        &self,
        id: &ContainerId,
        request: &ExecRequest,
    ) -> Result<ExecSession, EngineError> {
        self.owner(id).await?;
        exec::start(&self.client, id, request).await
    }
}

fn malformed(operation: &'static str, what: &str) -> EngineError {
    EngineError::Other { engine: NAME, operation, reason: format!("malformed reply: {what}") }
}
