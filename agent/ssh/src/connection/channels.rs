//! The channels of a connection: what comes in for each, and the task that serves it.
//!
//! Invariants: every channel is in the table until its task has ended or the client closes it; a task ends with
//! the connection, and a while after its channel at the most. At most [`MOST`] are open at a time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use russh::ChannelId;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::session::Stage;
use crate::intake::{Inlet, Intake, Outlet};

/// Most channels of a connection at a time.
const MOST: usize = 64;
/// Most sessions that a connection may have had. `russh` keeps some 4 KiB of every channel that the server closes
/// first, as it has to with a session, until the connection ends; OpenSSH's client then makes a new connection.
const MOST_SESSIONS_EVER: usize = 4096;

/// Likewise, of forwarded connections: beyond that, the client is given time to close them first.
const MOST_CLOSED_FIRST: usize = 4096;

/// How long a confirmed channel may take to be entered: the loop does it next.
const ENTERED: Duration = Duration::from_secs(1);

/// The table, shared by the connection's loop and its channels' tasks.
#[derive(Clone)]
pub(super) struct Channels(Arc<Shared>);

struct Shared {
    intake: Arc<Intake>,
    table: Mutex<HashMap<ChannelId, Open>>,
    places: Arc<Semaphore>,
    sessions_ever: AtomicUsize,
    /// How many forwarded connections we have closed first.
    closed_first: AtomicUsize,
    /// A channel that we opened was entered.
    entered: Notify,
    cut: CancellationToken,
}

/// An open channel.
struct Open {
    inlet: Inlet,
    /// Until its task takes it.
    outlet: Option<Outlet>,
    /// For a session.
    stage: Option<Stage>,
    /// The client closed it.
    closed: CancellationToken,
}

impl Channels {
    /// No channels; `cut` ends the tasks of all.
    pub(super) fn new(cut: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            intake: Arc::default(),
            table: Mutex::default(),
            places: Arc::new(Semaphore::new(MOST)),
            sessions_ever: AtomicUsize::new(0),
            closed_first: AtomicUsize::new(0),
            entered: Notify::new(),
            cut,
        }))
    }

    /// What waits in all of them.
    pub(super) fn intake(&self) -> Arc<Intake> {
        Arc::clone(&self.0.intake)
    }

    /// A place for one more channel.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.places).try_acquire_owned().ok()
    }

    /// A place for one more session.
    pub(super) fn place_for_session(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.place()?;
        let before = self.0.sessions_ever.fetch_add(1, Ordering::Relaxed);
        (before < MOST_SESSIONS_EVER).then_some(place)
    }

    /// Whether one more forwarded connection may be closed before the client closes it.
    pub(super) fn may_close_first(&self) -> bool {
        self.0.closed_first.load(Ordering::Relaxed) < MOST_CLOSED_FIRST
    }

    /// Counts one that is.
    pub(super) fn closes_first(&self) {
        self.0.closed_first.fetch_add(1, Ordering::Relaxed);
    }

    /// Enters a channel; `stage` is a session's.
    pub(super) fn enter(&self, id: ChannelId, stage: Option<Stage>) {
        let (inlet, outlet) = self.0.intake.queue();
        let closed = CancellationToken::new();
        self.table().insert(id, Open { inlet, outlet: Some(outlet), stage, closed });
        self.0.entered.notify_waiters();
    }

    /// Waits until the connection's loop has entered a channel that the client confirmed; false if the client
    /// has closed it again by now.
    pub(super) async fn entered(&self, id: ChannelId) -> bool {
        let there = async {
            loop {
                let entered = self.0.entered.notified();
                if self.table().contains_key(&id) {
                    return;
                }
                entered.await;
            }
        };
        tokio::time::timeout(ENTERED, there).await.is_ok()
    }

    /// Starts the task of a channel, made by `work` of what comes in and of a token that is cancelled when the client
    /// closes the channel. The task ends with the connection.
    pub(super) fn spawn<F>(&self, id: ChannelId, work: impl FnOnce(Outlet, CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let taken = self.table().get_mut(&id).and_then(|open| {
            let outlet = open.outlet.take()?;
            Some((outlet, open.closed.clone()))
        });
        let Some((outlet, closed)) = taken else { return };
        let work = self.until_cut(work(outlet, closed));
        let channels = self.clone();
        tokio::spawn(async move {
            work.await;
            channels.table().remove(&id);
        });
    }

    /// `work`, ended with the connection.
    pub(super) fn until_cut<F: Future<Output = ()>>(
        &self,
        work: F,
    ) -> impl Future<Output = ()> + use<F> {
        let cut = self.0.cut.clone();
        async move {
            cut.run_until_cancelled(work).await;
        }
    }

    /// Looks at the stage of a session.
    pub(super) fn stage<T>(&self, id: ChannelId, look: impl FnOnce(&mut Stage) -> T) -> Option<T> {
        self.table().get_mut(&id).and_then(|open| open.stage.as_mut()).map(look)
    }

    /// Data came in.
    pub(super) fn push(&self, id: ChannelId, data: &[u8]) {
        if let Some(open) = self.table().get(&id) {
            open.inlet.push(data);
        }
    }

    /// No more comes in.
    pub(super) fn end_of_input(&self, id: ChannelId) {
        if let Some(open) = self.table().get_mut(&id) {
            open.inlet.end();
        }
    }

    /// The client closed the channel.
    pub(super) fn closed(&self, id: ChannelId) {
        if let Some(open) = self.table().remove(&id) {
            open.closed.cancel();
        }
    }

    /// Whether too much of a channel's data waits.
    pub(super) fn lags(&self, id: ChannelId) -> bool {
        self.table().get(&id).is_some_and(|open| open.inlet.lags())
    }

    /// Whether a process runs for any of them.
    pub(super) fn any_process(&self) -> bool {
        self.table().values().any(|open| matches!(open.stage, Some(Stage::Running(_))))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ChannelId, Open>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each costs memory until the connection ends, so that a client cannot have any number of them.
    #[test]
    fn forwarded_connections_are_closed_first_only_so_often() {
        let channels = Channels::new(CancellationToken::new());
        for _ in 0..MOST_CLOSED_FIRST {
            assert!(channels.may_close_first(), "a client that waits for us would wait for long");
            channels.closes_first();
        }
        assert!(!channels.may_close_first());
    }
}
