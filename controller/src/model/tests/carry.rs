//! Files that are carried over, and agents that do not know how.

use std::collections::BTreeSet;

use dwell_core::change::ChangeClass;
use dwell_core::skill::{Skill, Skills};
use dwell_core::workload::{Process, WorkloadSpec};

use super::fleet::{Fleet, instance, node, spec};
use crate::model::object::WaitingCause;
use crate::model::{Command, Refusal};

/// With a file that is carried over.
fn carrying(image: &str) -> WorkloadSpec {
    let mut spec = spec("web", 1);
    spec.template.image = image.to_owned();
    spec.template.carry = vec!["/etc/app/id".to_owned()];
    spec
}

fn set_old(fleet: &mut Fleet, name: &str, carries_nothing: bool) {
    fleet.hosts.get_mut(&node(name)).unwrap().carries_nothing = carries_nothing;
    fleet.attach(&node(name)).unwrap();
}

fn image(fleet: &Fleet, name: &str) -> String {
    let place = fleet.place(name).unwrap();
    let assigned = fleet.assigned_to(&place);
    let found = assigned.iter().find(|one| one.instance == instance(name)).unwrap();
    found.template.image.clone()
}

#[test]
fn nothing_that_has_files_carried_over_goes_to_an_agent_that_does_not_know_how() {
    let mut fleet = Fleet::of(1);
    set_old(&mut fleet, "n1", true);
    fleet.apply(carrying("image:1")).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("web-0"), None);
    let why = fleet.model.explain("web-0").map(|found| format!("{found:?}"));
    assert!(format!("{why:?}").contains("carries no files over"), "{why:?}");
    set_old(&mut fleet, "n1", false);
    fleet.settle();
    assert_eq!(fleet.place("web-0").as_deref(), Some("n1"));
}

#[test]
fn what_is_there_already_is_not_replaced_before_its_agent_is_upgraded() {
    let mut fleet = Fleet::of(1);
    fleet.apply(carrying("image:1")).unwrap();
    fleet.settle();
    set_old(&mut fleet, "n1", true);
    fleet.settle();
    fleet.apply(carrying("image:2")).unwrap();
    fleet.settle();
    assert_eq!(image(&fleet, "web-0"), "image:1");
    let waiting = fleet.model.tables.waiting().get(&instance("web-0")).unwrap();
    assert_eq!(waiting.cause, WaitingCause::CarriesNothing);
    let names = BTreeSet::from([instance("web-0")]);
    let refused = fleet.command(Command::ReplaceInstances(names.clone())).unwrap_err();
    assert!(matches!(refused, Refusal::CarriesNothing { .. }), "{refused}");
    set_old(&mut fleet, "n1", false);
    fleet.settle();
    assert_eq!(image(&fleet, "web-0"), "image:2");
    assert!(!fleet.model.tables.waiting().contains_key(&instance("web-0")));
    fleet.command(Command::ReplaceInstances(names)).unwrap();
}

#[test]
fn a_plan_says_what_is_lost_and_what_is_kept() {
    let mut fleet = Fleet::of(2);
    let mut plain = carrying("image:1");
    plain.template.carry.clear();
    fleet.apply(plain).unwrap();
    fleet.settle();
    // To say that something is carried over touches no container.
    let plan = fleet.apply(carrying("image:1")).unwrap();
    assert_eq!(
        (plan.class(), plan.changed_fields.as_slice()),
        (ChangeClass::Live, ["carry"].as_slice())
    );
    assert_eq!(plan.losses, [""; 0]);
    fleet.settle();
    let mut next = carrying("image:2");
    let plan = fleet.dry_run(vec![next.clone()]).unwrap().remove(0);
    let kept = "files of web-0 outside of volumes, but for /etc/app/id, if there, carried over";
    assert_eq!(plan.losses, [kept]);
    assert!(plan.instances[0].loses().ends_with("but for those that are carried over"));
    let home = fleet.place("web-0").unwrap();
    next.placement.constraints = vec![format!("node.name!={home}").parse().unwrap()];
    let plan = fleet.dry_run(vec![next]).unwrap().remove(0);
    assert!(plan.losses[0].contains("/etc/app/id as well: nothing is carried over"), "{plan:?}");
    assert_eq!(plan.instances[0].loses(), "files outside of volumes");
}

#[test]
fn how_processes_are_held_is_for_agents_that_know_of_it() {
    let mut fleet = Fleet::of(2);
    let held = |image: &str| {
        let mut spec = carrying(image);
        spec.template.carry.clear();
        spec.template.process.read_only = true;
        spec
    };
    let mut plain = held("image:1");
    plain.template.process = Process::default();
    fleet.apply(plain).unwrap();
    fleet.settle();
    let home = node(&fleet.place("web-0").unwrap());
    for name in [node("n1"), node("n2")] {
        fleet.hosts.get_mut(&name).unwrap().lacks = Skills::ALL;
        fleet.attach(&name).unwrap();
    }
    fleet.settle();
    fleet.apply(held("image:1")).unwrap();
    fleet.settle();
    let waiting = fleet.model.tables.waiting().get(&instance("web-0")).unwrap();
    assert_eq!(waiting.cause, WaitingCause::Lacks(Skill::Process));
    assert!(!fleet.model.tables.instances()[&instance("web-0")].wanted.template.process.read_only);
    fleet.hosts.get_mut(&home).unwrap().lacks = Skills::default();
    fleet.attach(&home).unwrap();
    fleet.settle();
    assert!(fleet.model.tables.instances()[&instance("web-0")].wanted.template.process.read_only);
    assert!(!fleet.model.tables.waiting().contains_key(&instance("web-0")));
    // It goes nowhere else.
    fleet.drain(home.as_str());
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), home.as_str());
    assert!(fleet.message("web-0").contains("does not know init"), "{}", fleet.message("web-0"));
}
