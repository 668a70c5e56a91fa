//! How the owner learns: from what is told, from looking, and from the outcomes of its own steps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dwell_core::id::InstanceName;
use dwell_core::workload::Resources;
use dwell_planner::{ContainerId, EngineState, FailureKind, Image, Sandbox, Step};

use super::{Done, Owner};
use crate::engine::{Container, EngineError, Event, EventKind};
use crate::reconciler::News;
use crate::reconciler::look::seen;
use crate::reconciler::tools::{Effect, StepError};
use dwell_daemon::Causes;

/// The longest pause between two tries to look at everything.
const SURVEY_PAUSE_MAX: Duration = Duration::from_secs(2);

impl Owner {
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Connected => {
                self.connected = true;
                self.look_at_all();
            }
            News::Lost { reason } => {
                self.connected = false;
                self.lose_engine(reason);
            }
            News::Event(event) => self.hear_of_container(&event),
            News::Ended { instance, container } => {
                let seen = self.observed.instances.get(&instance);
                let container_seen = seen.and_then(|seen| seen.container(&container));
                if container_seen.is_some_and(dwell_planner::Container::is_running) {
                    self.doubt(&instance, Some(&container));
                }
            }
            News::Health { instance, container, started_at, health, complaint } => {
                let seen = self.observed.instances.get_mut(&instance);
                let same_run = |one: &&mut dwell_planner::Container| {
                    one.id == container && one.run() == Some(started_at)
                };
                let containers = seen.into_iter().flat_map(|seen| &mut seen.containers);
                for container in containers.filter(same_run) {
                    container.health = health;
                    container.complaint.clone_from(&complaint);
                }
            }
            News::Progress { image, text } => {
                if let Some(Image::Pulling { progress, .. }) = self.observed.images.get_mut(&image)
                {
                    *progress = text;
                }
            }
        }
    }

    /// Leaves out what the engine tells of the owner's own steps: their outcome says more.
    fn hear_of_container(&mut self, event: &Event) {
        let seen = self.observed.instances.get(&event.instance);
        let known = seen.and_then(|seen| seen.container(&event.id));
        let step = seen.and_then(|seen| seen.busy.as_ref());
        let by_step = match (&event.kind, step) {
            (EventKind::Started, Some(Step::Start { container }))
            | (EventKind::Died { .. }, Some(Step::Stop { container, .. }))
            | (EventKind::Died { .. } | EventKind::Removed, Some(Step::Remove { container })) => {
                *container == event.id
            }
            (EventKind::Changed, Some(_)) => true,
            _ => false,
        };
        let is_running = known.is_some_and(dwell_planner::Container::is_running);
        let is_known = match event.kind {
            EventKind::Started => is_running,
            // A start under way may just have been followed by an end.
            EventKind::Died { .. } => known.is_some() && !is_running && step.is_none(),
            EventKind::Removed => known.is_none(),
            EventKind::Changed => known.is_some_and(|known| known.run().is_none()),
            // What it did to the main process is told as well.
            EventKind::OutOfMemory => true,
        };
        if !by_step && !is_known {
            self.doubt(&event.instance, Some(&event.id));
        }
    }

    /// Something about an instance may be wrong: nothing is done to it until it was looked at.
    pub(super) fn doubt(&mut self, name: &InstanceName, container: Option<&ContainerId>) {
        self.observed.instances.entry(name.clone()).or_default().in_doubt = true;
        self.doubts.raise(name, container);
    }

    /// Looks at an instance that is in doubt, unless a step of it is under way: the look would be out
    /// of date.
    pub(super) fn look_at(&mut self, name: &InstanceName) {
        let seen = self.observed.instances.entry(name.clone()).or_default();
        // Without the engine there is nothing to see, and all is looked at when it is back.
        if seen.busy.is_some() || self.observed.engine != EngineState::Ready {
            return;
        }
        let Some(mut doubt) = self.doubts.begin(name) else { return };
        doubt.containers.extend(seen.containers.iter().map(|container| container.id.clone()));
        let (tools, name) = (self.tools.clone(), name.clone());
        self.tasks.spawn(async move {
            let found = tools.look_at(&name, doubt.containers, doubt.list).await;
            Done::Looked { name, found }
        });
    }

    pub(super) fn looked_at(
        &mut self,
        name: &InstanceName,
        found: Result<Vec<Container>, EngineError>,
    ) {
        self.doubts.end(name);
        self.survey.overtaken.insert(name.clone());
        match found {
            Ok(found) => {
                self.replace(name, &found);
                let is_settled = !self.doubts.concern(name);
                if let Some(seen) = self.observed.instances.get_mut(name).filter(|_| is_settled) {
                    seen.in_doubt = false;
                }
            }
            Err(error) => {
                self.doubt(name, None);
                self.lose_engine(Causes(&error).to_string());
            }
        }
    }

    /// The engine has not answered: nothing is known for sure until all was looked at again.
    fn lose_engine(&mut self, reason: String) {
        if self.observed.engine == EngineState::Ready {
            tracing::warn!(reason, "the engine does not answer; instances are left alone");
        }
        self.observed.engine = EngineState::Away { reason };
        if self.connected {
            self.look_at_all();
        }
    }

    pub(super) fn look_at_all(&mut self) {
        if self.survey.running {
            self.survey.again = true;
            return;
        }
        self.survey.running = true;
        self.survey.again = false;
        self.survey.overtaken.clear();
        let pause = match self.survey.failures {
            0 => Duration::ZERO,
            failures => (Duration::from_millis(50) * (1 << failures.min(6))).min(SURVEY_PAUSE_MAX),
        };
        let tools = self.tools.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            let sandboxes = match tools.network.sandboxes().await {
                Ok(sandboxes) => Some(sandboxes.into_iter().collect()),
                Err(error) => {
                    tracing::warn!(error = %Causes(&error), "cannot list the sandboxes");
                    None
                }
            };
            let found = tools.look_at_all().await.map(|containers| (containers, sandboxes));
            Done::LookedAtAll { found }
        });
    }

    pub(super) fn looked_at_all(
        &mut self,
        found: Result<(Vec<Container>, Option<BTreeSet<InstanceName>>), EngineError>,
    ) {
        self.survey.running = false;
        let (containers, sandboxes) = match found {
            Ok(found) => found,
            Err(error) => {
                self.survey.failures = self.survey.failures.saturating_add(1);
                return self.lose_engine(Causes(&error).to_string());
            }
        };
        self.survey.failures = 0;
        let mut by_instance: BTreeMap<InstanceName, Vec<Container>> = BTreeMap::new();
        for container in containers {
            by_instance.entry(container.instance.clone()).or_default().push(container);
        }
        let known = self.observed.instances.keys().cloned();
        let names: BTreeSet<InstanceName> = known
            .chain(by_instance.keys().cloned())
            .chain(sandboxes.iter().flatten().cloned())
            .collect();
        for name in names {
            let found = by_instance.remove(&name).unwrap_or_default();
            self.survey_of(&name, &found, sandboxes.as_ref().map(|all| all.contains(&name)));
        }
        if self.survey.again {
            self.look_at_all();
        } else if self.connected {
            if self.observed.engine != EngineState::Ready {
                tracing::info!(instances = self.observed.instances.len(), "looked at everything");
            }
            self.observed.engine = EngineState::Ready;
        }
    }

    /// What a look at everything says of one instance.
    fn survey_of(&mut self, name: &InstanceName, found: &[Container], has_sandbox: Option<bool>) {
        let seen = self.observed.instances.entry(name.clone()).or_default();
        if seen.busy.is_some() || self.survey.overtaken.contains(name) {
            return self.doubt(name, None);
        }
        seen.sandbox = match (has_sandbox, seen.sandbox) {
            (Some(true), _) => Sandbox::Doubtful,
            (Some(false), _) => Sandbox::Absent,
            (None, sandbox) => sandbox,
        };
        self.replace(name, found);
    }

    /// Replaces what is known of an instance's containers by what was seen.
    fn replace(&mut self, name: &InstanceName, found: &[Container]) {
        let now = self.tools.clock.now();
        let known = &mut self.observed.instances.entry(name.clone()).or_default().containers;
        let before = std::mem::take(known);
        for container in found {
            let same = before.iter().find(|before| before.id == container.id);
            known.push(seen(container, same, now));
            self.guards.attend(container);
            self.sights.attend(container);
        }
    }

    /// A step has ended.
    pub(super) fn conclude(
        &mut self,
        name: &InstanceName,
        step: &Step,
        outcome: Result<Effect, StepError>,
    ) {
        self.survey.overtaken.insert(name.clone());
        let now = self.tools.clock.now();
        match outcome {
            Ok(effect) => {
                tracing::debug!(instance = %name, ?step, "step done");
                let seen = self.observed.instances.entry(name.clone()).or_default();
                seen.succeeded(step);
                let is_sandbox = matches!(step, Step::EnsureSandbox | Step::RepairSandbox);
                if is_sandbox && self.doubted.remove(name) {
                    seen.sandbox = Sandbox::Doubtful;
                }
                self.take_effect(name, effect);
            }
            Err(error) => {
                let failure = error.failure();
                tracing::warn!(instance = %name, ?step, error = failure.message, "step failed");
                if failure.kind == FailureKind::ImageMissing
                    && let Some(image) = self.image_of(name)
                {
                    self.observed.images.entry(image).or_insert(Image::Missing);
                }
                let is_known = failure.kind == FailureKind::ImageMissing;
                let seen = self.observed.instances.entry(name.clone()).or_default();
                seen.failed(step, failure, now);
                match error {
                    StepError::Engine(EngineError::Unavailable { .. }) => {
                        self.doubt(name, None);
                        self.lose_engine(Causes(&error).to_string());
                    }
                    StepError::Engine(_) | StepError::CutShort if !is_known => {
                        self.doubt(name, None);
                    }
                    _ => {}
                }
            }
        }
    }

    fn image_of(&self, name: &InstanceName) -> Option<String> {
        let desired = self.desired.borrow();
        let target = desired.as_ref()?.get(name)?;
        Some(target.assigned.template.image.clone())
    }

    fn take_effect(&mut self, name: &InstanceName, effect: Effect) {
        let now = self.tools.clock.now();
        let Some(seen) = self.observed.instances.get_mut(name) else { return };
        match effect {
            Effect::Nothing => {}
            Effect::Made(container) => {
                let id = container.id.clone();
                seen.containers.push(container);
                // One that replaces another is looked at before it is started: its image may bring an SSH
                // server, and then port 22 has to be free.
                if seen.containers.len() > 1 {
                    self.doubt(name, Some(&id));
                }
            }
            Effect::Changed(container) => {
                let before = seen.containers.iter().position(|one| one.id == container.id);
                let before = before.map(|at| seen.containers.swap_remove(at));
                seen.containers.push(self::seen(&container, before.as_ref(), now));
                self.guards.attend(&container);
                self.sights.attend(&container);
            }
            Effect::Limited(container, resources) => set_limits(seen, &container, resources),
            Effect::Gone(container) => seen.containers.retain(|one| one.id != container),
        }
    }
}

fn set_limits(seen: &mut dwell_planner::Seen, container: &ContainerId, resources: Resources) {
    for one in seen.containers.iter_mut().filter(|one| one.id == *container) {
        one.resources = resources;
    }
}
