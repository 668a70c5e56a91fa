//! Instances that are put in the place of a container that dwell did not make.

use dwell_core::foreign::{Adoption, Foreign, ForeignRestart, ForeignVolume};
use dwell_core::quantity::Millis;
use dwell_core::workload::{Mount, MountSource};
use dwell_engine::fake::foreign::ForeignState;

use super::*;

fn id() -> ContainerId {
    ContainerId("foreign".to_owned())
}

/// A host on which somebody runs a container, with a file in its volume.
async fn host() -> Host {
    let host = Host::new().await;
    host.engine.add_foreign(Foreign {
        id: id(),
        name: "shop".to_owned(),
        template: Template::of_image("a"),
        own_files: Some(Bytes(1)),
        volumes: vec![ForeignVolume {
            name: "data".parse().unwrap(),
            source: "shop_data".to_owned(),
            size: None,
        }],
        restart: ForeignRestart::Always,
        changes: Vec::new(),
        obstacles: Vec::new(),
    });
    let data = host.engine.foreign_volume("shop_data").await.unwrap();
    std::fs::write(data.join("file"), "kept").unwrap();
    host
}

fn adopt(host: &mut Host) {
    let source = MountSource::Volume("data".parse().unwrap());
    let mut template = Template::of_image("localhost/shop:1");
    template.mounts = vec![Mount { source, target: "/data".to_owned(), read_only: false }];
    let one = Assigned {
        adopts: Some(Adoption {
            container: id(),
            name: "shop".to_owned(),
            grace: Millis::seconds(10),
            restart: ForeignRestart::Always,
            image: Some("localhost/shop:1".to_owned()),
            volumes: [("data".parse().unwrap(), "shop_data".to_owned())].into(),
        }),
        ..assigned("web-0", 1, template)
    };
    host.assigned.insert(one.instance.clone(), one);
    host.publish();
}

const TAKEN: ForeignState = ForeignState { runs: false, restart: ForeignRestart::No };
const AS_BEFORE: ForeignState = ForeignState { runs: true, restart: ForeignRestart::Always };

fn is_held(status: &InstanceStatus) -> bool {
    status.verdict_on(Generation(1)) == Some(&Outcome::Held)
}

#[tokio::test(start_paused = true)]
async fn it_takes_the_place_of_a_container_with_its_files() {
    let mut host = host().await;
    host.engine.forget_image("localhost/shop:1");
    let mut agent = host.start();
    adopt(&mut host);
    agent.status("web-0", is_held).await;
    assert_eq!(host.engine.foreign_state(&id()), Some(TAKEN));
    assert_eq!(host.running("web-0"), 1);
    let (instance, name) = ("web-0".parse().unwrap(), "data".parse().unwrap());
    let data = host.engine.volume_data(&instance, &name).await.unwrap();
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "kept");
    for operation in [Operation::StopForeign, Operation::KeepForeign, Operation::Create] {
        assert_eq!(host.engine.count(operation), 1, "{operation:?}");
    }
    // Whoever starts anew does nothing more to it, also while the controller still orders it.
    drop(agent);
    host.engine.remove_foreign(&id());
    let mut agent = host.start();
    agent.status("web-0", is_held).await;
    pass(Duration::from_secs(60)).await;
    assert_eq!(host.engine.count(Operation::StopForeign), 1);
    assert_eq!((host.running("web-0"), host.engine.overlaps()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_hold_is_put_back_and_rests() {
    let mut host = host().await;
    host.engine.ends_at_once("localhost/shop:1", Some(3));
    let mut agent = host.start();
    adopt(&mut host);
    let status = agent.status("web-0", |status| status.phase == Phase::Failed).await;
    assert!(rolled_back(&status, 1), "{status:?}");
    let says = |words: &str| assert!(status.message.contains(words), "{status:?}");
    says("container shop was started again as it was");
    says("`dwell rm web`");
    says("ended with exit code 3");
    assert_eq!(host.engine.foreign_state(&id()), Some(AS_BEFORE));
    assert_eq!(host.engine.containers().len(), 0);
    pass(Duration::from_secs(600)).await;
    assert_eq!(host.engine.count(Operation::StartForeign), 1);
    host.assigned.clear();
    host.publish();
    agent.until("nothing is left", |all| all.instances.is_empty()).await;
    assert_eq!(host.engine.count(Operation::StartForeign), 1);
    assert_eq!(host.engine.foreign_state(&id()), Some(AS_BEFORE));
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_given_up_when_nobody_wants_the_instance_any_more() {
    let mut host = host().await;
    host.engine.stall(Operation::KeepForeign);
    let mut agent = host.start();
    adopt(&mut host);
    agent.status("web-0", |status| status.message.contains("files of container shop")).await;
    pass(Duration::from_secs(3_600)).await;
    assert_eq!(host.engine.foreign_state(&id()), Some(TAKEN), "a copy takes as long as it takes");
    host.assigned.clear();
    host.publish();
    agent.until("nothing is left", |all| all.instances.is_empty()).await;
    assert_eq!(host.engine.foreign_state(&id()), Some(AS_BEFORE));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_beside_a_container_that_somebody_has_started_again() {
    let mut host = host().await;
    host.engine.stall(Operation::Create);
    let mut agent = host.start();
    adopt(&mut host);
    while host.engine.count(Operation::Create) == 0 {
        pass(Duration::from_millis(100)).await;
    }
    host.engine.start_foreign(&id(), Duration::ZERO, ForeignRestart::No).await.unwrap();
    host.engine.release(Operation::Create);
    let status = agent.status("web-0", |status| status.phase == Phase::Failed).await;
    assert!(status.message.contains("container shop was started again"), "{status:?}");
    assert_eq!(host.engine.foreign_state(&id()), Some(AS_BEFORE));
    assert_eq!(host.engine.count(Operation::Start), 0);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_gone_holds_nothing_up() {
    let mut host = host().await;
    host.engine.remove_foreign(&id());
    let mut agent = host.start();
    adopt(&mut host);
    let status = agent.status("web-0", |status| status.phase == Phase::Failed).await;
    assert!(status.message.contains("does not exist"), "{status:?}");
    host.assigned.clear();
    host.publish();
    agent.until("nothing is left", |all| all.instances.is_empty()).await;
}
