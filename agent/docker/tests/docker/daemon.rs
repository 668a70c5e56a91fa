//! A daemon that is not ready yet, and one that stops.

use std::time::{Duration, Instant};

use dwell_docker::world::{PATIENCE, World, shell};
use dwell_docker::{Runtime, daemon_json};
use dwell_engine::fake::assigned;
use dwell_engine::{Engine as _, EngineError};
use futures_util::StreamExt;
use tokio::time::timeout;

#[tokio::test]
async fn no_container_is_made_without_the_runtime() {
    let world = World::new().await;
    let node = world.node("early", Runtime::Dwell);
    let report = node.engine.info().await.unwrap();
    assert!(!report.info.ready && report.info.message.contains("install-runtime"), "{report:?}");
    assert_eq!(report.data_root.unwrap(), world.directory().join("data"));
    let refused = node.create(&assigned("early-0", 1, shell("true"))).await.unwrap_err();
    assert!(matches!(refused, EngineError::RuntimeMissing { .. }), "{refused}");
    assert_eq!(node.engine.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_runtime_that_is_taken_out_is_forgotten_without_a_restart() {
    let world = World::new().await;
    world.register_runtime().await;
    let engine = world.node("unused", Runtime::Dwell).engine;
    let daemon_json = world.directory().join("daemon.json");
    let left = daemon_json::withdraw(&daemon_json).unwrap().unwrap();
    world.signal("HUP");
    world
        .until("the runtime is forgotten", async || {
            engine.info().await.is_ok_and(|report| !report.info.ready)
        })
        .await;
    left.finish().unwrap();
    assert!(!daemon_json.exists());
}

/// A daemon that does not answer makes calls fail in time; one that is back serves again, with the
/// same engine object.
#[tokio::test]
async fn a_daemon_that_stops_is_told_in_time() {
    let world = World::new().await;
    let node = world.node("stopped", Runtime::Dwell);
    world.signal("STOP");
    let start = Instant::now();
    let failed = node.engine.list().await.unwrap_err();
    world.signal("CONT");
    assert!(matches!(failed, EngineError::Unavailable { .. }), "{failed}");
    assert!(start.elapsed() < Duration::from_secs(40));
    world.until("it answers again", async || node.engine.list().await.is_ok()).await;

    let mut events = node.engine.events().await.unwrap();
    // Opens the connection, which begins with the last second.
    drop(timeout(Duration::from_millis(100), events.next()).await);
    world.signal("TERM");
    let end = async { while let Some(Ok(_)) = events.next().await {} };
    timeout(PATIENCE, end).await.unwrap();
    // It ends the events first and answers for a little while yet.
    world
        .until("it answers no more", async || {
            matches!(node.engine.list().await, Err(EngineError::Unavailable { .. }))
        })
        .await;
}
