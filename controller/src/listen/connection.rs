//! A connection: its bytes, who is at the other end, and when it has to end.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::Visit;
use super::node_connections::Counted;
use super::places::Place;
use crate::pki::Identity;

/// Who is at the other end of a connection. Every request has it among its extensions.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A process of root's, or of the controller's own user, on this host.
    Local,
    /// Someone without a certificate.
    Anonymous(Arc<Visit>),
    /// Someone with a certificate of the cluster's CA.
    Certified {
        /// Who the certificate speaks for.
        identity: Arc<Identity>,
        /// Where the connection comes from.
        from: IpAddr,
    },
}

impl Peer {
    /// Where the connection comes from, if that is not this host's own socket.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Local => None,
            Self::Anonymous(visit) => Some(visit.address()),
            Self::Certified { from, .. } => Some(*from),
        }
    }
}

/// A connection that a request can come from.
pub struct Connection {
    peer: Peer,
    stream: Stream,
    /// When reading begins to fail, and why.
    end: Option<Pin<Box<dyn Future<Output = &'static str> + Send>>>,
    /// A place among the connections without a certificate.
    _place: Option<Place>,
}

enum Stream {
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Connection {
    pub(super) fn local(stream: UnixStream) -> Self {
        Self { peer: Peer::Local, stream: Stream::Unix(stream), end: None, _place: None }
    }

    /// Of somebody with a certificate that is valid until then; a node's is `counted` among those of the node.
    pub(super) fn certified(
        stream: TlsStream<TcpStream>,
        from: IpAddr,
        identity: Identity,
        until: Instant,
        counted: Option<Counted>,
    ) -> Self {
        let end = async move {
            let displaced = async {
                match &counted {
                    Some(counted) => counted.displaced().cancelled().await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: whichever comes first ends the connection.
            tokio::select! {
                () = sleep_until(until) => "its certificate has expired",
                () = displaced => "the node has made newer ones",
            }
        };
        Self {
            peer: Peer::Certified { identity: Arc::new(identity), from },
            stream: Stream::Tls(Box::new(stream)),
            end: Some(Box::pin(end)),
            _place: None,
        }
    }

    pub(super) fn anonymous(stream: TlsStream<TcpStream>, from: IpAddr, place: Place) -> Self {
        let visit = Visit::from(from);
        let over = Arc::clone(&visit).over();
        let end = async move {
            over.await;
            "it has no certificate, and its time is up"
        };
        Self {
            peer: Peer::Anonymous(visit),
            stream: Stream::Tls(Box::new(stream)),
            end: Some(Box::pin(end)),
            _place: Some(place),
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Stream {
    fn pin(&mut self) -> Pin<&mut (dyn Duplex + Unpin)> {
        match self {
            Self::Tls(stream) => Pin::new(stream),
            Self::Unix(stream) => Pin::new(stream),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite {}
impl<T: AsyncRead + AsyncWrite> Duplex for T {}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && let Poll::Ready(reason) = end.as_mut().poll(context)
        {
            // What has ended must not be asked again; and writing ends with the connection.
            self.end = None;
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)));
        }
        self.stream.pin().poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.pin().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.pin().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.pin().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.pin().poll_shutdown(context)
    }
}
