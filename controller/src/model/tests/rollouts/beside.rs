//! New containers that are tried beside the old ones, for a second share.

use dwell_core::workload::{Resources, UpdateOrder};

use super::*;
use crate::model::object::WaitingCause;

/// With a share of half a node's memory, or less.
fn beside(version: u32, replicas: u32, memory: Bytes) -> WorkloadSpec {
    let mut spec = image(version, replicas);
    spec.update.order = UpdateOrder::StartFirst;
    spec.template.resources = Resources { cpu: Millicores(100), memory };
    spec
}

fn is_beside(fleet: &Fleet, name: &str) -> bool {
    let at = fleet.place(name).unwrap();
    let assigned = fleet.assigned_to(&at);
    assigned.iter().find(|one| one.instance == instance(name)).unwrap().beside
}

fn promised(fleet: &Fleet, name: &str) -> Resources {
    let occupancy = fleet.model.tables.index().occupancy.get(&node(name));
    occupancy.map(|there| there.promised).unwrap_or_default()
}

#[test]
fn a_second_share_is_promised_for_as_long_as_the_turn_takes() {
    let mut fleet = Fleet::of(1);
    let share = Resources { cpu: Millicores(100), memory: Bytes::mebi(100) };
    fleet.apply(beside(1, 2, share.memory)).unwrap();
    fleet.settle();
    assert_eq!(promised(&fleet, "n1"), share.plus(share));
    assert!(!is_beside(&fleet, "web-0"));
    let mut two = beside(2, 2, Bytes::mebi(150));
    fleet.apply(two.clone()).unwrap();
    assert!(is_beside(&fleet, "web-0") && !is_beside(&fleet, "web-1"));
    let grown = Resources { cpu: Millicores(100), memory: Bytes::mebi(150) };
    assert_eq!(promised(&fleet, "n1"), share.plus(grown).plus(share));
    fleet.sync(&node("n1"));
    assert!(!is_beside(&fleet, "web-0") && is_beside(&fleet, "web-1"));
    fleet.settle();
    assert_eq!(promised(&fleet, "n1"), grown.plus(grown));
    assert!(!is_beside(&fleet, "web-1"));
    // What needs no new container needs no second share.
    two.template.resources.cpu = Millicores(50);
    fleet.apply(two).unwrap();
    assert!(!is_beside(&fleet, "web-0"));
}

#[test]
fn without_room_for_two_it_stays_as_it_is_and_says_so_until_there_is() {
    let mut fleet = Fleet::of(1);
    let room = fleet.model.room(&node("n1")).unwrap().1;
    let half = Bytes(room.memory.0 / 2 + 1);
    fleet.apply(beside(1, 1, half)).unwrap();
    let mut other = spec("other", 1);
    other.template.resources = Resources::default();
    fleet.apply(other).unwrap();
    fleet.settle();
    let plan = fleet.dry_run(vec![beside(2, 1, half)]).unwrap().remove(0);
    assert!(plan.instances[0].waits.contains("lacks memory 2"), "{}", plan.instances[0].waits);
    assert!(plan.downtime.starts_with("no downtime"), "{}", plan.downtime);
    fleet.apply(beside(2, 1, half)).unwrap();
    assert_eq!(versions(&fleet)[1..], ["1"]);
    let waiting = fleet.model.tables.waiting().get(&instance("web-0")).unwrap();
    let lacks = Resources { cpu: Millicores(0), memory: Bytes(2) };
    assert_eq!(waiting.cause, WaitingCause::NoSecondShare(lacks));
    let told = waiting.cause.to_string();
    assert!(told.contains("lacks memory 2 for a second share") && told.contains("stop-first"));
    // Another order needs none.
    let mut stop_first = beside(2, 1, half);
    stop_first.update.order = UpdateOrder::StopFirst;
    fleet.apply(stop_first).unwrap();
    assert_eq!(versions(&fleet)[1..], ["2"]);
    assert!(!is_beside(&fleet, "web-0"));
    assert!(!fleet.model.tables.waiting().contains_key(&instance("web-0")));
}

#[test]
fn one_that_does_not_hold_gives_its_second_share_back() {
    let mut fleet = Fleet::of(1);
    fleet.apply(beside(1, 1, Bytes::mebi(100))).unwrap();
    fleet.settle();
    let before = promised(&fleet, "n1");
    fleet.apply(beside(2, 1, Bytes::mebi(100))).unwrap();
    assert!(is_beside(&fleet, "web-0") && promised(&fleet, "n1") != before);
    fleet.fetch(&node("n1"));
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n1")).unwrap().fail(&instance("web-0"), now);
    fleet.report(&node("n1")).unwrap();
    assert!(!is_beside(&fleet, "web-0"));
    assert_eq!((promised(&fleet, "n1"), versions(&fleet)), (before, vec!["1".to_owned()]));
}

#[test]
fn another_limit_in_the_middle_leaves_the_two_containers_their_shares() {
    let mut fleet = Fleet::of(1);
    fleet.apply(beside(1, 1, Bytes::mebi(100))).unwrap();
    fleet.settle();
    fleet.apply(beside(2, 1, Bytes::mebi(100))).unwrap();
    assert!(is_beside(&fleet, "web-0"));
    // Less may be too little, so that it is a turn of its own.
    fleet.apply(beside(2, 1, Bytes::mebi(80))).unwrap();
    assert!(is_beside(&fleet, "web-0"));
    fleet.settle();
    assert!(!is_beside(&fleet, "web-0"));
    assert_eq!(promised(&fleet, "n1").memory, Bytes::mebi(80));
}

#[test]
fn what_moves_or_is_to_be_stopped_takes_no_second_share_along() {
    let mut fleet = Fleet::of(2);
    fleet.apply(beside(1, 1, Bytes::mebi(100))).unwrap();
    fleet.settle();
    fleet.apply(beside(2, 1, Bytes::mebi(100))).unwrap();
    let at = fleet.place("web-0").unwrap();
    assert!(is_beside(&fleet, "web-0"));
    fleet.drain(&at);
    fleet.settle();
    assert!(fleet.place("web-0") != Some(at) && !is_beside(&fleet, "web-0"));
    let total = promised(&fleet, "n1").plus(promised(&fleet, "n2"));
    assert_eq!(total.memory, Bytes::mebi(100));
}
