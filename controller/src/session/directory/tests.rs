//! When there is something to say of the directory, in time that passes at will.

use super::*;
use crate::model::Command;
use crate::session::fixture::{SESSION, declare, node, start};

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
