use dwell_core::id::{Generation, Revision};
use dwell_core::registry::RegistryLogins;
use dwell_core::session::NodeNetwork;
use dwell_core::workload::Template;
use dwell_engine::Engine as _;
use dwell_engine::fake::control::TokioClock;
use dwell_engine::fake::{FakeEngine, Operation, assigned};

use super::keep::ImageKeeper;
use super::*;

impl Images {
    /// Of a node whose journal is nowhere.
    pub(crate) fn of_test(
        engine: SharedEngine,
        assignment: watch::Receiver<Option<Arc<Assignment>>>,
        statuses: watch::Receiver<Option<Arc<Statuses>>>,
    ) -> Self {
        let ledger = Ledger::load(Arc::clone(&engine), std::path::Path::new("/nonexistent"));
        Self::new(engine, ledger, config::Images::default(), assignment, statuses)
    }
}

struct Node {
    _directory: tempfile::TempDir,
    engine: FakeEngine,
    images: Images,
    assignment: watch::Sender<Option<Arc<Assignment>>>,
}

/// A node that has fetched `old`, and runs `web-0` with `web`, which it fetched as well, as it did `before` that it falls
/// back to. Somebody has loaded `hand`.
async fn node() -> Node {
    let directory = tempfile::tempdir().unwrap();
    let engine = FakeEngine::new(Arc::new(TokioClock::new()));
    let assignment = watch::Sender::new(None);
    let statuses = Statuses { revision: Revision(1), complete: true, ..Statuses::default() };
    let statuses = watch::Sender::new(Some(Arc::new(statuses))).subscribe();
    let shared: SharedEngine = Arc::new(engine.clone());
    let policy = config::Images::default();
    let ledger = Ledger::load(Arc::clone(&shared), directory.path());
    let images = Images::new(shared, ledger, policy, assignment.subscribe(), statuses);
    let node = Node { _directory: directory, engine, images, assignment };
    for image in ["old", "web", "before"] {
        node.engine.forget_image(image);
        node.images
            .ledger
            .pull(image, &RegistryLogins::new(), &watch::Sender::default())
            .await
            .unwrap();
    }
    node.engine.pull("hand", &RegistryLogins::new(), &watch::Sender::default()).await.unwrap();
    node.declare("web", Some("before"));
    let mut web = assigned("web-0", 1, Template::of_image("web"));
    web.generation = Generation(1);
    node.engine.create(&web).await.unwrap();
    node
}

impl Node {
    fn declare(&self, wanted: &str, fallback: Option<&str>) {
        let mut web = assigned("web-0", 1, Template::of_image(wanted));
        web.fallback = fallback.map(Template::of_image);
        let network = NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap());
        let assignment = Assignment {
            revision: Revision(1),
            instances: [(web.instance.clone(), web)].into(),
            ..Assignment::empty(network)
        };
        self.assignment.send_replace(Some(Arc::new(assignment)));
    }

    async fn names(&self) -> BTreeSet<String> {
        let images = self.engine.images().await.unwrap();
        images.into_iter().flat_map(|image| image.names).collect()
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[tokio::test]
async fn a_prune_takes_what_was_fetched_and_nothing_needs() {
    let node = node().await;
    let (planned, _) = node.images.prune(Scope::Own, true).await.unwrap();
    assert_eq!(planned.iter().flat_map(|one| &one.names).collect::<Vec<_>>(), ["old"]);
    assert_eq!(node.names().await.len(), 4, "nothing was removed");
    let (removed, failed) = node.images.prune(Scope::Own, false).await.unwrap();
    assert_eq!((removed, failed.len()), (planned, 0));
    assert_eq!(node.names().await, set(&["before", "hand", "web"]));
    node.images.prune(Scope::All, false).await.unwrap();
    assert_eq!(node.names().await, set(&["before", "web"]), "also what somebody loaded");
}

#[tokio::test]
async fn what_could_not_be_removed_is_told_and_the_rest_goes() {
    let node = node().await;
    let error = EngineError::Other {
        engine: "fake",
        operation: "remove an image",
        reason: "it was told to fail".to_owned(),
    };
    node.engine.fail_next(Operation::RemoveImage, 1, error.clone());
    let (removed, failed) = node.images.prune(Scope::All, false).await.unwrap();
    assert_eq!((removed.len(), failed.len(), &failed[0].1), (1, 1, &error));
}

#[tokio::test]
async fn an_image_that_is_needed_is_not_removed_and_by_what_is_told() {
    let node = node().await;
    let refused = node.images.remove("before").await.unwrap_err().to_string();
    assert!(refused.contains("is needed by web-0"), "{refused}");
    // Of a container that is no instance's any more.
    node.declare("before", None);
    let refused = node.images.remove("web").await.unwrap_err().to_string();
    assert!(refused.contains("a container"), "{refused}");
    node.engine.break_image("none", true);
    let refused = node.images.remove("none").await.unwrap_err().to_string();
    assert!(refused.contains("not on this node"), "{refused}");
    let removal = node.images.remove("hand").await.unwrap();
    assert_eq!((removal.whole, node.names().await), (true, set(&["before", "old", "web"])));
}

#[tokio::test]
async fn nothing_is_removed_before_it_is_known_what_is_to_run() {
    let node = node().await;
    let confirmed = node.assignment.send_replace(None).unwrap();
    let refused = node.images.prune(Scope::All, false).await.unwrap_err();
    assert!(matches!(refused, ImagesError::Unsure), "{refused}");
    // A controller that was restored may have forgotten some of it.
    let unconfirmed = Assignment { unconfirmed: true, ..(*confirmed).clone() };
    node.assignment.send_replace(Some(Arc::new(unconfirmed)));
    let refused = node.images.remove("old").await.unwrap_err();
    assert!(matches!(refused, ImagesError::Unsure), "{refused}");
    assert_eq!(node.names().await.len(), 4);
}

/// What is declared while others are removed is needed from then on.
#[tokio::test]
async fn what_is_declared_meanwhile_stays() {
    let node = node().await;
    let images = node.images.clone();
    node.engine.stall_subject(Operation::RemoveImage, "hand");
    node.engine.stall_subject(Operation::RemoveImage, "old");
    let pruning = tokio::spawn(async move { images.prune(Scope::All, false).await });
    while node.engine.count(Operation::RemoveImage) == 0 {
        tokio::task::yield_now().await;
    }
    let last = node.engine.journal().pop().unwrap().subject;
    let other = if last == "old" { "hand" } else { "old" };
    node.declare("web", Some(other));
    node.engine.release_subject(Operation::RemoveImage, "hand");
    node.engine.release_subject(Operation::RemoveImage, "old");
    let (removed, _) = pruning.await.unwrap().unwrap();
    assert_eq!((removed.len(), &removed[0].names[..]), (1, &[last][..]));
    assert!(node.names().await.contains(other));
}

#[tokio::test(start_paused = true)]
async fn the_keeper_removes_what_is_too_old_and_nothing_of_others() {
    let node = node().await;
    let clock = Arc::new(TokioClock::new());
    let keeper = tokio::spawn(ImageKeeper::new(node.images.clone(), clock).run());
    let mut hours = 0;
    while node.names().await.contains("old") {
        assert!(hours < 200, "it never goes");
        hours += 1;
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    assert!(hours > 71, "it goes too early: after {hours} h");
    tokio::time::sleep(Duration::from_secs(200 * 3600)).await;
    assert_eq!(node.names().await, set(&["before", "hand", "web"]));
    keeper.abort();
}
