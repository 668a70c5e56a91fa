//! Carrying bytes between a channel and a stream, either way, as fast as the slower of the two takes them.

use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::channels::Channels;
use crate::intake::Outlet;

/// Bytes are read in pieces of this size: the packets that OpenSSH's clients take.
const PIECE: usize = 32 * 1024;
/// How long a client may take to close a channel on which both sides have said their last; then we do. `russh` keeps
/// some memory of each that we close first, so that a connection has only so many [`SOON`].
const CLOSING: Duration = Duration::from_secs(5);
/// How long one may take that waits for us to close it.
const SOON: Duration = Duration::from_millis(100);
/// How long what a client sent before it closed a channel may take to arrive.
const ARRIVING: Duration = Duration::from_secs(60);
/// How long the reader of one channel may hold its whole connection up without reading anything.
const STUCK: Duration = Duration::from_secs(10);

/// How long a terminal's output is waited for after its process ended.
const TERMINAL_DRAIN: Duration = Duration::from_millis(250);
/// How much of it is read after that.
const TERMINAL_BYTES: usize = 1024 * 1024;

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

/// A terminal's output, read to its end, or as far as it matters once its process has ended: others may hold the
/// terminal open, and write to it, for as long as they like. How long it takes to send what was read does not count.
pub(super) struct TerminalOutput<R> {
    reader: R,
    ended: CancellationToken,
    /// How long may be waited for more after the end.
    patience: Duration,
    /// How much is read after the end, in bytes: more than a terminal holds.
    left: usize,
}

impl<R: AsyncRead + Unpin> TerminalOutput<R> {
    /// The process has ended once `ended` is cancelled.
    pub(super) fn new(reader: R, ended: CancellationToken) -> Self {
        Self { reader, ended, patience: TERMINAL_DRAIN, left: TERMINAL_BYTES }
    }

    /// The next piece; nothing at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut piece = Vec::with_capacity(PIECE);
        let had_ended = self.ended.is_cancelled();
        let begun = Instant::now();
        let too_long = async {
            self.ended.cancelled().await;
            tokio::time::sleep(self.patience).await;
        };
        // A terminal breaks when the last process that had it ends.
        let read = tokio::select! {
            biased;
            read = self.reader.read_buf(&mut piece) => read.unwrap_or(0),
            () = too_long => 0,
        };
        if had_ended {
            self.patience = self.patience.saturating_sub(begun.elapsed());
            self.left = self.left.saturating_sub(read);
        }
        (read > 0 && self.left > 0).then_some(piece)
    }

    /// Sends all of it.
    pub(super) async fn send(mut self, write: &ChannelWriteHalf<Msg>) -> Result<(), russh::Error> {
        while let Some(piece) = self.next().await {
            write.data_bytes(piece).await?;
        }
        Ok(())
    }
}

/// Connects a stream and a channel until both directions have ended, and closes the channel. `closed` says that
/// the client closed it: what it sent before that still arrives.
pub(super) async fn bridge(
    stream: impl AsyncRead + AsyncWrite,
    outlet: Outlet,
    write: &ChannelWriteHalf<Msg>,
    closed: CancellationToken,
    channels: &Channels,
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
        let patience = if channels.may_close_first() { SOON } else { CLOSING };
        let closing = tokio::time::sleep(patience);
        if closed.run_until_cancelled(closing).await.is_none() {
            return Ok(());
        }
    }
    channels.closes_first();
    write.close().await?;
    carried.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that takes its time loses nothing of what a process wrote before its end.
    #[tokio::test(start_paused = true)]
    async fn a_slow_client_gets_the_end_of_a_terminals_output() {
        const BYTES: usize = 600 * 1024;
        // As much as a terminal may hold, and a process that holds it open after the first has ended.
        let (mut terminal, output) = tokio::io::duplex(BYTES);
        terminal.write_all(&vec![b'x'; BYTES]).await.unwrap();
        let ended = CancellationToken::new();
        let mut output = TerminalOutput::new(output, ended.clone());
        ended.cancel();
        let mut read = 0;
        while let Some(piece) = output.next().await {
            read += piece.len();
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        assert_eq!(read, BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminal_that_others_hold_is_not_waited_for() {
        let (mut terminal, output) = tokio::io::duplex(4096);
        let ended = CancellationToken::new();
        let mut output = TerminalOutput::new(output, ended.clone());
        terminal.write_all(b"prompt").await.unwrap();
        assert_eq!(output.next().await.unwrap(), b"prompt");
        ended.cancel();
        let begun = Instant::now();
        assert_eq!(output.next().await, None);
        assert!(begun.elapsed() <= 2 * TERMINAL_DRAIN);

        // One that never stops writing ends as well.
        let (mut terminal, output) = tokio::io::duplex(4096);
        let mut output = TerminalOutput::new(output, ended);
        let writer =
            tokio::spawn(async move { while terminal.write_all(&[0; 512]).await.is_ok() {} });
        let mut read = 0;
        while let Some(piece) = output.next().await {
            read += piece.len();
        }
        assert!(read <= TERMINAL_BYTES);
        drop(output);
        writer.await.unwrap();
    }
}
