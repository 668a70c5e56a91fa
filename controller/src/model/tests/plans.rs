//! What is shown of a change before it is made, instance by instance, and that nothing else is done then.

use std::collections::BTreeSet;

use dwell_core::instance::Phase;
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::WorkloadSpec;

use super::fleet::{Fleet, instance, node, plans, spec};
use crate::model::{Command, Expected, NodeChange, Refusal, Reply, WorkloadPlan};

/// Each instance, what happens to it, where it is and will be, and why.
fn told(plan: &WorkloadPlan) -> Vec<String> {
    let name =
        |node: Option<&dwell_core::id::NodeName>| node.map_or("-".into(), ToString::to_string);
    let one = |one: &crate::model::InstancePlan| {
        let (node, to) = (name(one.node.as_ref()), name(one.to.as_ref()));
        format!("{} {} {node} {to}: {}", one.instance, one.action, one.reason)
    };
    plan.instances.iter().map(one).collect()
}

fn of_image(version: u32, replicas: u32) -> WorkloadSpec {
    let mut spec = spec("web", replicas);
    spec.template.image = format!("image:{version}");
    spec
}

fn declare(fleet: &mut Fleet, spec: &WorkloadSpec, planned: Vec<String>) -> Result<Reply, Refusal> {
    fleet.command(Command::ApplyWorkloads {
        specs: vec![spec.clone()],
        keep_replicas: BTreeSet::new(),
        dry_run: false,
        force: false,
        planned,
        by: String::new(),
    })
}

#[test]
fn each_instance_is_told_of_with_its_place_and_the_reason() {
    let mut fleet = Fleet::of(2);
    let plan = fleet.apply(of_image(1, 2)).unwrap();
    assert_eq!(told(&plan), ["web-0 create - n1: is new", "web-1 create - n2: is new"]);
    fleet.settle();
    let mut second = of_image(2, 1);
    second.template.hostname = "other".into();
    let plan = fleet.apply(second.clone()).unwrap();
    assert_eq!(
        told(&plan),
        ["web-0 in-place n1 n1: image, hostname", "web-1 remove n2 -: beyond the 1 declared"]
    );
    assert_eq!(plan.instances[0].loses(), "files outside of volumes");
    fleet.settle();
    second.template.resources.cpu = Millicores(100);
    let plan = fleet.apply(second).unwrap();
    assert_eq!(told(&plan), ["web-0 live n1 n1: resources"]);
    assert_eq!(plan.instances[0].loses(), "");
}

#[test]
fn the_scheduler_is_asked_for_all_that_have_to_go_elsewhere_also_before_their_turn() {
    let mut fleet = Fleet::of(3);
    for name in ["n1", "n2"] {
        let set_labels = [("disk".to_owned(), "fast".to_owned())].into();
        fleet.update_node(name, NodeChange { set_labels, ..NodeChange::default() }).unwrap();
    }
    fleet.update_node("n3", NodeChange { cordoned: Some(true), ..NodeChange::default() }).unwrap();
    let mut web = of_image(1, 4);
    web.template.resources.memory = Bytes::mebi(1500);
    fleet.apply(web.clone()).unwrap();
    fleet.settle();
    fleet.update_node("n3", NodeChange { cordoned: Some(false), ..NodeChange::default() }).unwrap();
    // 4096 MiB each: what is here two at a time is to be one at a time, and n3 takes one of two.
    web.template.resources.memory = Bytes::mebi(2500);
    let plan = fleet.dry_run(vec![web]).unwrap().remove(0);
    let to: Vec<Option<String>> =
        plan.instances.iter().map(|one| one.to.as_ref().map(ToString::to_string)).collect();
    let waits: Vec<bool> = plan.instances.iter().map(|one| !one.waits.is_empty()).collect();
    assert_eq!(to.iter().filter(|to| to.as_deref() == Some("n3")).count(), 1, "{plan:#?}");
    assert!(waits.contains(&true), "{plan:#?}");
    let waiting = plan.instances.iter().find(|one| !one.waits.is_empty()).unwrap();
    assert!(waiting.waits.contains("0 of 3 nodes fit"), "{waiting:?}");
    assert!(plan.notes.iter().any(|note| note.contains("0 of 3 nodes fit")), "{:?}", plan.notes);
}

#[test]
fn what_is_on_a_node_that_is_not_heard_of_waits_for_it() {
    let mut fleet = Fleet::of(2);
    fleet.apply(of_image(1, 2)).unwrap();
    fleet.settle();
    fleet.hosts.get_mut(&node("n2")).unwrap().session = None;
    for _ in 0..100 {
        fleet.pass(1);
        fleet.report(&node("n1")).unwrap();
    }
    let plan = fleet.apply(of_image(2, 2)).unwrap();
    assert_eq!(plan.instances[0].waits, "");
    assert_eq!(plan.instances[1].waits, "n2 is not heard of");
}

#[test]
fn a_plan_is_done_as_it_was_shown_or_not_at_all() {
    let mut fleet = Fleet::of(2);
    let web = of_image(1, 2);
    let shown = fleet.dry_run(vec![web.clone()]).unwrap().remove(0).digest;
    let other = fleet.dry_run(vec![of_image(2, 2)]).unwrap().remove(0).digest;
    assert_ne!(shown, other, "what is declared is part of it");
    // Nothing that matters has changed.
    fleet.pass(10);
    fleet.apply(spec("db", 0)).unwrap();
    let done = plans(declare(&mut fleet, &web, vec![shown.clone()]).unwrap());
    assert_eq!(done[0].digest, shown);
    fleet.settle();
    // It is declared now, so the same plan would do something else: nothing.
    let again = declare(&mut fleet, &web, vec![shown]).unwrap_err();
    assert_eq!(again, Refusal::PlanOutdated(web.name.clone()));

    let second = of_image(2, 3);
    let shown = fleet.dry_run(vec![second.clone()]).unwrap().remove(0).digest;
    fleet.update_node("n1", NodeChange { cordoned: Some(true), ..NodeChange::default() }).unwrap();
    let refused = declare(&mut fleet, &second, vec![shown.clone()]).unwrap_err();
    assert_eq!(refused, Refusal::PlanOutdated(second.name.clone()), "web-2 would go elsewhere");
    assert!(refused.to_string().contains("dwell plan --out"), "{refused}");
    fleet.update_node("n1", NodeChange { cordoned: Some(false), ..NodeChange::default() }).unwrap();
    declare(&mut fleet, &second, vec![shown]).unwrap();
    fleet.settle();

    // Somebody else's change of the same field in between is not undone unseen.
    let third = of_image(3, 3);
    let shown = fleet.dry_run(vec![third.clone()]).unwrap().remove(0).digest;
    fleet.apply(of_image(4, 3)).unwrap();
    fleet.settle();
    assert_eq!(
        declare(&mut fleet, &third, vec![shown]).unwrap_err(),
        Refusal::PlanOutdated(third.name)
    );
}

#[test]
fn a_change_that_took_an_instance_down_says_how_long_the_next_one_will() {
    let mut fleet = Fleet::of(2);
    fleet.apply(of_image(1, 1)).unwrap();
    fleet.settle();
    let plan = fleet.apply(of_image(2, 1)).unwrap();
    assert_eq!(plan.instances[0].downtime, None);
    assert_eq!(plan.downtime, "web-0 is down between stop and start");
    let (n1, web) = (node("n1"), instance("web-0"));
    fleet.fetch(&n1);
    let phase = |fleet: &mut Fleet, phase| {
        let now = fleet.now;
        let status = fleet.hosts.get_mut(&n1).unwrap().containers.get_mut(&web).unwrap();
        (status.phase, status.observed_at) = (phase, now);
        fleet.report(&n1).unwrap();
    };
    phase(&mut fleet, Phase::Stopping);
    fleet.pass(3);
    phase(&mut fleet, Phase::Preparing);
    fleet.settle();
    let measured = |millis, changes| {
        Some(Expected { usual: Millis(millis), longest: Millis(millis), changes })
    };
    let plan = fleet.dry_run(vec![of_image(3, 1)]).unwrap().remove(0);
    assert_eq!(plan.instances[0].downtime, measured(3000, 1));
    assert_eq!(
        plan.downtime,
        "web-0 is down between stop and start; about 3s, as it was last time"
    );
    // A move is measured by itself, and all of it is known after a restart of the controller.
    fleet.drain("n1");
    fleet.fetch(&n1);
    phase(&mut fleet, Phase::Stopping);
    fleet.pass(5);
    fleet.settle();
    assert_eq!(fleet.place("web-0").as_deref(), Some("n2"));
    fleet.restart_controller();
    fleet.attach(&node("n1")).unwrap();
    fleet.attach(&node("n2")).unwrap();
    let plan = fleet.dry_run(vec![of_image(3, 1)]).unwrap().remove(0);
    assert_eq!(plan.instances[0].downtime, measured(3000, 1));
    let workload = &fleet.model.workload(&spec("web", 1).name).unwrap().workload;
    let moves = workload.downtimes.expected(dwell_core::change::ChangeClass::Move);
    assert_eq!(moves, measured(5000, 1));
}
