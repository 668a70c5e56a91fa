//! Volumes outlive instances, and no instance comes up with another one in their place.

use dwell_core::id::VolumeName;
use dwell_core::session::{SeenVolume, StatusReport};
use dwell_core::workload::{Mount, MountSource, WorkloadSpec};

use super::fleet::{Fleet, instance, node, settings, spec, workload};
use crate::model::{Command, Model, NodeChange, Record, Refusal, VolumeKey, VolumeState};

fn volume(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

fn with_volume(name: &str, replicas: u32) -> WorkloadSpec {
    let mut spec = spec(name, replicas);
    spec.template.mounts.push(Mount {
        source: MountSource::Volume(volume("data")),
        target: "/data".into(),
        read_only: false,
    });
    spec
}

fn scale(fleet: &mut Fleet, name: &str, replicas: u32) {
    fleet.command(Command::Scale { workload: workload(name), replicas }).unwrap();
    fleet.settle();
}

fn remove(fleet: &mut Fleet, of: &str) -> Result<(), Refusal> {
    let removal =
        Command::RemoveVolume { instance: instance(of), volume: volume("data"), node: None };
    fleet.command(removal).map(drop)
}

fn states(fleet: &Fleet, of: &str) -> Vec<(String, VolumeState)> {
    let views = fleet.model.volumes(Some(&instance(of)), None);
    views.iter().map(|view| (view.volume.key.node.to_string(), view.volume.state)).collect()
}

fn cordon(fleet: &mut Fleet, name: &str, on: bool) {
    let change = NodeChange { cordoned: Some(on), ..NodeChange::default() };
    fleet.update_node(name, change).unwrap();
}

/// Scaled to nothing and up again, with less room where it was, and then with more.
#[test]
fn an_instance_comes_back_to_its_data_or_says_why_not() {
    let mut fleet = Fleet::of(2);
    fleet.apply(with_volume("vol", 2)).unwrap();
    fleet.settle();
    let (first, second) = (fleet.place("vol-0").unwrap(), fleet.place("vol-1").unwrap());
    assert_ne!(first, second);

    scale(&mut fleet, "vol", 0);
    assert_eq!(states(&fleet, "vol-0"), [(first.clone(), VolumeState::Kept)]);
    cordon(&mut fleet, &first, true);
    scale(&mut fleet, "vol", 2);
    assert_eq!(fleet.place("vol-0"), None);
    assert_eq!(fleet.message("vol-0"), format!("its volume data is on {first}, which is cordoned"));
    assert_eq!(fleet.place("vol-1"), Some(second.clone()));

    cordon(&mut fleet, &first, false);
    fleet.settle();
    assert_eq!(fleet.place("vol-0"), Some(first.clone()));

    // The same for a workload that is removed and declared again.
    fleet.command(Command::RemoveWorkload(workload("vol"))).unwrap();
    fleet.settle();
    fleet.restart_controller();
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    let mut filler = spec("filler", 1);
    filler.template.resources.cpu = Fleet::capacity().cpu;
    filler.placement.constraints = vec![format!("node.name=={first}").parse().unwrap()];
    fleet.apply(filler).unwrap();
    let mut again = with_volume("vol", 2);
    again.template.resources.cpu.0 = 500;
    fleet.apply(again).unwrap();
    fleet.settle();
    assert_eq!(
        fleet.message("vol-0"),
        format!("its volume data is on {first}, which has 0 of the 500m CPU asked for free")
    );
    assert_eq!(fleet.place("vol-1"), Some(second));
}

#[test]
fn a_volume_is_deleted_by_its_node_and_only_when_nothing_mounts_it() {
    let mut fleet = Fleet::of(2);
    fleet.apply(with_volume("vol", 1)).unwrap();
    fleet.settle();
    let place = fleet.place("vol-0").unwrap();
    let key = VolumeKey { instance: instance("vol-0"), name: volume("data"), node: node(&place) };
    assert_eq!(remove(&mut fleet, "vol-0").unwrap_err(), Refusal::VolumeInUse(key.clone()));

    scale(&mut fleet, "vol", 0);
    let [view] = &fleet.model.volumes(None, None)[..] else { panic!("there is one") };
    assert!(!view.in_use && view.message.starts_with("there is no vol-0 now"), "{}", view.message);
    let refusal = fleet.command(Command::RemoveNode { node: node(&place), force: false });
    assert!(matches!(refusal, Err(Refusal::NodeHasVolumes { .. })));

    // Asked for again before its node has deleted it, it waits for that.
    remove(&mut fleet, "vol-0").unwrap();
    remove(&mut fleet, "vol-0").unwrap();
    fleet.command(Command::Scale { workload: workload("vol"), replicas: 1 }).unwrap();
    assert_eq!(fleet.place("vol-0"), None);
    assert_eq!(fleet.message("vol-0"), format!("waits until {place} has deleted its volume data"));
    // What was seen under an older assignment proves nothing.
    let late = StatusReport { volumes: Some(Vec::new()), ..fleet.hosts[&node(&place)].look() };
    fleet.deliver(&node(&place), late).unwrap();
    assert!(matches!(states(&fleet, "vol-0")[..], [(_, VolumeState::Deleting { .. })]));
    fleet.settle();
    assert_eq!(states(&fleet, "vol-0").len(), 1);
    assert!(fleet.place("vol-0").is_some());
    assert!(matches!(remove(&mut fleet, "web-0").unwrap_err(), Refusal::NoVolume { .. }));
}

#[test]
fn an_instance_whose_node_was_removed_by_force_waits_for_its_data() {
    let mut fleet = Fleet::of(2);
    fleet.apply(with_volume("vol", 1)).unwrap();
    fleet.settle();
    let place = fleet.place("vol-0").unwrap();
    let session = fleet.hosts.get_mut(&node(&place)).unwrap().session.take().unwrap();
    fleet.command(Command::DetachNode { node: node(&place), session }).unwrap();
    fleet.pass(100_000);
    fleet.command(Command::RemoveNode { node: node(&place), force: true }).unwrap();
    let volumes = std::mem::take(&mut fleet.hosts.get_mut(&node(&place)).unwrap().volumes);
    *fleet.hosts.get_mut(&node(&place)).unwrap() = super::fleet::Host::default();
    let other = if place == "n1" { "n2" } else { "n1" };
    fleet.attach(&node(other)).unwrap();
    fleet.settle();
    assert_eq!(states(&fleet, "vol-0"), [(place.clone(), VolumeState::Lost)]);
    assert_eq!(fleet.place("vol-0"), None);
    assert!(
        fleet.message("vol-0").contains(&format!("was on {place}")),
        "{}",
        fleet.message("vol-0")
    );
    let events = fleet.model.events(Some("instance/vol-0"), 10);
    assert!(events.iter().any(|event| event.reason == "volume-lost"));

    // The host is back, with its disk.
    fleet.join(&place).unwrap();
    fleet.hosts.get_mut(&node(&place)).unwrap().volumes = volumes.clone();
    fleet.attach(&node(&place)).unwrap();
    fleet.settle();
    assert_eq!(states(&fleet, "vol-0"), [(place.clone(), VolumeState::Kept)]);
    assert_eq!(fleet.place("vol-0"), Some(place.clone()));
}

#[test]
fn data_that_is_given_up_may_come_back_as_an_old_copy_only() {
    let mut fleet = Fleet::of(2);
    fleet.apply(with_volume("vol", 1)).unwrap();
    fleet.settle();
    let place = fleet.place("vol-0").unwrap();
    let session = fleet.hosts.get_mut(&node(&place)).unwrap().session.take().unwrap();
    fleet.command(Command::DetachNode { node: node(&place), session }).unwrap();
    fleet.pass(100_000);
    fleet.command(Command::RemoveNode { node: node(&place), force: true }).unwrap();
    let volumes = std::mem::take(&mut fleet.hosts.get_mut(&node(&place)).unwrap().volumes);
    *fleet.hosts.get_mut(&node(&place)).unwrap() = super::fleet::Host::default();
    let other = if place == "n1" { "n2" } else { "n1" };
    fleet.attach(&node(other)).unwrap();
    remove(&mut fleet, "vol-0").unwrap();
    fleet.settle();
    assert_eq!(fleet.place("vol-0").as_deref(), Some(other));

    fleet.join(&place).unwrap();
    fleet.hosts.get_mut(&node(&place)).unwrap().volumes = volumes;
    fleet.attach(&node(&place)).unwrap();
    fleet.settle();
    let mut expected = [(place.clone(), VolumeState::Stale), (other.to_owned(), VolumeState::Kept)];
    expected.sort_by(|one, two| one.0.cmp(&two.0));
    assert_eq!(states(&fleet, "vol-0"), expected);
    assert!(matches!(remove(&mut fleet, "vol-0"), Err(Refusal::VolumeAmbiguous { .. })));
    let old = Command::RemoveVolume {
        instance: instance("vol-0"),
        volume: volume("data"),
        node: Some(node(&place)),
    };
    fleet.command(old).unwrap();
    fleet.settle();
    assert_eq!(states(&fleet, "vol-0"), [(other.to_owned(), VolumeState::Kept)]);
    assert!(fleet.hosts[&node(&place)].volumes.is_empty());
}

/// What an image asked for is known from its node alone, and ties the instance like what was declared.
#[test]
fn what_an_image_asked_for_is_kept_like_what_was_declared() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("db", 1)).unwrap();
    fleet.settle();
    let place = fleet.place("db-0").unwrap();
    let seen = SeenVolume {
        instance: instance("db-0"),
        name: volume("image-data"),
        image_path: Some("/data".to_owned()),
        is_copy: false,
    };
    let report = StatusReport { volumes: Some(vec![seen]), ..fleet.hosts[&node(&place)].look() };
    fleet.deliver(&node(&place), report).unwrap();
    let host = fleet.hosts.get_mut(&node(&place)).unwrap();
    host.volumes.insert((instance("db-0"), volume("image-data")));
    fleet.drain(&place);
    assert_eq!(fleet.place("db-0"), Some(place.clone()));
    assert_eq!(fleet.message("db-0"), "its volumes are on this node, so it stays");
    fleet.command(Command::RemoveWorkload(workload("db"))).unwrap();
    fleet.settle();
    fleet.apply(spec("db", 1)).unwrap();
    assert_eq!(
        fleet.message("db-0"),
        format!("its volume image-data is on {place}, which is draining")
    );
}

#[test]
fn a_volume_that_is_elsewhere_is_not_mounted_empty() {
    let mut fleet = Fleet::of(2);
    fleet.apply(with_volume("vol", 1)).unwrap();
    fleet.settle();
    let place = fleet.place("vol-0").unwrap();
    fleet.command(Command::RemoveWorkload(workload("vol"))).unwrap();
    fleet.settle();
    cordon(&mut fleet, &place, true);
    fleet.apply(spec("vol", 1)).unwrap();
    fleet.settle();
    assert_ne!(fleet.place("vol-0"), Some(place.clone()), "without volumes it may be anywhere");
    let refusal = fleet.apply(with_volume("vol", 1)).unwrap_err();
    assert!(matches!(refusal, Refusal::VolumeElsewhere { .. }));
    assert!(refusal.to_string().contains(&format!("its volume data is on {place}")), "{refusal}");
}

/// A store of before has instances and no volumes.
#[test]
fn volumes_are_derived_from_what_an_older_store_has() {
    let mut fleet = Fleet::of(1);
    fleet.apply(with_volume("vol", 1)).unwrap();
    fleet.settle();
    let tables = &fleet.model.tables;
    let nodes = tables.nodes().values().cloned().map(Record::Node);
    let workloads = tables.workloads().values().cloned().map(Record::Workload);
    let instances = tables.instances().values().cloned().map(Record::Instance);
    let old = nodes.chain(workloads).chain(instances);
    let mut model = Model::restore(settings(), old, fleet.now);
    let applied = model.apply(Command::Tick, fleet.now).unwrap();
    assert!(
        applied.changes.iter().any(|change| change.is_durable()
            && matches!(&change.new, Some(Record::Volume(volume)) if volume.state == VolumeState::Kept)),
        "they are stored with the first command"
    );
    model.revert(applied.changes);
    let again = model.apply(Command::Tick, fleet.now).unwrap();
    model.publish(again.changes);
    assert_eq!(model.volumes(Some(&instance("vol-0")), Some(&node("n1"))).len(), 1);
}

#[test]
fn a_stored_volume_is_read() {
    let stored = r#"{"instance":"db-0","name":"data","node":"n1","state":"kept","created_at":7,"revision":9}"#;
    let Record::Volume(volume) = Record::decode("volume", stored.as_bytes()).unwrap() else {
        panic!("not a volume")
    };
    assert_eq!((volume.key.to_string(), volume.seen), ("db-0/data@n1".to_owned(), false));
    let stored = r#"{"instance":"db-0","name":"data","node":"n1","state":{"deleting":{"since":4}},"image_path":"/d","seen":true,"created_at":7,"revision":9}"#;
    assert!(Record::decode("volume", stored.as_bytes()).is_ok());
}

#[test]
fn a_volume_that_vanished_is_told_of_once() {
    let mut fleet = Fleet::of(1);
    fleet.apply(with_volume("vol", 1)).unwrap();
    fleet.settle();
    let seen = fleet.model.volumes(None, None).remove(0);
    assert!(seen.volume.seen);
    let gone = StatusReport { volumes: Some(Vec::new()), ..fleet.hosts[&node("n1")].look() };
    for _ in 0..3 {
        fleet.deliver(&node("n1"), gone.clone()).unwrap();
    }
    let events = fleet.model.events(Some("instance/vol-0"), 50);
    let told = events.iter().filter(|event| event.reason == "volume-missing").count();
    assert_eq!(told, 1);
    let lost = fleet.model.volumes(None, None).remove(0);
    assert_eq!(lost.volume.state, VolumeState::Lost);
    assert!(lost.message.contains("n1 had it and does not have it any more"), "{}", lost.message);
    assert!(lost.message.contains("dwell volume rm vol-0 data --node n1"), "{}", lost.message);
    assert_eq!(fleet.place("vol-0").as_deref(), Some("n1"), "it may run there");

    // It was a mistake, such as an engine with another directory.
    fleet.settle();
    assert_eq!(states(&fleet, "vol-0"), [("n1".to_owned(), VolumeState::Kept)]);
}

fn lose(fleet: &mut Fleet, of: &str, at: &str) {
    let host = fleet.hosts.get_mut(&node(at)).unwrap();
    host.containers.remove(&instance(of));
    assert!(host.volumes.remove(&(instance(of), volume("data"))));
}

/// Somebody has removed its container and its volume with the engine's own tool.
#[test]
fn what_its_node_has_lost_is_not_made_anew() {
    let mut fleet = Fleet::of(1);
    fleet.apply(with_volume("vol", 1)).unwrap();
    assert!(fleet.assigned_to("n1")[0].kept_volumes.is_empty(), "it is a new one");
    fleet.settle();
    assert_eq!(fleet.assigned_to("n1")[0].kept_volumes, [volume("data")].into());
    lose(&mut fleet, "vol-0", "n1");
    fleet.settle();
    assert_eq!(states(&fleet, "vol-0"), [("n1".to_owned(), VolumeState::Lost)]);
    assert_eq!(fleet.assigned_to("n1")[0].kept_volumes, [volume("data")].into());
    assert!(fleet.hosts[&node("n1")].volumes.is_empty());

    // An instance that has no place gets none, wherever it may be otherwise.
    scale(&mut fleet, "vol", 0);
    scale(&mut fleet, "vol", 1);
    assert_eq!(fleet.place("vol-0"), None);
    let told = "its volume data was on n1 and is not there any more; bring it back, or give the data up with `dwell volume rm vol-0 data \
                --node n1`";
    assert_eq!(fleet.message("vol-0"), told);
    remove(&mut fleet, "vol-0").unwrap();
    fleet.settle();
    assert_eq!(fleet.place("vol-0").as_deref(), Some("n1"));
    assert_eq!(states(&fleet, "vol-0"), [("n1".to_owned(), VolumeState::Kept)]);
    assert_eq!(fleet.hosts[&node("n1")].volumes.len(), 1);
}

#[test]
fn data_that_its_node_has_lost_is_given_up_where_it_is() {
    let mut fleet = Fleet::of(1);
    fleet.apply(with_volume("vol", 1)).unwrap();
    fleet.settle();
    lose(&mut fleet, "vol-0", "n1");
    fleet.settle();
    assert!(!fleet.hosts[&node("n1")].containers.contains_key(&instance("vol-0")));
    remove(&mut fleet, "vol-0").unwrap();
    assert!(fleet.assigned_to("n1")[0].kept_volumes.is_empty(), "an empty one will do");
    fleet.settle();
    assert!(fleet.hosts[&node("n1")].containers.contains_key(&instance("vol-0")));
    assert_eq!(states(&fleet, "vol-0"), [("n1".to_owned(), VolumeState::Kept)]);
}

/// Its node has lost it, and another one turns up that has it.
#[test]
fn it_goes_where_its_data_is_found() {
    let mut fleet = Fleet::of(2);
    fleet.apply(with_volume("vol", 1)).unwrap();
    fleet.settle();
    let from = fleet.place("vol-0").unwrap();
    let to = if from == "n1" { "n2" } else { "n1" };
    lose(&mut fleet, "vol-0", &from);
    fleet.settle();
    fleet.hosts.get_mut(&node(to)).unwrap().volumes.insert((instance("vol-0"), volume("data")));
    fleet.settle();
    assert_eq!(fleet.place("vol-0").as_deref(), Some(to));
    assert_eq!(states(&fleet, "vol-0"), [(to.to_owned(), VolumeState::Kept)]);
    fleet.check();
}

/// A fleet whose controller knows of nothing that was done after this. Its instance ran nowhere.
fn backed_up() -> (Fleet, String, String, super::fleet::Snapshot) {
    let mut fleet = Fleet::of(2);
    fleet.begin(1, None);
    fleet.apply(with_volume("vol", 1)).unwrap();
    fleet.settle();
    let from = fleet.place("vol-0").unwrap();
    let to = if from == "n1" { "n2" } else { "n1" };
    let backup = fleet.backup();
    scale(&mut fleet, "vol", 0);
    (fleet, from, to.to_owned(), backup)
}

fn restored(fleet: &mut Fleet, backup: super::fleet::Snapshot) {
    fleet.restore(backup);
    fleet.begin(2, Some("the disk was exchanged".into()));
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.settle();
    fleet.command(Command::ConfirmRestore { force: false }).unwrap();
    fleet.settle();
}

/// The backup is older than a move that came to its end.
#[test]
fn a_restored_controller_goes_by_what_nodes_have() {
    let (mut fleet, from, to, backup) = backed_up();
    let data = (instance("vol-0"), volume("data"));
    assert!(fleet.hosts.get_mut(&node(&from)).unwrap().volumes.remove(&data));
    fleet.hosts.get_mut(&node(&to)).unwrap().volumes.insert(data);
    restored(&mut fleet, backup);
    assert_eq!(states(&fleet, "vol-0"), [(to.clone(), VolumeState::Kept)]);
    assert_eq!(fleet.place("vol-0"), Some(to));
    fleet.check();
}

/// Nor was the one that it left deleted yet.
#[test]
fn a_restored_controller_does_not_choose_between_two() {
    for is_first in [true, false] {
        let (mut fleet, from, to, backup) = backed_up();
        let data = (instance("vol-0"), volume("data"));
        fleet.hosts.get_mut(&node(&to)).unwrap().volumes.insert(data);
        restored(&mut fleet, backup);
        let both =
            |fleet: &Fleet| states(fleet, "vol-0").iter().map(|one| one.1).collect::<Vec<_>>();
        assert_eq!(both(&fleet), [VolumeState::Stale, VolumeState::Stale]);
        assert_eq!(fleet.place("vol-0"), None);
        let told = fleet.message("vol-0");
        assert!(told.starts_with("n1 and n2 each have its volume data, and which"), "{told}");
        assert!(told.contains("dwell volume rm vol-0 data --node NODE"), "{told}");
        let (kept, other) = if is_first { (&from, &to) } else { (&to, &from) };
        let removal = Command::RemoveVolume {
            instance: instance("vol-0"),
            volume: volume("data"),
            node: Some(node(other)),
        };
        fleet.command(removal).unwrap();
        fleet.settle();
        assert_eq!(states(&fleet, "vol-0"), [(kept.clone(), VolumeState::Kept)]);
        assert_eq!(fleet.place("vol-0").as_ref(), Some(kept));
        fleet.check();
    }
}

/// Of two that have it, the one that was told to run the instance has the newest.
#[test]
fn a_restored_controller_believes_who_runs_it() {
    let (mut fleet, from, _, backup) = backed_up();
    scale(&mut fleet, "vol", 1);
    assert_eq!(fleet.place("vol-0").as_ref(), Some(&from));
    let other = if from == "n1" { "n2" } else { "n1" };
    let data = (instance("vol-0"), volume("data"));
    fleet.hosts.get_mut(&node(other)).unwrap().volumes.insert(data);
    restored(&mut fleet, backup);
    let mut expected = [(from.clone(), VolumeState::Kept), (other.to_owned(), VolumeState::Stale)];
    expected.sort_by(|one, two| one.0.cmp(&two.0));
    assert_eq!(states(&fleet, "vol-0"), expected);
    assert_eq!(fleet.place("vol-0"), Some(from));
}

/// What was made after the backup, and was not when it was made, begins as it should.
#[test]
fn what_a_restored_controller_never_heard_of_comes_up() {
    let mut fleet = Fleet::of(2);
    fleet.begin(1, None);
    let backup = fleet.backup();
    restored(&mut fleet, backup);
    fleet.apply(with_volume("vol", 2)).unwrap();
    fleet.settle();
    assert!(fleet.place("vol-0").is_some() && fleet.place("vol-1").is_some());
}

#[test]
fn a_plan_says_what_it_deletes() {
    let mut fleet = Fleet::of(1);
    let created = fleet.apply(with_volume("vol", 3)).unwrap();
    assert!(created.losses.is_empty(), "{:?}", created.losses);
    fleet.settle();
    let mut changed = with_volume("vol", 2);
    changed.template.image = "image:2".into();
    let plan = fleet.dry_run(vec![changed]).unwrap().remove(0);
    assert_eq!(
        plan.losses,
        [
            "files of vol-0 and 1 more outside of volumes",
            "vol-2: addresses, host keys and files; their volumes stay (`dwell volume ls`)"
        ]
    );
    let mut live = with_volume("vol", 3);
    live.template.resources.cpu.0 = 100;
    assert!(fleet.dry_run(vec![live]).unwrap()[0].losses.is_empty());
}

#[test]
fn nodes_and_volumes_are_listed_in_pages() {
    let mut fleet = Fleet::of(3);
    fleet.apply(with_volume("vol", 5)).unwrap();
    fleet.settle();
    let all: Vec<String> = fleet.model.volumes(None, None).iter().map(key_of).collect();
    let (mut after, mut listed) = (None, Vec::new());
    loop {
        let page = fleet.model.volumes_page((None, None), after.as_ref(), 2);
        assert!(page.items.len() <= 2);
        listed.extend(page.items.iter().map(key_of));
        let Some(next) = page.next else { break };
        assert_eq!(next.to_string().parse(), Ok(next.clone()), "a token is read as it was written");
        after = Some(next);
    }
    assert_eq!((listed.len(), &listed), (5, &all));

    let page = fleet.model.nodes_page(None, 2);
    assert_eq!((page.items.len(), page.next.clone()), (2, Some(node("n2"))));
    let page = fleet.model.nodes_page(page.next.as_ref(), 2);
    assert_eq!((page.items.len(), page.next), (1, None));
}

fn key_of(view: &crate::model::VolumeView) -> String {
    view.volume.key.to_string()
}

#[test]
fn what_is_left_of_a_copy_has_no_volume_deleted() {
    let mut fleet = Fleet::of(1);
    fleet.apply(with_volume("db", 1)).unwrap();
    fleet.settle();
    let here = || (instance("db-0"), volume("data"));
    let n1 = node("n1");
    // The engine could not delete the copy after it had become the volume; or this is another disk, and has the copy alone.
    for is_there in [true, false] {
        let host = fleet.hosts.get_mut(&n1).unwrap();
        host.copies.insert(here());
        if !is_there {
            host.volumes.clear();
        }
        fleet.report(&n1).unwrap();
        fleet.settle();
        let told = fleet.model.assignment(&n1);
        assert!(told.volumes_to_delete.is_empty(), "{:?}", told.volumes_to_delete);
        let [one] = &told.instances.values().collect::<Vec<_>>()[..] else { panic!() };
        assert!(one.kept_volumes.contains(&volume("data")), "it makes no empty one");
    }
}
