//! Drains: one of a workload at a time, health before the next one, deadlines, and what is said of all that.

use dwell_core::clock::Timestamp;
use dwell_core::workload::{Portion, WorkloadSpec};

use super::fleet::{Fleet, instance, node, spec, workload};
use crate::model::{Command, FindingKind, NodeChange, Obstacle, Surroundings, Target};

/// Whose update policy would allow all of them at once.
fn hasty(replicas: u32) -> WorkloadSpec {
    let mut spec = spec("web", replicas);
    spec.update.parallelism = Portion::Percent(100);
    spec
}

fn drain(fleet: &mut Fleet, name: &str, seconds: u64) {
    let deadline = Some(Timestamp(fleet.now.0 + seconds * 1000));
    let change = NodeChange { draining: Some(true), deadline, ..NodeChange::default() };
    fleet.update_node(name, change).unwrap();
}

fn attach(fleet: &mut Fleet, names: &[&str]) {
    for name in names {
        fleet.attach(&node(name)).unwrap();
    }
}

fn leaving(fleet: &Fleet) -> Vec<String> {
    let instances = fleet.model.tables.instances().values();
    let leaving = instances.filter(|one| one.leaving.is_some());
    leaving.map(|one| one.name.to_string()).collect()
}

fn obstacles(fleet: &Fleet, name: &str) -> Vec<Obstacle> {
    fleet.model.node(&node(name)).unwrap().obstacles
}

fn told(fleet: &Fleet, name: &str) -> (String, String) {
    let event = fleet.model.events(Some(&format!("node/{name}")), 1).remove(0);
    (event.reason.clone(), event.message.clone())
}

/// A node does its assignment, but what it is given does not hold yet.
fn try_out(fleet: &mut Fleet, name: &str, which: &str) {
    fleet.fetch(&node(name));
    let now = fleet.now;
    fleet.hosts.get_mut(&node(name)).unwrap().try_out(&instance(which), now);
    fleet.report(&node(name)).unwrap();
}

fn ail(fleet: &mut Fleet, name: &str, which: &str) {
    let now = fleet.now;
    fleet.hosts.get_mut(&node(name)).unwrap().ail(&instance(which), now);
    fleet.report(&node(name)).unwrap();
}

#[test]
fn two_of_one_workload_are_never_down_because_of_drains_also_of_two_nodes() {
    let mut fleet = Fleet::of(4);
    fleet.apply(hasty(4)).unwrap();
    fleet.settle();
    fleet.drain("n1");
    fleet.drain("n2");
    assert_eq!(leaving(&fleet), ["web-0"]);
    fleet.sync(&node("n1"));
    let to = fleet.place("web-0").unwrap();
    try_out(&mut fleet, &to, "web-0");
    assert_eq!(leaving(&fleet), [""; 0], "web-0 has to hold first");
    let [one] = &obstacles(&fleet, "n2")[..] else { panic!() };
    assert_eq!(one.reason, "waits for web-0 to hold, which is moved off n1 (running)");
    assert_eq!(one.next, "dwell explain web-0");
    // It is the same after a restart of the controller.
    fleet.restart_controller();
    attach(&mut fleet, &["n1", "n2", "n3", "n4"]);
    fleet.pass(1);
    assert_eq!(leaving(&fleet), [""; 0]);
    fleet.sync(&node(&to));
    assert_eq!(leaving(&fleet), ["web-1"]);
    fleet.settle();
    for name in ["n1", "n2"] {
        assert_eq!(fleet.model.node(&node(name)).unwrap().message, "is drained");
    }
}

#[test]
fn pairs_on_one_node_move_apart_in_time_and_other_workloads_do_not_wait() {
    let mut fleet = Fleet::of(1);
    fleet.apply(hasty(2)).unwrap();
    fleet.apply(spec("db", 1)).unwrap();
    fleet.settle();
    fleet.join("n2").unwrap();
    attach(&mut fleet, &["n2"]);
    fleet.drain("n1");
    assert_eq!(leaving(&fleet), ["db-0", "web-0"]);
    fleet.settle();
    assert!(["db-0", "web-0", "web-1"].iter().all(|one| fleet.place(one).unwrap() == "n2"));
}

#[test]
fn what_was_unwell_before_is_moved_and_not_waited_for() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 3)).unwrap();
    fleet.settle();
    fleet.join("n2").unwrap();
    attach(&mut fleet, &["n2"]);
    ail(&mut fleet, "n1", "web-1");
    fleet.drain("n1");
    assert_eq!(leaving(&fleet), ["web-0", "web-1"], "web-1 is down anyway");
    fleet.sync(&node("n1"));
    fleet.fetch(&node("n2"));
    ail(&mut fleet, "n2", "web-1");
    try_out(&mut fleet, "n2", "web-0");
    assert_eq!(leaving(&fleet), [""; 0], "web-2 waits for web-0, which did well");
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n2")).unwrap().start(&instance("web-0"), now);
    fleet.report(&node("n2")).unwrap();
    assert_eq!(leaving(&fleet), ["web-2"], "and not for web-1");
}

#[test]
fn what_has_recovered_is_as_well_as_the_others() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    ail(&mut fleet, "n1", "web-1");
    // There is nowhere to go yet.
    fleet.drain("n1");
    let now = fleet.now;
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    host.containers.remove(&instance("web-1"));
    host.start(&instance("web-1"), now);
    fleet.report(&node("n1")).unwrap();
    fleet.join("n2").unwrap();
    attach(&mut fleet, &["n2"]);
    assert_eq!(leaving(&fleet), ["web-0"]);
}

#[test]
fn a_drain_is_given_up_at_its_deadline_and_nothing_is_forced() {
    let mut fleet = Fleet::of(2);
    let mut big = spec("big", 2);
    big.template.resources.cpu = dwell_core::quantity::Millicores(3000);
    fleet.apply(big).unwrap();
    fleet.settle();
    drain(&mut fleet, "n1", 600);
    fleet.settle();
    assert!(obstacles(&fleet, "n1")[0].reason.contains("n2 has 1 of the 3 CPU asked for free"));
    fleet.restart_controller();
    attach(&mut fleet, &["n1", "n2"]);
    fleet.pass(598);
    attach(&mut fleet, &["n1", "n2"]);
    fleet.pass(1);
    assert!(fleet.model.node(&node("n1")).unwrap().node.draining);
    fleet.pass(1);
    let view = fleet.model.node(&node("n1")).unwrap();
    assert_eq!((view.node.draining, view.node.cordoned), (false, true));
    assert!(
        view.message
            .starts_with("was not drained by its deadline; 1 instance was left: big-0: 0 of 2"),
        "{}",
        view.message
    );
    let (reason, message) = told(&fleet, "n1");
    assert_eq!(reason, "drain-failed");
    assert!(message.contains("n2 has 1 of the 3 CPU asked for free"), "{message}");
    let status = fleet.model.fleet_status(&Surroundings { now: fleet.now, ..Default::default() });
    let found = status.found.iter().find(|one| one.kind == FindingKind::DrainFailed).unwrap();
    assert_eq!(found.next, "dwell node drain n1");
    // That lasts, and room elsewhere moves nothing any more.
    fleet.restart_controller();
    attach(&mut fleet, &["n1", "n2"]);
    fleet.command(Command::Scale { workload: workload("big"), replicas: 1 }).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("big-0").unwrap(), "n1");
    assert!(fleet.model.node(&node("n1")).unwrap().node.given_up().is_some());
    // Whoever drains again tries again.
    fleet.drain("n1");
    fleet.settle();
    assert_eq!(fleet.place("big-0").unwrap(), "n2");
    assert_eq!(fleet.model.node(&node("n1")).unwrap().message, "is drained");
}

#[test]
fn a_drain_that_is_done_has_no_deadline_and_an_uncordoned_node_has_no_drain() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    drain(&mut fleet, "n1", 600);
    fleet.settle();
    fleet.pass(601);
    let view = fleet.model.node(&node("n1")).unwrap();
    assert!(view.node.draining && view.node.given_up().is_none());
    attach(&mut fleet, &["n1", "n2"]);
    let back = NodeChange { cordoned: Some(false), ..NodeChange::default() };
    fleet.update_node("n1", back).unwrap();
    assert_eq!(fleet.model.node(&node("n1")).unwrap().node.drain, None);
}

#[test]
fn the_end_of_a_drain_releases_who_waits_for_what_it_moved() {
    let mut fleet = Fleet::of(4);
    fleet.apply(hasty(4)).unwrap();
    fleet.settle();
    fleet.drain("n1");
    fleet.sync(&node("n1"));
    let to = fleet.place("web-0").unwrap();
    fleet.fetch(&node(&to));
    ail(&mut fleet, &to, "web-0");
    let other = if to == "n2" { "n3" } else { "n2" };
    fleet.drain(other);
    assert_eq!(leaving(&fleet), [""; 0], "n1 is still drained");
    let [one] = &obstacles(&fleet, other)[..] else { panic!() };
    assert_eq!(one.next, "dwell logs web-0");
    let explained = fleet.model.explain(&one.instance.to_string()).unwrap();
    let fact = explained.facts.iter().find(|fact| fact.about == "drain").unwrap();
    assert!(fact.text.ends_with("; next: dwell logs web-0"), "{}", fact.text);
    let back = NodeChange { cordoned: Some(false), ..NodeChange::default() };
    fleet.update_node("n1", back).unwrap();
    assert_eq!(leaving(&fleet).len(), 1);
}

#[test]
fn a_stopped_instance_is_moved_as_any_other() {
    let mut fleet = Fleet::of(2);
    fleet.apply(hasty(2)).unwrap();
    fleet.settle();
    let run = dwell_core::instance::RunState::Stopped;
    let target = Target::Workload(workload("web"));
    fleet.command(Command::SetRun { target, run }).unwrap();
    fleet.settle();
    fleet.drain("n1");
    fleet.settle();
    assert_eq!(fleet.model.node(&node("n1")).unwrap().message, "is drained");
}
