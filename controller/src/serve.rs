//! The servers: one for each kind of connection, since what HTTP/2 lets the other end do is settled before the first
//! request is read.
//!
//! | | people, the unix socket | nodes | without a certificate |
//! |---|---|---|---|
//! | requests at once | 1536 | 1536 | 4 |
//! | headers of a request | 16 KiB | 4 KiB | 2 KiB |
//! | unread bytes of a request | 256 KiB | 256 KiB | 32 KiB |
//! | unread bytes of a connection | room for all requests | room for all requests | 64 KiB, the least that HTTP/2 has |
//!
//! All serve the same routes, behind [access](crate::access) and [intake](crate::intake).

use std::convert::Infallible;
use std::time::Duration;

use dwell_core::quantity::Millis;
use dwell_proto::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, STREAMS_MAX};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::access::AccessLayer;
use crate::intake::IntakeLayer;
use crate::listen::{Connection, Entrances};

/// How many accepted connections of a kind may wait for their server.
const CONNECTIONS_MAX: usize = 64;

/// What the other end of a connection may do.
#[derive(Clone, Copy, Debug)]
struct Http2 {
    requests_max: u32,
    headers_max_bytes: u32,
    request_window_bytes: u32,
    connection_window_bytes: u32,
}

const PEOPLE: Http2 = Http2 {
    requests_max: STREAMS_MAX,
    headers_max_bytes: 16 << 10,
    request_window_bytes: STREAM_WINDOW_BYTES,
    connection_window_bytes: CONNECTION_WINDOW_BYTES,
};
/// Tunnels are requests, too.
const NODES: Http2 = Http2 { headers_max_bytes: 4 << 10, ..PEOPLE };
const ANONYMOUS: Http2 = Http2 {
    requests_max: 4,
    headers_max_bytes: 2 << 10,
    request_window_bytes: 32 << 10,
    connection_window_bytes: 65_535,
};

/// The servers, before they run.
pub(crate) struct Servers {
    people: mpsc::Receiver<Connection>,
    nodes: mpsc::Receiver<Connection>,
    anonymous: mpsc::Receiver<Connection>,
    keepalive: Duration,
}

impl Servers {
    /// Servers, and where their connections are handed in.
    pub(crate) fn new(heartbeat: Millis) -> (Self, Entrances) {
        let (to_people, people) = mpsc::channel(CONNECTIONS_MAX);
        let (to_nodes, nodes) = mpsc::channel(CONNECTIONS_MAX);
        let (to_anonymous, anonymous) = mpsc::channel(CONNECTIONS_MAX);
        // A peer behind a link that swallows everything is noticed by the transport too.
        let keepalive = heartbeat.as_duration().max(Duration::from_secs(1));
        let entrances = Entrances { people: to_people, nodes: to_nodes, anonymous: to_anonymous };
        (Self { people, nodes, anonymous, keepalive }, entrances)
    }

    /// Serves all connections until `stop` is cancelled and they have ended, or a server ends by itself.
    pub(crate) async fn run(
        self,
        routes: Routes,
        access: AccessLayer,
        intake: IntakeLayer,
        stop: CancellationToken,
    ) {
        let rules = (access, intake);
        let serve = |http2, incoming| {
            serve(http2, self.keepalive, incoming, routes.clone(), rules.clone(), stop.clone())
        };
        // Each ends when told to, and else by a fault, with which the others have to end as well.
        let served = tokio::try_join!(
            serve(PEOPLE, self.people),
            serve(NODES, self.nodes),
            serve(ANONYMOUS, self.anonymous),
        );
        if let Err(error) = served {
            tracing::error!(%error, "a server ended");
        }
    }
}

async fn serve(
    http2: Http2,
    keepalive: Duration,
    incoming: mpsc::Receiver<Connection>,
    routes: Routes,
    (access, intake): (AccessLayer, IntakeLayer),
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .http2_keepalive_interval(Some(keepalive * 2))
        .http2_keepalive_timeout(Some(keepalive * 4))
        .max_concurrent_streams(http2.requests_max)
        .initial_stream_window_size(http2.request_window_bytes)
        .initial_connection_window_size(http2.connection_window_bytes)
        .http2_max_header_list_size(http2.headers_max_bytes)
        .layer(access)
        .layer(intake)
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(incoming).map(Ok::<_, Infallible>),
            stop.cancelled_owned(),
        )
        .await
}
