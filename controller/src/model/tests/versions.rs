//! Which version an instance is, whatever befalls it.

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::change::ChangeClass;
use dwell_core::id::{Generation, VersionNumber};
use dwell_core::instance::{Outcome, Phase, Verdict};
use dwell_core::quantity::Bytes;
use dwell_core::workload::{Portion, UpdatePolicy, WorkloadSpec};

use super::fleet::{Fleet, instance, node, settings, spec, workload};
use crate::model::object::{Instance, UpdateState, Workload};
use crate::model::versions::VERSIONS_MAX;
use crate::model::{Command, Model, NodeChange, Pause, Record, Refusal, Target, VersionState};

fn image(version: u32, replicas: u32) -> WorkloadSpec {
    let mut spec = spec("web", replicas);
    spec.template.image = format!("image:{version}");
    spec
}

/// The images that instances are to be made from.
fn images(fleet: &Fleet) -> Vec<String> {
    let instances = fleet.model.tables.instances().values();
    instances.map(|one| one.wanted.template.image.replace("image:", "")).collect()
}

/// Number, state and how many instances are to be it, the newest first.
fn history(fleet: &Fleet) -> Vec<(u64, &'static str, usize)> {
    let versions = fleet.model.versions(&workload("web")).unwrap();
    let state = |state: &VersionState| match state {
        VersionState::RollingOut => "rolling out",
        VersionState::Good => "good",
        VersionState::RuledOut { .. } => "ruled out",
        VersionState::Incomplete => "incomplete",
    };
    let shown = versions
        .iter()
        .map(|view| (view.version.form.number.0, state(&view.version.state), view.wanted));
    shown.collect()
}

/// Version 2 was put back on `web-0`.
fn ruled_out(replicas: u32) -> Fleet {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, replicas)).unwrap();
    fleet.settle();
    fleet.apply(image(2, replicas)).unwrap();
    fail(&mut fleet);
    fleet.settle();
    fleet
}

/// The node of `web-0` takes up what it is told, and finds that it does not hold.
fn fail(fleet: &mut Fleet) {
    let host = node(&fleet.place("web-0").unwrap());
    fleet.fetch(&host);
    let now = fleet.now;
    fleet.hosts.get_mut(&host).unwrap().fail(&instance("web-0"), now);
    fleet.report(&host).unwrap();
}

fn roll_back(fleet: &mut Fleet, to: Option<u64>) -> Result<(), Refusal> {
    let to = to.map(VersionNumber);
    let command =
        Command::RollBack { workload: workload("web"), to, dry_run: false, by: "alice".into() };
    fleet.command(command).map(drop)
}

#[test]
fn a_version_is_good_once_all_instances_have_held_with_it() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 3)).unwrap();
    assert_eq!(history(&fleet), [(1, "rolling out", 3)]);
    fleet.settle();
    assert_eq!(history(&fleet), [(1, "good", 3)]);
    fleet.apply(image(2, 3)).unwrap();
    fleet.fetch(&node("n1"));
    fleet.sync(&node("n1"));
    assert_eq!(history(&fleet), [(2, "rolling out", 2), (1, "good", 1)]);
    fleet.settle();
    assert_eq!(history(&fleet), [(2, "good", 3), (1, "good", 0)]);
    let found = fleet.model.workload(&workload("web")).unwrap();
    assert_eq!((found.workload.good, found.updated), (Some(VersionNumber(2)), 3));
}

/// A drain, a container removed by hand, and a scale while the rollout is paused.
#[test]
fn what_was_put_back_stays_the_version_that_works_wherever_it_goes() {
    let mut fleet = ruled_out(1);
    assert_eq!((images(&fleet), history(&fleet)[0]), (vec!["1".into()], (2, "ruled out", 0)));
    fleet.drain("n1");
    fleet.settle();
    assert_ne!(fleet.place("web-0").unwrap(), "n1");
    let there = fleet.place("web-0").unwrap();
    let assigned = &fleet.assigned_to(&there)[0];
    assert_eq!(assigned.template.image, "image:1");
    fleet.command(Command::Scale { workload: workload("web"), replicas: 3 }).unwrap();
    fleet.command(Command::Restart(Target::Workload(workload("web")))).unwrap();
    fleet.settle();
    assert_eq!(images(&fleet), ["1", "1", "1"]);
}

#[test]
fn a_node_is_told_what_to_fall_back_to_until_the_instance_holds() {
    let mut fleet = Fleet::of(1);
    fleet.apply(image(1, 1)).unwrap();
    let fallback = |fleet: &Fleet| {
        let assigned = &fleet.assigned_to("n1")[0];
        assigned.fallback.as_ref().map(|template| template.image.clone())
    };
    assert_eq!(fallback(&fleet), None, "nothing is known to work");
    fleet.settle();
    fleet.apply(image(2, 1)).unwrap();
    assert_eq!(fallback(&fleet).as_deref(), Some("image:1"));
    fleet.settle();
    assert_eq!(fallback(&fleet), None, "it holds");
    fleet.apply(image(3, 2)).unwrap();
    let both = fleet.assigned_to("n1");
    assert!(both.iter().all(|one| one.fallback.as_ref().unwrap().image == "image:2"), "{both:?}");
}

#[test]
fn several_changes_in_a_row_go_back_to_what_held_last() {
    let mut fleet = Fleet::of(1);
    fleet.apply(image(1, 1)).unwrap();
    fleet.settle();
    for version in 2..5 {
        fleet.apply(image(version, 1)).unwrap();
    }
    fail(&mut fleet);
    fleet.settle();
    assert_eq!(images(&fleet), ["1"]);
    assert_eq!(history(&fleet)[0], (4, "ruled out", 0));
}

#[test]
fn one_that_moves_while_paused_takes_along_what_it_held_with() {
    let mut fleet = Fleet::of(2);
    fleet.apply(image(1, 1)).unwrap();
    fleet.settle();
    fleet.apply(image(2, 1)).unwrap();
    fleet.command(Command::Pause { workload: workload("web"), by: "alice".into() }).unwrap();
    assert_eq!(images(&fleet), ["2"], "what has the new version keeps it");
    fleet.command(Command::RemoveNode { node: node("n1"), force: true }).unwrap();
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
    assert_eq!((fleet.place("web-0").unwrap().as_str(), images(&fleet)), ("n2", vec!["1".into()]));
    fleet.command(Command::Resume(workload("web"))).unwrap();
    fleet.settle();
    assert_eq!(images(&fleet), ["2"]);
}

#[test]
fn a_rollout_that_somebody_paused_waits_for_resume() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 3)).unwrap();
    fleet.settle();
    let pause = Command::Pause { workload: workload("web"), by: "alice".into() };
    fleet.command(pause.clone()).unwrap();
    fleet.command(pause).unwrap();
    let plan = fleet.apply(image(2, 4)).unwrap();
    assert!(plan.notes[0].contains("rollout paused by alice; `dwell resume` goes on"), "{plan:?}");
    fleet.settle();
    assert_eq!(images(&fleet), ["1", "1", "1", "1"]);
    let view = fleet.model.workload(&workload("web")).unwrap();
    assert_eq!(view.message, "rollout paused by alice; `dwell resume` goes on");
    assert_eq!(view.workload.paused, Some(Pause::Asked { by: "alice".into() }));
    fleet.command(Command::Resume(workload("web"))).unwrap();
    fleet.settle();
    assert_eq!(images(&fleet), ["2", "2", "2", "2"]);
    assert_eq!(fleet.model.workload(&workload("web")).unwrap().message, "");
}

#[test]
fn a_version_that_was_ruled_out_cannot_be_resumed_but_the_same_can_be_declared_again() {
    let mut fleet = ruled_out(3);
    let refused = fleet.command(Command::Resume(workload("web"))).unwrap_err();
    assert!(refused.to_string().contains("version 2 of workload web was ruled out"), "{refused}");
    assert_eq!(
        refused,
        roll_back(&mut fleet, Some(2)).map_or_else(|_| refused.clone(), |()| panic!())
    );
    fleet.apply(image(2, 3)).unwrap();
    assert_eq!(history(&fleet)[..2], [(3, "rolling out", 1), (2, "ruled out", 0)]);
    fleet.settle();
    assert_eq!(history(&fleet)[0], (3, "good", 3));
}

#[test]
fn what_was_ruled_out_without_a_way_back_is_tried_anew_when_it_is_declared_again() {
    let mut fleet = Fleet::of(1);
    fleet.apply(image(1, 1)).unwrap();
    let host = node(&fleet.place("web-0").unwrap());
    fleet.fetch(&host);
    let now = fleet.now;
    fleet.hosts.get_mut(&host).unwrap().try_out(&instance("web-0"), now);
    let containers = &mut fleet.hosts.get_mut(&host).unwrap().containers;
    containers.get_mut(&instance("web-0")).unwrap().phase = Phase::Preparing;
    fleet.report(&host).unwrap();
    // It is not known to run when the next version is declared.
    fleet.apply(image(2, 1)).unwrap();
    for version in 2..5 {
        fail(&mut fleet);
        assert_eq!(history(&fleet)[0], (version, "ruled out", 1));
        let before = fleet.model.tables.instances()[&instance("web-0")].generation;
        let plan = fleet.apply(image(2, 1)).unwrap();
        assert_eq!(plan.class(), ChangeClass::InPlace, "{plan:?}");
        let now = fleet.model.tables.instances()[&instance("web-0")].generation;
        assert!(now > before, "{now} after {before}");
        assert_eq!(history(&fleet)[0], (version + 1, "rolling out", 1));
    }
    fleet.settle();
    assert_eq!(history(&fleet)[0], (5, "good", 1));
}

#[test]
fn going_back_declares_a_new_version_that_says_the_same() {
    let mut fleet = ruled_out(3);
    let generation = |fleet: &Fleet| fleet.model.tables.instances()[&instance("web-1")].generation;
    let before = generation(&fleet);
    roll_back(&mut fleet, None).unwrap();
    assert_eq!(history(&fleet)[0], (3, "good", 3), "they hold with it already");
    assert_eq!(generation(&fleet), before, "nothing is done to what is as it is to be");
    let view = fleet.model.workload(&workload("web")).unwrap();
    assert_eq!(
        (view.message.as_str(), view.workload.spec.template.image.as_str()),
        ("", "image:1")
    );
    fleet.apply(image(4, 3)).unwrap();
    fleet.settle();
    roll_back(&mut fleet, Some(1)).unwrap();
    fleet.settle();
    assert_eq!(images(&fleet), ["1", "1", "1"]);
    assert_eq!(fleet.model.versions(&workload("web")).unwrap()[0].version.by, "alice");
    let newest = VersionNumber(5);
    let is_it = Refusal::VersionIsNewest { workload: workload("web"), number: newest };
    assert_eq!(roll_back(&mut fleet, Some(5)), Err(is_it));
    let number = VersionNumber(9);
    let unknown = Refusal::NoVersion { workload: workload("web"), number };
    assert_eq!(roll_back(&mut fleet, Some(9)), Err(unknown));
}

#[test]
fn there_has_to_be_something_to_go_back_to() {
    let mut fleet = Fleet::of(1);
    fleet.apply(image(1, 1)).unwrap();
    let nothing = Refusal::NothingToRollBackTo(workload("web"));
    assert_eq!(roll_back(&mut fleet, None), Err(nothing));
}

#[test]
fn room_for_the_way_back_is_kept_until_it_is_not_needed() {
    let sized = |memory: u64| {
        let mut spec = image(1, 1);
        spec.template.image = format!("image:{memory}");
        spec.template.resources.memory = Bytes::mebi(memory);
        spec
    };
    let promised = |fleet: &Fleet| fleet.model.node(&node("n1")).unwrap().allocated.memory;
    let mut fleet = Fleet::of(1);
    fleet.apply(sized(200)).unwrap();
    fleet.settle();
    fleet.apply(sized(100)).unwrap();
    assert_eq!(promised(&fleet), Bytes::mebi(200));
    fleet.settle();
    assert_eq!(promised(&fleet), Bytes::mebi(100));
}

#[test]
fn old_versions_are_forgotten_but_not_those_that_are_needed() {
    let mut fleet = Fleet::of(1);
    fleet.apply(image(0, 1)).unwrap();
    fleet.settle();
    for version in 1..40 {
        fleet.apply(image(version, 1)).unwrap();
    }
    let numbers: BTreeSet<u64> = history(&fleet).iter().map(|(number, ..)| *number).collect();
    assert!(numbers.contains(&1) && numbers.contains(&40), "{numbers:?}");
    assert!(numbers.len() <= VERSIONS_MAX + 1, "{numbers:?}");
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    fleet.settle();
    assert!(fleet.model.tables.versions().is_empty());
}

/// A store that was written before there were versions has the template in each instance.
#[test]
fn a_store_without_versions_is_given_them() {
    let mut fleet = ruled_out(3);
    fleet.apply(image(3, 3)).unwrap();
    fleet.fetch(&node("n1"));
    let mut records = Vec::new();
    for workload in fleet.model.tables.workloads().values() {
        records.push(Record::Workload(Arc::clone(workload)));
    }
    let old: Vec<Record> = fleet
        .model
        .tables
        .instances()
        .values()
        .map(|one| {
            let mut json: serde_json::Value =
                serde_json::from_slice(&Record::Instance(Arc::clone(one)).encode().unwrap())
                    .unwrap();
            let fields = json.as_object_mut().unwrap();
            for new in ["wanted", "serving", "fallback"] {
                fields.remove(new);
            }
            fields.insert("template".into(), serde_json::to_value(&one.wanted.template).unwrap());
            Record::decode("instance", &serde_json::to_vec(&json).unwrap()).unwrap()
        })
        .collect();
    records.extend(old);
    let restored = Model::restore(settings(), records, fleet.now);
    let instances = restored.tables.instances();
    let shown = |name: &str| {
        let one = &instances[&instance(name)];
        (one.wanted.template.image.as_str(), one.wanted.number.0, one.holds(), one.update)
    };
    assert_eq!(shown("web-0"), ("image:3", 2, false, UpdateState::Updating));
    assert_eq!(shown("web-1"), ("image:1", 1, true, UpdateState::Due));
    assert_eq!(
        restored.unstored.len(),
        3 + 3,
        "two versions, the workload and its instances are stored"
    );
    assert!(instances.values().all(|one| one.generation >= Generation(1)));
}

#[test]
fn what_was_ruled_out_elsewhere_is_nothing_to_fall_back_to() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 1)).unwrap();
    fleet.settle();
    // Two more are made from version 2, and run. Version 3 reaches one of them before it has held.
    let names = ["web-1", "web-2"];
    fleet.apply(image(2, 3)).unwrap();
    for name in names {
        let on = node(&fleet.place(name).unwrap());
        fleet.fetch(&on);
        let now = fleet.now;
        fleet.hosts.get_mut(&on).unwrap().try_out(&instance(name), now);
        fleet.report(&on).unwrap();
    }
    fleet.apply(WorkloadSpec { update: in_parallel(2), ..image(3, 3) }).unwrap();
    let is =
        |fleet: &Fleet, name| Instance::clone(&fleet.model.tables.instances()[&instance(name)]);
    let (moved, left) = match is(&fleet, names[0]).wanted.number.0 {
        3 => (names[0], names[1]),
        _ => (names[1], names[0]),
    };
    assert_eq!((is(&fleet, moved).wanted.number.0, is(&fleet, left).wanted.number.0), (3, 2));
    let on = node(&fleet.place(left).unwrap());
    let host = fleet.hosts.get_mut(&on).unwrap();
    let status = host.containers.get_mut(&instance(left)).unwrap();
    let outcome = Outcome::RolledBack { reason: "ended".into() };
    status.verdict = Some(Verdict { generation: status.generation, outcome });
    fleet.report(&on).unwrap();
    assert_eq!(history(&fleet)[1].1, "ruled out");
    let workload = Workload::clone(&fleet.model.tables.workloads()[&workload("web")]);
    let back = fleet.model.fallback(&workload, &is(&fleet, moved)).unwrap();
    assert_eq!(back.number, VersionNumber(1));
}

#[test]
fn an_instance_without_a_node_goes_back_to_what_it_ran_with() {
    let mut fleet = Fleet::of(2);
    fleet.apply(image(1, 2)).unwrap();
    for name in ["web-0", "web-1"] {
        let on = node(&fleet.place(name).unwrap());
        fleet.fetch(&on);
        let now = fleet.now;
        fleet.hosts.get_mut(&on).unwrap().try_out(&instance(name), now);
        fleet.report(&on).unwrap();
    }
    // Its node is lost, and there is room nowhere.
    let (lost, other) =
        (node(&fleet.place("web-0").unwrap()), node(&fleet.place("web-1").unwrap()));
    let cordon = NodeChange { cordoned: Some(true), ..NodeChange::default() };
    fleet.command(Command::UpdateNode { node: other.clone(), change: cordon }).unwrap();
    fleet.pass(200);
    let session = fleet.hosts[&other].session.unwrap();
    fleet.command(Command::Heartbeat { node: other, session, capacity: None }).unwrap();
    fleet.hosts.get_mut(&lost).unwrap().containers.clear();
    fleet.command(Command::RemoveNode { node: lost, force: true }).unwrap();
    fleet.apply(image(2, 2)).unwrap();
    let web = Instance::clone(&fleet.model.tables.instances()[&instance("web-0")]);
    assert_eq!((web.node, web.wanted.number.0), (None, 2));
    assert_eq!(web.fallback.map(|form| form.number), Some(VersionNumber(1)));
}

#[test]
fn what_may_have_held_unseen_is_what_an_instance_goes_back_to() {
    let mut fleet = Fleet::of(1);
    fleet.apply(image(1, 1)).unwrap();
    let n1 = node("n1");
    fleet.fetch(&n1);
    // Nobody has said what became of it when the next version comes.
    fleet.apply(image(2, 1)).unwrap();
    let is = |fleet: &Fleet| Instance::clone(&fleet.model.tables.instances()[&instance("web-0")]);
    assert_eq!(is(&fleet).unseen.map(|form| form.number), Some(VersionNumber(1)));
    assert_eq!(fleet.assigned_to("n1")[0].fallback, None, "nobody knows whether it holds");
    // Its node found that version 1 holds and version 2 does not.
    let now = fleet.now;
    fleet.hosts.get_mut(&n1).unwrap().start(&instance("web-0"), now);
    fleet.fetch(&n1);
    fleet.hosts.get_mut(&n1).unwrap().fail(&instance("web-0"), now);
    fleet.report(&n1).unwrap();
    assert_eq!((is(&fleet).wanted.number, is(&fleet).unseen), (VersionNumber(1), None));
}

#[test]
fn what_may_never_have_run_is_not_put_up_again() {
    let mut fleet = Fleet::of(1);
    fleet.apply(image(1, 1)).unwrap();
    let n1 = node("n1");
    fleet.fetch(&n1);
    fleet.apply(image(2, 1)).unwrap();
    fleet.fetch(&n1);
    // Its node has nothing to put back.
    let now = fleet.now;
    fleet.hosts.get_mut(&n1).unwrap().ail(&instance("web-0"), now);
    fleet.report(&n1).unwrap();
    let is = Instance::clone(&fleet.model.tables.instances()[&instance("web-0")]);
    assert_eq!((is.wanted.number, is.unseen), (VersionNumber(2), None));
    assert_eq!(history(&fleet)[0].1, "rolling out");
}

fn in_parallel(parallelism: u32) -> UpdatePolicy {
    UpdatePolicy { parallelism: Portion::Count(parallelism), ..UpdatePolicy::default() }
}
