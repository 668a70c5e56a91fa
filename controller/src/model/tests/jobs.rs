//! Workloads that run to completion.

use std::collections::BTreeSet;

use dwell_core::id::Generation;
use dwell_core::instance::{Phase, RunState};
use dwell_core::job::{Job, TaskOutcome};
use dwell_core::quantity::{Millicores, Millis};
use dwell_core::workload::{OnLost, RestartPolicy, WorkloadSpec};

use super::fleet::{Fleet, instance, node, spec, workload};
use crate::model::refusal::OfJob;
use crate::model::{Command, MoveHow, NodeChange, Refusal, Target, WorkloadPlan};

fn job(replicas: u32, attempts: u32) -> WorkloadSpec {
    let mut spec = spec("job", replicas);
    spec.job = Some(Job::default());
    spec.template.restart = RestartPolicy::of_attempts(attempts);
    spec.template.resources.cpu = Millicores(1000);
    spec
}

/// The main process of an instance ends on whatever node it is, and that is told.
fn finish(fleet: &mut Fleet, name: &str, code: i32) {
    let place = node(&fleet.place(name).unwrap());
    let now = fleet.now;
    fleet.hosts.get_mut(&place).unwrap().finish(&instance(name), code, now);
    fleet.report(&place).unwrap();
}

fn phases(fleet: &Fleet) -> Vec<Phase> {
    let all = fleet.model.tables.instances().keys().map(ToString::to_string).collect::<Vec<_>>();
    all.iter().map(|name| fleet.phase(name)).collect()
}

fn outcome(fleet: &Fleet, name: &str) -> Option<TaskOutcome> {
    let view = fleet.model.instance(&instance(name))?;
    view.instance.ended().map(|ended| ended.outcome)
}

/// Whether the node of an instance is told to run it.
fn is_told_to_run(fleet: &Fleet, name: &str) -> bool {
    let told = fleet.place(name).map(|place| fleet.assigned_to(&place)).unwrap_or_default();
    told.iter().any(|one| one.instance == instance(name) && one.run == RunState::Running)
}

fn promised(fleet: &Fleet) -> u64 {
    fleet.model.nodes().iter().map(|node| node.allocated.cpu.0).sum()
}

fn events(fleet: &Fleet, subject: &str) -> Vec<String> {
    fleet.model.events(Some(subject), 50).iter().map(|event| event.reason.clone()).collect()
}

fn replace(fleet: &mut Fleet, name: &str) {
    let names = BTreeSet::from([instance(name)]);
    fleet.command(Command::ReplaceInstances(names)).unwrap();
}

#[test]
fn what_has_completed_is_kept_and_its_share_is_free_at_once() {
    let mut fleet = Fleet::of(1);
    fleet.apply(job(3, 1)).unwrap();
    fleet.settle();
    assert_eq!((phases(&fleet), promised(&fleet)), (vec![Phase::Running; 3], 3000));
    finish(&mut fleet, "job-1", 0);
    assert_eq!(outcome(&fleet, "job-1"), Some(TaskOutcome::Completed));
    assert_eq!(promised(&fleet), 2000, "in the very command that took it in");
    assert!(!is_told_to_run(&fleet, "job-1"));
    fleet.settle();
    fleet.check();
    assert_eq!(phases(&fleet), [Phase::Running, Phase::Completed, Phase::Running]);
    let view = fleet.model.workload(&workload("job")).unwrap();
    let tally = view.tally.unwrap();
    assert_eq!((tally.at_work, tally.completed, tally.failed), (2, 1, 0));
    assert!(fleet.status().found.is_empty(), "{:?}", fleet.status().found);

    // Whatever becomes of the controller, or of the node.
    fleet.restart_controller();
    assert_eq!(fleet.phase("job-1"), Phase::Completed, "also while its node is not heard of");
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
    assert_eq!(fleet.phase("job-1"), Phase::Completed);
    for name in ["job-0", "job-2"] {
        finish(&mut fleet, name, 0);
    }
    assert_eq!(events(&fleet, "workload/job").last().unwrap(), "job-completed");
    assert_eq!(promised(&fleet), 0);
    fleet.hosts.get_mut(&node("n1")).unwrap().session = None;
    fleet.pass(1_000);
    fleet.command(Command::RemoveNode { node: node("n1"), force: true }).unwrap();
    fleet.check();
    assert_eq!(phases(&fleet), [Phase::Completed; 3]);
    assert_eq!(fleet.place("job-1"), None);
}

#[test]
fn nothing_starts_it_again_but_who_asks_for_that() {
    let mut fleet = Fleet::of(2);
    fleet.apply(job(1, 1)).unwrap();
    fleet.settle();
    finish(&mut fleet, "job-0", 0);
    let one = || Target::Instance(instance("job-0"));
    for command in [
        Command::SetRun { target: one(), run: RunState::Running },
        Command::SetRun { target: one(), run: RunState::Stopped },
        Command::Restart(one()),
        Command::MoveInstances {
            instances: vec![instance("job-0")],
            to: None,
            new_address: false,
            how: MoveHow::default(),
            dry_run: false,
        },
    ] {
        let refused = fleet.command(command).unwrap_err();
        assert!(matches!(refused, Refusal::OfJob(OfJob::HasEnded { .. })), "{refused}");
        assert!(refused.to_string().contains("`dwell replace job-0`"), "{refused}");
    }
    let all = || Target::Workload(workload("job"));
    fleet.command(Command::Restart(all())).unwrap();
    for run in [RunState::Stopped, RunState::Running] {
        fleet.command(Command::SetRun { target: all(), run }).unwrap();
        fleet.settle();
        assert_eq!(fleet.phase("job-0"), Phase::Completed);
    }
    fleet.command(Command::Scale { workload: workload("job"), replicas: 2 }).unwrap();
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Completed, Phase::Running]);
    finish(&mut fleet, "job-1", 0);

    replace(&mut fleet, "job-0");
    assert_eq!(outcome(&fleet, "job-0"), None);
    fleet.settle();
    fleet.check();
    assert_eq!(phases(&fleet), [Phase::Running, Phase::Completed]);
    finish(&mut fleet, "job-0", 0);
    assert_eq!(phases(&fleet), [Phase::Completed; 2]);
}

#[test]
fn a_late_word_about_earlier_work_ends_nothing() {
    let mut fleet = Fleet::of(1);
    fleet.apply(job(1, 1)).unwrap();
    fleet.settle();
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n1")).unwrap().finish(&instance("job-0"), 0, now);
    let late = fleet.hosts[&node("n1")].look();
    // Before that arrives, its work is to be done anew.
    replace(&mut fleet, "job-0");
    fleet.deliver(&node("n1"), late.clone()).unwrap();
    assert_eq!(outcome(&fleet, "job-0"), None);
    fleet.settle();
    assert_eq!(fleet.phase("job-0"), Phase::Running);
    finish(&mut fleet, "job-0", 0);
    assert_eq!(outcome(&fleet, "job-0"), Some(TaskOutcome::Completed));

    // The same name in another life.
    fleet.command(Command::RemoveWorkload(workload("job"))).unwrap();
    fleet.settle();
    fleet.apply(job(1, 1)).unwrap();
    fleet.settle();
    fleet.deliver(&node("n1"), late).unwrap();
    assert_eq!(outcome(&fleet, "job-0"), None);
}

#[test]
fn what_ended_before_it_was_told_to_leave_has_ended() {
    let mut fleet = Fleet::of(2);
    fleet.apply(job(1, 1)).unwrap();
    fleet.settle();
    let place = node(&fleet.place("job-0").unwrap());
    let now = fleet.now;
    fleet.hosts.get_mut(&place).unwrap().finish(&instance("job-0"), 0, now);
    fleet.drain(place.as_str());
    assert!(fleet.model.instance(&instance("job-0")).unwrap().instance.leaving.is_some());
    fleet.report(&place).unwrap();
    assert_eq!(outcome(&fleet, "job-0"), Some(TaskOutcome::Completed));
    fleet.settle();
    fleet.check();
    assert_eq!((fleet.place("job-0"), fleet.phase("job-0")), (None, Phase::Completed));
    assert_eq!(fleet.model.node(&place).unwrap().instances, 0, "it holds up no drain");

    // One that has ended long before goes as well, and is started nowhere.
    fleet.apply(job(2, 1)).unwrap();
    fleet.settle();
    let place = fleet.place("job-1").unwrap();
    finish(&mut fleet, "job-1", 0);
    fleet.drain(&place);
    fleet.settle();
    assert_eq!((fleet.place("job-1"), fleet.phase("job-1")), (None, Phase::Completed));
}

#[test]
fn as_many_are_at_work_as_may_be() {
    let mut fleet = Fleet::of(2);
    let mut narrow = job(4, 1);
    narrow.job = Some(Job { parallelism: Some(1), ..Job::default() });
    fleet.apply(narrow.clone()).unwrap();
    fleet.settle();
    fleet.check();
    let at_work = |fleet: &Fleet| {
        let all = ["job-0", "job-1", "job-2", "job-3"].into_iter();
        all.filter(|name| fleet.place(name).is_some() && outcome(fleet, name).is_none())
            .collect::<Vec<_>>()
    };
    assert_eq!(at_work(&fleet), ["job-0"]);
    assert_eq!(
        fleet.message("job-1"),
        "waits for its turn: job.parallelism lets 1 be at work at once"
    );
    let looks = fleet.model.work.looks;
    fleet.pass(1);
    assert_eq!(fleet.model.work.looks, looks, "those that wait are not looked at");
    finish(&mut fleet, "job-0", 0);
    assert_eq!(at_work(&fleet), ["job-1"], "the next one begins in the same command");
    fleet.settle();
    finish(&mut fleet, "job-1", 1);
    assert_eq!(at_work(&fleet), ["job-2"], "also after one that has failed");

    fleet.restart_controller();
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.settle();
    assert_eq!(at_work(&fleet), ["job-2"]);
    narrow.job = Some(Job { parallelism: Some(2), ..Job::default() });
    fleet.apply(narrow).unwrap();
    fleet.settle();
    assert_eq!(at_work(&fleet), ["job-2", "job-3"]);
    fleet.check();
}

#[test]
fn attempts_count_on_every_node() {
    let mut fleet = Fleet::of(2);
    fleet.apply(job(1, 3)).unwrap();
    fleet.settle();
    finish(&mut fleet, "job-0", 7);
    assert_eq!(outcome(&fleet, "job-0"), None);
    let place = fleet.place("job-0").unwrap();
    fleet.drain(&place);
    fleet.settle();
    assert_ne!(fleet.place("job-0").unwrap(), place);
    assert!(is_told_to_run(&fleet, "job-0"));
    finish(&mut fleet, "job-0", 7);
    assert_eq!(outcome(&fleet, "job-0"), None);
    finish(&mut fleet, "job-0", 9);
    assert_eq!(outcome(&fleet, "job-0"), Some(TaskOutcome::Failed));
    assert_eq!(fleet.message("job-0"), "failed at each of its 3 attempts, last with exit code 9");
    fleet.settle();
    assert_eq!((fleet.phase("job-0"), promised(&fleet)), (Phase::Failed, 0));
    assert_eq!(events(&fleet, "workload/job").last().unwrap(), "job-failed");
    assert_eq!(fleet.model.workload(&workload("job")).unwrap().message, "1 instance failed");
    assert!(!fleet.status().found.is_empty());

    // Done anew, it has all its attempts.
    replace(&mut fleet, "job-0");
    fleet.settle();
    finish(&mut fleet, "job-0", 7);
    assert_eq!(outcome(&fleet, "job-0"), None);
    finish(&mut fleet, "job-0", 0);
    assert_eq!(outcome(&fleet, "job-0"), Some(TaskOutcome::Completed));
}

#[test]
fn what_has_not_ended_by_the_deadline_has_failed() {
    let mut fleet = Fleet::of(1);
    let mut short = job(3, 1);
    let deadline = Some(Millis::seconds(60));
    short.job = Some(Job { parallelism: Some(2), deadline, ..Job::default() });
    fleet.apply(short).unwrap();
    fleet.pass(120);
    assert!(outcome(&fleet, "job-0").is_none(), "it counts from the first start");
    fleet.settle();
    finish(&mut fleet, "job-0", 0);
    fleet.settle();
    fleet.pass(50);
    fleet.settle();
    assert_eq!(fleet.phase("job-1"), Phase::Running);
    fleet.pass(20);
    assert_eq!(
        ["job-0", "job-1", "job-2"].map(|name| outcome(&fleet, name)),
        [Some(TaskOutcome::Completed), Some(TaskOutcome::Failed), Some(TaskOutcome::Failed)]
    );
    assert!(!is_told_to_run(&fleet, "job-1"), "what runs is stopped");
    let why = "the job's deadline of 1m was over before it had ended";
    assert_eq!(fleet.message("job-1"), format!("{why}; it is being stopped"));
    fleet.settle();
    fleet.check();
    assert_eq!(fleet.message("job-1"), why);
    let told = events(&fleet, "workload/job");
    assert_eq!(told.iter().filter(|reason| *reason == "job-deadline").count(), 1, "{told:?}");
}

#[test]
fn a_job_goes_when_its_time_is_over() {
    let mut fleet = Fleet::of(1);
    let mut brief = job(1, 1);
    brief.job = Some(Job { ttl: Some(Millis::seconds(100)), ..Job::default() });
    fleet.apply(brief).unwrap();
    fleet.settle();
    fleet.pass(200);
    finish(&mut fleet, "job-0", 3);
    fleet.pass(99);
    assert!(fleet.model.workload(&workload("job")).is_some());
    // It has something to do again, so it has not ended.
    replace(&mut fleet, "job-0");
    fleet.pass(50);
    fleet.settle();
    assert!(fleet.model.workload(&workload("job")).is_some());
    finish(&mut fleet, "job-0", 0);
    fleet.restart_controller();
    fleet.attach(&node("n1")).unwrap();
    fleet.pass(100);
    fleet.settle();
    assert!(fleet.model.workload(&workload("job")).is_none());
    assert!(events(&fleet, "workload/job").contains(&"job-expired".to_owned()));
    assert!(fleet.hosts[&node("n1")].containers.is_empty());
}

#[test]
fn another_version_reaches_what_has_not_ended() {
    let mut fleet = Fleet::of(1);
    fleet.apply(job(2, 1)).unwrap();
    fleet.settle();
    finish(&mut fleet, "job-0", 0);
    let mut next = job(2, 1);
    next.template.image = "image:2".into();
    let plan: WorkloadPlan = fleet.apply(next.clone()).unwrap();
    let named: Vec<_> = plan.instances.iter().map(|one| one.instance.to_string()).collect();
    assert_eq!(named, ["job-1"]);
    let note = "1 instance that ended stays as it is and does not run again; `dwell replace job-0` has its work done anew, \
                as declared now";
    assert!(plan.notes.iter().any(|said| said == note), "{:?}", plan.notes);
    fleet.settle();
    fleet.check();
    let of = |fleet: &Fleet, name: &str| {
        let view = fleet.model.instance(&instance(name)).unwrap();
        let task = view.instance.task.clone().unwrap();
        (view.instance.wanted.template.image.clone(), task.number, task.end.is_some())
    };
    assert_eq!(of(&fleet, "job-0"), ("image:1".into(), Generation(1), true));
    assert_eq!(of(&fleet, "job-1"), ("image:2".into(), Generation(2), false), "begun anew");
    let told = fleet.assigned_to("n1");
    assert!(told.iter().all(|one| one.fallback.is_none()), "nothing is gone back to");
    finish(&mut fleet, "job-1", 0);
    let plan = fleet.apply(job(2, 1)).unwrap();
    assert!(plan.instances.is_empty(), "{plan:?}");
    let view = fleet.model.workload(&workload("job")).unwrap();
    assert_eq!((view.updated, view.message.as_str()), (2, ""), "nothing is left to be done");

    // What only concerns how often it is tried begins nothing anew.
    replace(&mut fleet, "job-0");
    fleet.settle();
    let (_, before, _) = of(&fleet, "job-0");
    fleet.apply(job(2, 5)).unwrap();
    fleet.settle();
    assert_eq!(of(&fleet, "job-0"), ("image:1".into(), before, false));
    assert_eq!(fleet.assigned_to("n1")[0].template.restart.attempts(), Some(5));
}

#[test]
fn a_workload_stays_what_it_is() {
    let mut fleet = Fleet::of(1);
    fleet.apply(job(1, 1)).unwrap();
    let mut other = job(1, 1);
    other.job = None;
    let refused = fleet.apply(other.clone()).unwrap_err().to_string();
    assert!(refused.starts_with("workload job is a job, and stays one"), "{refused}");
    fleet.settle();
    fleet.command(Command::RemoveWorkload(workload("job"))).unwrap();
    fleet.settle();
    fleet.apply(other).unwrap();
    let refused = fleet.apply(job(1, 1)).unwrap_err().to_string();
    assert!(refused.starts_with("workload job is no job, and stays one"), "{refused}");
}

#[test]
fn what_has_ended_is_not_placed_elsewhere_when_its_node_is_lost() {
    let mut fleet = Fleet::of(3);
    let mut lent = job(2, 1);
    lent.on_lost = OnLost::ReplaceAfter(Millis::seconds(60));
    fleet.apply(lent).unwrap();
    fleet.settle();
    let place = fleet.place("job-0").unwrap();
    finish(&mut fleet, "job-0", 0);
    fleet.settle();
    for _ in 0..10 {
        fleet.pass(10);
        for name in ["n1", "n2", "n3"].into_iter().filter(|name| *name != place) {
            fleet.report(&node(name)).unwrap();
        }
    }
    assert_eq!(fleet.place("job-0"), Some(place), "its node has what is left of it");
    assert_eq!(fleet.phase("job-0"), Phase::Completed);
}

#[test]
fn a_restored_controller_hears_again_what_has_completed() {
    let mut fleet = Fleet::of(1);
    fleet.begin(1, None);
    fleet.apply(job(2, 1)).unwrap();
    fleet.settle();
    let backup = fleet.backup();
    finish(&mut fleet, "job-0", 0);
    fleet.settle();
    fleet.restore(backup);
    fleet.begin(2, Some("an old copy".into()));
    fleet.attach(&node("n1")).unwrap();
    fleet.command(Command::ConfirmRestore { force: false }).unwrap();
    assert_eq!(outcome(&fleet, "job-0"), Some(TaskOutcome::Completed));
    fleet.settle();
    fleet.check();
    assert_eq!(phases(&fleet), [Phase::Completed, Phase::Running]);
}

#[test]
fn a_cordoned_node_keeps_what_has_ended() {
    let mut fleet = Fleet::of(1);
    fleet.apply(job(1, 1)).unwrap();
    fleet.settle();
    finish(&mut fleet, "job-0", 0);
    let change = NodeChange { cordoned: Some(true), ..NodeChange::default() };
    fleet.update_node("n1", change).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("job-0").as_deref(), Some("n1"));
}
