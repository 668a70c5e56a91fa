//! What a declaration changes, and what stands in its way.
//!
//! A plan is made by doing what was asked. Once all is settled, [`Model::foresee`] looks at what came of it: which node each
//! instance has or would get. What was only to be shown is then taken back, so what is shown is what would be done.

mod foreseen;
mod words;

use std::fmt;

use dwell_core::change::{self, ChangeClass};
use dwell_core::id::{Generation, InstanceName, NodeName, WorkloadName};
use dwell_core::instance::RunState;
use dwell_core::workload::WorkloadSpec;

use super::Refusal;
use super::downtime::Expected;
use super::object::Workload;

pub(super) use words::summary;

/// What a declaration changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPlan {
    /// Which workload.
    pub workload: WorkloadName,
    /// What happens to it.
    pub action: PlanAction,
    /// Its generation afterwards.
    pub generation: Generation,
    /// The names of the fields that differ.
    pub changed_fields: Vec<&'static str>,
    /// The instances that are touched, and how.
    pub instances: Vec<InstancePlan>,
    /// What people will notice, such as "no downtime".
    pub downtime: String,
    /// What is lost by it, one sentence each.
    pub losses: Vec<String>,
    /// What else is worth knowing before it is done, a sentence each.
    pub notes: Vec<String>,
    /// Tells whether the same declaration would still do just that: SHA-256 in hexadecimal of what is declared, of what
    /// it comes upon, and of what happens to each instance where.
    pub digest: String,
}

impl WorkloadPlan {
    /// The hardest class among its changed instances.
    #[must_use]
    pub fn class(&self) -> ChangeClass {
        let classes = self.instances.iter().filter_map(|plan| match plan.action {
            InstanceAction::Change(class) => Some(class),
            InstanceAction::Create | InstanceAction::Run(_) | InstanceAction::Remove => None,
        });
        classes.max().unwrap_or(ChangeClass::None)
    }
}

/// What happens to a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanAction {
    /// It is as declared.
    Unchanged,
    /// It is new.
    Create,
    /// It is changed.
    Update,
}

/// What happens to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstancePlan {
    /// Which one.
    pub instance: InstanceName,
    /// What.
    pub action: InstanceAction,
    /// Why: the fields that differ for it, or what it leaves its node for.
    pub reason: String,
    /// Where it is now.
    pub node: Option<NodeName>,
    /// Where it will be, by the scheduler's answer as things are now; `None` if it goes, or has no place.
    pub to: Option<NodeName>,
    /// Why it does not come about now; empty if it does.
    pub waits: String,
    /// Whether files of it are carried over if its container is replaced where it is.
    pub carries: bool,
    /// Whether it is a machine that keeps its root.
    pub keeps_root: bool,
    /// How long it will be down, by the last changes of its workload; `None` if there were none like it.
    pub downtime: Option<Expected>,
}

impl InstancePlan {
    pub(super) fn new(instance: InstanceName, action: InstanceAction, reason: String) -> Self {
        Self {
            instance,
            action,
            reason,
            node: None,
            to: None,
            waits: String::new(),
            carries: false,
            keeps_root: false,
            downtime: None,
        }
    }

    /// What is lost with it, for people; empty if nothing is.
    #[must_use]
    pub fn loses(&self) -> &'static str {
        match self.action {
            InstanceAction::Change(_) if self.keeps_root => "",
            InstanceAction::Change(ChangeClass::InPlace) if self.carries => {
                "files outside of volumes, but for those that are carried over"
            }
            InstanceAction::Change(ChangeClass::InPlace | ChangeClass::Move) => {
                "files outside of volumes"
            }
            InstanceAction::Remove => "address, host keys, files outside of volumes",
            InstanceAction::Create | InstanceAction::Run(_) | InstanceAction::Change(_) => "",
        }
    }
}

/// What happens to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceAction {
    /// It is made.
    Create,
    /// It is changed.
    Change(ChangeClass),
    /// It is started or stopped, whatever else changes.
    Run(RunState),
    /// It is taken away.
    Remove,
}

/// The names of the fields in which a declaration differs from what a workload is.
pub(super) fn changed_fields(workload: &Workload, new: &WorkloadSpec) -> Vec<&'static str> {
    let old = &workload.spec;
    let mut fields = change::changed_fields(&old.template, &new.template);
    let others = [
        ("stopped", new.run.is_some_and(|run| run != workload.run)),
        ("replicas", old.replicas != new.replicas),
        ("network.ip", old.addresses != new.addresses),
        ("pool", old.placement.pool != new.placement.pool),
        ("constraints", old.placement.constraints != new.placement.constraints),
        ("update", old.update != new.update),
        ("on_lost", old.on_lost != new.on_lost),
        ("network.on_move", old.on_move != new.on_move),
        ("job", old.job != new.job),
        ("workload labels", old.labels != new.labels),
    ];
    fields.extend(others.into_iter().filter_map(|(name, differs)| differs.then_some(name)));
    fields
}

pub(super) fn unchanged(workload: &Workload) -> WorkloadPlan {
    describe(workload, PlanAction::Unchanged, Vec::new(), Vec::new())
}

impl fmt::Display for InstanceAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => f.pad("create"),
            Self::Change(class) => class.fmt(f),
            Self::Run(RunState::Running) => f.pad("start"),
            Self::Run(RunState::Stopped) => f.pad("stop"),
            Self::Remove => f.pad("remove"),
        }
    }
}

/// A plan whose words are found once all is settled.
pub(super) fn describe(
    workload: &Workload,
    action: PlanAction,
    changed_fields: Vec<&'static str>,
    instances: Vec<InstancePlan>,
) -> WorkloadPlan {
    WorkloadPlan {
        workload: workload.spec.name.clone(),
        action,
        generation: workload.generation,
        changed_fields,
        instances,
        downtime: String::new(),
        losses: Vec::new(),
        notes: Vec::new(),
        digest: String::new(),
    }
}

/// Whether plans are those that were shown before.
///
/// # Errors
/// If one of them is not.
pub(super) fn check(plans: &[WorkloadPlan], shown: &[String]) -> Result<(), Refusal> {
    let differs = |(plan, shown): &(&WorkloadPlan, &String)| plan.digest != **shown;
    match plans.iter().zip(shown).find(differs) {
        Some((plan, _)) => Err(Refusal::PlanOutdated(plan.workload.clone())),
        None => Ok(()),
    }
}
