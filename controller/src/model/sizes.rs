//! Instances with limits of their own.
//!
//! What an instance is promised and held to is what its version says, but for what an operator has set for this one: its *own size*. It
//! is durable and the instance's, as its address is: it goes along through restarts, versions, moves and a restore, and goes only when
//! somebody takes it back, or with the instance. Whoever asks what an instance takes, or tells its node, asks the instance
//! ([`Instance::made_from`]); what a version says is left alone, so that two instances of one version stay that.
//!
//! ```text
//!   as its version says ◀── reset ── own size ──▶ another own size
//! ```
//!
//! It is a change of class *live*: the running container is held to it, and nothing is moved for it. What its node has no room for is
//! refused.

use std::collections::BTreeMap;

use dwell_core::change::ChangeClass;
use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::instance::RunState;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::workload::{Resources, Template, WorkloadSpec};
use serde::{Deserialize, Serialize};

use super::command::Target;
use super::object::{Instance, Severity, Subject, UpdateState, Workload};
use super::plan::{self, InstanceAction, InstancePlan, PlanAction, WorkloadPlan};
use super::refusal::NotResized;
use super::{Model, Refusal};

/// The most instances that a plan names.
const NAMED_MAX: usize = 5;

/// What an operator has set for one instance, whatever its version says; what is `None` is as that says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnSize {
    /// Processor time; zero is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Millicores>,
    /// Memory; zero is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

impl OwnSize {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What comes of what a version says.
    #[must_use]
    pub fn over(self, declared: Resources) -> Resources {
        Resources {
            cpu: self.cpu.unwrap_or(declared.cpu),
            memory: self.memory.unwrap_or(declared.memory),
        }
    }

    /// What a container is made from and held to, where a version says `template`.
    pub(super) fn sized(self, template: &Template) -> Template {
        Template { resources: self.over(template.resources), ..template.clone() }
    }

    /// For people, such as "cpu 500m, memory 1Gi".
    pub(super) fn in_words(self) -> String {
        let cpu = self.cpu.map(|cpu| format!("cpu {cpu}"));
        let memory = self.memory.map(|memory| format!("memory {memory}"));
        cpu.into_iter().chain(memory).collect::<Vec<_>>().join(", ")
    }
}

/// What is asked for one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnSizeChange {
    /// These limits; what is `None` stays as it is.
    Set(OwnSize),
    /// To be as its workload declares again.
    Reset,
}

impl Instance {
    /// What a container of it is made from and held to, where a version says `template`.
    #[must_use]
    pub fn made_from(&self, template: &Template) -> Template {
        let sized = self.own_size.sized(template);
        match self.root.kept_image(template) {
            Some(born) => Template { image: born.image.clone(), ..sized },
            None => sized,
        }
    }

    /// Whether two templates mean the same for it.
    pub(super) fn is_same(&self, one: &Template, other: &Template) -> bool {
        let says_more = !self.own_size.is_none() || self.root.born_from.is_some();
        one == other || (says_more && self.made_from(one) == self.made_from(other))
    }
}

impl Model {
    /// Gives one instance limits of its own, or takes them back.
    pub(super) fn resize_instance(
        &mut self,
        name: &InstanceName,
        asked: OwnSizeChange,
        force: bool,
        now: Timestamp,
    ) -> Result<WorkloadPlan, Refusal> {
        let workload = self.living(name.workload())?;
        let [instance] = &self.targets(&Target::Instance(name.clone()))?[..] else {
            return Err(Refusal::NoInstance(name.clone()));
        };
        Self::check_not_ended(instance)?;
        let own_size = match asked {
            OwnSizeChange::Reset => OwnSize::default(),
            OwnSizeChange::Set(OwnSize { cpu, memory }) => OwnSize {
                cpu: cpu.or(instance.own_size.cpu),
                memory: memory.or(instance.own_size.memory),
            },
        };
        if own_size == instance.own_size {
            return Ok(plan::unchanged(&workload));
        }
        let mut next = Instance { own_size, own_size_forced: force, ..Instance::clone(instance) };
        let template = next.made_from(&workload.spec.template);
        let spec = WorkloadSpec { template, ..workload.spec.clone() };
        spec.check()
            .map_err(|source| Refusal::Spec { workload: workload.spec.name.clone(), source })?;
        self.check_resizable(&workload, instance, &next)?;
        let (is, becomes) = (
            instance.made_from(&instance.wanted.template),
            next.made_from(&instance.wanted.template),
        );
        let class = ChangeClass::between(&is, &becomes);
        if class != ChangeClass::None {
            next.generation = self.next_generation(instance);
            // What its node has not answered yet is no size to go back to.
            let held = instance.holds().then_some(instance.own_size);
            next.own_size_before = instance.own_size_before.or(held);
            // A node that is not heard of takes it when it is back, and holds up nothing by that.
            let is_heard = next.assigned_to().is_some_and(|node| self.is_ready(node));
            if is_heard && next.run == RunState::Running {
                next.update = UpdateState::Updating;
            }
        }
        self.put_instance(next);
        let message = match own_size.is_none() {
            true => "is as its workload declares again".to_owned(),
            false => format!("has limits of its own: {}", own_size.in_words()),
        };
        let subject = Subject::Instance(name.clone());
        self.event(now, Severity::Info, subject, "instance-resized", message.clone());
        let change = InstancePlan::new(name.clone(), InstanceAction::Change(class), message);
        Ok(plan::describe(&workload, PlanAction::Update, vec!["resources"], vec![change]))
    }

    /// An instance could not be given the limits that somebody wanted for it: it has those of before.
    pub(super) fn keep_size(
        &mut self,
        instance: &Instance,
        before: OwnSize,
        reason: &str,
        now: Timestamp,
    ) {
        let message = match instance.own_size.is_none() {
            true => format!("keeps limits of its own: {reason}"),
            false => format!("was not given {}: {reason}", instance.own_size.in_words()),
        };
        let generation = self.next_generation(instance);
        self.put_instance(Instance {
            generation,
            own_size: before,
            own_size_before: None,
            own_size_forced: false,
            ..instance.clone()
        });
        let subject = Subject::Instance(instance.name.clone());
        self.event(now, Severity::Warning, subject, "instance-not-resized", message);
    }

    /// Refuses what cannot be now, with what can be done instead.
    fn check_resizable(
        &self,
        workload: &Workload,
        instance: &Instance,
        next: &Instance,
    ) -> Result<(), Refusal> {
        let name = || instance.name.clone();
        if instance.leaving.is_some() {
            return Err(NotResized::OnItsWay(name()).into());
        }
        if instance.update == UpdateState::Updating && !self.is_failing(&instance.name) {
            return Err(NotResized::Changing(name()).into());
        }
        let Some(node) = instance.assigned_to() else { return Ok(()) };
        let (has, wants) = (instance.promised(), next.promised());
        if wants.fits(has) {
            return Ok(());
        }
        let Some((promised, capacity)) = self.room(node).filter(|_| self.is_ready(node)) else {
            return Err(NotResized::NotHeard { instance: name(), node: node.clone() }.into());
        };
        let too_much = promised.minus(has).plus(wants).minus(capacity);
        // Only a part that grows can be what makes it too much.
        let lacks = too_much.min(wants.minus(has));
        if lacks.is_zero() {
            return Ok(());
        }
        let elsewhere = if self.is_pinned(instance) {
            None
        } else {
            let asked = BTreeMap::from([(self.demand(workload, next), 1)]);
            let answer = self.solve(&asked, Some(node)).into_iter().next();
            answer.and_then(|(_, nodes, _)| nodes.into_iter().next())
        };
        Err(NotResized::NoRoom { instance: name(), node: node.clone(), lacks, elsewhere }.into())
    }

    /// What a declaration of other limits leaves alone, for people.
    pub(super) fn own_sizes_note(&self, workload: &Workload) -> Option<String> {
        let instances = self.tables.instances_of(&workload.spec.name);
        let own: Vec<_> =
            instances.filter(|one| !one.own_size.is_none() && !one.removing).collect();
        let shown: Vec<_> = own
            .iter()
            .take(NAMED_MAX)
            .map(|one| format!("{} ({})", one.name, one.own_size.in_words()))
            .collect();
        let more = match own.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let first = &own.first()?.name;
        Some(format!(
            "limits of their own are kept: {}{more}; `dwell resize {first} --reset` takes what is declared",
            shown.join(", ")
        ))
    }
}
