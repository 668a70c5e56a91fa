//! What operators do to chosen instances: send them elsewhere, take them away.

use std::collections::BTreeSet;

use dwell_core::change::ChangeClass;
use dwell_core::id::InstanceName;
use dwell_core::instance::RunState;
use dwell_core::quantity::Millicores;
use dwell_core::workload::{Mount, MountSource, WorkloadSpec};

use super::fleet::{Fleet, address, instance, node, spec, workload};
use crate::model::{
    Command, MoveHow, Moved, NodeChange, Refusal, Reply, Size, Target, UpdateState,
};

fn moved(fleet: &mut Fleet, names: &[&str], to: Option<&str>) -> Result<Vec<Moved>, Refusal> {
    let instances = names.iter().map(|name| instance(name)).collect();
    let order = Command::MoveInstances {
        instances,
        to: to.map(node),
        new_address: false,
        how: MoveHow::default(),
        dry_run: false,
    };
    match fleet.command(order)? {
        Reply::Moves(moves) => Ok(moves),
        other => panic!("{other:?}"),
    }
}

fn refused(fleet: &mut Fleet, name: &str, to: Option<&str>) -> String {
    moved(fleet, &[name], to).unwrap_err().to_string()
}

fn removed(fleet: &mut Fleet, names: &[&str]) -> Result<Reply, Refusal> {
    let names: BTreeSet<InstanceName> = names.iter().map(|name| instance(name)).collect();
    fleet.command(Command::RemoveInstances(names))
}

fn names(fleet: &Fleet, of: &str) -> Vec<String> {
    fleet.model.tables.instances_of(&workload(of)).map(|one| one.name.to_string()).collect()
}

#[test]
fn an_instance_goes_where_it_is_sent_and_keeps_its_address() {
    let mut fleet = Fleet::of(3);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let (from, address) = (fleet.place("web-0").unwrap(), fleet.address("web-0"));
    let to = if from == "n3" { "n2" } else { "n3" };
    let moves = moved(&mut fleet, &["web-0"], Some(to)).unwrap();
    assert_eq!(moves, [Moved { instance: instance("web-0"), from: node(&from), to: node(to) }]);
    assert_eq!(fleet.place("web-0"), Some(from), "it may still be there");
    assert!(!fleet.assigned_to(to).iter().any(|one| one.instance == instance("web-0")));
    fleet.settle();
    assert_eq!((fleet.place("web-0").as_deref(), fleet.address("web-0")), (Some(to), address));
    let found = fleet.model.instance(&instance("web-0")).unwrap().instance;
    assert_eq!(found.update, UpdateState::Current);
    let generation = found.generation;
    // Nothing moves it back, and who is there already stays.
    fleet.settle();
    assert_eq!(fleet.place("web-0").as_deref(), Some(to));
    moved(&mut fleet, &["web-0"], Some(to)).unwrap();
    fleet.settle();
    assert_eq!(fleet.model.instance(&instance("web-0")).unwrap().instance.generation, generation);
}

#[test]
fn without_a_destination_it_goes_to_the_best_other_node() {
    let mut fleet = Fleet::of(3);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let taken: Vec<_> = ["web-0", "web-1"].map(|name| fleet.place(name).unwrap()).into();
    moved(&mut fleet, &["web-0"], None).unwrap();
    fleet.settle();
    let place = fleet.place("web-0").unwrap();
    assert!(!taken.contains(&place), "on {place}, beside neither itself nor web-1");
}

#[test]
fn what_cannot_move_says_why() {
    let mut fleet = Fleet::of(2);
    let mut big = spec("big", 2);
    big.template.resources.cpu = Millicores(3000);
    let mut data = spec("data", 1);
    data.template.mounts.push(Mount {
        source: MountSource::Volume("data".parse().unwrap()),
        target: "/data".into(),
        read_only: false,
    });
    fleet.apply(big).unwrap();
    fleet.apply(data).unwrap();
    fleet.settle();
    let says = refused(&mut fleet, "big-0", None);
    assert_eq!(
        says,
        "no other node takes big-0: 0 of 1 nodes fit: n2 has 1 of the 3 CPU asked for free"
    );
    assert_eq!(
        refused(&mut fleet, "big-0", Some("n2")),
        "big-0 cannot go to n2, which has 1 of the 3 CPU asked for free"
    );
    assert!(refused(&mut fleet, "data-0", None).contains("dwell move data-0 --volumes"));
    assert!(refused(&mut fleet, "big-0", Some("n9")).starts_with("there is no node n9"));
    assert!(refused(&mut fleet, "none-0", None).starts_with("there is no instance none-0"));
    let cordon = NodeChange { cordoned: Some(true), ..NodeChange::default() };
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let (here, there) =
        if fleet.place("web-0").unwrap() == "n1" { ("n1", "n2") } else { ("n2", "n1") };
    fleet.update_node(there, cordon).unwrap();
    assert_eq!(
        refused(&mut fleet, "web-0", Some(there)),
        format!("web-0 cannot go to {there}, which is cordoned")
    );
    fleet.hosts.get_mut(&node(here)).unwrap().session = None;
    fleet.pass(1_000);
    assert!(refused(&mut fleet, "web-0", None).contains("is not heard of"));
}

#[test]
fn several_are_moved_together_or_not_at_all() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let before = ["web-0", "web-1"].map(|name| fleet.place(name));
    moved(&mut fleet, &["web-0", "web-7"], None).unwrap_err();
    fleet.settle();
    assert_eq!(["web-0", "web-1"].map(|name| fleet.place(name)), before);
    moved(&mut fleet, &["web-0", "web-1"], Some("n2")).unwrap();
    fleet.settle();
    assert_eq!(["web-0", "web-1"].map(|name| fleet.place(name).unwrap()), ["n2", "n2"]);
}

#[test]
fn a_move_waits_for_no_turn_and_takes_no_version_along() {
    let mut fleet = Fleet::of(3);
    let image = |version: u32| {
        let mut spec = spec("web", 2);
        spec.template.image = format!("image:{version}");
        spec
    };
    fleet.apply(image(1)).unwrap();
    fleet.settle();
    fleet.apply(image(2)).unwrap();
    // web-0 has its turn, and web-1 waits for its own.
    assert!(refused(&mut fleet, "web-0", None).starts_with("web-0 is being changed"));
    moved(&mut fleet, &["web-1"], None).unwrap();
    let going = fleet.model.instance(&instance("web-1")).unwrap().instance;
    assert_eq!(going.wanted.template.image, "image:1");
    assert!(going.leaving.is_some());
    fleet.settle();
    let there = fleet.model.instance(&instance("web-1")).unwrap().instance;
    assert_eq!(there.wanted.template.image, "image:2", "its turn came afterwards");
}

#[test]
fn what_is_stopped_moves_and_stays_stopped() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let target = Target::Instance(instance("web-0"));
    fleet.command(Command::SetRun { target, run: RunState::Stopped }).unwrap();
    fleet.settle();
    moved(&mut fleet, &["web-0"], None).unwrap();
    fleet.settle();
    let found = fleet.model.instance(&instance("web-0")).unwrap().instance;
    assert_eq!((found.run, found.update), (RunState::Stopped, UpdateState::Current));
}

#[test]
fn a_chosen_instance_goes_and_the_others_keep_their_names() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 3)).unwrap();
    fleet.settle();
    let kept = ["web-0", "web-2"].map(|name| fleet.address(name));
    removed(&mut fleet, &["web-1"]).unwrap();
    fleet.settle();
    assert_eq!(names(&fleet, "web"), ["web-0", "web-2"]);
    assert_eq!(["web-0", "web-2"].map(|name| fleet.address(name)), kept);
    assert_eq!(fleet.model.workload(&workload("web")).unwrap().workload.spec.replicas, 2);
    // To declare two is to keep these two.
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    assert_eq!(names(&fleet, "web"), ["web-0", "web-2"]);
    // The gap is filled first, and what is too much goes from the end.
    let scale = |replicas| Command::Scale { workload: workload("web"), replicas };
    fleet.command(scale(4)).unwrap();
    fleet.settle();
    assert_eq!(names(&fleet, "web"), ["web-0", "web-1", "web-2", "web-3"]);
    removed(&mut fleet, &["web-0"]).unwrap();
    fleet.command(scale(2)).unwrap();
    fleet.settle();
    assert_eq!(names(&fleet, "web"), ["web-1", "web-2"]);
}

#[test]
fn what_goes_comes_back_when_it_is_wanted_before_it_is_gone() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 3)).unwrap();
    fleet.settle();
    removed(&mut fleet, &["web-1"]).unwrap();
    let scale = |replicas| Command::Scale { workload: workload("web"), replicas };
    fleet.command(scale(3)).unwrap();
    assert_eq!(names(&fleet, "web"), ["web-0", "web-1", "web-2"], "web-1 is still on its way");
    let old = fleet.model.instance(&instance("web-1")).unwrap().instance.life;
    fleet.settle();
    let new = fleet.model.instance(&instance("web-1")).unwrap().instance;
    assert!(new.life > old && !new.removing);
    assert_eq!(names(&fleet, "web"), ["web-0", "web-1", "web-2"]);
}

#[test]
fn chosen_instances_are_removed_together_or_not_at_all() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let refusal = removed(&mut fleet, &["web-0", "web-9"]).unwrap_err();
    assert!(refusal.to_string().starts_with("there is no instance web-9"), "{refusal}");
    assert_eq!(names(&fleet, "web"), ["web-0", "web-1"]);
    removed(&mut fleet, &["web-0", "web-1"]).unwrap();
    fleet.settle();
    let left = fleet.model.workload(&workload("web")).unwrap();
    assert_eq!((left.instances, left.workload.spec.replicas), (0, 0), "declared, with none");
}

#[test]
fn declared_addresses_stay_with_their_numbers() {
    let mut fleet = Fleet::of(1);
    let addresses = ["10.80.0.9", "10.80.0.10", "10.80.0.11"].map(address);
    let fixed = |replicas| WorkloadSpec { addresses: addresses.to_vec(), ..spec("web", replicas) };
    fleet.apply(fixed(3)).unwrap();
    fleet.settle();
    removed(&mut fleet, &["web-1"]).unwrap();
    fleet.settle();
    fleet.apply(fixed(2)).unwrap();
    fleet.settle();
    assert_eq!(fleet.address("web-2").as_deref(), Some("10.80.0.11"));
}

#[test]
fn other_limits_are_a_version_that_reaches_what_runs() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let resize = |size| Command::Resize {
        workload: workload("web"),
        size,
        dry_run: false,
        force: false,
        by: "ann".to_owned(),
    };
    let more = Size { cpu: Some(Millicores(1500)), ..Size::default() };
    let Reply::Plans(plans) = fleet.command(resize(more)).unwrap() else { panic!() };
    assert_eq!(plans[0].class(), ChangeClass::Live);
    let [told] = &fleet.assigned_to("n1")[..] else { panic!() };
    assert_eq!(told.template.resources.cpu, Millicores(1500));
    let versions = fleet.model.versions(&workload("web")).unwrap();
    assert_eq!((versions.len(), versions[0].version.by.as_str()), (2, "ann"));
    let wrong = Size { pids: Some(1), ..Size::default() };
    let refusal = fleet.command(resize(wrong)).unwrap_err();
    assert!(refusal.to_string().contains("pids"), "{refusal}");
}
