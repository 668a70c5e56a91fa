//! A connection: its bytes, who is at the other end, and when it has to end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::pki::Identity;

/// Who is at the other end of a connection. Every request has it among its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of root's, or of the controller's own user, on this host.
    Local,
    /// Someone without a certificate.
    Anonymous,
    /// Someone with a certificate of the cluster's CA.
    Certified(Arc<Identity>),
}

/// A connection that a request can come from.
pub struct Connection {
    peer: Peer,
    stream: Stream,
    /// When reading begins to fail.
    deadline: Option<Pin<Box<Sleep>>>,
    /// A place among the connections without a certificate.
    _place: Option<OwnedSemaphorePermit>,
}

enum Stream {
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Connection {
    pub(super) fn local(stream: UnixStream) -> Self {
        Self { peer: Peer::Local, stream: Stream::Unix(stream), deadline: None, _place: None }
    }

    pub(super) fn certified(
        stream: TlsStream<TcpStream>,
        identity: Identity,
        until: Instant,
    ) -> Self {
        Self {
            peer: Peer::Certified(Arc::new(identity)),
            stream: Stream::Tls(Box::new(stream)),
            deadline: Some(Box::pin(tokio::time::sleep_until(until))),
            _place: None,
        }
    }

    pub(super) fn anonymous(
        stream: TlsStream<TcpStream>,
        until: Instant,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            peer: Peer::Anonymous,
            stream: Stream::Tls(Box::new(stream)),
            deadline: Some(Box::pin(tokio::time::sleep_until(until))),
            _place: Some(place),
        }
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
        let over = self.deadline.as_mut().is_some_and(|at| at.as_mut().poll(context).is_ready());
        if over {
            // A sleep must not be asked again; and writing ends with the connection.
            self.deadline = None;
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the time of this connection is up",
            )));
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
