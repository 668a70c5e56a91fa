//! Instances that fail with a new version, and how many may.

use dwell_core::id::VersionNumber;
use dwell_core::instance::RunState;
use dwell_core::workload::{OnFailure, Portion, WorkloadSpec};

use super::{image, versions};
use crate::model::tests::fleet::{Fleet, instance, node, workload};
use crate::model::{Command, FindingKind, Target, VersionState, WorkloadView};

fn with(version: u32, max_failures: Portion, on_failure: OnFailure) -> WorkloadSpec {
    let mut spec = image(version, 4);
    spec.update.max_failures = max_failures;
    spec.update.on_failure = on_failure;
    spec
}

fn of(version: u32, on_failure: OnFailure) -> WorkloadSpec {
    with(version, Portion::Count(0), on_failure)
}

/// Four instances on four nodes that hold with the first version, and are being given the second one.
fn fleet(second: WorkloadSpec) -> Fleet {
    let mut fleet = Fleet::of(4);
    fleet.apply(WorkloadSpec { template: image(1, 4).template, ..second.clone() }).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "1", "1", "1"]);
    fleet.apply(second).unwrap();
    fleet
}

/// An instance fails with what it was given just now; its node tells so, and nothing else.
fn fail(fleet: &mut Fleet, ordinal: u32) {
    let host = node(&format!("n{}", ordinal + 1));
    fleet.fetch(&host);
    let now = fleet.now;
    let name = instance(&format!("web-{ordinal}"));
    fleet.hosts.get_mut(&host).unwrap().fail(&name, now);
    fleet.report(&host).unwrap();
}

/// A node takes up what it is told, and it holds.
fn hold(fleet: &mut Fleet, ordinal: u32) {
    let host = node(&format!("n{}", ordinal + 1));
    fleet.sync(&host);
    fleet.sync(&host);
}

fn view(fleet: &Fleet) -> WorkloadView {
    fleet.model.workload(&workload("web")).unwrap()
}

fn state(fleet: &Fleet) -> VersionState {
    view(fleet).newest.unwrap().state.clone()
}

#[test]
fn one_more_than_may_fail_stops_the_rollout() {
    for on_failure in [OnFailure::Pause, OnFailure::Rollback] {
        let mut fleet = fleet(with(2, Portion::Count(1), on_failure));
        fail(&mut fleet, 0);
        assert_eq!(
            versions(&fleet),
            ["1", "1", "1", "1"],
            "nobody else is given it before it has gone back"
        );
        hold(&mut fleet, 0);
        assert_eq!(versions(&fleet), ["1", "2", "1", "1"], "one may fail");
        assert_eq!(state(&fleet), VersionState::RollingOut);
        hold(&mut fleet, 1);
        fail(&mut fleet, 2);
        fleet.settle();
        match on_failure {
            OnFailure::Pause => {
                assert_eq!(versions(&fleet), ["1", "2", "1", "1"], "what holds with it keeps it");
                assert_eq!(
                    view(&fleet).message,
                    "rollout paused: version 2 is ruled out, web-2 did not hold: does not answer; 1 failed before, and \
                     update.max_failures allows no more; what served before was put back. Apply a mended version, or go \
                     back with `dwell rollback web`"
                );
            }
            _ => {
                assert_eq!(versions(&fleet), ["1", "1", "1", "1"]);
                assert!(view(&fleet).rolled_back.starts_with("version 2 is ruled out, web-2"));
                assert_eq!(state(&fleet), VersionState::Good);
            }
        }
    }
}

#[test]
fn none_may_fail_where_nobody_says_otherwise() {
    let mut fleet = fleet(of(2, OnFailure::Pause));
    fail(&mut fleet, 0);
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "1", "1", "1"]);
    assert!(matches!(state(&fleet), VersionState::RuledOut { .. }));
}

#[test]
fn a_share_may_fail_too() {
    let mut fleet = fleet(with(2, Portion::Percent(50), OnFailure::Pause));
    for ordinal in [0, 1] {
        fail(&mut fleet, ordinal);
        hold(&mut fleet, ordinal);
    }
    assert_eq!(state(&fleet), VersionState::RollingOut);
    fail(&mut fleet, 2);
    assert!(matches!(state(&fleet), VersionState::RuledOut { .. }));
}

#[test]
fn it_goes_on_to_the_others_and_ends_incomplete() {
    let mut fleet = fleet(of(2, OnFailure::Continue));
    fail(&mut fleet, 0);
    hold(&mut fleet, 0);
    hold(&mut fleet, 1);
    fail(&mut fleet, 2);
    hold(&mut fleet, 2);
    let during = fleet.model.status_of_workloads(None).0.found;
    assert!(during[0].message.contains("2 failed with version 2"), "{during:?}");
    hold(&mut fleet, 3);
    assert_eq!(versions(&fleet), ["1", "2", "1", "2"]);
    assert_eq!(state(&fleet), VersionState::Incomplete);
    let seen = view(&fleet);
    assert_eq!((seen.updated, seen.failed, seen.workload.paused.clone()), (2, 2, None));
    assert_eq!(seen.workload.good, Some(VersionNumber(1)), "that is what is fallen back to");
    let told = "2 of 4 instances did not hold with version 2 and went back: web-0: does not answer; web-2: does not answer";
    assert_eq!(seen.message, told);
    let found = fleet.model.status_of_workloads(None).0.found;
    assert_eq!((found[0].kind, found[0].message.as_str()), (FindingKind::RolloutFailed, told));
    assert_eq!(found[0].next, "dwell rollback web");
    let event = fleet.model.events(Some("workload/web"), 1);
    assert_eq!((event[0].reason.as_str(), event[0].message.as_str()), ("rollout-incomplete", told));
    let why = fleet.model.explain("web-0").unwrap().facts;
    let says = |text: &str| why.iter().any(|fact| fact.text.starts_with(text));
    assert!(says("version 2 is not given to it again"), "{why:?}");

    // Nothing gives them the same again: no restart, no move, no scale, no start of the controller.
    fleet.command(Command::Restart(Target::Workload(workload("web")))).unwrap();
    fleet.drain("n1");
    fleet.settle();
    fleet.command(Command::Scale { workload: workload("web"), replicas: 5 }).unwrap();
    fleet.restart_controller();
    for name in ["n1", "n2", "n3", "n4"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "2", "1", "2", "2"], "a new one is what was declared");
    assert_eq!(state(&fleet), VersionState::Incomplete);

    // The same once more is another version, and good once all hold with it.
    fleet.apply(WorkloadSpec { replicas: 5, ..of(2, OnFailure::Continue) }).unwrap();
    assert_eq!(versions(&fleet), ["2", "2", "1", "2", "2"], "one after the other");
    fleet.settle();
    assert_eq!(versions(&fleet), ["2"; 5]);
    assert_eq!((state(&fleet), view(&fleet).failed), (VersionState::Good, 0));
    assert_eq!(view(&fleet).workload.good, Some(VersionNumber(3)));
}

#[test]
fn what_no_instance_holds_with_is_ruled_out() {
    let mut fleet = fleet(of(2, OnFailure::Continue));
    for ordinal in 0..4 {
        fail(&mut fleet, ordinal);
        hold(&mut fleet, ordinal);
    }
    assert_eq!(versions(&fleet), ["1", "1", "1", "1"]);
    assert!(matches!(state(&fleet), VersionState::RuledOut { .. }));
    assert!(view(&fleet).message.contains("no instance holds with it: web-0: does not answer"));
}

#[test]
fn it_is_good_once_those_that_failed_are_gone() {
    let mut fleet = fleet(of(2, OnFailure::Continue));
    for ordinal in 0..3 {
        hold(&mut fleet, ordinal);
    }
    fail(&mut fleet, 3);
    hold(&mut fleet, 3);
    assert_eq!(state(&fleet), VersionState::Incomplete);
    fleet.command(Command::Scale { workload: workload("web"), replicas: 3 }).unwrap();
    fleet.settle();
    fleet.sync(&node("n1"));
    assert_eq!((state(&fleet), view(&fleet).message.as_str()), (VersionState::Good, ""));
}

#[test]
fn no_canary_may_fail() {
    for on_failure in [OnFailure::Pause, OnFailure::Continue] {
        let most = Portion::Count(u32::from(on_failure == OnFailure::Pause) * 3);
        let mut second = with(2, most, on_failure);
        second.update.canary = Portion::Count(1);
        let mut fleet = fleet(second);
        fail(&mut fleet, 0);
        fleet.settle();
        assert_eq!(versions(&fleet), ["1", "1", "1", "1"]);
        assert!(matches!(state(&fleet), VersionState::RuledOut { .. }));
    }
}

#[test]
fn after_the_canaries_some_may_fail() {
    let mut second = with(2, Portion::Count(1), OnFailure::Pause);
    second.update.canary = Portion::Count(1);
    let mut fleet = fleet(second);
    hold(&mut fleet, 0);
    fleet.command(Command::Promote(workload("web"))).unwrap();
    fail(&mut fleet, 1);
    hold(&mut fleet, 1);
    hold(&mut fleet, 2);
    hold(&mut fleet, 3);
    assert_eq!(versions(&fleet), ["2", "1", "2", "2"]);
    assert_eq!(state(&fleet), VersionState::Incomplete);
}

/// It is not in its turn with the newest version: it was sent elsewhere as what it was.
#[test]
fn what_fails_where_it_was_moved_to_holds_up_no_other() {
    let mut fleet = Fleet::of(4);
    fleet.apply(of(1, OnFailure::Pause)).unwrap();
    let ail = |fleet: &mut Fleet, ordinal: u32, host: &str| {
        fleet.fetch(&node(host));
        let now = fleet.now;
        let name = instance(&format!("web-{ordinal}"));
        fleet.hosts.get_mut(&node(host)).unwrap().ail(&name, now);
        fleet.report(&node(host)).unwrap();
    };
    for (ordinal, host) in [(0, "n1"), (1, "n2"), (2, "n3"), (3, "n4")] {
        ail(&mut fleet, ordinal, host);
    }
    fleet.apply(of(2, OnFailure::Pause)).unwrap();
    assert_eq!(versions(&fleet), ["2", "1", "1", "1"]);
    fleet
        .command(Command::MoveInstances {
            instances: vec![instance("web-1")],
            to: Some(node("n3")),
            new_address: false,
            how: crate::model::MoveHow::default(),
            dry_run: false,
        })
        .unwrap();
    fleet.fetch(&node("n2"));
    fleet.hosts.get_mut(&node("n2")).unwrap().containers.clear();
    fleet.report(&node("n2")).unwrap();
    fleet.acknowledge(&node("n2")).unwrap();
    assert_eq!(fleet.place("web-1").as_deref(), Some("n3"));
    ail(&mut fleet, 1, "n3");
    hold(&mut fleet, 0);
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2", "2"]);
}

#[test]
fn what_has_nothing_to_go_back_to_holds_up_no_other() {
    let mut fleet = Fleet::of(4);
    fleet.apply(of(1, OnFailure::Continue)).unwrap();
    let ail = |fleet: &mut Fleet, ordinal: u32| {
        let host = node(&format!("n{}", ordinal + 1));
        fleet.fetch(&host);
        let now = fleet.now;
        let name = instance(&format!("web-{ordinal}"));
        fleet.hosts.get_mut(&host).unwrap().ail(&name, now);
        fleet.report(&host).unwrap();
    };
    (0..4).for_each(|ordinal| ail(&mut fleet, ordinal));
    fleet.apply(of(2, OnFailure::Continue)).unwrap();
    for ordinal in 0..3 {
        assert_eq!(versions(&fleet)[ordinal as usize], "2", "web-{ordinal} has its turn");
        ail(&mut fleet, ordinal);
    }
    hold(&mut fleet, 3);
    assert_eq!(versions(&fleet), ["2", "2", "2", "2"]);
    assert_eq!((state(&fleet), view(&fleet).failed), (VersionState::Incomplete, 3));
    // One that works after all has not failed.
    for ordinal in 0..3 {
        let host = fleet.hosts.get_mut(&node(&format!("n{}", ordinal + 1))).unwrap();
        host.containers.remove(&instance(&format!("web-{ordinal}")));
        hold(&mut fleet, ordinal);
    }
    assert_eq!((state(&fleet), view(&fleet).failed), (VersionState::Good, 0));
}

#[test]
fn what_does_not_run_is_not_counted() {
    let mut fleet = fleet(of(2, OnFailure::Continue));
    fleet
        .command(Command::SetRun {
            target: Target::Instance(instance("web-3")),
            run: RunState::Stopped,
        })
        .unwrap();
    fail(&mut fleet, 0);
    hold(&mut fleet, 0);
    hold(&mut fleet, 1);
    hold(&mut fleet, 2);
    fleet.settle();
    assert_eq!(state(&fleet), VersionState::Incomplete);
    let stopped = fleet.model.instance(&instance("web-3")).unwrap();
    assert_eq!(stopped.instance.run, RunState::Stopped);
}
