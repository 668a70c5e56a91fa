//! Machines, which keep the image that they were born from until somebody asks for another one.

use dwell_core::instance::{Phase, RunState};
use dwell_core::skill::{Skill, Skills};
use dwell_core::workload::{Machine, OnImageChange, WorkloadSpec};

use super::fleet::{Fleet, instance, node, spec};
use crate::model::{Command, Refusal, Target, UpdateState, WaitingCause};

fn machine(image: &str, policy: OnImageChange) -> WorkloadSpec {
    let mut spec = spec("dev", 2);
    spec.template.image = image.to_owned();
    spec.template.machine =
        Some(Machine { volume: "root".parse().unwrap(), on_image_change: policy });
    spec
}

fn fleet(policy: OnImageChange) -> Fleet {
    let mut fleet = Fleet::of(1);
    fleet.apply(machine("debian:12", policy)).unwrap();
    fleet.settle();
    fleet
}

fn rebuild(fleet: &mut Fleet, name: &str) -> Result<(), Refusal> {
    fleet.command(Command::RebuildInstances([instance(name)].into())).map(drop)
}

fn images(fleet: &Fleet) -> Vec<String> {
    fleet.assigned_to("n1").into_iter().map(|told| told.template.image).collect()
}

#[test]
fn a_declared_image_is_taken_by_a_rebuild_alone() {
    let mut fleet = fleet(OnImageChange::Keep);
    let before = fleet.assigned_to("n1");
    let plan = fleet.apply(machine("debian:13", OnImageChange::Keep)).unwrap();
    assert!(plan.losses.is_empty(), "{:?}", plan.losses);
    let note = plan.notes.iter().find(|note| note.contains("dwell rebuild dev-0"));
    assert!(note.is_some_and(|note| note.contains("debian:13")), "{:?}", plan.notes);
    fleet.settle();
    for (before, after) in before.iter().zip(fleet.assigned_to("n1")) {
        assert_eq!(after.fingerprint(), before.fingerprint(), "nothing is replaced");
        assert_eq!(after.image_ahead, None);
    }
    // Another variable replaces the container, and the root stays.
    let mut next = machine("debian:13", OnImageChange::Keep);
    next.template.environment.insert("A".to_owned(), "b".to_owned());
    let plan = fleet.apply(next).unwrap();
    assert!(plan.instances.iter().all(|one| one.keeps_root && one.loses().is_empty()));
    assert!(plan.losses.is_empty(), "{:?}", plan.losses);
    fleet.settle();
    assert_eq!(images(&fleet), ["debian:12", "debian:12"]);

    rebuild(&mut fleet, "dev-0").unwrap();
    let told = fleet.assigned_to("n1").remove(0);
    assert!(told.rebuilt > before[0].rebuilt);
    assert_eq!(images(&fleet), ["debian:13", "debian:12"]);
    fleet.restart_controller();
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
    assert_eq!(images(&fleet), ["debian:13", "debian:12"]);
    let first = fleet.model.instance(&instance("dev-0")).unwrap().instance;
    assert_eq!((first.update, &first.root_before), (UpdateState::Current, &None));
    assert_eq!(first.root.born_from.as_ref().unwrap().image, "debian:13");
    fleet.check();
}

#[test]
fn a_root_that_does_not_hold_gives_way_to_the_one_before() {
    let mut fleet = fleet(OnImageChange::Keep);
    fleet.apply(machine("debian:13", OnImageChange::Keep)).unwrap();
    fleet.settle();
    let before = fleet.assigned_to("n1").remove(0);
    rebuild(&mut fleet, "dev-0").unwrap();
    rebuild(&mut fleet, "dev-0").unwrap();
    let n1 = node("n1");
    fleet.fetch(&n1);
    let now = fleet.now;
    fleet.hosts.get_mut(&n1).unwrap().fail(&instance("dev-0"), now);
    fleet.report(&n1).unwrap();
    let told = fleet.assigned_to("n1").remove(0);
    assert_eq!((told.fingerprint(), told.rebuilt), (before.fingerprint(), before.rebuilt));
    assert_eq!(told.template.image, "debian:12");
    fleet.settle();
    // The next request is a later one.
    rebuild(&mut fleet, "dev-0").unwrap();
    assert!(fleet.assigned_to("n1").remove(0).rebuilt > before.rebuilt);
    fleet.settle();
    assert_eq!(images(&fleet)[0], "debian:13");
    fleet.check();
}

#[test]
fn with_rebuild_a_declared_image_is_taken_as_by_any_other_workload() {
    let mut fleet = fleet(OnImageChange::Rebuild);
    let plan = fleet.apply(machine("debian:13", OnImageChange::Rebuild)).unwrap();
    assert!(plan.losses.iter().any(|loss| loss.contains("files of dev-0")), "{:?}", plan.losses);
    assert!(plan.notes.iter().all(|note| !note.contains("rebuild")), "{:?}", plan.notes);
    fleet.settle();
    assert_eq!(images(&fleet), ["debian:13", "debian:13"]);
    // What it is now is what it keeps if that is declared later.
    fleet.apply(machine("debian:14", OnImageChange::Keep)).unwrap();
    fleet.settle();
    assert_eq!(images(&fleet), ["debian:13", "debian:13"]);
    fleet.check();
}

#[test]
fn an_image_that_no_machine_was_born_from_is_not_kept() {
    let mut fleet = Fleet::of(1);
    fleet.apply(machine("typo:12", OnImageChange::Keep)).unwrap();
    fleet.fetch(&node("n1"));
    fleet.apply(machine("debian:12", OnImageChange::Keep)).unwrap();
    assert_eq!(images(&fleet)[0], "debian:12", "nothing has held yet, and it is its turn");
    fleet.check();
}

#[test]
fn what_is_no_machine_has_no_root_to_rebuild() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let refused = rebuild(&mut fleet, "web-0").unwrap_err();
    assert_eq!(refused, Refusal::NotAMachine(instance("web-0")));
    assert!(refused.to_string().contains("dwell replace web-0"), "{refused}");
}

#[test]
fn machines_are_for_agents_that_know_of_them() {
    let mut fleet = Fleet::of(1);
    fleet.hosts.get_mut(&node("n1")).unwrap().lacks = Skills { machine: true, ..Skills::default() };
    fleet.attach(&node("n1")).unwrap();
    fleet.apply(machine("debian:12", OnImageChange::Keep)).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("dev-0"), None);
    let waiting = fleet.model.tables.waiting().get(&instance("dev-0")).unwrap();
    assert!(matches!(waiting.cause, WaitingCause::Unplaced(_)), "{waiting:?}");
    let message = fleet.message("dev-0");
    assert!(message.contains(&Skill::Machine.to_string()), "{message}");
    fleet.hosts.get_mut(&node("n1")).unwrap().lacks = Skills::default();
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("dev-0").as_deref(), Some("n1"));
}

#[test]
fn what_was_shut_down_from_inside_is_started_by_start() {
    let mut fleet = fleet(OnImageChange::Keep);
    let start =
        || Command::SetRun { target: Target::Instance(instance("dev-0")), run: RunState::Running };
    let asked = |fleet: &Fleet| fleet.assigned_to("n1").remove(0).restarts_asked;
    fleet.command(start()).unwrap();
    assert_eq!(asked(&fleet), 0, "it runs");
    let n1 = node("n1");
    let status = fleet.hosts.get_mut(&n1).unwrap().containers.get_mut(&instance("dev-0")).unwrap();
    status.phase = Phase::Stopped;
    status.message = "was shut down from inside".to_owned();
    status.exit_code = Some(140);
    fleet.report(&n1).unwrap();
    assert!(fleet.status().found.is_empty(), "{:?}", fleet.status().found);
    fleet.command(start()).unwrap();
    assert_eq!(asked(&fleet), 1);
}
