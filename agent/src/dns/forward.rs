//! Asks other servers, and passes question and reply on as they are.
//!
//! Each question has a socket of its own, so that its port is the kernel's random choice, and an id that
//! cannot be foreseen: a reply counts only if both fit and it repeats the question.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::{HEADER_BYTES, Transport};
use super::upstream::Upstreams;

/// How long one server may take.
const SERVER_LIMIT: Duration = Duration::from_secs(2);
/// The longest message there is, in bytes. Memory that nothing is written to costs nothing.
const MESSAGE_MAX_BYTES: usize = 65_535;

/// A source of numbers that nobody can foresee: a keyed hash, whose keys are the kernel's randomness.
#[derive(Debug, Default)]
pub(super) struct Chance {
    keys: RandomState,
    drawn: AtomicU64,
}

impl Chance {
    pub(super) fn draw(&self) -> u64 {
        self.keys.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a server said.
enum Said {
    /// Something that is to be passed on.
    Reply(Vec<u8>),
    /// That it does not know or does not want to, so that another may do better.
    Unwilling(Vec<u8>),
}

/// Asks one server after the other, the way the client asked. `None` if none has answered.
pub(super) async fn ask(
    upstreams: &Upstreams,
    chance: &Chance,
    query: &[u8],
    question_end: usize,
    transport: Transport,
) -> Option<Vec<u8>> {
    let id = query.first_chunk::<2>()?;
    let mut reply = None;
    for (number, server) in upstreams.in_order() {
        let mut query = query.to_vec();
        query[..2].copy_from_slice(&chance.draw().to_be_bytes()[..2]);
        let question = Question { bytes: &query, end: question_end };
        let asking = async {
            match transport {
                Transport::Udp => question.by_datagram(server).await,
                Transport::Tcp => question.by_stream(server).await,
            }
        };
        match timeout(SERVER_LIMIT, asking)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        {
            Ok(Said::Reply(said)) => {
                upstreams.prefer(number);
                reply = Some(said);
                break;
            }
            Ok(Said::Unwilling(said)) => reply = Some(said),
            Err(error) => tracing::debug!(%server, %error, "a DNS server does not answer"),
        }
    }
    let mut reply = reply?;
    reply[..2].copy_from_slice(id);
    Some(reply)
}

/// A question under an id of our own.
struct Question<'a> {
    bytes: &'a [u8],
    end: usize,
}

impl Question<'_> {
    async fn by_datagram(&self, server: SocketAddr) -> io::Result<Said> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        socket.send(self.bytes).await?;
        let mut reply = Vec::with_capacity(MESSAGE_MAX_BYTES);
        loop {
            reply.clear();
            socket.recv_buf(&mut reply).await?;
            // Anything else is somebody's guess, or late; the reply may still come.
            if let Some(said) = self.said(&mut reply) {
                return Ok(said);
            }
        }
    }

    async fn by_stream(&self, server: SocketAddr) -> io::Result<Said> {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(&framed(self.bytes)?).await?;
        let mut reply = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut reply).await?;
        self.said(&mut reply).ok_or_else(|| io::Error::other("it answered something else"))
    }

    /// What a message is to this question; `None` if it is no reply to it.
    fn said(&self, message: &mut Vec<u8>) -> Option<Said> {
        const SERVER_FAILURE: u8 = 2;
        const REFUSED: u8 = 5;
        let question = self.bytes.get(HEADER_BYTES..self.end)?;
        let repeated = message.get(HEADER_BYTES..self.end)?;
        let is_reply = message[..2] == self.bytes[..2]
            && message[2] & 0x80 != 0
            && repeated.eq_ignore_ascii_case(question);
        if !is_reply {
            return None;
        }
        let code = message[3] & 0x0f;
        let message = std::mem::take(message);
        Some(match code {
            SERVER_FAILURE | REFUSED => Said::Unwilling(message),
            _ => Said::Reply(message),
        })
    }
}

/// A message with its length before it, as in a stream.
pub(super) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes(), message].concat())
}
