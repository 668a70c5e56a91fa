//! What clients send, on its way to those who read it: how much of it may wait, and who has to slow down.
//!
//! `russh` grants a channel's window again as soon as data arrives, not when somebody has read it, and waits for a
//! channel's reader inside the loop that also writes and serves the other channels. So data does not go through its
//! channels here but through these queues, which never make the loop wait, and which are kept short in two ways:
//!
//! ```text
//!   a channel's queue > LAG          its window is refilled by TRICKLE bytes only: a client that heeds windows
//!                                    sends next to nothing. Each such packet makes the connection's reader
//!                                    pause, a little longer each time
//!   a connection's queues > LIMIT    nothing more is read from the connection until they are shorter
//! ```
//!
//! Invariant: what waits in a connection is at most [`LIMIT`] and one packet, whatever the client does. So a slow
//! reader never harms other connections. It harms other channels of its own only if those send a lot meanwhile:
//! `russh` has one size for the refills of all channels, so that theirs let some through to the slow one; a reader
//! that then takes nothing at all for a while loses its channel (`connection/stream.rs`). The connection's loop
//! goes on to write in any case, so that a process that reads only after its output was taken never waits for
//! itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Window of a channel whose reader keeps up, in bytes; OpenSSH's too.
pub(crate) const WINDOW: u32 = 2 << 20;
/// Window of a channel whose reader lags, in bytes: the least that `russh` ever refills.
pub(crate) const TRICKLE: u32 = 2;
/// A reader lags when so much waits for it, in bytes. Above what an SFTP client has under way.
const LAG: usize = 3 << 20;
/// Most that waits in one connection, in bytes.
const LIMIT: usize = 32 << 20;
/// First and longest pause for a trickle.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(10)];

/// All that waits in one connection.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    waiting: AtomicUsize,
    pace: Mutex<Pace>,
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct Pace {
    until: Option<Instant>,
    last: Duration,
}

impl Intake {
    /// The two ends of a channel's queue.
    pub(crate) fn queue(self: &Arc<Self>) -> (Inlet, Outlet) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let outlet = Outlet { intake: Arc::clone(self), waiting: Arc::clone(&waiting), receiver };
        (Inlet { intake: Arc::clone(self), waiting, sender: Some(sender) }, outlet)
    }

    /// Ready when the connection's reader may go on; until when to pause, if it is known.
    ///
    /// # Errors
    /// As `Err`, the moment until which to wait; without one, the context is woken.
    pub(crate) fn poll_open(&self, context: &mut Context<'_>) -> Poll<Result<(), Instant>> {
        let mut pace = self.pace();
        if let Some(until) = pace.until {
            if Instant::now() < until {
                return Poll::Ready(Err(until));
            }
            pace.until = None;
        }
        drop(pace);
        self.reader.register(context.waker());
        match self.waiting.load(Ordering::Acquire) > LIMIT {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }

    fn pause(&self) {
        let mut pace = self.pace();
        pace.last = PAUSES[1].min(pace.last * 2).max(PAUSES[0]);
        pace.until = Some(Instant::now() + pace.last);
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a channel's data comes in.
#[derive(Debug)]
pub(crate) struct Inlet {
    intake: Arc<Intake>,
    waiting: Arc<AtomicUsize>,
    sender: Option<mpsc::UnboundedSender<Chunk>>,
}

impl Inlet {
    /// Queues data. What nobody will ever read is dropped.
    pub(crate) fn push(&self, data: &[u8]) {
        let Some(sender) = self.sender.as_ref().filter(|sender| !sender.is_closed()) else {
            return;
        };
        let lags = self.lags();
        self.intake.waiting.fetch_add(data.len(), Ordering::AcqRel);
        self.waiting.fetch_add(data.len(), Ordering::AcqRel);
        let chunk = Chunk {
            bytes: data.to_vec(),
            intake: Arc::clone(&self.intake),
            waiting: Arc::clone(&self.waiting),
        };
        // A chunk that cannot be sent is dropped, and counts no longer.
        drop(sender.send(chunk));
        if lags && data.len() <= TRICKLE as usize {
            self.intake.pause();
        } else if !lags {
            self.intake.pace().last = Duration::ZERO;
        }
    }

    /// No more comes.
    pub(crate) fn end(&mut self) {
        self.sender = None;
    }

    /// Whether too much waits for the reader.
    pub(crate) fn lags(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > LAG
    }
}

/// Where a channel's data is taken from.
#[derive(Debug)]
pub(crate) struct Outlet {
    intake: Arc<Intake>,
    waiting: Arc<AtomicUsize>,
    receiver: mpsc::UnboundedReceiver<Chunk>,
}

impl Outlet {
    /// The next data; nothing at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Chunk> {
        self.receiver.recv().await
    }

    /// Whether nothing more is read from the connection, and this channel is among those whose readers lag.
    pub(crate) fn holds_everybody_up(&self) -> bool {
        self.intake.waiting.load(Ordering::Acquire) > LIMIT
            && self.waiting.load(Ordering::Acquire) > LAG
    }
}

/// Data of a channel; it counts as waiting until it is dropped.
#[derive(Debug)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    intake: Arc<Intake>,
    waiting: Arc<AtomicUsize>,
}

impl std::ops::Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes.len(), Ordering::AcqRel);
        let before = self.intake.waiting.fetch_sub(self.bytes.len(), Ordering::AcqRel);
        if before > LIMIT && before - self.bytes.len() <= LIMIT {
            self.intake.reader.wake();
        }
    }
}

#[cfg(test)]
mod tests;
