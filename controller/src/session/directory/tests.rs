//! When there is something to say of the directory, in time that passes at will.

use dwell_core::clock::{Clock, Timestamp};
use dwell_core::net::ClusterRange;
use dwell_core::session::Hello;
use dwell_core::workload::{Placement, Template, UpdatePolicy, WorkloadSpec};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::model::{Command, Join, Settings, TokenId};
use crate::owner::Owner;
use crate::store::memory::MemoryStore;

struct Midnight;

impl Clock for Midnight {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

async fn start() -> Handle {
    let range = ClusterRange::new("10.80.0.0/16".parse().unwrap(), 24).unwrap();
    let model = Model::new(Settings::new(range));
    let (owner, handle) = Owner::new(model, MemoryStore::default(), Arc::new(Midnight));
    tokio::spawn(owner.run(CancellationToken::new()));
    let (token, digest) = (TokenId("t".into()), [7; 32]);
    let expires_at = Timestamp(u64::MAX);
    handle.command(Command::MintToken { id: token.clone(), digest, expires_at }).await.unwrap();
    let address = [192, 0, 2, 1].into();
    let (enrolment, routes_only) = (String::new(), false);
    let join =
        Join { token, digest, name: node(), address, enrolment, routes_only, host_mark: None };
    handle.command(Command::RedeemToken(join)).await.unwrap();
    let hello = Hello::of([192, 0, 2, 1].into());
    let attach = Command::AttachNode {
        node: node(),
        enrolment: String::new(),
        session: SESSION,
        hello: Box::new(hello),
    };
    handle.command(attach).await.unwrap();
    handle
}

async fn declare(handle: &Handle, name: &str) {
    let spec = WorkloadSpec {
        name: name.parse().unwrap(),
        replicas: 0,
        template: Template::of_image("debian"),
        addresses: Vec::new(),
        placement: Placement::default(),
        update: UpdatePolicy::default(),
        labels: [].into(),
    };
    handle
        .command(Command::ApplyWorkloads {
            specs: vec![spec],
            keep_replicas: std::collections::BTreeSet::new(),
            dry_run: false,
            by: String::new(),
        })
        .await
        .unwrap();
}

const SESSION: SessionId = SessionId(1);

fn node() -> NodeName {
    "h1".parse().unwrap()
}

async fn next(feed: &mut DirectoryFeed, handle: &Handle) -> Vec<String> {
    feed.due(handle).await.unwrap();
    let change = feed.take().unwrap();
    change.workloads.into_iter().map(|workload| workload.workload).collect()
}

#[tokio::test(start_paused = true)]
async fn changes_go_together_and_without_one_there_is_silence() {
    let handle = start().await;
    declare(&handle, "a").await;
    let mut feed = DirectoryFeed::new(
        &handle,
        (node(), SESSION),
        WholeDirectory::default(),
        Position::default(),
    );
    assert_eq!(next(&mut feed, &handle).await, ["a"], "the whole");
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, feed.due(&handle)).await.is_err(), "nothing to say");

    let begun = Instant::now();
    declare(&handle, "b").await;
    assert_eq!(next(&mut feed, &handle).await, ["b"], "the first at once");
    assert!(begun.elapsed() < PAUSE / 10, "{:?}", begun.elapsed());
    declare(&handle, "c").await;
    declare(&handle, "d").await;
    assert_eq!(next(&mut feed, &handle).await, ["c", "d"], "the rest together");
    let elapsed = begun.elapsed();
    assert!(elapsed >= PAUSE && elapsed < 2 * PAUSE, "{elapsed:?}");
    assert!(tokio::time::timeout(hour, feed.due(&handle)).await.is_err(), "nothing to say");
}

#[tokio::test(start_paused = true)]
async fn who_holds_what_there_is_is_told_nothing_until_there_is_more() {
    let handle = start().await;
    declare(&handle, "a").await;
    let revision = handle.read(Model::revision).await.unwrap();
    let held = Position { revision, ..Position::default() };
    let mut feed = DirectoryFeed::new(&handle, (node(), SESSION), WholeDirectory::default(), held);
    let nothing = tokio::time::timeout(PAUSE, feed.due(&handle)).await;
    assert!(nothing.is_err() && feed.take().is_none());
    // What changes nothing in the directory moves the revision, but not what the agent holds.
    let note = Command::Note {
        subject: crate::model::Subject::Cluster,
        reason: "noted",
        message: String::new(),
    };
    handle.command(note).await.unwrap();
    declare(&handle, "b").await;
    feed.due(&handle).await.unwrap();
    let change = feed.take().unwrap();
    assert_eq!((change.base_revision, change.workloads.len()), (held.revision.0, 1));
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_gets_the_same_and_what_changed_since() {
    let handle = start().await;
    let whole = WholeDirectory::default();
    declare(&handle, "a").await;
    let mut first =
        DirectoryFeed::new(&handle, (node(), SESSION), whole.clone(), Position::default());
    assert_eq!(next(&mut first, &handle).await, ["a"]);
    declare(&handle, "b").await;
    let mut second = DirectoryFeed::new(&handle, (node(), SESSION), whole, Position::default());
    let begun = Instant::now();
    assert_eq!(next(&mut second, &handle).await, ["a"]);
    assert_eq!(next(&mut second, &handle).await, ["b"], "with it");
    assert!(begun.elapsed() < PAUSE, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_removed_node_is_told_no_names() {
    let handle = start().await;
    declare(&handle, "a").await;
    let mut feed = DirectoryFeed::new(
        &handle,
        (node(), SESSION),
        WholeDirectory::default(),
        Position::default(),
    );
    handle.command(Command::RemoveNode { node: node(), force: false }).await.unwrap();
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, feed.due(&handle)).await.is_err());
}
