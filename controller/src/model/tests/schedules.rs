//! Jobs whose work is done anew at the times of a schedule.

use std::collections::BTreeSet;

use dwell_core::clock::Timestamp;
use dwell_core::instance::{Phase, RunState};
use dwell_core::job::{Job, Overlap, RunOutcome, Schedule};
use dwell_core::quantity::Millis;
use dwell_core::workload::{RestartPolicy, WorkloadSpec};

use super::fleet::{Fleet, instance, node, spec, workload};
use crate::model::{Command, NodeChange, Refusal, Target};

fn at(text: &str) -> Timestamp {
    Timestamp(u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap())
}

fn nightly(change: impl FnOnce(&mut Schedule)) -> WorkloadSpec {
    let mut schedule = Schedule { time_zone: "Europe/Berlin".into(), ..Schedule::of("30 2 * * *") };
    change(&mut schedule);
    let mut spec = spec("job", 2);
    spec.job = Some(Job { schedule: Some(schedule), ..Job::default() });
    spec.template.restart = RestartPolicy::Never;
    spec
}

/// A fleet at noon of a day in November, with a job.
fn fleet(change: impl FnOnce(&mut Schedule)) -> Fleet {
    let mut fleet = Fleet::of(1);
    go_to(&mut fleet, "2026-11-09T12:00:00Z");
    fleet.apply(nightly(change)).unwrap();
    fleet.settle();
    fleet
}

/// The clock shows another time, and the nodes are heard of.
fn go_to(fleet: &mut Fleet, time: &str) {
    fleet.now = at(time);
    let nodes: Vec<_> = fleet.hosts.keys().cloned().collect();
    for name in nodes {
        fleet.report(&name).unwrap();
    }
    fleet.command(Command::Tick).unwrap();
    fleet.settle();
    fleet.check();
}

fn finish(fleet: &mut Fleet, name: &str, code: i32) {
    let (now, place) = (fleet.now, node(&fleet.place(name).unwrap()));
    fleet.hosts.get_mut(&place).unwrap().finish(&instance(name), code, now);
    fleet.report(&place).unwrap();
    fleet.settle();
}

fn finish_all(fleet: &mut Fleet) {
    for name in ["job-0", "job-1"] {
        finish(fleet, name, 0);
    }
}

fn phases(fleet: &Fleet) -> [Phase; 2] {
    ["job-0", "job-1"].map(|name| fleet.phase(name))
}

/// How often the work of an instance was begun: each time as another task.
fn task(fleet: &Fleet, name: &str) -> u64 {
    fleet.model.instance(&instance(name)).unwrap().instance.task.as_ref().unwrap().number.0
}

fn outcomes(fleet: &Fleet) -> Vec<(Option<Timestamp>, RunOutcome)> {
    let view = fleet.model.workload(&workload("job")).unwrap();
    view.workload.job.scheduled.history.iter().map(|run| (run.due, run.outcome)).collect()
}

fn restart(fleet: &mut Fleet) {
    fleet.restart_controller();
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
}

#[test]
fn the_work_begins_when_it_is_due_and_is_done_by_the_same_instances() {
    let mut fleet = fleet(|_| {});
    assert_eq!(phases(&fleet), [Phase::Pending; 2]);
    assert_eq!(fleet.place("job-0"), None, "it takes no room");
    assert_eq!(fleet.message("job-0"), "waits until it is due, at 2026-11-10 02:30 CET");
    assert!(fleet.status().found.is_empty(), "{:?}", fleet.status().found);
    go_to(&mut fleet, "2026-11-10T01:29:59Z");
    assert_eq!(phases(&fleet), [Phase::Pending; 2]);
    go_to(&mut fleet, "2026-11-10T01:30:00Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
    let (address, first) = (fleet.address("job-0"), task(&fleet, "job-0"));
    finish_all(&mut fleet);
    assert_eq!(phases(&fleet), [Phase::Completed; 2]);
    go_to(&mut fleet, "2026-11-11T01:29:59Z");
    assert_eq!((phases(&fleet), task(&fleet, "job-0")), ([Phase::Completed; 2], first));
    go_to(&mut fleet, "2026-11-11T01:30:00Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
    assert!(task(&fleet, "job-0") > first);
    assert_eq!(fleet.address("job-0"), address);
    finish(&mut fleet, "job-0", 3);
    finish(&mut fleet, "job-1", 0);
    assert_eq!(
        outcomes(&fleet),
        [
            (Some(at("2026-11-10T01:30:00Z")), RunOutcome::Completed),
            (Some(at("2026-11-11T01:30:00Z")), RunOutcome::Failed)
        ]
    );
    let explained = fleet.model.explain("job").unwrap();
    let job = explained.facts.iter().find(|fact| fact.about == "job").unwrap();
    assert!(job.text.contains("due next at 2026-11-12 02:30 CET"), "{}", job.text);
}

#[test]
fn what_was_missed_begins_within_the_catch_up_and_not_after_it() {
    let mut fleet = fleet(|schedule| schedule.catch_up = Millis::seconds(3600));
    go_to(&mut fleet, "2026-11-10T02:30:00Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2], "an hour late is not too late");
    finish_all(&mut fleet);
    go_to(&mut fleet, "2026-11-12T12:00:00Z");
    assert_eq!(phases(&fleet), [Phase::Completed; 2]);
    let missed = (Some(at("2026-11-12T01:30:00Z")), RunOutcome::Missed);
    assert_eq!(outcomes(&fleet).last(), Some(&missed), "the last one that was missed is told");
    go_to(&mut fleet, "2026-11-13T01:30:00Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
}

#[test]
fn several_that_were_missed_are_made_up_for_by_one() {
    let mut fleet = fleet(|schedule| {
        schedule.cron = "*/5 * * * *".into();
        schedule.catch_up = Millis::seconds(3600);
    });
    go_to(&mut fleet, "2026-11-09T12:32:00Z");
    let begun = task(&fleet, "job-0");
    finish_all(&mut fleet);
    go_to(&mut fleet, "2026-11-09T12:34:00Z");
    assert_eq!((phases(&fleet), task(&fleet, "job-0")), ([Phase::Completed; 2], begun));
    assert_eq!(outcomes(&fleet), [(Some(at("2026-11-09T12:30:00Z")), RunOutcome::Completed)]);
}

#[test]
fn a_restart_begins_nothing_twice_and_loses_nothing() {
    let mut fleet = fleet(|_| {});
    go_to(&mut fleet, "2026-11-10T01:30:00Z");
    let begun = task(&fleet, "job-0");
    restart(&mut fleet);
    assert_eq!(task(&fleet, "job-0"), begun);
    finish_all(&mut fleet);
    restart(&mut fleet);
    assert_eq!(phases(&fleet), [Phase::Completed; 2]);
    // It was away when the next one was due.
    fleet.now = at("2026-11-11T01:35:00Z");
    fleet.restart_controller();
    assert_eq!(task(&fleet, "job-0"), begun, "not before a node is heard of");
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
    assert!(task(&fleet, "job-0") > begun);
    // What could not be stored has not been decided.
    finish_all(&mut fleet);
    let (before, ended) = (outcomes(&fleet), task(&fleet, "job-0"));
    fleet.now = at("2026-11-12T01:30:00Z");
    fleet.report(&node("n1")).unwrap();
    fleet.command_without_store(Command::Tick);
    assert_eq!((outcomes(&fleet), task(&fleet, "job-0")), (before, ended));
    go_to(&mut fleet, "2026-11-12T01:30:01Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
}

#[test]
fn a_restored_backup_begins_nothing_that_may_have_been_begun() {
    let mut fleet = Fleet::of(0);
    fleet.begin(7, None);
    fleet.join("n1").unwrap();
    fleet.attach(&node("n1")).unwrap();
    go_to(&mut fleet, "2026-11-09T12:00:00Z");
    let long = |schedule: &mut Schedule| schedule.catch_up = Millis::seconds(48 * 3600);
    fleet.apply(nightly(long)).unwrap();
    fleet.settle();
    let backup = fleet.backup();
    go_to(&mut fleet, "2026-11-10T01:30:00Z");
    finish_all(&mut fleet);
    fleet.now = at("2026-11-10T12:00:00Z");
    fleet.restore(backup);
    fleet.begin(99, Some("a backup was restored".into()));
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Pending; 2], "nothing is begun before the confirmation");
    fleet.command(Command::ConfirmRestore { force: true }).unwrap();
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Pending; 2]);
    let missed = (Some(at("2026-11-10T01:30:00Z")), RunOutcome::Missed);
    assert_eq!(outcomes(&fleet), [missed]);
    go_to(&mut fleet, "2026-11-11T01:30:00Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
}

#[test]
fn what_is_due_while_earlier_work_goes_on_is_skipped_waits_or_replaces_it() {
    let first = at("2026-11-10T01:30:00Z");
    let second = at("2026-11-11T01:30:00Z");
    let overlapping = |overlap| {
        let mut fleet = fleet(|schedule| schedule.overlap = overlap);
        go_to(&mut fleet, "2026-11-10T01:30:00Z");
        finish(&mut fleet, "job-0", 0);
        let begun = task(&fleet, "job-1");
        go_to(&mut fleet, "2026-11-11T01:30:00Z");
        (fleet, begun)
    };
    let (mut fleet, begun) = overlapping(Overlap::Skip);
    assert_eq!(phases(&fleet), [Phase::Completed, Phase::Running]);
    assert_eq!(
        (task(&fleet, "job-1"), outcomes(&fleet)),
        (begun, vec![(Some(second), RunOutcome::Skipped)])
    );
    finish(&mut fleet, "job-1", 0);
    assert_eq!(phases(&fleet), [Phase::Completed; 2]);
    assert_eq!(outcomes(&fleet).last(), Some(&(Some(first), RunOutcome::Completed)));

    let (mut fleet, begun) = overlapping(Overlap::Wait);
    assert_eq!(
        (phases(&fleet), task(&fleet, "job-1")),
        ([Phase::Completed, Phase::Running], begun)
    );
    restart(&mut fleet);
    go_to(&mut fleet, "2026-11-12T01:30:00Z");
    assert_eq!(outcomes(&fleet), [(Some(second), RunOutcome::Skipped)], "one waits, the newest");
    finish(&mut fleet, "job-1", 0);
    assert_eq!(phases(&fleet), [Phase::Running; 2], "however late that is");
    finish_all(&mut fleet);
    let third = (Some(at("2026-11-12T01:30:00Z")), RunOutcome::Completed);
    assert_eq!(outcomes(&fleet).last(), Some(&third));

    let (mut fleet, begun) = overlapping(Overlap::Replace);
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
    assert!(task(&fleet, "job-1") > begun);
    assert_eq!(outcomes(&fleet), [(Some(first), RunOutcome::Replaced)]);
    finish_all(&mut fleet);
    assert_eq!(outcomes(&fleet).last(), Some(&(Some(second), RunOutcome::Completed)));
}

#[test]
fn a_clock_that_is_set_back_begins_nothing_twice() {
    let mut fleet = fleet(|_| {});
    go_to(&mut fleet, "2026-11-10T01:30:00Z");
    finish_all(&mut fleet);
    let begun = task(&fleet, "job-0");
    for time in ["2026-11-10T00:45:00Z", "2026-11-10T01:30:00Z", "2026-11-10T02:00:00Z"] {
        go_to(&mut fleet, time);
        assert_eq!((phases(&fleet), task(&fleet, "job-0")), ([Phase::Completed; 2], begun));
    }
    // An hour forward: what it has come past is late, as after any other absence.
    go_to(&mut fleet, "2026-11-11T01:25:00Z");
    go_to(&mut fleet, "2026-11-11T02:25:00Z");
    let missed = (Some(at("2026-11-11T01:30:00Z")), RunOutcome::Missed);
    assert_eq!(outcomes(&fleet).last(), Some(&missed));
    // A clock that was a year fast does not silence the schedule for a year.
    go_to(&mut fleet, "2027-11-11T01:30:00Z");
    finish_all(&mut fleet);
    go_to(&mut fleet, "2026-11-12T01:29:00Z");
    go_to(&mut fleet, "2026-11-12T01:30:00Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
}

#[test]
fn summer_time_begins_and_ends_with_one_run_each() {
    let mut fleet = Fleet::of(1);
    go_to(&mut fleet, "2026-03-28T12:00:00Z");
    fleet.apply(nightly(|_| {})).unwrap();
    fleet.settle();
    go_to(&mut fleet, "2026-03-29T00:59:59Z");
    assert_eq!(phases(&fleet), [Phase::Pending; 2]);
    go_to(&mut fleet, "2026-03-29T01:00:00Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2], "right after the hour that is left out");
    finish_all(&mut fleet);
    go_to(&mut fleet, "2026-03-29T12:00:00Z");
    assert_eq!(phases(&fleet), [Phase::Completed; 2]);
    go_to(&mut fleet, "2026-10-25T00:30:00Z");
    let begun = task(&fleet, "job-0");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
    finish_all(&mut fleet);
    go_to(&mut fleet, "2026-10-25T01:30:00Z");
    assert_eq!((phases(&fleet), task(&fleet, "job-0")), ([Phase::Completed; 2], begun));
}

#[test]
fn what_is_added_waits_for_the_next_time() {
    let mut fleet = fleet(|_| {});
    go_to(&mut fleet, "2026-11-10T01:30:00Z");
    fleet.command(Command::Scale { workload: workload("job"), replicas: 3 }).unwrap();
    fleet.settle();
    assert_eq!(fleet.phase("job-2"), Phase::Pending);
    finish_all(&mut fleet);
    assert_eq!(outcomes(&fleet).len(), 1, "those that wait hold up no end");
    go_to(&mut fleet, "2026-11-11T01:30:00Z");
    assert_eq!(fleet.phase("job-2"), Phase::Running);
    finish_all(&mut fleet);
    assert_eq!(outcomes(&fleet).len(), 1);
    fleet.command(Command::Scale { workload: workload("job"), replicas: 2 }).unwrap();
    fleet.settle();
    assert_eq!(outcomes(&fleet).len(), 2, "what is taken away is not waited for");
}

#[test]
fn another_calendar_counts_from_when_it_is_declared() {
    let mut fleet = fleet(|schedule| schedule.catch_up = Millis::seconds(24 * 3600));
    let later = |schedule: &mut Schedule| {
        schedule.cron = "0 12 * * *".into();
        schedule.catch_up = Millis::seconds(24 * 3600);
    };
    fleet.apply(nightly(later)).unwrap();
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Pending; 2], "noon in Berlin was an hour ago");
    go_to(&mut fleet, "2026-11-10T11:00:00Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
    // What does not concern the calendar leaves it as it is.
    finish_all(&mut fleet);
    fleet.now = at("2026-11-11T11:10:00Z");
    fleet.report(&node("n1")).unwrap();
    let with_history = |schedule: &mut Schedule| {
        later(schedule);
        schedule.history = 1;
    };
    fleet.apply(nightly(with_history)).unwrap();
    go_to(&mut fleet, "2026-11-11T11:10:01Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
    finish_all(&mut fleet);
    assert_eq!(outcomes(&fleet), [(Some(at("2026-11-11T11:00:00Z")), RunOutcome::Completed)]);
    // A change that comes between two times is what the next one is done with.
    let mut next = nightly(with_history);
    next.template.image = "image:2".into();
    fleet.apply(next).unwrap();
    go_to(&mut fleet, "2026-11-12T11:00:00Z");
    let told = fleet.assigned_to("n1");
    assert!(told.iter().all(|one| one.template.image == "image:2"), "{told:?}");
}

#[test]
fn a_stopped_job_is_never_due_and_makes_up_for_nothing() {
    let mut fleet = fleet(|_| {});
    let all = || Target::Workload(workload("job"));
    let turn = |fleet: &mut Fleet, run| {
        fleet.command(Command::SetRun { target: all(), run }).unwrap();
        fleet.settle();
    };
    turn(&mut fleet, RunState::Stopped);
    assert_eq!(fleet.message("job-0"), "its job is stopped, and so never due");
    go_to(&mut fleet, "2026-11-10T01:30:00Z");
    turn(&mut fleet, RunState::Running);
    go_to(&mut fleet, "2026-11-10T01:31:00Z");
    assert_eq!((phases(&fleet), outcomes(&fleet)), ([Phase::Pending; 2], Vec::new()));
    go_to(&mut fleet, "2026-11-11T01:30:00Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
}

#[test]
fn work_can_be_asked_for_between_two_times() {
    let mut fleet = fleet(|_| {});
    let refused = fleet.command(Command::Restart(Target::Instance(instance("job-0")))).unwrap_err();
    assert!(refused.to_string().contains("`dwell replace job-0`"), "{refused}");
    let both = BTreeSet::from([instance("job-0"), instance("job-1")]);
    fleet.command(Command::ReplaceInstances(both)).unwrap();
    fleet.settle();
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
    finish_all(&mut fleet);
    assert_eq!(outcomes(&fleet), [(None, RunOutcome::Completed)]);
    go_to(&mut fleet, "2026-11-10T01:30:00Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
}

#[test]
fn what_has_no_room_when_it_is_due_begins_when_there_is_some() {
    let mut fleet = fleet(|_| {});
    let cordon = |cordoned| NodeChange { cordoned: Some(cordoned), ..NodeChange::default() };
    fleet.update_node("n1", cordon(true)).unwrap();
    go_to(&mut fleet, "2026-11-10T01:30:00Z");
    assert_eq!(phases(&fleet), [Phase::Pending; 2]);
    fleet.update_node("n1", cordon(false)).unwrap();
    go_to(&mut fleet, "2026-11-10T03:00:00Z");
    assert_eq!(phases(&fleet), [Phase::Running; 2]);
}

#[test]
fn what_has_no_meaning_is_refused_and_a_schedule_stays_one() {
    let mut fleet = fleet(|_| {});
    let never = fleet.apply(nightly(|schedule| schedule.cron = "0 0 30 2 *".into())).unwrap_err();
    assert!(matches!(never, Refusal::Spec { .. }), "{never}");
    let unknown = fleet.apply(nightly(|schedule| schedule.time_zone = "Mars/Base".into()));
    assert!(unknown.unwrap_err().to_string().contains("\"Mars/Base\" is not known"));
    let mut without = nightly(|_| {});
    without.job = Some(Job::default());
    let refused = fleet.apply(without).unwrap_err().to_string();
    assert!(refused.starts_with("workload job has a schedule, and keeps one"), "{refused}");
}

#[test]
fn looking_at_what_is_not_due_costs_nothing() {
    let mut fleet = fleet(|_| {});
    fleet.pass(1);
    let revision = fleet.model.revision();
    for _ in 0..5 {
        fleet.pass(1);
    }
    assert_eq!(fleet.model.revision(), revision);
}
