//! The fake keeps the promises of the trait, and breaks them only as told.

use dwell_core::registry::RegistryLogins;
use dwell_core::workload::Template;
use futures_util::TryStreamExt;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::control::TokioClock;
use super::*;

fn engine() -> FakeEngine {
    FakeEngine::new(Arc::new(TokioClock::new()))
}

fn web(generation: u64) -> Assigned {
    assigned("web-0", generation, Template::of_image("a"))
}

fn error() -> EngineError {
    EngineError::Other { engine: NAME, operation: "x", reason: "told so".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn a_life() {
    let engine = engine();
    let mut events = engine.events().await.unwrap();
    let id = engine.create(&web(1)).await.unwrap();
    assert!(matches!(engine.create(&web(1)).await, Err(EngineError::AlreadyExists { .. })));
    engine.start(&id).await.unwrap();
    engine.start(&id).await.unwrap();
    let waiting = engine.wait(&id);
    assert!(engine.crash(&id, 7));
    assert_eq!(waiting.await, Ok(7));
    assert_eq!(engine.inspect(&id).await.unwrap().details.unwrap().exit_code, Some(7));
    engine.start(&id).await.unwrap();
    engine.stop(&id, Duration::ZERO).await.unwrap();
    engine.remove(&id).await.unwrap();
    engine.remove(&id).await.unwrap();
    assert!(matches!(engine.inspect(&id).await, Err(EngineError::NotFound { .. })));
    engine.down();
    let mut kinds = Vec::new();
    while let Some(event) = events.try_next().await.unwrap() {
        kinds.push(event.kind);
    }
    let died = |code| EventKind::Died { exit_code: Some(code) };
    assert_eq!(
        kinds,
        [
            EventKind::Changed,
            EventKind::Started,
            died(7),
            EventKind::Started,
            died(143),
            EventKind::Removed
        ]
    );
    assert_eq!((engine.count(Operation::Start), engine.overlaps()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn faults_come_as_told_and_pass() {
    let engine = engine();
    engine.fail_next(Operation::Create, 1, error());
    engine.fail_after_next(Operation::Create, 1, error());
    assert_eq!(engine.create(&web(1)).await, Err(error()));
    assert_eq!(engine.containers().len(), 0);
    assert_eq!(engine.create(&web(1)).await, Err(error()));
    assert_eq!(engine.containers().len(), 1);
    assert!(engine.create(&web(2)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn stalled_calls_go_on_when_released() {
    let engine = engine();
    engine.stall(Operation::List);
    let mut list = engine.list();
    assert!(timeout(Duration::from_secs(3600), &mut list).await.is_err());
    engine.release(Operation::List);
    assert_eq!(list.await, Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_down_fails_what_waits() {
    let engine = engine();
    let id = engine.create(&web(1)).await.unwrap();
    engine.start(&id).await.unwrap();
    engine.stall(Operation::List);
    let (waited, listed, ()) =
        tokio::join!(engine.wait(&id), engine.list(), async { engine.down() });
    assert!(matches!(waited, Err(EngineError::Unavailable { .. })));
    assert!(matches!(listed, Err(EngineError::Unavailable { .. })));
    assert_eq!(engine.running(&web(1).instance), 1);
    engine.up();
    assert!(engine.inspect(&id).await.unwrap().details.unwrap().pid.is_some());
}

#[tokio::test(start_paused = true)]
async fn images_are_missing_until_pulled() {
    let engine = engine();
    let progress = watch::Sender::default();
    engine.break_image("a", true);
    assert!(matches!(engine.create(&web(1)).await, Err(EngineError::ImageMissing { .. })));
    assert!(engine.pull("a", &RegistryLogins::new(), &progress).await.unwrap_err().is_permanent());
    engine.forget_image("a");
    assert!(matches!(engine.create(&web(1)).await, Err(EngineError::ImageMissing { .. })));
    engine.pull("a", &RegistryLogins::new(), &progress).await.unwrap();
    assert!(engine.create(&web(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn events_are_lost_and_repeated() {
    let engine = engine();
    let mut events = engine.events().await.unwrap();
    engine.lose_events(1);
    engine.repeat_events(1);
    let id = engine.create(&web(1)).await.unwrap();
    engine.start(&id).await.unwrap();
    for _ in 0..2 {
        assert_eq!(events.try_next().await.unwrap().unwrap().kind, EventKind::Started);
    }
}

#[tokio::test(start_paused = true)]
async fn two_at_once_are_noticed() {
    let engine = engine();
    for generation in 1..=2 {
        let id = engine.create(&web(generation)).await.unwrap();
        engine.start(&id).await.unwrap();
    }
    assert_eq!(engine.overlaps(), 1);
}

#[tokio::test(start_paused = true)]
async fn output_and_commands() {
    let engine = engine();
    let id = engine.create(&web(1)).await.unwrap();
    let request = ExecRequest { command: vec!["ls".into(), "/".into()], ..ExecRequest::default() };
    assert!(matches!(engine.exec(&id, &request).await, Err(EngineError::NotRunning { .. })));
    engine.start(&id).await.unwrap();
    engine.set_exec_exit_code(3);
    let session = engine.exec(&id, &request).await.unwrap();
    assert_eq!(text(session.output).await, "ls /\n");
    assert_eq!(session.control.exit_code().await, Ok(Some(3)));

    let mut session =
        engine.exec(&id, &ExecRequest { stdin: true, ..request.clone() }).await.unwrap();
    session.input.write_all(b"hello").await.unwrap();
    session.input.shutdown().await.unwrap();
    assert_eq!(text(session.output).await, "hello");

    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let output = engine.logs(&id, &follow).await.unwrap();
    engine.print(&id, "more\n");
    let (output, crashed) = tokio::join!(text(output), async { engine.crash(&id, 1) });
    assert_eq!((output.as_str(), crashed), ("started\nmore\n", true));
}

async fn text(output: OutputStream) -> String {
    let pieces: Vec<_> = output.try_collect().await.unwrap();
    let bytes: Vec<u8> = pieces
        .into_iter()
        .flat_map(|piece| match piece {
            crate::Output::Stdout(bytes) | crate::Output::Stderr(bytes) => bytes,
        })
        .collect();
    String::from_utf8(bytes).unwrap()
}
