//! The life of a container.

use std::time::{Duration, Instant};

use dwell_core::container::{ContainerId, ContainerState, EventKind};
use dwell_core::id::{Generation, Revision};
use dwell_core::instance::Assigned;
use dwell_core::sandbox::Slot;
use futures_util::TryStreamExt;
use tokio::time::timeout;

use super::{GRACE, Harness, PATIENCE, Program, assigned, inspected, serving, started};
use crate::{Container, EngineError};

const SERVES: Program = Program::Serves { exit_code: 5 };

/// There is one container of an instance and generation, which is known by what it was made for.
pub async fn a_container_is_made_once(harness: &dyn Harness) {
    let engine = harness.engine();
    let first = Assigned {
        restarts_asked: 2,
        life: Revision(7),
        ..assigned(harness, "once-0", SERVES).await
    };
    let id = engine.create(&first).await.unwrap();
    let twice = engine.create(&first).await.unwrap_err();
    assert!(matches!(twice, EngineError::AlreadyExists { .. }), "{twice}");

    let expected = Container {
        id: id.clone(),
        instance: first.instance.clone(),
        generation: first.generation,
        life: Revision(7),
        slot: Slot::A,
        address: Some(first.address),
        fingerprint: first.template.fingerprint(),
        state: ContainerState::Created,
        restarts_asked: 2,
        details: None,
    };
    assert_eq!(engine.list().await.unwrap(), std::slice::from_ref(&expected));
    let seen = inspected(harness, &id).await;
    let details = seen.details.unwrap();
    assert_eq!((details.pid, details.started_at, details.exit_code), (None, None, None));
    assert_eq!(details.stop_grace, Some(first.template.stop_grace));
    assert_eq!(Container { details: None, ..seen }, expected);

    // Another generation is another container.
    let second = Assigned { generation: Generation(2), ..first };
    let other = engine.create_in(Slot::B, &second).await.unwrap();
    assert_eq!(engine.list().await.unwrap().len(), 2);
    assert_eq!(inspected(harness, &other).await.slot, Slot::B);
    for id in [&id, &other] {
        engine.remove(id).await.unwrap();
    }
}

/// Starting what runs leaves it as it is.
pub async fn a_start_can_be_repeated(harness: &dyn Harness) {
    let id = started(harness, "start-0", SERVES).await;
    let first = inspected(harness, &id).await;
    harness.engine().start(&id).await.unwrap();
    assert_eq!(inspected(harness, &id).await, first);
    assert_eq!(first.state, ContainerState::Running);
    let details = first.details.unwrap();
    assert!(details.pid.is_some() && details.started_at.is_some(), "{details:?}");
    assert_eq!((details.finished_at, details.exit_code), (None, None));
    harness.engine().remove(&id).await.unwrap();
}

/// A process that ends when asked has its exit code; the container can be started again.
pub async fn a_stop_lets_the_process_end(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = started(harness, "stop-0", SERVES).await;
    let begun = Instant::now();
    engine.stop(&id, GRACE).await.unwrap();
    assert!(begun.elapsed() < GRACE);
    let seen = inspected(harness, &id).await;
    let details = seen.details.unwrap();
    assert_eq!((seen.state, details.pid), (ContainerState::Exited, None));
    assert_eq!(details.exit_code, Some(5));
    assert!(details.finished_at >= details.started_at, "{details:?}");
    engine.stop(&id, Duration::ZERO).await.unwrap();

    engine.start(&id).await.unwrap();
    let again = inspected(harness, &id).await;
    assert_eq!((again.state, again.details.unwrap().exit_code), (ContainerState::Running, None));
    engine.remove(&id).await.unwrap();
}

/// A process that does not end is killed after the grace, and not before.
pub async fn a_stubborn_process_is_killed_after_grace(harness: &dyn Harness) {
    let grace = Duration::from_secs(1);
    let id = started(harness, "stubborn-0", Program::IsStubborn).await;
    let begun = Instant::now();
    harness.engine().stop(&id, grace).await.unwrap();
    assert!(begun.elapsed() >= grace, "{:?}", begun.elapsed());
    let seen = inspected(harness, &id).await;
    assert_eq!(seen.state, ContainerState::Exited);
    assert_eq!(seen.details.unwrap().exit_code, Some(137));
    harness.engine().remove(&id).await.unwrap();
}

/// A wait returns the exit code when the process ends, and at once afterwards.
pub async fn a_wait_ends_with_the_process(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = started(harness, "wait-0", SERVES).await;
    assert!(timeout(Duration::from_millis(50), engine.wait(&id)).await.is_err(), "it runs");
    let both = async { tokio::join!(engine.wait(&id), engine.stop(&id, GRACE)) };
    assert_eq!(timeout(PATIENCE, both).await.unwrap(), (Ok(5), Ok(())));
    assert_eq!(timeout(PATIENCE, engine.wait(&id)).await.unwrap(), Ok(5));
    engine.remove(&id).await.unwrap();
}

/// A process that ends by itself is known to have.
pub async fn a_run_that_ends_leaves_its_code(harness: &dyn Harness) {
    let id = started(harness, "run-0", Program::Prints { text: "", exit_code: 3 }).await;
    assert_eq!(timeout(PATIENCE, harness.engine().wait(&id)).await.unwrap(), Ok(3));
    let seen = inspected(harness, &id).await;
    let details = seen.details.unwrap();
    assert_eq!((seen.state, details.exit_code), (ContainerState::Exited, Some(3)));
    assert!(!details.out_of_memory);
    harness.engine().remove(&id).await.unwrap();
}

/// Removing ends what runs; what is gone is known to no other call, and removing it again is fine.
pub async fn a_removal_kills_and_can_be_repeated(harness: &dyn Harness) {
    let id = started(harness, "remove-0", Program::IsStubborn).await;
    harness.engine().remove(&id).await.unwrap();
    is_gone(harness, &id).await;
}

/// A container that somebody else removed is as gone as one that the engine was asked to remove.
pub async fn what_somebody_removes_is_gone(harness: &dyn Harness) {
    let id = started(harness, "by-hand-0", SERVES).await;
    harness.remove_by_hand(&id).await;
    is_gone(harness, &id).await;
    assert_eq!(harness.engine().leftovers().await.unwrap(), [].into());
}

async fn is_gone(harness: &dyn Harness, id: &ContainerId) {
    let engine = harness.engine();
    let gone = EngineError::NotFound { id: id.to_string() };
    assert_eq!(engine.inspect(id).await.unwrap_err(), gone);
    assert_eq!(engine.start(id).await.unwrap_err(), gone);
    assert_eq!(engine.stop(id, GRACE).await.unwrap_err(), gone);
    assert_eq!(engine.wait(id).await.unwrap_err(), gone);
    assert_eq!(engine.list().await.unwrap(), []);
    engine.remove(id).await.unwrap();
}

/// Whoever listens is told of starts, ends and removals, in this order.
pub async fn events_tell_a_life(harness: &dyn Harness) {
    let engine = harness.engine();
    let mut events = engine.events().await.unwrap();
    let assigned = assigned(harness, "events-0", SERVES).await;
    let id = engine.create(&assigned).await.unwrap();
    engine.start(&id).await.unwrap();
    serving(harness, &id).await;
    engine.stop(&id, GRACE).await.unwrap();
    engine.start(&id).await.unwrap();
    engine.remove(&id).await.unwrap();

    let mut kinds = Vec::new();
    while kinds.last() != Some(&EventKind::Removed) {
        let event = timeout(PATIENCE, events.try_next()).await.unwrap().unwrap().unwrap();
        assert_eq!((&event.id, &event.instance), (&id, &assigned.instance));
        kinds.push(event.kind);
    }
    let died = |code| EventKind::Died { exit_code: Some(code) };
    let expected = [
        EventKind::Changed,
        EventKind::Started,
        died(5),
        EventKind::Started,
        died(137),
        EventKind::Removed,
    ];
    assert_eq!(kinds, expected);
}
