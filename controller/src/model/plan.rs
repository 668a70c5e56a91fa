//! What a declaration changes, and what stands in its way, said for people.

use std::collections::BTreeMap;
use std::path::Path;

use dwell_core::change::{self, ChangeClass};
use dwell_core::workload::WorkloadSpec;

use super::Model;
use super::command::{InstanceAction, InstancePlan, PlanAction, WorkloadPlan};
use super::object::Workload;

/// How many different obstacles of a workload are told.
const OBSTACLES_MAX: usize = 5;

/// An instance that is touched, and how.
pub(super) type Planned = InstancePlan;

/// The names of the fields in which two declarations differ.
pub(super) fn changed_fields(old: &WorkloadSpec, new: &WorkloadSpec) -> Vec<&'static str> {
    let mut fields = change::changed_fields(&old.template, &new.template);
    let others = [
        ("replicas", old.replicas != new.replicas),
        ("network.ip", old.addresses != new.addresses),
        ("pool", old.placement.pool != new.placement.pool),
        ("constraints", old.placement.constraints != new.placement.constraints),
        ("update", old.update != new.update),
        ("workload labels", old.labels != new.labels),
    ];
    fields.extend(others.into_iter().filter_map(|(name, differs)| differs.then_some(name)));
    fields
}

impl Model {
    /// Notes, once everything is settled, why instances of a workload have no place, and what no node allows them.
    pub(super) fn note_obstacles(&self, plan: &mut WorkloadPlan) {
        let mut waiting: BTreeMap<String, u32> = BTreeMap::new();
        for instance in self.tables.instances_of(&plan.workload) {
            let waits = self.tables.waiting().get(&instance.name);
            if let Some(waits) = waits.filter(|_| !instance.removing) {
                *waiting.entry(self.why(waits)).or_default() += 1;
            }
        }
        let notes = waiting.into_iter().filter(|(why, _)| !why.is_empty());
        plan.notes.extend(notes.take(OBSTACLES_MAX).map(|(why, count)| match count {
            1 => format!("1 instance waits: {why}"),
            count => format!("{count} instances wait: {why}"),
        }));
        let Some(workload) = self.tables.workloads().get(&plan.workload) else { return };
        let refused = workload.spec.template.binds().filter(|path| !self.is_bind_allowed(path));
        plan.notes.extend(refused.take(OBSTACLES_MAX).map(|path| {
            format!("no node allows to mount its {path}; see `allow_binds` in agent.yaml")
        }));
    }

    /// Whether some node has told that it lets instances mount a path.
    fn is_bind_allowed(&self, path: &str) -> bool {
        let capacities = self.tables.links().values().filter_map(|link| link.capacity.as_ref());
        let mut allowed = capacities.flat_map(|capacity| &capacity.allow_binds);
        allowed.any(|allowed| Path::new(path).starts_with(allowed))
    }
}

pub(super) fn unchanged(workload: &Workload) -> WorkloadPlan {
    describe(workload, PlanAction::Unchanged, Vec::new(), Vec::new())
}

pub(super) fn describe(
    workload: &Workload,
    action: PlanAction,
    changed_fields: Vec<&'static str>,
    instances: Vec<Planned>,
) -> WorkloadPlan {
    let mut plan = WorkloadPlan {
        workload: workload.spec.name.clone(),
        action,
        generation: workload.generation,
        changed_fields,
        instances,
        downtime: String::new(),
        losses: Vec::new(),
        notes: Vec::new(),
    };
    plan.downtime = downtime(workload, &plan);
    plan.losses = losses(workload, &plan);
    plan.notes.extend(deadline_note(workload, &plan));
    plan
}

/// Which deadline holds, if it is not the declared one.
fn deadline_note(workload: &Workload, plan: &WorkloadPlan) -> Option<String> {
    let (update, template) = (&workload.spec.update, &workload.spec.template);
    let (declared, holds) = (update.deadline, update.deadline_for(template));
    let why = match template.healthcheck {
        Some(_) => "its health check's start_period, interval, retries and timeout take that long",
        None => "it is monitored for that long",
    };
    (holds > declared && plan.action != PlanAction::Unchanged)
        .then(|| format!("update.deadline is {holds}, not {declared}: {why}"))
}

/// What people will notice.
fn downtime(workload: &Workload, plan: &WorkloadPlan) -> String {
    let down = |plan: &&InstancePlan| {
        matches!(plan.action, InstanceAction::Change(ChangeClass::InPlace | ChangeClass::Move))
    };
    let class = plan.class();
    let touched: Vec<_> = plan.instances.iter().filter(down).collect();
    let stopped = workload.run == dwell_core::instance::RunState::Stopped;
    let removed = plan.instances.iter().filter(|plan| plan.action == InstanceAction::Remove);
    let removed = match removed.count() {
        0 => String::new(),
        1 => "1 is stopped and removed; ".to_owned(),
        count => format!("{count} are stopped and removed; "),
    };
    let text = match (touched.as_slice(), class) {
        ([], ChangeClass::Live) => "no downtime: applied to the running containers".to_owned(),
        ([], _) if !removed.is_empty() => "the others go on".to_owned(),
        ([], _) => "no downtime".to_owned(),
        (_, _) if stopped => "no downtime: the workload is stopped".to_owned(),
        ([one], _) => format!("{} is down between stop and start", one.instance),
        (many, _) => format!(
            "each of {} instances is down between stop and start, {} at a time",
            many.len(),
            workload.spec.update.parallelism
        ),
    };
    removed + &text
}

/// What cannot be had back afterwards. A new container begins with the files of its image; addresses of
/// what is removed are given to others after a while.
fn losses(workload: &Workload, plan: &WorkloadPlan) -> Vec<String> {
    let has_volumes = workload.spec.template.volumes().next().is_some();
    let names = |wanted: fn(&InstanceAction) -> bool| {
        let touched = plan.instances.iter().filter(move |one| wanted(&one.action));
        let names: Vec<String> = touched.map(|one| one.instance.to_string()).collect();
        match names.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            [first, rest @ ..] => Some(format!("{first} and {} more", rest.len())),
        }
    };
    let mut losses = Vec::new();
    let replaced = names(|action| {
        matches!(action, InstanceAction::Change(ChangeClass::InPlace | ChangeClass::Move))
    });
    if let Some(names) = replaced {
        losses.push(format!("files of {names} outside of volumes"));
    }
    if let Some(names) = names(|action| *action == InstanceAction::Remove) {
        let volumes = if has_volumes { "; their volumes stay (`dwell volume ls`)" } else { "" };
        losses.push(format!("{names}: addresses, host keys and files{volumes}"));
    }
    losses
}

/// A plan in one line, for the fleet's diary.
pub(super) fn summary(plan: &WorkloadPlan) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in &plan.instances {
        let word = match instance.action {
            InstanceAction::Create => "created",
            InstanceAction::Change(_) => "changed",
            InstanceAction::Remove => "removed",
        };
        *counts.entry(word).or_default() += 1;
    }
    let parts: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let instances = if parts.is_empty() { "none".to_owned() } else { parts.join(", ") };
    format!("declared at generation {}; instances: {instances}", plan.generation)
}
