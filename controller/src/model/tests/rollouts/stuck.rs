//! Instances that cannot be given a new version where they are, and for how long that is waited for.

use dwell_core::workload::{OnFailure, Portion, Resources, UpdateOrder, WorkloadSpec};

use super::*;
use crate::model::Refusal;

/// So much of a node's memory that there is no second share of it.
fn most(fleet: &Fleet) -> Bytes {
    let room = fleet.model.room(&node("n1")).unwrap().1;
    Bytes(room.memory.0 / 2 + 1)
}

fn beside(version: u32, replicas: u32, memory: Bytes) -> WorkloadSpec {
    let mut spec = image(version, replicas);
    spec.update.order = UpdateOrder::StartFirst;
    spec.template.resources = Resources { cpu: Millicores(100), memory };
    spec
}

/// Time passes, and all nodes are heard of meanwhile.
fn pass(fleet: &mut Fleet, seconds: u64) {
    let nodes: Vec<_> = fleet.hosts.keys().cloned().collect();
    for _ in 0..seconds {
        fleet.pass(1);
        nodes.iter().for_each(|node| drop(fleet.report(node).unwrap()));
    }
}

/// Two nodes with one instance each, of which the second one has no room for a second share.
fn lopsided(change: impl Fn(&mut WorkloadSpec)) -> Fleet {
    let mut fleet = Fleet::of(2);
    let declared = |version| {
        let mut spec = beside(version, 2, Bytes::mebi(100));
        change(&mut spec);
        spec
    };
    fleet.apply(declared(1)).unwrap();
    fleet.settle();
    let mut big = spec("big", 1);
    big.template.resources.memory =
        Bytes(fleet.model.room(&node("n2")).unwrap().1.memory.0 - Bytes::mebi(150).0);
    big.placement.constraints = vec!["node.name==n2".parse().unwrap()];
    fleet.apply(big).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("web-1").unwrap(), "n2");
    fleet.apply(declared(2)).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet)[1..], ["2", "1"]);
    fleet
}

fn told(fleet: &Fleet) -> String {
    fleet.model.workload(&workload("web")).unwrap().message
}

#[test]
fn room_is_waited_for_until_the_deadline_and_again_when_it_is_applied_again() {
    let mut fleet = Fleet::of(1);
    let half = most(&fleet);
    fleet.apply(beside(1, 1, half)).unwrap();
    fleet.settle();
    for _ in 0..2 {
        fleet.apply(beside(2, 1, half)).unwrap();
        pass(&mut fleet, 58);
        assert!(
            fleet.message("web-0").contains("for a second share"),
            "{}",
            fleet.message("web-0")
        );
        pass(&mut fleet, 4);
        assert!(
            told(&fleet).contains(
                "is ruled out, web-0 could not be given it within 1m: its node lacks memory 2 for a second share"
            ),
            "{}",
            told(&fleet)
        );
        assert!(told(&fleet).contains("Make room and apply it again"), "{}", told(&fleet));
        assert!(fleet.model.tables.waiting().is_empty(), "it waits no longer");
        assert_eq!(versions(&fleet), ["1"]);
    }
    let mut stop_first = beside(2, 1, half);
    stop_first.update.order = UpdateOrder::StopFirst;
    fleet.apply(stop_first).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2"]);
}

#[test]
fn what_is_to_grow_and_fits_nowhere_is_given_up_like_that() {
    let mut fleet = Fleet::of(2);
    fleet.apply(image(1, 2)).unwrap();
    fleet.settle();
    let mut grown = image(1, 2);
    grown.template.resources.memory = Bytes(2 * most(&fleet).0);
    fleet.apply(grown).unwrap();
    pass(&mut fleet, 62);
    let told = told(&fleet);
    assert!(told.contains("web-0 could not be given it within 1m: 0 of 2 nodes fit"), "{told}");
}

#[test]
fn on_failure_says_what_becomes_of_the_others() {
    let mut pauses = lopsided(|_| {});
    pass(&mut pauses, 62);
    assert!(told(&pauses).contains("rollout paused"), "{}", told(&pauses));
    assert_eq!(versions(&pauses)[1..], ["2", "1"], "what holds with it keeps it");

    let mut goes_back = lopsided(|spec| spec.update.on_failure = OnFailure::Rollback);
    pass(&mut goes_back, 62);
    goes_back.settle();
    assert_eq!(versions(&goes_back)[1..], ["1", "1"]);

    let tolerant: [fn(&mut WorkloadSpec); 2] = [
        |spec| spec.update.max_failures = Portion::Count(1),
        |spec| spec.update.on_failure = OnFailure::Continue,
    ];
    for change in tolerant {
        let mut fleet = lopsided(change);
        pass(&mut fleet, 62);
        assert_eq!(versions(&fleet)[1..], ["2", "1"]);
        let newest = fleet.model.workload(&workload("web")).unwrap().newest.unwrap();
        assert_eq!(newest.state, VersionState::Incomplete);
        assert!(
            told(&fleet).contains("web-1: could not be given it within 1m"),
            "{}",
            told(&fleet)
        );
    }
}

#[test]
fn what_waits_for_another_of_its_workload_waits_as_long_as_that_takes() {
    let mut fleet = Fleet::of(1);
    let third = Bytes(fleet.model.room(&node("n1")).unwrap().1.memory.0 / 3);
    let mut two = beside(1, 2, third);
    two.update.parallelism = Portion::Count(2);
    fleet.apply(two.clone()).unwrap();
    fleet.settle();
    two.template.image = "image:2".to_owned();
    fleet.apply(two).unwrap();
    assert_eq!(versions(&fleet), ["2", "1"]);
    pass(&mut fleet, 100);
    assert!(!told(&fleet).contains("ruled out"), "{}", told(&fleet));
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2"]);
}

#[test]
fn room_that_is_made_in_time_is_used_and_a_node_that_is_silent_is_waited_for() -> Result<(), Refusal>
{
    let mut fleet = lopsided(|_| {});
    pass(&mut fleet, 50);
    fleet.command(Command::RemoveWorkload(workload("big")))?;
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2"]);

    let mut fleet = lopsided(|_| {});
    for _ in 0..200 {
        fleet.pass(1);
        fleet.report(&node("n1"))?;
    }
    assert!(!told(&fleet).contains("ruled out"), "{}", told(&fleet));
    Ok(())
}
