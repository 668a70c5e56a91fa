//! The owner with a store that fails and stalls.

use std::sync::atomic::{AtomicU64, Ordering};

use dwell_core::clock::Timestamp;
use dwell_core::id::WorkloadName;
use dwell_core::net::ClusterRange;
use dwell_core::workload::{OnLost, OnMove, Placement, Template, UpdatePolicy, WorkloadSpec};

use super::*;
use crate::model::{SessionId, Settings};
use crate::store::memory::MemoryStore;

/// A clock that a test sets.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

async fn start(store: &MemoryStore) -> Handle {
    start_at(store, Arc::new(Hand::default())).await
}

async fn start_at(store: &MemoryStore, clock: Arc<Hand>) -> Handle {
    let range = ClusterRange::new("10.80.0.0/16".parse().unwrap(), 24).unwrap();
    let mut store = store.clone();
    let records = store.load().await.unwrap();
    let model = Model::restore(Settings::new(range), records, Timestamp(0));
    let (owner, handle) = Owner::new(model, store, clock);
    tokio::spawn(owner.run(CancellationToken::new()));
    handle
}

fn declare(name: &str) -> Command {
    let spec = WorkloadSpec {
        name: name.parse().unwrap(),
        replicas: 1,
        run: None,
        template: Template::of_image("debian"),
        addresses: Vec::new(),
        placement: Placement::default(),
        update: UpdatePolicy::default(),
        on_lost: OnLost::Keep,
        on_move: OnMove::default(),
        labels: BTreeMap::new(),
        job: None,
    };
    Command::ApplyWorkloads {
        specs: vec![spec],
        keep_replicas: std::collections::BTreeSet::new(),
        dry_run: false,
        force: false,
        planned: Vec::new(),
        by: String::new(),
    }
}

async fn workloads(handle: &Handle) -> Vec<WorkloadName> {
    let names = |model: &Model| {
        model.workloads().into_iter().map(|view| view.workload.spec.name.clone()).collect()
    };
    handle.read(names).await.unwrap()
}

#[tokio::test]
async fn what_cannot_be_stored_did_not_happen() {
    let store = MemoryStore::default();
    let handle = start(&store).await;
    handle.command(declare("web")).await.unwrap();
    store.set_failing(true);
    let error = handle.command(declare("db")).await.unwrap_err();
    assert!(matches!(error, CommandError::NotStored(_)), "{error}");
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(workloads(&handle).await, ["web".parse().unwrap()]);
    store.set_failing(false);
    handle.command(declare("db")).await.unwrap();
    let restarted = start(&store).await;
    assert_eq!(workloads(&restarted).await, ["db".parse().unwrap(), "web".parse().unwrap()]);
}

#[tokio::test]
async fn commands_that_queue_up_share_a_commit_and_its_fate() {
    let store = MemoryStore::default();
    let handle = start(&store).await;
    handle.command(declare("first")).await.unwrap();
    for (failing, prefix) in [(false, "a"), (true, "b")] {
        let stalled = store.stall().await;
        let before = store.commits();
        let ask = |name: String| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.command(declare(&name)).await })
        };
        let leader = ask(format!("{prefix}-leader"));
        let followers: Vec<_> = (0..20).map(|number| ask(format!("{prefix}-{number}"))).collect();
        // On one thread: by now the leader's batch is with the store and the others are queued.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!leader.is_finished());
        store.set_failing(failing);
        drop(stalled);
        assert_eq!(leader.await.unwrap().is_err(), failing);
        for follower in followers {
            assert_eq!(follower.await.unwrap().is_err(), failing);
        }
        let commits = store.commits() - before;
        assert!(commits <= 2, "{commits} commits");
    }
    store.set_failing(false);
    let names = workloads(&handle).await;
    assert_eq!(names.len(), 1 + 21, "{names:?}");
    assert_eq!(workloads(&start(&store).await).await, names);
}

#[tokio::test]
async fn nothing_is_seen_before_it_is_stored() {
    let store = MemoryStore::default();
    let handle = start(&store).await;
    let revisions = handle.revisions();
    let before = *revisions.borrow();
    let stalled = store.stall().await;
    let asking = handle.clone();
    let command = tokio::spawn(async move { asking.command(declare("web")).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*revisions.borrow(), before);
    drop(stalled);
    let done = command.await.unwrap().unwrap();
    assert_eq!(*revisions.borrow(), done.revision);
}

#[tokio::test]
async fn what_is_not_durable_writes_nothing_and_needs_no_disk() {
    let store = MemoryStore::default();
    let handle = start(&store).await;
    join(&handle, "h1").await;
    let node: NodeName = "h1".parse().unwrap();
    let session = SessionId(1);
    let attach = Command::AttachNode {
        node: node.clone(),
        enrolment: "c".to_owned(),
        session,
        hello: Box::new(dwell_core::session::Hello::of([192, 0, 2, 1].into())),
    };
    handle.command(attach).await.unwrap();
    let before = store.commits();
    store.set_failing(true);
    for _ in 0..100 {
        handle
            .command(Command::Heartbeat { node: node.clone(), session, capacity: None })
            .await
            .unwrap();
    }
    assert_eq!(store.commits(), before);
}

async fn join(handle: &Handle, name: &str) {
    let id = crate::model::TokenId("t".to_owned());
    let digest = [1; 32];
    let expires_at = Timestamp(1_000);
    handle.command(Command::MintToken { id: id.clone(), digest, expires_at }).await.unwrap();
    let join = crate::model::Join {
        token: id,
        digest,
        name: name.parse().unwrap(),
        address: [192, 0, 2, 1].into(),
        enrolment: "c".to_owned(),
        routes_only: false,
        host_mark: None,
    };
    handle.command(Command::RedeemToken(join)).await.unwrap();
}

#[tokio::test]
async fn a_follower_hears_of_its_own_node_only() {
    let store = MemoryStore::default();
    let handle = start(&store).await;
    join(&handle, "h1").await;
    let mut own = handle.follow("h1".parse().unwrap()).await.unwrap();
    let other = handle.follow("h2".parse().unwrap()).await.unwrap();
    let attach = Command::AttachNode {
        node: "h1".parse().unwrap(),
        enrolment: "c".to_owned(),
        session: SessionId(1),
        hello: Box::new(dwell_core::session::Hello::of([192, 0, 2, 1].into())),
    };
    handle.command(attach).await.unwrap();
    own.mark_unchanged();
    handle.command(declare("web")).await.unwrap();
    own.changed().await.unwrap();
    assert!(!other.has_changed().unwrap());
}

#[tokio::test]
async fn at_the_end_what_is_queued_is_still_done() {
    let store = MemoryStore::default();
    let range = ClusterRange::new("10.80.0.0/16".parse().unwrap(), 24).unwrap();
    let model = Model::new(Settings::new(range));
    let (owner, handle) = Owner::new(model, store.clone(), Arc::new(Hand::default()));
    let stop = CancellationToken::new();
    stop.cancel();
    let asking = handle.clone();
    let queued = tokio::spawn(async move { asking.command(declare("web")).await });
    tokio::task::yield_now().await;
    owner.run(stop).await;
    queued.await.unwrap().unwrap();
    let late = handle.command(declare("db")).await.unwrap_err();
    assert!(matches!(late, CommandError::Stopped(_)), "{late}");
}

async fn state(handle: &Handle) -> dwell_core::node::NodeState {
    handle.read(|model| model.node(&"h1".parse().unwrap()).unwrap().state).await.unwrap()
}

#[tokio::test]
async fn with_a_full_disk_nodes_still_go_down_and_come_back() {
    use dwell_core::node::NodeState;
    let (store, clock) = (MemoryStore::default(), Arc::new(Hand::default()));
    let handle = start_at(&store, Arc::clone(&clock)).await;
    join(&handle, "h1").await;
    let attach = |session| Command::AttachNode {
        node: "h1".parse().unwrap(),
        enrolment: "c".to_owned(),
        session: SessionId(session),
        hello: Box::new(dwell_core::session::Hello::of([192, 0, 2, 1].into())),
    };
    handle.command(attach(1)).await.unwrap();
    handle.command(declare("web")).await.unwrap();
    assert_eq!(state(&handle).await, NodeState::Ready);

    assert!(handle.ailing().is_none());
    store.set_failing(true);
    handle.command(declare("db")).await.unwrap_err();
    assert!(handle.ailing().is_some(), "whoever asks how the fleet is hears of it");
    clock.0.store(3_600_000, Ordering::Relaxed);
    handle.command(Command::Tick).await.unwrap();
    assert_eq!(state(&handle).await, NodeState::Down, "a silent node goes down");
    handle.command(attach(2)).await.unwrap();
    assert_eq!(state(&handle).await, NodeState::Ready, "and is taken in when it comes back");
    let status = Command::NodeStatus {
        node: "h1".parse().unwrap(),
        session: SessionId(2),
        report: dwell_core::session::StatusReport {
            seen_under: dwell_core::id::Position {
                revision: handle.read(Model::revision).await.unwrap(),
                ..Default::default()
            },
            instances: vec![
                handle
                    .read(|model| dwell_core::instance::InstanceStatus {
                        phase: dwell_core::instance::Phase::Running,
                        message: String::new(),
                        ..model.instance(&"web-0".parse().unwrap()).unwrap().status
                    })
                    .await
                    .unwrap(),
            ],
            ..Default::default()
        },
    };
    handle.command(status).await.unwrap();
    let phase = |model: &Model| model.instance(&"web-0".parse().unwrap()).unwrap().status.phase;
    assert_eq!(handle.read(phase).await.unwrap(), dwell_core::instance::Phase::Running);
    handle.command(declare("db")).await.unwrap_err();

    // Once it can be written, what was only shown has to be said again, on a new stream.
    store.set_failing(false);
    handle.command(declare("db")).await.unwrap();
    assert!(handle.ailing().is_none());
    handle.command(Command::Tick).await.unwrap();
    let heartbeat =
        Command::Heartbeat { node: "h1".parse().unwrap(), session: SessionId(2), capacity: None };
    let error = handle.command(heartbeat).await.unwrap_err();
    assert!(matches!(error, CommandError::Refused(Refusal::SessionSuperseded(_))), "{error}");
    handle.command(attach(3)).await.unwrap();
    assert_eq!(workloads(&start(&store).await).await, workloads(&handle).await);
}

#[tokio::test]
async fn when_nobody_knows_what_is_on_the_disk_the_owner_ends() {
    let store = MemoryStore::default();
    let handle = start(&store).await;
    handle.command(declare("web")).await.unwrap();
    store.fail_after_writing();
    let error = handle.command(declare("lost")).await.unwrap_err();
    assert!(matches!(error, CommandError::NotKnown(_)), "{error}");
    assert!(!error.to_string().contains("nothing was changed"), "{error}");
    handle.read(|_| ()).await.unwrap_err();
    // What is there is read again, and nothing else is claimed.
    assert_eq!(workloads(&start(&store).await).await.len(), 2);
}

/// A clock whose wall clock was put right by an hour after the start.
struct PutRight(AtomicU64);

impl Clock for PutRight {
    fn now(&self) -> Timestamp {
        Timestamp(1_000_000)
    }

    fn wall(&self) -> Timestamp {
        Timestamp(1_000_000 + self.0.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn events_carry_the_wall_clock_of_now_and_a_step_makes_no_node_silent() {
    let range = ClusterRange::new("10.80.0.0/16".parse().unwrap(), 24).unwrap();
    let clock = Arc::new(PutRight(AtomicU64::new(0)));
    let model = Model::new(Settings::new(range));
    let (owner, handle) = Owner::new(model, MemoryStore::default(), Arc::clone(&clock) as _);
    tokio::spawn(owner.run(CancellationToken::new()));
    let id = crate::model::TokenId("t".to_owned());
    let expires_at = Timestamp(u64::MAX);
    handle
        .command(Command::MintToken { id: id.clone(), digest: [1; 32], expires_at })
        .await
        .unwrap();
    let join = crate::model::Join {
        token: id,
        digest: [1; 32],
        name: "h1".parse().unwrap(),
        address: [192, 0, 2, 1].into(),
        enrolment: "c".to_owned(),
        routes_only: false,
        host_mark: None,
    };
    handle.command(Command::RedeemToken(join)).await.unwrap();
    let attach = Command::AttachNode {
        node: "h1".parse().unwrap(),
        enrolment: "c".to_owned(),
        session: SessionId(1),
        hello: Box::new(dwell_core::session::Hello::of([192, 0, 2, 1].into())),
    };
    handle.command(attach).await.unwrap();
    clock.0.store(3_600_000, Ordering::Relaxed);
    handle.command(Command::Tick).await.unwrap();
    assert_eq!(state(&handle).await, dwell_core::node::NodeState::Ready);
    handle.command(declare("web")).await.unwrap();
    let at = |model: &Model| model.events(Some("workload/web"), 1)[0].at;
    assert_eq!(handle.read(at).await.unwrap(), Timestamp(4_600_000));
    let seen = |model: &Model| model.node(&"h1".parse().unwrap()).unwrap().last_seen;
    assert_eq!(handle.read(seen).await.unwrap(), Some(Timestamp(4_600_000)));
}

/// Whoever lists and then watches is never told that the list came from the future.
#[tokio::test]
async fn a_failed_commit_leaves_lists_and_watches_in_step() {
    let store = MemoryStore::default();
    let handle = start(&store).await;
    store.set_failing(true);
    handle.command(declare("web")).await.unwrap_err();
    let listed = handle.read(Model::revision).await.unwrap();
    assert_eq!(*handle.revisions().borrow(), listed);
}
