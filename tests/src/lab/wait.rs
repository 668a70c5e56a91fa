//! Waiting for a state of the world: level-triggered, bounded, and telling what was last seen.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::time;

/// How long to rest between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks again and again until `look` answers `Ok`, and hands that on.
///
/// ```no_run
/// # async fn example(lab: dwell_tests::lab::Lab) -> anyhow::Result<()> {
/// # use {anyhow::ensure, dwell_tests::lab::wait_until, std::time::Duration};
/// wait_until("six running", Duration::from_secs(30), async || {
///     let running = lab.ps().await?.running().count();
///     ensure!(running == 6, "{running} of 6 are running");
///     Ok(())
/// })
/// .await
/// # }
/// ```
///
/// # Errors
/// If `timeout` has passed, at the earliest after one look; the message has `what` was waited for
/// and why the last look was not content.
pub async fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    let mut seen = anyhow!("nothing: the first look did not end");
    loop {
        let left = timeout.saturating_sub(start.elapsed()).max(INTERVAL);
        match time::timeout(left, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(not_yet)) => seen = not_yet,
            Err(_elapsed) => {}
        }
        if start.elapsed() >= timeout {
            return Err(anyhow!("waited {timeout:?} for {what}; last seen: {seen:#}"));
        }
        time::sleep(INTERVAL).await;
    }
}

/// Looks again and again for `duration`, and expects every look to answer `Ok`.
///
/// # Errors
/// The first one that does not; the message has `what` was to hold.
pub async fn hold_for(
    what: &str,
    duration: Duration,
    mut look: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < duration {
        look().await.with_context(|| {
            format!("{what} did not hold for {duration:?}, but {:?}", start.elapsed())
        })?;
        time::sleep(INTERVAL).await;
    }
    Ok(())
}

/// Looks again and again while `work` is under way, and expects every look to answer `Ok`.
///
/// # Errors
/// What `work` says, or the first look that is not content, which ends `work`.
pub async fn meanwhile<T>(
    work: impl Future<Output = Result<T>>,
    mut look: impl AsyncFnMut() -> Result<()>,
) -> Result<T> {
    let looking = async {
        loop {
            if let Err(error) = look().await {
                return error;
            }
            time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        done = work => done,
        error = looking => Err(error.context("in the meantime")),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn hands_on_what_was_found() {
        let mut looks = 0;
        let found = wait_until("three", Duration::from_secs(5), async || {
            looks += 1;
            ensure!(looks == 3, "at {looks}");
            Ok(looks)
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn says_what_was_last_seen() {
        let waited =
            wait_until("rain", Duration::from_millis(1), async || Err::<(), _>(anyhow!("sun")));
        let message = waited.await.unwrap_err().to_string();
        assert!(message.contains("for rain; last seen: sun"), "{message}");
    }

    #[tokio::test]
    async fn what_holds_is_looked_at_to_the_end() {
        let mut looks = 0;
        let held = hold_for("two looks", Duration::from_secs(5), async || {
            looks += 1;
            ensure!(looks < 3, "at {looks}");
            Ok(())
        });
        assert!(held.await.is_err());
        assert_eq!(looks, 3);
    }

    #[tokio::test]
    async fn a_look_that_hangs_does_not_hang_the_wait() {
        let waited =
            wait_until("an end", Duration::from_millis(1), async || pending::<Result<()>>().await);
        assert!(waited.await.is_err());
    }
}
