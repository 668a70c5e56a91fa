//! Instances that go to another node, and what they wait for before they leave theirs.

use dwell_core::instance::RunState;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::workload::Resources;

use super::fleet::{Fleet, arrived, instance, node, spec, workload};
use crate::model::{
    Arrival, ArrivalNews, Command, FindingKind, MoveHow, NodeChange, Surroundings, VersionState,
};

/// So many nodes with one instance of `web` on the first one, of which it is told what comes of fetches.
fn fleet(nodes: usize) -> Fleet {
    let mut fleet = Fleet::of(nodes);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n1");
    fleet.fetches = false;
    fleet
}

fn arrivals(fleet: &Fleet) -> Vec<Arrival> {
    fleet.model.arrivals()
}

fn heading(fleet: &Fleet, name: &str) -> Option<String> {
    let instance = &fleet.model.tables.instances()[&instance(name)];
    assert!(instance.heading.is_none() || instance.leaving.is_none());
    instance.heading.as_ref().map(|heading| heading.to.to_string())
}

fn leaves(fleet: &Fleet, name: &str) -> bool {
    fleet.model.tables.instances()[&instance(name)].leaving.is_some()
}

fn say(fleet: &mut Fleet, news: &ArrivalNews) {
    for arrival in arrivals(fleet) {
        fleet.command(Command::NoteArrival { arrival, news: news.clone() }).unwrap();
    }
}

fn send(fleet: &mut Fleet, to: Option<&str>) {
    let instances = vec![instance("web-0")];
    let (to, how) = (to.map(node), MoveHow::WithoutVolumes);
    let order = Command::MoveInstances { instances, to, how, new_address: false, dry_run: false };
    fleet.command_for("ann", order).unwrap();
}

fn closed(fleet: &mut Fleet, name: &str, is_closed: bool) {
    let change = NodeChange { cordoned: Some(is_closed), ..NodeChange::default() };
    fleet.update_node(name, change).unwrap();
    fleet.pass(1);
}

#[test]
fn it_runs_where_it_is_until_its_image_is_where_it_goes() {
    let mut fleet = fleet(2);
    fleet.drain("n1");
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n2");
    let [arrival] = &arrivals(&fleet)[..] else { panic!() };
    assert_eq!((arrival.to.as_str(), arrival.image.as_str()), ("n2", "image:1"));
    fleet.settle();
    assert!(!leaves(&fleet, "web-0"));
    assert_eq!(fleet.message("web-0"), "goes to n2 as soon as that has image:1");

    say(&mut fleet, &ArrivalNews::Progress("1 of 3 layers".to_owned()));
    assert_eq!(fleet.message("web-0"), "goes to n2 as soon as that has image:1 (1 of 3 layers)");
    let cannot = ArrivalNews::Cannot("no such image".to_owned());
    say(&mut fleet, &cannot);
    let told = "stays until n2, where it goes, has image:1, which cannot be fetched: no such image";
    assert_eq!(fleet.message("web-0"), told);
    let view = fleet.model.node(&node("n1")).unwrap();
    assert!(view.message.contains(told), "{}", view.message);
    let status = fleet.model.fleet_status(&Surroundings::default());
    assert!(status.found.iter().any(|found| found.kind == FindingKind::NodeDraining));
    assert_eq!(arrivals(&fleet).len(), 1, "it is tried again");

    say(&mut fleet, &ArrivalNews::There);
    assert!(leaves(&fleet, "web-0") && arrivals(&fleet).is_empty());
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
    fleet.check();
}

#[test]
fn room_is_kept_for_it_meanwhile() {
    let mut fleet = Fleet::of(2);
    let memory = Bytes(fleet.model.room(&node("n1")).unwrap().1.memory.0 / 2 + 1);
    let sized = |name: &str| {
        let mut spec = spec(name, 1);
        spec.template.resources = Resources { cpu: Millicores(10), memory };
        spec
    };
    fleet.apply(sized("web")).unwrap();
    fleet.settle();
    fleet.fetches = false;
    send(&mut fleet, None);
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n2");
    fleet.apply(sized("other")).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("other-0"), None, "there is room on neither node");
    say(&mut fleet, &ArrivalNews::There);
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
    assert_eq!(fleet.place("other-0").unwrap(), "n1");
    fleet.check();
}

#[test]
fn it_stays_if_it_need_not_go_and_heads_elsewhere_if_it_may_not_come() {
    let mut fleet = fleet(3);
    fleet.drain("n1");
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n2");
    closed(&mut fleet, "n2", true);
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n3");
    let outdated = {
        let mut arrival = arrivals(&fleet).remove(0);
        arrival.since = dwell_core::id::Revision(1);
        Command::NoteArrival { arrival, news: ArrivalNews::There }
    };
    fleet.command(outdated).unwrap();
    assert!(!leaves(&fleet, "web-0"), "that was about something else");
    let back = NodeChange { draining: Some(false), ..NodeChange::default() };
    fleet.update_node("n1", back).unwrap();
    fleet.pass(1);
    assert_eq!(heading(&fleet, "web-0"), None);

    send(&mut fleet, Some("n3"));
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n3");
    closed(&mut fleet, "n3", true);
    assert_eq!(heading(&fleet, "web-0"), None);
    let events = fleet.model.events(Some("instance/web-0"), 100);
    let told = events.iter().any(|event| event.message.contains("does not go to n3"));
    assert!(told, "{events:#?}");
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n1");
    fleet.check();
}

#[test]
fn what_does_not_run_waits_for_no_image() {
    let mut fleet = fleet(2);
    let stop = Command::SetRun {
        target: crate::model::Target::Workload(workload("web")),
        run: RunState::Stopped,
    };
    fleet.command(stop).unwrap();
    fleet.settle();
    fleet.drain("n1");
    assert!(arrivals(&fleet).is_empty());
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
}

#[test]
fn an_order_outlives_the_controller_and_is_carried_out_for_who_gave_it() {
    let mut fleet = fleet(2);
    send(&mut fleet, Some("n2"));
    send(&mut fleet, Some("n2"));
    fleet.restart_controller();
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.settle();
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n2");
    say(&mut fleet, &ArrivalNews::There);
    assert!(leaves(&fleet, "web-0"));
    let events = fleet.model.events(Some("instance/web-0"), 100);
    let moving = events.iter().find(|event| event.reason == "instance-moving").unwrap();
    assert_eq!(moving.by, "ann");
}

#[test]
fn one_goes_after_the_other_and_each_comes_with_both_images_of_a_rollout() {
    let mut fleet = Fleet::of(3);
    let mut four = spec("web", 4);
    four.template.image = "image:1".to_owned();
    fleet.apply(four.clone()).unwrap();
    fleet.settle();
    fleet.fetches = false;
    four.template.image = "image:2".to_owned();
    four.placement.constraints = vec!["node.name!=n1".parse().unwrap()];
    fleet.apply(four).unwrap();
    let of_n1 = |fleet: &Fleet| {
        let there = fleet.model.tables.instances().values();
        there.filter(|one| one.node == Some(node("n1"))).count()
    };
    let before = of_n1(&fleet);
    assert!(before > 0);
    let mut images = Vec::new();
    for _ in 0..40 {
        let known = arrivals(&fleet);
        let who: std::collections::BTreeSet<_> = known.iter().map(|one| &one.instance).collect();
        assert!(who.len() <= 1, "{known:#?}");
        images.extend(known.iter().map(|one| one.image.clone()));
        for noted in arrived(&fleet.model) {
            fleet.command(noted).unwrap();
        }
        fleet.settle();
    }
    assert_eq!(of_n1(&fleet), 0);
    assert!(images.contains(&"image:1".to_owned()), "{images:?}");
    assert!(images.contains(&"image:2".to_owned()), "{images:?}");
    let newest = fleet.model.workload(&workload("web")).unwrap().newest.unwrap();
    assert_eq!(newest.state, VersionState::Good);
    fleet.check();
}

#[test]
fn a_rollout_that_moves_fails_where_the_image_cannot_be_had() {
    let mut fleet = fleet(2);
    let mut grown = spec("web", 1);
    let room = fleet.model.room(&node("n1")).unwrap().1;
    let mut big = spec("big", 1);
    big.template.resources.memory = Bytes(room.memory.0 - Bytes::mebi(100).0);
    big.placement.constraints = vec!["node.name==n1".parse().unwrap()];
    fleet.apply(big).unwrap();
    fleet.settle();
    grown.template.resources.memory = Bytes::mebi(200);
    fleet.apply(grown).unwrap();
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n2");
    for _ in 0..62 {
        say(&mut fleet, &ArrivalNews::Cannot("refused".to_owned()));
        fleet.pass(1);
        for name in ["n1", "n2"] {
            fleet.report(&node(name)).unwrap();
        }
    }
    let told = fleet.model.workload(&workload("web")).unwrap().message;
    assert!(told.contains("which cannot be fetched: refused"), "{told}");
    assert!(told.contains("rollout paused"), "{told}");
    fleet.pass(1);
    assert_eq!(heading(&fleet, "web-0"), None);
    assert_eq!(fleet.place("web-0").unwrap(), "n1");
}

/// Tries that come to nothing.
fn refused(fleet: &mut Fleet, times: usize) {
    for _ in 0..times {
        say(fleet, &ArrivalNews::Cannot("no login".to_owned()));
    }
}

#[test]
fn it_heads_elsewhere_if_a_node_cannot_have_the_image() {
    let mut fleet = fleet(3);
    fleet.drain("n1");
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n2");
    refused(&mut fleet, 3);
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n2", "that may pass");
    refused(&mut fleet, 1);
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n3");
    let told = "goes to n3 as soon as that has image:1; n2 could not have it a short while ago";
    assert_eq!(fleet.message("web-0"), told);
    let events = fleet.model.events(Some("instance/web-0"), 100);
    let told = events.iter().find(|event| event.reason == "instance-heads-elsewhere").unwrap();
    assert_eq!(told.message, "n2 cannot have its image: no login");

    // Nor can that one: nothing is gained by going to and fro.
    refused(&mut fleet, 4);
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n3");
    assert!(fleet.message("web-0").contains("no login"), "{}", fleet.message("web-0"));
    // After a while the first one is worth another look.
    for _ in 0..31 {
        fleet.pass(10);
        for name in ["n1", "n2", "n3"] {
            fleet.report(&node(name)).unwrap();
        }
    }
    refused(&mut fleet, 4);
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n2");
    say(&mut fleet, &ArrivalNews::There);
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
    fleet.check();
}

/// What comes later is spared the wait, but for what somebody sends there.
#[test]
fn a_node_that_could_not_have_an_image_is_avoided_for_a_while() {
    let mut fleet = fleet(3);
    send(&mut fleet, None);
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n2");
    refused(&mut fleet, 4);
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n3", "nobody said where");
    say(&mut fleet, &ArrivalNews::There);
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n3");
    closed(&mut fleet, "n1", true);
    let instances = vec![instance("web-0")];
    let how = MoveHow::WithoutVolumes;
    let order =
        Command::MoveInstances { instances, to: None, how, new_address: false, dry_run: true };
    let refusal = fleet.command_for("ann", order).unwrap_err().to_string();
    assert!(refusal.contains("could not have its image a short while ago"), "{refusal}");
    send(&mut fleet, Some("n2"));
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n2");
    refused(&mut fleet, 4);
    assert_eq!(heading(&fleet, "web-0").unwrap(), "n2", "somebody said where");
}

#[test]
fn room_is_kept_for_what_it_is_to_become() {
    let mut fleet = Fleet::of(2);
    let cordon = |fleet: &mut Fleet, cordoned| {
        let change = NodeChange { cordoned: Some(cordoned), ..NodeChange::default() };
        fleet.update_node("n2", change).unwrap();
    };
    let of = |name: &str, cpu| {
        let mut spec = spec(name, 1);
        spec.template.resources.cpu = Millicores(cpu);
        spec
    };
    cordon(&mut fleet, true);
    fleet.apply(of("db", 3_500)).unwrap();
    fleet.apply(of("web", 0)).unwrap();
    fleet.settle();
    cordon(&mut fleet, false);
    fleet.fetches = false;
    fleet.apply(of("web", 1_500)).unwrap();
    fleet.settle();
    assert!(fleet.message("web-0").contains("goes to n2"), "{}", fleet.message("web-0"));
    let promised = |fleet: &Fleet| fleet.model.room(&node("n2")).unwrap().0.cpu;
    assert_eq!(promised(&fleet), Millicores(1_500), "it takes nothing yet where it is");
    // What comes meanwhile does not get it, and what is declared meanwhile has to fit as well.
    fleet.apply(of("late", 3_000)).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("late-0"), None);
    fleet.apply(of("next", 2_000)).unwrap();
    fleet.apply(of("web", 2_500)).unwrap();
    fleet.fetches = true;
    fleet.settle();
    assert_eq!(fleet.place("web-0").as_deref(), Some("n1"), "n2 has no room for so much");
    fleet.check();
}
