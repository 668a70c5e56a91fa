//! Instances with limits of their own.

use dwell_core::change::ChangeClass;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::workload::{Resources, WorkloadSpec};

use super::fleet::{Fleet, instance, node, plans, spec, workload};
use crate::model::{
    Command, Instance, MoveHow, OwnSize, OwnSizeChange, Refusal, Target, UpdateState, WorkloadPlan,
};

fn resize(fleet: &mut Fleet, name: &str, size: OwnSizeChange) -> Result<WorkloadPlan, Refusal> {
    let order =
        Command::ResizeInstance { instance: instance(name), size, dry_run: false, force: false };
    Ok(plans(fleet.command(order)?).remove(0))
}

fn memory(mebi: u64) -> OwnSizeChange {
    OwnSizeChange::Set(OwnSize { cpu: None, memory: Some(Bytes::mebi(mebi)) })
}

fn of(fleet: &Fleet, name: &str) -> Instance {
    Instance::clone(&fleet.model.instance(&instance(name)).unwrap().instance)
}

/// What its node is told.
fn told(fleet: &Fleet, name: &str) -> Resources {
    let place = fleet.place(name).unwrap();
    let assigned = fleet.assigned_to(&place);
    let found = assigned.iter().find(|one| one.instance == instance(name)).unwrap();
    found.template.resources
}

fn promised(fleet: &Fleet, name: &str) -> Resources {
    fleet.model.room(&node(name)).unwrap().0
}

fn sized(image: &str, replicas: u32, mebi: u64) -> WorkloadSpec {
    let mut spec = spec("web", replicas);
    spec.template.image = image.to_owned();
    spec.template.resources = Resources { cpu: Millicores(100), memory: Bytes::mebi(mebi) };
    spec
}

#[test]
fn a_size_that_its_node_refuses_is_taken_back() {
    let mut fleet = Fleet::of(1);
    fleet.apply(sized("image:1", 1, 256)).unwrap();
    fleet.settle();
    resize(&mut fleet, "web-0", memory(1024)).unwrap();
    fleet.settle();
    resize(&mut fleet, "web-0", memory(8)).unwrap();
    resize(&mut fleet, "web-0", memory(9)).unwrap_err();
    fleet.fetch(&node("n1"));
    let assigned = fleet.assigned_to("n1").remove(0);
    assert!(!assigned.force_limits);
    assert_eq!(assigned.fallback.unwrap().resources.memory, Bytes::mebi(1024));
    fleet.hosts.get_mut(&node("n1")).unwrap().fail(&instance("web-0"), fleet.now);
    fleet.report(&node("n1")).unwrap();
    assert_eq!(told(&fleet, "web-0").memory, Bytes::mebi(1024), "what it had before");
    let events = fleet.model.events(Some("instance/web-0"), 10);
    let is_told = |text: &str| text.starts_with("was not given memory 8Mi: ");
    assert!(events.iter().any(|event| is_told(&event.message)), "{events:?}");
    fleet.settle();
    let order = Command::ResizeInstance {
        instance: instance("web-0"),
        size: memory(8),
        dry_run: false,
        force: true,
    };
    fleet.command(order).unwrap();
    assert!(fleet.assigned_to("n1").remove(0).force_limits);
    fleet.settle();
    assert_eq!(told(&fleet, "web-0").memory, Bytes::mebi(8));
    assert_eq!(of(&fleet, "web-0").own_size_before, None);
}

#[test]
fn a_version_can_be_forced_while_it_is_rolled_out() {
    let mut fleet = Fleet::of(1);
    fleet.apply(sized("image:1", 1, 256)).unwrap();
    fleet.settle();
    fleet.apply(sized("image:1", 1, 8)).unwrap();
    assert!(!fleet.assigned_to("n1").remove(0).force_limits);
    let base = fleet.model.revision();
    let order = Command::ApplyWorkloads {
        specs: vec![sized("image:1", 1, 8)],
        keep_replicas: std::collections::BTreeSet::new(),
        dry_run: false,
        force: true,
        planned: Vec::new(),
        by: String::new(),
    };
    fleet.command(order).unwrap();
    let delta = fleet.model.assignment_since(&node("n1"), base).unwrap();
    assert!(delta.changed[0].force_limits, "its node is told at once");
}

#[test]
fn limits_of_its_own_are_kept_through_everything() {
    let mut fleet = Fleet::of(2);
    fleet.apply(sized("image:1", 2, 256)).unwrap();
    fleet.settle();
    let before = of(&fleet, "web-0");
    let plan = resize(&mut fleet, "web-0", memory(1024)).unwrap();
    assert_eq!((plan.class(), plan.instances.len()), (ChangeClass::Live, 1));
    let large = Resources { cpu: Millicores(100), memory: Bytes::mebi(1024) };
    assert_eq!(told(&fleet, "web-0"), large, "what it does not set is as declared");
    assert_eq!(told(&fleet, "web-1").memory, Bytes::mebi(256));
    let now = of(&fleet, "web-0");
    assert!(now.generation > before.generation && now.update == UpdateState::Updating);
    fleet.settle();
    assert_eq!(of(&fleet, "web-0").update, UpdateState::Current);
    assert!(of(&fleet, "web-0").holds(), "it is of the same version");
    assert_eq!(promised(&fleet, &fleet.place("web-0").unwrap()), large);

    fleet.command(Command::Restart(Target::Instance(instance("web-0")))).unwrap();
    fleet.settle();
    fleet.apply(sized("image:2", 2, 256)).unwrap();
    fleet.settle();
    assert_eq!(told(&fleet, "web-0"), large);
    let to = if fleet.place("web-0").unwrap() == "n1" { "n2" } else { "n1" };
    let instances = vec![instance("web-0")];
    let order = Command::MoveInstances {
        instances,
        to: Some(node(to)),
        new_address: false,
        how: MoveHow::default(),
        dry_run: false,
    };
    fleet.command(order).unwrap();
    fleet.settle();
    assert_eq!((fleet.place("web-0").as_deref(), told(&fleet, "web-0")), (Some(to), large));
    let backup = fleet.backup();
    fleet.restart_controller();
    fleet.restore(backup);
    assert_eq!(of(&fleet, "web-0").own_size.memory, Some(Bytes::mebi(1024)));
    let facts = fleet.model.explain("web-0").unwrap().facts;
    let limits = facts.iter().find(|fact| fact.about == "limits").unwrap();
    assert_eq!(limits.text, "has limits of its own: memory 1Gi");
}

#[test]
fn what_is_declared_leaves_them_alone_and_says_so() {
    let mut fleet = Fleet::of(2);
    fleet.apply(sized("image:1", 2, 256)).unwrap();
    resize(&mut fleet, "web-0", memory(1024)).unwrap();
    fleet.settle();
    let before = of(&fleet, "web-0");
    let plan = fleet.apply(sized("image:1", 2, 512)).unwrap();
    let note = "limits of their own are kept: web-0 (memory 1Gi); `dwell resize web-0 --reset` takes what is declared";
    assert_eq!(plan.notes, [note]);
    let touched: Vec<_> = plan.instances.iter().map(|one| one.instance.to_string()).collect();
    assert_eq!(touched, ["web-1"], "nothing changes for the other");
    fleet.settle();
    let now = of(&fleet, "web-0");
    assert_eq!((now.generation, now.holds()), (before.generation, true));
    assert!(now.fallback.is_none() && now.wanted.number > before.wanted.number);
    assert!(fleet.model.versions(&workload("web")).unwrap()[0].good);
    assert_eq!(told(&fleet, "web-0").memory, Bytes::mebi(1024));
    assert_eq!(told(&fleet, "web-1").memory, Bytes::mebi(512));

    let plan = resize(&mut fleet, "web-0", OwnSizeChange::Reset).unwrap();
    assert_eq!(plan.instances[0].reason, "is as its workload declares again");
    fleet.settle();
    assert_eq!(told(&fleet, "web-0").memory, Bytes::mebi(512));
    assert!(of(&fleet, "web-0").own_size.is_none());
    let plan = resize(&mut fleet, "web-0", OwnSizeChange::Reset).unwrap();
    assert!(plan.instances.is_empty(), "it is so already");
}

#[test]
fn what_its_node_has_no_room_for_is_refused() {
    let mut fleet = Fleet::of(2);
    fleet.apply(sized("image:1", 1, 256)).unwrap();
    fleet.settle();
    let (from, to) = match fleet.place("web-0").as_deref() {
        Some("n1") => ("n1", "n2"),
        _ => ("n2", "n1"),
    };
    let mut other = spec("other", 1);
    other.template.resources.memory = Bytes::mebi(3000);
    other.placement.constraints.push(format!("node.name=={from}").parse().unwrap());
    fleet.apply(other).unwrap();
    fleet.settle();
    let refusal = resize(&mut fleet, "web-0", memory(2000)).unwrap_err().to_string();
    let next = format!("{to} has it: `dwell move web-0 --to {to}`, and then this again");
    assert_eq!(refusal, format!("{from} lacks memory 904Mi for web-0; {next}"));
    assert!(of(&fleet, "web-0").own_size.is_none());
    let refusal = resize(&mut fleet, "web-0", memory(9000)).unwrap_err().to_string();
    assert!(refusal.contains("no other node can take it"), "{refusal}");
    let refusal = resize(&mut fleet, "web-0", memory(1)).unwrap_err().to_string();
    assert!(refusal.contains("resources.memory"), "{refusal}");

    let instances = vec![instance("web-0")];
    let order = Command::MoveInstances {
        instances,
        to: Some(node(to)),
        new_address: false,
        how: MoveHow::default(),
        dry_run: false,
    };
    fleet.command(order).unwrap();
    let refusal = resize(&mut fleet, "web-0", memory(2000)).unwrap_err().to_string();
    assert!(refusal.contains("on its way"), "{refusal}");
    fleet.settle();
    resize(&mut fleet, "web-0", memory(2000)).unwrap();
    fleet.settle();
    assert_eq!(promised(&fleet, to).memory, Bytes::mebi(2000));
    // What it gives back is there for others at once.
    resize(&mut fleet, "web-0", memory(128)).unwrap();
    assert_eq!(promised(&fleet, to).memory, Bytes::mebi(128));
}

#[test]
fn nothing_is_left_of_what_was_only_to_be_shown() {
    let mut fleet = Fleet::of(1);
    fleet.apply(sized("image:1", 1, 256)).unwrap();
    fleet.settle();
    let order = Command::ResizeInstance {
        instance: instance("web-0"),
        size: memory(512),
        dry_run: true,
        force: false,
    };
    assert_eq!(plans(fleet.command(order).unwrap())[0].class(), ChangeClass::Live);
    assert!(of(&fleet, "web-0").own_size.is_none());
}
