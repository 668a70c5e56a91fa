//! Watching the main processes that run: for their end, and for their health.
//!
//! There is one guard per run of a container. It belongs to the reconciler, is made when the run is
//! first seen and dropped, with its tasks, when the run is over. What it sees it tells as [`News`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::health::HealthCheck;
use dwell_core::id::InstanceName;
use dwell_planner::{ContainerId, Desired, Observed};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::News;
use super::tools::Tools;
use crate::death::{self, DeathError};
use crate::engine::{Container, ContainerState};
use crate::health;

/// The guards of a node.
pub(super) struct Guards {
    tools: Tools,
    news: mpsc::Sender<News>,
    runs: BTreeMap<ContainerId, Guard>,
}

/// The guard of one run.
struct Guard {
    started_at: Timestamp,
    _death: AbortOnDropHandle<()>,
    probes: Option<Probes>,
}

/// The health check of one run.
struct Probes {
    address: Ipv4Addr,
    check: HealthCheck,
    _task: AbortOnDropHandle<()>,
}

impl Guards {
    pub(super) fn new(tools: Tools, news: mpsc::Sender<News>) -> Self {
        Self { tools, news, runs: BTreeMap::new() }
    }

    /// A container was looked at: from now on the end of its run is noticed.
    pub(super) fn attend(&mut self, container: &Container) {
        let details = container.details.unwrap_or_default();
        let (ContainerState::Running, Some(started_at)) = (container.state, details.started_at)
        else {
            self.runs.remove(&container.id);
            return;
        };
        if self.runs.get(&container.id).is_some_and(|guard| guard.started_at == started_at) {
            return;
        }
        let (tools, news) = (self.tools.clone(), self.news.clone());
        let death = tokio::spawn(await_end(tools, news, container.clone(), details.pid));
        let guard = Guard { started_at, _death: AbortOnDropHandle::new(death), probes: None };
        self.runs.insert(container.id.clone(), guard);
    }

    /// Makes the guards fit what runs and what is desired: no guard of a run that is over, and every
    /// run probed by the present health check.
    pub(super) fn sync(&mut self, desired: &Desired, observed: &Observed) {
        let mut running = BTreeSet::new();
        for (name, seen) in &observed.instances {
            let assigned = desired.get(name).map(|target| &target.assigned);
            let check = assigned.and_then(|assigned| {
                Some((assigned.address, assigned.template.healthcheck.as_ref()?))
            });
            for container in seen.containers.iter().filter(|container| container.is_running()) {
                running.insert(&container.id);
                if let Some(guard) = self.runs.get_mut(&container.id) {
                    guard.sync_probes(name, &container.id, check, &self.tools, &self.news);
                }
            }
        }
        self.runs.retain(|id, _| running.contains(id));
    }
}

impl Guard {
    /// Probes with this check from now on, if it does not already.
    fn sync_probes(
        &mut self,
        instance: &InstanceName,
        container: &ContainerId,
        check: Option<(Ipv4Addr, &HealthCheck)>,
        tools: &Tools,
        news: &mpsc::Sender<News>,
    ) {
        let present = self.probes.as_ref().map(|probes| (probes.address, &probes.check));
        if present == check {
            return;
        }
        let started_at = self.started_at;
        self.probes = check.map(|(address, check)| {
            let subject = health::Subject {
                container: container.clone(),
                address,
                check: check.clone(),
                started: started_at,
            };
            let (engine, clock) = (Arc::clone(&tools.engine), Arc::clone(&tools.clock));
            let mut verdicts = health::watch(engine, clock, subject);
            let (instance, container) = (instance.clone(), container.clone());
            let news = news.clone();
            let task = tokio::spawn(async move {
                while let Some(health) = verdicts.next().await {
                    let verdict = News::Health {
                        instance: instance.clone(),
                        container: container.clone(),
                        started_at,
                        health,
                        complaint: verdicts.reason().to_owned(),
                    };
                    if news.send(verdict).await.is_err() {
                        return;
                    }
                }
            });
            Probes { address, check: check.clone(), _task: AbortOnDropHandle::new(task) }
        });
    }
}

/// Tells when the main process of a container has ended and the engine has noticed.
async fn await_end(tools: Tools, news: mpsc::Sender<News>, container: Container, pid: Option<u32>) {
    if let Some(pid) = pid {
        match death::watch(pid, &container.id) {
            Ok(death) => death.await,
            // It has ended already.
            Err(DeathError::Gone { .. }) => {}
            Err(error) => {
                tracing::warn!(instance = %container.instance, %error, "relying on the engine's events alone");
                return;
            }
        }
    }
    // Right after the death, the engine would still say that it runs, and refuse to start it again. If
    // the engine cannot be asked, looking at it will say so too.
    drop(tools.engine.wait(&container.id).await);
    let ended = News::Ended { instance: container.instance, container: container.id };
    // The reconciler has stopped if nobody listens.
    drop(news.send(ended).await);
}
