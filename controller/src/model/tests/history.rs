//! Restores from a backup: noticed, and harmless until somebody confirms them.

use dwell_core::id::{Incarnation, Revision};
use dwell_core::instance::Phase;
use dwell_core::workload::{Mount, MountSource, Template, WorkloadSpec};

use super::fleet::{Fleet, Host, Snapshot, address, at, instance, node, spec, workload};
use crate::model::{Command, NodeChange, Refusal, Severity, Target};

/// A fleet of two nodes in a history of its own, with web-0 on n1.
fn fleet() -> Fleet {
    let mut fleet = Fleet::of(0);
    fleet.begin(7, None);
    for name in ["n1", "n2"] {
        fleet.join(name).unwrap();
        fleet.attach(&node(name)).unwrap();
    }
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n1");
    fleet
}

/// The controller starts with a backup, without anything that says so.
fn restore(fleet: &mut Fleet, backup: Snapshot) {
    fleet.restore(backup);
    fleet.begin(99, None);
    assert!(!fleet.model.is_unconfirmed(), "it cannot know yet");
}

fn attach_all(fleet: &mut Fleet) {
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
        fleet.fetch(&node(name));
    }
    // Who was there before the restore was noticed begins another stream.
    for name in fleet.model.restore_view().missing {
        if fleet.report(&name) == Err(Refusal::SessionSuperseded(name.clone())) {
            fleet.attach(&name).unwrap();
            fleet.fetch(&name);
        }
    }
}

fn confirm(fleet: &mut Fleet, force: bool) -> Result<(), Refusal> {
    fleet.command(Command::ConfirmRestore { force }).map(drop)
}

#[test]
fn a_restart_goes_on_with_the_history_and_counts_a_term() {
    let mut fleet = fleet();
    let (incarnation, term) = (fleet.model.incarnation(), fleet.model.term());
    fleet.restart_controller();
    fleet.begin(99, None);
    attach_all(&mut fleet);
    assert_eq!(fleet.model.incarnation(), incarnation);
    assert_eq!(fleet.model.term(), term.next());
    assert!(!fleet.model.is_unconfirmed());
    fleet.settle();
    assert_eq!(confirm(&mut fleet, true), Err(Refusal::NotRestored));
}

#[test]
fn what_was_made_after_a_backup_is_kept_until_the_restore_is_confirmed() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    fleet.apply(spec("ghost", 2)).unwrap();
    fleet.settle();
    let ghosts = [fleet.address("ghost-0").unwrap(), fleet.address("ghost-1").unwrap()];
    let incarnation = fleet.model.incarnation();

    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    assert!(fleet.model.is_unconfirmed());
    assert_ne!(fleet.model.incarnation(), incarnation);
    let told = fleet.model.events(Some("cluster"), 1).pop().unwrap();
    assert_eq!((told.reason.as_str(), told.severity), ("controller-restored", Severity::Warning));
    for name in ["n1", "n2"] {
        fleet.sync(&node(name));
    }
    let running: Vec<_> = fleet.hosts.values().flat_map(|host| host.containers.keys()).collect();
    assert_eq!(running.len(), 3, "nothing was taken away: {running:?}");
    // Nothing is given out either, to whatever is declared.
    let declare = Command::ApplyWorkloads {
        specs: vec![spec("other", 1)],
        keep_replicas: [].into(),
        dry_run: false,
        force: false,
        planned: Vec::new(),
        by: String::new(),
    };
    assert_eq!(fleet.command(declare).unwrap_err(), Refusal::RestoreUnconfirmed);
    assert_eq!(fleet.join("n3").unwrap_err(), Refusal::RestoreUnconfirmed);
    let unknown = fleet.model.restore_view().unknown;
    assert_eq!(unknown.len(), 2);

    confirm(&mut fleet, false).unwrap();
    fleet.apply(spec("other", 4)).unwrap();
    fleet.settle();
    fleet.check();
    for ordinal in 0..4 {
        let given = fleet.address(&format!("other-{ordinal}")).unwrap();
        assert!(!ghosts.contains(&given), "{given} was ghost's a moment ago");
    }
    let names: Vec<_> = fleet.hosts[&node("n1")].directory.instances.keys().collect();
    assert!(!names.contains(&&instance("ghost-0")), "the directory of another life is replaced");
}

#[test]
fn of_two_claims_after_a_restore_the_higher_generation_is_right() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    fleet.drain("n1");
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");

    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    assert_eq!(fleet.place("web-0").unwrap(), "n2", "it is adopted where it was moved to");
    let adopted = fleet.model.instance(&instance("web-0")).unwrap();
    assert!(adopted.instance.generation > at(1));
    let told = fleet.model.events(Some("instance/web-0"), 10);
    assert!(told.iter().any(|event| event.reason == "instance-adopted"), "{told:?}");
    confirm(&mut fleet, false).unwrap();
    fleet.settle();
    fleet.check();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
}

#[test]
fn what_a_node_has_of_a_later_generation_is_counted_on_from() {
    let mut fleet = fleet();
    let (n1, web) = (node("n1"), instance("web-0"));
    // It was made for an assignment that never reached the node's disk, and that the backup does not know of either.
    let host = fleet.hosts.get_mut(&n1).unwrap();
    host.containers.get_mut(&web).unwrap().generation = at(5);
    let seen = host.look();
    fleet.deliver(&n1, seen.clone()).unwrap();
    let desired = |fleet: &Fleet| fleet.assigned_to("n1")[0].generation;
    assert_eq!(desired(&fleet), at(6));
    fleet.deliver(&n1, seen).unwrap();
    assert_eq!(desired(&fleet), at(6), "once");
    let host = fleet.hosts.get_mut(&n1).unwrap();
    host.containers.get_mut(&web).unwrap().generation = at(u64::MAX);
    let nonsense = host.look();
    fleet.deliver(&n1, nonsense).unwrap();
    assert_eq!(desired(&fleet), at(6), "nobody gave out so many");
    let template = Template::of_image("image:2");
    fleet.apply(WorkloadSpec { template, ..spec("web", 1) }).unwrap();
    fleet.settle();
    assert_eq!(desired(&fleet), at(7));
    fleet.check();
}

#[test]
fn a_restore_is_confirmed_only_when_all_nodes_have_spoken_or_by_force() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    fleet.apply(spec("ghost", 2)).unwrap();
    fleet.settle();
    restore(&mut fleet, backup);
    fleet.attach(&node("n1")).unwrap();
    let missing = Refusal::NodesNotHeard { count: 1, example: node("n2") };
    assert_eq!(confirm(&mut fleet, false), Err(missing));
    confirm(&mut fleet, true).unwrap();
    assert!(!fleet.model.is_unconfirmed());
}

#[test]
fn nothing_is_vacated_while_a_restore_is_unconfirmed() {
    let mut fleet = fleet();
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    let backup = fleet.backup();
    fleet.apply(spec("ghost", 1)).unwrap();
    fleet.settle();
    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    for name in ["n1", "n2"] {
        fleet.sync(&node(name));
    }
    assert!(fleet.model.instance(&instance("web-0")).is_some());
    confirm(&mut fleet, false).unwrap();
    fleet.settle();
    assert!(fleet.model.instance(&instance("web-0")).is_none());
}

#[test]
fn a_mark_beside_the_store_is_enough() {
    let mut fleet = fleet();
    fleet.restart_controller();
    fleet.begin(99, Some("the store is older than the mark beside it".into()));
    assert!(fleet.model.is_unconfirmed());
    assert_eq!(fleet.model.incarnation(), Incarnation(99));
    let asked = fleet.model.assignment_change(&node("n1"), None).unwrap();
    assert_eq!(asked.position().incarnation, Incarnation(99));
    assert!(fleet.model.assignment_change(&node("n1"), Some(asked.position().revision)).is_none());
}

#[test]
fn revisions_that_a_node_gets_only_grow_over_a_restore() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    for index in 0..20 {
        fleet.apply(spec(&format!("w{index}"), 0)).unwrap();
    }
    fleet.settle();
    let before = fleet.hosts[&node("n1")].revision();
    assert!(before > Revision(0));
    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    assert!(fleet.hosts[&node("n1")].revision() > before);
    assert_eq!(address("10.80.0.1").octets()[0], 10);
}

/// The backup is of the start before; the restored controller counts its start as the one that nodes have heard of.
#[test]
fn a_restored_controller_at_the_same_term_is_found_out_by_the_first_node() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    fleet.restart_controller();
    fleet.begin(98, None);
    attach_all(&mut fleet);
    let term = fleet.model.term();
    restore(&mut fleet, backup);
    assert_eq!(fleet.model.term(), term);
    fleet.attach(&node("n1")).unwrap();
    assert!(fleet.model.is_unconfirmed());
}

#[test]
fn an_instance_that_was_placed_after_the_backup_is_found_where_it_is() {
    let mut fleet = fleet();
    for name in ["n1", "n2"] {
        fleet.update_node(name, cordon(true)).unwrap();
    }
    fleet.apply(spec("late", 1)).unwrap();
    let backup = fleet.backup();
    assert_eq!(fleet.place("late-0"), None);
    fleet.update_node("n2", cordon(false)).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("late-0").unwrap(), "n2");
    let address = fleet.address("late-0");

    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    assert_eq!(fleet.place("late-0").unwrap(), "n2");
    assert_eq!(fleet.address("late-0"), address);
    confirm(&mut fleet, false).unwrap();
    fleet.settle();
    fleet.check();
    assert_eq!(fleet.place("late-0").unwrap(), "n2");
}

#[test]
fn after_a_restore_an_instance_starts_only_when_it_has_ended_where_the_backup_does_not_know_it() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    let before = fleet.address("web-0");
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    fleet.settle();
    fleet.update_node("n1", cordon(true)).unwrap();
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
    assert_ne!(fleet.address("web-0"), before, "another instance of that name");

    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    confirm(&mut fleet, false).unwrap();
    fleet.sync(&node("n1"));
    assert!(fleet.assigned_to("n1").is_empty(), "it runs on n2 still");
    fleet.settle();
    fleet.check();
    assert!(fleet.place("web-0").is_some());
    assert_eq!(fleet.address("web-0"), before);
}

#[test]
fn after_a_restore_a_name_is_free_when_what_only_a_node_knew_by_it_has_ended() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    fleet.update_node("n1", cordon(true)).unwrap();
    fleet.apply(spec("ghost", 1)).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("ghost-0").unwrap(), "n2");

    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    confirm(&mut fleet, false).unwrap();
    fleet.update_node("n2", cordon(true)).unwrap();
    fleet.apply(spec("ghost", 1)).unwrap();
    fleet.sync(&node("n1"));
    assert!(fleet.assigned_to("n1").iter().all(|one| one.instance != instance("ghost-0")));
    fleet.settle();
    fleet.check();
    assert_eq!(fleet.place("ghost-0").unwrap(), "n1");
}

/// The backup knows the volume that was deleted afterwards, and not the one in its place.
#[test]
fn after_a_restore_the_newest_volume_is_that_of_whoever_was_told_to_run_the_instance() {
    let mut fleet = fleet();
    let mut db = spec("db", 1);
    let source = MountSource::Volume("data".parse().unwrap());
    db.template.mounts = vec![Mount { source, target: "/data".into(), read_only: false }];
    fleet.update_node("n2", cordon(true)).unwrap();
    fleet.apply(db.clone()).unwrap();
    fleet.settle();
    let backup = fleet.backup();
    fleet.command(Command::RemoveWorkload(workload("db"))).unwrap();
    fleet.settle();
    let (instance, volume, node_1) = (instance("db-0"), "data".parse().unwrap(), Some(node("n1")));
    fleet.command(Command::RemoveVolume { instance, volume, node: node_1 }).unwrap();
    fleet.settle();
    fleet.update_node("n1", cordon(true)).unwrap();
    fleet.update_node("n2", cordon(false)).unwrap();
    fleet.apply(db.clone()).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("db-0").unwrap(), "n2");

    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    confirm(&mut fleet, false).unwrap();
    fleet.settle();
    fleet.update_node("n2", cordon(false)).unwrap();
    fleet.apply(db).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("db-0").unwrap(), "n2", "where its volume is");
}

fn cordon(cordoned: bool) -> NodeChange {
    NodeChange { cordoned: Some(cordoned), ..NodeChange::default() }
}

/// The backup is of the moment in which the instance was leaving; after it, the node was given a new one of that name.
#[test]
fn what_was_leaving_in_a_backup_is_free_only_when_its_node_has_stored_that_after_the_confirmation()
{
    let mut fleet = fleet();
    let home = fleet.place("web-0").unwrap();
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    let backup = fleet.backup();
    fleet.settle();
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    confirm(&mut fleet, false).unwrap();
    fleet.hosts.get_mut(&node(&home)).unwrap().containers.clear();
    fleet.report(&node(&home)).unwrap();
    let left = fleet.model.tables.instances().get(&instance("web-0"));
    assert!(left.is_some(), "the order to run it is on the disk of {home}");
    fleet.settle();
    assert!(!fleet.model.tables.instances().contains_key(&instance("web-0")));
}

/// Two restores in a row: the order to run it is gone from the node, its container is not.
#[test]
fn what_a_node_has_not_ended_yet_is_started_nowhere_else_after_a_restore() {
    let mut fleet = fleet();
    let home = fleet.place("web-0").unwrap();
    let backup = fleet.backup();
    fleet.drain(&home);
    fleet.settle();
    let other = fleet.place("web-0").unwrap();
    assert_ne!(other, home);
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    // It was told, and has it on disk, but has not ended it.
    fleet.fetch(&node(&other));
    let ghost = fleet.hosts[&node(&other)].containers.clone();
    fleet.settle();
    fleet.hosts.get_mut(&node(&other)).unwrap().containers = ghost;
    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    confirm(&mut fleet, false).unwrap();
    assert!(fleet.assigned_to(&home).is_empty(), "{other} still runs it");
    fleet.settle();
    fleet.check();
    assert!(fleet.place("web-0").is_some());
}

/// The backup is of the time before `web-0` was removed and declared anew, and has its new address with another
/// instance, or with none.
#[test]
fn an_address_that_a_node_still_has_in_use_is_given_to_nobody_after_a_restore() {
    for is_anothers in [false, true] {
        let mut fleet = fleet();
        let first = fleet.address("web-0").unwrap();
        if is_anothers {
            fleet.apply(spec("other", 1)).unwrap();
            fleet.settle();
        }
        let taken = fleet.address("other-0");
        let backup = fleet.backup();
        for name in ["web", "other"] {
            let _none = fleet.command(Command::RemoveWorkload(workload(name)));
            fleet.settle();
        }
        fleet.pass(fleet.model.settings().quarantine.as_duration().as_secs() + 1);
        fleet.drain("n1");
        let mut declared = spec("web", 1);
        declared.addresses = taken.iter().map(|taken| taken.parse().unwrap()).collect();
        fleet.apply(declared).unwrap();
        fleet.settle();
        let second = fleet.address("web-0").unwrap();
        assert_ne!(first, second);
        assert_eq!(fleet.place("web-0").unwrap(), "n2");

        restore(&mut fleet, backup);
        attach_all(&mut fleet);
        confirm(&mut fleet, false).unwrap();
        let kept = fleet.model.tables.quarantine().get(&address(&second)).unwrap();
        assert_eq!(kept.in_use_on, Some(node("n2")));
        fleet.apply(spec("late", 3)).unwrap();
        for host in ["n1", "n2"] {
            let has = fleet.model.assignment(&node(host)).instances.into_values();
            let has: Vec<_> = has.filter(|one| one.address == address(&second)).collect();
            assert!(has.is_empty(), "n2 still runs web-0 at {second}: {has:?}");
        }
        fleet.settle();
        fleet.check();
        assert_eq!(fleet.address("web-0").unwrap(), first, "it has what the backup says");
        assert_eq!(fleet.address("other-0"), taken);
        assert!(
            fleet.model.tables.index().in_use.is_empty(),
            "{:?}",
            fleet.model.tables.index().in_use
        );
        for name in ["late-0", "late-1", "late-2"] {
            assert!(fleet.place(name).is_some());
        }
    }
}

/// The order to run it is gone from the node, its container is not; the container says at which address it is.
#[test]
fn what_a_node_has_not_ended_yet_keeps_its_address_after_a_restore() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    fleet.apply(spec("late", 1)).unwrap();
    fleet.settle();
    let (home, own) = (fleet.place("late-0").unwrap(), fleet.address("late-0").unwrap());
    fleet.command(Command::RemoveWorkload(workload("late"))).unwrap();
    fleet.fetch(&node(&home));
    let ghost = fleet.hosts[&node(&home)].containers.clone();
    fleet.settle();
    fleet.hosts.get_mut(&node(&home)).unwrap().containers = ghost;
    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    confirm(&mut fleet, false).unwrap();
    fleet.apply(spec("other", 4)).unwrap();
    let given = (0..4).filter_map(|ordinal| fleet.address(&format!("other-{ordinal}")));
    let given: Vec<_> = given.collect();
    assert!(!given.contains(&own), "{home} still has late-0 at {own}");
    fleet.settle();
    fleet.check();
    assert_eq!(fleet.place("late-0"), None);
}

#[test]
fn a_restart_that_is_asked_for_after_a_restore_is_done() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    let restart = |target| Command::Restart(target);
    fleet.command(restart(Target::Workload(workload("web")))).unwrap();
    fleet.settle();
    let done = |fleet: &Fleet| fleet.assigned_to("n1")[0].restarts_asked;
    assert_eq!(done(&fleet), 1);

    restore(&mut fleet, backup);
    attach_all(&mut fleet);
    for name in ["n1", "n2"] {
        fleet.sync(&node(name));
    }
    confirm(&mut fleet, false).unwrap();
    fleet.command(restart(Target::Workload(workload("web")))).unwrap();
    fleet.settle();
    assert_eq!(done(&fleet), 2, "its node has done the first");
    fleet.command(restart(Target::Instance(instance("web-0")))).unwrap();
    fleet.settle();
    assert_eq!(done(&fleet), 3);
}

#[test]
fn a_restore_is_not_confirmed_before_every_engine_has_said_which_volumes_there_are() {
    let mut fleet = fleet();
    let backup = fleet.backup();
    fleet.apply(spec("ghost", 2)).unwrap();
    fleet.settle();
    fleet.hosts.get_mut(&node("n2")).unwrap().engine_is_away = true;
    restore(&mut fleet, backup);
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    let refusal = confirm(&mut fleet, false).unwrap_err();
    assert!(refusal.to_string().contains("among them n2"), "{refusal}");
    assert_eq!(fleet.model.restore_view().missing, [node("n2")]);
    fleet.hosts.get_mut(&node("n2")).unwrap().engine_is_away = false;
    fleet.report(&node("n2")).unwrap();
    confirm(&mut fleet, false).unwrap();
}

#[test]
fn what_a_node_said_of_an_instance_before_it_was_its_own_counts() {
    let mut fleet = fleet();
    fleet.settle();
    let name = instance("web-0");
    let from = node(&fleet.place("web-0").unwrap());
    let other = if from == node("n1") { node("n2") } else { node("n1") };
    let running = fleet.hosts[&from].containers[&name].clone();
    fleet.hosts.get_mut(&other).unwrap().containers.insert(name, running);
    fleet.report(&other).unwrap();
    fleet.hosts.get_mut(&from).unwrap().session = None;
    fleet.pass(1_000);
    fleet.attach(&other).unwrap();
    fleet.command(Command::RemoveNode { node: from.clone(), force: true }).unwrap();
    *fleet.hosts.get_mut(&from).unwrap() = Host::default();
    assert_eq!(fleet.place("web-0"), Some(other.to_string()));
    assert_eq!(fleet.phase("web-0"), Phase::Running, "it is not said again");
}
