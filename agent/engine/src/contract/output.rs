//! What a container wrote.

use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::container::ContainerId;
use tokio::time::timeout;

use super::{GRACE, Harness, PATIENCE, Program, inspected, started, texts};
use crate::{EngineError, LogOptions};

const THREE: Program = Program::Prints { text: "one\ntwo\nthree\n", exit_code: 0 };

async fn read(harness: &dyn Harness, id: &ContainerId, options: &LogOptions) -> String {
    texts(harness.engine().logs(id, options).await.unwrap()).await.0
}

/// All of it, its last lines, and each line with its time; of what is gone there is none.
pub async fn output_is_read_and_cut(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = started(harness, "output-0", THREE).await;
    engine.wait(&id).await.unwrap();
    assert_eq!(read(harness, &id, &LogOptions::default()).await, "one\ntwo\nthree\n");
    let last = LogOptions { tail: Some(1), ..LogOptions::default() };
    assert_eq!(read(harness, &id, &last).await, "three\n");
    let last = LogOptions { timestamps: true, ..last };
    let line = read(harness, &id, &last).await;
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z') && rest == "three\n", "{line}");
    engine.remove(&id).await.unwrap();
    let gone = engine.logs(&id, &last).await.err();
    assert!(matches!(gone, Some(EngineError::NotFound { .. })), "{gone:?}");
}

/// Who follows gets what comes until the process ends, and is done then.
pub async fn lines_are_followed_until_the_end(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = started(harness, "follow-0", Program::Serves { exit_code: 0 }).await;
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let output = engine.logs(&id, &follow).await.unwrap();
    let both = async { tokio::join!(texts(output), engine.stop(&id, GRACE)) };
    let (_, stopped) = timeout(PATIENCE, both).await.unwrap();
    assert_eq!(stopped, Ok(()));
    engine.remove(&id).await.unwrap();

    let id = started(harness, "follow-1", THREE).await;
    assert_eq!(read(harness, &id, &follow).await, "one\ntwo\nthree\n");
    engine.remove(&id).await.unwrap();
}

/// Lines can be had from a moment on, which counts by the millisecond.
pub async fn lines_since_a_moment(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = started(harness, "since-1", THREE).await;
    engine.wait(&id).await.unwrap();
    // So that the two runs are not of one millisecond.
    tokio::time::sleep(Duration::from_millis(20)).await;
    engine.start(&id).await.unwrap();
    engine.wait(&id).await.unwrap();
    let times = LogOptions { timestamps: true, ..LogOptions::default() };
    let all = read(harness, &id, &times).await;
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 6, "{all}");
    let time: jiff::Timestamp = lines[3].split(' ').next().unwrap().parse().unwrap();
    let since = Some(Timestamp(u64::try_from(time.as_millisecond()).unwrap()));
    let since = LogOptions { since, ..LogOptions::default() };
    assert_eq!(read(harness, &id, &since).await, "one\ntwo\nthree\n");
    engine.remove(&id).await.unwrap();
}

/// What the newest container that is gone wrote last can still be had.
pub async fn the_last_output_outlives_the_container(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = started(harness, "last-0", THREE).await;
    engine.wait(&id).await.unwrap();
    let instance = inspected(harness, &id).await.instance;
    assert_eq!(engine.previous_output(&instance).await.unwrap(), None);
    engine.remove(&id).await.unwrap();
    let kept = engine.previous_output(&instance).await.unwrap().unwrap();
    let kept = String::from_utf8(kept).unwrap();
    assert!(kept.ends_with("one\ntwo\nthree\n"), "{kept}");
}
