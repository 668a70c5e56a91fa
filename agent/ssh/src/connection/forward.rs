//! Forwarding: connections of the client into the sandbox, connections of the sandbox to the client, and its agent.
//!
//! Both ends of a forwarded TCP connection behave as if they were programs in the instance: they use its
//! network namespace, and names mean what they mean there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelOpenFailure};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tracing::debug;

use super::channels::Channels;
use super::stream;
use crate::{netns, resolve};

/// Pause after an accept that failed, which means that the process is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that the client wants made from inside the sandbox.
pub(super) struct Outgoing {
    pub(super) netns: PathBuf,
    /// The zone of the instances' names.
    pub(super) zone: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) channel: Channel<Msg>,
    pub(super) reply: ChannelOpenHandle,
}

/// Makes it, and carries its data until it ends.
pub(super) async fn connect(outgoing: Outgoing, channels: Channels) {
    let Outgoing { netns, zone, host, port, channel, reply } = outgoing;
    let Some(place) = channels.place() else {
        return reply.reject(ChannelOpenFailure::ResourceShortage).await;
    };
    let stream = match reach(&netns, &zone, &host, port).await {
        Ok(stream) => stream,
        Err(error) => {
            debug!(host, port, %error, "cannot forward");
            return reply.reject(ChannelOpenFailure::ConnectFailed).await;
        }
    };
    let (_, write) = channel.split();
    let id = write.id();
    // In this order: nothing that comes in is lost then, and nothing goes out before the channel is open.
    channels.enter(id, None);
    reply.accept().await;
    let all = channels.clone();
    channels.spawn(id, |outlet, closed| async move {
        let _place = place;
        let ended = stream::bridge(stream, outlet, &write, closed, &all).await;
        debug!(?ended, "a forwarded connection ended");
    });
}

/// Connects to the first of the name's addresses that answers.
async fn reach(
    netns: &std::path::Path,
    zone: &str,
    host: &str,
    port: u16,
) -> io::Result<tokio::net::TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::HostUnreachable);
    for address in resolve::addresses(netns, zone, host).await? {
        match netns::connect(netns, SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A port inside the sandbox whose connections go to the client.
pub(super) struct Incoming {
    pub(super) listener: TcpListener,
    /// As the client named it.
    pub(super) address: String,
    pub(super) port: u32,
}

/// Which address a client means that wants `address` to be listened on; nothing if it has to be a name that we
/// cannot know.
pub(super) fn listen_address(address: &str) -> Option<IpAddr> {
    match address {
        "" | "*" => Some(Ipv4Addr::UNSPECIFIED.into()),
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        "::" => Some(Ipv6Addr::UNSPECIFIED.into()),
        other => other.parse().ok(),
    }
}

/// Passes its connections to the client, for ever.
pub(super) async fn accept(incoming: Incoming, handle: Handle, channels: Channels) {
    let Incoming { listener, address, port } = incoming;
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "cannot accept a connection to forward");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        drop(stream.set_nodelay(true));
        let (handle, channels, address) = (handle.clone(), channels.clone(), address.clone());
        tokio::spawn(async move {
            let (from, from_port) = (from.ip().to_string(), from.port().into());
            let opening = handle.channel_open_forwarded_tcpip(address, port, from, from_port);
            open(opening, stream, &channels).await;
        });
    }
}

/// Passes connections to the agent's socket to the client's agent, for ever.
pub(super) async fn agents(listener: Option<UnixListener>, handle: &Handle, channels: &Channels) {
    let Some(listener) = listener else { return };
    // Until the session's end, which removes the socket.
    while let Ok((stream, _)) = listener.accept().await {
        let (handle, channels) = (handle.clone(), channels.clone());
        tokio::spawn(async move { open(handle.channel_open_agent(), stream, &channels).await });
    }
}

/// Connects `stream` to a channel that the client is being asked for.
async fn open(
    opening: impl Future<Output = Result<Channel<Msg>, russh::Error>>,
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    channels: &Channels,
) {
    let Some(place) = channels.place() else {
        debug!("too many channels: a connection is not forwarded");
        return;
    };
    let write = match opening.await {
        Ok(channel) => channel.split().1,
        Err(error) => {
            debug!(%error, "the client does not take a connection");
            return;
        }
    };
    let id = write.id();
    if channels.entered(id).await {
        let all = channels.clone();
        channels.spawn(id, |outlet, closed| async move {
            let _place = place;
            let ended = stream::bridge(stream, outlet, &write, closed, &all).await;
            debug!(?ended, "a forwarded connection ended");
        });
    }
}
