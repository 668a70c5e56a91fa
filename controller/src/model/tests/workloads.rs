//! What a user declares, and what becomes of it.

use std::collections::BTreeSet;

use dwell_core::change::ChangeClass;
use dwell_core::instance::{Phase, RunState};
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::workload::{Device, Mount, MountSource, WorkloadSpec};

use super::fleet::{Fleet, at, instance, node, settings, spec, workload};
use crate::model::{
    Command, InstanceAction, PlanAction, Refusal, RefusalClass, Reply, SessionId, Settings, Target,
    WORKLOADS_MAX,
};

#[test]
fn instances_spread_over_the_nodes_and_run() {
    let mut fleet = Fleet::of(3);
    let plan = fleet.apply(spec("web", 6)).unwrap();
    assert_eq!((plan.action, plan.instances.len()), (PlanAction::Create, 6));
    assert_eq!(plan.downtime, "no downtime");
    fleet.settle();
    for (name, place, address) in [
        ("web-0", "n1", "10.80.0.1"),
        ("web-1", "n2", "10.80.1.1"),
        ("web-2", "n3", "10.80.2.1"),
        ("web-3", "n1", "10.80.0.2"),
    ] {
        assert_eq!(fleet.place(name).unwrap(), place);
        assert_eq!(fleet.address(name).unwrap(), address);
        assert_eq!(fleet.phase(name), Phase::Running);
    }
    let view = fleet.model.workload(&workload("web")).unwrap();
    assert_eq!((view.instances, view.ready, view.updated, view.message.as_str()), (6, 6, 6, ""));
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    let before = fleet.model.revision();
    assert_eq!(fleet.apply(spec("web", 1)).unwrap().action, PlanAction::Unchanged);
    assert_eq!(fleet.model.revision(), before);
}

#[test]
fn what_waits_is_looked_at_again_when_only_its_rules_change() {
    let mut fleet = Fleet::of(1);
    let mut web = spec("web", 1);
    for constraint in ["disk==ssd", "node.name==n2"] {
        web.placement.constraints = vec![constraint.parse().unwrap()];
        fleet.apply(web.clone()).unwrap();
        assert_eq!(fleet.message("web-0"), format!("0 of 1 nodes fit: n1 lacks {constraint}"));
    }
    web.placement.constraints.clear();
    fleet.apply(web).unwrap();
    assert_eq!(fleet.place("web-0"), Some("n1".to_owned()));
}

#[test]
fn plans_name_the_class_the_fields_and_the_downtime() {
    let mut fleet = Fleet::of(3);
    fleet.apply(spec("web", 3)).unwrap();
    fleet.settle();
    let base = spec("web", 3);

    let mut live = base.clone();
    live.template.resources.cpu = Millicores(100);
    let mut replaced = base.clone();
    replaced.template.image = "image:2".into();
    let mut moved = base.clone();
    moved.placement.constraints = vec!["node.name!=n1".parse().unwrap()];
    let grown = spec("web", 5);
    let shrunk = spec("web", 2);
    for (spec, class, touched, field, downtime) in [
        (live, ChangeClass::Live, 3, "resources", "no downtime: applied to the running containers"),
        (
            replaced,
            ChangeClass::InPlace,
            3,
            "image",
            "each of 3 instances is down between stop and start, 1 at a time",
        ),
        (moved, ChangeClass::Move, 1, "constraints", "web-0 is down between stop and start"),
        (grown, ChangeClass::None, 2, "replicas", "no downtime"),
        (shrunk, ChangeClass::None, 1, "replicas", "1 is stopped and removed; the others go on"),
    ] {
        let plan = fleet.dry_run(vec![spec]).unwrap().remove(0);
        assert_eq!(plan.class(), class);
        assert_eq!(plan.instances.len(), touched, "{field}");
        assert_eq!(plan.changed_fields, [field]);
        assert_eq!(plan.downtime, downtime);
    }
}

#[test]
fn what_is_too_big_waits_with_a_reason_until_there_is_room() {
    let mut fleet = Fleet::of(1);
    let mut big = spec("big", 2);
    big.template.resources.cpu = Millicores(3000);
    fleet.apply(big).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("big-1"), None);
    assert_eq!(fleet.phase("big-1"), Phase::Pending);
    assert_eq!(fleet.message("big-1"), "0 of 1 nodes fit: n1 has 1 of the 3 CPU asked for free");
    let view = fleet.model.workload(&workload("big")).unwrap();
    assert!(view.message.starts_with("waits for big-1 (pending): 0 of 1"), "{}", view.message);

    fleet.join("n2").unwrap();
    assert_eq!(fleet.place("big-1"), None, "a node that was never heard of is down");
    fleet.attach(&node("n2")).unwrap();
    assert_eq!(fleet.place("big-1").unwrap(), "n2");
}

#[test]
fn an_instance_goes_when_its_node_says_so_and_not_before() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let before = fleet.hosts[&node("n1")].look();
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    assert!(fleet.assigned_to("n1").is_empty());
    assert!(fleet.model.workload(&workload("web")).unwrap().workload.removing);

    // The host has lost the container by itself, but does not know yet that it is not to return.
    let mut early = before;
    early.instances.clear();
    fleet.deliver(&node("n1"), early).unwrap();
    assert!(fleet.model.instance(&instance("web-0")).is_some());

    fleet.settle();
    assert!(fleet.model.instance(&instance("web-0")).is_none());
    assert!(fleet.model.workload(&workload("web")).is_none());
}

#[test]
fn applied_again_while_it_goes_it_comes_back() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let address = fleet.address("web-1").unwrap();
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    let scale = Command::Scale { workload: workload("web"), replicas: 3 };
    assert_eq!(fleet.command(scale).unwrap_err(), Refusal::WorkloadRemoving(workload("web")));
    let plan = fleet.apply(spec("web", 2)).unwrap();
    assert_eq!(plan.generation, at(2));
    assert!(plan.instances.iter().all(|plan| plan.action == InstanceAction::Create));
    fleet.settle();
    assert_eq!(fleet.phase("web-1"), Phase::Running);
    assert_eq!(fleet.address("web-1").unwrap(), address, "the same name gets its address back");
}

#[test]
fn scaling_down_takes_the_highest_ordinals() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 5)).unwrap();
    fleet.settle();
    fleet.command(Command::Scale { workload: workload("web"), replicas: 2 }).unwrap();
    fleet.settle();
    let names: Vec<String> =
        fleet.model.tables.instances().keys().map(ToString::to_string).collect();
    assert_eq!(names, ["web-0", "web-1"]);
}

#[test]
fn stopping_starting_and_restarting() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let all = Target::Workload(workload("web"));
    let run = |run| Command::SetRun { target: Target::Workload(workload("web")), run };
    fleet.command(run(RunState::Stopped)).unwrap();
    fleet.settle();
    assert_eq!(fleet.phase("web-0"), Phase::Stopped);

    // What does not run changes without waiting for anybody.
    let mut changed = spec("web", 3);
    changed.template.image = "image:2".into();
    let plan = fleet.apply(changed).unwrap();
    assert_eq!(plan.downtime, "no downtime: the workload is stopped");
    let assigned = fleet.assigned_to("n1");
    assert!(assigned.iter().all(|one| one.template.image == "image:2"));
    assert_eq!(assigned.len(), 3);
    assert_eq!(
        assigned[2].run,
        RunState::Stopped,
        "a new instance of a stopped workload is stopped"
    );

    fleet.command(run(RunState::Running)).unwrap();
    fleet.settle();
    assert_eq!(fleet.phase("web-2"), Phase::Running);

    let one = Target::Instance(instance("web-1"));
    fleet.command(Command::Restart(one)).unwrap();
    assert_eq!(fleet.assigned_to("n1")[1].restarts_asked, 1);
    fleet.command(Command::Restart(all)).unwrap();
    let asked = |fleet: &Fleet| -> Vec<u64> {
        fleet.assigned_to("n1").iter().map(|one| one.restarts_asked).collect()
    };
    assert_eq!(asked(&fleet), [1, 1, 0], "one at a time");
    fleet.settle();
    assert_eq!(asked(&fleet), [1, 2, 1]);
}

#[test]
fn all_workloads_together_have_a_bound() {
    let mut fleet = Fleet::new(Settings { instances_max: 10, ..settings() });
    fleet.apply(spec("web", 8)).unwrap();
    let refusal = Refusal::TooManyInstances { wanted: 11, declared: 8, max: 10 };
    assert_eq!(fleet.apply(spec("db", 3)).unwrap_err(), refusal);
    assert_eq!(fleet.dry_run(vec![spec("db", 3)]).unwrap_err(), refusal);
    let scale = |replicas| Command::Scale { workload: workload("web"), replicas };
    assert_eq!(fleet.command(scale(11)).unwrap_err(), refusal);
    let all = Command::ScaleAll(vec![(workload("web"), 11)]);
    assert_eq!(fleet.command(all).unwrap_err(), refusal);
    assert!(refusal.to_string().contains("11 instances, of which 8 are declared now; at most 10"));
    fleet.apply(spec("db", 2)).unwrap();

    // A lower bound than what is there forbids more, but nothing else.
    fleet.restart_with(Settings { instances_max: 5, ..settings() });
    fleet.command(scale(7)).unwrap();
    assert!(fleet.command(scale(8)).is_err());
}

#[test]
fn a_plan_says_what_does_not_fit_and_what_no_node_allows() {
    let mut fleet = Fleet::of(1);
    let mut web = spec("web", 2);
    web.template.resources.cpu = Millicores(3000);
    let mount = |path: &str| Mount {
        source: MountSource::Bind(path.to_owned()),
        target: path.to_owned(),
        read_only: false,
    };
    web.template.mounts = vec![mount("/etc"), mount("/srv/data")];
    let mut capacity = Fleet::capacity();
    web.template.process.cap_add = ["CHOWN", "SYS_PTRACE", "SYS_ADMIN"].map(str::to_owned).into();
    let device = |path: &str| Device {
        source: path.to_owned(),
        target: path.to_owned(),
        permissions: "rw".to_owned(),
    };
    web.template.process.devices = vec![device("/dev/dri/card0"), device("/dev/fuse")];
    capacity.allow_binds = vec!["/srv".to_owned()];
    capacity.allow_capabilities = vec!["SYS_PTRACE".to_owned()];
    capacity.allow_devices = vec!["/dev/dri".to_owned()];
    let session = fleet.hosts[&node("n1")].session.unwrap();
    let heartbeat = Command::Heartbeat { node: node("n1"), session, capacity: Some(capacity) };
    fleet.command(heartbeat).unwrap();
    let notes = fleet.dry_run(vec![web]).unwrap().remove(0).notes;
    let [waits, mount, capability, device] = notes.as_slice() else { panic!("{notes:?}") };
    assert!(waits.starts_with("1 instance waits: 0 of 1 nodes fit: n1 has "), "{waits}");
    assert_eq!(mount, "no node allows to mount its /etc; see `allow_binds` in agent.yaml");
    assert_eq!(
        capability,
        "no node allows its capability SYS_ADMIN; see `allow_capabilities` in agent.yaml"
    );
    assert_eq!(device, "no node allows its device /dev/fuse; see `allow_devices` in agent.yaml");
    let mut lost = spec("lost", 1);
    lost.placement.pool = Some("nowhere".parse().unwrap());
    let notes = fleet.dry_run(vec![lost]).unwrap().remove(0).notes;
    assert!(notes[0].contains("nowhere"), "{notes:?}");
    assert!(fleet.dry_run(vec![spec("fits", 1)]).unwrap().remove(0).notes.is_empty());
}

#[test]
fn what_is_removed_is_no_absence_of_downtime() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 3)).unwrap();
    fleet.settle();
    let fewer = fleet.dry_run(vec![spec("web", 1)]).unwrap().remove(0);
    assert_eq!(fewer.downtime, "2 are stopped and removed; the others go on");
}

#[test]
fn refusals_say_what_to_do() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    let cases: Vec<(Command, RefusalClass, &str)> = vec![
        (
            Command::RemoveWorkload(workload("db")),
            RefusalClass::NotFound,
            "there is no workload db; `dwell ps` lists those there are",
        ),
        (
            Command::Restart(Target::Instance(instance("web-7"))),
            RefusalClass::NotFound,
            "there is no instance web-7; `dwell ps` lists those there are",
        ),
        (
            Command::Scale { workload: workload("web"), replicas: 1_000_000 },
            RefusalClass::Invalid,
            "workload web: replicas: 1000000 is more than",
        ),
        (
            Command::ApplyWorkloads {
                specs: vec![spec("a", 1), spec("a", 2)],
                keep_replicas: BTreeSet::new(),
                dry_run: false,
                force: false,
                planned: Vec::new(),
                by: String::new(),
            },
            RefusalClass::Invalid,
            "workload a is declared twice",
        ),
        (
            Command::ApplyWorkloads {
                specs: vec![spec("a", 1); WORKLOADS_MAX + 1],
                keep_replicas: BTreeSet::new(),
                dry_run: false,
                force: false,
                planned: Vec::new(),
                by: String::new(),
            },
            RefusalClass::Invalid,
            "1001 workloads at once",
        ),
        (
            Command::Heartbeat { node: node("n1"), session: SessionId(99), capacity: None },
            RefusalClass::FailedPrecondition,
            "another stream of node n1 has begun",
        ),
    ];
    for (command, class, says) in cases {
        let refusal = fleet.command(command).unwrap_err();
        assert_eq!(refusal.class(), class);
        assert!(refusal.to_string().starts_with(says), "{refusal}");
    }
}

#[test]
fn a_declaration_of_more_instances_than_its_answer_can_name_is_refused() {
    let mut fleet = Fleet::of(1);
    let mut declare = |count: u32, replicas| {
        fleet.command(Command::ApplyWorkloads {
            specs: (0..count).map(|number| spec(&format!("w{number}"), replicas)).collect(),
            keep_replicas: BTreeSet::new(),
            dry_run: false,
            force: false,
            planned: Vec::new(),
            by: String::new(),
        })
    };
    let refusal = declare(11, 10_000).unwrap_err();
    assert_eq!(refusal.class(), RefusalClass::Invalid);
    assert!(refusal.to_string().starts_with("these workloads have 110000 instances"), "{refusal}");
    assert_eq!(fleet.model.workloads_page(None, 1, 1).items.len(), 0, "nothing was made");
}

#[test]
fn all_or_nothing() {
    let mut fleet = Fleet::of(1);
    let mut wrong = spec("b", 1);
    wrong.template.resources.memory = Bytes(1);
    let specs = vec![spec("a", 1), wrong];
    let refusal = fleet
        .command(Command::ApplyWorkloads {
            specs,
            keep_replicas: BTreeSet::new(),
            dry_run: false,
            force: false,
            planned: Vec::new(),
            by: String::new(),
        })
        .unwrap_err();
    assert!(refusal.to_string().starts_with("workload b: resources.memory:"), "{refusal}");
    assert!(fleet.model.workload(&workload("a")).is_none());
}

#[test]
fn several_are_scaled_together_or_not_at_all() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("a", 1)).unwrap();
    fleet.apply(spec("b", 1)).unwrap();
    fleet.settle();
    let replicas = |fleet: &Fleet| {
        ["a", "b"].map(|name| fleet.model.workload(&workload(name)).unwrap().workload.spec.replicas)
    };
    let scale = |workloads: &[(&str, u32)]| {
        Command::ScaleAll(workloads.iter().map(|(name, count)| (workload(name), *count)).collect())
    };
    for (refused, says) in [
        (scale(&[("a", 2), ("b", 99_999)]), "workload b: replicas: 99999 is more than"),
        (scale(&[("a", 2), ("c", 1)]), "there is no workload c"),
        (scale(&[("a", 2), ("a", 3)]), "workload a is scaled twice in one request"),
    ] {
        let refusal = fleet.command(refused).unwrap_err();
        assert!(refusal.to_string().starts_with(says), "{refusal}");
        assert_eq!(replicas(&fleet), [1, 1], "{refusal}");
    }
    fleet.command(scale(&[("a", 2), ("b", 3)])).unwrap();
    assert_eq!(replicas(&fleet), [2, 3]);
}

#[test]
fn a_declaration_that_leaves_the_number_open_does_not_undo_a_scale() {
    let mut fleet = Fleet::of(2);
    let apply = |fleet: &mut Fleet, spec: WorkloadSpec, open: bool| {
        let keep_replicas = if open { [spec.name.clone()].into() } else { BTreeSet::new() };
        let specs = vec![spec];
        let command = Command::ApplyWorkloads {
            specs,
            keep_replicas,
            dry_run: false,
            force: false,
            planned: Vec::new(),
            by: String::new(),
        };
        let Ok(Reply::Plans(mut plans)) = fleet.command(command) else { panic!("refused") };
        plans.remove(0)
    };
    let replicas =
        |fleet: &Fleet| fleet.model.workload(&workload("web")).unwrap().workload.spec.replicas;
    let created = apply(&mut fleet, spec("web", 1), true);
    assert_eq!((created.instances.len(), replicas(&fleet)), (1, 1), "a new one has the default");
    fleet.command(Command::Scale { workload: workload("web"), replicas: 5 }).unwrap();
    let same = apply(&mut fleet, spec("web", 1), true);
    assert_eq!((same.action, replicas(&fleet)), (PlanAction::Unchanged, 5));
    let mut changed = spec("web", 1);
    changed.template.image = "web:2".into();
    let changed = apply(&mut fleet, changed, true);
    assert_eq!((changed.changed_fields, replicas(&fleet)), (vec!["image"], 5));
    // What is said counts.
    apply(&mut fleet, spec("web", 2), false);
    assert_eq!(replicas(&fleet), 2);
    fleet.settle();
    // A removed workload that is declared again begins anew.
    fleet.command(Command::Scale { workload: workload("web"), replicas: 4 }).unwrap();
    fleet.settle();
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    apply(&mut fleet, spec("web", 1), true);
    assert_eq!(replicas(&fleet), 1);
}

#[test]
fn a_workload_without_nodes_says_how_to_get_one() {
    let mut fleet = Fleet::new(settings());
    fleet.apply(spec("web", 1)).unwrap();
    assert_eq!(fleet.message("web-0"), "there are no nodes yet; `dwell node token` lets one join");
}
