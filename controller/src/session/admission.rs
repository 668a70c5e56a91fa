//! Agents are let in by turns.
//!
//! Taking in an agent is the dearest thing that it ever asks for: all that it saw goes into the model, and
//! all that it is to do is made and sent. When a whole fleet comes back at once, a few are taken in at a
//! time, in the order in which they came. The others wait, hold nothing but their connection, and their pings
//! are answered, so that they do not begin anew and make the crowd larger. An agent that does not read what it is
//! told keeps its place for a moment only ([`Place::hold`]).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tonic::Status;

/// How many agents are taken in at the same time.
pub(super) const PLACES: usize = 16;
/// How long an agent keeps its place. On a slow link the rest of what it is told follows when others have their turn.
pub(super) const KEPT: Duration = Duration::from_secs(5);

/// The way in; clones are the same one.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Semaphore>);

/// The right to be taken in now. The next one's turn comes when it is dropped.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Default for Admission {
    fn default() -> Self {
        Self::new(PLACES)
    }
}

impl Admission {
    fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places)))
    }

    /// Waits in line. Whoever gives up leaves it.
    pub(super) async fn enter(&self) -> Result<Place, Status> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        permit.map(Place).map_err(|_| Status::unavailable("the controller is ending"))
    }
}

impl Place {
    /// Does the work of taking somebody in. The next one's turn comes when that is done, or when it has taken so long that
    /// it must be waiting for somebody who does not read; it goes on all the same.
    pub(super) async fn hold<T>(self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        // Cancel-safe: the work goes on from where it is.
        tokio::select! {
            done = &mut work => return done,
            () = sleep(KEPT) => drop(self),
        }
        work.await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn agents_are_taken_in_by_turns() {
        let admission = Admission::new(2);
        let first = admission.enter().await.unwrap();
        let second = admission.enter().await.unwrap();
        let mut third = Box::pin(admission.enter());
        let mut fourth = Box::pin(admission.enter());
        let mut fifth = Box::pin(admission.enter());
        for waiting in [&mut third, &mut fourth, &mut fifth] {
            assert!(waiting.now_or_never().is_none(), "no more than two at a time");
        }
        drop(third);
        drop(first);
        assert!((&mut fifth).now_or_never().is_none(), "in the order in which they came");
        let fourth = fourth.now_or_never().expect("the place of one that is done");
        drop((second, fourth));
        assert!(fifth.now_or_never().is_some());
    }
}
