//! Why an instance is where and what it is.

use dwell_core::instance::RunState;
use dwell_core::workload::{Mount, MountSource, WorkloadSpec};

use super::fleet::{Fleet, instance, node, spec, workload};
use crate::model::{Command, MoveHow, NodeChange, Target};

fn web(version: u32, replicas: u32) -> WorkloadSpec {
    let mut spec = spec("web", replicas);
    spec.template.image = format!("image:{version}");
    spec
}

/// What is said of something: what it is about, what is so, and who asked for it.
fn facts(fleet: &Fleet, name: &str) -> Vec<String> {
    let by = |by: &str| if by.is_empty() { String::new() } else { format!(" ({by})") };
    let found = fleet.model.explain(name).unwrap();
    found
        .facts
        .iter()
        .map(|fact| format!("{}: {}{}", fact.about, fact.text, by(&fact.by)))
        .collect()
}

fn of(fleet: &Fleet, name: &str, about: &str) -> Vec<String> {
    let start = format!("{about}: ");
    let facts = facts(fleet, name).into_iter();
    facts.filter_map(|fact| fact.strip_prefix(&start).map(ToOwned::to_owned)).collect()
}

#[test]
fn what_runs_as_declared() {
    let mut fleet = Fleet::of(2);
    fleet.apply(web(1, 2)).unwrap();
    fleet.settle();
    assert_eq!(
        facts(&fleet, "web-0"),
        [
            "place: is on n1, the best node when it was placed",
            "address: 10.80.0.1, of the block of n1",
            "version: is version 1, image image:1",
            "verdict: has held with version 1",
            "state: running",
        ]
    );
    let found = fleet.model.explain("web-0").unwrap();
    assert!(found.facts[0].since.is_some(), "{:?}", found.facts[0]);
    let reasons: Vec<&str> = found.history.iter().map(|event| event.reason.as_str()).collect();
    let whole = ["workload-created", "instance-placed", "instance-running", "version-good"];
    assert_eq!(reasons, whole);
    assert!(found.history.iter().all(|event| !event.subject.to_string().contains("web-1")));
    assert_eq!(
        facts(&fleet, "web"),
        [
            "instances: 2 instances declared; 2 ready, 2 as declared",
            "version: is brought to version 1, image image:1",
        ]
    );
    assert_eq!(fleet.model.explain("web-2"), None);
    assert_eq!(fleet.model.explain("No Name"), None);
}

#[test]
fn what_was_moved_says_by_whom_and_what_its_address_costs() {
    let mut fleet = Fleet::of(2);
    fleet.apply(web(1, 1)).unwrap();
    fleet.settle();
    let instances = vec![instance("web-0")];
    let order = Command::MoveInstances {
        instances,
        to: Some(node("n2")),
        new_address: false,
        how: MoveHow::default(),
        dry_run: false,
    };
    fleet.command_for("ann", order).unwrap();
    assert_eq!(of(&fleet, "web-0", "place"), ["leaves n1 for n2 (ann)"]);
    fleet.settle();
    assert_eq!(of(&fleet, "web-0", "place"), ["is on n2, where it was moved on request (ann)"]);
    let address = of(&fleet, "web-0", "address").remove(0);
    assert!(address.contains("block of n1") && address.contains("a route of its own"), "{address}");
}

#[test]
fn what_is_not_the_newest_version_says_why() {
    let mut fleet = Fleet::of(3);
    fleet.apply(web(1, 3)).unwrap();
    fleet.settle();
    fleet.apply(web(2, 3)).unwrap();
    assert_eq!(of(&fleet, "web-0", "rollout"), ["has its turn, which ends when it has held"]);
    assert_eq!(
        of(&fleet, "web-1", "rollout"),
        ["version 2 has not been given to it yet: web-0 has its turn, and 1 at a time may have it"]
    );
    assert_eq!(
        of(&fleet, "web-0", "verdict"),
        [
            "has not held with it yet; it held with version 1 last; version 1 is put up again if it does not"
        ]
    );
    fleet.command(Command::Pause { workload: workload("web"), by: "ann".into() }).unwrap();
    let paused = of(&fleet, "web-1", "rollout");
    assert_eq!(paused, ["rollout paused by ann; `dwell resume` goes on"]);
    fleet.command(Command::Resume(workload("web"))).unwrap();
    fleet.fetch(&node("n1"));
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n1")).unwrap().fail(&instance("web-0"), now);
    fleet.report(&node("n1")).unwrap();
    fleet.settle();
    let ruled_out = of(&fleet, "web-1", "rollout").remove(0);
    assert!(
        ruled_out.contains("version 2 is given to no instance")
            && ruled_out.contains("web-0 did not hold"),
        "{ruled_out}"
    );
    assert_eq!(of(&fleet, "web", "rollout"), [ruled_out]);
}

#[test]
fn what_waits_or_is_stopped_or_bound_says_so() {
    let mut fleet = Fleet::of(1);
    let mut bound = web(1, 1);
    let volume = MountSource::Volume("data".parse().unwrap());
    bound.template.mounts.push(Mount { source: volume, target: "/data".into(), read_only: false });
    bound.placement.constraints = vec!["disk==fast".parse().unwrap()];
    fleet.apply(bound).unwrap();
    let place = of(&fleet, "web-0", "place").remove(0);
    assert!(place.starts_with("is on no node: 0 of 1 nodes fit: n1 lacks disk"), "{place}");
    assert_eq!(of(&fleet, "web-0", "rules"), ["may only be on nodes where disk==fast"]);
    let set_labels = [("disk".to_owned(), "fast".to_owned())].into();
    fleet.update_node("n1", NodeChange { set_labels, ..NodeChange::default() }).unwrap();
    fleet.settle();
    assert_eq!(of(&fleet, "web-0", "volumes"), ["its volumes are on n1, so it stays there"]);
    let stop =
        Command::SetRun { target: Target::Workload(workload("web")), run: RunState::Stopped };
    fleet.command_for("ann", stop).unwrap();
    fleet.settle();
    assert_eq!(of(&fleet, "web-0", "run"), ["is stopped, as somebody asked (ann)"]);
    assert_eq!(of(&fleet, "web-0", "state"), ["stopped"]);
}
