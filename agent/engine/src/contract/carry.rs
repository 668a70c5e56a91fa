//! Files that go from one container to the next.

use dwell_core::container::ContainerId;
use dwell_core::id::Generation;
use dwell_core::instance::Assigned;
use dwell_core::sandbox::Slot;
use dwell_core::workload::CARRIED_MAX;

use super::{GRACE, Harness, Program, assigned, serving};
use crate::EngineError;

const SERVES: Program = Program::Serves { exit_code: 0 };

/// A container that has ended, and its successor, which was never started.
async fn pair(harness: &dyn Harness, name: &str) -> (ContainerId, ContainerId) {
    let engine = harness.engine();
    let first = assigned(harness, name, SERVES).await;
    let old = engine.create(&first).await.unwrap();
    engine.start(&old).await.unwrap();
    serving(harness, &old).await;
    let second = Assigned { generation: Generation(2), ..first };
    let new = engine.create_in(Slot::A, &second).await.unwrap();
    (old, new)
}

fn paths(all: &[&str]) -> Vec<String> {
    all.iter().map(|&path| path.to_owned()).collect()
}

async fn remove(harness: &dyn Harness, all: [&ContainerId; 2]) {
    for id in all {
        harness.engine().remove(id).await.unwrap();
    }
}

/// Files and whole directories are in the new container as they were in the old one, and nothing else of that is; what is not
/// there is said and no failure. To do it again changes nothing.
pub async fn files_are_carried_over_and_the_others_stay(harness: &dyn Harness) {
    let engine = harness.engine();
    let (old, new) = pair(harness, "carry-0").await;
    harness.write_file(&old, "/etc/app/id", b"of the old one").await;
    harness.write_file(&old, "/etc/app/other", b"not asked for").await;
    harness.write_file(&old, "/srv/state/deep/a", b"deep").await;
    harness.write_file(&old, "/srv/statement", b"has the same beginning").await;
    harness.write_file(&new, "/srv/state/own", b"of the new one").await;
    engine.stop(&old, GRACE).await.unwrap();
    let asked = paths(&["/etc/app/id", "/no/such", "/srv/state"]);
    for _ in 0..2 {
        let carried = engine.carry(&old, &new, &asked).await.unwrap();
        assert_eq!(carried.missing, ["/no/such"]);
        assert!(carried.size.0 > 0);
        for (path, content) in [
            ("/etc/app/id", Some("of the old one")),
            ("/etc/app/other", None),
            ("/srv/state/deep/a", Some("deep")),
            ("/srv/state/own", Some("of the new one")),
            ("/srv/statement", None),
        ] {
            let found = harness.read_file(&new, path).await;
            assert_eq!(found.as_deref(), content.map(str::as_bytes), "{path}");
        }
        let left = harness.read_file(&old, "/etc/app/id").await;
        assert_eq!(left.as_deref(), Some(b"of the old one".as_slice()));
    }
    assert_eq!(engine.carry(&old, &new, &[]).await.unwrap().missing, Vec::<String>::new());
    remove(harness, [&old, &new]).await;
    let gone = engine.carry(&old, &new, &asked).await.unwrap_err();
    assert!(matches!(gone, EngineError::NotFound { .. }), "{gone}");
}

/// More than the bound is refused, for good, however it is spread.
pub async fn what_is_too_much_is_not_carried_over(harness: &dyn Harness) {
    let engine = harness.engine();
    let (old, new) = pair(harness, "carry-1").await;
    let half = vec![0_u8; usize::try_from(CARRIED_MAX.0 / 2 + 1).unwrap()];
    harness.write_file(&old, "/a", &half).await;
    harness.write_file(&old, "/b", &half).await;
    engine.stop(&old, GRACE).await.unwrap();
    let error = engine.carry(&old, &new, &paths(&["/a", "/b"])).await.unwrap_err();
    assert!(matches!(error, EngineError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("64Mi"), "{error}");
    assert_eq!(engine.carry(&old, &new, &paths(&["/a"])).await.unwrap().missing, [""; 0]);
    remove(harness, [&old, &new]).await;
}

/// A copy of what runs would not be whole, and what has run has files of its own.
pub async fn nothing_is_carried_from_what_runs_or_into_what_ran(harness: &dyn Harness) {
    let engine = harness.engine();
    let (old, new) = pair(harness, "carry-2").await;
    let asked = paths(&["/etc/app/id"]);
    harness.write_file(&old, "/etc/app/id", b"1").await;
    let error = engine.carry(&old, &new, &asked).await.unwrap_err();
    assert!(matches!(error, EngineError::Other { .. }), "{error}");
    engine.stop(&old, GRACE).await.unwrap();
    engine.start(&new).await.unwrap();
    serving(harness, &new).await;
    let error = engine.carry(&old, &new, &asked).await.unwrap_err();
    assert!(matches!(error, EngineError::Other { .. }), "{error}");
    engine.stop(&new, GRACE).await.unwrap();
    let error = engine.carry(&old, &new, &asked).await.unwrap_err();
    assert!(matches!(error, EngineError::Other { .. }), "{error}");
    assert_eq!(harness.read_file(&new, "/etc/app/id").await, None);
    remove(harness, [&old, &new]).await;
}
