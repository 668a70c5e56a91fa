//! Watching the main processes that run: for their end, and for their health.
//!
//! There is one guard per run of a container. It belongs to the reconciler, is made when the core asks for it and
//! dropped, with its tasks, when the run is over. What it sees it tells as [`Input`].

use std::collections::BTreeMap;
use std::sync::Arc;

use dwell_agent_core::{Input, Probed, Watch};
use dwell_core::container::ContainerId;
use dwell_planner::Check;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::tools::Tools;
use crate::health;
use dwell_engine::death::DeathError;

/// The guards of a node.
pub(super) struct Guards {
    tools: Tools,
    news: mpsc::Sender<Input>,
    runs: BTreeMap<ContainerId, Guard>,
}

/// The guard of one run.
struct Guard {
    watch: Watch,
    death: Option<AbortOnDropHandle<()>>,
    probes: BTreeMap<Check, AbortOnDropHandle<()>>,
}

impl Guards {
    pub(super) fn new(tools: Tools, news: mpsc::Sender<Input>) -> Self {
        Self { tools, news, runs: BTreeMap::new() }
    }

    /// Watches a run. What is already watched in the same way goes on being so.
    pub(super) fn watch(&mut self, watch: Watch) {
        let id = watch.run.container.clone();
        let before = self.runs.remove(&id).filter(|guard| guard.watch.run == watch.run);
        let (death, mut probes) = match before {
            Some(mut guard) => {
                let before = &guard.watch.probed;
                guard.probes.retain(|check, _| before.get(check) == watch.probed.get(check));
                (guard.death, guard.probes)
            }
            None => (self.await_end(&watch), BTreeMap::new()),
        };
        for (check, probed) in &watch.probed {
            probes.entry(*check).or_insert_with(|| self.probe(&watch, *check, probed));
        }
        self.runs.insert(id, Guard { watch, death, probes });
    }

    pub(super) fn unwatch(&mut self, container: &ContainerId) {
        self.runs.remove(container);
    }

    /// Tells when the main process of a run has ended.
    fn await_end(&self, watch: &Watch) -> Option<AbortOnDropHandle<()>> {
        let pid = watch.run.pid?;
        let death = match self.tools.processes.watch(pid, &watch.run.container) {
            Ok(death) => Some(death),
            // It has ended already.
            Err(DeathError::Gone { .. }) => None,
            Err(error) => {
                tracing::warn!(instance = %watch.instance, %error, "relying on the engine's events alone");
                return None;
            }
        };
        let news = self.news.clone();
        let ended = Input::Ended {
            instance: watch.instance.clone(),
            container: watch.run.container.clone(),
            started_at: watch.run.started_at,
        };
        let task = tokio::spawn(async move {
            if let Some(death) = death {
                death.await;
            }
            // The reconciler has stopped if nobody listens.
            drop(news.send(ended).await);
        });
        Some(AbortOnDropHandle::new(task))
    }

    /// Tells what a check says of a run.
    fn probe(&self, watch: &Watch, check: Check, probed: &Probed) -> AbortOnDropHandle<()> {
        let subject = health::Subject {
            container: watch.run.container.clone(),
            address: probed.address,
            slot: probed.slot,
            check: probed.check.clone(),
            started: watch.run.started_at,
            since: watch.since,
        };
        let (engine, clock) = (Arc::clone(&self.tools.engine), Arc::clone(&self.tools.clock));
        let mut verdicts = health::watch(engine, clock, subject);
        let (news, run, instance) = (self.news.clone(), watch.run.clone(), watch.instance.clone());
        let task = tokio::spawn(async move {
            while let Some(health) = verdicts.next().await {
                let verdict = Input::Health {
                    instance: instance.clone(),
                    container: run.container.clone(),
                    started_at: run.started_at,
                    check,
                    health,
                    complaint: verdicts.reason().to_owned(),
                };
                if news.send(verdict).await.is_err() {
                    return;
                }
            }
        });
        AbortOnDropHandle::new(task)
    }
}
