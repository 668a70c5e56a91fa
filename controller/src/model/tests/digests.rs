//! Which image a version means, from the first instance of it that ran.

use std::sync::Arc;

use dwell_core::id::VersionNumber;
use dwell_core::image::{ContainerImage, ImageDigest};

use super::fleet::{Fleet, instance, node, spec, workload};
use crate::model::{Command, PlanAction, Record, Reply, Severity};

const FIRST: ImageDigest = ImageDigest::new([1; 32]);
const SECOND: ImageDigest = ImageDigest::new([2; 32]);

/// Three nodes, on each of which the tag of every image means `FIRST`.
fn fleet() -> Fleet {
    let mut fleet = Fleet::of(3);
    move_tags(&mut fleet, FIRST);
    fleet
}

fn move_tags(fleet: &mut Fleet, digest: ImageDigest) {
    for host in fleet.hosts.values_mut() {
        host.tags_mean = Some(digest);
    }
}

fn restart(fleet: &mut Fleet) {
    fleet.restart_controller();
    for name in ["n1", "n2", "n3"] {
        fleet.attach(&node(name)).unwrap();
    }
}

/// The digests of the versions of `web`, the newest first.
fn pins(fleet: &Fleet) -> Vec<Option<ImageDigest>> {
    let versions = fleet.model.versions(&workload("web")).unwrap();
    versions.iter().map(|view| view.version.image_digest).collect()
}

/// The digest that an instance was seen to run with.
fn runs(fleet: &Fleet, name: &str) -> Option<ImageDigest> {
    fleet.model.instance(&instance(name)).unwrap().status.image.digest
}

fn told(fleet: &Fleet, reason: &str) -> usize {
    fleet.model.events(None, 1_000).iter().filter(|event| event.reason == reason).count()
}

/// The instance is seen to run with another image, whatever its node was told.
fn see_other_image(fleet: &mut Fleet, name: &str, digest: ImageDigest) {
    let host = node(&fleet.place(name).unwrap());
    fleet.now = fleet.now.after(std::time::Duration::from_secs(1));
    let status = fleet.hosts.get_mut(&host).unwrap().containers.get_mut(&instance(name)).unwrap();
    status.image.digest = Some(digest);
    status.observed_at = fleet.now;
    fleet.report(&host).unwrap();
}

#[test]
fn the_first_instance_that_runs_says_which_image_all_others_are_made_from() {
    let mut fleet = fleet();
    fleet.apply(spec("web", 1)).unwrap();
    assert_eq!(pins(&fleet), [None]);
    fleet.settle();
    assert_eq!(pins(&fleet), [Some(FIRST)]);
    move_tags(&mut fleet, SECOND);
    fleet.command(Command::Scale { workload: workload("web"), replicas: 3 }).unwrap();
    restart(&mut fleet);
    fleet.settle();
    let digests: Vec<_> = ["web-0", "web-1", "web-2"].map(|name| runs(&fleet, name)).to_vec();
    assert_eq!(digests, [Some(FIRST); 3]);
    assert_eq!(told(&fleet, "version-pinned"), 1);
    assert_eq!(told(&fleet, "instance-other-image"), 0);
}

#[test]
fn every_node_is_told_as_soon_as_it_is_known() {
    let mut fleet = fleet();
    fleet.apply(spec("web", 3)).unwrap();
    for name in ["n1", "n2", "n3"] {
        fleet.fetch(&node(name));
    }
    fleet.sync(&node(&fleet.place("web-0").unwrap()));
    for name in ["n1", "n2", "n3"] {
        // Also checks that the difference makes the node's assignment what the whole says.
        fleet.fetch(&node(name));
        let digests: Vec<_> =
            fleet.hosts[&node(name)].assigned().values().map(|one| one.image_digest).collect();
        assert_eq!(digests, [Some(FIRST)], "{name}");
    }
}

#[test]
fn what_is_fallen_back_to_is_the_image_that_held() {
    let mut fleet = fleet();
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let mut other = spec("web", 1);
    other.template.image = "other".into();
    fleet.apply(other).unwrap();
    let assigned = fleet.assigned_to(&fleet.place("web-0").unwrap()).remove(0);
    assert_eq!((assigned.image_digest, assigned.fallback_image_digest), (None, Some(FIRST)));
    move_tags(&mut fleet, SECOND);
    fleet.settle();
    assert_eq!(pins(&fleet), [Some(SECOND), Some(FIRST)]);
    assert_eq!(runs(&fleet, "web-0"), Some(SECOND));
}

#[test]
fn the_same_declaration_means_the_same_image_whatever_was_pushed() {
    let mut fleet = fleet();
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    move_tags(&mut fleet, SECOND);
    assert_eq!(fleet.apply(spec("web", 1)).unwrap().action, PlanAction::Unchanged);
    let mut other = spec("web", 1);
    other.template.image = "other".into();
    fleet.apply(other).unwrap();
    fleet.settle();
    let (to, by) = (Some(VersionNumber(1)), "alice".to_owned());
    let back = Command::RollBack { workload: workload("web"), to, dry_run: false, by };
    assert!(matches!(fleet.command(back).unwrap(), Reply::Plans(_)));
    fleet.settle();
    assert_eq!(pins(&fleet), [Some(FIRST), Some(SECOND), Some(FIRST)]);
    assert_eq!(runs(&fleet, "web-0"), Some(FIRST));
}

#[test]
fn an_instance_that_runs_with_another_image_is_told_of_once() {
    let mut fleet = fleet();
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    see_other_image(&mut fleet, "web-1", SECOND);
    restart(&mut fleet);
    see_other_image(&mut fleet, "web-1", SECOND);
    assert_eq!(pins(&fleet), [Some(FIRST)], "that does not change what the version means");
    assert_eq!(told(&fleet, "instance-other-image"), 1);
    let event = fleet.model.events(Some("instance/web-1"), 1).remove(0);
    assert_eq!(event.severity, Severity::Warning);
    // Once it is as it should be, it is news again.
    see_other_image(&mut fleet, "web-1", FIRST);
    see_other_image(&mut fleet, "web-1", SECOND);
    assert_eq!(told(&fleet, "instance-other-image"), 2);
}

#[test]
fn only_a_running_container_of_the_version_pins_it() {
    let mut fleet = fleet();
    move_tags(&mut fleet, SECOND);
    fleet.apply(spec("web", 1)).unwrap();
    let host = node(&fleet.place("web-0").unwrap());
    fleet.fetch(&host);
    let now = fleet.now;
    fleet.hosts.get_mut(&host).unwrap().converge(now);
    let name = instance("web-0");
    let running = fleet.hosts[&host].containers[&name].clone();
    let mut told = |change: &dyn Fn(&mut dwell_core::instance::InstanceStatus)| {
        let mut status = running.clone();
        change(&mut status);
        fleet.hosts.get_mut(&host).unwrap().containers.insert(name.clone(), status);
        fleet.report(&host).unwrap();
        pins(&fleet)
    };
    assert_eq!(told(&|one| one.generation = super::fleet::at(0)), [None], "an earlier container");
    assert_eq!(told(&|one| one.phase = dwell_core::instance::Phase::Stopped), [None]);
    // It was made on the node, or its node is of an earlier version.
    assert_eq!(told(&|one| one.image = ContainerImage::default()), [None]);
    assert_eq!(told(&|_| ()), [Some(SECOND)]);
}

#[test]
fn a_store_from_before_digests_is_read() {
    let mut fleet = fleet();
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    see_other_image(&mut fleet, "web-0", SECOND);
    let read = |record: Record, table, field: &str| {
        let mut json: serde_json::Value =
            serde_json::from_slice(&record.encode().unwrap()).unwrap();
        assert!(json.as_object_mut().unwrap().remove(field).is_some(), "{field}");
        Record::decode(table, &serde_json::to_vec(&json).unwrap()).unwrap()
    };
    let version = &fleet.model.tables.versions()[&workload("web")][&VersionNumber(1)];
    match read(Record::Version(Arc::clone(version)), "version", "image_digest") {
        Record::Version(read) => assert_eq!(read.image_digest, None),
        other => panic!("{other:?}"),
    }
    let one = &fleet.model.tables.instances()[&instance("web-0")];
    match read(Record::Instance(Arc::clone(one)), "instance", "other_image") {
        Record::Instance(read) => assert_eq!(read.other_image, None),
        other => panic!("{other:?}"),
    }
}
