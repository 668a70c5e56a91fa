//! TCP with mutual TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::connection::Before;
use super::node_connections::NodeConnections;
use super::places::{Place, Places};
use super::{ACCEPT_PAUSE, Connection, Entrances, ListenError, Source};
use crate::owner::Contexts;
use crate::pki::{Authority, Certified, Identity, Tls};
use crate::refusals::{Reason, Refusals};

/// How many connections may not be through TLS yet, and how many of them of one source. The others wait in the kernel.
const ARRIVALS_MAX: (usize, usize) = (1024, 256);
/// How many handshakes may be going on at once, and how many of one source. Each costs about a millisecond of a
/// processor, so that the last of them is done long before its peer loses patience.
const HANDSHAKES_MAX: (usize, usize) = (128, 32);
/// How long a handshake may take, and the wait for one. One that says nothing keeps its place for that long.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// How many connections without a certificate there may be at once, and how many of one source.
const ANONYMOUS_MAX: (usize, usize) = (64, 8);
/// How long to wait for a place among them.
const ANONYMOUS_WAIT: Duration = Duration::from_secs(5);

/// Listens on TCP.
pub struct TlsListener {
    listener: TcpListener,
    address: SocketAddr,
}

/// What every connection needs until it is handed over.
#[derive(Clone)]
struct Reception {
    tls: Arc<Tls>,
    authority: Arc<Authority>,
    handshakes: Places,
    anonymous: Places,
    of_nodes: NodeConnections,
    contexts: Contexts,
    entrances: Entrances,
    refusals: Refusals,
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
        Ok(Self { listener, address })
    }

    /// Where it listens, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hands connections over until `stop` is cancelled.
    pub(crate) async fn run(
        self,
        tls: Tls,
        (authority, contexts): (Arc<Authority>, Contexts),
        entrances: Entrances,
        refusals: Refusals,
        stop: CancellationToken,
    ) {
        let places = |(all, each)| Places::new(all, each);
        let arrivals = places(ARRIVALS_MAX);
        let reception = Reception {
            tls: Arc::new(tls),
            authority,
            handshakes: places(HANDSHAKES_MAX),
            anonymous: places(ANONYMOUS_MAX),
            of_nodes: NodeConnections::default(),
            contexts,
            entrances,
            refusals: refusals.clone(),
        };
        loop {
            // The place first: while there is none, connections wait in the kernel, which bounds them.
            // Cancel-safe: neither a place nor a connection is lost that anyone waits for.
            let accepted = tokio::select! {
                accepted = async { Some((arrivals.any().await?, self.listener.accept().await)) } => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Some((place, Ok((stream, from)))) => {
                    match arrivals.give(place, Source::of(from.ip())) {
                        Some(place) => {
                            tokio::spawn(reception.clone().run(stream, from.ip(), place));
                        }
                        None => refusals.note(Reason::Crowd, Some(from.ip()), &"too many at once"),
                    }
                }
                Some((_, Err(error))) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                None => return,
            }
        }
    }
}

impl Reception {
    /// From TCP to the server that the connection is for. `_arrival` is held meanwhile.
    async fn run(self, stream: TcpStream, from: IpAddr, _arrival: Place) {
        // Small messages matter more here than full segments.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let Some(stream) = self.handshake(stream, from).await else { return };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let connection = match certificate.map(|certificate| self.authority.read(certificate)) {
            Some(Ok(certified)) => self.certified(stream, from, certified),
            Some(Err(error)) => {
                return self.refusals.note(Reason::Certificate, Some(from), &error);
            }
            None => match timeout(ANONYMOUS_WAIT, self.anonymous.enter(Source::of(from))).await {
                Ok(Some(place)) => Connection::anonymous(stream, from, place),
                Ok(None) => return,
                Err(_) => {
                    return self.refusals.note(Reason::Anonymous, Some(from), &"too many at once");
                }
            },
        };
        // The server may have ended.
        self.entrances.hand_over(connection).await;
    }

    /// Waits for the turn of the source, and does TLS.
    async fn handshake(&self, stream: TcpStream, from: IpAddr) -> Option<TlsStream<TcpStream>> {
        let refuse = |detail: &dyn std::fmt::Display| {
            self.refusals.note(Reason::Handshake, Some(from), detail);
            None
        };
        let turn = timeout(HANDSHAKE_TIME, self.handshakes.enter(Source::of(from))).await;
        let Ok(_turn) = turn else {
            return refuse(&"its source has too many others that say nothing");
        };
        let acceptor = TlsAcceptor::from(self.tls.config());
        match timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => refuse(&error),
            Err(_) => refuse(&"it took too long"),
        }
    }

    fn certified(
        &self,
        stream: TlsStream<TcpStream>,
        from: IpAddr,
        Certified { identity, expires, retired }: Certified,
    ) -> Connection {
        // Sleeping goes by the monotonic clock; a step of the wall clock does not matter.
        let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
        let before = match &identity {
            Identity::Node { enrolment, .. } => {
                Before::Displaced(self.of_nodes.add(enrolment.clone()))
            }
            Identity::Client(client) => {
                let revoked = self.contexts.revoked(client.context);
                // Each call is refused then, and says why.
                if revoked.is_cancelled() { Before::Nothing } else { Before::Revoked(revoked) }
            }
        };
        let until = Instant::now() + left;
        Connection::certified(stream, from, identity, (until, retired), before)
    }
}
