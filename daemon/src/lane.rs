//! A thread of its own for work that must get done whatever else hangs.
//!
//! The threads of an asynchronous runtime for blocking work are shared by everybody, and their number is bounded: calls
//! that hang, for example on a network's file system whose server is gone, can take them all. What a daemon must be
//! able to write goes through a [`Lane`]: it waits for nothing but earlier work of the same lane.
//!
//! Invariants:
//! - jobs are done one after the other, in the order in which they came;
//! - a job that was taken is done to its end, also if nobody waits for it any more, and before the daemon ends, if that waits
//!   for it with [`finish`];
//! - a job that panics fails alone, and the next one is done.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// How many jobs can wait. Who has another one waits for room.
const WAITING_MAX: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// How many jobs of all lanes are not done.
static UNDER_WAY: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);

/// Waits until every job that a lane of this process has taken is done; whether they are, after so long. To be called when
/// everybody has ended who has jobs done.
pub async fn finish(limit: Duration) -> bool {
    let mut under_way = UNDER_WAY.subscribe();
    timeout(limit, under_way.wait_for(|count| *count == 0)).await.is_ok()
}

/// Counts a job for as long as it is there.
struct UnderWay;

impl UnderWay {
    fn begin() -> Self {
        UNDER_WAY.send_modify(|count| *count += 1);
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.send_modify(|count| *count -= 1);
    }
}

/// A named thread that does jobs. Clones are the same lane; the thread begins with the first job, and ends with the last
/// clone.
#[derive(Clone, Debug)]
pub struct Lane {
    name: &'static str,
    jobs: Arc<Mutex<Option<mpsc::Sender<Job>>>>,
}

impl Lane {
    /// A lane. The name is that of its thread, of which Linux shows 15 bytes.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, jobs: Arc::default() }
    }

    /// Does a job and returns what it returned. Dropping this before the job was taken means that it is not done.
    ///
    /// # Errors
    /// What the job said; that it panicked; that the system has no thread to give.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        let under_way = UnderWay::begin();
        let job = move || {
            let _under_way = under_way;
            // Without an answer, whoever waits learns that it panicked. What it may have left half done is its own.
            if let Ok(done) = catch_unwind(AssertUnwindSafe(job)) {
                // Nobody may be waiting any more.
                answer.send(done).ok();
            }
        };
        let jobs = self.jobs()?;
        jobs.send(Box::new(holding_clock(job))).await.map_err(|_| failed())?;
        answered.await.map_err(|_| failed())?
    }

    /// The way to the thread, which takes jobs for as long as there is a lane.
    fn jobs(&self) -> io::Result<mpsc::Sender<Job>> {
        let mut begun = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = &*begun {
            return Ok(jobs.clone());
        }
        let (jobs, mut waiting) = mpsc::channel::<Job>(WAITING_MAX);
        let work = move || {
            while let Some(job) = waiting.blocking_recv() {
                job();
            }
        };
        thread::Builder::new().name(self.name.to_owned()).spawn(work)?;
        Ok(begun.insert(jobs).clone())
    }
}

#[cfg(not(any(test, feature = "test-util")))]
fn holding_clock<J>(job: J) -> J {
    job
}

/// Makes the paused clock of a test stand still until the job is done, whoever waits for it, as tokio does for its own
/// threads: the runtime is not idle meanwhile.
#[cfg(any(test, feature = "test-util"))]
fn holding_clock<T>(job: impl FnOnce() -> T + Send) -> impl FnOnce() -> T + Send {
    let under_way = Arc::new(());
    let seen = Arc::downgrade(&under_way);
    tokio::spawn(async move {
        while seen.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    });
    move || {
        let done = job();
        drop(under_way);
        done
    }
}

fn failed() -> io::Error {
    io::Error::other("the job panicked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hung_pool;

    #[test]
    fn a_job_is_done_although_the_blocking_pool_hangs() {
        hung_pool::run(async || {
            let lane = Lane::new("test");
            assert_eq!(lane.run(|| Ok(7)).await.unwrap(), 7);
        });
    }

    #[tokio::test]
    async fn jobs_are_done_in_order_and_one_that_panics_fails_alone() {
        let lane = Lane::new("test");
        let (done, order) = std::sync::mpsc::channel();
        let job = |number: usize| {
            let done = done.clone();
            move || {
                assert_ne!(number, 1, "this one panics");
                done.send(number).map_err(io::Error::other)?;
                Ok(thread::current().name().map(str::to_owned))
            }
        };
        let jobs = [0, 1, 2].map(|number| lane.run(job(number)));
        let [first, second, third] = jobs;
        let (first, second, third) = tokio::join!(first, second, third);
        assert_eq!((first.unwrap(), third.unwrap()), (Some("test".into()), Some("test".into())));
        assert_eq!(second.unwrap_err().to_string(), "the job panicked");
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_stands_still_while_a_job_is_done() {
        let (lane, begun) = (Lane::new("test"), tokio::time::Instant::now());
        let long = lane.run(|| {
            thread::sleep(Duration::from_millis(20));
            Ok(())
        });
        let limit = Duration::from_secs(3600);
        timeout(limit, long).await.unwrap().unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn what_was_taken_is_done_before_the_end_although_nobody_waits_for_it() {
        let (done, order) = std::sync::mpsc::channel();
        let lane = Lane::new("test");
        let jobs = [0, 1, 2].map(|number| {
            let (lane, done) = (lane.clone(), done.clone());
            tokio::spawn(async move {
                let job = move || {
                    thread::sleep(Duration::from_millis(20));
                    done.send(number).map_err(io::Error::other)
                };
                lane.run(job).await
            })
        });
        // On one thread: by now all have been taken.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        for job in jobs {
            job.abort();
        }
        drop(lane);
        assert!(finish(Duration::from_secs(60)).await);
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[tokio::test]
    async fn what_a_job_says_is_answered() {
        let lane = Lane::new("test");
        let failed = lane.run(|| Err::<(), _>(io::ErrorKind::StorageFull.into())).await;
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
