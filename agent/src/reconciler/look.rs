//! Looking at the engine: at everything, or at the containers of one instance.

use std::collections::BTreeSet;

use dwell_core::clock::Timestamp;
use dwell_core::health::Health;
use dwell_core::id::InstanceName;
use dwell_planner::{ContainerId, ContainerState};
use futures_util::{StreamExt, stream};

use super::tools::Tools;
use crate::engine::{self, Container, EngineError};

/// How many containers are looked at side by side.
const SIDE_BY_SIDE: usize = 8;

impl Tools {
    /// All containers with all their details.
    pub(super) async fn look_at_all(&self) -> Result<Vec<Container>, EngineError> {
        let ids = self.engine.list().await?.into_iter().map(|container| container.id);
        self.inspect(ids.collect()).await
    }

    /// The containers of one instance: those that are known, and with `list` also those that are not.
    pub(super) async fn look_at(
        &self,
        name: &InstanceName,
        mut known: BTreeSet<ContainerId>,
        list: bool,
    ) -> Result<Vec<Container>, EngineError> {
        if list {
            let all = self.engine.list().await?.into_iter();
            known.extend(
                all.filter(|container| container.instance == *name).map(|container| container.id),
            );
        }
        self.inspect(known).await
    }

    async fn inspect(&self, ids: BTreeSet<ContainerId>) -> Result<Vec<Container>, EngineError> {
        let mut looks = stream::iter(ids)
            .map(|id| async move { self.engine.inspect(&id).await })
            .buffer_unordered(SIDE_BY_SIDE);
        let mut found = Vec::new();
        while let Some(look) = looks.next().await {
            match look {
                Ok(container) => found.push(container),
                Err(EngineError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// A container as the planner wants to know it, seen at `now`. What is known of it and has not changed
/// is kept.
pub(super) fn seen(
    container: &Container,
    before: Option<&dwell_planner::Container>,
    now: Timestamp,
) -> dwell_planner::Container {
    let details = container.details.unwrap_or_default();
    let started_at = details.started_at.unwrap_or_default();
    let state = match container.state {
        engine::ContainerState::Created => ContainerState::Created,
        engine::ContainerState::Running => ContainerState::Running { started_at },
        engine::ContainerState::Exited => ContainerState::Exited {
            started_at,
            ran_for: details.finished_at.unwrap_or(started_at).since(started_at),
            code: details.exit_code.unwrap_or(-1),
            out_of_memory: details.out_of_memory,
        },
        engine::ContainerState::Dead => ContainerState::Dead,
    };
    let same = before.filter(|before| before.state == state);
    dwell_planner::Container {
        id: container.id.clone(),
        generation: container.generation,
        fingerprint: container.fingerprint.clone(),
        resources: details.limits,
        restarts_asked: container.restarts_asked,
        stop_grace: details.stop_grace,
        state,
        since: same.map_or(now, |before| before.since),
        health: same.map_or(Health::None, |before| before.health),
        complaint: same.map_or_else(String::new, |before| before.complaint.clone()),
    }
}
