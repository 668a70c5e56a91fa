//! Bringing instances to what their workload declares, a few at a time.
//!
//! ```text
//!             declared otherwise,            its turn           its node found that it holds
//!   Current ── node drains, restart ──▶ Due ──────────▶ Updating ──────────────▶ Current (or Due)
//!                                        ▲                  │ its node found that it does not: the version is ruled
//!                                        └──────────────────┘ out, and the rollout pauses
//! ```
//!
//! A turn ends with the verdict of the node ([`dwell_core::instance::Verdict`]), not with the first sight of a running process. A
//! version is ruled out whenever a node tells that an instance did not hold with it, also when the turn seemed to be over; see
//! `versions.rs`.
//!
//! One instance's turn does everything it needs at once: the newest version, a restart, a move. At most
//! `parallelism` instances of a workload are `Updating`. While the rollout is paused no instance gets a
//! new version, but moves and restarts go on; one that moves takes along what it held with. An instance whose node is not heard of does not get its
//! turn, and one that was being changed when its node went silent keeps its turn: nobody knows how far
//! it came, so no further instance is risked. One whose node found that it does not work, and has nothing to put
//! back, keeps its turn too; but it holds up no other that has to leave its node, unless it is a drain that took it from where it
//! did well: see `drains.rs`.
//!
//! Live changes that can do no harm, and changes of what does not run, wait for nobody: see [`Model::adopt`]. What would
//! outgrow its node moves to one with room; if there is none, it stays as it is and says why.

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::change::{self, ChangeClass};
use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, WorkloadName};
use dwell_core::instance::{InstanceStatus, Outcome, Phase, RunState};
use dwell_core::node::NodeState;

use super::Model;
use super::drains::Turn;
use super::object::{Instance, Leaving, Severity, Subject, UpdateState, WaitingCause, Workload};
use super::record::{Key, Record};
use super::settle::Destination;

/// What an instance's turn has to bring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Needs {
    version: bool,
    restart: bool,
    leave: bool,
}

impl Needs {
    fn any(self) -> bool {
        self.version || self.restart || self.leave
    }
}

impl Model {
    /// Takes in a new declaration for one instance: what need not wait is done, the rest is noted as
    /// due. Returns how the change reaches it.
    pub(super) fn adopt(&mut self, workload: &Workload, instance: &Instance) -> ChangeClass {
        let Some(newest) = self.newest(&workload.spec.name) else { return ChangeClass::None };
        if instance.rests() {
            return ChangeClass::None;
        }
        let is = &instance.made_from(&instance.wanted.template);
        let says = &instance.made_from(&newest.form.template);
        let class = ChangeClass::between(is, says);
        let needs = self.needs(workload, instance);
        let quiet = instance.node.is_none() || instance.run == RunState::Stopped;
        let class = match class {
            // Its node has found that it does not hold, and finds nothing new about the generation that it knows.
            ChangeClass::None if needs.version && self.is_tried_in_vain(instance) => {
                ChangeClass::InPlace
            }
            class => class,
        };
        let has_failed = self.failed_with_newest(instance).is_some();
        let class = if has_failed { ChangeClass::None } else { class };
        let harmless = class == ChangeClass::Live && !change::can_hurt(is, says);
        let tried_first = self.canaries(workload).is_some();
        let at_once = (harmless || (quiet && needs.version && !tried_first) || class == ChangeClass::None)
            && workload.paused.is_none()
            // On its way, it has room where it goes for what it is.
            && instance.leaving.is_none()
            && self.lacks_an_agent(instance).is_none()
            && !self.outgrows(workload, instance);
        if at_once && needs.version {
            let mut next = self.given(instance, &newest.form);
            if class != ChangeClass::None {
                next.generation = self.next_generation(instance);
            }
            next = next.with_version_of(instance);
            // Otherwise its turn is not over, or has to be taken again.
            if quiet || matches!(next.update, UpdateState::Current | UpdateState::Due) {
                next.update = UpdateState::Current;
                if self.needs(workload, &next).any() {
                    next.update = UpdateState::Due;
                }
            }
            self.put_instance(next);
        } else if needs.any() {
            let keep = instance.update == UpdateState::Updating && !needs.version;
            let update = if keep { UpdateState::Updating } else { UpdateState::Due };
            self.put_instance(Instance { update, ..instance.clone() });
        } else if instance.update == UpdateState::Due {
            self.put_instance(Instance { update: UpdateState::Current, ..instance.clone() });
        }
        self.refresh_waiting(workload, &instance.name);
        match needs {
            Needs { leave: true, .. } => ChangeClass::Move,
            _ => class,
        }
    }

    /// Gives the instances that are due their turn, as far as the workload's policy allows.
    /// `again` are instances that waited for a node to fit, and may have got one.
    pub(super) fn roll(
        &mut self,
        name: &WorkloadName,
        again: &BTreeSet<InstanceName>,
        now: Timestamp,
    ) {
        self.prove(name, now);
        let is_fetched = self.is_fetched(name, now);
        let (mut after, mut asked) = (None, 0);
        while let Some(instance) = self.next_due(name, after.as_ref(), again) {
            let Some(workload) = self.tables.workloads().get(name).cloned() else { return };
            let most = workload.spec.update.parallelism.of(workload.spec.replicas);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            match self.turn_of(name, most, &instance, asked) {
                Turn::Given { only_leave } => {
                    self.work.looks += 1;
                    asked += usize::from(
                        self.take_turn(&workload, &instance, only_leave, is_fetched, now),
                    );
                }
                Turn::Later => {}
                Turn::Nobody => return,
            }
            after = Some(instance);
        }
    }

    /// Whether an instance does not work as it is to be, with nothing to put back: all it does is try again.
    pub(super) fn is_failing(&self, name: &InstanceName) -> bool {
        let Some(instance) = self.tables.instances().get(name) else { return false };
        let observed = self.tables.observed().get(name);
        observed.is_some_and(|seen| {
            let verdict = seen.status.verdict_on(instance.generation);
            matches!(verdict, Some(Outcome::Failing { .. }))
        })
    }

    /// With `only_leave`, nothing is done but to let it leave its node. Returns whether the turn waits for an answer
    /// of the scheduler.
    fn take_turn(
        &mut self,
        workload: &Workload,
        name: &InstanceName,
        only_leave: bool,
        is_fetched: bool,
        now: Timestamp,
    ) -> bool {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return false };
        let heard = instance.node.as_ref().is_none_or(|node| self.is_ready(node));
        if instance.leaving.is_some() || !heard {
            return false;
        }
        let mut needs = self.needs(workload, &instance);
        if !needs.any() {
            if instance.update == UpdateState::Due {
                self.put_instance(Instance {
                    update: UpdateState::Current,
                    ..Instance::clone(&instance)
                });
            }
            self.refresh_waiting(workload, name);
            return false;
        }
        // What is made from the image that it has needs no other.
        let has_image = is_fetched || self.image_ahead(&instance).is_none();
        needs.version &= workload.paused.is_none() && !only_leave && has_image;
        needs.restart &= !only_leave;
        if needs.version && self.hold_for_canaries(workload, now) {
            // Whether it has to leave its node is another question now that the rollout is paused.
            self.agenda.go_on(&workload.spec.name);
            return false;
        }
        let outgrows = self.outgrows(workload, &instance);
        let mut to = None;
        match self.heads_for(workload, &instance).filter(|_| needs.leave) {
            Some((there, true)) => to = Some(there.clone()),
            Some((_, false)) => return false,
            None => {}
        }
        if needs.leave && to.is_none() {
            match self.destination(&self.demand(workload, &instance), name) {
                Destination::Node(node) if self.head_for(&instance, &node, None, now) => {
                    return false;
                }
                Destination::Node(node) => to = Some(node),
                Destination::Nowhere => {}
                Destination::Asked => return true,
            }
        }
        needs.leave = to.is_some();
        if outgrows && !needs.leave {
            needs.version = false;
            self.refresh_waiting(workload, name);
        }
        let second = self.second_share(workload, &instance).filter(|_| to.is_none());
        let lacks_share =
            second.is_some_and(|second| self.missing_for(&instance, second).is_some());
        if needs.version
            && (lacks_share || (to.is_none() && self.lacks_an_agent(&instance).is_some()))
        {
            needs.version = false;
            self.refresh_waiting(workload, name);
        }
        if !needs.any() {
            return false;
        }
        let mut next = Instance::clone(&instance);
        if needs.version {
            next.second_share = second.or_else(|| self.kept_second_share(&instance));
        }
        if needs.version
            && let Some(newest) = self.newest(&workload.spec.name)
        {
            next = self.given(&next, &newest.form);
        }
        if needs.restart {
            next.restarts_asked = self.next_restart(&instance);
            next.workload_restarts = workload.restarts_asked;
        }
        if needs.version || needs.leave {
            next.generation = self.next_generation(&instance);
        }
        next = next.with_version_of(&instance);
        next.update = match instance.node {
            Some(_) => UpdateState::Updating,
            None => UpdateState::Current,
        };
        match to {
            Some(to) => {
                next.evacuated = self.evacuated(&instance);
                self.send(next, to, now);
            }
            None => {
                self.put_instance(next);
                self.no_longer_lacks_an_agent(name);
            }
        }
        false
    }

    /// Has the node of an instance let go of it, so that it goes to another one.
    pub(super) fn send(&mut self, mut instance: Instance, to: NodeName, now: Timestamp) {
        self.delete(Key::Waiting(instance.name.clone()));
        let message = if self.follows_its_node(&instance) {
            format!("moves to {to}, where it gets an address of that node's block")
        } else {
            format!("moves to {to} and keeps its address")
        };
        let subject = Subject::Instance(instance.name.clone());
        self.event(now, Severity::Info, subject, "instance-moving", message);
        self.put_with(|since| {
            instance.heading = None;
            instance.leaving = Some(Leaving { since, to: Some(to) });
            instance.revision = since;
            Record::Instance(Arc::new(instance))
        });
    }

    fn needs(&self, workload: &Workload, instance: &Instance) -> Needs {
        if instance.rests() || instance.is_let_go() {
            return Needs::default();
        }
        Needs {
            version: self.newest(&workload.spec.name).is_some_and(|newest| {
                let number = newest.form.number;
                number != instance.wanted.number && instance.failed_with(number).is_none()
            }),
            restart: instance.workload_restarts < workload.restarts_asked,
            leave: !self.is_pinned(instance)
                && (self.has_to_leave(workload, instance) || self.outgrows(workload, instance)),
        }
    }

    /// Whether an instance is to be given the newest version.
    pub(super) fn needs_version(&self, workload: &Workload, instance: &Instance) -> bool {
        self.needs(workload, instance).version
    }

    /// Looks again at what instances of a workload wait for that have a node.
    pub(super) fn look_again_at_waiting(&mut self, name: &WorkloadName) {
        let Some(workload) = self.tables.workloads().get(name).cloned() else { return };
        let instances = self.tables.instances_of(name);
        let waiting = instances.filter(|one| self.tables.waiting().contains_key(&one.name));
        let waiting: Vec<InstanceName> = waiting.map(|one| one.name.clone()).collect();
        for one in waiting {
            self.refresh_waiting(&workload, &one);
        }
    }

    /// Whether an instance is to leave its node, although nobody chose it to.
    pub(super) fn needs_to_leave(&self, workload: &Workload, instance: &Instance) -> bool {
        self.needs(workload, instance).leave
    }

    /// Whether something has to reach an instance in a turn of its own.
    pub(super) fn needs_turn(&self, workload: &Workload, instance: &Instance) -> bool {
        self.needs(workload, instance).any()
    }

    /// The turn of an instance is over, although it does not work.
    fn end_turn(&mut self, workload: &Workload, name: &InstanceName) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        if instance.update == UpdateState::Updating {
            let update = match self.needs_turn(workload, &instance) {
                true => UpdateState::Due,
                false => UpdateState::Current,
            };
            self.put_instance(Instance { update, ..Instance::clone(&instance) });
        }
    }

    /// Whether nothing of what was declared has still to reach an instance. That its node is drained is no such thing.
    pub(super) fn is_as_declared(&self, workload: &Workload, instance: &Instance) -> bool {
        if self.failed_with_newest(instance).is_some() {
            return false;
        }
        match instance.update {
            UpdateState::Current => true,
            UpdateState::Updating => false,
            UpdateState::Due => {
                let needs = self.needs(workload, instance);
                let is_misplaced =
                    instance.assigned_to().is_some_and(|node| self.is_misplaced(workload, node));
                !needs.version && !needs.restart && !is_misplaced
            }
        }
    }

    fn has_to_leave(&self, workload: &Workload, instance: &Instance) -> bool {
        instance.assigned_to().is_some_and(|node| {
            self.tables.nodes().get(node).is_some_and(|node| node.draining)
                || self.is_misplaced(workload, node)
        })
    }

    /// Whether what an instance is to become is too big for its node.
    fn outgrows(&self, workload: &Workload, instance: &Instance) -> bool {
        if workload.paused.is_some() || self.failed_with_newest(instance).is_some() {
            return false;
        }
        let Some(node) = instance.assigned_to() else { return false };
        let has = instance.share();
        let wants = instance.own_size.over(workload.spec.template.resources);
        if wants.fits(has) {
            return false;
        }
        // A node not heard of since the controller's start has no room that is known of.
        let Some((promised, capacity)) = self.room(node) else { return true };
        let too_much = promised.minus(has).plus(wants).minus(capacity);
        // Only a part that grows can be what makes it too much.
        !too_much.min(wants.minus(has)).is_zero()
    }

    pub(super) fn is_ready(&self, node: &NodeName) -> bool {
        self.tables.links().get(node).is_some_and(|link| link.state == NodeState::Ready)
    }

    /// A restart of the whole workload reaches an instance.
    pub(super) fn ask_to_restart(&mut self, instance: &Instance, workload_restarts: u64) {
        let instance = instance.clone();
        let runs = instance.node.is_some() && instance.run == RunState::Running;
        match instance.update {
            // Nothing runs that could be restarted.
            _ if !runs => self.put_instance(Instance { workload_restarts, ..instance }),
            UpdateState::Current | UpdateState::Due => {
                self.put_instance(Instance { update: UpdateState::Due, ..instance });
            }
            // Becomes due when its turn is over.
            UpdateState::Updating => {}
        }
    }

    /// A node's rules, labels or willingness changed: what is there may have to leave, or to stay.
    pub(super) fn reconsider(&mut self, node: &NodeName) {
        self.let_ended_go(node);
        let Some(occupancy) = self.tables.index().occupancy.get(node).cloned() else { return };
        for name in &occupancy.instances {
            let Some(instance) = self.tables.instances().get(name).cloned() else { continue };
            let Some(workload) = self.tables.workloads().get(name.workload()).cloned() else {
                continue;
            };
            if instance.update == UpdateState::Current && self.needs(&workload, &instance).any() {
                self.put_instance(Instance {
                    update: UpdateState::Due,
                    ..Instance::clone(&instance)
                });
            }
            self.refresh_waiting(&workload, name);
        }
    }

    /// Whether an instance with a node waits for another one.
    fn refresh_waiting(&mut self, workload: &Workload, name: &InstanceName) {
        let instance = self.tables.instances().get(name).cloned();
        let is_placed = |one: &Arc<Instance>| one.node.is_some() && !one.is_let_go();
        let Some(instance) = instance.filter(is_placed) else { return };
        let (leaves, outgrows) =
            (self.has_to_leave(workload, &instance), self.outgrows(workload, &instance));
        if instance.rests() || (leaves && !outgrows && self.is_bound(&instance)) {
            self.delete(Key::Waiting(name.clone()));
        } else if let Some(cause) = self.lacks_an_agent(&instance).filter(|_| !leaves && !outgrows)
        {
            self.wait(name, cause);
        } else if !leaves && !outgrows {
            let second = self.second_share(workload, &instance);
            match second.and_then(|second| self.missing_for(&instance, second)) {
                Some(missing) => self.wait(name, WaitingCause::NoSecondShare(missing)),
                None => self.delete(Key::Waiting(name.clone())),
            }
        } else if self.is_pinned(&instance) {
            let cause = if leaves { WaitingCause::Pinned } else { WaitingCause::NoRoom };
            self.wait(name, cause);
        }
    }

    /// What a node saw of an instance that has its turn: is the turn over?
    pub(super) fn judge(&mut self, instance: &Instance, status: &InstanceStatus, now: Timestamp) {
        if instance.leaving.is_some() || instance.is_let_go() || self.volatile_only {
            return;
        }
        let Some(workload) = self.tables.workloads().get(instance.name.workload()).cloned() else {
            return;
        };
        let mut instance = instance.clone();
        self.take_back_second_share(&mut instance, status);
        if self.judge_takeover(&mut instance, status, now) {
            return;
        }
        match status.verdict_on(instance.generation) {
            Some(Outcome::RolledBack { reason }) => {
                if let Some(before) = instance.edition_before.filter(|_| instance.holds()) {
                    return self.keep_edition(&instance, before, reason, now);
                }
                if let Some(before) = instance.own_size_before.filter(|_| instance.holds()) {
                    return self.keep_size(&instance, before, reason, now);
                }
                if instance.holds() {
                    // So it seemed.
                    self.put_instance(Instance { serving: None, ..instance.clone() });
                }
                return self.go_back(&instance, reason, now);
            }
            Some(Outcome::Failing { reason }) if self.fallback(&workload, &instance).is_some() => {
                return self.go_back(&instance, reason, now);
            }
            Some(Outcome::Failing { reason }) => {
                // What has to leave its node need not wait for it any more.
                self.agenda.go_on(instance.name.workload());
                if instance.unseen.is_some() {
                    // Its node has nothing to put up again.
                    instance.unseen = None;
                    self.put_instance(instance.clone());
                }
                if self.gives_up_turn(&instance, reason) {
                    self.end_turn(&workload, &instance.name);
                }
                // What was noted of it is what it is now.
                let Some(noted) = self.tables.instances().get(&instance.name) else { return };
                instance = Instance::clone(noted);
            }
            Some(Outcome::Held) if instance.is_on_trial() => instance = self.note_held(&instance),
            // An older agent gives no verdicts.
            None if status.verdict.is_none() && has_arrived(&instance, status) => {
                instance = self.note_held(&instance);
            }
            _ => {}
        }
        let in_turn = instance.update == UpdateState::Updating;
        if (in_turn || instance.evacuated.is_some()) && has_arrived(&instance, status) {
            let update = match in_turn {
                true if self.needs(&workload, &instance).any() => UpdateState::Due,
                true => UpdateState::Current,
                false => instance.update,
            };
            self.put_instance(Instance { update, evacuated: None, ..instance.clone() });
        }
        self.prove(instance.name.workload(), now);
    }
}

/// Whether an instance is what it was told to be, and does well. A node that has lost its last order answers an older one with
/// the generation that is there: what it says is about another, which its verdict names.
pub(super) fn has_arrived(instance: &Instance, status: &InstanceStatus) -> bool {
    let does_well = match instance.run {
        RunState::Running => {
            let holds = match status.verdict_on(instance.generation) {
                Some(outcome) => *outcome == Outcome::Held,
                // An older agent gives no verdicts.
                None => status.verdict.is_none() && status.is_ready(),
            };
            // A main process that ended and may rest has done its work.
            status.restarts_done >= instance.restarts_asked
                && (status.phase == Phase::Stopped || holds)
        }
        RunState::Stopped => status.phase == Phase::Stopped,
    };
    let is_meant =
        status.verdict.as_ref().is_none_or(|verdict| verdict.generation == instance.generation);
    status.generation == instance.generation && is_meant && does_well
}
