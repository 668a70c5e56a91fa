//! Versions that a few instances try out first.

use dwell_core::id::VersionNumber;
use dwell_core::instance::RunState;
use dwell_core::quantity::Millicores;
use dwell_core::workload::{OnFailure, Portion, WorkloadSpec};

use super::{image, versions};
use crate::model::tests::fleet::{Fleet, instance, node, workload};
use crate::model::{Command, FindingKind, NodeChange, Refusal, Target, VersionState};

fn tried_by(canary: Portion, version: u32, replicas: u32) -> WorkloadSpec {
    let mut spec = image(version, replicas);
    spec.update.canary = canary;
    spec
}

/// Three instances that hold with the first version, of which one is to try new ones out.
fn fleet() -> Fleet {
    let mut fleet = Fleet::of(3);
    fleet.apply(tried_by(Portion::Count(1), 1, 3)).unwrap();
    fleet.settle();
    assert_eq!(
        versions(&fleet),
        ["1", "1", "1"],
        "with nothing to go back to, nothing is tried out"
    );
    fleet
}

fn web() -> Command {
    Command::Promote(workload("web"))
}

fn message(fleet: &Fleet) -> String {
    fleet.model.workload(&workload("web")).unwrap().message
}

#[test]
fn the_others_wait_until_somebody_promotes_it() {
    let mut fleet = fleet();
    let plan = fleet.apply(tried_by(Portion::Count(1), 2, 3)).unwrap();
    let note = "1 instance tries it first; `dwell promote web` gives it to the others, `dwell abort web` takes it back";
    assert_eq!(plan.notes, [note]);
    let early = fleet.command(web()).unwrap_err();
    assert_eq!(early, Refusal::NoCanary(workload("web")), "its turn is not over");
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "1", "1"]);
    assert!(
        message(&fleet).contains("`dwell promote` gives it to the others"),
        "{}",
        message(&fleet)
    );
    let view = fleet.model.workload(&workload("web")).unwrap();
    assert_eq!(view.canaries_hold, Some(true));
    let found = fleet.model.status_of_workloads(None).0.found;
    assert_eq!(found[0].kind, FindingKind::RolloutPaused);
    assert_eq!(found[0].next, "dwell promote web");
    // What moves or is made meanwhile is what held before.
    fleet.drain("n2");
    fleet.command(Command::Scale { workload: workload("web"), replicas: 4 }).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "1", "1", "1"]);
    fleet.restart_controller();
    for name in ["n1", "n2", "n3"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "1", "1", "1"]);
    fleet.command(web()).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2", "2"]);
    let newest = fleet.model.versions(&workload("web")).unwrap().remove(0);
    assert_eq!(newest.version.state, VersionState::Good);
    assert_eq!(fleet.command(web()).unwrap_err(), Refusal::NoCanary(workload("web")));
}

#[test]
fn it_is_not_promoted_before_all_that_try_it_hold() {
    let mut fleet = fleet();
    let mut two = tried_by(Portion::Percent(67), 2, 3);
    two.update.parallelism = Portion::Count(3);
    fleet.apply(two).unwrap();
    assert_eq!(versions(&fleet), ["2", "2", "1"], "two thirds at once, and no third one");
    let view = fleet.model.workload(&workload("web")).unwrap();
    assert_eq!(view.canaries_hold, Some(false));
    let refused = fleet.command(web()).unwrap_err();
    assert_eq!(refused, Refusal::CanaryUndecided(instance("web-0")));
    fleet.sync(&node("n1"));
    let refused = fleet.command(web()).unwrap_err();
    assert_eq!(refused, Refusal::CanaryUndecided(instance("web-1")));
    fleet.settle();
    // `resume` goes on with what is paused, whatever paused it.
    fleet.command(Command::Resume(workload("web"))).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2"]);
}

#[test]
fn what_does_not_hold_goes_back_and_is_given_to_nobody() {
    for on_failure in [OnFailure::Pause, OnFailure::Rollback] {
        let mut fleet = fleet();
        let mut bad = tried_by(Portion::Count(1), 2, 3);
        bad.update.on_failure = on_failure;
        fleet.apply(bad).unwrap();
        fleet.fetch(&node("n1"));
        let now = fleet.now;
        fleet.hosts.get_mut(&node("n1")).unwrap().fail(&instance("web-0"), now);
        fleet.report(&node("n1")).unwrap();
        fleet.settle();
        assert_eq!(versions(&fleet), ["1", "1", "1"]);
        assert_eq!(fleet.command(web()).unwrap_err(), Refusal::NoCanary(workload("web")));
    }
}

#[test]
fn an_abort_goes_back_to_what_is_good_without_trying_that_out() {
    let mut fleet = fleet();
    let abort = || Command::Abort { workload: workload("web"), by: "ann".into() };
    assert_eq!(fleet.command(abort()).unwrap_err(), Refusal::NothingToAbort(workload("web")));
    fleet.apply(tried_by(Portion::Count(1), 2, 3)).unwrap();
    fleet.settle();
    fleet.command(abort()).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "1", "1"]);
    let newest = fleet.model.versions(&workload("web")).unwrap().remove(0).version;
    assert_eq!((newest.form.number, &newest.state), (VersionNumber(3), &VersionState::Good));
    assert_eq!(fleet.command(abort()).unwrap_err(), Refusal::NothingToAbort(workload("web")));
    // The next one is tried out again.
    fleet.apply(tried_by(Portion::Count(1), 4, 3)).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["4", "1", "1"]);
    // Amid the turn of a canary as well.
    fleet.apply(tried_by(Portion::Count(1), 5, 3)).unwrap();
    assert_eq!(versions(&fleet), ["5", "1", "1"]);
    fleet.command(abort()).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "1", "1"]);
}

#[test]
fn how_many_try_it_can_be_changed_on_the_way() {
    let mut fleet = fleet();
    fleet.apply(tried_by(Portion::Count(1), 2, 3)).unwrap();
    fleet.settle();
    fleet.apply(tried_by(Portion::Count(2), 2, 3)).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "1"]);
    fleet.apply(tried_by(Portion::Count(1), 2, 3)).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "1"], "nothing is taken back by that");
    fleet.apply(image(2, 3)).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2"], "nobody wants it tried out any more");
}

#[test]
fn what_outgrows_its_node_does_not_leave_it_before_it_is_promoted() {
    let mut fleet = Fleet::of(3);
    let open = |fleet: &mut Fleet, is_open: bool| {
        for name in ["n2", "n3"] {
            let change = NodeChange { cordoned: Some(!is_open), ..NodeChange::default() };
            fleet.update_node(name, change).unwrap();
        }
    };
    open(&mut fleet, false);
    let mut small = tried_by(Portion::Count(1), 1, 3);
    small.template.resources.cpu = Millicores(1000);
    fleet.apply(small.clone()).unwrap();
    fleet.settle();
    open(&mut fleet, true);
    let mut large = tried_by(Portion::Count(1), 2, 3);
    large.template.resources.cpu = Millicores(3500);
    fleet.apply(large).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "1", "1"]);
    let places = ["web-0", "web-1", "web-2"].map(|name| fleet.place(name).unwrap());
    assert_eq!(places, ["n2", "n1", "n1"]);
}

#[test]
fn what_is_stopped_is_given_it_in_turns_and_tries_nothing_out() {
    let mut fleet = fleet();
    let stop =
        Command::SetRun { target: Target::Instance(instance("web-0")), run: RunState::Stopped };
    fleet.command(stop).unwrap();
    fleet.settle();
    fleet.apply(tried_by(Portion::Count(1), 2, 3)).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "1"], "web-0 does not run, so web-1 tries it out");
}

#[test]
fn what_was_removed_and_is_declared_again_is_not_tried_out() {
    let mut fleet = fleet();
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    fleet.apply(tried_by(Portion::Count(1), 2, 3)).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2"]);
}

#[test]
fn what_nobody_tries_out_any_more_is_not_promoted() {
    let mut fleet = fleet();
    fleet.apply(tried_by(Portion::Count(1), 2, 3)).unwrap();
    fleet.settle();
    fleet.command(Command::RemoveInstances([instance("web-0")].into())).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["1", "1"]);
    assert_eq!(fleet.command(web()).unwrap_err(), Refusal::NoCanary(workload("web")));
    fleet.command(Command::Abort { workload: workload("web"), by: String::new() }).unwrap();
    fleet.settle();
    fleet.apply(tried_by(Portion::Count(1), 2, 2)).unwrap();
    fleet.settle();
    fleet.command(web()).unwrap();
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2"]);
}
