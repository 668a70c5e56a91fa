//! Events on their way to the agent, one line of JSON each, over a socket that it listens on.
//!
//! Invariants: reporting never waits. While the agent is away at most [`QUEUE`] events wait for it; beyond that
//! the oldest are dropped, and how many is logged. Refusals of one address at one instance are told at once and
//! then once per minute.

mod refusals;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dwell_core::ssh::{SshEvent, SshEventKind};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use self::refusals::Refusals;

/// Most events that wait for the agent.
pub(crate) const QUEUE: usize = 1000;
/// Pause between attempts to reach the agent.
const RETRY: Duration = Duration::from_millis(500);
/// How often refusals that were held back are looked at.
const TICK: Duration = Duration::from_secs(5);

/// Takes events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reporter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<SshEvent>,
    dropped: u64,
    refusals: Refusals,
}

impl Reporter {
    /// Logs an event and queues it for the agent.
    pub(crate) fn report(&self, event: SshEvent) {
        let SshEvent { instance, from, login, key, .. } = &event;
        match event.what {
            SshEventKind::Opened => info!(%instance, %from, login, key, "logged in"),
            SshEventKind::Closed { duration_ms } => {
                info!(%instance, %from, login, key, duration_ms, "logged out");
            }
            SshEventKind::Refused { count } => {
                let Some(event) = self.with(|waiting| waiting.refusals.add(event, Instant::now()))
                else {
                    return;
                };
                info!(instance = %event.instance, from = %event.from, login = event.login, key = event.key, count, "refused");
                self.queue(event);
                return;
            }
        }
        self.queue(event);
    }

    /// Sends what is reported to the socket `path`, for ever.
    pub(crate) async fn deliver(&self, path: &Path) {
        let sending = async {
            let mut stream = None;
            loop {
                self.send_waiting(&mut stream, path).await;
                self.0.more.notified().await;
            }
        };
        tokio::join!(sending, self.release_refusals());
    }

    /// Sends what waits by now.
    pub(crate) async fn deliver_the_rest(&self, path: &Path) {
        self.send_waiting(&mut None, path).await;
    }

    async fn send_waiting(&self, stream: &mut Option<UnixStream>, path: &Path) {
        loop {
            let next = self.with(|waiting| {
                let next = waiting.queue.front().cloned()?;
                Some((next, std::mem::take(&mut waiting.dropped)))
            });
            let Some((event, dropped)) = next else { return };
            if dropped > 0 {
                warn!(dropped, "the agent was away too long: the oldest events are lost");
            }
            match write(stream, path, &event).await {
                // Unless it was dropped in the meantime.
                Ok(()) => self.with(|waiting| {
                    if waiting.queue.front() == Some(&event) {
                        waiting.queue.pop_front();
                    }
                }),
                Err(_) => {
                    *stream = None;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn release_refusals(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            for event in self.with(|waiting| waiting.refusals.due(Instant::now())) {
                if let SshEventKind::Refused { count } = event.what {
                    info!(instance = %event.instance, from = %event.from, login = event.login, count, "refused again");
                }
                self.queue(event);
            }
        }
    }

    fn queue(&self, event: SshEvent) {
        self.with(|waiting| {
            if waiting.queue.len() == QUEUE {
                waiting.queue.pop_front();
                waiting.dropped += 1;
            }
            waiting.queue.push_back(event);
        });
        self.0.more.notify_one();
    }

    fn with<T>(&self, look: impl FnOnce(&mut Waiting) -> T) -> T {
        look(&mut self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn write(
    stream: &mut Option<UnixStream>,
    path: &Path,
    event: &SshEvent,
) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let stream = match stream {
        Some(stream) => stream,
        None => stream.insert(UnixStream::connect(path).await?),
    };
    stream.write_all(&line).await
}

#[cfg(test)]
mod tests;
