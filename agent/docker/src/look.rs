//! Looking at containers, and hearing of them.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

use bollard::query_parameters::{EventsOptions, ListContainersOptions};
use dwell_engine::{Container, ContainerId, EngineError, Event};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tracing::warn;

use super::client::{QUICK, limited, malformed, meaning};
use super::spec::LABEL_CLUSTER;
use super::{DockerEngine, own_of, reply};

/// The events that are listened to; a health check by command would make three more each time.
const EVENTS: [&str; 9] =
    ["create", "start", "die", "oom", "destroy", "pause", "unpause", "rename", "update"];

pub(super) async fn list(engine: &DockerEngine) -> Result<Vec<Container>, EngineError> {
    const OPERATION: &str = "list containers";
    let docker = engine.client.docker().await?;
    let options = ListContainersOptions {
        all: true,
        filters: Some(engine.filters()),
        ..ListContainersOptions::default()
    };
    let known: BTreeSet<ContainerId> =
        engine.own.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
    let entries = limited(QUICK, docker.list_containers(Some(options))).await;
    let entries = entries.map_err(|error| meaning(error, OPERATION, ""))?;
    let mut containers = Vec::new();
    let mut foreign = BTreeSet::new();
    for entry in entries {
        let id = entry.id.clone().unwrap_or_default();
        match reply::listed(entry) {
            Ok(container) => containers.push(container),
            Err(reason) => {
                let known = engine.foreign.lock().unwrap_or_else(PoisonError::into_inner);
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
    *engine.foreign.lock().unwrap_or_else(PoisonError::into_inner) = foreign;
    let owners = containers.iter().map(|seen| (seen.id.clone(), own_of(seen)));
    let mut own = engine.own.lock().unwrap_or_else(PoisonError::into_inner);
    // What was made since the question was asked need not be in the answer.
    own.retain(|id, _| !known.contains(id));
    own.extend(owners);
    drop(own);
    Ok(containers)
}

pub(super) async fn inspect(
    engine: &DockerEngine,
    id: &ContainerId,
) -> Result<Container, EngineError> {
    const OPERATION: &str = "inspect a container";
    let docker = engine.client.docker().await?;
    let seen = limited(QUICK, docker.inspect_container(id.as_str(), None)).await;
    let seen = seen.map_err(|error| meaning(error, OPERATION, id)).inspect_err(|error| {
        if matches!(error, EngineError::NotFound { .. }) {
            engine.forget(id);
        }
    })?;
    let labels = seen.config.as_ref().and_then(|config| config.labels.as_ref());
    if labels.and_then(|labels| labels.get(LABEL_CLUSTER)) != Some(&engine.config.cluster) {
        return Err(EngineError::NotFound { id: id.to_string() });
    }
    if labels.is_none_or(|labels| !reply::is_ours(labels)) {
        return Err(EngineError::NotFound { id: id.to_string() });
    }
    let enforced = engine.enforced().await?;
    let container =
        reply::inspected(seen, enforced).map_err(|reason| malformed(OPERATION, reason))?;
    engine.remember(&container);
    Ok(container)
}

/// Whether the daemon knows a container, whoever it is of.
pub(super) async fn is_known(engine: &DockerEngine, id: &ContainerId) -> Result<bool, EngineError> {
    let docker = engine.client.docker().await?;
    let seen = limited(QUICK, docker.inspect_container(id.as_str(), None)).await;
    match seen.map_err(|error| meaning(error, "inspect a container", id)) {
        Ok(_) => Ok(true),
        Err(EngineError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) async fn events(
    engine: &DockerEngine,
) -> Result<BoxStream<'static, Result<Event, EngineError>>, EngineError> {
    let docker = engine.client.negotiate().await?;
    // Docker begins to listen a little after it was asked: the last second is told again.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = now.as_secs().saturating_sub(1);
    let mut filters = engine.filters();
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert("event".to_owned(), EVENTS.map(str::to_owned).into());
    let options =
        EventsOptions { since: Some(since.to_string()), until: None, filters: Some(filters) };
    let events = docker.events(Some(options)).filter_map(|message| async {
        message.map(reply::event).map_err(|error| meaning(error, "tell events", "")).transpose()
    });
    Ok(events.boxed())
}
