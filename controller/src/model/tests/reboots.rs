//! Reboots of nodes: one after the other, over restarts of the controller, and what ends them.

use dwell_core::id::{Incarnation, NodeName};
use dwell_core::quantity::Millis;
use dwell_core::session::{RebootFailed, RebootOrder};

use super::fleet::{Fleet, instance, node, spec};
use crate::model::{
    Command, FindingKind, NodeChange, RebootHow, RebootPlan, RebootState, Refusal, Reply,
    Surroundings,
};

fn how(parallelism: usize, drains: bool) -> RebootHow {
    let drained_within = drains.then_some(Millis::seconds(600));
    RebootHow { parallelism, drained_within, back_within: Millis::seconds(300) }
}

fn reboot(fleet: &mut Fleet, names: &[&str], how: RebootHow) -> Result<Reply, Refusal> {
    let nodes = names.iter().map(|name| node(name)).collect();
    fleet.command(Command::RebootNodes(RebootPlan { nodes, how }))
}

/// A fleet with one instance of `web` on each node.
fn fleet_of(nodes: usize) -> Fleet {
    let mut fleet = Fleet::of(nodes);
    fleet.apply(spec("web", u32::try_from(nodes).unwrap())).unwrap();
    fleet.settle();
    fleet
}

fn state(fleet: &Fleet, name: &str) -> RebootState {
    fleet.model.node(&node(name)).unwrap().node.reboot.clone().unwrap().state
}

fn is_cordoned(fleet: &Fleet, name: &str) -> bool {
    fleet.model.node(&node(name)).unwrap().node.cordoned
}

fn order(fleet: &Fleet, name: &str) -> Option<RebootOrder> {
    fleet.model.reboot_order(&node(name))
}

fn ordered(fleet: &Fleet) -> Vec<String> {
    let names = fleet.hosts.keys().filter(|name| fleet.model.reboot_order(name).is_some());
    names.map(NodeName::to_string).collect()
}

/// The host goes down, and comes up again in another boot.
fn boots(fleet: &mut Fleet, name: &str) {
    fleet.hosts.get_mut(&node(name)).unwrap().boots += 1;
    fleet.attach(&node(name)).unwrap();
    fleet.settle();
}

fn attach(fleet: &mut Fleet, names: &[&str]) {
    for name in names {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.settle();
}

#[test]
fn one_after_the_other_each_drained_and_taken_back() {
    let mut fleet = fleet_of(3);
    reboot(&mut fleet, &["n2", "n1"], how(1, true)).unwrap();
    assert_eq!(
        (state(&fleet, "n2"), state(&fleet, "n1")),
        (RebootState::Draining, RebootState::Waiting)
    );
    assert!(ordered(&fleet).is_empty(), "web-1 is there still");
    fleet.settle();
    assert_eq!(ordered(&fleet), ["n2"]);
    assert_ne!(fleet.place("web-1").unwrap(), "n2");
    // Its agent attaches again before the host goes down: it is the same boot, and the same order.
    let first = order(&fleet, "n2").unwrap();
    attach(&mut fleet, &["n2"]);
    assert_eq!(order(&fleet, "n2").unwrap(), first);
    boots(&mut fleet, "n2");
    assert_eq!((state(&fleet, "n2"), is_cordoned(&fleet, "n2")), (RebootState::Done, false));
    assert_eq!(ordered(&fleet), ["n1"]);
    assert!(order(&fleet, "n1").unwrap().number > first.number);
    boots(&mut fleet, "n1");
    assert_eq!((state(&fleet, "n1"), is_cordoned(&fleet, "n1")), (RebootState::Done, false));
    assert!(ordered(&fleet).is_empty());
    reboot(&mut fleet, &["n3"], how(1, true)).unwrap();
}

#[test]
fn it_goes_on_through_restarts_of_the_controller_with_one_order_for_each_node() {
    let mut fleet = fleet_of(3);
    reboot(&mut fleet, &["n1", "n2"], how(1, true)).unwrap();
    fleet.restart_controller();
    attach(&mut fleet, &["n1", "n2", "n3"]);
    let first = order(&fleet, "n1").unwrap();
    fleet.restart_controller();
    assert_eq!(order(&fleet, "n1"), None, "it may be in another boot already");
    attach(&mut fleet, &["n1", "n2", "n3"]);
    assert_eq!(order(&fleet, "n1").unwrap(), first);
    // It comes back while there is no controller, which is away for longer than the deadline.
    fleet.hosts.get_mut(&node("n1")).unwrap().boots += 1;
    fleet.pass(400);
    assert_eq!(ordered(&fleet).len(), 0);
}

#[test]
fn a_controller_that_was_away_hears_of_a_node_before_it_gives_it_up() {
    let mut fleet = fleet_of(3);
    reboot(&mut fleet, &["n1", "n2"], how(1, true)).unwrap();
    fleet.settle();
    fleet.hosts.get_mut(&node("n1")).unwrap().boots += 1;
    fleet.now = dwell_core::clock::Timestamp(fleet.now.0 + 4_000_000);
    fleet.restart_controller();
    fleet.pass(1);
    assert!(matches!(state(&fleet, "n1"), RebootState::Rebooting { .. }));
    attach(&mut fleet, &["n1", "n2", "n3"]);
    assert_eq!(state(&fleet, "n1"), RebootState::Done);
    assert_eq!(ordered(&fleet), ["n2"]);
}

#[test]
fn it_stops_at_the_first_that_does_not_come_back_and_says_so() {
    let mut fleet = fleet_of(3);
    reboot(&mut fleet, &["n1", "n2"], how(1, true)).unwrap();
    fleet.settle();
    fleet.pass(299);
    assert!(matches!(state(&fleet, "n1"), RebootState::Rebooting { .. }));
    let status = fleet.model.fleet_status(&Surroundings { now: fleet.now, ..Default::default() });
    let of_n1 = status.found.iter().find(|one| one.subject.to_string() == "node/n1").unwrap();
    assert_eq!(of_n1.kind, FindingKind::NodeRebooting, "that it is silent is what was asked for");
    fleet.pass(1);
    let why = "it did not come back within 5m".to_owned();
    assert_eq!(state(&fleet, "n1"), RebootState::Failed(why));
    assert_eq!(state(&fleet, "n2"), RebootState::Cancelled("the reboot of n1 failed".into()));
    assert!(is_cordoned(&fleet, "n1") && !is_cordoned(&fleet, "n2"));
    let told = fleet.model.events(Some("node/n1"), 5);
    assert!(told.iter().any(|event| event.reason == "reboot-failed"), "{told:?}");
    fleet.attach(&node("n2")).unwrap();
    let status = fleet.model.fleet_status(&Surroundings { now: fleet.now, ..Default::default() });
    let of = |name: &str| {
        let found = status.found.iter().filter(|one| one.subject.to_string() == name);
        found.map(|one| one.kind).collect::<Vec<_>>()
    };
    assert_eq!(of("node/n1"), [FindingKind::RebootFailed]);
    assert!(of("node/n2").is_empty(), "{status:?}");
    // It may come back later; somebody has to look first.
    boots(&mut fleet, "n1");
    assert!(is_cordoned(&fleet, "n1"));
    assert!(ordered(&fleet).is_empty());
    let back = NodeChange { cordoned: Some(false), ..NodeChange::default() };
    fleet.update_node("n1", back).unwrap();
    assert_eq!(fleet.model.node(&node("n1")).unwrap().message, "");
}

#[test]
fn a_node_that_cannot_be_drained_is_not_rebooted() {
    let mut fleet = Fleet::of(2);
    let mut big = spec("big", 2);
    big.template.resources.cpu = dwell_core::quantity::Millicores(3000);
    fleet.apply(big).unwrap();
    fleet.settle();
    reboot(&mut fleet, &["n1", "n2"], how(1, true)).unwrap();
    fleet.settle();
    assert_eq!(state(&fleet, "n1"), RebootState::Draining);
    fleet.pass(598);
    attach(&mut fleet, &["n1", "n2"]);
    fleet.pass(1);
    fleet.pass(1);
    let RebootState::Failed(why) = state(&fleet, "n1") else { panic!() };
    assert!(why.starts_with("it was not drained in time: big-0: 0 of 2 nodes fit"), "{why}");
    assert!(ordered(&fleet).is_empty());
}

#[test]
fn without_a_drain_instances_stay_and_the_next_waits_until_they_are_well_again() {
    let mut fleet = fleet_of(2);
    reboot(&mut fleet, &["n1", "n2"], how(1, false)).unwrap();
    assert_eq!(ordered(&fleet), ["n1"]);
    assert!(is_cordoned(&fleet, "n1"));
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    host.boots += 1;
    host.containers.clear();
    fleet.attach(&node("n1")).unwrap();
    fleet.pass(1);
    assert!(matches!(state(&fleet, "n1"), RebootState::Rebooting { .. }), "web-0 is not up yet");
    fleet.settle();
    assert_eq!(state(&fleet, "n1"), RebootState::Done);
    assert_eq!(fleet.place("web-0").unwrap(), "n1");
    assert_eq!(ordered(&fleet), ["n2"]);
}

#[test]
fn a_few_at_once_if_asked() {
    let mut fleet = fleet_of(4);
    reboot(&mut fleet, &["n1", "n2", "n3"], how(2, false)).unwrap();
    assert_eq!(ordered(&fleet), ["n1", "n2"]);
    boots(&mut fleet, "n2");
    assert_eq!(ordered(&fleet), ["n1", "n3"]);
}

#[test]
fn what_was_taken_back_ends_and_what_was_ordered_is_waited_for() {
    let mut fleet = fleet_of(3);
    assert!(fleet.command(Command::CancelReboot).is_err());
    reboot(&mut fleet, &["n1", "n2"], how(1, true)).unwrap();
    assert_eq!(fleet.command(Command::CancelReboot).unwrap(), Reply::Rebooting(vec![]));
    assert!(!is_cordoned(&fleet, "n1"));
    fleet.settle();
    reboot(&mut fleet, &["n1", "n2"], how(1, true)).unwrap();
    fleet.settle();
    let answer = fleet.command(Command::CancelReboot).unwrap();
    assert_eq!(answer, Reply::Rebooting(vec![node("n1")]));
    boots(&mut fleet, "n1");
    assert_eq!((state(&fleet, "n1"), is_cordoned(&fleet, "n1")), (RebootState::Done, false));
    assert!(ordered(&fleet).is_empty());
}

#[test]
fn a_node_that_was_cordoned_before_stays_so() {
    let mut fleet = fleet_of(2);
    let cordon = NodeChange { cordoned: Some(true), ..NodeChange::default() };
    fleet.update_node("n1", cordon).unwrap();
    reboot(&mut fleet, &["n1"], how(1, true)).unwrap();
    fleet.settle();
    boots(&mut fleet, "n1");
    let node = fleet.model.node(&node("n1")).unwrap().node;
    assert_eq!((node.cordoned, node.draining), (true, false));
}

#[test]
fn what_a_node_could_not_do_ends_it() {
    let mut fleet = fleet_of(2);
    reboot(&mut fleet, &["n1"], how(1, false)).unwrap();
    let RebootOrder { incarnation, number, .. } = order(&fleet, "n1").unwrap();
    let session = fleet.hosts[&node("n1")].session.unwrap();
    let say = |number| {
        let failed = RebootFailed { incarnation, number, reason: "exit code 1".into() };
        Command::NoteRebootFailed { node: node("n1"), session, failed }
    };
    fleet.command(say(number + 1)).unwrap();
    assert!(matches!(state(&fleet, "n1"), RebootState::Rebooting { .. }), "another order");
    fleet.command(say(number)).unwrap();
    assert_eq!(state(&fleet, "n1"), RebootState::Failed("exit code 1".into()));
}

#[test]
fn a_restored_controller_orders_nothing_that_an_earlier_history_asked_for() {
    let mut fleet = fleet_of(2);
    fleet.begin(1, None);
    attach(&mut fleet, &["n1", "n2"]);
    reboot(&mut fleet, &["n1", "n2"], how(1, false)).unwrap();
    assert_eq!(order(&fleet, "n1").unwrap().incarnation, Incarnation(1));
    let backup = fleet.backup();
    fleet.restore(backup);
    fleet.begin(2, Some("the mark is newer".into()));
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.pass(1);
    assert!(ordered(&fleet).is_empty());
    fleet.command(Command::ConfirmRestore { force: true }).unwrap();
    fleet.pass(1);
    assert!(ordered(&fleet).is_empty());
    let RebootState::Failed(why) = state(&fleet, "n1") else { panic!() };
    assert!(why.contains("restored from a backup"), "{why}");
}

#[test]
fn who_cannot_be_rebooted_is_refused_before_anything_begins() {
    let mut fleet = fleet_of(2);
    let refusal = |fleet: &mut Fleet, names: &[&str]| {
        reboot(fleet, names, how(1, true)).unwrap_err().to_string()
    };
    assert!(refusal(&mut fleet, &[]).contains("1 to 1000"));
    assert!(refusal(&mut fleet, &["n1", "n1"]).contains("named twice"));
    assert!(refusal(&mut fleet, &["n9"]).contains("there is no node n9"));
    fleet.hosts.get_mut(&node("n2")).unwrap().is_not_to_reboot = true;
    attach(&mut fleet, &["n2"]);
    assert!(refusal(&mut fleet, &["n1", "n2"]).contains("reboot_command"));
    fleet.hosts.get_mut(&node("n2")).unwrap().knows_no_reboots = true;
    attach(&mut fleet, &["n2"]);
    assert!(refusal(&mut fleet, &["n1", "n2"]).contains("upgrade it"));
    fleet.pass(20);
    assert!(refusal(&mut fleet, &["n1"]).contains("is not heard of"));
    assert!(!is_cordoned(&fleet, "n1"));
    attach(&mut fleet, &["n1"]);
    reboot(&mut fleet, &["n1"], how(1, true)).unwrap();
    assert!(refusal(&mut fleet, &["n1"]).contains("--cancel"));
    assert!(fleet.model.instance(&instance("web-0")).is_some());
}
