//! Instances that are put in the place of a container that dwell did not make.

use dwell_core::container::ContainerId;
use dwell_core::foreign::{Adoption, ForeignRestart};
use dwell_core::instance::{InstanceStatus, Outcome, Phase, RunState, Verdict};
use dwell_core::quantity::Millis;
use dwell_core::workload::{Mount, MountSource, WorkloadSpec};

use super::fleet::{Fleet, instance, node, running, spec, workload};
use crate::model::refusal::NotAdopted;
use crate::model::{Command, Instance, Refusal, Severity, Target};

fn shop() -> WorkloadSpec {
    let mut shop = spec("shop", 1);
    shop.placement.constraints = vec!["node.name==n1".parse().unwrap()];
    let source = MountSource::Volume("data".parse().unwrap());
    shop.template.mounts = vec![Mount { source, target: "/data".into(), read_only: false }];
    shop
}

fn adoption() -> Adoption {
    Adoption {
        container: ContainerId("c1".into()),
        name: "shop".into(),
        grace: Millis::seconds(10),
        restart: ForeignRestart::Always,
        image: None,
        volumes: [("data".parse().unwrap(), "shop_data".into())].into(),
    }
}

fn order(dry_run: bool) -> Command {
    let (spec, adoption) = (Box::new(shop()), Box::new(adoption()));
    Command::AdoptContainer { spec, node: node("n1"), adoption, dry_run, by: "ops".into() }
}

fn get(fleet: &Fleet) -> Option<Instance> {
    let found = fleet.model.instance(&instance("shop-0"))?;
    Some(Instance::clone(&found.instance))
}

/// The node has found that the instance does not hold, and has put the container back.
fn put_back(fleet: &mut Fleet) {
    let assigned = fleet.assigned_to("n1").remove(0);
    let outcome = Outcome::RolledBack { reason: "it ended".into() };
    let status = InstanceStatus {
        phase: Phase::Failed,
        container_id: String::new(),
        verdict: Some(Verdict { generation: assigned.generation, outcome }),
        ..running(&assigned, fleet.now)
    };
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    host.containers.insert(instance("shop-0"), status);
    fleet.settle();
}

#[test]
fn it_is_placed_there_and_its_node_is_told_until_it_has_held() {
    let mut fleet = Fleet::of(2);
    fleet.command(order(true)).unwrap();
    assert!(get(&fleet).is_none(), "it was only asked what would be");
    fleet.command(order(false)).unwrap();
    assert_eq!(fleet.place("shop-0").as_deref(), Some("n1"));
    let told = fleet.assigned_to("n1").remove(0);
    assert_eq!(told.adopts, Some(adoption()));
    fleet.settle();
    assert_eq!(get(&fleet).unwrap().adopts, None, "it has held");
    assert_eq!(fleet.assigned_to("n1").remove(0).adopts, None);
    let event = fleet.model.events(Some("instance/shop-0"), 1).remove(0);
    assert_eq!((event.reason.as_str(), event.severity), ("container-replaced", Severity::Info));
    assert!(event.message.contains("docker rm shop"), "{}", event.message);
    fleet.check();
    let mut next = shop();
    next.template.image = "image:2".into();
    fleet.apply(next).unwrap();
    fleet.settle();
    fleet.check();
}

#[test]
fn nothing_of_it_changes_before_it_has_held() {
    let mut fleet = Fleet::of(1);
    fleet.command(order(false)).unwrap();
    let open =
        || Err(NotAdopted::Open { instance: instance("shop-0"), container: "shop".into() }.into());
    let both = [Target::Workload(workload("shop")), Target::Instance(instance("shop-0"))];
    for target in both {
        let stop = Command::SetRun { target: target.clone(), run: RunState::Stopped };
        assert_eq!(fleet.command(stop).map(drop), open());
        assert_eq!(fleet.command(Command::Restart(target)).map(drop), open());
    }
    let scale = Command::Scale { workload: workload("shop"), replicas: 2 };
    assert_eq!(fleet.command(scale).map(drop), open());
    let replace = Command::ReplaceInstances([instance("shop-0")].into());
    assert_eq!(fleet.command(replace).map(drop), open());
    let mut next = shop();
    next.template.image = "image:2".into();
    assert_eq!(fleet.apply(next).map(drop), open());
    fleet.command(Command::RemoveWorkload(workload("shop"))).unwrap();
    fleet.settle();
    assert!(get(&fleet).is_none());
    fleet.check();
}

#[test]
fn what_is_put_back_is_told_once_and_stays_until_it_is_removed() {
    let mut fleet = Fleet::of(1);
    fleet.command(order(false)).unwrap();
    put_back(&mut fleet);
    let told = |fleet: &Fleet| {
        let all = fleet.model.events(Some("instance/shop-0"), 100);
        all.iter().filter(|event| event.reason == "container-put-back").count()
    };
    assert_eq!(told(&fleet), 1);
    assert!(get(&fleet).unwrap().adopts.is_some());
    for _ in 0..2 {
        fleet.attach(&node("n1")).unwrap();
        fleet.settle();
    }
    assert_eq!(told(&fleet), 1);
    fleet.command(order(false)).unwrap_err();
    fleet.command(Command::RemoveWorkload(workload("shop"))).unwrap();
    fleet.settle();
    assert!(get(&fleet).is_none());
    fleet.check();
}

#[test]
fn a_copy_that_it_is_to_get_is_not_deleted() {
    let mut fleet = Fleet::of(1);
    fleet.command(order(false)).unwrap();
    let copy = (instance("shop-0"), "data".parse().unwrap());
    // What it is to get has not become a volume.
    fleet.hosts.get_mut(&node("n1")).unwrap().engine_is_away = true;
    put_back(&mut fleet);
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    host.volumes.clear();
    host.engine_is_away = false;
    host.copies.insert(copy.clone());
    fleet.settle();
    assert!(fleet.hosts[&node("n1")].copies.contains(&copy));
    fleet.command(Command::RemoveWorkload(workload("shop"))).unwrap();
    fleet.settle();
    assert!(!fleet.hosts[&node("n1")].copies.contains(&copy), "nobody is to get it any more");
}

#[test]
fn what_cannot_be_adopted_is_refused_with_the_reason() {
    let mut fleet = Fleet::of(2);
    let refused = |fleet: &mut Fleet| fleet.command(order(false)).map(drop).unwrap_err();
    let elsewhere = Command::AdoptContainer {
        spec: Box::new(shop()),
        node: node("n9"),
        adoption: Box::new(adoption()),
        dry_run: false,
        by: String::new(),
    };
    assert_eq!(fleet.command(elsewhere).map(drop), Err(Refusal::NoNode(node("n9"))));
    fleet.hosts.get_mut(&node("n1")).unwrap().lets_nothing_go = true;
    fleet.attach(&node("n1")).unwrap();
    assert_eq!(refused(&mut fleet), NotAdopted::OldAgent(node("n1")).into());
    fleet.hosts.get_mut(&node("n1")).unwrap().lets_nothing_go = false;
    fleet.attach(&node("n1")).unwrap();
    let change = crate::model::NodeChange { cordoned: Some(true), ..Default::default() };
    fleet.command(Command::UpdateNode { node: node("n1"), change }).unwrap();
    assert!(refused(&mut fleet).to_string().contains("no place for it on n1"));
    let change = crate::model::NodeChange { cordoned: Some(false), ..Default::default() };
    fleet.command(Command::UpdateNode { node: node("n1"), change }).unwrap();
    fleet.command(order(false)).unwrap();
    fleet.settle();
    assert_eq!(refused(&mut fleet), NotAdopted::WorkloadExists(workload("shop")).into());
    fleet.command(Command::RemoveWorkload(workload("shop"))).unwrap();
    fleet.settle();
    let there = refused(&mut fleet);
    assert!(matches!(there, Refusal::NotAdopted(NotAdopted::VolumeThere { .. })), "{there}");
    assert!(get(&fleet).is_none(), "nothing has changed");
}
