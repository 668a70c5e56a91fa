//! The other end of a tunnel, as a node has it: a connection to a port, whose directions end by themselves.

use dwell_proto::v1::{self, connect_input::Input, connect_output::Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Answer, Answers, answer};

/// Connects to a port of this machine and carries bytes until both directions are closed.
pub(super) async fn connect(
    port: u16,
    mut inputs: Streaming<v1::ConnectInput>,
) -> Answer<Answers<v1::ConnectOutput>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    let stream = stream.map_err(|_| Status::failed_precondition("nobody listens there"))?;
    let (mut reader, mut writer) = stream.into_split();
    let (outputs, answers) = mpsc::channel(4);
    let (ended, both_ended) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        while let Some(Ok(input)) = inputs.next().await {
            match input.input {
                Some(Input::Data(data)) => writer.write_all(&data).await.unwrap(),
                _ => {
                    writer.shutdown().await.unwrap();
                    drop(ended);
                    return;
                }
            }
        }
    });
    let message = |output| Ok(v1::ConnectOutput { output: Some(output) });
    tokio::spawn(async move {
        outputs.send(message(Output::Connected(true))).await.ok()?;
        loop {
            let mut data = Vec::with_capacity(1 << 14);
            match reader.read_buf(&mut data).await {
                Ok(1..) => outputs.send(message(Output::Data(data.into()))).await.ok()?,
                Ok(0) => break,
                Err(_) => {
                    let broken = Err(Status::unavailable("the instance broke the connection"));
                    return outputs.send(broken).await.ok();
                }
            }
        }
        outputs.send(message(Output::Closed(true))).await.ok()?;
        both_ended.await.ok()
    });
    answer(Box::pin(ReceiverStream::new(answers)))
}
