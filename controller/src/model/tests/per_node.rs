//! Workloads with one instance on every node: how they follow the nodes.

use std::collections::BTreeMap;

use dwell_core::instance::Phase;
use dwell_core::workload::{Mount, MountSource, WorkloadSpec};

use super::fleet::{Fleet, instance, node, spec, workload};
use crate::model::{Command, InstanceAction, MoveHow, NodeChange, Refusal, Target};

fn each(constraints: &[&str]) -> WorkloadSpec {
    let mut spec = spec("log", 7);
    spec.placement.one_per_node = true;
    spec.placement.constraints = constraints.iter().map(|one| one.parse().unwrap()).collect();
    spec
}

/// Which instance is on which node.
fn places(fleet: &Fleet) -> Vec<(String, String)> {
    let placed = fleet.model.tables.instances_of(&workload("log"));
    let placed = placed.filter(|instance| !instance.removing);
    let place = |node: &Option<_>| node.as_ref().map_or("-".into(), ToString::to_string);
    placed.map(|instance| (instance.name.to_string(), place(&instance.node))).collect()
}

fn at(places: &[(&str, &str)]) -> Vec<(String, String)> {
    places.iter().map(|(name, node)| ((*name).to_owned(), (*node).to_owned())).collect()
}

fn join(fleet: &mut Fleet, name: &str) {
    fleet.join(name).unwrap();
    fleet.attach(&node(name)).unwrap();
    fleet.settle();
}

fn change(fleet: &mut Fleet, name: &str, change: NodeChange) {
    fleet.update_node(name, change).unwrap();
    fleet.settle();
}

fn labelled(on: bool) -> NodeChange {
    match on {
        true => NodeChange {
            set_labels: BTreeMap::from([("disk".into(), "ssd".into())]),
            ..NodeChange::default()
        },
        false => NodeChange { remove_labels: vec!["disk".into()], ..NodeChange::default() },
    }
}

#[test]
fn every_node_has_one_also_those_that_come_later() {
    let mut fleet = Fleet::of(2);
    let plan = fleet.apply(each(&[])).unwrap();
    let created = plan.instances.iter().filter(|one| one.action == InstanceAction::Create);
    assert_eq!(created.count(), 2, "whatever was said of replicas");
    fleet.settle();
    assert_eq!(places(&fleet), at(&[("log-0", "n1"), ("log-1", "n2")]));
    assert_eq!(fleet.phase("log-1"), Phase::Running);
    join(&mut fleet, "n3");
    assert_eq!(places(&fleet), at(&[("log-0", "n1"), ("log-1", "n2"), ("log-2", "n3")]));
    assert_eq!(fleet.model.workload(&workload("log")).unwrap().workload.spec.replicas, 3);
    assert!(fleet.apply(each(&[])).unwrap().instances.is_empty(), "it is as declared");
    assert!(fleet.status().found.is_empty());
}

#[test]
fn labels_say_which_nodes_have_one_and_the_others_keep_theirs() {
    let mut fleet = Fleet::of(3);
    fleet.apply(each(&["disk==ssd"])).unwrap();
    fleet.settle();
    assert_eq!(places(&fleet), at(&[]));
    for name in ["n3", "n1", "n2"] {
        change(&mut fleet, name, labelled(true));
    }
    assert_eq!(places(&fleet), at(&[("log-0", "n3"), ("log-1", "n1"), ("log-2", "n2")]));
    let addresses = ["log-0", "log-2"].map(|name| fleet.address(name));
    change(&mut fleet, "n1", labelled(false));
    assert_eq!(places(&fleet), at(&[("log-0", "n3"), ("log-2", "n2")]));
    assert_eq!(["log-0", "log-2"].map(|name| fleet.address(name)), addresses);
    change(&mut fleet, "n1", labelled(true));
    assert_eq!(places(&fleet), at(&[("log-0", "n3"), ("log-1", "n1"), ("log-2", "n2")]));
}

#[test]
fn nothing_waits_for_nodes_that_take_nothing_and_they_keep_what_they_have() {
    let mut fleet = Fleet::of(3);
    let cordoned = |on| NodeChange { cordoned: Some(on), ..NodeChange::default() };
    change(&mut fleet, "n2", cordoned(true));
    fleet.apply(each(&[])).unwrap();
    fleet.settle();
    assert_eq!(places(&fleet), at(&[("log-0", "n1"), ("log-1", "n3")]));
    change(&mut fleet, "n1", cordoned(true));
    assert_eq!(places(&fleet), at(&[("log-0", "n1"), ("log-1", "n3")]));
    change(&mut fleet, "n2", cordoned(false));
    assert_eq!(places(&fleet), at(&[("log-0", "n1"), ("log-1", "n3"), ("log-2", "n2")]));
    // One that is lost keeps what it has, also after a restart of the controller that has not heard of it.
    fleet.restart_controller();
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.pass(1_000);
    assert_eq!(places(&fleet), at(&[("log-0", "n1"), ("log-1", "n3"), ("log-2", "n2")]));
}

#[test]
fn drains_leave_them_and_wait_for_all_others() {
    let mut fleet = Fleet::of(2);
    fleet.apply(each(&[])).unwrap();
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    fleet.drain("n1");
    fleet.settle();
    assert_eq!(places(&fleet), at(&[("log-0", "n1"), ("log-1", "n2")]));
    let view = fleet.model.node(&node("n1")).unwrap();
    assert_eq!((view.message.as_str(), view.obstacles.len()), ("is drained", 0));
    assert_eq!((view.instances, view.own), (1, 1));
    assert_eq!(fleet.message("log-0"), "");
    assert!(fleet.status().found.iter().all(|found| !found.message.contains("log-0")));
}

#[test]
fn a_node_that_is_removed_takes_its_own_along() {
    let mut fleet = Fleet::of(2);
    fleet.apply(each(&[])).unwrap();
    fleet.settle();
    let remove = |fleet: &mut Fleet, force| {
        let removed = fleet.command(Command::RemoveNode { node: node("n1"), force });
        removed.map(drop)
    };
    // As long as it is not heard of, nobody can say that it has ended.
    let session = fleet.hosts.get_mut(&node("n1")).unwrap().session.take().unwrap();
    fleet.command(Command::DetachNode { node: node("n1"), session }).unwrap();
    fleet.pass(1_000);
    let refused = remove(&mut fleet, false).unwrap_err();
    assert!(matches!(refused, Refusal::NodeInUse { .. }), "{refused}");
    fleet.attach(&node("n1")).unwrap();
    fleet.attach(&node("n2")).unwrap();
    remove(&mut fleet, false).unwrap();
    let told = fleet.model.events(Some("node/n1"), 1).remove(0);
    assert_eq!(told.message, "removed; what belongs to it ends");
    assert_eq!(places(&fleet), at(&[("log-1", "n2")]));
    // It has to say that it has let go, before the instance is gone.
    assert!(fleet.model.instance(&instance("log-0")).is_some());
    let mut lost = Fleet::of(2);
    lost.apply(each(&[])).unwrap();
    lost.settle();
    let session = lost.hosts.get_mut(&node("n1")).unwrap().session.take().unwrap();
    lost.command(Command::DetachNode { node: node("n1"), session }).unwrap();
    lost.pass(1_000);
    lost.attach(&node("n2")).unwrap();
    remove(&mut lost, true).unwrap();
    lost.hosts.remove(&node("n1"));
    lost.settle();
    assert_eq!(places(&lost), at(&[("log-1", "n2")]));
    assert!(lost.model.instance(&instance("log-0")).is_none());
}

#[test]
fn the_number_of_a_node_is_the_one_whose_volumes_it_has() {
    let mut fleet = Fleet::of(2);
    let mut log = each(&["disk==ssd"]);
    log.template.mounts.push(Mount {
        source: MountSource::Volume("data".parse().unwrap()),
        target: "/data".into(),
        read_only: false,
    });
    fleet.apply(log).unwrap();
    change(&mut fleet, "n2", labelled(true));
    assert_eq!(places(&fleet), at(&[("log-0", "n2")]));
    change(&mut fleet, "n2", labelled(false));
    assert_eq!(places(&fleet), at(&[]));
    change(&mut fleet, "n1", labelled(true));
    assert_eq!(places(&fleet), at(&[("log-1", "n1")]), "the volume of log-0 is on n2");
    change(&mut fleet, "n2", labelled(true));
    assert_eq!(places(&fleet), at(&[("log-0", "n2"), ("log-1", "n1")]));
}

#[test]
fn one_that_was_to_be_made_again_is_not_if_its_node_goes_first() {
    let mut fleet = Fleet::of(1);
    fleet.apply(each(&[])).unwrap();
    fleet.settle();
    let remove = |fleet: &mut Fleet, name: &str| {
        fleet.command(Command::RemoveNode { node: node(name), force: false }).unwrap();
    };
    // log-0 ends there, and is wanted again for the next node.
    remove(&mut fleet, "n1");
    fleet.join("n2").unwrap();
    fleet.attach(&node("n2")).unwrap();
    assert_eq!(fleet.model.workload(&workload("log")).unwrap().workload.spec.replicas, 1);
    remove(&mut fleet, "n2");
    assert_eq!(fleet.model.workload(&workload("log")).unwrap().workload.spec.replicas, 0);
}

#[test]
fn their_number_and_place_are_nobody_elses_to_say() {
    let mut fleet = Fleet::of(3);
    fleet.apply(each(&["node.name!=n3"])).unwrap();
    fleet.settle();
    let scale = Command::Scale { workload: workload("log"), replicas: 5 };
    let counted = Refusal::CountedByNodes(workload("log"));
    assert_eq!(fleet.command(scale).unwrap_err(), counted);
    let remove = Command::RemoveInstances([instance("log-0")].into());
    assert_eq!(fleet.command(remove).unwrap_err(), counted);
    let to = Some(node("n3"));
    let instances = vec![instance("log-0")];
    let refused = fleet.command(Command::MoveInstances {
        instances,
        to,
        new_address: false,
        how: MoveHow::default(),
        dry_run: false,
    });
    let refused = refused.unwrap_err().to_string();
    assert!(refused.starts_with("log-0 belongs to n1: its workload has one"), "{refused}");

    // Restarts, new versions and stops reach them where they are.
    let mut next = each(&["node.name!=n3"]);
    next.template.image = "image:2".into();
    fleet.apply(next).unwrap();
    fleet.command(Command::Restart(Target::Workload(workload("log")))).unwrap();
    fleet.settle();
    assert_eq!(places(&fleet), at(&[("log-0", "n1"), ("log-1", "n2")]));
    assert_eq!(fleet.assigned_to("n2")[0].template.image, "image:2");
}

#[test]
fn a_workload_becomes_one_and_ceases_to_be() {
    let mut fleet = Fleet::of(2);
    fleet.apply(WorkloadSpec { replicas: 4, ..each(&[]) }).unwrap();
    let mut plain = each(&[]);
    (plain.placement.one_per_node, plain.replicas) = (false, 4);
    fleet.apply(plain.clone()).unwrap();
    fleet.settle();
    assert_eq!(places(&fleet).len(), 4);
    fleet.apply(each(&[])).unwrap();
    fleet.settle();
    assert_eq!(places(&fleet), at(&[("log-0", "n1"), ("log-1", "n2")]));
    fleet.apply(WorkloadSpec { replicas: 1, ..plain }).unwrap();
    fleet.settle();
    assert_eq!(places(&fleet), at(&[("log-0", "n1")]));
}

#[test]
fn a_node_without_room_is_waited_for_with_the_reason() {
    let mut fleet = Fleet::of(2);
    let mut big = spec("big", 1);
    big.template.resources.cpu = dwell_core::quantity::Millicores(3_500);
    fleet.apply(big).unwrap();
    let mut log = each(&[]);
    log.template.resources.cpu = dwell_core::quantity::Millicores(1_000);
    fleet.apply(log).unwrap();
    fleet.settle();
    assert_eq!(places(&fleet), at(&[("log-0", "n2"), ("log-1", "-")]));
    assert_eq!(
        fleet.message("log-1"),
        "0 of 2 nodes fit: n1 has 500m of the 1 CPU asked for free, n2 has its one already"
    );
    fleet.command(Command::RemoveWorkload(workload("big"))).unwrap();
    fleet.settle();
    assert_eq!(places(&fleet), at(&[("log-0", "n2"), ("log-1", "n1")]));
}
