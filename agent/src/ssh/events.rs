//! What `dwell-ssh` reports, on its way to the controller.
//!
//! It comes over a socket, one line of JSON for each event, and waits in a bounded queue for a session. There is no
//! answer: an agent that ends takes what is in its queue with it, and while there is none `dwell-ssh` keeps what it
//! cannot deliver.

use std::collections::VecDeque;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dwell_core::session::{SSH_EVENTS_MAX, SshEvents};
use dwell_core::ssh::SshEvent;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::files;
use dwell_daemon::Causes;

/// The most events that wait; the oldest give way.
const QUEUE_MAX: usize = 1_000;
/// The longest line, in bytes.
const LINE_MAX: u64 = 4 * 1024;
/// How many may report at once. There is one `dwell-ssh`, and during its upgrade another one.
const CONNECTIONS_MAX: usize = 4;
/// How long to wait when the socket cannot be listened on.
const RETRY: Duration = Duration::from_secs(2);

/// Events that wait for the controller. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct EventQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<SshEvent>,
    /// How many gave way since the last were taken.
    dropped: u64,
}

impl EventQueue {
    /// Adds an event.
    pub fn push(&self, event: SshEvent) {
        let mut waiting = self.waiting();
        if waiting.events.len() >= QUEUE_MAX {
            waiting.events.pop_front();
            waiting.dropped += 1;
        }
        waiting.events.push_back(event);
        self.0.more.notify_one();
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting().events.is_empty()
    }

    /// Takes what waits longest, as much as goes into one message.
    #[must_use]
    pub fn take(&self) -> Option<SshEvents> {
        let mut waiting = self.waiting();
        if waiting.events.is_empty() {
            return None;
        }
        let count = waiting.events.len().min(SSH_EVENTS_MAX);
        let events = waiting.events.drain(..count).collect();
        if waiting.events.is_empty() {
            waiting.events = VecDeque::new();
        }
        Some(SshEvents { events, dropped: std::mem::take(&mut waiting.dropped) })
    }

    /// Waits until something was added since the last wait. For one who waits at a time; cancel-safe.
    pub async fn changed(&self) {
        self.0.more.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues what is reported until the task is dropped.
pub async fn listen(run_dir: PathBuf, queue: EventQueue) {
    loop {
        match bind(&run_dir) {
            Ok(listener) => serve(&listener, &queue).await,
            Err(error) => {
                tracing::error!(
                    error = %Causes(&error), run_dir = %run_dir.display(),
                    "cannot listen to dwell-ssh; it keeps its events, trying again"
                );
            }
        }
        sleep(RETRY).await;
    }
}

fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    let directory = files::directory(run_dir);
    files::make_directory(&directory)?;
    let path = directory.join("events.sock");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves connections until none can be accepted any more.
async fn serve(listener: &UnixListener, queue: &EventQueue) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Ends them all when it is dropped.
    let mut connections = JoinSet::new();
    while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "cannot accept a connection of dwell-ssh");
                return;
            }
        };
        while connections.try_join_next().is_some() {}
        let queue = queue.clone();
        connections.spawn(async move {
            read(stream, &queue).await;
            drop(permit);
        });
    }
}

/// Queues the events of a connection until it ends or makes no sense any more.
async fn read(stream: UnixStream, queue: &EventQueue) {
    let mut reader = BufReader::with_capacity(1024, stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line).await {
            Ok(_) if line.last() == Some(&b'\n') => {}
            Ok(0) | Err(_) => return,
            Ok(length) => {
                tracing::warn!(length, "dwell-ssh sent a line that is too long or not whole");
                return;
            }
        }
        match serde_json::from_slice(&line) {
            Ok(event) => queue.push(event),
            // Of a newer version perhaps.
            Err(error) => tracing::warn!(%error, "dwell-ssh reported something unknown"),
        }
    }
}

#[cfg(test)]
mod tests;
