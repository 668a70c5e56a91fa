//! One connection: who it is, and its channels.
//!
//! ```text
//!   accepted ──admitted──► keys agreed on ──► logged in ──► channels come and go ──► closed
//!       │                        │ not within 60 s, or refused too often                ▲
//!       └── a limit is reached ──┴──────────────────────────────────────────────────────┘
//! ```
//!
//! `russh` owns the connection's loop and calls the [`Connection`] from it. Nothing there waits for anything:
//! what does, a process or a forwarded connection, is a task of its own, which ends when its channel or the
//! connection does.

mod admittance;
mod channels;
mod forward;
mod handler;
mod login;
mod requests;
mod session;
mod stream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::id::InstanceName;
use russh::{Disconnect, server};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use self::channels::Channels;
use self::login::LogIn;
use crate::algorithms;
use crate::front::{Admission, Front};
use crate::gate::Gate;
use crate::state::ServedNow;

/// How long a client has to log in, agreeing on keys included.
const LOGIN: Duration = Duration::from_secs(60);
/// How long a client that was told to go has to go.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a connection to an instance that is no longer served may be without a process, at least and about.
const ORPHANED: Duration = Duration::from_secs(30);
/// Read ahead, in bytes: a large packet and a bit.
const READ_AHEAD: usize = 48 * 1024;

/// What `russh` calls.
struct Connection {
    front: Arc<Front>,
    instance: ServedNow,
    client: SocketAddr,
    /// The address that the client connected to.
    server: SocketAddr,
    login: LogIn,
    channels: Channels,
    /// Forwarded ports that are listened on, by address and port as the client named them.
    forwards: HashMap<(String, u32), DropGuard>,
    /// Unix sockets that are listened on, by path.
    sockets: HashMap<String, DropGuard>,
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    front: Arc<Front>,
    instance: ServedNow,
    stream: TcpStream,
    client: SocketAddr,
) {
    let name = instance.borrow().instance.clone();
    let admission = match front.admit(&name, client.ip()) {
        Ok(admission) => admission,
        Err(denial) => {
            warn!(instance = %name, from = %client, reason = %denial, "connection turned away");
            return;
        }
    };
    match run(front, instance, &name, stream, client, admission).await {
        Ok(()) => debug!(instance = %name, from = %client, "connection ended"),
        Err(error) => debug!(instance = %name, from = %client, %error, "connection broke"),
    }
}

async fn run(
    front: Arc<Front>,
    instance: ServedNow,
    name: &InstanceName,
    stream: TcpStream,
    client: SocketAddr,
    admission: Admission,
) -> Result<(), russh::Error> {
    let deadline = Instant::now() + LOGIN;
    let config = match algorithms::server_config(&instance.borrow().host_key) {
        Ok(config) => Arc::new(config),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            warn!(instance = %name, error, "nobody can log in");
            return Ok(());
        }
    };
    stream.set_nodelay(true)?;
    let server = stream.local_addr()?;
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    let channels = Channels::new(cut.child_token());
    let stream = Gate::new(stream, channels.intake(), cut);
    let stopping = front.stopping.clone();
    let login = LogIn::new(front.reporter.clone(), name.clone(), client, admission);
    let logged_in = login.flag();
    let too_late = async {
        tokio::time::sleep_until(deadline).await;
        if logged_in.is_cancelled() {
            std::future::pending::<()>().await;
        }
    };
    let orphaned = orphaned(instance.clone(), channels.clone());
    let (forwards, sockets) = (HashMap::new(), HashMap::new());
    let connection =
        Connection { front, instance, client, server, login, channels, forwards, sockets };
    let starting =
        server::run_stream(config, BufReader::with_capacity(READ_AHEAD, stream), connection);
    let mut session = tokio::select! {
        session = starting => session?,
        () = tokio::time::sleep_until(deadline) => return Ok(()),
        () = stopping.cancelled() => return Ok(()),
    };
    let farewell = tokio::select! {
        ended = &mut session => return ended,
        () = too_late => "nobody logged in for too long",
        () = stopping.cancelled() => "dwell-ssh is being stopped on this node; log in again",
        () = orphaned => "this instance is no longer served here",
    };
    info!(instance = %name, from = %client, reason = farewell, "ending a connection");
    let handle = session.handle();
    let goodbye = async {
        handle.disconnect(Disconnect::ByApplication, farewell.to_owned(), String::new()).await?;
        session.await
    };
    tokio::time::timeout(GOODBYE, goodbye).await.unwrap_or(Ok(()))
}

/// Waits until the instance is no longer served and no process of the connection runs any more.
async fn orphaned(mut instance: ServedNow, channels: Channels) {
    while instance.changed().await.is_ok() {}
    loop {
        tokio::time::sleep(ORPHANED).await;
        if !channels.any_process() {
            return;
        }
    }
}
