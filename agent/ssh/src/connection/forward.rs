//! Forwarding: connections of the client into the sandbox, connections of the sandbox to the client, and its agent.
//!
//! Both ends of a forwarded TCP connection behave as if they were programs in the instance: they use its
//! network namespace, and names mean what they mean there. Unix sockets are those of the container's file system, made
//! and connected to by a process of the user who is logged in.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelOpenFailure};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tracing::debug;

use super::channels::Channels;
use super::stream;
use crate::enter::{self, Enter, Request};
use crate::front::Front;
use crate::{netns, resolve};

/// Pause after an accept that failed, which means that the process is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes a connection that the client wants made, and carries its data until it ends.
pub(super) async fn connect<S, E>(
    reaching: impl Future<Output = Result<S, E>>,
    channel: Channel<Msg>,
    reply: ChannelOpenHandle,
    channels: Channels,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
    E: std::fmt::Display,
{
    let Some(place) = channels.place() else {
        return reply.reject(ChannelOpenFailure::ResourceShortage).await;
    };
    let stream = match reaching.await {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%error, "cannot forward");
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

/// Connects to the first of the name's addresses inside the sandbox that answers.
///
/// `zone` is that of the instances' names.
pub(super) async fn reach(
    netns: PathBuf,
    zone: String,
    host: String,
    port: u16,
) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::HostUnreachable);
    for address in resolve::addresses(&netns, &zone, &host).await? {
        match netns::connect(&netns, SocketAddr::new(address, port)).await {
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

/// Connects to a Unix socket in the container.
pub(super) async fn reach_socket(
    front: Arc<Front>,
    request: Request,
) -> Result<UnixStream, Box<dyn Error + Send + Sync>> {
    let stream: StdStream = enter::socket(&front.enter, request).await?;
    Ok(UnixStream::from_std(stream)?)
}

/// Listens on a Unix socket in the container.
pub(super) async fn listen_on_socket(
    enter: &Enter,
    request: Request,
) -> Result<UnixListener, Box<dyn Error + Send + Sync>> {
    let listener: StdListener = enter::socket(enter, request).await?;
    Ok(UnixListener::from_std(listener)?)
}

/// Passes connections to a Unix socket in the container to the client, for ever; the client calls the socket `path`.
pub(super) async fn accept_at(
    listener: UnixListener,
    path: String,
    handle: Handle,
    channels: Channels,
) {
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "cannot accept a connection to forward");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (handle, channels, path) = (handle.clone(), channels.clone(), path.clone());
        tokio::spawn(async move {
            open(handle.channel_open_forwarded_streamlocal(path), stream, &channels).await;
        });
    }
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
