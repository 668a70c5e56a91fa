//! Containers that dwell did not make, and that an operator has named: looked at, stopped, their files kept, and started again.
//!
//! These are the only calls that touch what does not bear the cluster's label. None touches what bears any label of dwell's.
//!
//! ```text
//!   runs ── stop: its restart policy is taken, then it is stopped ──▶ rests ── commit ──▶ rests, and its files are an image
//!    ▲                                                                 │
//!    └────────── start: it is started, then its policy is back ────────┘
//! ```
//!
//! The policy tells how far that is: one that has its own is as it was.

mod translate;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{
    ContainerConfig, ContainerInspectResponse, ContainerUpdateBody, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CommitContainerOptions, InspectContainerOptions, ListContainersOptions,
};
use dwell_core::foreign::{Foreign, ForeignRestart};
use dwell_engine::{ContainerId, EngineError};

use self::translate::{Facts, is_of_compose, own_files, restart, translate};
use super::client::{NAME, QUICK, SLOW, limited, meaning, status};
use super::{DockerEngine, life};

/// How long it may take to find what is different in a container's file system.
const LOOK: Duration = Duration::from_secs(60);
/// How long it may take to make an image of a container's own files.
const COMMIT: Duration = Duration::from_secs(30 * 60);
const OPERATION: &str = "adopt a container";
/// What all labels of dwell's begin with.
const OURS: &str = "dwell.";

fn refused(reason: impl Into<String>) -> EngineError {
    EngineError::Refused { engine: NAME, operation: OPERATION, reason: reason.into() }
}

fn other(reason: impl Into<String>) -> EngineError {
    EngineError::Other { engine: NAME, operation: OPERATION, reason: reason.into() }
}

fn runs(seen: &ContainerInspectResponse) -> bool {
    let state = seen.state.as_ref();
    state.is_some_and(|state| {
        state.running == Some(true) || state.restarting == Some(true) || state.paused == Some(true)
    })
}

/// A container of somebody else's, whether it runs or not.
async fn seen(
    docker: &Docker,
    name: &str,
    with_size: bool,
) -> Result<ContainerInspectResponse, EngineError> {
    let options = InspectContainerOptions { size: with_size };
    let limit = if with_size { LOOK } else { QUICK };
    let seen = limited(limit, docker.inspect_container(name, Some(options))).await;
    let seen = seen.map_err(|error| meaning(error, OPERATION, name))?;
    let labels = seen.config.as_ref().and_then(|config| config.labels.as_ref());
    if let Some(label) =
        labels.into_iter().flatten().map(|(key, _)| key).find(|key| key.starts_with(OURS))
    {
        return Err(refused(format!(
            "container {name} bears the label {label} and is dwell's own; an instance that was let go is taken back with \
             `dwell adopt INSTANCE`"
        )));
    }
    Ok(seen)
}

pub(super) async fn look(engine: &DockerEngine, name: &str) -> Result<Foreign, EngineError> {
    let docker = engine.client.docker().await?;
    let first = seen(&docker, name, false).await?;
    let state = first.state.as_ref();
    if !runs(&first) {
        return Err(EngineError::NotRunning { id: name.to_owned() });
    }
    if state.is_some_and(|state| state.paused == Some(true)) {
        return Err(refused(format!("container {name} is paused; `docker unpause` it first")));
    }
    if state.is_some_and(|state| state.restarting == Some(true)) {
        return Err(refused(format!(
            "the main process of container {name} keeps ending; `docker logs` says why"
        )));
    }
    let id = first.id.clone().unwrap_or_default();
    let seen = seen(&docker, &id, true).await?;
    let image = seen.image.clone().unwrap_or_default();
    let image = limited(QUICK, docker.inspect_image(&image)).await;
    let image = image.map_err(|error| match status(&error) {
        Some(404) => refused(format!("the image that container {name} was made from is gone")),
        _ => meaning(error, OPERATION, name),
    })?;
    let changed = changes(&docker, &id).await?;
    let mut facts = Facts {
        seen,
        image,
        changed,
        volumes: Vec::new(),
        sharers: BTreeMap::new(),
        refused: BTreeMap::new(),
    };
    for mount in facts.seen.mounts.clone().into_iter().flatten() {
        match (mount.typ.as_deref(), mount.name, mount.source) {
            (Some("volume"), Some(volume), _) => {
                let found = limited(QUICK, docker.inspect_volume(&volume)).await;
                match found {
                    Ok(found) => facts.volumes.push(found),
                    Err(error) if status(&error) == Some(404) => {}
                    Err(error) => return Err(meaning(error, OPERATION, &volume)),
                }
                let others = users(&docker, &volume, &id).await?;
                facts.sharers.insert(volume, others);
            }
            (Some("bind"), _, Some(path)) => {
                if let Err(error) = engine.resolve_bind(&path).await {
                    facts.refused.insert(path, error.to_string());
                }
            }
            _ => {}
        }
    }
    Ok(translate(&facts))
}

async fn changes(
    docker: &Docker,
    id: &str,
) -> Result<Vec<bollard::models::FilesystemChange>, EngineError> {
    let changed = limited(LOOK, docker.container_changes(id)).await;
    Ok(changed.map_err(|error| meaning(error, OPERATION, id))?.unwrap_or_default())
}

/// The names of the containers that mount a volume, but for one.
async fn users(docker: &Docker, volume: &str, but: &str) -> Result<Vec<String>, EngineError> {
    let filters: HashMap<String, Vec<String>> =
        [("volume".to_owned(), vec![volume.to_owned()])].into();
    let options = ListContainersOptions {
        all: true,
        filters: Some(filters),
        ..ListContainersOptions::default()
    };
    let listed = limited(QUICK, docker.list_containers(Some(options))).await;
    let listed = listed.map_err(|error| meaning(error, OPERATION, volume))?;
    let others = listed.into_iter().filter(|one| one.id.as_deref() != Some(but));
    let name = |names: Vec<String>| names.into_iter().next();
    let others = others.filter_map(|one| one.names.and_then(name).or(one.id));
    Ok(others.map(|name| name.trim_start_matches('/').to_owned()).collect())
}

/// Takes the restart policy first: a container that has one would be started again by a daemon that comes back.
pub(super) async fn stop(
    engine: &DockerEngine,
    id: &ContainerId,
    grace: Duration,
) -> Result<(), EngineError> {
    let docker = engine.client.docker().await?;
    let found = seen(&docker, id.as_str(), false).await?;
    if policy(&found) != ForeignRestart::No {
        set_policy(&docker, id, ForeignRestart::No).await?;
    }
    life::end(engine, id, grace, OPERATION).await
}

fn policy(seen: &ContainerInspectResponse) -> ForeignRestart {
    restart(seen.host_config.as_ref().and_then(|host| host.restart_policy.as_ref()))
}

async fn set_policy(
    docker: &Docker,
    id: &ContainerId,
    restart: ForeignRestart,
) -> Result<(), EngineError> {
    let (name, retries) = match restart {
        ForeignRestart::No => (RestartPolicyNameEnum::NO, None),
        ForeignRestart::Always => (RestartPolicyNameEnum::ALWAYS, None),
        ForeignRestart::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        ForeignRestart::OnFailure(most) => (RestartPolicyNameEnum::ON_FAILURE, most),
    };
    let update = ContainerUpdateBody {
        restart_policy: Some(RestartPolicy {
            name: Some(name),
            maximum_retry_count: retries.map(i64::from),
        }),
        ..ContainerUpdateBody::default()
    };
    limited(QUICK, docker.update_container(id.as_str(), update))
        .await
        .map_err(|error| meaning(error, OPERATION, id))
}

/// Makes an image of what a container has in its own file system. Without a name for it, makes sure that there is nothing to keep.
pub(super) async fn keep(
    engine: &DockerEngine,
    id: &ContainerId,
    image: Option<&str>,
) -> Result<(), EngineError> {
    let docker = engine.client.docker().await?;
    if let Some(image) = image
        && limited(QUICK, docker.inspect_image(image)).await.is_ok()
    {
        return Ok(());
    }
    let found = seen(&docker, id.as_str(), false).await?;
    if runs(&found) {
        return Err(other(format!("container {id} runs")));
    }
    let Some(image) = image else {
        let changed = changes(&docker, id.as_str()).await?;
        return match own_files(&found, &changed) {
            false => Ok(()),
            true => Err(refused(format!(
                "container {id} has written files of its own since it was looked at; adopt it again, so that they are kept"
            ))),
        };
    };
    let (repo, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    let options = CommitContainerOptions {
        container: Some(id.0.clone()),
        repo: Some(repo.to_owned()),
        tag: Some(tag.to_owned()),
        pause: false,
        ..CommitContainerOptions::default()
    };
    // A label cannot be taken away, but Compose looks for the name of a project.
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let composes = labels.into_keys().filter(|key| is_of_compose(key));
    let labels: HashMap<String, String> = composes.map(|key| (key, String::new())).collect();
    let config = ContainerConfig { labels: Some(labels), ..ContainerConfig::default() };
    let docker = docker.with_timeout(COMMIT);
    let made = limited(COMMIT, docker.commit_container(options, config)).await;
    made.map(drop).map_err(|error| meaning(error, OPERATION, id))
}

/// The directory of a volume that is not dwell's.
pub(super) async fn volume(engine: &DockerEngine, volume: &str) -> Result<PathBuf, EngineError> {
    let docker = engine.client.docker().await?;
    let found = limited(QUICK, docker.inspect_volume(volume)).await;
    let found = found.map_err(|error| meaning(error, OPERATION, volume))?;
    Ok(PathBuf::from(found.mountpoint))
}

/// One that runs without its restart policy may be about to end: it was told to. So it is stopped for good before it is started, and
/// gets its policy last.
pub(super) async fn start(
    engine: &DockerEngine,
    id: &ContainerId,
    grace: Duration,
    restart: ForeignRestart,
) -> Result<(), EngineError> {
    let docker = engine.client.docker().await?;
    let found = seen(&docker, id.as_str(), false).await?;
    if runs(&found) && restart != ForeignRestart::No && policy(&found) == restart {
        return Ok(());
    }
    life::end(engine, id, grace, OPERATION).await?;
    let started = limited(SLOW, docker.start_container(id.as_str(), None)).await;
    started.map_err(|error| meaning(error, OPERATION, id))?;
    if restart != ForeignRestart::No {
        set_policy(&docker, id, restart).await?;
    }
    Ok(())
}
