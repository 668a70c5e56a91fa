//! The process: what starts, and how it stops.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dwell_daemon::readiness;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::enter::Enter;
use crate::events::Reporter;
use crate::front::Front;
use crate::{listen, state};

/// How long connections have to end when the process is to stop.
const GOODBYE: Duration = Duration::from_secs(3);

/// Why the process cannot work.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The copy of the program.
    #[error("cannot make the copy of the program that enters containers")]
    Enter(#[source] io::Error),
    /// Signals.
    #[error("cannot watch for signals")]
    Signals(#[source] io::Error),
}

/// Serves the instances that the agent names in `run_dir` until the process is told to stop.
///
/// # Errors
/// [`DaemonError`], at the start.
pub async fn run(run_dir: &Path) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let enter = Enter::new(run_dir.to_owned()).map_err(DaemonError::Enter)?;
    let dir = run_dir.join("ssh");
    let events = dir.join("events.sock");
    let reporter = Reporter::default();
    let (trust, trusted) = watch::channel(Arc::default());
    let stopping = CancellationToken::new();
    let front = Arc::new(Front::new(enter, trusted, reporter.clone(), stopping.clone()));
    let serve = {
        let front = Arc::clone(&front);
        move |instance| drop(front.tasks.spawn(listen::serve(Arc::clone(&front), instance)))
    };
    info!(dir = %dir.display(), version = env!("CARGO_PKG_VERSION"), "started");
    readiness::ready();
    tokio::select! {
        () = state::keep(dir, trust, serve) => {}
        () = reporter.deliver(&events) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!(connections = front.tasks.len(), "stopping");
    stopping.cancel();
    front.tasks.close();
    let goodbye = async {
        front.tasks.wait().await;
        reporter.deliver_the_rest(&events).await;
    };
    drop(tokio::time::timeout(GOODBYE, goodbye).await);
    Ok(())
}
