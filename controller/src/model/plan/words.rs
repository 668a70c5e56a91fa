//! What a plan says in words.

use std::collections::BTreeMap;

use dwell_core::change::ChangeClass;
use dwell_core::instance::RunState;
use dwell_core::workload::UpdateOrder;

use super::{Expected, InstanceAction, InstancePlan, PlanAction, WorkloadPlan};
use crate::model::object::Workload;

/// Which deadline holds, if it is not the declared one.
pub(super) fn deadline_note(workload: &Workload, plan: &WorkloadPlan) -> Option<String> {
    let (update, template) = (&workload.spec.update, &workload.spec.template);
    let (declared, holds) = (update.deadline, update.deadline_for(template));
    let why = if template.checks().next().is_some() {
        "its health check's start_period, interval, retries and timeout take that long"
    } else {
        "it is monitored for that long"
    };
    (holds > declared && plan.action != PlanAction::Unchanged)
        .then(|| format!("update.deadline is {holds}, not {declared}: {why}"))
}

/// What people will notice.
pub(super) fn downtime(workload: &Workload, plan: &WorkloadPlan) -> String {
    let is_beside = workload.spec.update.order == UpdateOrder::StartFirst;
    let down = |plan: &&InstancePlan| match plan.action {
        InstanceAction::Change(ChangeClass::InPlace) => !is_beside,
        InstanceAction::Change(class) => class == ChangeClass::Move,
        _ => false,
    };
    let class = plan.class();
    let touched: Vec<_> = plan.instances.iter().filter(down).collect();
    let stopped = workload.run == RunState::Stopped;
    let count = |action| plan.instances.iter().filter(|plan| plan.action == action).count();
    let removed = match count(InstanceAction::Remove) {
        0 => String::new(),
        1 => "1 is stopped and removed; ".to_owned(),
        count => format!("{count} are stopped and removed; "),
    };
    let text = match (touched.as_slice(), class) {
        ([], _) if count(InstanceAction::Run(RunState::Stopped)) > 0 => {
            "down until the workload is started again".to_owned()
        }
        ([], ChangeClass::InPlace) if !stopped => {
            "no downtime: each new container is started beside the old one, and serves when it holds"
                .to_owned()
        }
        ([], ChangeClass::Live) => "no downtime: applied to the running containers".to_owned(),
        ([], _) if !removed.is_empty() => "the others go on".to_owned(),
        ([], _) => "no downtime".to_owned(),
        (_, _) if stopped => "no downtime: the workload is stopped".to_owned(),
        ([one], _) => format!("{} is down between stop and start", one.instance),
        (many, _) => format!(
            "each of {} instances is down between stop and start, {} at a time",
            many.len(),
            workload.spec.update.parallelism.of(workload.spec.replicas)
        ),
    };
    let expected = touched.iter().filter_map(|one| one.downtime).max_by_key(|one| one.longest);
    removed + &text + &expected.map(|expected| by_experience(&expected)).unwrap_or_default()
}

/// What earlier changes say of the next one.
fn by_experience(expected: &Expected) -> String {
    let Expected { usual, longest, changes } = expected;
    match changes {
        1 => format!("; about {usual}, as it was last time"),
        _ => format!("; about {usual}, at most {longest} the last {changes} times"),
    }
}

/// What cannot be had back afterwards. A new container begins with the files of its image; addresses of
/// what is removed are given to others after a while.
pub(super) fn losses(workload: &Workload, plan: &WorkloadPlan) -> Vec<String> {
    let has_volumes = workload.spec.template.volumes().next().is_some();
    let names = |wanted: fn(&InstancePlan) -> bool| {
        let touched = plan.instances.iter().filter(move |one| wanted(one));
        let names: Vec<String> = touched.map(|one| one.instance.to_string()).collect();
        match names.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            [first, rest @ ..] => Some(format!("{first} and {} more", rest.len())),
        }
    };
    let mut losses = Vec::new();
    let carried = carried(&workload.spec.template.carry);
    let replaced = names(match &carried {
        None => |one| {
            matches!(one.action, InstanceAction::Change(ChangeClass::InPlace | ChangeClass::Move))
                && !one.keeps_root
        },
        Some(_) => |one| one.action == InstanceAction::Change(ChangeClass::InPlace),
    });
    if let Some(names) = replaced {
        let kept =
            carried.as_ref().map(|paths| format!(", but for {paths}, if there, carried over"));
        losses.push(format!("files of {names} outside of volumes{}", kept.unwrap_or_default()));
    }
    let moved = names(|one| one.action == InstanceAction::Change(ChangeClass::Move));
    if let (Some(names), Some(paths)) = (moved, &carried) {
        losses.push(format!(
            "files of {names} outside of volumes, {paths} as well: nothing is carried over to another node"
        ));
    }
    if let Some(names) = names(|one| one.action == InstanceAction::Remove) {
        let volumes = if has_volumes { "; their volumes stay (`dwell volume ls`)" } else { "" };
        losses.push(format!("{names}: addresses, host keys and files{volumes}"));
    }
    losses
}

/// What is carried over, the first of many paths; `None` if nothing is.
fn carried(paths: &[String]) -> Option<String> {
    const SHOWN: usize = 3;
    let shown = paths.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match paths.len().saturating_sub(SHOWN) {
        _ if paths.is_empty() => None,
        0 => Some(shown),
        more => Some(format!("{shown} and {more} more")),
    }
}

/// A plan in one line, for the fleet's diary.
pub(in crate::model) fn summary(plan: &WorkloadPlan) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in &plan.instances {
        let word = match instance.action {
            InstanceAction::Create => "created",
            InstanceAction::Change(_) => "changed",
            InstanceAction::Run(RunState::Running) => "started",
            InstanceAction::Run(RunState::Stopped) => "stopped",
            InstanceAction::Remove => "removed",
        };
        *counts.entry(word).or_default() += 1;
    }
    let parts: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let instances = if parts.is_empty() { "none".to_owned() } else { parts.join(", ") };
    format!("declared at generation {}; instances: {instances}", plan.generation)
}
