//! For tests: a runtime whose threads for blocking work all hang, as on a network's file system whose server is gone.

#![expect(clippy::expect_used, reason = "it is for tests, and one that cannot go on is to fail")]

use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long anything that should happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test on such a runtime.
///
/// # Panics
/// If the test is not done in time: it waits for a thread that hangs.
pub fn run<T>(test: impl AsyncFnOnce() -> T) -> T {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    let runtime = runtime.expect("a runtime");
    let (release, released) = mpsc::channel::<()>();
    let done = runtime.block_on(async {
        let (hangs, begun) = tokio::sync::oneshot::channel();
        #[expect(clippy::disallowed_methods, reason = "it is what hangs here")]
        let hanging = spawn_blocking(move || {
            hangs.send(()).ok();
            released.recv().ok();
        });
        drop(hanging);
        begun.await.expect("a thread that hangs");
        timeout(PATIENCE, test()).await
    });
    drop(release);
    done.expect("the test waits for a thread that hangs")
}
