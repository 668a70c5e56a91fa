//! Starting, stopping and removing a container.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::{
    RemoveContainerOptions, StopContainerOptions, WaitContainerOptions,
};
use dwell_core::id::InstanceName;
use dwell_core::instance::Assigned;
use dwell_core::sandbox::{SandboxId, Slot};
use dwell_core::workload::Limits;
use dwell_daemon::Causes;
use dwell_engine::{Container, ContainerId, ContainerState, Engine as _, EngineError};
use dwell_oci::Mapping;
use futures_util::StreamExt;
use tracing::warn;

use super::binds::NodeMounts;
use super::client::{NAME, QUICK, SLOW, limited, malformed, meaning, status};
use super::{DockerEngine, Runtime, attach, leftover, look, spec};

pub(super) async fn make_ready(
    engine: &DockerEngine,
    id: &ContainerId,
    assigned: &Assigned,
    remains: &BTreeSet<ContainerId>,
) -> Result<(), EngineError> {
    let (_, generation) = engine.owner(id).await?;
    engine.write_files(assigned, generation).await?;
    let left = leftover::of(remains).await.map_err(|error| not_sure(error.to_string()))?;
    for one in &left {
        let runs = match engine.inspect(one).await {
            Ok(found) => found.state == ContainerState::Running,
            Err(EngineError::NotFound { .. }) => false,
            Err(error) => return Err(error),
        };
        if runs {
            return Err(not_sure(format!("container {one} runs")));
        }
        warn!(instance = %assigned.instance, container = %one, "ending what is left of a container that does not run");
    }
    end_all(&left).await
}

/// A daemon can lose sight of what runs: given another store, with live-restore, it shows the containers of that one alone.
/// A process of theirs is known by where it is: in the sandbox of its instance, and in a control group that has the name of
/// a container of which the daemon knows nothing.
pub(super) async fn end_unlisted(
    engine: &DockerEngine,
    instance: &InstanceName,
) -> Result<(), EngineError> {
    let mut inside = BTreeSet::new();
    for slot in Slot::ALL {
        let sandbox = SandboxId { instance: instance.clone(), slot };
        let sandbox = dwell_network::sandbox_path(&engine.config.run_dir, &sandbox);
        inside
            .extend(leftover::inside(&sandbox).await.map_err(|error| not_sure(error.to_string()))?);
    }
    let mut unlisted = BTreeSet::new();
    for one in inside {
        if !look::is_known(engine, &one).await? {
            warn!(%instance, container = %one, "ending what runs in a container that Docker does not know any more");
            unlisted.insert(one);
        }
    }
    end_all(&unlisted).await
}

async fn end_all(left: &BTreeSet<ContainerId>) -> Result<(), EngineError> {
    let are_gone = left.is_empty()
        || leftover::end_all(left).await.map_err(|error| not_sure(error.to_string()))?;
    if are_gone { Ok(()) } else { Err(not_sure("a process of it does not end".to_owned())) }
}

fn not_sure(reason: String) -> EngineError {
    let operation = "make sure that nothing of the instance is left running";
    EngineError::Other { engine: NAME, operation, reason }
}

pub(super) async fn start(engine: &DockerEngine, id: &ContainerId) -> Result<(), EngineError> {
    let docker = engine.client.docker().await?;
    let (instance, _) = engine.owner(id).await?;
    tell_runtime(engine, id).await?;
    attach::before_start(engine, id).await;
    match limited(SLOW, docker.start_container(id.as_str(), None)).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let answered = status(&error).is_some();
            let error = meaning(error, "start a container", id);
            let rests = |found: Container| found.state != ContainerState::Running;
            if answered && engine.inspect(id).await.is_ok_and(rests) {
                engine.end_leftover(id, &instance).await;
            }
            Err(engine.unless_runtime_missing(error).await)
        }
    }
}

/// Tells the wrapper what it needs to start a container: its sandbox, and what it may mount of the node.
pub(super) async fn tell_runtime(
    engine: &DockerEngine,
    id: &ContainerId,
) -> Result<(), EngineError> {
    if engine.config.runtime != Runtime::Dwell {
        return Ok(());
    }
    let ((instance, _), slot) = engine.place(id).await?;
    let run = &engine.config.run_dir;
    let netns = dwell_network::sandbox_path(run, &SandboxId { instance: instance.clone(), slot });
    let other =
        |reason| EngineError::Other { engine: NAME, operation: "start a container", reason };
    if !netns.exists() {
        return Err(other(format!("its sandbox {} is not there", netns.display())));
    }
    let NodeMounts { binds, copies, root, sysctls, systemd } = engine.mounts_of(id).await?;
    Mapping { instance: instance.to_string(), netns, binds, copies, root, sysctls, systemd }
        .write(run, id.as_str())
        .map_err(|error| other(Causes(&error).to_string()))
}

pub(super) async fn stop(
    engine: &DockerEngine,
    id: &ContainerId,
    grace: Duration,
) -> Result<(), EngineError> {
    engine.owner(id).await?;
    end(engine, id, grace, "stop a container").await
}

/// Has the main process of a container end within a grace, whoever made it.
pub(super) async fn end(
    engine: &DockerEngine,
    id: &ContainerId,
    grace: Duration,
    operation: &'static str,
) -> Result<(), EngineError> {
    let limit = grace.saturating_add(SLOW);
    let docker = engine.client.docker().await?.with_timeout(limit);
    let options = StopContainerOptions {
        t: Some(i32::try_from(spec::seconds(grace)).unwrap_or(i32::MAX)),
        signal: None,
    };
    limited(limit, docker.stop_container(id.as_str(), Some(options)))
        .await
        .map_err(|error| meaning(error, operation, id))
}

pub(super) async fn wait(engine: &DockerEngine, id: &ContainerId) -> Result<i32, EngineError> {
    engine.owner(id).await?;
    let docker = engine.client.docker().await?;
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

pub(super) async fn remove(engine: &DockerEngine, id: &ContainerId) -> Result<(), EngineError> {
    let (instance, generation) = match engine.owner(id).await {
        Err(EngineError::NotFound { .. }) => return Ok(()),
        owner => owner?,
    };
    engine.keep_output(id, &instance, generation).await;
    engine.forget_root(id).await?;
    let docker = engine.client.docker().await?;
    // `v` takes along the volumes that the image declares and nobody named; never a named one.
    let options = RemoveContainerOptions { v: true, force: true, link: false };
    let removed = limited(SLOW, docker.remove_container(id.as_str(), Some(options))).await;
    match removed.map_err(|error| meaning(error, "remove a container", id)) {
        Ok(()) | Err(EngineError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    engine.end_leftover(id, &instance).await;
    engine.forget(id);
    Ok(())
}

pub(super) async fn update_limits(
    engine: &DockerEngine,
    id: &ContainerId,
    limits: Limits,
) -> Result<(), EngineError> {
    engine.owner(id).await?;
    let docker = engine.client.docker().await?;
    limited(QUICK, docker.update_container(id.as_str(), spec::update(limits)))
        .await
        .map_err(|error| meaning(error, "change the limits of a container", id))
}

impl DockerEngine {
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
}
