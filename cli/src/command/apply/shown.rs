//! Plans for people.

use dwell_core::change::ChangeClass;
use dwell_core::instance::{Counted, sanitize};
use dwell_core::quantity::Millis;

use crate::output::view::{InstancePlanView, PlanView, PlansView};
use crate::output::{Table, or_dash};

/// The longest sentence that is shown, in bytes.
const SENTENCE_MAX: usize = 300;
/// How many instances are shown one by one.
const SHOWN_MAX: usize = 50;

/// One line per workload, after the fact.
pub(in crate::command) fn done(plans: &PlansView) -> String {
    let line = |plan: &PlanView| {
        let what = match plan.action {
            "create" => format!("created, {}", Counted(plan.created.len())),
            "update" => format!("updated, {}", summary(plan)),
            _ => "unchanged".into(),
        };
        format!("{} {what}\n", plan.name)
    };
    plans.workloads.iter().map(line).collect()
}

/// What plans would change, with what is lost by it.
pub(in crate::command) fn table(plans: &PlansView) -> String {
    let mut table =
        Table::new(["WORKLOAD", "ACTION", "CHANGE", "INSTANCES", "DOWNTIME", "CHANGED FIELDS"]);
    for plan in &plans.workloads {
        let change = match plan.change {
            ChangeClass::None => String::new(),
            class => class.to_string(),
        };
        table.row([
            plan.name.clone(),
            plan.action.into(),
            or_dash(&change),
            summary(plan),
            or_dash(&plan.downtime),
            or_dash(&plan.changed_fields.join(", ")),
        ]);
    }
    let mut notes = String::new();
    for plan in &plans.workloads {
        for note in &plan.notes {
            notes.push_str(&format!("{}: {}\n", plan.name, sanitize(note, SENTENCE_MAX)));
        }
    }
    let mut deletes = String::new();
    for loss in plans.workloads.iter().flat_map(|plan| &plan.losses) {
        let head = if deletes.is_empty() { "This deletes:\n" } else { "" };
        deletes.push_str(&format!("{head}  {}\n", sanitize(loss, SENTENCE_MAX)));
    }
    let parts = [table.to_string(), one_by_one(plans), notes, deletes];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

/// What happens to each instance, as far as a screen has room.
fn one_by_one(plans: &PlansView) -> String {
    let told = plans.workloads.iter().flat_map(|plan| &plan.instances);
    let mut table = Table::new(["INSTANCE", "CHANGE", "NODE", "DOWNTIME", "WHY"]);
    for one in told.clone().take(SHOWN_MAX) {
        let downtime = match one.downtime_ms {
            Some(usual) => format!("about {}", Millis(usual)),
            None => String::new(),
        };
        table.row([
            one.name.clone(),
            one.change.clone(),
            or_dash(&place(one)),
            or_dash(&downtime),
            or_dash(&sanitize(&one.reason, SENTENCE_MAX)),
        ]);
    }
    let shown = told.count().min(SHOWN_MAX);
    if shown == 0 {
        return String::new();
    }
    let touched = |plan: &PlanView| plan.created.len() + plan.changed.len() + plan.removed.len();
    let all: usize = plans.workloads.iter().map(touched).sum();
    let more = match all.saturating_sub(shown) {
        0 => String::new(),
        more => format!("and {more} more\n"),
    };
    format!("{table}{more}")
}

/// Where an instance is and goes.
fn place(one: &InstancePlanView) -> String {
    let to = if one.waits.is_empty() { one.to.as_str() } else { "waits" };
    match (one.node.as_str(), to) {
        (node, to) if node == to || to.is_empty() => node.to_owned(),
        ("", to) => to.to_owned(),
        (node, to) => format!("{node} -> {to}"),
    }
}

fn summary(plan: &PlanView) -> String {
    let parts =
        [("created", &plan.created), ("changed", &plan.changed), ("removed", &plan.removed)];
    let parts = parts.iter().filter(|(_, names)| !names.is_empty());
    let parts: Vec<String> = parts.map(|(word, names)| format!("{} {word}", names.len())).collect();
    if parts.is_empty() { "none touched".into() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_for_people() {
        let plan = |name: &str, action, change, counts: [usize; 3], downtime: &str| PlanView {
            name: name.into(),
            action,
            generation: 2,
            change,
            changed_fields: if action == "update" { vec!["image".into()] } else { vec![] },
            created: vec![format!("{name}-9"); counts[0]],
            changed: vec![format!("{name}-0"); counts[1]],
            removed: vec![format!("{name}-8"); counts[2]],
            downtime: downtime.into(),
            losses: if counts[1] > 0 {
                vec![format!("files of {name}-0 outside of volumes")]
            } else {
                vec![]
            },
            notes: if action == "update" { vec!["something to know".into()] } else { vec![] },
            ..PlanView::default()
        };
        let one = |name: &str, change: &str, node: &str, to: &str, reason: &str| InstancePlanView {
            name: name.into(),
            change: change.into(),
            node: node.into(),
            to: to.into(),
            reason: reason.into(),
            ..InstancePlanView::default()
        };
        let mut plans = PlansView {
            workloads: vec![
                plan("db", "create", ChangeClass::None, [1, 0, 0], ""),
                plan("hello", "update", ChangeClass::InPlace, [0, 6, 2], "about 1 s each"),
                plan("web", "unchanged", ChangeClass::None, [0, 0, 0], "no downtime"),
            ],
            revision: 7,
        };
        plans.workloads[1].instances = vec![
            InstancePlanView {
                downtime_ms: Some(1200),
                ..one("hello-0", "in-place", "h1", "h1", "image")
            },
            one("hello-1", "move", "h1", "h2", "resources; h1 has no room for it"),
            InstancePlanView {
                waits: "0 of 2 nodes fit".into(),
                ..one("hello-2", "create", "", "", "is new")
            },
            one("hello-8", "remove", "h2", "", "beyond the 7 declared"),
        ];
        insta::assert_snapshot!(table(&plans), @r"
        WORKLOAD  ACTION     CHANGE    INSTANCES             DOWNTIME        CHANGED FIELDS
        db        create     -         1 created             -               -
        hello     update     in-place  6 changed, 2 removed  about 1 s each  image
        web       unchanged  -         none touched          no downtime     -

        INSTANCE  CHANGE    NODE      DOWNTIME       WHY
        hello-0   in-place  h1        about 1s200ms  image
        hello-1   move      h1 -> h2  -              resources; h1 has no room for it
        hello-2   create    waits     -              is new
        hello-8   remove    h2        -              beyond the 7 declared
        and 5 more

        hello: something to know

        This deletes:
          files of hello-0 outside of volumes
        ");
        insta::assert_snapshot!(done(&plans), @r"
        db created, 1 instance
        hello updated, 6 changed, 2 removed
        web unchanged
        ");
    }
}
