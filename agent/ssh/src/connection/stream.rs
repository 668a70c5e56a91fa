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
/// How long the reader of one channel may hold its whole connection up without reading anything.
const STUCK: Duration = Duration::from_secs(10);

/// Why a channel is closed before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// Its reader reads nothing, and the whole connection waits for that.
    #[error("nobody reads what the client sends, and its whole connection waits for that")]
    Stuck,
    /// The connection is gone.
    #[error("the connection is gone")]
    Gone(#[from] russh::Error),
}

/// Writes what comes in to `writer` and ends it. If that takes no more, what comes in is dropped.
///
/// # Errors
/// [`StreamError::Stuck`].
pub(super) async fn pour(
    mut outlet: Outlet,
    mut writer: impl AsyncWrite + Unpin,
) -> Result<(), StreamError> {
    while let Some(chunk) = outlet.next().await {
        tokio::select! {
            biased;
            written = writer.write_all(&chunk) => {
                if written.is_err() {
                    return Ok(());
                }
            }
            () = stuck(&outlet) => return Err(StreamError::Stuck),
        }
    }
    // What cannot be ended is ended by being dropped.
    drop(writer.shutdown().await);
    Ok(())
}

/// Waits until the connection has to be freed of this channel.
async fn stuck(outlet: &Outlet) {
    loop {
        tokio::time::sleep(STUCK).await;
        if outlet.holds_everybody_up() {
            return;
        }
    }
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

/// Connects a stream and a channel until both directions have ended, and closes the channel. `closed` says that
/// the client closed it: what it sent before that still arrives.
pub(super) async fn bridge(
    stream: impl AsyncRead + AsyncWrite,
    outlet: Outlet,
    write: &ChannelWriteHalf<Msg>,
    closed: CancellationToken,
) -> Result<(), StreamError> {
    let (reader, writer) = tokio::io::split(stream);
    let back = async {
        let sent = closed.run_until_cancelled(async {
            send(reader, write, None).await?;
            write.eof().await
        });
        sent.await.unwrap_or(Ok(())).map_err(StreamError::from)
    };
    let too_late = async {
        closed.cancelled().await;
        tokio::time::sleep(ARRIVING).await;
    };
    let carried = tokio::select! {
        carried = async { tokio::try_join!(pour(outlet, writer), back) } => carried,
        () = too_late => return Ok(()),
    };
    if carried.is_ok() {
        // The client closes it next. `russh` forgets only those channels wholly that the client closed first.
        let closing = tokio::time::sleep(CLOSING);
        if closed.run_until_cancelled(closing).await.is_none() {
            return Ok(());
        }
    }
    write.close().await?;
    carried.map(drop)
}
