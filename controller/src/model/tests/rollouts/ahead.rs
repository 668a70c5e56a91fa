//! Images that nodes have before anything is stopped for them.

use dwell_core::instance::{AheadState, RunState};
use dwell_core::workload::OnFailure;

use super::{image, versions};
use crate::model::tests::fleet::{Fleet, instance, node, workload};
use crate::model::versions::Version;
use crate::model::{Command, Target, VersionState};

/// Three instances on three nodes that fetch ahead and hold with the first version, and are to get the second one.
fn fleet() -> Fleet {
    let mut fleet = Fleet::of(3);
    for name in ["n1", "n2", "n3"] {
        fleet.hosts.get_mut(&node(name)).unwrap().ahead = Some(AheadState::Fetching(String::new()));
        fleet.attach(&node(name)).unwrap();
    }
    fleet.apply(image(1, 3)).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "1", "1"], "what does not run yet waits for nobody");
    fleet.apply(image(2, 3)).unwrap();
    fleet
}

/// A node takes up what it is told, and says how far it is with the image.
fn says(fleet: &mut Fleet, name: &str, state: AheadState) {
    fleet.hosts.get_mut(&node(name)).unwrap().ahead = Some(state);
    fleet.sync(&node(name));
}

fn message(fleet: &Fleet) -> String {
    fleet.model.workload(&workload("web")).unwrap().message
}

#[test]
fn nothing_is_stopped_before_all_nodes_have_the_image() {
    let mut fleet = fleet();
    assert_eq!(versions(&fleet), ["1", "1", "1"]);
    let told = fleet.assigned_to("n2").remove(0);
    assert_eq!(told.image_ahead.as_deref(), Some("image:2"));
    says(&mut fleet, "n1", AheadState::Here);
    says(&mut fleet, "n2", AheadState::Fetching("3 of 12 MiB".into()));
    says(&mut fleet, "n3", AheadState::Here);
    let waits = "waits for n2 to fetch image:2 (3 of 12 MiB); nothing is stopped before";
    assert_eq!(message(&fleet), waits);
    let found = fleet.model.status_of_workloads(None).0.found;
    assert!(found[0].message.ends_with(waits), "{found:?}");
    let why = fleet.model.explain("web-1").unwrap().facts;
    assert!(why.iter().any(|fact| fact.text.contains(waits)), "{why:?}");

    // Restarts go on meanwhile, and a new controller hears the same again.
    fleet.command(Command::Restart(Target::Instance(instance("web-0")))).unwrap();
    fleet.restart_controller();
    for name in ["n1", "n2", "n3"] {
        fleet.attach(&node(name)).unwrap();
        fleet.sync(&node(name));
    }
    assert_eq!(versions(&fleet), ["1", "1", "1"]);
    says(&mut fleet, "n2", AheadState::Here);
    assert_eq!(versions(&fleet), ["2", "1", "1"], "then one after the other");
    // That is over for good, whatever nodes say later.
    says(&mut fleet, "n3", AheadState::Fetching(String::new()));
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2"]);
    assert_eq!(fleet.assigned_to("n2").remove(0).image_ahead, None);
}

#[test]
fn a_node_that_cannot_get_it_stops_the_rollout_before_anything_is_stopped() {
    let mut fleet = fleet();
    says(&mut fleet, "n1", AheadState::Here);
    says(&mut fleet, "n3", AheadState::Failed("no such image".into()));
    assert_eq!(versions(&fleet), ["1", "1", "1"]);
    assert_eq!(
        message(&fleet),
        "rollout paused: version 2 is ruled out, n3 cannot fetch image:2: no such image; nothing was stopped. Mend \
         that and apply it again, or go back with `dwell rollback web`"
    );
    let newest = fleet.model.versions(&workload("web")).unwrap().remove(0);
    assert!(matches!(newest.version.state, VersionState::RuledOut { .. }));
    // The same again, and all have it.
    for name in ["n1", "n2", "n3"] {
        fleet.hosts.get_mut(&node(name)).unwrap().ahead = Some(AheadState::Here);
    }
    fleet.apply(image(2, 3)).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2"]);
}

#[test]
fn what_goes_back_by_itself_does_so_when_nothing_was_stopped_too() {
    let mut fleet = fleet();
    let mut next = image(3, 3);
    next.update.on_failure = OnFailure::Rollback;
    fleet.apply(next).unwrap();
    says(&mut fleet, "n3", AheadState::Failed("no such image".into()));
    fleet.settle();
    let newest = fleet.model.versions(&workload("web")).unwrap().remove(0);
    assert_eq!(newest.version.form.template.image, "image:1");
    assert_eq!(fleet.model.workload(&workload("web")).unwrap().workload.paused, None);
    assert_eq!(newest.version.state, VersionState::Good);
}

/// That the version changes for another reason is no reason to doubt what a node says of it.
#[test]
fn a_node_that_knows_the_version_is_believed_whatever_else_is_noted_of_it() {
    let mut fleet = fleet();
    says(&mut fleet, "n3", AheadState::Fetching(String::new()));
    let newest = fleet.model.newest(&workload("web")).unwrap();
    fleet.model.put_version(Version { failures: 1, ..Version::clone(&newest) });
    let changes = std::mem::take(&mut fleet.model.changes);
    fleet.commit(changes);
    let failed = AheadState::Failed("no such image".into());
    fleet.hosts.get_mut(&node("n3")).unwrap().ahead = Some(failed);
    fleet.report(&node("n3")).unwrap();
    assert!(message(&fleet).contains("n3 cannot fetch image:2"), "{}", message(&fleet));
}

#[test]
fn what_does_not_run_and_who_does_not_know_of_it_is_not_waited_for() {
    let mut fleet = fleet();
    let run = RunState::Stopped;
    fleet.command(Command::SetRun { target: Target::Instance(instance("web-1")), run }).unwrap();
    fleet.hosts.get_mut(&node("n3")).unwrap().ahead = None;
    fleet.attach(&node("n3")).unwrap();
    assert_eq!(fleet.assigned_to("n2").remove(0).image_ahead, None);
    says(&mut fleet, "n1", AheadState::Here);
    assert_eq!(versions(&fleet)[0], "2");
}

#[test]
fn what_is_made_from_the_same_image_waits_for_nobody() {
    let mut fleet = fleet();
    let mut same = image(1, 3);
    same.template.command = vec!["serve".into()];
    fleet.apply(same).unwrap();
    let instances = fleet.model.tables.instances().values();
    let given: Vec<bool> = instances.map(|one| !one.wanted.template.command.is_empty()).collect();
    assert_eq!(given, [true, false, false]);
}
