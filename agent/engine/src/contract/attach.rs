//! Main processes with an input.

use std::time::Instant;

use dwell_core::container::ContainerId;
use dwell_core::id::Generation;
use dwell_core::job::Task;
use tokio::io::AsyncWriteExt;

use super::{Harness, PATIENCE, Program, assigned, started, texts};
use crate::EngineError;

/// A job's instance, made and not started.
async fn made(harness: &dyn Harness, name: &str) -> ContainerId {
    let mut assigned = assigned(harness, name, Program::Repeats).await;
    assigned.task = Some(Task { number: Generation(1), failed_before: 0 });
    harness.engine().create(&assigned).await.unwrap()
}

/// Whoever attaches after the start has what was printed before, also what is no whole line; gives the input, and ends it.
pub async fn a_main_process_is_attached_to(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = made(harness, "attach-0").await;
    engine.start(&id).await.unwrap();
    let mut session = engine.attach(&id).await.unwrap();
    let write = async {
        session.input.write_all(b"x\n").await.unwrap();
        session.input.shutdown().await.unwrap();
    };
    let ((), (output, _)) = tokio::join!(write, texts(session.output));
    assert_eq!(output, "name? x\n");
    assert_eq!(engine.wait(&id).await, Ok(0));
    assert_eq!(session.control.exit_code().await, Ok(Some(0)));
    engine.remove(&id).await.unwrap();
}

/// One that nobody is attached to any more can be ended.
pub async fn a_main_process_that_nobody_waits_for_is_hung_up(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = made(harness, "attach-1").await;
    engine.start(&id).await.unwrap();
    let session = engine.attach(&id).await.unwrap();
    assert_eq!(session.control.exit_code().await, Ok(None));
    let begun = Instant::now();
    session.control.hang_up().await.unwrap();
    engine.wait(&id).await.unwrap();
    assert!(begun.elapsed() < PATIENCE);
    session.control.hang_up().await.unwrap();
    engine.remove(&id).await.unwrap();
}

/// What has ended still has what it printed, and its exit code.
pub async fn what_has_ended_is_attached_to_and_what_never_ran_is_not(harness: &dyn Harness) {
    let engine = harness.engine();
    let prints = Program::Prints { text: "said\n", exit_code: 3 };
    let id = started(harness, "attach-2", prints).await;
    engine.wait(&id).await.unwrap();
    let session = engine.attach(&id).await.unwrap();
    assert_eq!(texts(session.output).await.0, "said\n");
    assert_eq!(session.control.exit_code().await, Ok(Some(3)));
    engine.remove(&id).await.unwrap();

    let id = made(harness, "attach-3").await;
    let refused = engine.attach(&id).await.err();
    assert!(matches!(refused, Some(EngineError::NotRunning { .. })), "{refused:?}");
    engine.remove(&id).await.unwrap();
}
