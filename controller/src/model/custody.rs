//! Instances that dwell lets go, and takes back.
//!
//! An instance that is let go goes on as an object of the model and in its node's assignment: so its address, its name, its volumes and
//! its share stay its own. It is no longer one of its workload's: it counts as one that is being removed, but its node is not told to
//! take it away.
//!
//! ```text
//!   one of its workload's ── dissociate ──▶ let go ── its container is gone, and somebody removes it ──▶ leaving ─▶ (deleted)
//!             ▲                               │
//!             └──────────── adopt ────────────┘
//! ```
//!
//! Whether its container is let be, its node decides, by what is on its disk. A node that says so of an instance which the model does not
//! take to be let go is believed: the controller was restored, and has forgotten it.

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::instance::{Custody, InstanceStatus, Phase, RunState};
use dwell_core::workload::WorkloadSpec;

use super::command::{Target, check_named};
use super::object::{Instance, Leaving, Severity, Subject, UpdateState, Workload};
use super::record::{Key, Record};
use super::refusal::NotLetGo;
use super::{Model, Refusal};

impl Instance {
    /// Whether dwell has let go of it, or is about to.
    #[must_use]
    pub fn is_let_go(&self) -> bool {
        matches!(self.custody, Custody::LetGo(_)) && self.leaving.is_none()
    }
}

impl Model {
    /// Lets go of chosen instances, all or none. Their workloads have as many fewer.
    pub(super) fn dissociate_instances(
        &mut self,
        names: &BTreeSet<InstanceName>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        check_named(names.len())?;
        let mut instances = Vec::new();
        for name in names {
            for instance in self.targets(&Target::Instance(name.clone()))? {
                self.check_may_be_let_go(&instance)?;
                instances.push(instance);
            }
        }
        for instance in instances {
            let generation = self.next_generation(&instance);
            let next = Instance { generation, ..Instance::clone(&instance) };
            self.leave_alone(next, Custody::LetGo(generation));
            let message = "is let go: its container stays, and nobody looks after it".to_owned();
            let subject = Subject::Instance(instance.name.clone());
            self.event(now, Severity::Info, subject, "instance-dissociated", message);
        }
        Ok(())
    }

    /// Takes chosen instances back that were let go, all or none. Their workloads have as many more.
    pub(super) fn adopt_instances(
        &mut self,
        names: &BTreeSet<InstanceName>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        check_named(names.len())?;
        for name in names {
            let instance = self.tables.instances().get(name).cloned();
            let instance = instance.ok_or_else(|| Refusal::NoInstance(name.clone()))?;
            if !instance.is_let_go() {
                return Err(NotLetGo::IsNot(name.clone()).into());
            }
            let gone = instance.node.as_ref().filter(|node| !self.is_member(node));
            if let Some(node) = gone {
                let (instance, node) = (name.clone(), node.clone());
                return Err(NotLetGo::NodeRemoved { instance, node }.into());
            }
            let workload = self.living(name.workload())?;
            if workload.spec.placement.one_per_node {
                return Err(Refusal::CountedByNodes(name.workload().clone()));
            }
            let replicas = workload.spec.replicas.saturating_add(1);
            self.check_total(std::iter::once((name.workload(), replicas)))?;
            let spec = WorkloadSpec { replicas, ..workload.spec.clone() };
            spec.check()
                .map_err(|source| Refusal::Spec { workload: name.workload().clone(), source })?;
            self.put_workload(Workload { spec, ..Workload::clone(&workload) });
            let generation = self.next_generation(&instance);
            // Of one that a restored controller had never heard of nobody knows what it was made from.
            let is_unknown = instance.wanted.template.image.is_empty();
            let form = is_unknown.then(|| self.form_for_new(&workload)).flatten();
            let wanted = form.unwrap_or_else(|| Arc::clone(&instance.wanted));
            let is_newest = self
                .newest(name.workload())
                .is_some_and(|newest| newest.form.number == wanted.number);
            let update = if is_newest { UpdateState::Current } else { UpdateState::Due };
            self.put_instance(Instance {
                generation,
                custody: Custody::Adopted(generation),
                removing: false,
                wanted,
                update,
                ..Instance::clone(&instance)
            });
            let message = "is taken back; its container goes on".to_owned();
            let subject = Subject::Instance(name.clone());
            self.event(now, Severity::Info, subject, "instance-adopted-again", message);
        }
        Ok(())
    }

    /// A node says that it has let go of an instance. If nobody here knows of that, it was asked for in a history that is lost.
    pub(super) fn note_let_go(
        &mut self,
        instance: &Arc<Instance>,
        status: &InstanceStatus,
        now: Timestamp,
    ) -> Arc<Instance> {
        let at = status.let_go.filter(|at| instance.custody.leaves(*at));
        let is_known = matches!(instance.custody, Custody::LetGo(_));
        let Some(at) = at.filter(|_| !is_known && !self.volatile_only && !self.is_unconfirmed())
        else {
            return Arc::clone(instance);
        };
        self.leave_alone(Instance::clone(instance), Custody::LetGo(at));
        // One that was to be made again under this name gets another one: this stays taken.
        self.make_missing(instance.name.workload(), now);
        let message =
            "was let go, as its node says, by an order that the controller has forgotten; \
                       its container stays, and nobody looks after it"
                .to_owned();
        let subject = Subject::Instance(instance.name.clone());
        self.event(now, Severity::Warning, subject, "instance-dissociated", message);
        self.tables.instances().get(&instance.name).cloned().unwrap_or_else(|| Arc::clone(instance))
    }

    /// What nodes said of what they have let go, while nothing was acted upon.
    pub(super) fn recall_let_go(&mut self, now: Timestamp) {
        let said = self.tables.observed().values().filter(|seen| seen.status.let_go.is_some());
        let said: Vec<InstanceStatus> = said.map(|seen| seen.status.clone()).collect();
        for status in said {
            if let Some(instance) = self.tables.instances().get(&status.instance).cloned() {
                self.note_let_go(&instance, &status, now);
            }
        }
    }

    /// An instance is its workload's no more, and stays where it is.
    fn leave_alone(&mut self, instance: Instance, custody: Custody) {
        self.delete(Key::Waiting(instance.name.clone()));
        self.down.remove(&instance.name);
        let workload = self.tables.workloads().get(instance.name.workload()).cloned();
        if let Some(old) = workload
            .filter(|one| !instance.removing && !one.removing && !one.spec.placement.one_per_node)
        {
            let replicas = old.spec.replicas.saturating_sub(1);
            let spec = WorkloadSpec { replicas, ..old.spec.clone() };
            self.put_workload(Workload { spec, ..Workload::clone(&old) });
        }
        self.put_instance(Instance {
            custody,
            removing: true,
            leaving: None,
            update: UpdateState::Current,
            second_share: None,
            evacuated: None,
            fence: None,
            ..instance
        });
    }

    /// Has the last of an instance that was let go taken away: its container is gone already.
    pub(super) fn remove_let_go(&mut self, instance: &Instance) -> Result<(), Refusal> {
        let Some(node) = instance.node.clone() else { return Ok(()) };
        let seen = self.tables.observed().get(&instance.name).filter(|_| self.is_ready(&node));
        let is_gone = seen.is_some_and(|seen| {
            let status = &seen.status;
            status.let_go.is_some()
                && status.phase == Phase::Stopped
                && status.container_id.is_empty()
        });
        if !is_gone {
            return Err(NotLetGo::StillThere { instance: instance.name.clone(), node }.into());
        }
        self.put_with(|revision| {
            let leaving = Some(Leaving { since: revision, to: None });
            Record::Instance(Arc::new(Instance { leaving, revision, ..instance.clone() }))
        });
        Ok(())
    }

    /// How far letting go of an instance is, for people.
    pub(super) fn let_go_in_words(&self, instance: &Instance) -> String {
        let seen = self.tables.observed().get(&instance.name).map(|seen| &seen.status);
        let Some(status) = seen.filter(|status| status.let_go.is_some()) else {
            return "is being let go: its node has yet to write that down".to_owned();
        };
        match (status.phase, status.container_id.is_empty()) {
            (Phase::Stopped, true) => {
                "was let go, and its container is gone; `dwell rm` frees its name and address"
                    .to_owned()
            }
            (Phase::Stopped, false) => {
                "was let go, and its container has ended; nobody starts it again".to_owned()
            }
            _ => {
                "was let go: its container runs, and nobody starts it again when it ends".to_owned()
            }
        }
    }

    /// Refuses what cannot be let go now, with what can be done instead.
    fn check_may_be_let_go(&self, instance: &Instance) -> Result<(), Refusal> {
        let name = || instance.name.clone();
        let workload = self.living(instance.name.workload())?;
        if workload.spec.placement.one_per_node {
            return Err(Refusal::CountedByNodes(name().workload().clone()));
        }
        if workload.spec.job.is_some() {
            return Err(NotLetGo::OfJob(name()).into());
        }
        let Some(node) = instance.assigned_to().cloned() else {
            return Err(NotLetGo::Changing(name()).into());
        };
        let is_moving = instance.volume_move.is_some();
        if instance.update == UpdateState::Updating || instance.is_on_trial() || is_moving {
            return Err(NotLetGo::Changing(name()).into());
        }
        let seen = self.tables.observed().get(&instance.name).filter(|_| self.is_ready(&node));
        let runs = seen.is_some_and(|seen| seen.status.phase == Phase::Running);
        if instance.run != RunState::Running || !runs {
            return Err(NotLetGo::DoesNotRun(name()).into());
        }
        match self.tables.links().get(&node) {
            Some(link) if link.lets_go => Ok(()),
            _ => Err(NotLetGo::OldAgent { instance: name(), node }.into()),
        }
    }
}
