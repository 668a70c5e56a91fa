//! Carrying bytes between a channel and a stream, either way, as fast as the slower of the two takes them.

use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::intake::Outlet;

/// Bytes are read in pieces of this size: the packets that OpenSSH's clients take.
const PIECE: usize = 32 * 1024;
/// How long a client may take to close a channel on which both sides have said their last; then we do.
const CLOSING: Duration = Duration::from_secs(5);
/// How long what a client sent before it closed a channel may take to arrive.
const ARRIVING: Duration = Duration::from_secs(60);

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

/// Connects a stream and a channel until both directions have ended, and closes the channel. `closed` says that the client closed it:
/// what it sent before that still arrives.
pub(super) async fn bridge(
    stream: impl AsyncRead + AsyncWrite,
    outlet: Outlet,
    write: &ChannelWriteHalf<Msg>,
    closed: CancellationToken,
) -> Result<(), russh::Error> {
    let (reader, writer) = tokio::io::split(stream);
    let back = closed.run_until_cancelled(async {
        send(reader, write, None).await?;
        write.eof().await
    });
    let too_late = async {
        closed.cancelled().await;
        tokio::time::sleep(ARRIVING).await;
    };
    tokio::select! {
        ((), back) = async { tokio::join!(pour(outlet, writer), back) } => back.unwrap_or(Ok(()))?,
        () = too_late => return Ok(()),
    }
    // The client closes it next. `russh` forgets only those channels wholly that the client closed first.
    match closed.run_until_cancelled(tokio::time::sleep(CLOSING)).await {
        Some(()) => write.close().await,
        None => Ok(()),
    }
}
