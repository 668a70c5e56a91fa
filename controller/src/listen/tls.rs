//! TCP with mutual TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{ACCEPT_PAUSE, Connection, ListenError};
use crate::pki::Authority;

/// How many handshakes may be going on at once. Each costs about a millisecond of a processor, so that
/// the last of them is done long before its peer loses patience; all others wait in the kernel.
const HANDSHAKES_MAX: usize = 64;
/// How long a handshake may take. One that says nothing keeps its place for that long.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// How many connections without a certificate there may be at once.
const ANONYMOUS_MAX: usize = 64;
/// How long a connection without a certificate may last.
const ANONYMOUS_TIME: Duration = Duration::from_secs(20);

/// Listens on TCP.
pub struct TlsListener {
    listener: TcpListener,
    address: SocketAddr,
    handshakes: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
}

/// What every handshake needs.
#[derive(Clone)]
struct Handshake {
    acceptor: TlsAcceptor,
    authority: Arc<Authority>,
    anonymous: Arc<Semaphore>,
    connections: mpsc::Sender<Connection>,
}

impl TlsListener {
    /// Takes the address.
    ///
    /// # Errors
    /// [`ListenError::Tcp`].
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let refuse = |reason| ListenError::Tcp { address, reason };
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let anonymous = Arc::new(Semaphore::new(ANONYMOUS_MAX));
        Ok(Self { listener, address, handshakes, anonymous })
    }

    /// Where it listens, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hands connections over until `stop` is cancelled.
    pub async fn run(
        self,
        tls: rustls::ServerConfig,
        authority: Arc<Authority>,
        connections: mpsc::Sender<Connection>,
        stop: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let anonymous = Arc::clone(&self.anonymous);
        let handshake = Handshake { acceptor, authority, anonymous, connections };
        loop {
            // Cancel-safe: neither a place nor a connection is lost that anyone waits for.
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, place)) => {
                    tokio::spawn(handshake.clone().run(stream, place));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The place first: while there is none, connections wait in the kernel, which bounds them.
    async fn accept(&self) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.handshakes).acquire_owned().await;
        let place = place.map_err(std::io::Error::other)?;
        let (stream, _) = self.listener.accept().await?;
        Ok((stream, place))
    }
}

impl Handshake {
    async fn run(self, stream: TcpStream, _place: OwnedSemaphorePermit) {
        let from = stream.peer_addr().ok();
        // Small messages matter more here than full segments.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let stream = match timeout(HANDSHAKE_TIME, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::info!(?from, %error, "refused a TLS handshake"),
            Err(_) => return tracing::info!(?from, "a TLS handshake took too long"),
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let connection = match certificate.map(|certificate| self.authority.read(certificate)) {
            Some(Ok(certified)) => {
                // Sleeping goes by the monotonic clock; a step of the wall clock does not matter.
                let left = certified.expires.duration_since(SystemTime::now()).unwrap_or_default();
                Connection::certified(stream, certified.identity, Instant::now() + left)
            }
            Some(Err(error)) => return tracing::info!(?from, %error, "refused a certificate"),
            None => {
                let Ok(place) = Arc::clone(&self.anonymous).try_acquire_owned() else {
                    return tracing::info!(
                        ?from,
                        "refused: too many connections without certificate"
                    );
                };
                Connection::anonymous(stream, Instant::now() + ANONYMOUS_TIME, place)
            }
        };
        // The server may have ended.
        drop(self.connections.send(connection).await);
    }
}
