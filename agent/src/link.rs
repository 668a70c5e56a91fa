//! One connection to the controller: name resolution, TCP, TLS, HTTP/2.
//!
//! A [`Channel`] made here does not reconnect by itself: when the connection is lost, calls fail, and
//! whoever needs a new one calls [`connect`] again, which asks for the address anew. A connection
//! over which nothing comes back any more is noticed by HTTP/2 pings.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dwell_proto::trust::CONTROLLER_NAME;
use dwell_proto::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::trust::PinMismatch;

/// How long each of resolution and TCP (for all addresses together) may take.
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// How long each of TLS and HTTP/2 may take. A controller that has all its agents at the door lets them in
/// by turns; who gives up early comes back and makes the crowd larger.
const TURN_LIMIT: Duration = Duration::from_secs(30);
/// After how many pings' time without an answer the connection counts as lost.
const PINGS_MISSED: u32 = 5;

/// Why there is no connection to the controller.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The host name means nothing.
    #[error("cannot find the address of the controller {endpoint}; is the name right?")]
    Resolve {
        /// `HOST:PORT`
        endpoint: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error(
        "cannot reach the controller at {endpoint}; does it run there, and may this host connect to it?"
    )]
    Unreachable {
        /// `HOST:PORT`
        endpoint: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody answers who is not this cluster's controller.
    #[error("{endpoint} is not to be trusted: {reason}")]
    NotTrusted {
        /// `HOST:PORT`
        endpoint: String,
        /// What is wrong with its certificate, and what to do.
        reason: String,
    },
    /// Somebody answers and ends the connection.
    #[error(
        "{endpoint} ended the connection before it had answered; too much may come from this host's address at once, or \
         it is starting anew: try again in a moment"
    )]
    Ended {
        /// `HOST:PORT`
        endpoint: String,
        /// What was seen.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody answers and it is not a controller.
    #[error("{endpoint} does not answer as a controller does; is the port right?")]
    Protocol {
        /// `HOST:PORT`
        endpoint: String,
        /// What was seen.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Connects to `endpoint` (`HOST:PORT`). Pings are sent every `ping`; after five times that without an answer
/// the connection counts as lost.
///
/// # Errors
/// [`LinkError`] by the step that failed. What the controller has against our certificate is only seen
/// by the first call.
pub async fn connect(
    endpoint: &str,
    tls: Arc<ClientConfig>,
    ping: Duration,
) -> Result<Channel, LinkError> {
    let tcp = connect_tcp(endpoint).await?;
    let stream = connect_tls(endpoint, tls, tcp).await?;
    speak(endpoint, stream, ping).await
}

/// As [`connect`], and waits until the controller has begun to speak HTTP/2, which it does unasked. One that has no room
/// ends the connection before that, so that no request is lost with it.
///
/// # Errors
/// As [`connect`].
pub async fn connect_admitted(
    endpoint: &str,
    tls: Arc<ClientConfig>,
    ping: Duration,
) -> Result<Channel, LinkError> {
    let tcp = connect_tcp(endpoint).await?;
    let mut stream = connect_tls(endpoint, tls, tcp).await?;
    // One that waits for us to speak first is found out by what comes next.
    match timeout(TURN_LIMIT, stream.fill_buf()).await {
        Ok(Ok([])) => {
            let source = io::Error::from(io::ErrorKind::UnexpectedEof).into();
            return Err(LinkError::Ended { endpoint: endpoint.to_owned(), source });
        }
        Ok(Err(error)) => return Err(handshake_failure(endpoint, error)),
        Ok(Ok(_)) | Err(_) => {}
    }
    speak(endpoint, stream, ping).await
}

/// HTTP/2 over a connection that is through TLS.
async fn speak(
    endpoint: &str,
    stream: TlsStream<TcpStream>,
    ping: Duration,
) -> Result<Channel, LinkError> {
    let protocol = |source: tonic::transport::Error| LinkError::Protocol {
        endpoint: endpoint.to_owned(),
        source: source.into(),
    };
    // Taken once; a second connection is not this module's to make.
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    // TLS is done already, so the scheme is plain to tonic; the host is only the `:authority`.
    Endpoint::from_static("http://controller")
        .connect_timeout(TURN_LIMIT)
        .http2_keep_alive_interval(ping)
        .keep_alive_timeout(ping * PINGS_MISSED)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = stream.lock().ok().and_then(|mut stream| stream.take());
            std::future::ready(stream.ok_or_else(|| io::Error::other("the connection is lost")))
        }))
        .await
        .map_err(protocol)
}

async fn connect_tcp(endpoint: &str) -> Result<TcpStream, LinkError> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let resolve = |source| LinkError::Resolve { endpoint: endpoint.to_owned(), source };
    let addresses: Vec<SocketAddr> = timeout(STEP_LIMIT, tokio::net::lookup_host(endpoint))
        .await
        .map_err(|_| resolve(late()))?
        .map_err(resolve)?
        .collect();
    let unreachable = |source| LinkError::Unreachable { endpoint: endpoint.to_owned(), source };
    let tcp = timeout(STEP_LIMIT, TcpStream::connect(addresses.as_slice()))
        .await
        .map_err(|_| unreachable(late()))?
        .map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    Ok(tcp)
}

async fn connect_tls(
    endpoint: &str,
    tls: Arc<ClientConfig>,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, LinkError> {
    let name = ServerName::try_from(CONTROLLER_NAME).map_err(|source| LinkError::Protocol {
        endpoint: endpoint.into(),
        source: source.into(),
    })?;
    match timeout(TURN_LIMIT, TlsConnector::from(tls).connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(handshake_failure(endpoint, error)),
        Err(_) => Err(LinkError::Protocol {
            endpoint: endpoint.to_owned(),
            source: io::Error::from(io::ErrorKind::TimedOut).into(),
        }),
    }
}

/// Whether the other end has closed the connection, rather than said something wrong.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Tells a wrong certificate from a peer that speaks something else.
fn handshake_failure(endpoint: &str, error: io::Error) -> LinkError {
    if is_end(&error) {
        return LinkError::Ended { endpoint: endpoint.to_owned(), source: error.into() };
    }
    let rustls_error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(problem)) = rustls_error else {
        return LinkError::Protocol { endpoint: endpoint.to_owned(), source: error.into() };
    };
    let reason = match problem {
        CertificateError::Other(other) if other.0.is::<PinMismatch>() => {
            format!("{PinMismatch}; check the address, or take a token from the right controller")
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not from this cluster's CA. If that was rotated while this host was away: remove its node, \
             and join again with a new token and `dwell-agent join --force`"
                .to_owned()
        }
        CertificateError::NotValidForName
        | CertificateError::NotValidForNameContext { .. }
        | CertificateError::InvalidPurpose
        | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is of this cluster, but not a controller's".to_owned()
        }
        CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. }
        | CertificateError::Expired
        | CertificateError::ExpiredContext { .. } => {
            format!("{problem}; are the clocks of both hosts right?")
        }
        problem => format!("its certificate is not accepted: {problem}"),
    };
    LinkError::NotTrusted { endpoint: endpoint.to_owned(), reason }
}
