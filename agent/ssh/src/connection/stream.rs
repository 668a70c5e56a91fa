//! Carrying bytes between a channel and a stream, either way, as fast as the slower of the two takes them.

use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Duration;

use crate::intake::Outlet;

/// Bytes are read in pieces of this size: the packets that OpenSSH's clients take.
const PIECE: usize = 32 * 1024;
/// How long a client may take to close a channel on which both sides have said their last; then we do.
const CLOSING: Duration = Duration::from_secs(5);

/// Writes what comes in to `writer` and ends it. If that takes no more, what comes in is dropped.
pub(super) async fn pour(mut outlet: Outlet, mut writer: impl AsyncWrite + Unpin) {
    while let Some(chunk) = outlet.next().await {
        if writer.write_all(&chunk).await.is_err() {
            return;
        }
    }
    // What cannot be ended is ended by being dropped.
    drop(writer.shutdown().await);
}

/// Sends what `reader` has until it ends, breaks or the channel does.
pub(super) async fn send(
    mut reader: impl AsyncRead + Unpin,
    write: &ChannelWriteHalf<Msg>,
    extended: Option<u32>,
) -> Result<(), russh::Error> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        // A terminal breaks when the last process that had it ends.
        match reader.read_buf(&mut piece).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => {}
        }
        match extended {
            None => write.data_bytes(piece).await?,
            Some(code) => write.extended_data_bytes(code, piece).await?,
        }
    }
}

/// Connects a stream and a channel until both directions have ended, and closes the channel.
pub(super) async fn bridge(
    stream: impl AsyncRead + AsyncWrite,
    outlet: Outlet,
    write: &ChannelWriteHalf<Msg>,
) -> Result<(), russh::Error> {
    let (reader, writer) = tokio::io::split(stream);
    let back = async {
        send(reader, write, None).await?;
        write.eof().await
    };
    let (_, back) = tokio::join!(pour(outlet, writer), back);
    back?;
    // The client closes it next, which ends this task; `russh` forgets only those channels wholly that the client closed.
    tokio::time::sleep(CLOSING).await;
    write.close().await
}
