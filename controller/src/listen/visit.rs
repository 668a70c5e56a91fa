//! The time of somebody without a certificate: enough to say one thing and to hear the answer.
//!
//! ```text
//!   TLS is done ──5 s──▶ what is not said by now is not heard ─▶ answers, if any are due ─▶ the connection ends
//!                                                                 └──── 15 s at most ────┘
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long somebody without a certificate may take to say what they want.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long the controller may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// How long the last answer may take to get to them.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection without a certificate.
#[derive(Debug)]
pub struct Visit {
    from: IpAddr,
    heard_until: Instant,
    /// How many requests wait for their answer.
    unanswered: AtomicUsize,
    answered: Notify,
}

/// A request that waits for its answer; no longer, when this is dropped.
#[derive(Debug)]
pub struct Unanswered(Arc<Visit>);

impl Visit {
    /// One that begins now.
    #[must_use]
    pub fn from(from: IpAddr) -> Arc<Self> {
        let heard_until = Instant::now() + REQUEST_TIME;
        Arc::new(Self {
            from,
            heard_until,
            unanswered: AtomicUsize::new(0),
            answered: Notify::new(),
        })
    }

    /// Where it comes from.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.from
    }

    /// Until when requests are heard.
    #[must_use]
    pub fn heard_until(&self) -> Instant {
        self.heard_until
    }

    /// A request has begun.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Unanswered {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        Unanswered(Arc::clone(self))
    }

    /// Waits until it is over.
    pub(super) async fn over(self: Arc<Self>) {
        sleep_until(self.heard_until).await;
        let answered = async {
            loop {
                let answered = self.answered.notified();
                if self.unanswered.load(Ordering::Relaxed) == 0 {
                    return;
                }
                answered.await;
            }
        };
        // Whichever comes first.
        drop(timeout(ANSWER_TIME, answered).await);
        sleep(FAREWELL).await;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Ordering::Relaxed);
        self.0.answered.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nothing_was_asked_in_time_or_the_answer_is_given() {
        let begun = Instant::now();
        Visit::from([192, 0, 2, 1].into()).over().await;
        assert_eq!(begun.elapsed(), REQUEST_TIME + FAREWELL);

        // A slow answer is waited for, but not for ever.
        let visit = Visit::from([192, 0, 2, 1].into());
        let (first, second) = (visit.begin(), visit.begin());
        let mut over = Box::pin(Arc::clone(&visit).over());
        sleep(REQUEST_TIME + FAREWELL * 5).await;
        drop(first);
        assert!((&mut over).now_or_never().is_none());
        drop(second);
        let answered = Instant::now();
        over.await;
        assert_eq!(answered.elapsed(), FAREWELL);

        let begun = Instant::now();
        let visit = Visit::from([192, 0, 2, 1].into());
        let _never = visit.begin();
        visit.over().await;
        assert_eq!(begun.elapsed(), REQUEST_TIME + ANSWER_TIME + FAREWELL);
    }
}
