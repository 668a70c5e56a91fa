//! What an engine has on its node beside containers.

use std::collections::BTreeSet;

use dwell_core::container::{ContainerId, ContainerState};
use dwell_core::id::VolumeName;
use dwell_core::instance::Assigned;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::registry::RegistryLogins;
use dwell_core::session::SeenVolume;
use dwell_core::workload::{Limits, Mount, MountSource, PIDS_DEFAULT, Resources};
use tokio::sync::watch;

use super::{GRACE, Harness, Program, assigned, inspected, started};
use crate::{CopyPlace, EngineError, Usage, VolumeCopy, fake};

const SERVES: Program = Program::Serves { exit_code: 0 };

/// It answers, has a version, and is ready.
pub async fn it_says_what_it_is(harness: &dyn Harness) {
    harness.engine().ping().await.unwrap();
    let report = harness.engine().info().await.unwrap();
    assert!(report.info.ready && report.unfit.is_none(), "{report:?}");
    assert!(!report.info.version.is_empty());
}

/// An image that is not there is no reason to give up, and one that cannot be fetched is told as such.
pub async fn a_missing_image_is_told(harness: &dyn Harness) {
    let missing = fake::assigned("missing-0", 1, harness.of_missing_image());
    harness.make_sandbox(&missing.instance).await;
    let refused = harness.engine().create(&missing).await.unwrap_err();
    let expected = EngineError::ImageMissing { image: missing.template.image.clone() };
    assert_eq!(refused, expected);
    let progress = watch::Sender::default();
    let failed = harness
        .engine()
        .pull(&missing.template.image, &RegistryLogins::new(), &progress)
        .await
        .unwrap_err();
    assert!(matches!(failed, EngineError::PullFailed { .. }), "{failed}");
    assert_eq!(harness.engine().list().await.unwrap(), []);
}

/// Limits are those that were asked for last, while it runs, and none after they were taken away.
pub async fn limits_are_set_while_it_runs(harness: &dyn Harness) {
    let engine = harness.engine();
    let half = Resources { cpu: Millicores(500), memory: Bytes::mebi(64) };
    let double = Resources { cpu: Millicores(1000), memory: Bytes::mebi(128) };
    let half = Limits { share: half, pids: PIDS_DEFAULT };
    let double = Limits { share: double, pids: 100 };
    let mut small = assigned(harness, "limits-0", SERVES).await;
    small.template.resources = half.share;
    let id = engine.create(&small).await.unwrap();
    engine.start(&id).await.unwrap();
    let enforced = engine.info().await.unwrap().enforced;
    let details = inspected(harness, &id).await.details.unwrap();
    assert_eq!((details.limits, details.enforced), (enforced.of(half), enforced));
    let usage = engine.usage(&id).await.unwrap();
    assert_eq!(usage.pids.is_some_and(|pids| pids > 0), enforced.pids, "{usage:?}");
    let memory = usage.memory.is_some_and(|memory| (1..64 << 20).contains(&memory.0));
    assert_eq!(memory, enforced.memory, "{usage:?}");
    for limits in [double, Limits::default(), half] {
        engine.update_limits(&id, limits).await.unwrap();
        let seen = inspected(harness, &id).await;
        assert_eq!(seen.details.unwrap().limits, enforced.of(limits));
        assert_eq!(seen.state, ContainerState::Running);
    }
    engine.stop(&id, GRACE).await.unwrap();
    assert_eq!(engine.usage(&id).await.unwrap(), Usage::default());
    engine.remove(&id).await.unwrap();
    let gone = engine.update_limits(&id, half).await.unwrap_err();
    assert!(matches!(gone, EngineError::NotFound { .. }), "{gone}");
}

/// What the node needs before a start is made for what is there, and for nothing else.
pub async fn what_is_gone_is_not_made_ready(harness: &dyn Harness) {
    let engine = harness.engine();
    let ready = assigned(harness, "ready-0", SERVES).await;
    let id = engine.create(&ready).await.unwrap();
    let remains: BTreeSet<ContainerId> = [id.clone()].into();
    engine.make_ready(&id, &ready, &remains).await.unwrap();
    engine.start(&id).await.unwrap();
    engine.remove(&id).await.unwrap();
    let gone = engine.make_ready(&id, &ready, &BTreeSet::new()).await.unwrap_err();
    assert!(matches!(gone, EngineError::NotFound { .. }), "{gone}");
}

/// A volume goes only when it is asked to, and never while a container has it.
pub async fn volumes_outlive_containers(harness: &dyn Harness) {
    let engine = harness.engine();
    let mut with_volume = assigned(harness, "volume-0", SERVES).await;
    let (instance, name) = (with_volume.instance.clone(), "data".parse().unwrap());
    with_volume.template.mounts = vec![Mount {
        source: MountSource::Volume("data".parse().unwrap()),
        target: "/data".to_owned(),
        read_only: false,
    }];
    let volume = SeenVolume { instance: instance.clone(), name, image_path: None, is_copy: false };
    let id = engine.create(&with_volume).await.unwrap();
    assert_eq!(engine.volumes().await.unwrap(), std::slice::from_ref(&volume));
    let refused = engine.remove_volume(&instance, &volume.name).await.unwrap_err();
    assert!(matches!(refused, EngineError::Other { .. }), "{refused}");
    engine.remove(&id).await.unwrap();
    assert_eq!(engine.volumes().await.unwrap(), std::slice::from_ref(&volume));
    for _ in 0..2 {
        engine.remove_volume(&instance, &volume.name).await.unwrap();
    }
    assert_eq!(engine.volumes().await.unwrap(), []);
}

/// What an instance had is there, or its container is not made: a volume that somebody removed is not taken for a new one.
pub async fn kept_volumes_are_not_made_anew(harness: &dyn Harness) {
    let engine = harness.engine();
    let mut with_volume = assigned(harness, "kept-0", SERVES).await;
    let (instance, name): (_, VolumeName) = (with_volume.instance.clone(), "data".parse().unwrap());
    with_volume.template.mounts = vec![Mount {
        source: MountSource::Volume(name.clone()),
        target: "/data".to_owned(),
        read_only: false,
    }];
    with_volume.kept_volumes = [name.clone()].into();
    let missing = EngineError::VolumeMissing { instance: instance.clone(), volume: name.clone() };
    assert!(!missing.is_permanent(), "it may be brought back");
    assert_eq!(engine.create(&with_volume).await.unwrap_err(), missing);
    assert_eq!(engine.volumes().await.unwrap(), []);

    let new = Assigned { kept_volumes: BTreeSet::new(), ..with_volume.clone() };
    let id = engine.create(&new).await.unwrap();
    engine.remove(&id).await.unwrap();
    let id = engine.create(&with_volume).await.unwrap();
    engine.remove(&id).await.unwrap();
    engine.remove_volume(&instance, &name).await.unwrap();
    assert_eq!(engine.create(&with_volume).await.unwrap_err(), missing);
}

/// A copy is no volume before it is adopted, and then it is one with all that is in it; both can be done again.
pub async fn copies_become_volumes(harness: &dyn Harness) {
    let engine = harness.engine();
    let copy = VolumeCopy {
        instance: "moved-0".parse().unwrap(),
        name: "data".parse().unwrap(),
        image_path: None,
        of_move: 7,
    };
    let seen = |is_copy| SeenVolume {
        instance: copy.instance.clone(),
        name: copy.name.clone(),
        image_path: None,
        is_copy,
    };
    assert!(matches!(engine.adopt_copy(&copy).await, Err(EngineError::NotFound { .. })));
    let CopyPlace::Open(place) = engine.begin_copy(&copy).await.unwrap() else {
        unreachable!("a copy was taken for a volume")
    };
    std::fs::write(place.join("file"), "content").unwrap();
    assert_eq!(engine.begin_copy(&copy).await.unwrap(), CopyPlace::Open(place.clone()));
    assert!(place.join("file").exists());
    assert_eq!(engine.volumes().await.unwrap(), [seen(true)]);
    let data = engine.volume_data(&copy.instance, &copy.name).await;
    assert!(matches!(data, Err(EngineError::NotFound { .. })), "{data:?}");

    // What another move left is nothing to go on with.
    let later = VolumeCopy { of_move: 8, ..copy.clone() };
    let CopyPlace::Open(place) = engine.begin_copy(&later).await.unwrap() else {
        unreachable!("a copy was taken for a volume")
    };
    assert!(!place.join("file").exists());
    std::fs::write(place.join("file"), "newer").unwrap();
    for _ in 0..2 {
        engine.adopt_copy(&later).await.unwrap();
        assert_eq!(engine.begin_copy(&later).await.unwrap(), CopyPlace::Adopted);
    }
    assert_eq!(engine.volumes().await.unwrap(), [seen(false)]);
    let data = engine.volume_data(&copy.instance, &copy.name).await.unwrap();
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "newer");

    // A volume that is there is not copied over.
    let refused = engine.begin_copy(&copy).await.unwrap_err();
    assert!(matches!(refused, EngineError::Refused { .. }), "{refused}");
    for _ in 0..2 {
        engine.remove_volume(&copy.instance, &copy.name).await.unwrap();
    }
    let CopyPlace::Open(_) = engine.begin_copy(&copy).await.unwrap() else {
        unreachable!("a copy was taken for a volume")
    };
    engine.remove_volume(&copy.instance, &copy.name).await.unwrap();
    assert_eq!(engine.volumes().await.unwrap(), []);

    // Nothing is left of one that is deleted while it becomes the volume, whichever comes first.
    for _ in 0..5 {
        engine.begin_copy(&copy).await.unwrap();
        let removed = engine.remove_volume(&copy.instance, &copy.name);
        let (adopted, removed) = tokio::join!(engine.adopt_copy(&copy), removed);
        removed.unwrap();
        assert!(matches!(adopted, Ok(()) | Err(EngineError::NotFound { .. })), "{adopted:?}");
        assert_eq!(engine.volumes().await.unwrap(), []);
    }
}

/// What is left of containers that are gone is found and removed; what is there keeps what it has.
pub async fn leftovers_are_found_and_swept(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = started(harness, "kept-1", SERVES).await;
    assert_eq!(engine.leftovers().await.unwrap(), [].into());
    let left = harness.leave_file().await;
    assert_eq!(engine.leftovers().await.unwrap(), [left].into());
    engine.sweep().await.unwrap();
    assert_eq!(engine.leftovers().await.unwrap(), [].into());
    engine.stop(&id, GRACE).await.unwrap();
    engine.start(&id).await.unwrap();
    engine.remove(&id).await.unwrap();
    assert_eq!(engine.leftovers().await.unwrap(), [].into());
}

/// A container that only has the cluster's label is somebody else's: told of, and not touched.
pub async fn strangers_are_told_and_left_alone(harness: &dyn Harness) {
    let engine = harness.engine();
    let stranger = harness.make_stranger().await;
    assert_eq!(engine.list().await.unwrap(), []);
    assert_eq!(engine.strangers(), [stranger.clone()].into());
    let id = ContainerId(stranger.clone());
    let not_found = EngineError::NotFound { id: id.to_string() };
    assert_eq!(engine.inspect(&id).await.unwrap_err(), not_found);
    assert_eq!(engine.stop(&id, GRACE).await.unwrap_err(), not_found);
    engine.remove(&id).await.unwrap();
    assert_eq!(engine.list().await.unwrap(), []);
    assert_eq!(engine.strangers(), [stranger].into());
}
