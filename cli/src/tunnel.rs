//! A TCP connection into an instance, over the controller and the outbound connection of its node's agent.
//!
//! Both directions end by themselves: what is closed here is closed there, while the other direction goes
//! on. Everything is bounded: `INPUTS` chunks are on their way out, the rest of either direction waits in
//! HTTP/2's flow control, so that a side that does not read stops the one that writes, and no other tunnel.

use dwell_proto::v1::{self, connect_input::Input, connect_output::Output};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::client::Client;
use crate::failure::Failure;

/// Messages on their way out.
const INPUTS: usize = 4;
/// The most data in one message, in bytes.
const CHUNK: usize = 32 << 10;

/// A connection that the instance has accepted.
#[derive(Debug)]
pub(crate) struct Tunnel {
    inputs: mpsc::Sender<v1::ConnectInput>,
    outputs: Streaming<v1::ConnectOutput>,
}

impl Tunnel {
    /// Connects to a port of an instance.
    ///
    /// # Errors
    /// If there is no such instance, its node does not answer, or nobody listens there.
    pub(crate) async fn open(
        client: &mut Client,
        instance: &str,
        port: u16,
    ) -> Result<Self, Failure> {
        let (inputs, outgoing) = mpsc::channel(INPUTS);
        let request = v1::ConnectRequest { instance: instance.into(), port: port.into() };
        send(&inputs, Input::Request(request)).await;
        let mut outputs = client.connect(ReceiverStream::new(outgoing)).await?.into_inner();
        match outputs.message().await?.and_then(|output| output.output) {
            Some(Output::Connected(_)) => Ok(Self { inputs, outputs }),
            _ => Err(lost()),
        }
    }

    /// Carries bytes until both directions are closed. Dropped before, both sides see a broken connection.
    ///
    /// # Errors
    /// If the tunnel breaks; [`Failure::OutputClosed`] if `reader` or `writer` does.
    pub(crate) async fn carry(
        self,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Unpin,
    ) -> Result<(), Failure> {
        let down = download(self.outputs, writer);
        let up = upload(reader, &self.inputs);
        tokio::pin!(down, up);
        // The other side ends the call when both directions have ended, or one of them breaks; what is still read
        // here is for nobody then. Neither future is polled again after its end.
        tokio::select! {
            ended = &mut down => return ended,
            sent = &mut up => sent?,
        }
        down.await
    }
}

async fn upload(
    mut reader: impl AsyncRead + Unpin,
    inputs: &mpsc::Sender<v1::ConnectInput>,
) -> Result<(), Failure> {
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        match reader.read_buf(&mut data).await {
            Ok(1..) => send(inputs, Input::Data(data.into())).await,
            Ok(0) => {
                send(inputs, Input::Closed(true)).await;
                return Ok(());
            }
            Err(_) => return Err(Failure::OutputClosed),
        }
    }
}

async fn download(
    mut outputs: Streaming<v1::ConnectOutput>,
    mut writer: impl AsyncWrite + Unpin,
) -> Result<(), Failure> {
    while let Some(output) = outputs.message().await? {
        let written = match output.output {
            Some(Output::Data(data)) => match writer.write_all(&data).await {
                Ok(()) => writer.flush().await,
                failed => failed,
            },
            Some(Output::Closed(_)) => {
                // A socket is shut down, a pipe closed.
                drop(writer.shutdown().await);
                drop(writer);
                while outputs.message().await?.is_some() {}
                return Ok(());
            }
            Some(Output::Connected(_)) | None => Ok(()),
        };
        written.map_err(|_| Failure::OutputClosed)?;
    }
    Err(lost())
}

async fn send(inputs: &mpsc::Sender<v1::ConnectInput>, input: Input) {
    // Nobody takes it only if the call has ended, and its end says why.
    drop(inputs.send(v1::ConnectInput { input: Some(input) }).await);
}

fn lost() -> Failure {
    Failure::Unavailable("the connection to the instance was lost".into())
}
