//! What has to be known of an instance after a crash of the agent and cannot be asked of the engine.
//!
//! A plain create and start writes no journal until it is known whether the container holds. Five things are
//! written ([`Step::Record`](crate::Step::Record)), each before the step that relies on it: the end of a main
//! process is ordered, a run is given up because it does not work, a generation holds, an update is rolled back, and a container is started that has a
//! hook before its stop. So is each step of taking the place of a container that dwell did not make. So are the runs of a
//! job's instance, each before the next one. The counters are written when there is nothing
//! else to do; losing them costs a pause that is too short.
//!
//! A journal belongs to one life of its instance: what is remembered of an instance that was removed says nothing
//! about another one that was made under the same name since.

mod adoption;
mod task;

use std::collections::BTreeMap;

use dwell_core::clock::Timestamp;
use dwell_core::id::{Generation, Revision};
use dwell_core::instance::{ENDS_MAX, HookFailed, ProcessEnd, REASON_MAX, sanitize};
use dwell_core::quantity::Millis;
use dwell_core::workload::Fingerprint;
use serde::{Deserialize, Serialize};

use crate::observed::{Container, ContainerState};
use crate::step::HookCall;
use dwell_core::container::ContainerId;

pub use adoption::{Progress, TakenOver};
pub use task::TaskRecord;

/// The durable memory about one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Journal {
    /// Of which life of the instance this is; 0 if an older agent wrote it, or nothing is remembered.
    pub life: Revision,
    /// What was decided last.
    pub verdict: Option<Verdict>,
    /// What has held in this life.
    #[serde(skip_serializing_if = "Held::is_unknown")]
    pub held: Held,
    /// The highest generation that a container was made for which has held. A container of a lower one is out of date,
    /// wherever it comes from; 0 if none has held, or an older agent wrote this.
    #[serde(skip_serializing_if = "Generation::is_zero")]
    pub proven: Generation,
    /// Runs of main processes that were ordered to end, by container: when each was started, by the
    /// engine's clock. What has ended by order is owed a start, whatever the restart policy says.
    pub ordered_ends: BTreeMap<ContainerId, Timestamp>,
    /// Runs of main processes that are ended because they do not work, by container. What has ended so counts as if it had
    /// ended by itself, with a failure.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub given_up: BTreeMap<ContainerId, GivenUp>,
    /// Runs in which the hook after the start has succeeded, by container.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub started: BTreeMap<ContainerId, Timestamp>,
    /// What is called before a container is stopped, also when the declaration is gone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub before_stop: BTreeMap<ContainerId, HookCall>,
    /// The last hook before a stop that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_failed: Option<HookFailed>,
    /// Up to which request for a restart an end was ordered.
    pub restarts_done: u64,
    /// How often the main process was started again after ending by itself.
    pub restarts: u64,
    /// How often in a row it ended soon after its start.
    pub crashes: u32,
    /// With what it last ended by itself.
    pub last_exit_code: Option<i32>,
    /// The last times that it ended by itself or did not work, newest last; at most [`ENDS_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<ProcessEnd>,
    /// How long its main process may take to end, if that was declared otherwise after its container was
    /// made. It counts for as long as the container does, also when the declaration is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace: Option<Millis>,
    /// How far it is with what it is to complete, if it is of a job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskRecord>,
    /// The generation at which the instance was let go: its container is not touched until a later order takes it back, whatever
    /// is desired, and whoever desires it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub let_go: Option<Generation>,
    /// The container that dwell did not make and in whose place the instance is put.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_over: Option<TakenOver>,
}

/// A run of a main process that does not work, and is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// When the run was started, by the engine's clock.
    pub run: Timestamp,
    /// Why it is given up, for people.
    pub reason: String,
}

/// What of an instance has held last: only that, or what the assignment names, is worth putting up again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// Nothing was decided yet, or what was an older agent wrote down, which did not say.
    #[default]
    Unknown,
    /// Nothing has.
    Nothing,
    /// Containers of this fingerprint.
    As(Fingerprint),
}

impl Held {
    fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

/// What was decided about a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// About which generation.
    pub generation: Generation,
    /// What was decided.
    pub ruling: Ruling,
    /// How many restarts had been asked for by then: what holds has to show it again after the next one.
    #[serde(default)]
    pub restarts_asked: u64,
}

/// What was decided about a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ruling {
    /// Its container holds and is the instance's.
    Committed,
    /// Its container did not hold; the one before is the instance's.
    RolledBack {
        /// Why, for people.
        reason: String,
    },
}

impl Journal {
    /// What of this is true in a life of the instance: nothing, if it was remembered of another one, but that it was let go, and what
    /// container its place was taken of.
    pub(crate) fn in_life(self, life: Revision) -> Self {
        if self.life == life || self.life == Revision(0) || life == Revision(0) {
            Self { life: self.life.max(life), ..self }
        } else {
            let (let_go, taken_over) = (self.let_go, self.taken_over);
            Self { life, let_go, taken_over, ..Self::default() }
        }
    }

    /// Whether the instance is being put in the place of a container that dwell did not make, which can still be put back.
    pub(crate) fn is_taking(&self, life: Revision) -> bool {
        let taken = self.taken_over.as_ref().filter(|taken| taken.life == life);
        taken.is_some_and(|taken| taken.progress == Progress::Taking)
    }

    /// Whether nothing is remembered.
    pub(crate) fn is_blank(&self) -> bool {
        *self == Self { life: self.life, ..Self::default() }
    }

    /// Whether the present (or last) run of this container was ordered to end.
    pub(crate) fn has_ordered_end(&self, container: &Container) -> bool {
        container.run().is_some_and(|run| self.ordered_ends.get(&container.id) == Some(&run))
    }

    /// The journal after ordering the present (or last) run of a container to end. `existing` are the
    /// containers there are; orders for others are dropped.
    pub(crate) fn ordering_end(&self, container: &Container, existing: &[Container]) -> Self {
        let mut journal = self.clone();
        journal.ordered_ends.retain(|id, _| existing.iter().any(|one| &one.id == id));
        if let Some(run) = container.run() {
            journal.ordered_ends.insert(container.id.clone(), run);
        }
        journal
    }

    /// Why the present (or last) run of this container was given up, if it was.
    pub(crate) fn given_up(&self, container: &Container) -> Option<&str> {
        let given_up = self.given_up.get(&container.id)?;
        (container.run() == Some(given_up.run)).then_some(&given_up.reason)
    }

    /// The journal after giving up the present run of a container. `was_well` says whether it has worked for long enough
    /// for earlier failures to be forgotten.
    pub(crate) fn giving_up(
        &self,
        container: &Container,
        reason: &str,
        was_well: bool,
        existing: &[Container],
    ) -> Self {
        let mut journal = self.clone();
        journal.given_up.retain(|id, _| existing.iter().any(|one| &one.id == id));
        if let Some(run) = container.run() {
            let reason = sanitize(reason, REASON_MAX);
            journal.given_up.insert(container.id.clone(), GivenUp { run, reason });
        }
        if was_well {
            journal.crashes = 0;
        }
        journal
    }

    /// The journal after ordering a run of a container to end, by whoever stops it in the agent's place.
    #[must_use]
    pub fn with_ordered_end(&self, container: &ContainerId, run: Timestamp) -> Self {
        let mut journal = self.clone();
        journal.ordered_ends.insert(container.clone(), run);
        journal
    }

    /// The journal after deciding about `generation`, when so many restarts had been asked for.
    pub(crate) fn ruling(
        &self,
        generation: Generation,
        restarts_asked: u64,
        ruling: Ruling,
    ) -> Self {
        let held = match &self.held {
            Held::Unknown if self.verdict.is_none() => Held::Nothing,
            held => held.clone(),
        };
        let taken_over = self.taken_over.clone().map(|taken| taken.ruled(&ruling));
        let verdict = Some(Verdict { generation, ruling, restarts_asked });
        Self { verdict, held, taken_over, ..self.clone() }
    }

    /// The same, when a container has held.
    pub(crate) fn holding(self, held: &Container) -> Self {
        let proven = self.proven.max(held.generation);
        Self { held: Held::As(held.fingerprint.clone()), proven, ..self }
    }

    /// Whether a container is known to have held. A journal of an older agent says it of whatever that has left.
    pub(crate) fn has_held(&self, container: &Container) -> bool {
        match &self.held {
            Held::As(held) => *held == container.fingerprint,
            Held::Nothing => false,
            Held::Unknown => self.verdict.is_some(),
        }
    }

    /// The journal of a roll-back, when it is known what the container that did not hold printed last.
    #[must_use]
    pub fn with_last_words(&self, words: &str) -> Self {
        let mut journal = self.clone();
        if let Some(Verdict { ruling: Ruling::RolledBack { reason }, .. }) = &mut journal.verdict {
            reason.push_str("; it printed last: ");
            reason.push_str(words);
        }
        journal
    }

    /// Whether `generation` was found to hold, also after the last of so many restarts.
    pub(crate) fn holds(&self, generation: Generation, restarts_asked: u64) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| {
            verdict.generation == generation
                && verdict.ruling == Ruling::Committed
                && verdict.restarts_asked >= restarts_asked
        })
    }

    /// What was decided about `generation`, if it was.
    pub(crate) fn ruling_on(&self, generation: Generation) -> Option<&Ruling> {
        self.verdict
            .as_ref()
            .filter(|verdict| verdict.generation == generation)
            .map(|verdict| &verdict.ruling)
    }

    /// The journal with the ends that the containers show and that are not in it. They count in the order of their starts:
    /// what is told of them is the same, however the engine lists them.
    pub(crate) fn with_ends(mut self, containers: &[Container]) -> Self {
        let mut containers: Vec<&Container> = containers.iter().collect();
        containers.sort_by_key(|container| match container.state {
            ContainerState::Exited { started_at, .. } => started_at,
            _ => Timestamp::default(),
        });
        containers.into_iter().for_each(|container| self.note_end(container));
        self
    }

    /// Notes that a main process has ended by itself, or was given up. By its start it is told from others: looked at once more, it is still
    /// the same.
    pub(crate) fn note_end(&mut self, container: &Container) {
        let ContainerState::Exited { started_at, ran_for, code, out_of_memory } = container.state
        else {
            return;
        };
        let is_known = |end: &ProcessEnd| end.started_at() == started_at;
        if self.has_ordered_end(container) || self.ends.iter().any(is_known) {
            return;
        }
        let number = self.ends.last().map_or(0, |end| end.number).saturating_add(1);
        let ran_for = Millis(dwell_core::clock::millis(ran_for));
        let at = Timestamp(started_at.0.saturating_add(ran_for.0));
        let given_up = self.given_up(container).map(ToOwned::to_owned);
        self.ends.push(ProcessEnd { number, at, ran_for, code, out_of_memory, given_up });
        let excess = self.ends.len().saturating_sub(ENDS_MAX);
        self.ends.drain(..excess);
    }

    /// Counts the start of a container which was in this state before.
    pub(crate) fn count_start(&mut self, container: &Container) {
        self.note_end(container);
        let by_order = self.has_ordered_end(container);
        self.ordered_ends.remove(&container.id);
        let crashes = self.crashes_before(container);
        self.given_up.remove(&container.id);
        match container.state {
            ContainerState::Exited { code, .. } if !by_order => {
                self.restarts += 1;
                self.crashes = crashes.saturating_add(1);
                self.last_exit_code = Some(code);
            }
            _ => self.crashes = 0,
        }
    }

    /// How often in a row the main process had ended soon, before the end that is seen now. What was given up may have run
    /// for long without working: that was judged when it was.
    pub(crate) fn crashes_before(&self, container: &Container) -> u32 {
        match container.state {
            _ if self.given_up(container).is_some() => self.crashes,
            ContainerState::Exited { ran_for, .. } if ran_for >= crate::pause::CALM => 0,
            _ => self.crashes,
        }
    }
}
