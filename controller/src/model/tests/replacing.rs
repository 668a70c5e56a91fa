//! Chosen instances that get a new container.

use std::collections::BTreeSet;

use dwell_core::instance::RunState;

use super::fleet::{Fleet, instance, node, spec, workload};
use crate::model::{Command, Instance, Refusal, Target, UpdateState, VersionState};

fn replace(fleet: &mut Fleet, names: &[&str]) -> Result<(), Refusal> {
    let names: BTreeSet<_> = names.iter().map(|name| instance(name)).collect();
    fleet.command(Command::ReplaceInstances(names)).map(drop)
}

fn web_0(fleet: &Fleet) -> Instance {
    Instance::clone(&fleet.model.instance(&instance("web-0")).unwrap().instance)
}

fn fleet() -> Fleet {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    fleet
}

#[test]
fn only_the_chosen_one_gets_another_container_in_the_same_place() {
    let mut fleet = fleet();
    let (before, other) = (web_0(&fleet), fleet.assigned_to("n1").remove(1));
    replace(&mut fleet, &["web-0"]).unwrap();
    let told = fleet.assigned_to("n1").remove(0);
    assert_ne!(told.fingerprint(), told.template.fingerprint());
    assert!(told.generation > before.generation && told.generation == told.edition);
    assert_eq!(web_0(&fleet).update, UpdateState::Updating);
    fleet.restart_controller();
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
    let after = web_0(&fleet);
    assert_eq!((after.update, after.edition_before), (UpdateState::Current, None));
    assert_eq!((&after.node, after.identity), (&before.node, before.identity));
    assert_eq!(after.wanted, before.wanted, "it is no other version");
    assert_eq!(fleet.assigned_to("n1").remove(1), other);
    // What is declared later is of that edition as well, and nothing is replaced a second time for it.
    let mut next = spec("web", 2);
    next.template.image = "image:2".into();
    fleet.apply(next).unwrap();
    fleet.settle();
    assert_eq!(web_0(&fleet).edition, after.edition);
    fleet.check();
}

#[test]
fn if_the_new_one_does_not_hold_the_one_before_is_kept_and_the_version_stays_good() {
    let mut fleet = fleet();
    let before = fleet.assigned_to("n1").remove(0);
    replace(&mut fleet, &["web-0"]).unwrap();
    replace(&mut fleet, &["web-0"]).unwrap();
    let n1 = node("n1");
    fleet.fetch(&n1);
    let now = fleet.now;
    fleet.hosts.get_mut(&n1).unwrap().fail(&instance("web-0"), now);
    fleet.report(&n1).unwrap();
    let told = fleet.assigned_to("n1").remove(0);
    assert_eq!(told.fingerprint(), before.fingerprint());
    assert!(told.generation > before.generation);
    let event = fleet.model.events(Some("instance/web-0"), 1).remove(0);
    assert_eq!(event.reason, "instance-not-replaced");
    assert!(event.message.contains("does not answer"), "{}", event.message);
    fleet.settle();
    assert_eq!(web_0(&fleet).update, UpdateState::Current);
    let versions = fleet.model.versions(&workload("web")).unwrap();
    assert_eq!(versions[0].version.state, VersionState::Good);
    assert!(fleet.status().found.is_empty());
    fleet.check();
}

#[test]
fn a_version_that_does_not_hold_takes_the_edition_back_with_it() {
    let mut fleet = fleet();
    let before = fleet.assigned_to("n1").remove(0);
    replace(&mut fleet, &["web-0"]).unwrap();
    let mut next = spec("web", 2);
    next.template.image = "image:2".into();
    fleet.apply(next).unwrap();
    assert_eq!(fleet.assigned_to("n1")[0].template.image, "image:2");
    let n1 = node("n1");
    fleet.fetch(&n1);
    let now = fleet.now;
    fleet.hosts.get_mut(&n1).unwrap().fail(&instance("web-0"), now);
    fleet.report(&n1).unwrap();
    let told = fleet.assigned_to("n1").remove(0);
    assert_eq!(told.fingerprint(), before.fingerprint(), "what it held with before both");
    let versions = fleet.model.versions(&workload("web")).unwrap();
    assert!(matches!(versions[0].version.state, VersionState::RuledOut { .. }));
    fleet.settle();
    fleet.check();
}

#[test]
fn what_is_stopped_gets_it_at_its_start_and_what_is_not_there_is_named() {
    let mut fleet = fleet();
    let target = Target::Instance(instance("web-0"));
    fleet.command(Command::SetRun { target: target.clone(), run: RunState::Stopped }).unwrap();
    fleet.settle();
    replace(&mut fleet, &["web-0"]).unwrap();
    fleet.settle();
    let stopped = web_0(&fleet);
    assert_eq!((stopped.update, stopped.edition), (UpdateState::Current, stopped.generation));
    fleet.command(Command::SetRun { target, run: RunState::Running }).unwrap();
    fleet.settle();
    assert_eq!(web_0(&fleet).edition_before, None);
    let refused = replace(&mut fleet, &["web-0", "web-7"]).unwrap_err();
    assert_eq!(refused, Refusal::NoInstance(instance("web-7")));
    assert_eq!(web_0(&fleet).edition, stopped.edition, "all or none");
}
