//! A TCP connection to a port of an instance, from the host.
//!
//! ```text
//!   connect ─▶ connected ─┬─ instance ─▶ controller, until the instance sends no more
//!                         └─ controller ─▶ instance, until the client sends no more
//! ```
//!
//! Each direction ends by itself; the tunnel ends with both, or when the client goes away or the instance
//! breaks the connection. Either direction is read only as fast as the other side takes it.
//!
//! Invariant: nothing but an instance of this node is connected to. The address is the assignment's, and the
//! kernel is told to use no route with a next hop, so that an address whose sandbox is missing cannot lead to
//! another node.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use dwell_core::id::InstanceName;
use dwell_proto::v1;
use dwell_proto::v1::connect_input::Input;
use dwell_proto::v1::connect_output::Output;
use dwell_proto::v1::tunnel_up::Message;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::codegen::Bytes;

use super::{Ends, PIECE_MAX, TunnelError, send};

/// How long an instance may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A port of an instance of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) instance: InstanceName,
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
}

/// Why there is no connection, or no longer one.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("nothing listens on port {} of {}", .0.port, .0.instance)]
    Refused(Target),
    #[error("{} did not accept on port {} within {} s", .0.instance, .0.port, CONNECT_LIMIT.as_secs())]
    Late(Target),
    #[error("there is no way to {} of {} on its node; `dwell-agent doctor` there says why", .0.address, .0.instance)]
    NoWay(Target),
    #[error("{} broke the connection to its port {}", .0.instance, .0.port)]
    Broken(Target),
    #[error("cannot connect to port {} of {}: {reason}", target.port, target.instance)]
    Other { target: Target, reason: io::Error },
}

/// Connects, and carries both directions to their ends.
pub(super) async fn carry(target: Target, ends: &mut Ends) -> Result<(), TunnelError> {
    // Cancel-safe: both branches end the tunnel, or the first one is done.
    let stream = tokio::select! {
        stream = connect(&target) => stream?,
        _ = ends.down.message() => return Err(TunnelError::Gone),
    };
    send_output(&ends.up, Output::Connected(true)).await?;

    let (reader, writer) = stream.into_split();
    let mut from_instance = std::pin::pin!(carry_output(&target, &reader, &ends.up));
    {
        let mut to_instance = std::pin::pin!(carry_input(writer, &mut ends.down));
        // Both at once: a server may not read before it has been read from. What ends first has ended for good.
        tokio::select! {
            result = &mut from_instance => {
                result?;
                return to_instance.await;
            }
            result = &mut to_instance => result?,
        }
    }
    tokio::select! {
        result = &mut from_instance => result,
        gone = gone(&mut ends.down) => Err(gone),
    }
}

async fn connect(target: &Target) -> Result<TcpStream, ConnectError> {
    let other = |reason| ConnectError::Other { target: target.clone(), reason };
    let socket = TcpSocket::new_v4().map_err(other)?;
    setsockopt(&socket, sockopt::DontRoute, &true).map_err(|error| other(error.into()))?;
    socket.set_nodelay(true).map_err(other)?;
    let address = SocketAddr::from((target.address, target.port));
    match timeout(CONNECT_LIMIT, socket.connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectError::Refused(target.clone()),
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                ConnectError::NoWay(target.clone())
            }
            _ => other(error),
        }),
        Err(_) => Err(ConnectError::Late(target.clone())),
    }
}

/// Carries what the instance sends until it sends no more.
async fn carry_output(
    target: &Target,
    reader: &OwnedReadHalf,
    up: &mpsc::Sender<v1::TunnelUp>,
) -> Result<(), TunnelError> {
    let broken = |_| ConnectError::Broken(target.clone());
    loop {
        // An idle connection holds no buffer.
        reader.readable().await.map_err(broken)?;
        let mut piece = Vec::with_capacity(PIECE_MAX);
        match reader.try_read_buf(&mut piece) {
            Ok(0) => return send_output(up, Output::Closed(true)).await,
            Ok(_) => send_output(up, Output::Data(Bytes::from(piece))).await?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(broken(error).into()),
        }
    }
}

/// Carries what the client sends until it sends no more, or the instance takes no more; then nothing more
/// goes to the instance.
async fn carry_input(
    mut writer: OwnedWriteHalf,
    down: &mut Streaming<v1::TunnelDown>,
) -> Result<(), TunnelError> {
    while let Ok(Some(message)) = down.message().await {
        match message.connect.and_then(|message| message.input) {
            Some(Input::Data(data)) => {
                // An instance that takes no more may still have something to say.
                if writer.write_all(&data).await.is_err() {
                    return Ok(());
                }
            }
            Some(Input::Closed(true)) => {
                writer.shutdown().await.ok();
                return Ok(());
            }
            Some(Input::Closed(false) | Input::Request(_)) | None => {}
        }
    }
    Err(TunnelError::Gone)
}

/// Waits for the client to go away; what it sends until then has nowhere to go.
async fn gone(down: &mut Streaming<v1::TunnelDown>) -> TunnelError {
    while let Ok(Some(_)) = down.message().await {}
    TunnelError::Gone
}

async fn send_output(up: &mpsc::Sender<v1::TunnelUp>, output: Output) -> Result<(), TunnelError> {
    send(up, Message::Connect(v1::ConnectOutput { output: Some(output) })).await
}
