//! An instance with volumes goes to another node, or stays where it was, with all that it has.

use dwell_core::id::VolumeName;
use dwell_core::instance::{Outcome, Phase, RunState, Verdict};
use dwell_core::workload::{Mount, MountSource, WorkloadSpec};

use super::fleet::{Fleet, Host, instance, node, spec};
use crate::model::refusal::NotMoved;
use crate::model::{
    Command, MoveHow, NodeChange, Refusal, Reply, VolumeJob, VolumeMoveNews, VolumeMovePhase,
    VolumeState,
};

fn data() -> VolumeName {
    VolumeName::new("data").unwrap()
}

fn database() -> WorkloadSpec {
    let mut spec = spec("db", 1);
    spec.template.mounts.push(Mount {
        source: MountSource::Volume(data()),
        target: "/data".into(),
        read_only: false,
    });
    spec
}

/// Two nodes, `db-0` with its volume on the first.
fn two() -> Fleet {
    let mut fleet = Fleet::of(2);
    let mut spec = database();
    spec.placement.constraints = vec!["node.name==n1".parse().unwrap()];
    fleet.apply(spec).unwrap();
    fleet.settle();
    fleet.apply(database()).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("db-0").as_deref(), Some("n1"));
    fleet
}

fn order(fleet: &mut Fleet, how: MoveHow) -> Result<Reply, Refusal> {
    let instances = vec![instance("db-0")];
    fleet.command(Command::MoveInstances {
        instances,
        to: None,
        new_address: false,
        how,
        dry_run: false,
    })
}

fn begun() -> Fleet {
    let mut fleet = two();
    order(&mut fleet, MoveHow::WithVolumes).unwrap();
    fleet.settle();
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Copying));
    fleet
}

fn phase(fleet: &Fleet) -> Option<VolumeMovePhase> {
    let view = fleet.model.instance(&instance("db-0"))?;
    view.instance.volume_move.as_deref().map(|moving| moving.phase)
}

fn states(fleet: &Fleet) -> Vec<(String, VolumeState)> {
    let views = fleet.model.volumes(Some(&instance("db-0")), None);
    views.iter().map(|view| (view.volume.key.node.to_string(), view.volume.state)).collect()
}

fn is_one_kept(fleet: &Fleet, at: &str) -> bool {
    states(fleet) == [(at.to_owned(), VolumeState::Kept)]
}

fn job(fleet: &Fleet) -> VolumeJob {
    let [job] = &fleet.model.volume_moves()[..] else {
        panic!("{:?} {:?}", phase(fleet), fleet.model.volume_moves())
    };
    job.clone()
}

fn tell(fleet: &mut Fleet, job: &VolumeJob, news: VolumeMoveNews) {
    let (instance, of_move) = (job.instance.clone(), job.of_move);
    fleet.command(Command::NoteVolumeMove { instance, of_move, news }).unwrap();
}

/// The bytes are copied.
fn copied(fleet: &mut Fleet) -> VolumeJob {
    let job = job(fleet);
    assert!(!job.is_final);
    assert_eq!(job.volumes, [(data(), None)]);
    fleet.hosts.get_mut(&job.to).unwrap().copies.insert((job.instance.clone(), data()));
    tell(fleet, &job, VolumeMoveNews::Copied);
    job
}

/// It is stopped, and what has changed is to be copied.
fn settling() -> Fleet {
    let mut fleet = begun();
    copied(&mut fleet);
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Stopping));
    assert_eq!(fleet.model.volume_moves(), []);
    fleet.settle();
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Settling));
    assert!(fleet.assigned_to("n1").is_empty() && fleet.assigned_to("n2").is_empty());
    assert!(!fleet.message("db-0").contains("take it up"), "{}", fleet.message("db-0"));
    fleet
}

/// The copy becomes the volume.
fn adopt(fleet: &mut Fleet) {
    let job = job(fleet);
    assert!(job.is_final);
    let host = fleet.hosts.get_mut(&job.to).unwrap();
    host.copies.clear();
    host.volumes.insert((job.instance.clone(), data()));
    // Its node may say so first.
    fleet.report(&node("n2")).unwrap();
    tell(fleet, &job, VolumeMoveNews::Adopted);
}

fn trying() -> Fleet {
    let mut fleet = settling();
    adopt(&mut fleet);
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Trying));
    assert_eq!(fleet.place("db-0").as_deref(), Some("n2"));
    fleet
}

fn restart(fleet: &mut Fleet) {
    fleet.restart_controller();
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
}

/// It is where it was with what it had, and nothing is left where it was to go.
fn assert_is_back(mut fleet: Fleet) {
    fleet.settle();
    assert_eq!(phase(&fleet), None);
    assert_eq!(fleet.place("db-0").as_deref(), Some("n1"));
    assert!(is_one_kept(&fleet, "n1"), "{:?}", states(&fleet));
    let [of_it] = &fleet.assigned_to("n1")[..] else { panic!("it runs there") };
    assert_eq!(of_it.instance, instance("db-0"));
    for (name, host) in &fleet.hosts {
        let has = host.volumes.len() + host.copies.len();
        assert_eq!(has, usize::from(name.as_str() == "n1"), "{name}");
    }
}

#[test]
fn it_moves_with_its_volumes_when_told_so() {
    let mut fleet = two();
    let refused = order(&mut fleet, MoveHow::WithoutVolumes).unwrap_err();
    assert!(refused.to_string().contains("dwell move db-0 --volumes"), "{refused}");
    let mut fleet = trying();
    // What it had is kept until it holds.
    let kept = [("n1".to_owned(), VolumeState::Stale), ("n2".to_owned(), VolumeState::Kept)];
    assert_eq!(states(&fleet), kept);
    let removal = Command::RemoveVolume {
        instance: instance("db-0"),
        volume: data(),
        node: Some(node("n1")),
    };
    assert!(matches!(fleet.command(removal), Err(Refusal::VolumeInUse(_))));
    fleet.settle();
    assert_eq!(phase(&fleet), None);
    assert_eq!(fleet.place("db-0").as_deref(), Some("n2"));
    assert!(is_one_kept(&fleet, "n2"), "{:?}", states(&fleet));
    assert!(fleet.hosts[&node("n1")].volumes.is_empty());
    // And back again.
    order(&mut fleet, MoveHow::WithVolumes).unwrap();
    assert_eq!(job(&fleet).to, node("n1"));
}

#[test]
fn it_stays_or_comes_back_when_the_move_is_called_off() {
    let mut stopping = begun();
    copied(&mut stopping);
    for mut fleet in [begun(), stopping, settling()] {
        order(&mut fleet, MoveHow::Abort).unwrap();
        assert_is_back(fleet);
    }
    let mut fleet = trying();
    let refused = order(&mut fleet, MoveHow::Abort).unwrap_err();
    assert!(matches!(refused, Refusal::NotMoved(NotMoved::ChangedOver { .. })), "{refused}");
    let refused = order(&mut two(), MoveHow::Abort).unwrap_err();
    assert!(matches!(refused, Refusal::NotMoved(NotMoved::NotMoving(_))), "{refused}");
}

#[test]
fn it_stays_or_comes_back_when_the_copy_fails() {
    for mut fleet in [begun(), settling()] {
        let job = job(&fleet);
        tell(&mut fleet, &job, VolumeMoveNews::Failed("no room".into()));
        assert!(fleet.model.explain("db-0").unwrap().history.iter().any(|event| {
            event.reason == "volume-move-ended" && event.message.contains("no room")
        }));
        assert_is_back(fleet);
    }
}

#[test]
fn it_comes_back_when_nothing_is_copied_any_more() {
    for mut fleet in [begun(), settling()] {
        let job = job(&fleet);
        for round in 1..5 {
            fleet.pass(200);
            for name in ["n1", "n2"] {
                fleet.attach(&node(name)).unwrap();
            }
            tell(&mut fleet, &job, VolumeMoveNews::Progress { bytes: 1 << 30, sent: round << 20 });
        }
        assert!(phase(&fleet).is_some());
        tell(&mut fleet, &job, VolumeMoveNews::Interrupted("n2 is on fire".into()));
        assert!(fleet.message("db-0").contains("4 of 1024 MiB"), "{}", fleet.message("db-0"));
        assert!(fleet.message("db-0").contains("on fire"), "{}", fleet.message("db-0"));
        fleet.pass(310);
        for name in ["n1", "n2"] {
            fleet.attach(&node(name)).unwrap();
        }
        assert_is_back(fleet);
    }
}

#[test]
fn waiting_for_a_turn_is_no_standstill() {
    let mut fleet = begun();
    let job = job(&fleet);
    for _ in 0..5 {
        fleet.pass(200);
        for name in ["n1", "n2"] {
            fleet.attach(&node(name)).unwrap();
        }
        tell(&mut fleet, &job, VolumeMoveNews::Waits);
    }
    fleet.settle();
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Copying));
    assert!(fleet.message("db-0").contains("waits for its turn"), "{}", fleet.message("db-0"));
}

#[test]
fn it_comes_back_with_what_it_had_when_it_does_not_hold() {
    let mut fleet = trying();
    fleet.fetch(&node("n2"));
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n2")).unwrap().ail(&instance("db-0"), now);
    fleet.report(&node("n2")).unwrap();
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Returning));
    assert!(fleet.assigned_to("n1").is_empty() && fleet.assigned_to("n2").is_empty());
    fleet.settle();
    assert_eq!(phase(&fleet), None);
    assert_eq!(fleet.place("db-0").as_deref(), Some("n1"));
    // It may have written to the other one, which is for an operator to delete.
    let kept = [("n1".to_owned(), VolumeState::Kept), ("n2".to_owned(), VolumeState::Stale)];
    assert_eq!(states(&fleet), kept);
    let refused = order(&mut fleet, MoveHow::WithVolumes).unwrap_err();
    assert!(refused.to_string().contains("dwell volume rm db-0 data --node n2"), "{refused}");
    let (instance, volume) = (instance("db-0"), data());
    let removal = Command::RemoveVolume { instance, volume, node: Some(node("n2")) };
    fleet.command(removal).unwrap();
    assert_is_back(fleet);
}

/// Its node speaks before it has heard that the instance is to run again.
#[test]
fn one_that_was_stopped_before_it_held_keeps_what_it_had_until_it_holds() {
    let mut fleet = trying();
    let set = |fleet: &mut Fleet, run| {
        let target = crate::model::Target::Instance(instance("db-0"));
        fleet.command(Command::SetRun { target, run }).unwrap();
    };
    set(&mut fleet, RunState::Stopped);
    fleet.settle();
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Trying));
    let generation = fleet.model.instance(&instance("db-0")).unwrap().instance.generation;
    let host = fleet.hosts.get_mut(&node("n2")).unwrap();
    let status = host.containers.get_mut(&instance("db-0")).unwrap();
    (status.generation, status.phase) = (generation, Phase::Stopped);
    status.verdict = Some(Verdict { generation, outcome: Outcome::Open });
    set(&mut fleet, RunState::Running);
    fleet.report(&node("n2")).unwrap();
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Trying));
    fleet.settle();
    assert!(is_one_kept(&fleet, "n2"), "{:?}", states(&fleet));
}

#[test]
fn a_controller_that_starts_again_goes_on() {
    let mut stopping = begun();
    copied(&mut stopping);
    for mut fleet in [begun(), stopping, settling()] {
        restart(&mut fleet);
        fleet.settle();
        if phase(&fleet) == Some(VolumeMovePhase::Copying) {
            copied(&mut fleet);
            restart(&mut fleet);
            fleet.settle();
        }
        adopt(&mut fleet);
        restart(&mut fleet);
        fleet.settle();
        assert_eq!(phase(&fleet), None);
        assert!(is_one_kept(&fleet, "n2"), "{:?}", states(&fleet));
    }
}

/// What was for an earlier part of it, or for another move, counts for nothing.
#[test]
fn late_news_count_for_nothing() {
    let mut fleet = begun();
    let first = job(&fleet);
    tell(&mut fleet, &first, VolumeMoveNews::Adopted);
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Copying));
    order(&mut fleet, MoveHow::Abort).unwrap();
    fleet.settle();
    order(&mut fleet, MoveHow::WithVolumes).unwrap();
    tell(&mut fleet, &first, VolumeMoveNews::Copied);
    tell(&mut fleet, &first, VolumeMoveNews::Failed("late".into()));
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Copying));
}

#[test]
fn it_comes_back_when_the_other_node_is_removed() {
    for mut fleet in [begun(), settling(), trying()] {
        fleet.hosts.get_mut(&node("n2")).unwrap().session = None;
        for _ in 0..40 {
            fleet.pass(10);
            fleet.report(&node("n1")).unwrap();
        }
        for _ in 0..2 {
            drop(fleet.command(Command::RemoveNode { node: node("n2"), force: true }));
        }
        fleet.settle();
        assert_eq!(phase(&fleet), None);
        assert_eq!(fleet.place("db-0").as_deref(), Some("n1"));
        assert!(is_one_kept(&fleet, "n1"), "{:?}", states(&fleet));
    }
}

/// Nobody has looked at the move while there was no such node.
#[test]
fn it_comes_back_when_the_other_node_is_another_host_by_now() {
    let mut fleet = settling();
    let job = job(&fleet);
    fleet.pass(1_000);
    fleet.command(Command::RemoveNode { node: node("n2"), force: true }).unwrap();
    fleet.join("n2").unwrap();
    tell(&mut fleet, &job, VolumeMoveNews::Adopted);
    assert_eq!(phase(&fleet), None);
    fleet.hosts.insert(node("n2"), Host::default());
    fleet.attach(&node("n2")).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("db-0").as_deref(), Some("n1"));
    assert!(is_one_kept(&fleet, "n1"), "{:?}", states(&fleet));
}

#[test]
fn it_waits_for_its_data_when_the_node_that_has_it_is_lost() {
    for mut fleet in [begun(), settling()] {
        fleet.hosts.get_mut(&node("n1")).unwrap().session = None;
        for _ in 0..40 {
            fleet.pass(10);
            fleet.report(&node("n2")).unwrap();
        }
        fleet.command(Command::RemoveNode { node: node("n1"), force: true }).unwrap();
        fleet.settle();
        assert_eq!(phase(&fleet), None);
        assert_eq!(fleet.place("db-0"), None);
        assert_eq!(states(&fleet), [("n1".to_owned(), VolumeState::Lost)]);
        assert!(fleet.hosts[&node("n2")].copies.is_empty());
    }
}

#[test]
fn what_is_removed_meanwhile_leaves_no_copy() {
    for (mut fleet, is_nowhere) in [(begun(), false), (settling(), true)] {
        fleet.command(Command::Scale { workload: "db".parse().unwrap(), replicas: 0 }).unwrap();
        // Its node has said already that nothing of it is there, and need not say so again.
        assert_eq!(fleet.model.instance(&instance("db-0")).is_none(), is_nowhere);
        fleet.settle();
        assert!(fleet.model.instance(&instance("db-0")).is_none());
        assert!(is_one_kept(&fleet, "n1"), "{:?}", states(&fleet));
        assert!(fleet.hosts[&node("n2")].copies.is_empty());
    }
}

/// A copy of which no controller knows is nothing that anybody needs.
#[test]
fn a_forgotten_copy_is_deleted() {
    let mut fleet = two();
    fleet.hosts.get_mut(&node("n2")).unwrap().copies.insert((instance("db-0"), data()));
    fleet.settle();
    assert!(fleet.hosts[&node("n2")].copies.is_empty());
    assert!(is_one_kept(&fleet, "n1"), "{:?}", states(&fleet));
}

/// A backup from the middle of a move says nothing of how it has ended.
#[test]
fn a_restored_controller_deletes_no_copy_and_mounts_none() {
    let mut fleet = two();
    fleet.begin(1, None);
    fleet.settle();
    order(&mut fleet, MoveHow::WithVolumes).unwrap();
    fleet.settle();
    copied(&mut fleet);
    fleet.settle();
    let backup = fleet.backup();
    adopt(&mut fleet);
    fleet.settle();
    assert!(is_one_kept(&fleet, "n2"), "{:?}", states(&fleet));
    fleet.restore(backup);
    fleet.begin(2, Some("the disk was exchanged".into()));
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.settle();
    fleet.command(Command::ConfirmRestore { force: true }).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("db-0").as_deref(), Some("n2"));
    assert!(fleet.hosts[&node("n2")].volumes.contains(&(instance("db-0"), data())));
}

#[test]
fn it_is_refused_what_would_not_work() {
    let mut fleet = Fleet::of(2);
    fleet.hosts.get_mut(&node("n2")).unwrap().moves_no_volumes = true;
    fleet.attach(&node("n2")).unwrap();
    let mut spec = database();
    spec.placement.constraints = vec!["node.name==n1".parse().unwrap()];
    fleet.apply(spec).unwrap();
    fleet.settle();
    let nowhere = order(&mut fleet, MoveHow::WithVolumes).unwrap_err();
    assert!(matches!(nowhere, Refusal::NotMoved(NotMoved::Nowhere { .. })), "{nowhere}");
    fleet.apply(database()).unwrap();
    let old = order(&mut fleet, MoveHow::WithVolumes).unwrap_err();
    assert!(old.to_string().contains("upgrade it"), "{old}");

    let mut fleet = begun();
    let refused = order(&mut fleet, MoveHow::WithoutVolumes).unwrap_err();
    assert!(matches!(refused, Refusal::NotMoved(NotMoved::OnItsWay { .. })), "{refused}");
    // Where it was to go is closed before it is stopped.
    let cordon = NodeChange { cordoned: Some(true), ..NodeChange::default() };
    fleet.update_node("n2", cordon).unwrap();
    copied(&mut fleet);
    assert_is_back(fleet);
}

/// What runs to completion may have done its work before it comes to where its volumes are.
#[test]
fn what_has_ended_amid_it_stays_with_what_it_had() {
    let mut fleet = Fleet::of(2);
    let mut spec = database();
    spec.job = Some(dwell_core::job::Job::default());
    spec.template.restart = dwell_core::workload::RestartPolicy::of_attempts(2);
    fleet.apply(spec).unwrap();
    fleet.settle();
    let from = fleet.place("db-0").unwrap();
    order(&mut fleet, MoveHow::WithVolumes).unwrap();
    copied(&mut fleet);
    // It ends while it is stopped for the rest to be copied.
    let now = fleet.now;
    fleet.hosts.get_mut(&node(&from)).unwrap().finish(&instance("db-0"), 0, now);
    fleet.report(&node(&from)).unwrap();
    fleet.settle();
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Settling));
    adopt(&mut fleet);
    assert_eq!(fleet.place("db-0"), None);
    fleet.pass(1);
    fleet.settle();
    assert_eq!(phase(&fleet), None);
    assert!(is_one_kept(&fleet, &from), "{:?}", states(&fleet));
    fleet.check();
}

/// The volume that it has moved with is lost before it has held: what it left is its data.
#[test]
fn what_it_left_is_its_data_when_the_other_is_given_up() {
    let mut fleet = settling();
    adopt(&mut fleet);
    fleet.report(&node("n2")).unwrap();
    assert_eq!(phase(&fleet), Some(VolumeMovePhase::Trying));
    let host = fleet.hosts.get_mut(&node("n2")).unwrap();
    host.containers.clear();
    host.volumes.clear();
    let gone = host.look();
    fleet.deliver(&node("n2"), gone).unwrap();
    let both = [("n1".to_owned(), VolumeState::Stale), ("n2".to_owned(), VolumeState::Lost)];
    assert_eq!(states(&fleet), both);
    let removal = Command::RemoveVolume {
        instance: instance("db-0"),
        volume: data(),
        node: Some(node("n2")),
    };
    fleet.command(removal).unwrap();
    fleet.settle();
    assert_eq!(phase(&fleet), None);
    assert_eq!(fleet.place("db-0").as_deref(), Some("n1"));
    assert!(is_one_kept(&fleet, "n1"), "{:?}", states(&fleet));
    fleet.check();

    // What its node does not have is not copied either.
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    host.containers.clear();
    host.volumes.clear();
    fleet.settle();
    let refused = order(&mut fleet, MoveHow::WithVolumes).unwrap_err();
    assert!(matches!(refused, Refusal::NotMoved(NotMoved::NotSeen { .. })), "{refused}");
}
