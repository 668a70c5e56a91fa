//! TCP connections to instances: pieces between a client and a port, through a [tunnel](crate::tunnel).
//!
//! As with [exec](super::instance) nothing is buffered beyond the tunnel's own bounds. The end of what a client
//! sends is passed on as such and the other direction goes on; a client that goes away ends both.

use dwell_proto::v1;
use dwell_proto::v1::connect_input::Input;
use dwell_proto::v1::connect_output::Output;
use dwell_proto::v1::open_tunnel::Purpose;
use dwell_proto::v1::tunnel_up::Message;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use super::instance::{lost, next, unexpected};
use super::{Api, ServerStream};
use crate::tunnel::Tunnel;

/// The largest piece that is passed on at once, in bytes; larger ones are cut, so that few large messages
/// cannot fill what is meant for many small ones.
const PIECE_MAX: usize = 32 * 1024;

impl Api {
    pub(super) async fn open_connect(
        &self,
        mut input: Streaming<v1::ConnectInput>,
    ) -> Result<ServerStream<v1::ConnectOutput>, Status> {
        let first = input.message().await?.and_then(|message| message.input);
        let Some(Input::Request(request)) = first else {
            return Err(Status::invalid_argument(
                "the first message of a connection has to be the request",
            ));
        };
        if !(1..=u32::from(u16::MAX)).contains(&request.port) {
            return Err(Status::invalid_argument(format!("{} is no port", request.port)));
        }
        let tunnel = self.open(&request.instance.clone(), Purpose::Connect(request)).await?;
        let sending = AbortOnDropHandle::new(tokio::spawn(send_input(input, tunnel.down.clone())));
        let state = Connection { tunnel, sending, ended: false };
        Ok(Box::pin(stream::try_unfold(state, async |mut connection| {
            match next(&mut connection.tunnel.up).await? {
                None if connection.ended => Ok(None),
                None => Err(lost()),
                Some(Message::Connect(output)) => {
                    connection.ended |= matches!(output.output, Some(Output::Closed(true)));
                    Ok(Some((output, connection)))
                }
                Some(_) => Err(unexpected()),
            }
        })))
    }
}

/// A connection, for as long as someone wants what comes from it.
struct Connection {
    tunnel: Tunnel,
    #[expect(dead_code, reason = "ends the task when dropped")]
    sending: AbortOnDropHandle<()>,
    /// Whether the instance has said that it sends no more.
    ended: bool,
}

/// Passes on what the client sends until it has ended, well or badly; only a good end is told to the instance.
async fn send_input(mut input: Streaming<v1::ConnectInput>, down: mpsc::Sender<v1::TunnelDown>) {
    let wrap = |input| v1::TunnelDown {
        connect: Some(v1::ConnectInput { input: Some(input) }),
        ..Default::default()
    };
    loop {
        match input.message().await.map(|message| message.map(|message| message.input)) {
            Ok(Some(Some(Input::Data(mut data)))) => {
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(PIECE_MAX));
                    if down.send(wrap(Input::Data(piece))).await.is_err() {
                        return;
                    }
                }
            }
            // The end of the stream is the end of what is sent.
            Ok(Some(Some(Input::Closed(true))) | None) => break,
            // A second request and an empty message mean nothing.
            Ok(Some(Some(Input::Closed(false) | Input::Request(_)) | None)) => {}
            Err(_) => return,
        }
    }
    // If the tunnel has ended too, there is nobody to tell.
    drop(down.send(wrap(Input::Closed(true))).await);
}
