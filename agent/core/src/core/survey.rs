//! Looking at everything, and at the list of containers for those instances that need it.

use dwell_core::container::ContainerId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::sandbox::{SandboxId, Slot};
use dwell_planner::{EngineState, Sandbox};

use super::Core;
use super::calls::Task;
use super::doubts::Doubt;
use crate::call::{Call, CallFailure, CallId, Listed, Outcome, Output};

/// The longest pause between two tries to look at everything.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a complete look waits for single containers: those that have not been seen by then stay in doubt.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the removal of what is left of an instance waits for others that go too.
const SWEEP_PAUSE: Duration = Duration::from_secs(5);

/// The look at everything.
#[derive(Default)]
pub(super) struct Survey {
    stage: Stage,
    /// It has to be repeated: it began before the engine was connected, or before something was asked.
    again: bool,
    /// How often it failed in a row.
    failures: u32,
    /// Doubts that were open when it began, and are part of it.
    doubts: BTreeMap<InstanceName, Doubt>,
    /// Instances that have changed since it began, and about which it may be out of date.
    overtaken: BTreeSet<InstanceName>,
    /// When what belongs to what is gone is to be removed.
    sweep_at: Option<Timestamp>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Idle,
    /// It begins at this time.
    Paused { until: Timestamp },
    /// It waits for the lists: `None` while one has not come. A list of sandboxes that could not be had is an inner
    /// `None`.
    Listing { containers: Option<Vec<Listed>>, sandboxes: Option<Option<BTreeSet<SandboxId>>> },
    /// It waits for the looks at these instances, but no longer than this.
    Looking { pending: BTreeSet<InstanceName>, until: Timestamp },
}

impl Survey {
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        match self.stage {
            Stage::Paused { until } | Stage::Looking { until, .. } => Some(until),
            Stage::Idle | Stage::Listing { .. } => None,
        }
    }

    /// A step of an instance has begun or ended.
    pub(super) fn overtake(&mut self, name: &InstanceName) {
        if !matches!(self.stage, Stage::Idle) {
            self.overtaken.insert(name.clone());
        }
    }
}

/// The list for single instances: one for all that wait for it.
#[derive(Default)]
pub(super) struct Lister {
    running: Option<(CallId, BTreeSet<InstanceName>)>,
    waiting: BTreeSet<InstanceName>,
}

impl Core {
    /// Looks at everything, after a pause if that failed before.
    pub(super) fn look_at_all(&mut self, now: Timestamp) {
        match self.survey.stage {
            Stage::Idle => {}
            Stage::Paused { .. } => return,
            Stage::Listing { .. } | Stage::Looking { .. } => {
                self.survey.again = true;
                return;
            }
        }
        let pause = match self.survey.failures {
            0 => Duration::ZERO,
            failures => (Duration::from_millis(50) * (1 << failures.min(6))).min(PAUSE_MAX),
        };
        self.survey.stage = Stage::Paused { until: now.after(pause) };
    }

    pub(super) fn survey_if_due(&mut self, now: Timestamp) {
        match &self.survey.stage {
            Stage::Paused { until } if *until <= now => self.begin_survey(now),
            Stage::Looking { until, .. } if *until <= now => self.end_survey(now),
            _ => {}
        }
    }

    fn begin_survey(&mut self, now: Timestamp) {
        self.survey.again = false;
        self.survey.overtaken.clear();
        self.survey.doubts = self.doubts.take_open();
        self.survey.stage = Stage::Listing { containers: None, sandboxes: None };
        self.call(Call::Sandboxes, Call::Sandboxes.limit(), now);
        self.call(Call::List, Call::List.limit(), now);
    }

    pub(super) fn sandboxes_listed(
        &mut self,
        found: Result<BTreeSet<SandboxId>, CallFailure>,
        now: Timestamp,
    ) {
        let found = found.inspect_err(|failed| {
            tracing::warn!(error = failed.failure.message, "cannot list the sandboxes");
        });
        if let Stage::Listing { sandboxes, .. } = &mut self.survey.stage {
            *sandboxes = Some(found.ok());
        }
        self.look_at_what_is_listed(now);
    }

    /// A list has come, or has not.
    pub(super) fn listed(
        &mut self,
        id: CallId,
        found: Result<Vec<Listed>, CallFailure>,
        now: Timestamp,
    ) {
        if self.lister.running.as_ref().is_some_and(|(running, _)| *running == id) {
            let names = self.lister.running.take().map(|(_, names)| names).unwrap_or_default();
            match found {
                Ok(listed) => {
                    for name in names {
                        self.inspect_listed(&name, &listed, now);
                    }
                }
                Err(failed) => self.lose_engine(failed.failure.message, now),
            }
            self.list_for_those_who_wait(now);
            return;
        }
        match found {
            Ok(listed) => {
                if let Stage::Listing { containers, .. } = &mut self.survey.stage {
                    *containers = Some(listed);
                }
                self.look_at_what_is_listed(now);
            }
            Err(failed) => {
                self.survey.failures = self.survey.failures.saturating_add(1);
                self.lose_engine(failed.failure.message, now);
            }
        }
    }

    /// Both lists are there: every instance that is known or listed is looked at.
    fn look_at_what_is_listed(&mut self, now: Timestamp) {
        let Stage::Listing { containers: Some(_), sandboxes: Some(_) } = self.survey.stage else {
            return;
        };
        let stage = std::mem::take(&mut self.survey.stage);
        let Stage::Listing { containers: Some(listed), sandboxes: Some(sandboxes) } = stage else {
            return;
        };
        self.survey.failures = 0;
        let mut doubts = std::mem::take(&mut self.survey.doubts);
        let known = self.observed.instances.keys();
        let names: BTreeSet<InstanceName> = known
            .chain(listed.iter().map(|one| &one.instance))
            .chain(sandboxes.iter().flatten().map(|sandbox| &sandbox.instance))
            .chain(doubts.keys())
            .cloned()
            .collect();
        let mut by_instance: BTreeMap<&InstanceName, Vec<&ContainerId>> = BTreeMap::new();
        for one in &listed {
            by_instance.entry(&one.instance).or_default().push(&one.id);
        }
        let mut pending = BTreeSet::new();
        let mut bare = Vec::new();
        for name in names {
            let seen = self.observed.instances.entry(name.clone()).or_default();
            if seen.busy.is_some()
                || self.survey.overtaken.contains(&name)
                || self.doubts.look(&name).is_some()
            {
                self.doubt(&name, None, now);
                continue;
            }
            if let Some(sandboxes) = &sandboxes {
                for slot in Slot::ALL {
                    let id = SandboxId { instance: name.clone(), slot };
                    let is_there = sandboxes.contains(&id);
                    let sandbox = if is_there { Sandbox::Doubtful } else { Sandbox::Absent };
                    seen.sandboxes.set(slot, sandbox);
                }
            }
            self.doubts.begin_anyway(&name);
            let named = doubts.remove(&name).map(|doubt| doubt.containers).unwrap_or_default();
            let listed = by_instance.remove(&name).unwrap_or_default();
            let ids: BTreeSet<ContainerId> =
                named.into_iter().chain(listed.into_iter().cloned()).collect();
            if ids.is_empty() {
                bare.push(name);
            } else {
                self.inspect(&name, ids, now);
                pending.insert(name);
            }
        }
        self.survey.stage = Stage::Looking { pending, until: now.after(PATIENCE) };
        for name in bare {
            self.looked_at(&name, now);
        }
        self.end_survey_if_complete(now);
    }

    /// An instance was looked at, or could not be.
    pub(super) fn tick_off(&mut self, name: &InstanceName, now: Timestamp) {
        if let Stage::Looking { pending, .. } = &mut self.survey.stage {
            pending.remove(name);
        }
        self.end_survey_if_complete(now);
    }

    fn end_survey_if_complete(&mut self, now: Timestamp) {
        if matches!(&self.survey.stage, Stage::Looking { pending, .. } if pending.is_empty()) {
            self.end_survey(now);
        }
    }

    fn end_survey(&mut self, now: Timestamp) {
        let stage = std::mem::take(&mut self.survey.stage);
        if let Stage::Looking { pending, .. } = stage {
            for name in pending {
                let seen = self.observed.instances.entry(name).or_default();
                seen.in_doubt = true;
                seen.unseen.get_or_insert_with(|| "the engine has not described it yet".to_owned());
            }
        }
        if self.survey.again {
            return self.look_at_all(now);
        }
        if !self.connected {
            return;
        }
        if self.observed.engine != EngineState::Ready {
            tracing::info!(instances = self.observed.instances.len(), "looked at everything");
            self.observed.ready_since = now;
            self.observed.engine = EngineState::Ready;
        }
        self.looked = true;
        self.survey.sweep_at = Some(now);
    }

    /// Nothing is left of an instance: a call that got no answer may have left files of it all the same.
    pub(super) fn sweep_soon(&mut self, now: Timestamp) {
        self.survey.sweep_at.get_or_insert(now.after(SWEEP_PAUSE));
    }

    /// When everything that belongs to what is gone is to be removed. It is after each complete look, and after the last of
    /// an instance has gone, but not before a desired state has arrived.
    pub(super) fn sweep_at(&self) -> Option<Timestamp> {
        let is_under_way = !self.calls.of(|task| *task == Task::Sweep).is_empty();
        self.survey.sweep_at.filter(|_| self.desired.is_some() && !is_under_way)
    }

    pub(super) fn sweep_if_due(&mut self, now: Timestamp) {
        if self.sweep_at().is_some_and(|at| at <= now) {
            self.survey.sweep_at = None;
            self.call(Call::Sweep, Call::Sweep.limit(), now);
        }
    }

    /// A journal of an instance of which nothing is known is there to be forgotten, once it was looked at.
    pub(super) fn swept(&mut self, outcome: Outcome, now: Timestamp) {
        match outcome {
            Outcome::Journals(journals) => {
                for (name, journal) in journals {
                    if !self.observed.instances.contains_key(&name) {
                        let seen = self.observed.instances.entry(name.clone()).or_default();
                        seen.remember(journal);
                        self.doubt(&name, None, now);
                    }
                }
            }
            Outcome::Failed(failed) => {
                tracing::warn!(
                    error = failed.failure.message,
                    "cannot remove what is left of containers"
                );
            }
            _ => {}
        }
    }

    /// The engine has not answered: nothing is known for sure until all was looked at again. What is being looked
    /// at is given up.
    pub(super) fn lose_engine(&mut self, reason: String, now: Timestamp) {
        if self.observed.engine == EngineState::Ready {
            tracing::warn!(reason, "the engine does not answer; instances are left alone");
        }
        self.observed.engine = EngineState::Away { reason };
        let looks = self.calls.of(|task| {
            matches!(
                task,
                Task::List
                    | Task::Sandboxes
                    | Task::Ping
                    | Task::Inspect { .. }
                    | Task::EndUnlisted { .. }
            )
        });
        for id in looks {
            self.calls.end(id);
            self.outputs.push(Output::Abandon { id });
        }
        self.pulse.reset(now);
        self.doubts.end_all();
        self.inspections.clear();
        self.lister = Lister::default();
        for (name, doubt) in std::mem::take(&mut self.survey.doubts) {
            for id in doubt.containers {
                self.doubts.raise(&name, Some(&id), now);
            }
        }
        self.survey.stage = Stage::Idle;
        self.survey.again = false;
        if self.connected {
            self.look_at_all(now);
        }
    }

    /// Lists the containers for an instance that may have one that nobody named.
    pub(super) fn list_for(&mut self, name: &InstanceName, now: Timestamp) {
        self.lister.waiting.insert(name.clone());
        self.list_for_those_who_wait(now);
    }

    fn list_for_those_who_wait(&mut self, now: Timestamp) {
        if self.lister.running.is_some() || self.lister.waiting.is_empty() {
            return;
        }
        let names = std::mem::take(&mut self.lister.waiting);
        let id = self.call(Call::List, Call::List.limit(), now);
        self.lister.running = Some((id, names));
    }

    fn inspect_listed(&mut self, name: &InstanceName, listed: &[Listed], now: Timestamp) {
        let own = listed.iter().filter(|one| one.instance == *name).map(|one| one.id.clone());
        let own: Vec<ContainerId> = own.collect();
        let known = self.doubts.look(name).map(|look| std::mem::take(&mut look.pending));
        if let Some(known) = known {
            self.inspect(name, known.into_iter().chain(own).collect(), now);
        }
    }
}
