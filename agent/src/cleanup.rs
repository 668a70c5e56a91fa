//! Takes everything of dwell off a host that the agent has put there, so that the host is as it was.
//!
//! Order: containers, then sandboxes, routes and rules, then the agent's own files; what fails is told
//! and does not keep the rest from being done. Volumes and the identity stay unless asked for: they are the
//! two things that cannot be made again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;

use crate::assignment::cache;
use crate::config::Config;
use crate::daemon;
use crate::directory;
use crate::identity::{Identity, IdentityError};
use crate::images::Ledger;
use crate::lock::{DataDirLock, LockError};
use crate::reconciler::Journals;
use crate::shutdown::Graces;
use dwell_core::id::InstanceName;
use dwell_core::sandbox::SandboxId;
use dwell_daemon::Causes;
use dwell_daemon::config::ConfigError;
use dwell_docker::DockerEngine;
use dwell_docker::credentials::Registries;
use dwell_engine::{Container, ContainerState, Engine, EngineError};
use dwell_network::linux::{LinuxConfig, LinuxNetwork, gateway};
use dwell_network::{GATEWAY, Network, NetworkError, sandbox_directory};
use dwell_oci::{Mapping, MappingError};

/// How many containers are stopped and removed side by side.
const CALLS_MAX: usize = 8;
/// How many instances a message names.
const NAMED_MAX: usize = 10;

/// What is to go beside the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The instances' volumes, with everything in them.
    pub volumes: bool,
    /// The identity: the host has to join again.
    pub identity: bool,
}

/// What was taken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many containers.
    pub containers: usize,
    /// How many volumes.
    pub volumes: usize,
}

/// What of instances is on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Those that have a container, running or not, or a sandbox; if containers could not be asked for, also those that the
    /// agent has written down.
    pub instances: BTreeSet<InstanceName>,
    /// Why containers could not be asked for, for people.
    pub unasked: Option<String>,
}

/// What could not be taken off.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The agent runs, or the data directory cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Nobody can tell which containers are this cluster's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The engine does not answer or refuses.
    #[error("cannot remove the containers of this node; start Docker and try again")]
    Engine(#[from] EngineError),
    /// Something runs here that was let go, and would lose its network.
    #[error(
        "{0} was let go, and its container is still here; remove that with Docker, or have the instance taken back (`dwell adopt {0}`) \
         and moved away, then try again"
    )]
    LetGo(InstanceName),
    /// The container would stay stopped, and nobody would start it again.
    #[error(
        "{0} has not held yet in the place of a container that dwell did not make; wait until it has, or have the container put back \
         (`dwell rm` of its workload), then try again"
    )]
    HalfAdopted(InstanceName),
    /// The kernel refuses.
    #[error("cannot remove sandboxes, routes and rules")]
    Network(#[from] NetworkError),
    /// The kernel refuses to take the address of the DNS server away.
    #[error("cannot remove {GATEWAY} from lo; remove it with `ip address del {GATEWAY}/32 dev lo`")]
    Address(#[source] io::Error),
    /// What the wrapper was told cannot be removed.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// A file cannot be removed.
    #[error("cannot read or remove {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Looks for what [`run`] would take from instances. The agent may be running.
///
/// # Errors
/// If the directory of the sandboxes or that of the journals cannot be read.
pub async fn look(config: &Config) -> Result<Presence, CleanupError> {
    let mut found = Presence { instances: sandboxes(&config.run_dir)?, unasked: None };
    match Identity::load(&config.data_dir) {
        Ok(_) if config.routes_only => {}
        Ok(identity) => {
            let engine = daemon::docker(config, &identity, Registries::default(), None);
            found.ask(&engine).await;
        }
        // A host that never joined has no containers of dwell's.
        Err(IdentityError::Missing { .. }) => {}
        Err(error) => found.unasked = Some(Causes(&error).to_string()),
    }
    if found.unasked.is_some() {
        found.instances.extend(written_down(&config.data_dir)?);
    }
    Ok(found)
}

/// The configuration to [`look`] with, and what is wrong with the one there is: a host whose configuration is not valid
/// can be looked over, with the default one.
#[must_use]
pub fn config_to_look_with(loaded: Result<Config, ConfigError>) -> (Config, Option<String>) {
    match loaded {
        Ok(config) => (config, None),
        Err(error) => {
            let why = format!("looking with the default configuration: {}", Causes(&error));
            (Config::default(), Some(why))
        }
    }
}

fn written_down(data_dir: &Path) -> Result<BTreeSet<InstanceName>, CleanupError> {
    let path = data_dir.join("journals");
    let journals = Journals::new(path.clone()).names();
    let mut known = journals.map_err(|source| CleanupError::File { path, source })?;
    known.extend(cache::peek(data_dir).into_iter().flat_map(|found| found.instances.into_keys()));
    Ok(known)
}

impl Presence {
    /// What it comes to, for people.
    ///
    /// # Errors
    /// There are instances, or it looks as if there were: which, and what to do.
    pub fn verdict(&self) -> Result<String, String> {
        if self.instances.is_empty() {
            return Ok(match &self.unasked {
                None => "No instances are on this host.".to_owned(),
                Some(why) => format!(
                    "Docker was not asked for containers ({why}); nothing else shows an instance on this host."
                ),
            });
        }
        let names: Vec<String> =
            self.instances.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        let more = self.instances.len() - names.len();
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let names = names.join(", ");
        Err(match &self.unasked {
            None => format!(
                "instances are on this host: {names}{more}. Move them away (`dwell node drain`) or remove them \
                 (`systemctl stop dwell-agent && dwell-agent cleanup --yes`), then try again"
            ),
            Some(why) => format!(
                "Docker was not asked for containers ({why}), and by what the agent has written down instances are on \
                 this host: {names}{more}. Put that right and try again; if Docker is gone for good, stop dwell-agent and \
                 delete assignment.json and journals in the agent's data directory"
            ),
        })
    }

    async fn ask(&mut self, engine: &dyn Engine) {
        match engine.list().await {
            Ok(containers) => {
                self.instances.extend(containers.into_iter().map(|one| one.instance));
            }
            Err(error) => self.unasked = Some(Causes(&error).to_string()),
        }
    }
}

fn sandboxes(run_dir: &Path) -> Result<BTreeSet<InstanceName>, CleanupError> {
    let path = sandbox_directory(run_dir);
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries = entries.map_err(|source| CleanupError::File { path, source })?;
    // Others than instances are not named so.
    let sandbox = |one: &fs::DirEntry| one.file_name().to_str()?.parse::<SandboxId>().ok();
    Ok(entries.iter().filter_map(sandbox).map(|sandbox| sandbox.instance).collect())
}

/// Takes dwell off this host. The agent must not be running.
///
/// # Errors
/// Everything that could not be done; the rest was.
pub async fn run(config: &Config, extent: Extent) -> Result<Removed, Vec<CleanupError>> {
    let _lock = DataDirLock::take(&config.data_dir).map_err(|error| vec![error.into()])?;
    let mut failures = Vec::new();
    let mut removed = Removed::default();
    match Identity::load(&config.data_dir) {
        Ok(_) if config.routes_only => {}
        Ok(identity) => {
            let engine = daemon::docker(config, &identity, Registries::default(), None);
            let let_go = let_go(&engine, &config.data_dir).await;
            if let Some(instance) = let_go.map_err(|error| vec![error])? {
                return Err(vec![CleanupError::LetGo(instance)]);
            }
            let half_adopted = half_adopted(&config.data_dir).map_err(|error| vec![error])?;
            if let Some(instance) = half_adopted {
                return Err(vec![CleanupError::HalfAdopted(instance)]);
            }
            match Graces::read(&config.data_dir) {
                Ok(graces) => match clear_engine(&engine, &graces, extent).await {
                    Ok(all) => removed = all,
                    Err(error) => failures.push(error.into()),
                },
                Err(source) => {
                    let path = config.data_dir.join("journals");
                    failures.push(CleanupError::File { path, source });
                }
            }
        }
        // A host that never joined, or was cleaned up before, has no containers of dwell's.
        Err(IdentityError::Missing { .. }) => {}
        Err(error) => failures.push(error.into()),
    }
    let network = LinuxNetwork::new(&LinuxConfig::new(config.run_dir.clone()));
    let cleared = match network {
        Ok(network) => network.cleanup().await,
        Err(error) => Err(error),
    };
    failures.extend(cleared.err().map(Into::into));
    failures.extend(gateway::remove().await.err().map(CleanupError::Address));
    // As long as containers are there, their journals say what has become of them, and the identity
    // whose they are.
    if failures.is_empty() {
        failures.extend(clear_files(config, extent).err());
    }
    if failures.is_empty() { Ok(removed) } else { Err(failures) }
}

/// An instance that was let go and still has a container.
async fn let_go(
    engine: &dyn Engine,
    data_dir: &Path,
) -> Result<Option<InstanceName>, CleanupError> {
    let path = data_dir.join("journals");
    let journals = Journals::new(path.clone()).read_all();
    let journals = journals.map_err(|source| CleanupError::File { path, source })?;
    let is_let_go =
        |name: &InstanceName| journals.get(name).is_some_and(|journal| journal.let_go.is_some());
    if !journals.keys().any(is_let_go) {
        return Ok(None);
    }
    let mut names = engine.list().await?.into_iter().map(|container| container.instance);
    Ok(names.find(is_let_go))
}

/// An instance that is being put in the place of a container that dwell did not make.
fn half_adopted(data_dir: &Path) -> Result<Option<InstanceName>, CleanupError> {
    let path = data_dir.join("journals");
    let journals = Journals::new(path.clone()).read_all();
    let journals = journals.map_err(|source| CleanupError::File { path, source })?;
    let mut open = journals.into_iter().filter(|(_, journal)| {
        journal.taken_over.as_ref().is_some_and(dwell_planner::TakenOver::is_open)
    });
    Ok(open.next().map(|(name, _)| name))
}

async fn clear_engine(
    engine: &DockerEngine,
    graces: &Graces,
    extent: Extent,
) -> Result<Removed, EngineError> {
    let containers = engine.list().await?;
    let count = containers.len();
    let mut clearing = futures_util::stream::iter(containers)
        .map(|container| clear_container(engine, graces, container))
        .buffer_unordered(CALLS_MAX);
    let mut first_failure = Ok(());
    while let Some(cleared) = clearing.next().await {
        first_failure = first_failure.and(cleared);
    }
    first_failure?;
    let volumes = if extent.volumes { engine.remove_volumes().await? } else { 0 };
    Ok(Removed { containers: count, volumes })
}

async fn clear_container(
    engine: &DockerEngine,
    graces: &Graces,
    container: Container,
) -> Result<(), EngineError> {
    if container.state == ContainerState::Running {
        graces.stop(engine, &container).await?;
    }
    engine.remove(&container.id).await
}

fn clear_files(config: &Config, extent: Extent) -> Result<(), CleanupError> {
    let failed = |path: PathBuf| |source| CleanupError::File { path, source };
    cache::remove(&config.data_dir).map_err(failed(cache::path(&config.data_dir)))?;
    directory::remove(&config.data_dir).map_err(failed(directory::path(&config.data_dir)))?;
    for folder in [
        config.data_dir.join("journals"),
        config.data_dir.join("instances"),
        config.data_dir.join("previous"),
        config.run_dir.join("ssh"),
    ] {
        remove_folder(&folder).map_err(failed(folder))?;
    }
    Mapping::remove_all(&config.run_dir)?;
    dwell_oci::cgroups::sweep();
    if extent.identity {
        Identity::remove(&config.data_dir)?;
        // The images stay, as somebody else's.
        Ledger::remove(&config.data_dir).map_err(failed(Ledger::path(&config.data_dir)))?;
    }
    Ok(())
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use dwell_core::session::{Assignment, NodeNetwork};
    use dwell_core::workload::Template;
    use dwell_engine::fake::control::TokioClock;
    use dwell_engine::fake::{self, FakeEngine};

    use super::*;

    #[tokio::test]
    async fn an_instance_is_there_with_a_sandbox_or_with_a_container_that_has_ended() {
        let host = tempfile::tempdir().unwrap();
        let run_dir = host.path().join("elsewhere");
        let config = Config { data_dir: host.path().join("data"), run_dir, ..Config::default() };
        assert_eq!(look(&config).await.unwrap(), Presence::default());
        let netns = sandbox_directory(&config.run_dir);
        fs::create_dir_all(&netns).unwrap();
        fs::write(netns.join("db-0.b"), "").unwrap();
        let mut found = look(&config).await.unwrap();
        let engine = FakeEngine::new(std::sync::Arc::new(TokioClock::new()));
        let stopped = fake::assigned("web-0", 1, Template::of_image("image"));
        engine.create(&stopped).await.unwrap();
        found.ask(&engine).await;
        let names: Vec<_> = found.instances.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["db-0", "web-0"]);
        assert_eq!(found.unasked, None);
    }

    #[tokio::test]
    async fn what_was_let_go_is_not_taken_off_while_its_container_is_there() {
        let host = tempfile::tempdir().unwrap();
        let engine = FakeEngine::new(std::sync::Arc::new(TokioClock::new()));
        let web = fake::assigned("web-0", 1, Template::of_image("image"));
        let id = engine.create(&web).await.unwrap();
        assert_eq!(let_go(&engine, host.path()).await.unwrap(), None);
        let journals = Journals::new(host.path().join("journals"));
        let generation = Some(dwell_core::id::Generation(2));
        let journal = dwell_planner::Journal { let_go: generation, ..Default::default() };
        journals.write(&web.instance, &journal).await.unwrap();
        assert_eq!(let_go(&engine, host.path()).await.unwrap(), Some(web.instance.clone()));
        engine.remove(&id).await.unwrap();
        assert_eq!(let_go(&engine, host.path()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_written_down_counts_where_docker_was_not_asked() {
        let host = tempfile::tempdir().unwrap();
        let (data_dir, run_dir) = (host.path().join("data"), host.path().join("run"));
        let config = Config { data_dir, run_dir, ..Config::default() };
        fs::create_dir(&config.data_dir).unwrap();
        assert_eq!(
            look(&config).await.unwrap().verdict().unwrap(),
            "No instances are on this host."
        );
        // A damaged identity is no reason to fail: it is why Docker was not asked.
        fs::write(Identity::path(&config.data_dir), "{").unwrap();
        let empty = look(&config).await.unwrap();
        assert!(empty.unasked.as_ref().unwrap().contains("is damaged"));
        let verdict = empty.verdict().unwrap();
        assert!(verdict.contains("not asked") && !verdict.contains("No instances"), "{verdict}");
        let journals = config.data_dir.join("journals");
        fs::create_dir(&journals).unwrap();
        fs::write(journals.join("db-0.json"), "{}").unwrap();
        let network = NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap());
        let web = fake::assigned("web-0", 1, Template::of_image("image"));
        let instances = [(web.instance.clone(), web)].into();
        cache::store(&config.data_dir, &Assignment { instances, ..Assignment::empty(network) })
            .unwrap();
        let problem = look(&config).await.unwrap().verdict().unwrap_err();
        assert!(problem.contains("db-0, web-0."), "{problem}");
    }

    #[tokio::test]
    async fn an_engine_that_does_not_answer_was_not_asked() {
        let engine = FakeEngine::new(std::sync::Arc::new(TokioClock::new()));
        engine.down();
        let mut found = Presence::default();
        found.ask(&engine).await;
        assert!(found.verdict().unwrap().starts_with("Docker was not asked"));
    }

    #[test]
    fn a_host_with_an_invalid_configuration_can_be_looked_over() {
        let host = tempfile::tempdir().unwrap();
        let file = host.path().join("agent.yaml");
        fs::write(&file, "nonsense: [").unwrap();
        let (config, warning) = config_to_look_with(Config::load(Some(&file)));
        assert_eq!(config.data_dir, Config::default().data_dir);
        assert!(warning.unwrap().starts_with("looking with the default configuration: "));
    }

    #[test]
    fn nothing_of_the_containers_is_left_in_the_run_directory() {
        let host = tempfile::tempdir().unwrap();
        let config = Config {
            data_dir: host.path().join("data"),
            run_dir: host.path().join("run"),
            ..Config::default()
        };
        let mapping = Mapping {
            root: None,
            sysctls: std::collections::BTreeMap::new(),
            systemd: false,
            instance: "web-0".to_owned(),
            netns: "/run/netns/web-0".into(),
            binds: Vec::new(),
            copies: Vec::new(),
        };
        mapping.write(&config.run_dir, "c1").unwrap();
        Mapping::record_bundle(&config.run_dir, "c1", Path::new("/run/bundles/c1")).unwrap();
        fs::create_dir(config.run_dir.join(dwell_oci::mapping::BINDS)).unwrap();
        fs::create_dir_all(config.data_dir.join("instances/web-0/g1")).unwrap();
        clear_files(&config, Extent::default()).unwrap();
        assert_eq!(fs::read_dir(&config.run_dir).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&config.data_dir).unwrap().count(), 0);
    }
}
