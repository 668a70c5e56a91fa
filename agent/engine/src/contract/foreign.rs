//! Containers that dwell did not make.

use dwell_core::foreign::ForeignRestart;

use super::{GRACE, Harness, Program, started};
use crate::EngineError;

/// A container of somebody else's is seen as it is, stopped for good, its own files kept as an image, and started again as it was.
/// Each of these can be asked for again.
pub async fn what_is_not_dwells_is_stopped_kept_and_put_back(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = harness.make_foreign().await;
    let image = format!("localhost/dwell-adopted/contract:{id}");
    let found = engine.foreign(id.as_str()).await.unwrap();
    assert_eq!((&found.id, found.restart), (&id, ForeignRestart::Always));
    assert!(found.own_files.is_some(), "it has written a file");
    assert_eq!((found.volumes.len(), found.template.mounts.len()), (1, 1), "{found:?}");
    let by_name = engine.foreign(&found.name).await.unwrap();
    assert_eq!(by_name.id, id);
    let runs = engine.keep_foreign(&id, Some(&image)).await.unwrap_err();
    assert!(matches!(runs, EngineError::Other { .. }), "{runs}");
    for _ in 0..2 {
        engine.stop_foreign(&id, GRACE).await.unwrap();
        let rests = engine.foreign(id.as_str()).await.unwrap_err();
        assert!(matches!(rests, EngineError::NotRunning { .. }), "{rests}");
    }
    let lost = engine.keep_foreign(&id, None).await.unwrap_err();
    assert!(matches!(lost, EngineError::Refused { .. }), "{lost}");
    for _ in 0..2 {
        engine.keep_foreign(&id, Some(&image)).await.unwrap();
        assert!(engine.find_image(&image).await.unwrap().is_some());
    }
    assert!(engine.foreign_volume(&found.volumes[0].source).await.unwrap().is_dir());
    for _ in 0..2 {
        engine.start_foreign(&id, GRACE, found.restart).await.unwrap();
        assert_eq!(engine.foreign(id.as_str()).await.unwrap().restart, ForeignRestart::Always);
    }
    engine.stop_foreign(&id, GRACE).await.unwrap();
    harness.remove_by_hand(&id).await;
    for gone in [
        engine.stop_foreign(&id, GRACE).await,
        engine.start_foreign(&id, GRACE, found.restart).await,
        engine.foreign(id.as_str()).await.map(drop),
    ] {
        assert!(matches!(gone, Err(EngineError::NotFound { .. })), "{gone:?}");
    }
    engine.remove_image(&image).await.unwrap();
}

/// What bears a label of dwell's is nobody else's.
pub async fn what_is_dwells_own_is_not_taken_for_foreign(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = started(harness, "own-0", Program::Serves { exit_code: 0 }).await;
    for refused in [
        engine.foreign(id.as_str()).await.map(drop),
        engine.stop_foreign(&id, GRACE).await,
        engine.start_foreign(&id, GRACE, ForeignRestart::No).await,
    ] {
        assert!(matches!(refused, Err(EngineError::Refused { .. })), "{refused:?}");
    }
    engine.remove(&id).await.unwrap();
}
