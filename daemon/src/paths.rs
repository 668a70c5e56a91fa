//! Looking at paths that may hang, for example on a network's file system whose server is gone.
//!
//! A thread that looks at such a path cannot be ended, by nobody. So each path has at most one that looks at it,
//! which is its own and of no pool that anything else needs: who comes later waits for that one, and gives up
//! after a while. Once the path answers, the thread ends and the next may look.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// How many paths are looked at, at once.
const PATHS_MAX: usize = 64;

/// A path did not answer in time; somebody may still be looking at it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} does not answer; is it on a network's file system whose server is gone?",
    path.display()
)]
pub struct PathHangs {
    /// Which.
    pub path: PathBuf,
}

/// The looks that are under way.
#[derive(Debug)]
pub struct PathLooks {
    turns: Mutex<HashMap<PathBuf, Arc<Semaphore>>>,
    threads: Arc<Semaphore>,
}

impl Default for PathLooks {
    fn default() -> Self {
        Self { turns: Mutex::default(), threads: Arc::new(Semaphore::new(PATHS_MAX)) }
    }
}

impl PathLooks {
    /// Does `work`, which looks at `path` and at nothing else that may hang, within `limit`.
    ///
    /// # Errors
    /// [`PathHangs`] if it is not done by then, or cannot begin because an earlier look has not ended.
    pub async fn look<T: Send + 'static>(
        &self,
        path: &Path,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PathHangs> {
        let turn = self.turn(path);
        let threads = Arc::clone(&self.threads);
        let looking = async move {
            let permits = (turn.acquire_owned().await.ok()?, threads.acquire_owned().await.ok()?);
            let (sender, receiver) = oneshot::channel();
            let look = move || {
                let done = work();
                drop(permits);
                // Nobody waits any more if it took too long.
                sender.send(done).ok();
            };
            std::thread::Builder::new().name("path".to_owned()).spawn(look).ok()?;
            receiver.await.ok()
        };
        let done = timeout(limit, looking).await.ok().flatten();
        done.ok_or_else(|| PathHangs { path: path.to_owned() })
    }

    /// Whose turn it is to look at a path. Forgets those at which nobody looks.
    fn turn(&self, path: &Path) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        let turn = turns.entry(path.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1)));
        Arc::clone(turn)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_path_that_hangs_is_looked_at_once_and_no_other_waits_for_it() {
        let looks = PathLooks::default();
        let (hung, begun) = (Path::new("/hung"), Arc::new(AtomicUsize::new(0)));
        let (release, released) = mpsc::channel::<()>();
        let count = Arc::clone(&begun);
        let first = looks.look(hung, SHORT, move || {
            count.fetch_add(1, Ordering::SeqCst);
            released.recv().ok();
        });
        assert_eq!(first.await, Err(PathHangs { path: hung.to_owned() }));
        for _ in 0..20 {
            let count = Arc::clone(&begun);
            let again = looks.look(hung, SHORT, move || count.fetch_add(1, Ordering::SeqCst));
            assert!(again.await.is_err());
        }
        assert!(begun.load(Ordering::SeqCst) <= 1, "several threads look at one path");
        assert_eq!(looks.look(Path::new("/fine"), LONG, || 7).await, Ok(7));
        drop(release);
        assert_eq!(looks.look(hung, LONG, || 8).await, Ok(8), "the path answers again");
        looks.turn(Path::new("/other"));
        assert!(looks.turns.lock().unwrap().len() <= 2);
    }
}
