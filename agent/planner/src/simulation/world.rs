//! A node in miniature: an engine, its containers and sandboxes, a disk for journals, and an agent that
//! does nothing but observe, plan and carry out steps. All of it can fail at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::adopted::{self, Foreigner};
use super::carried;
use super::temper::{Temper, template};
use crate::{
    Checked, Container, ContainerState, Desired, EngineState, Failure, FailureKind, Image, Journal,
    Observed, Sandbox, Step, plan,
};
use dwell_core::clock::Timestamp;
use dwell_core::container::ContainerId;
use dwell_core::fixtures;
use dwell_core::health::Health;
use dwell_core::id::{Generation, InstanceName, Revision};
use dwell_core::image::ContainerImage;
use dwell_core::instance::Assigned;
use dwell_core::quantity::Millis;
use dwell_core::sandbox::{SandboxId, Slot};
use dwell_core::workload::{Enforced, Fingerprint, Limits, Template};

/// What becomes of a step that is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is done and said to be.
    Done,
    /// It is not done.
    Failed,
    /// It is done, but the reply is lost.
    ReplyLost,
}

/// A container as it really is.
#[derive(Clone, Debug)]
pub(crate) struct Real {
    pub(crate) instance: InstanceName,
    pub(crate) generation: Generation,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) limits: Limits,
    pub(crate) restarts_asked: u64,
    pub(crate) image: String,
    pub(crate) state: ContainerState,
    /// In which of its instance's sandboxes it runs, and the number of the one it was last started into.
    pub(crate) slot: Slot,
    pub(crate) sandbox: Option<u64>,
    /// The run in which its hook after the start was called.
    pub(crate) called: Option<Timestamp>,
    /// What its first run has written, or was carried over before.
    pub(crate) identity: Option<u64>,
    /// What it was filled from before its first start, wholly, and in which run that had written it.
    pub(crate) filled: Option<(ContainerId, Option<Timestamp>)>,
}

impl Real {
    pub(crate) fn run(&self) -> Option<Timestamp> {
        match self.state {
            ContainerState::Running { started_at } | ContainerState::Exited { started_at, .. } => {
                Some(started_at)
            }
            ContainerState::Created | ContainerState::Dead => None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }
}

/// The whole node.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) desired: BTreeMap<InstanceName, Assigned>,
    // What really is.
    pub(crate) containers: BTreeMap<ContainerId, Real>,
    /// With a number for each: another one of the same instance is another place.
    pub(crate) sandboxes: BTreeMap<SandboxId, u64>,
    /// Where the address of each instance leads.
    pub(crate) reached: BTreeMap<InstanceName, Slot>,
    pub(crate) images: BTreeSet<String>,
    pub(crate) engine_up: bool,
    pub(crate) disk: BTreeMap<InstanceName, Journal>,
    // What the agent knows.
    pub(crate) agent: Observed,
    pub(crate) in_flight: Vec<(InstanceName, Step)>,
    pub(super) generation: u64,
    serial: u64,
    /// The runs of the main process of each task that have really failed.
    pub(super) failures: BTreeMap<(InstanceName, Generation), BTreeSet<Timestamp>>,
    /// Containers that others have made, by the instance that is put in the place of one.
    pub(super) foreigners: BTreeMap<InstanceName, Foreigner>,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self {
            now: Timestamp(1_000_000),
            desired: BTreeMap::new(),
            containers: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            reached: BTreeMap::new(),
            images: BTreeSet::new(),
            engine_up: true,
            disk: BTreeMap::new(),
            agent: Observed::default(),
            in_flight: Vec::new(),
            generation: 0,
            serial: 0,
            failures: BTreeMap::new(),
            foreigners: BTreeMap::new(),
        };
        world.start_agent();
        world
    }

    // ── what people do ──────────────────────────────────────────────────────────────────────────

    /// Declares an instance, or changes its image.
    pub(crate) fn declare(&mut self, name: &InstanceName, temper: Temper, version: u8) {
        self.generation += 1;
        let generation = Generation(self.generation);
        let template = template(temper, version);
        let assigned = self.desired.entry(name.clone()).or_insert_with(|| Assigned {
            update_deadline: Millis::seconds(20),
            life: Revision(generation.0),
            ..fixtures::assigned(&name.to_string(), generation.0, template.clone())
        });
        let resources = assigned.template.resources;
        let before = std::mem::replace(&mut assigned.template, Template { resources, ..template });
        let journal = self.agent.instances.get(name).map(|seen| &seen.journal);
        let has_held = journal.is_some_and(|journal| journal.holds(assigned.generation, 0));
        let fingerprint = before.fingerprint();
        let runs = self.containers.values().any(|real| {
            let is_running = matches!(real.state, ContainerState::Running { .. });
            real.instance == *name && is_running && real.fingerprint == fingerprint
        });
        let known = if has_held { None } else { assigned.fallback.take() };
        let known = known.or_else(|| (has_held || runs).then_some(before));
        let is_other = |known: &Template| known.fingerprint() != assigned.template.fingerprint();
        assigned.fallback = known.filter(is_other);
        assigned.generation = generation;
        assigned.beside = version.is_multiple_of(2);
        self.accept();
    }

    /// Changes a declared instance without replacing its container.
    pub(crate) fn alter(&mut self, name: &InstanceName, change: impl FnOnce(&mut Assigned)) {
        self.generation += 1;
        if let Some(assigned) = self.desired.get_mut(name) {
            assigned.generation = Generation(self.generation);
            change(assigned);
        }
        self.accept();
    }

    pub(super) fn accept(&mut self) {
        for (name, assigned) in &self.desired {
            self.agent.instances.entry(name.clone()).or_default().accept(assigned, self.now);
        }
    }

    /// Whether an instance is let go, by what is on disk and what is desired.
    pub(crate) fn is_let_go(&self, name: &InstanceName) -> bool {
        let at = self.disk.get(name).and_then(|journal| journal.let_go);
        let has_containers = || self.containers.values().any(|real| real.instance == *name);
        at.is_some_and(|at| match self.desired.get(name) {
            Some(assigned) => assigned.custody.leaves(at),
            None => has_containers(),
        })
    }

    pub(crate) fn kill(&mut self, id: &ContainerId, code: i32) {
        let now = self.now;
        if let Some(real) = self.containers.get_mut(id)
            && let ContainerState::Running { started_at } = real.state
        {
            let ran_for = now.since(started_at);
            real.state = ContainerState::Exited { started_at, ran_for, code, out_of_memory: false };
        }
    }

    // ── what the agent does ─────────────────────────────────────────────────────────────────────

    /// The agent ends without a word and starts again; of the steps under way, the engine still does
    /// those of which `done` says so.
    pub(crate) fn restart_agent(&mut self, mut done: impl FnMut() -> bool) {
        for (name, step) in std::mem::take(&mut self.in_flight) {
            if done() {
                drop(self.take_effect(&name, &step));
            }
        }
        self.start_agent();
    }

    fn start_agent(&mut self) {
        self.agent = Observed::default();
        for (name, journal) in &self.disk {
            self.agent.instances.entry(name.clone()).or_default().remember(journal.clone());
        }
        self.accept();
        self.observe_all();
        for sandbox in self.sandboxes.keys() {
            self.agent.instances.entry(sandbox.instance.clone()).or_default();
        }
        for (name, seen) in &mut self.agent.instances {
            for slot in Slot::ALL {
                let is_there = self.sandboxes.contains_key(&place(name, slot));
                let sandbox = if is_there { Sandbox::Doubtful } else { Sandbox::Absent };
                seen.sandboxes.set(slot, sandbox);
            }
        }
    }

    pub(crate) fn observe_all(&mut self) {
        if !self.engine_up {
            self.agent.engine = EngineState::Away { reason: "no answer".into() };
            return;
        }
        if self.agent.engine != EngineState::Ready {
            self.agent.ready_since = self.now;
        }
        self.agent.engine = EngineState::Ready;
        for real in self.containers.values() {
            self.agent.instances.entry(real.instance.clone()).or_default();
        }
        let names: Vec<_> = self.agent.instances.keys().cloned().collect();
        for name in names {
            self.observe(&name);
        }
        self.agent
            .instances
            .retain(|name, seen| self.desired.contains_key(name) || !seen.is_nothing());
    }

    /// The agent looks at the containers of one instance.
    pub(crate) fn observe(&mut self, name: &InstanceName) {
        if !self.engine_up {
            self.agent.engine = EngineState::Away { reason: "no answer".into() };
            return;
        }
        let seen = self.agent.instances.entry(name.clone()).or_default();
        let before = std::mem::take(&mut seen.containers);
        let real = self.containers.iter().filter(|(_, real)| &real.instance == name);
        seen.containers = real
            .map(|(id, real)| {
                let known = before.iter().find(|one| one.id == *id && one.state == real.state);
                Container {
                    id: id.clone(),
                    generation: real.generation,
                    life: Revision::default(),
                    slot: real.slot,
                    address: None,
                    fingerprint: real.fingerprint.clone(),
                    limits: real.limits,
                    enforced: Enforced::ALL,
                    restarts_asked: real.restarts_asked,
                    stop_grace: None,
                    image: ContainerImage::default(),
                    state: real.state,
                    since: known.map_or(self.now, |known| known.since),
                    health: {
                        let known = known.map(|known| known.health.clone());
                        let mut checked = known.unwrap_or_default();
                        let health = match Temper::of(&real.image) {
                            Temper::Good | Temper::Busy | Temper::Uncalled => Health::Healthy,
                            Temper::Sick => Health::Unhealthy,
                            _ => Health::Starting,
                        };
                        checked.hear(health, String::new(), self.now);
                        checked
                    },
                    readiness: {
                        let mut checked = Checked::default();
                        let health = match Temper::of(&real.image) {
                            Temper::Good | Temper::Uncalled => Health::Healthy,
                            _ => Health::Starting,
                        };
                        checked.hear(health, String::new(), self.now);
                        checked
                    },
                    stale: false,
                }
            })
            .collect();
    }

    pub(crate) fn desired_set(&self) -> Desired {
        self.desired.values().cloned().collect()
    }

    /// One round of planning: the steps are under way, images are fetched.
    pub(crate) fn plan(&mut self) -> crate::Plan {
        let plan = plan(&self.desired_set(), &self.agent, self.now);
        for image in &plan.pulls {
            let state = self.agent.images.remove(image).unwrap_or(Image::Missing);
            if Temper::of(image) == Temper::Absent {
                let failure = failure(FailureKind::Permanent, "no such image");
                self.agent
                    .images
                    .insert(image.clone(), state.pulling(self.now).failed(failure, self.now));
            } else {
                self.images.insert(image.clone());
            }
        }
        for (name, step) in &plan.steps {
            let takes_last = match (step, self.desired.get(name)) {
                (Step::Remove { container }, Some(assigned)) => {
                    let all = &self.agent.instances[name].containers;
                    // What did other work has no part in this.
                    let least = assigned.task.map(|task| task.number).unwrap_or_default();
                    all.len() == 1
                        && !adopted::takes_all_away(self, name)
                        && all.iter().any(|one| one.id == *container && one.generation >= least)
                }
                _ => false,
            };
            assert!(!takes_last, "{step:?} takes the last container of {name}, which is desired");
            carried::check(self, name, step);
            self.agent.instances.entry(name.clone()).or_default().busy = Some(step.clone());
            self.in_flight.push((name.clone(), step.clone()));
        }
        plan
    }

    /// A step that is under way ends. Returns whether the agent learns that it was done.
    pub(crate) fn finish(&mut self, index: usize, fate: Fate) -> bool {
        let (name, step) = self.in_flight.swap_remove(index);
        let needs_engine = !matches!(
            step,
            Step::EnsureSandbox { .. }
                | Step::RepairSandbox { .. }
                | Step::RemoveSandbox { .. }
                | Step::Record(_)
                | Step::Forget
        );
        if fate == Fate::Failed {
            self.carry_half(&step);
            self.adopt_half(&name, &step);
        }
        let outcome = if fate == Fate::Failed || (needs_engine && !self.engine_up) {
            Err(failure(FailureKind::Transient, "it was made to fail"))
        } else {
            match self.take_effect(&name, &step) {
                Ok(()) if fate == Fate::ReplyLost => {
                    Err(failure(FailureKind::Transient, "no reply"))
                }
                result => result,
            }
        };
        let is_done = outcome.is_ok();
        let is_uncalled = match &step {
            Step::AfterStart { container, .. } => {
                let real = self.containers.get(container);
                real.is_some_and(|real| Temper::of(&real.image) == Temper::Uncalled)
            }
            _ => false,
        };
        let now = self.now;
        let seen = self.agent.instances.entry(name.clone()).or_default();
        match outcome {
            Ok(()) if is_uncalled => seen.hook_failed(&step, "its hook after_start failed", now),
            Ok(()) => seen.succeeded(&step),
            Err(failure) => {
                if let (FailureKind::ImageMissing, Some(assigned)) =
                    (failure.kind, self.desired.get(&name))
                {
                    let image = assigned.template.image.clone();
                    self.agent.images.entry(image).or_insert(Image::Missing);
                }
                seen.failed(&step, failure, now);
            }
        }
        self.observe(&name);
        is_done
    }

    // ── what the engine does ────────────────────────────────────────────────────────────────────

    fn take_effect(&mut self, name: &InstanceName, step: &Step) -> Result<(), Failure> {
        // Time goes on with every step: no two runs of a container begin at the same moment.
        self.now = self.now.after(Duration::from_millis(1));
        let gone = || failure(FailureKind::Transient, "no such container");
        let leaves_alone = matches!(step, Step::Record(_) | Step::RepairSandbox { .. });
        assert!(leaves_alone || !self.is_let_go(name), "{step:?} of {name}, which was let go");
        match step {
            Step::Create { generation, slot } => return self.create(name, *generation, *slot),
            Step::EnsureSandbox { slot, reached } => {
                self.serial += 1;
                let number = self.serial;
                self.sandboxes.entry(place(name, *slot)).or_insert(number);
                self.lead(name, *slot, *reached);
            }
            Step::RepairSandbox { slot, reached } => {
                if !self.sandboxes.contains_key(&place(name, *slot)) {
                    return Err(failure(FailureKind::SandboxLost, "it is lost"));
                }
                self.lead(name, *slot, *reached);
            }
            Step::RemoveSandbox { slot } => {
                let is_inside =
                    |real: &Real| real.instance == *name && real.slot == *slot && real.is_running();
                assert!(!self.containers.values().any(is_inside), "{name} runs in slot {slot}");
                self.sandboxes.remove(&place(name, *slot));
            }
            Step::StopForeign(_) | Step::KeepForeign(_) | Step::StartForeign(_) => {
                return self.adopt(name, step);
            }
            Step::Record(journal) => {
                self.order_ends(name, journal);
                self.note_foreigner(name, journal);
                drop(self.disk.insert(name.clone(), Journal::clone(journal)));
            }
            Step::Forget => drop(self.disk.remove(name)),
            Step::Carry { from, into, .. } => return self.carry(from, into),
            Step::Start { container } => return self.start(container),
            Step::AfterStart { container, .. } => {
                let real = self.containers.get_mut(container).ok_or_else(gone)?;
                let ContainerState::Running { started_at } = real.state else {
                    return Err(failure(FailureKind::Transient, "it does not run"));
                };
                real.called = Some(started_at);
            }
            Step::Stop { container, before, .. } => {
                let real = self.containers.get(container).ok_or_else(gone)?;
                let known = self.desired.get(name);
                let known = known.filter(|one| one.template.hooks.before_stop.is_some());
                let is_known = known.is_some_and(|one| one.fingerprint() == real.fingerprint);
                assert!(before.is_some() || !is_known, "{container} is stopped without its hook");
                self.kill(container, 143);
            }
            Step::Remove { container } => {
                if let Some(real) = self.containers.remove(container) {
                    assert!(!real.is_running(), "{step:?} of a running container");
                }
            }
            Step::UpdateLimits { container, limits, .. } => {
                self.containers.get_mut(container).ok_or_else(gone)?.limits = *limits;
            }
        }
        Ok(())
    }

    /// What runs and serves is not left before what takes its place runs as well.
    fn lead(&mut self, name: &InstanceName, slot: Slot, reached: bool) {
        if !reached {
            return;
        }
        let runs = |slot: Slot| {
            let mut own = self.containers.values().filter(|real| real.instance == *name);
            own.any(|real| real.slot == slot && real.is_running())
        };
        let before = self.reached.get(name).copied();
        let is_left = before.is_some_and(|before| before != slot && runs(before));
        assert!(!is_left || runs(slot), "{name} is led away from what runs to what does not");
        self.reached.insert(name.clone(), slot);
    }

    fn create(
        &mut self,
        name: &InstanceName,
        generation: Generation,
        slot: Slot,
    ) -> Result<(), Failure> {
        // The agent would carry out the step with what was desired when it was planned.
        let desired = self.desired.get(name);
        let Some(assigned) = desired.and_then(|one| one.of_generation(generation)) else {
            return Err(failure(FailureKind::Transient, "overtaken"));
        };
        let is_taken = |real: &Real| real.instance == *name && real.generation == generation;
        if self.containers.values().any(is_taken) {
            return Err(failure(FailureKind::Transient, "exists"));
        }
        if !self.images.contains(&assigned.template.image) {
            return Err(failure(FailureKind::ImageMissing, "no such image here"));
        }
        self.serial += 1;
        let real = Real {
            instance: name.clone(),
            generation,
            fingerprint: assigned.fingerprint(),
            limits: assigned.template.limits(),
            restarts_asked: assigned.restarts_asked,
            image: assigned.template.image.clone(),
            state: ContainerState::Created,
            slot,
            sandbox: None,
            called: None,
            identity: None,
            filled: None,
        };
        self.containers.insert(ContainerId(format!("c{:05}", self.serial)), real);
        Ok(())
    }

    fn start(&mut self, id: &ContainerId) -> Result<(), Failure> {
        let Some(real) = self.containers.get(id) else {
            return Err(failure(FailureKind::Transient, "no such container"));
        };
        let (name, slot) = (real.instance.clone(), real.slot);
        let Some(sandbox) = self.sandboxes.get(&place(&name, slot)).copied() else {
            return Err(failure(FailureKind::Transient, "no sandbox"));
        };
        let twin = self
            .containers
            .iter()
            .find(|(other, real)| *other != id && real.instance == name && real.is_running());
        let is_beside = self.desired.get(&name).is_some_and(|assigned| assigned.beside);
        let is_apart = twin.is_none_or(|(_, twin)| {
            is_beside && twin.slot != slot && self.reached.get(&name) == Some(&twin.slot)
        });
        assert!(is_apart, "{id} started while {twin:?} runs");
        self.check_task(&name);
        adopted::check_start(self, &name);
        if Temper::of(&real.image) == Temper::Broken {
            return Err(failure(FailureKind::Permanent, "no such command"));
        }
        let started_at = self.now;
        if let Some(real) = self.containers.get_mut(id).filter(|real| !real.is_running()) {
            real.state = ContainerState::Running { started_at };
            real.sandbox = Some(sandbox);
            real.identity.get_or_insert(started_at.0);
        }
        Ok(())
    }

    /// Time passes, and main processes that end soon do.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        let ending: Vec<_> = self
            .containers
            .iter()
            .filter(|(_, real)| real.is_running())
            .filter_map(|(id, real)| {
                let code = match Temper::of(&real.image) {
                    Temper::Crashes => 1,
                    Temper::Works => 0,
                    _ => return None,
                };
                Some((id.clone(), real.instance.clone(), code))
            })
            .collect();
        for (id, instance, code) in ending {
            self.end_by_itself(&id, code);
            self.observe(&instance);
        }
    }

    /// Without further faults: observes, plans and carries out until nothing is left to do, or only
    /// to try again what cannot succeed. Returns the number of steps that did something.
    pub(crate) fn settle(&mut self) -> usize {
        self.engine_up = true;
        self.observe_all();
        let horizon = self.now.after(Duration::from_secs(600));
        let mut steps = 0;
        while self.now < horizon {
            while !self.in_flight.is_empty() {
                steps += usize::from(self.finish(0, Fate::Done));
            }
            let plan = self.plan();
            if plan.is_empty() {
                break;
            }
            if plan.steps.is_empty() && plan.pulls.is_empty() {
                let until = plan.wake_at.unwrap_or(self.now);
                self.pass(until.since(self.now).max(Duration::from_millis(1)));
                self.observe_all();
            }
        }
        steps
    }
}

fn place(instance: &InstanceName, slot: Slot) -> SandboxId {
    SandboxId { instance: instance.clone(), slot }
}

pub(super) fn failure(kind: FailureKind, message: &str) -> Failure {
    Failure { kind, message: message.to_owned() }
}
