use dwell_engine::Engine as _;
use dwell_engine::fake::control::TokioClock;
use dwell_engine::fake::{FakeEngine, Operation};

use super::*;
use crate::images::uses::{Role, Use};

struct Fixture {
    directory: tempfile::TempDir,
    engine: FakeEngine,
    ledger: Ledger,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let engine = FakeEngine::new(Arc::new(TokioClock::new()));
    let ledger = Ledger::load(Arc::new(engine.clone()), directory.path());
    Fixture { directory, engine, ledger }
}

impl Fixture {
    async fn pull(&self, image: &str) -> Result<(), EngineError> {
        self.ledger.pull(image, &RegistryLogins::new(), &watch::Sender::default()).await
    }

    /// As after a crash of the agent.
    fn again(&self) -> Ledger {
        Ledger::load(Arc::new(self.engine.clone()), self.directory.path())
    }

    async fn id(&self, image: &str) -> ImageDigest {
        self.engine.find_image(image).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn what_was_not_there_before_is_ours_and_outlives_the_agent() {
    let node = fixture();
    node.engine.forget_image("a");
    node.pull("a").await.unwrap();
    let expected = Fetched { names: ["a".to_owned()].into(), via: Via::Pull, unused: Millis(0) };
    assert_eq!(node.again().own(), [(node.id("a").await, expected)].into());
    // Somebody has loaded it by hand.
    node.pull("b").await.unwrap();
    assert_eq!(node.again().own().len(), 1);
    node.engine.break_image("c", true);
    node.pull("c").await.unwrap_err();
    assert_eq!((node.again().own().len(), node.again().state().record.pending.len()), (1, 0));
}

/// The agent is killed after the engine has fetched an image, and before it has noted that.
#[tokio::test]
async fn an_image_that_came_while_the_agent_was_killed_is_ours() {
    let node = fixture();
    for image in ["a", "b", "c"] {
        node.engine.forget_image(image);
    }
    node.engine.lose_answers(Operation::Pull, 1);
    tokio::select! {
        biased;
        _ = node.pull("a") => panic!("its answer is lost"),
        () = async { while node.engine.find_image("a").await.unwrap().is_none() { tokio::task::yield_now().await; } } => {}
    }
    // And before it had come.
    node.engine.stall(Operation::Pull);
    tokio::select! {
        biased;
        _ = node.pull("b") => panic!("it stalls"),
        () = async { while node.engine.count(Operation::Pull) < 2 { tokio::task::yield_now().await; } } => {}
    }
    let ledger = node.again();
    assert_eq!(ledger.own().len(), 0);
    let images = node.engine.images().await.unwrap();
    ledger.look(&images, &Own::new(), &Uses::default(), Duration::ZERO).await;
    assert_eq!(ledger.own().into_keys().collect::<Vec<_>>(), [node.id("a").await]);
    assert_eq!(node.again().own(), ledger.own());
    assert_eq!(node.again().state().record.pending.len(), 0);
}

#[tokio::test]
async fn the_time_that_nothing_needs_an_image_is_counted_while_somebody_watches() {
    const HOUR: Duration = Duration::from_secs(3600);
    let node = fixture();
    node.engine.forget_image("a");
    node.pull("a").await.unwrap();
    let id = node.id("a").await;
    let look = async |ledger: &Ledger, uses: &Uses| {
        let images = node.engine.images().await.unwrap();
        ledger.look(&images, &ledger.own(), uses, HOUR).await;
        ledger.own().get(&id).map(|fetched| fetched.unused.as_duration())
    };
    let nothing = Uses::default();
    assert_eq!(look(&node.ledger, &nothing).await, Some(HOUR));
    let again = node.again();
    assert_eq!(look(&again, &nothing).await, Some(2 * HOUR), "it is counted on");
    let mut needed = Uses::default();
    needed.add(id, Use { instance: "web-0".parse().unwrap(), role: Role::FallBack });
    assert_eq!(look(&again, &needed).await, Some(Duration::ZERO));
    assert_eq!(look(&again, &nothing).await, Some(HOUR));
    node.engine.remove_image("a").await.unwrap();
    assert_eq!(look(&again, &nothing).await, None, "it is gone");
}

/// An image that comes between the list and the look is not taken for gone.
#[tokio::test]
async fn what_came_since_the_list_is_still_ours() {
    let node = fixture();
    node.engine.forget_image("a");
    let (known, images) = (node.ledger.own(), node.engine.images().await.unwrap());
    node.pull("a").await.unwrap();
    node.ledger.look(&images, &known, &Uses::default(), Duration::ZERO).await;
    assert_eq!(node.ledger.own().len(), 1);
}

#[tokio::test]
async fn a_journal_that_is_damaged_makes_everything_somebody_elses() {
    let node = fixture();
    node.engine.forget_image("a");
    node.pull("a").await.unwrap();
    let path = node.directory.path().join(FILE);
    let mut text = std::fs::read(&path).unwrap();
    *text.last_mut().unwrap() = b' ';
    std::fs::write(&path, text).unwrap();
    assert_eq!(node.again().own(), Own::new());
    assert!(node.pull("a").await.is_ok());
}
