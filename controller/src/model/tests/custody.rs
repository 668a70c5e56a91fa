//! Instances that are let go, and taken back.

use std::collections::BTreeSet;

use dwell_core::instance::{Custody, InstanceStatus, Phase};

use super::fleet::{Fleet, instance, node, spec, workload};
use crate::model::refusal::NotLetGo;
use crate::model::{Command, FindingKind, Instance, Refusal, Severity, Target, UpdateState};

fn names(names: &[&str]) -> BTreeSet<dwell_core::id::InstanceName> {
    names.iter().map(|name| instance(name)).collect()
}

fn dissociate(fleet: &mut Fleet, name: &str) -> Result<(), Refusal> {
    fleet.command(Command::DissociateInstances(names(&[name]))).map(drop)
}

fn adopt(fleet: &mut Fleet, name: &str) -> Result<(), Refusal> {
    fleet.command(Command::AdoptInstances(names(&[name]))).map(drop)
}

fn get(fleet: &Fleet, name: &str) -> Instance {
    Instance::clone(&fleet.model.instance(&instance(name)).unwrap().instance)
}

fn replicas(fleet: &Fleet) -> u32 {
    fleet.model.workload(&workload("web")).unwrap().workload.spec.replicas
}

fn status(fleet: &Fleet, name: &str) -> InstanceStatus {
    fleet.hosts[&node("n1")].containers[&instance(name)].clone()
}

/// Somebody removes the container of an instance that was let go.
fn remove_container(fleet: &mut Fleet, name: &str) {
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    let status = host.containers.get_mut(&instance(name)).unwrap();
    status.phase = Phase::Stopped;
    status.container_id = String::new();
    status.generation = dwell_core::id::Generation(0);
    fleet.settle();
}

fn fleet() -> Fleet {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 3)).unwrap();
    fleet.settle();
    fleet
}

#[test]
fn what_is_let_go_stays_where_it_is_and_nothing_else_is_given_what_it_has() {
    let mut fleet = fleet();
    let (address, before) = (fleet.address("web-1").unwrap(), status(&fleet, "web-1"));
    dissociate(&mut fleet, "web-1").unwrap();
    assert_eq!(replicas(&fleet), 2);
    fleet.settle();
    let let_go = get(&fleet, "web-1");
    assert!(let_go.is_let_go());
    let told = fleet.assigned_to("n1");
    let told = told.iter().find(|one| one.instance == instance("web-1")).unwrap();
    assert_eq!(told.custody, Custody::LetGo(let_go.generation));
    // Neither a new version nor a restart, nor more or fewer instances reach it, whatever the controller remembers.
    let mut next = spec("web", 2);
    next.template.image = "image:2".into();
    fleet.apply(next.clone()).unwrap();
    fleet.settle();
    fleet.command(Command::Restart(Target::Workload(workload("web")))).unwrap();
    fleet.settle();
    fleet.restart_controller();
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
    next.replicas = 4;
    fleet.apply(next).unwrap();
    fleet.settle();
    let living: Vec<_> = [0, 1, 2, 3, 4]
        .iter()
        .filter(|ordinal| !get(&fleet, &format!("web-{ordinal}")).is_let_go())
        .collect();
    assert_eq!(living, [&0, &2, &3, &4], "its name is not given again");
    for ordinal in [0, 2, 3, 4] {
        assert_ne!(fleet.address(&format!("web-{ordinal}")).unwrap(), address);
    }
    assert_eq!(get(&fleet, "web-1").custody, let_go.custody);
    assert_eq!(status(&fleet, "web-1"), before, "nothing was done to its container");
    let view = fleet.model.workload(&workload("web")).unwrap();
    assert_eq!((view.instances, view.ready), (4, 4));
    fleet.check();
}

#[test]
fn everybody_is_told_of_it() {
    let mut fleet = fleet();
    dissociate(&mut fleet, "web-1").unwrap();
    let found = |fleet: &Fleet| {
        let found = fleet.status().found;
        let [one] = &found[..] else { panic!("{found:?}") };
        assert_eq!(one.kind, FindingKind::InstanceLetGo);
        one.message.clone()
    };
    assert!(found(&fleet).contains("its node has yet to write that down"));
    fleet.settle();
    assert!(found(&fleet).contains("its container runs"));
    let explained = format!("{:?}", fleet.model.explain("web-1"));
    assert!(explained.contains("was let go"), "{explained}");
    // Its own name goes on leading to it; that of its workload does not.
    fleet.settle();
    let host = &fleet.hosts[&node("n1")];
    assert!(!host.directory.instances[&instance("web-1")].ready);
    assert!(host.directory.instances[&instance("web-0")].ready);
    fleet.drain("n1");
    fleet.settle();
    let view = fleet.model.node(&node("n1")).unwrap();
    let about = view.obstacles.iter().find(|one| one.instance == instance("web-1")).unwrap();
    assert_eq!(about.next, "dwell adopt web-1");
    assert!(get(&fleet, "web-1").leaving.is_none());
}

#[test]
fn what_is_taken_back_is_one_of_its_workload_again_and_was_never_touched() {
    let mut fleet = fleet();
    let before = status(&fleet, "web-1");
    assert_eq!(adopt(&mut fleet, "web-1"), Err(NotLetGo::IsNot(instance("web-1")).into()));
    dissociate(&mut fleet, "web-1").unwrap();
    fleet.settle();
    adopt(&mut fleet, "web-1").unwrap();
    assert_eq!(replicas(&fleet), 3);
    fleet.settle();
    let now = get(&fleet, "web-1");
    assert!(!now.is_let_go() && !now.removing);
    assert_eq!(now.update, UpdateState::Current);
    assert_eq!(fleet.hosts[&node("n1")].let_go.len(), 0);
    let after = status(&fleet, "web-1");
    assert_eq!((after.container_id, after.started_at), (before.container_id, before.started_at));
    assert!(fleet.status().found.is_empty());
    fleet.check();
    // It can be let go again, and its workload's newer version reaches it when it is back.
    dissociate(&mut fleet, "web-1").unwrap();
    fleet.settle();
    let mut next = spec("web", 2);
    next.template.image = "image:2".into();
    fleet.apply(next).unwrap();
    fleet.settle();
    adopt(&mut fleet, "web-1").unwrap();
    assert_eq!(get(&fleet, "web-1").update, UpdateState::Updating);
    fleet.settle();
    assert_eq!(get(&fleet, "web-1").wanted.template.image, "image:2");
    fleet.check();
}

#[test]
fn an_order_that_is_taken_back_before_its_node_has_heard_of_it_leaves_nothing() {
    let mut fleet = fleet();
    dissociate(&mut fleet, "web-1").unwrap();
    adopt(&mut fleet, "web-1").unwrap();
    fleet.settle();
    assert!(fleet.hosts[&node("n1")].let_go.is_empty());
    assert!(fleet.status().found.is_empty());
}

#[test]
fn nothing_is_done_to_it_before_it_is_taken_back() {
    let mut fleet = fleet();
    dissociate(&mut fleet, "web-1").unwrap();
    fleet.settle();
    let is = Refusal::from(NotLetGo::Is(instance("web-1")));
    let one = Target::Instance(instance("web-1"));
    assert_eq!(fleet.command(Command::Restart(one)).unwrap_err(), is);
    assert_eq!(fleet.command(Command::ReplaceInstances(names(&["web-1"]))).unwrap_err(), is);
    assert_eq!(dissociate(&mut fleet, "web-1"), Err(is));
    let remove = Command::RemoveInstances(names(&["web-1"]));
    let refused = fleet.command(remove.clone()).unwrap_err();
    assert!(matches!(refused, Refusal::NotLetGo(NotLetGo::StillThere { .. })), "{refused}");
    // Once its container is gone, its name and address can be freed.
    let address = fleet.address("web-1").unwrap();
    remove_container(&mut fleet, "web-1");
    assert!(fleet.status().found[0].message.contains("its container is gone"));
    fleet.command(remove).unwrap();
    fleet.settle();
    assert!(fleet.model.instance(&instance("web-1")).is_none());
    assert_eq!(replicas(&fleet), 2);
    fleet.check();
    assert_ne!(fleet.address("web-0"), Some(address));
}

#[test]
fn a_workload_goes_with_the_last_one_that_was_let_go() {
    let mut fleet = fleet();
    dissociate(&mut fleet, "web-1").unwrap();
    fleet.settle();
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    fleet.settle();
    assert!(get(&fleet, "web-1").is_let_go());
    assert_eq!(fleet.hosts[&node("n1")].containers.len(), 1);
    let refused = adopt(&mut fleet, "web-1").unwrap_err();
    assert_eq!(refused, Refusal::WorkloadRemoving(workload("web")));
    // Declared again, it has as many as declared beside the one that was let go.
    fleet.apply(spec("web", 1)).unwrap();
    adopt(&mut fleet, "web-1").unwrap();
    fleet.settle();
    assert_eq!(replicas(&fleet), 2);
    assert!(!get(&fleet, "web-1").is_let_go());
    fleet.check();
}

#[test]
fn a_controller_that_has_forgotten_it_is_told_by_its_node() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    dissociate(&mut fleet, "web-1").unwrap();
    fleet.settle();
    let before = status(&fleet, "web-1");
    fleet.restore(backup);
    fleet.begin(99, Some("a mark".to_owned()));
    fleet.attach(&node("n1")).unwrap();
    fleet.fetch(&node("n1"));
    assert!(!get(&fleet, "web-1").is_let_go(), "nothing is done before the restore is confirmed");
    fleet.command(Command::ConfirmRestore { force: false }).unwrap();
    fleet.settle();
    assert!(get(&fleet, "web-1").is_let_go());
    assert_eq!(replicas(&fleet), 2);
    assert_eq!(status(&fleet, "web-1"), before);
    let event = fleet.model.events(Some("instance/web-1"), 1).remove(0);
    assert_eq!(
        (event.reason.as_str(), event.severity),
        ("instance-dissociated", Severity::Warning)
    );
    fleet.check();
    adopt(&mut fleet, "web-1").unwrap();
    fleet.settle();
    assert!(!get(&fleet, "web-1").is_let_go());
    assert!(fleet.hosts[&node("n1")].let_go.is_empty());
}

/// The restored controller takes what it does not know to be ending, and the workload is declared anew before it hears otherwise.
#[test]
fn what_was_to_be_made_again_under_the_name_of_one_that_is_let_go_gets_another_name() {
    let mut fleet = Fleet::of(1);
    fleet.settle();
    let backup = fleet.backup();
    fleet.apply(spec("web", 3)).unwrap();
    fleet.settle();
    dissociate(&mut fleet, "web-1").unwrap();
    fleet.settle();
    fleet.restore(backup);
    fleet.begin(99, Some("a mark".to_owned()));
    fleet.attach(&node("n1")).unwrap();
    fleet.fetch(&node("n1"));
    fleet.command(Command::ConfirmRestore { force: false }).unwrap();
    fleet.apply(spec("web", 3)).unwrap();
    fleet.settle();
    assert!(get(&fleet, "web-1").is_let_go());
    assert_eq!(replicas(&fleet), 3);
    for name in ["web-0", "web-2", "web-3"] {
        assert!(!get(&fleet, name).removing, "{name}");
    }
    fleet.check();
    adopt(&mut fleet, "web-1").unwrap();
    let taken_back = get(&fleet, "web-1");
    assert_eq!(taken_back.wanted.template.image, "image:1", "what it was made from is not known");
    fleet.settle();
    fleet.check();
}

#[test]
fn what_cannot_be_let_go_is_refused_with_the_reason() {
    let mut fleet = fleet();
    fleet.hosts.get_mut(&node("n1")).unwrap().lets_nothing_go = true;
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
    let refused = dissociate(&mut fleet, "web-1").unwrap_err();
    assert!(refused.to_string().contains("upgrade it"), "{refused}");
    fleet.hosts.get_mut(&node("n1")).unwrap().lets_nothing_go = false;
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
    let mut next = spec("web", 3);
    next.template.image = "image:2".into();
    fleet.apply(next).unwrap();
    let refused = dissociate(&mut fleet, "web-0").unwrap_err();
    assert_eq!(refused, NotLetGo::Changing(instance("web-0")).into());
    fleet.settle();
    let one = Target::Instance(instance("web-1"));
    let run = dwell_core::instance::RunState::Stopped;
    fleet.command(Command::SetRun { target: one, run }).unwrap();
    fleet.settle();
    let refused = dissociate(&mut fleet, "web-1").unwrap_err();
    assert_eq!(refused, NotLetGo::DoesNotRun(instance("web-1")).into());
    let all = Command::DissociateInstances(names(&["web-0", "web-1"]));
    fleet.command(all).unwrap_err();
    assert_eq!(replicas(&fleet), 3, "all or none");
    assert!(!get(&fleet, "web-0").is_let_go());
    assert_eq!(dissociate(&mut fleet, "web-9"), Err(Refusal::NoInstance(instance("web-9"))));
}

/// A restored controller hears what a node has let go that was removed meanwhile.
#[test]
fn nothing_is_taken_back_on_a_node_that_was_removed() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    dissociate(&mut fleet, "web-1").unwrap();
    fleet.settle();
    fleet.restore(backup);
    fleet.begin(7, Some("older".to_owned()));
    fleet.attach(&node("n1")).unwrap();
    fleet.fetch(&node("n1"));
    fleet.command(Command::RemoveNode { node: node("n1"), force: true }).unwrap();
    fleet.attach(&node("n1")).unwrap();
    fleet.command(Command::ConfirmRestore { force: true }).unwrap();
    assert!(get(&fleet, "web-1").is_let_go(), "{:?}", get(&fleet, "web-1"));
    let refused = adopt(&mut fleet, "web-1").unwrap_err();
    let node = node("n1");
    assert_eq!(refused, NotLetGo::NodeRemoved { instance: instance("web-1"), node }.into());
}
