//! What is to run and what is not, by order and by declaration.

use dwell_core::instance::{Phase, RunState};
use dwell_core::workload::WorkloadSpec;

use super::fleet::{Fleet, instance, node, spec, workload};
use crate::model::{Command, InstanceAction, Target, WorkloadPlan};

fn declared(run: Option<RunState>, image: &str) -> WorkloadSpec {
    let mut spec = spec("web", 2);
    (spec.run, spec.template.image) = (run, image.into());
    spec
}

fn order(fleet: &mut Fleet, target: Target, run: RunState) {
    fleet.command(Command::SetRun { target, run }).unwrap();
}

fn phases(fleet: &Fleet) -> [Phase; 2] {
    [fleet.phase("web-0"), fleet.phase("web-1")]
}

fn actions(plan: &WorkloadPlan) -> Vec<(String, String)> {
    let told = plan.instances.iter();
    told.map(|one| (one.action.to_string(), one.reason.clone())).collect()
}

#[test]
fn what_is_declared_stopped_has_all_but_a_process() {
    let mut fleet = Fleet::of(2);
    fleet.apply(declared(Some(RunState::Stopped), "image:1")).unwrap();
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Stopped; 2]);
    let told: Vec<_> = fleet.assigned_to("n1").iter().map(|one| one.run).collect();
    assert_eq!(told, [RunState::Stopped]);
    let places = ["web-0", "web-1"].map(|name| (fleet.place(name), fleet.address(name)));
    assert!(places.iter().all(|(place, address)| place.is_some() && address.is_some()));
    assert!(fleet.status().found.is_empty(), "it is as somebody asked");
    let told = fleet.model.events(Some("workload/web"), 10);
    assert!(told.iter().any(|event| event.reason == "stopped"), "{told:?}");

    fleet.restart_controller();
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.apply(declared(None, "image:2")).unwrap();
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Stopped; 2], "a file that does not say leaves it open");
    order(&mut fleet, Target::Workload(workload("web")), RunState::Running);
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
    let now = ["web-0", "web-1"].map(|name| (fleet.place(name), fleet.address(name)));
    assert_eq!(now, places);
    assert_eq!(fleet.assigned_to("n1")[0].template.image, "image:2", "what was declared meanwhile");
}

#[test]
fn a_declaration_stops_and_starts_and_the_last_word_counts() {
    let mut fleet = Fleet::of(2);
    fleet.apply(declared(None, "image:1")).unwrap();
    fleet.settle();
    let stopped = declared(Some(RunState::Stopped), "image:1");
    let plan = fleet.apply(stopped.clone()).unwrap();
    let stop = || ("stop".to_owned(), "stopped".to_owned());
    assert_eq!(actions(&plan), [stop(), stop()]);
    assert_eq!(plan.changed_fields, ["stopped"]);
    assert_eq!(plan.downtime, "down until the workload is started again");
    assert!(plan.losses.is_empty());
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Stopped; 2]);
    assert!(actions(&fleet.apply(stopped.clone()).unwrap()).is_empty(), "it is as declared");

    order(&mut fleet, Target::Workload(workload("web")), RunState::Running);
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
    let digest = fleet.dry_run(vec![stopped.clone()]).unwrap().remove(0).digest;
    let other = fleet.dry_run(vec![declared(None, "image:1")]).unwrap().remove(0).digest;
    assert_ne!(digest, other);
    assert_eq!(actions(&fleet.apply(stopped).unwrap()), [stop(), stop()], "the file says so again");
    fleet.settle();

    let plan = fleet.apply(declared(Some(RunState::Running), "image:2")).unwrap();
    let start = || ("start".to_owned(), "stopped, image".to_owned());
    assert_eq!(actions(&plan), [start(), start()]);
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
    assert_eq!(fleet.assigned_to("n2")[0].template.image, "image:2");
    assert!(fleet.status().found.is_empty());
}

#[test]
fn an_order_to_one_instance_stands_until_its_workload_is_turned() {
    let mut fleet = Fleet::of(2);
    let running = declared(Some(RunState::Running), "image:1");
    fleet.apply(running.clone()).unwrap();
    fleet.settle();
    order(&mut fleet, Target::Instance(instance("web-1")), RunState::Stopped);
    fleet.apply(running).unwrap();
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Running, Phase::Stopped]);
    let plan = fleet.apply(declared(Some(RunState::Stopped), "image:1")).unwrap();
    let [one] = &plan.instances[..] else { panic!("{plan:?}") };
    assert_eq!(
        (&one.instance, one.action),
        (&instance("web-0"), InstanceAction::Run(RunState::Stopped))
    );
    fleet.settle();
    fleet.apply(declared(Some(RunState::Running), "image:1")).unwrap();
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
}
