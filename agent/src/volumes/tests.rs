//! The keeper with the fake engine, on paused time.

use dwell_core::id::Revision;
use dwell_core::session::NodeNetwork;
use dwell_core::workload::{Mount, MountSource, Template};
use tokio::task::JoinHandle;

use super::*;
use dwell_engine::Engine;
use dwell_engine::fake::control::TokioClock;
use dwell_engine::fake::{FakeEngine, Operation, assigned};

struct World {
    engine: FakeEngine,
    assignment: watch::Sender<Option<Arc<Assignment>>>,
    stored: watch::Sender<OnDisk>,
    published: watch::Receiver<Option<Arc<Volumes>>>,
    _statuses: watch::Sender<Option<Arc<Statuses>>>,
    _keeper: JoinHandle<()>,
}

fn template() -> Template {
    let mut template = Template::of_image("a");
    template.mounts.push(Mount {
        source: MountSource::Volume("data".parse().unwrap()),
        target: "/data".to_owned(),
        read_only: false,
    });
    template
}

impl World {
    /// A node on which an instance has left a volume.
    async fn new() -> Self {
        let engine = FakeEngine::new(Arc::new(TokioClock::new()));
        let id = engine.create(&assigned("db-0", 1, template())).await.unwrap();
        engine.remove(&id).await.unwrap();
        let (assignment, assignments) = watch::channel(None);
        let (stored, positions) = watch::channel(OnDisk::default());
        let (statuses, seen) = watch::channel(None);
        let (published, volumes) = watch::channel(None);
        let keeper = VolumeKeeper {
            engine: Arc::new(engine.clone()),
            assignment: assignments,
            stored: positions,
            statuses: seen,
            published,
        };
        let _keeper = tokio::spawn(keeper.run());
        Self { engine, assignment, stored, published: volumes, _statuses: statuses, _keeper }
    }

    fn assign(&self, revision: u64, orders: bool, mounts: bool) {
        let mut held = Assignment::empty(NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap()));
        held.revision = Revision(revision);
        if orders {
            held.volumes_to_delete = vec![("db-0".parse().unwrap(), "data".parse().unwrap())];
        }
        if mounts {
            let db = assigned("db-0", 2, template());
            held.instances.insert(db.instance.clone(), db);
        }
        self.assignment.send_replace(Some(Arc::new(held)));
    }

    fn store(&self, revision: u64) {
        let mut held = Assignment::empty(NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap()));
        held.revision = Revision(revision);
        self.stored.send_modify(|on_disk| on_disk.stored(Arc::new(held)));
    }

    /// What is published under a revision.
    async fn seen_under(&mut self, revision: u64) -> Vec<String> {
        let is_it = |seen: &Option<Arc<Volumes>>| {
            seen.as_ref().is_some_and(|seen| seen.seen_under.revision == Revision(revision))
        };
        let limit = Duration::from_secs(3600);
        let seen = tokio::time::timeout(limit, self.published.wait_for(is_it)).await;
        let seen = seen.unwrap().unwrap().clone().unwrap();
        seen.there.iter().map(|volume| format!("{}/{}", volume.instance, volume.name)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_goes_when_the_order_is_on_disk_and_not_before() {
    let mut world = World::new().await;
    assert_eq!(world.seen_under(0).await, ["db-0/data"]);
    world.assign(5, true, false);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.engine.volumes().await.unwrap().len(), 1, "the order is in memory only");
    world.store(5);
    assert_eq!(world.seen_under(5).await, [""; 0]);
    assert!(world.engine.volumes().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_mounted_is_not_deleted_and_failures_are_tried_again() {
    let mut world = World::new().await;
    world.assign(5, true, true);
    world.store(5);
    assert_eq!(world.seen_under(5).await, ["db-0/data"]);
    let failure = EngineError::Other {
        engine: "fake",
        operation: "remove a volume",
        reason: "a container has it".to_owned(),
    };
    world.engine.fail_next(Operation::RemoveVolume, 3, failure);
    world.assign(6, true, false);
    world.store(6);
    assert_eq!(world.seen_under(6).await, ["db-0/data"]);
    let is_empty =
        |seen: &Option<Arc<Volumes>>| seen.as_ref().is_some_and(|seen| seen.there.is_empty());
    let limit = Duration::from_secs(3600);
    tokio::time::timeout(limit, world.published.wait_for(is_empty)).await.unwrap().unwrap();
    assert_eq!(world.engine.count(Operation::RemoveVolume), 4);
}
