//! What was seen: the half of a plan's input that the node says.

mod sandboxes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::container::ContainerId;
use dwell_core::health::{Health, HealthCheck};
use dwell_core::id::{Generation, InstanceName, Revision};
use dwell_core::image::ContainerImage;
use dwell_core::instance::{Assigned, HookFailed, REASON_MAX, sanitize};
use dwell_core::quantity::Millis;
use dwell_core::registry::RegistryHost;
use dwell_core::sandbox::Slot;
use dwell_core::workload::{Enforced, Fingerprint, Limits, Template};

use crate::decide::{best_match, current, let_go};
use crate::desired::Desired;
use crate::journal::{Journal, Ruling, TakenOver};
use crate::lease::Leases;
use crate::pause;
use crate::step::{Failure, FailureKind, Step};
use crate::target::Target;
pub use sandboxes::{Sandbox, Sandboxes};

/// All that was seen on the node, and what is remembered about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether the engine answers.
    pub engine: EngineState,
    /// Since when it has been [`EngineState::Ready`] without interruption, or was last. Whatever an engine is
    /// given a time for is given that time from here at the earliest: it can do nothing while it is away.
    pub ready_since: Timestamp,
    /// Everything about the instances of which something is here.
    pub instances: BTreeMap<InstanceName, Seen>,
    /// Images known not to be here; one that is not listed is taken to be.
    pub images: BTreeMap<String, Image>,
    /// What of the instances is lent to the node.
    pub leases: Leases,
    /// When images were fetched last, as far as that was since the agent's start and they are still wanted.
    pub fetched: BTreeMap<String, Timestamp>,
}

impl Observed {
    /// What a registry refused is asked for again at once if the login there is another one now.
    pub fn retry_pulls(&mut self, before: &Desired, after: &Desired, now: Timestamp) {
        let is_other =
            |host: &RegistryHost| before.registries().get(host) != after.registries().get(host);
        if before.registries() == after.registries() {
            return;
        }
        for (image, state) in &mut self.images {
            if let Image::Failed(trouble) = state
                && RegistryHost::of(image).is_some_and(|host| is_other(&host))
            {
                trouble.retry_at = trouble.retry_at.min(now);
            }
        }
    }

    /// Every instance that is desired or seen, in the order of the names.
    pub(crate) fn with_targets<'a>(
        &'a self,
        desired: &'a Desired,
    ) -> impl Iterator<Item = (&'a InstanceName, Option<&'a Target>, &'a Seen)> {
        static NOTHING: LazyLock<Seen> = LazyLock::new(Seen::default);
        let names: BTreeSet<_> = desired.instances().keys().chain(self.instances.keys()).collect();
        names
            .into_iter()
            .map(|name| (name, desired.get(name), self.instances.get(name).unwrap_or(&NOTHING)))
    }
}

/// Whether the engine answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EngineState {
    /// It does, and what was seen of its containers is complete.
    Ready,
    /// It does not: nothing is known about containers.
    Away {
        /// Why, for people.
        reason: String,
    },
    /// It has not been asked yet.
    #[default]
    Unknown,
}

/// Everything about one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its containers.
    pub containers: Vec<Container>,
    /// Its sandboxes.
    pub sandboxes: Sandboxes,
    /// What outlives the agent.
    pub journal: Journal,
    /// What of that is on disk.
    pub stored: Journal,
    /// Which life of the instance is desired, or was last.
    pub life: Revision,
    /// The highest generation that was desired in this life; a lower one is out of date.
    pub accepted: Generation,
    /// How many restarts were asked for at most.
    pub restarts_asked: u64,
    /// When either of them grew last, as far as this agent knows.
    pub accepted_at: Timestamp,
    /// The step that failed last and has not succeeded since.
    pub trouble: Option<(Step, Trouble)>,
    /// The step that is under way: nothing is planned until it is done.
    pub busy: Option<Step>,
    /// Whether what is known of its containers may be wrong: nothing is planned until somebody has looked.
    pub in_doubt: bool,
    /// Why its containers cannot be looked at, for people: until they are, nothing is known of them.
    pub unseen: Option<String>,
    /// The run whose hook after the start has failed, and why.
    pub failed_hook: Option<FailedHook>,
    /// What was carried over last. After a restart of the agent it is done again, which changes nothing.
    pub carried: Option<Carried>,
    /// How far the container that dwell did not make is taken over, as far as this agent has done it. After a restart of the agent it
    /// is done again, which changes nothing.
    pub taken: Taken,
    /// Whether a container that could not be started was given up and none has been started since.
    pub gave_up_container: bool,
}

impl Seen {
    /// One of its containers.
    #[must_use]
    pub fn container(&self, id: &ContainerId) -> Option<&Container> {
        self.containers.iter().find(|container| &container.id == id)
    }

    /// The container that did not hold, if `journal` rolls the target back and what is on disk does not yet.
    #[must_use]
    pub fn newly_ruled_out(&self, target: &Target, journal: &Journal) -> Option<&Container> {
        let rolls_back = |journal: &Journal| {
            let ruling = journal.ruling_on(target.assigned.generation);
            matches!(ruling, Some(Ruling::RolledBack { .. }))
        };
        let is_news = rolls_back(journal) && !rolls_back(&self.stored);
        best_match(current(self, target), target).filter(|_| is_news)
    }

    /// Takes note of what is desired: an older generation is recognised later, and what is remembered of another
    /// life of the instance is not true of this one.
    pub fn accept(&mut self, assigned: &Assigned, now: Timestamp) {
        if assigned.life != self.life {
            self.life = assigned.life;
            self.accepted = Generation::default();
            self.restarts_asked = 0;
            self.taken = Taken::No;
            self.journal = std::mem::take(&mut self.journal).in_life(self.life);
        }
        if assigned.generation > self.accepted || assigned.restarts_asked > self.restarts_asked {
            self.accepted = self.accepted.max(assigned.generation);
            self.restarts_asked = self.restarts_asked.max(assigned.restarts_asked);
            self.accepted_at = now;
        }
    }

    /// Takes in the journal that was found on disk.
    pub fn remember(&mut self, journal: Journal) {
        self.stored = journal.clone();
        self.journal = journal.in_life(self.life);
    }

    /// Whether the instance is let go, by what is on disk and what is desired: nobody touches what runs of it.
    #[must_use]
    pub fn is_let_go(&self, target: Option<&Target>) -> bool {
        let_go(target, self).is_some()
    }

    /// Whether nothing of the instance is here and nothing is under way, so that it can be forgotten
    /// unless it is desired.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.containers.is_empty()
            && self.sandboxes.are_absent()
            && self.stored == Journal::default()
            && self.busy.is_none()
            && !self.in_doubt
    }

    /// Takes note that the hook of a step has failed. That is no failure of the step: a stop was done all the same, and what
    /// has to be done about a start is decided anew.
    pub fn hook_failed(&mut self, step: &Step, reason: &str, now: Timestamp) {
        self.busy = None;
        let reason = sanitize(reason, REASON_MAX);
        match step {
            Step::AfterStart { container, .. } => {
                let run = self.container(container).and_then(Container::run);
                let failed = |run| FailedHook { container: container.clone(), run, reason };
                self.failed_hook = run.map(failed);
            }
            Step::Stop { .. } => self.journal.hook_failed = Some(HookFailed { at: now, reason }),
            _ => {}
        }
    }

    /// Takes note that a step was done. To be called before what the step changed is observed.
    pub fn succeeded(&mut self, step: &Step) {
        self.busy = None;
        if self.trouble.as_ref().is_some_and(|(failed, _)| failed.is_like(step)) {
            self.trouble = None;
        }
        match step {
            Step::Start { container } => {
                let before = self.containers.iter().find(|one| &one.id == container);
                if let Some(before) = before {
                    self.journal.count_start(before);
                }
                self.gave_up_container = false;
            }
            Step::Remove { container } => {
                if let Some(removed) = self.containers.iter().find(|one| &one.id == container) {
                    self.journal.note_end(removed);
                }
                let start = Step::Start { container: container.clone() };
                if self.trouble.take_if(|(failed, _)| *failed == start).is_some() {
                    self.gave_up_container = true;
                }
            }
            Step::Carry { from, into, paths } => {
                let run = self.container(from).and_then(Container::run);
                let (from, into, paths) = (from.clone(), into.clone(), paths.clone());
                self.carried = Some(Carried { from, run, into, paths });
            }
            Step::AfterStart { container, .. } => {
                let run = self.container(container).and_then(Container::run);
                let containers = &self.containers;
                let started = &mut self.journal.started;
                started.retain(|id, _| containers.iter().any(|one| one.id == *id));
                started.extend(run.map(|run| (container.clone(), run)));
            }
            Step::Record(journal) => {
                self.remember(Journal::clone(journal));
                if !self.journal.taken_over.as_ref().is_some_and(TakenOver::is_open) {
                    self.taken = Taken::No;
                }
            }
            Step::Forget => self.remember(Journal::default()),
            Step::EnsureSandbox { slot, reached } | Step::RepairSandbox { slot, reached } => {
                self.sandboxes.made(*slot, *reached);
            }
            Step::RemoveSandbox { slot } => self.sandboxes.set(*slot, Sandbox::Absent),
            Step::StopForeign(_) => self.taken = Taken::Stopped,
            Step::KeepForeign(_) => self.taken = Taken::Kept,
            Step::StartForeign(_) => self.taken = Taken::Returned,
            Step::Create { .. } | Step::Stop { .. } | Step::UpdateLimits { .. } => {}
        }
    }

    /// Takes note that a step failed.
    pub fn failed(&mut self, step: &Step, failure: Failure, now: Timestamp) {
        self.busy = None;
        if failure.kind == FailureKind::SandboxLost {
            // That is no trouble of the step: somebody has looked, and there is none.
            if let Step::EnsureSandbox { slot, .. } | Step::RepairSandbox { slot, .. } = step {
                self.sandboxes.set(*slot, Sandbox::Absent);
            }
            return;
        }
        // The disk may have it all the same, and an end that was seen is one, whatever becomes of its container.
        if let Step::Record(journal) = step
            && journal.task != self.journal.task
        {
            self.journal = Journal::clone(journal).in_life(self.life);
        }
        let earlier = self.trouble.take().filter(|(failed, _)| failed.is_like(step));
        let trouble = Trouble::after(earlier.as_ref().map(|(_, trouble)| trouble), failure, now);
        // The sandbox may be what the start lacked.
        if let Step::Start { container } = step
            && !trouble.is_permanent()
            && let Some(slot) = self.container(container).map(|container| container.slot)
        {
            self.sandboxes.doubt(slot);
        }
        if matches!(step, Step::StopForeign(_) | Step::KeepForeign(_) | Step::StartForeign(_)) {
            // Somebody may have started it again.
            self.taken = Taken::No;
        }
        self.trouble = Some((step.clone(), trouble));
    }
}

/// How far a container that dwell did not make is taken over, by this agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Taken {
    /// It is not known to be stopped.
    #[default]
    No,
    /// It was stopped.
    Stopped,
    /// Its files are kept, too.
    Kept,
    /// It was started again.
    Returned,
}

/// Files that were carried over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// From which container.
    pub from: ContainerId,
    /// Which of its runs was the last by then: another one may have changed them.
    pub run: Option<Timestamp>,
    /// Into which container.
    pub into: ContainerId,
    /// Which.
    pub paths: Vec<String>,
}

/// A run whose hook after the start has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedHook {
    /// Of which container.
    pub container: ContainerId,
    /// Which run, by when it was started.
    pub run: Timestamp,
    /// Why, for people.
    pub reason: String,
}

/// A container as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name with the engine.
    pub id: ContainerId,
    /// The generation it was made for.
    pub generation: Generation,
    /// The life of its instance that it was made in; 0 if that is not written on it.
    pub life: Revision,
    /// In which of its instance's sandboxes it runs.
    pub slot: Slot,
    /// The address that it was made for; `None` if that is not written on it.
    pub address: Option<Ipv4Addr>,
    /// What it was made from.
    pub fingerprint: Fingerprint,
    /// The limits it has now.
    pub limits: Limits,
    /// Which limits it can be held to.
    pub enforced: Enforced,
    /// How many restarts had been asked for when it was made.
    pub restarts_asked: u64,
    /// How long its main process may take to end, as was declared when it was made; `None` if that is not
    /// written on it.
    pub stop_grace: Option<Millis>,
    /// The image it was made from.
    pub image: ContainerImage,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Whether the engine takes it for running although its process has ended, by the kernel's word.
    pub stale: bool,
    /// When it was first seen in this state, by the agent's clock. All pauses and deadlines count from
    /// here: the engine's clock may have been set since.
    pub since: Timestamp,
    /// What its health check says.
    pub health: Checked,
    /// What its readiness check says.
    pub readiness: Checked,
}

/// One of the checks of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// Whether it works.
    Health,
    /// Whether others can use it.
    Readiness,
}

impl Check {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Health, Self::Readiness];

    /// How a template has it done.
    #[must_use]
    pub fn of(self, template: &Template) -> Option<&HealthCheck> {
        match self {
            Self::Health => template.healthcheck.as_ref(),
            Self::Readiness => template.readiness.as_ref(),
        }
    }
}

/// What a check says of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The verdict.
    pub health: Health,
    /// Since when it has been [`Health::Unhealthy`] without interruption, by the agent's clock.
    pub unhealthy_since: Option<Timestamp>,
    /// What the last probe failed with, for people; empty if it passed.
    pub complaint: String,
}

impl Checked {
    /// Takes in what the check says now.
    pub fn hear(&mut self, health: Health, complaint: String, now: Timestamp) {
        let since = self.unhealthy_since.filter(|_| self.health == health);
        self.unhealthy_since = (health == Health::Unhealthy).then(|| since.unwrap_or(now));
        self.health = health;
        self.complaint = complaint;
    }
}

impl Container {
    /// Whether it is held to these limits, as far as it can be.
    #[must_use]
    pub fn is_limited_to(&self, asked: Limits) -> bool {
        self.limits == self.enforced.of(asked)
    }

    /// Whether its main process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }

    /// What a check says of it.
    #[must_use]
    pub fn checked(&self, check: Check) -> &Checked {
        match check {
            Check::Health => &self.health,
            Check::Readiness => &self.readiness,
        }
    }

    /// The same, to be changed.
    pub fn checked_mut(&mut self, check: Check) -> &mut Checked {
        match check {
            Check::Health => &mut self.health,
            Check::Readiness => &mut self.readiness,
        }
    }

    /// What tells its present (or last) run from others: when it was started, by the engine's clock.
    #[must_use]
    pub fn run(&self) -> Option<Timestamp> {
        match self.state {
            ContainerState::Running { started_at } | ContainerState::Exited { started_at, .. } => {
                Some(started_at)
            }
            ContainerState::Created | ContainerState::Dead => None,
        }
    }
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made and never started.
    Created,
    /// Its main process runs.
    Running {
        /// Since when, by the engine's clock.
        started_at: Timestamp,
    },
    /// Its main process has ended.
    Exited {
        /// When it was started, by the engine's clock.
        started_at: Timestamp,
        /// How long it ran.
        ran_for: Duration,
        /// With what it ended.
        code: i32,
        /// Whether the OOM killer ended it.
        out_of_memory: bool,
    },
    /// Half removed: all that can be done is to remove it again.
    Dead,
}

/// An image that is not on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// It has to be fetched.
    Missing,
    /// It is being fetched.
    Pulling {
        /// How far that is, for people.
        progress: String,
        /// When it last got any further.
        since: Timestamp,
        /// How it failed before.
        earlier: Option<Trouble>,
    },
    /// It could not be fetched.
    Failed(Trouble),
}

impl Image {
    /// The state when a pull begins.
    #[must_use]
    pub fn pulling(self, now: Timestamp) -> Self {
        Self::Pulling { progress: String::new(), since: now, earlier: self.into_trouble() }
    }

    /// Takes note of how far a pull is.
    pub fn progress(&mut self, text: String, now: Timestamp) {
        if let Self::Pulling { progress, since, .. } = self
            && *progress != text
        {
            *progress = text;
            *since = now;
        }
    }

    /// The state when a pull has failed.
    #[must_use]
    pub fn failed(self, failure: Failure, now: Timestamp) -> Self {
        Self::Failed(Trouble::after(self.into_trouble().as_ref(), failure, now))
    }

    fn into_trouble(self) -> Option<Trouble> {
        match self {
            Self::Missing => None,
            Self::Pulling { earlier, .. } => earlier,
            Self::Failed(trouble) => Some(trouble),
        }
    }
}

/// Something that fails, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// How often it failed in a row.
    pub attempts: u32,
    /// When it first did.
    pub since: Timestamp,
    /// When it is tried again.
    pub retry_at: Timestamp,
    /// The last failure.
    pub failure: Failure,
}

impl Trouble {
    fn after(earlier: Option<&Self>, failure: Failure, now: Timestamp) -> Self {
        let attempts = earlier.map_or(0, |trouble| trouble.attempts).saturating_add(1);
        Self {
            attempts,
            since: earlier.map_or(now, |trouble| trouble.since),
            retry_at: now.after(pause::after_failure(failure.kind, attempts)),
            failure,
        }
    }

    /// Whether only somebody can mend it.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.failure.kind == FailureKind::Permanent
    }
}
