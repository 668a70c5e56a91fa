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
use tokio_util::sync::CancellationToken;
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
    end: End,
    /// A place among the connections without a certificate.
    _place: Option<Place>,
}

/// When reading and writing begin to fail, and why.
enum End {
    Never,
    Due(Pin<Box<dyn Future<Output = &'static str> + Send>>),
    Over(&'static str),
}

/// What ends the connection of somebody with a certificate before that has expired.
pub(super) enum Before {
    /// The node has made too many newer ones.
    Displaced(Counted),
    /// Its context is revoked. One that was revoked already has been told so instead.
    Revoked(CancellationToken),
    /// Nothing.
    Nothing,
}

impl Before {
    async fn ends(&self) -> &'static str {
        match self {
            Self::Displaced(counted) => {
                counted.displaced().cancelled().await;
                "the node has made newer ones"
            }
            Self::Revoked(revoked) => {
                revoked.cancelled().await;
                "its context is revoked"
            }
            Self::Nothing => std::future::pending().await,
        }
    }
}

enum Stream {
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Connection {
    pub(super) fn local(stream: UnixStream) -> Self {
        Self { peer: Peer::Local, stream: Stream::Unix(stream), end: End::Never, _place: None }
    }

    /// Of somebody with a certificate that is valid until then, or until whoever signed it is retired, if nothing ends it
    /// before.
    pub(super) fn certified(
        stream: TlsStream<TcpStream>,
        from: IpAddr,
        identity: Identity,
        (until, retired): (Instant, CancellationToken),
        before: Before,
    ) -> Self {
        let end = async move {
            // Cancel-safe: whichever comes first ends the connection.
            tokio::select! {
                () = sleep_until(until) => "its certificate has expired",
                () = retired.cancelled() => "the authority that signed its certificate is retired",
                reason = before.ends() => reason,
            }
        };
        Self {
            peer: Peer::Certified { identity: Arc::new(identity), from },
            stream: Stream::Tls(Box::new(stream)),
            end: End::Due(Box::pin(end)),
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
            end: End::Due(Box::pin(end)),
            _place: Some(place),
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Fails if the time is up. Asked at writing as well: whoever reads nothing keeps us from reading, too.
    fn check_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let End::Due(end) = &mut self.end
            && let Poll::Ready(reason) = end.as_mut().poll(context)
        {
            self.end = End::Over(reason);
        }
        match self.end {
            End::Over(reason) => Err(io::Error::new(io::ErrorKind::TimedOut, reason)),
            End::Never | End::Due(_) => Ok(()),
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
        self.check_end(context)?;
        self.stream.pin().poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_end(context)?;
        self.stream.pin().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_end(context)?;
        self.stream.pin().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_end(context)?;
        self.stream.pin().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_end(context)?;
        self.stream.pin().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::time::{sleep, timeout};

    use super::*;

    /// Whoever reads nothing keeps the server from reading as well, which waits until it has written.
    #[tokio::test(start_paused = true)]
    async fn the_time_is_up_although_the_other_end_reads_nothing() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let end = async {
            sleep(Duration::from_secs(6)).await;
            "its time is up"
        };
        let mut connection = Connection::local(stream);
        connection.end = End::Due(Box::pin(end));
        let all = async { while connection.write_all(&[0; 1024]).await.is_ok() {} };
        timeout(Duration::from_secs(60), all).await.unwrap();
        // And it stays so.
        for _ in 0..2 {
            assert_eq!(connection.flush().await.unwrap_err().to_string(), "its time is up");
            assert!(connection.shutdown().await.is_err());
        }
    }
}
