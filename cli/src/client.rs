//! The connection to a controller.

pub(crate) mod context;
mod target;

use std::io;
use std::path::Path;
use std::time::Duration;

use dwell_proto::trust::CONTROLLER_NAME;
use dwell_proto::v1::fleet_client::FleetClient;
use dwell_proto::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub(crate) use context::Context;
pub(crate) use target::{Target, TargetArgs};

use crate::failure::{Failure, first_cause};

/// A client of the API.
pub(crate) type Client = FleetClient<Channel>;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How often an idle connection is checked, and how long an answer to that may take.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Connects, once: a client does not connect again by itself.
///
/// # Errors
/// [`Failure::Unavailable`] with the place, the reason and what to look at.
pub(crate) async fn connect(target: &Target) -> Result<Client, Failure> {
    let channel = match target {
        Target::Socket(path) => over_socket(path).await?,
        Target::Context(context) => over_tls(context).await?,
    };
    Ok(FleetClient::new(channel).max_decoding_message_size(dwell_proto::MESSAGE_MAX_BYTES))
}

async fn over_socket(path: &Path) -> Result<Channel, Failure> {
    let shown = path.display();
    let explain = |error: io::Error| {
        Failure::Unavailable(match error.kind() {
            io::ErrorKind::NotFound => format!(
                "there is no controller at {shown}; start dwell-controller on this machine, or choose \
                 another controller with --socket or --context"
            ),
            io::ErrorKind::PermissionDenied => {
                format!(
                    "you may not use {shown}; run this as root, or choose a context with --context"
                )
            }
            io::ErrorKind::ConnectionRefused => format!(
                "no controller answers at {shown}, it has left its socket behind; start it again \
                 (systemctl status dwell-controller)"
            ),
            _ => format!("cannot reach the controller at {shown}: {error}"),
        })
    };
    let stream = UnixStream::connect(path).await.map_err(explain)?;
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new);
        async { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    // The name means nothing on a socket, but HTTP wants one.
    windows(Endpoint::from_static("http://controller.dwell"))
        .connect_with_connector(connector)
        .await
        .map_err(|error| explain(io::Error::other(first_cause(&error))))
}

async fn over_tls(context: &Context) -> Result<Channel, Failure> {
    let controller = &context.controller;
    let refuse = |error: tonic::transport::Error| {
        Failure::Unavailable(format!(
            "cannot reach the controller at {controller}: {}; check that it runs, that this machine can \
             reach it, and that the context's certificate is still valid (dwell context issue makes a new one)",
            first_cause(&error)
        ))
    };
    let tls = ClientTlsConfig::new()
        .domain_name(CONTROLLER_NAME)
        .ca_certificate(Certificate::from_pem(&context.ca))
        .identity(Identity::from_pem(&context.certificate, &context.key));
    let endpoint = Endpoint::from_shared(format!("https://{controller}")).map_err(|_| {
        Failure::Usage(format!("the context's controller {controller:?} is not HOST:PORT"))
    })?;
    windows(endpoint)
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .tls_config(tls)
        .map_err(refuse)?
        .connect()
        .await
        .map_err(refuse)
}

/// One stream that nobody reads holds up no other.
fn windows(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}
