//! What an instance's main process printed.

use dwell_core::clock::Timestamp;
use dwell_proto::v1;
use dwell_proto::v1::tunnel_up::Message;
use futures_util::StreamExt;
use tokio_util::bytes::Bytes;

use super::{Ends, PIECE_MAX, TunnelError, send};
use dwell_core::id::InstanceName;
use dwell_engine::{ContainerId, LogOptions, Output, SharedEngine};

/// Carries the log until it ends or nobody reads it any more.
pub(super) async fn carry(
    engine: &SharedEngine,
    container: &ContainerId,
    request: &v1::LogsRequest,
    ends: &mut Ends,
) -> Result<(), TunnelError> {
    let options = LogOptions {
        follow: request.follow,
        tail: request.tail.map(|lines| u32::try_from(lines).unwrap_or(u32::MAX)),
        since: request.since_ms.map(Timestamp),
        timestamps: request.timestamps,
    };
    let mut log = engine.logs(container, &options).await?;
    loop {
        // Cancel-safe: both branches only wait for a next item.
        let output = tokio::select! {
            output = log.next() => output,
            // Nothing is expected from there but the end.
            _ = ends.down.message() => return Err(TunnelError::Gone),
        };
        let Some(output) = output else { return Ok(()) };
        let (stream, mut data) = match output? {
            Output::Stdout(data) => (v1::OutputStream::Stdout, data),
            Output::Stderr(data) => (v1::OutputStream::Stderr, data),
        };
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE_MAX));
            let chunk = v1::LogsChunk { stream: stream.into(), data: piece };
            send(&ends.up, Message::Logs(chunk)).await?;
        }
    }
}

/// Carries what was kept of an earlier container.
pub(super) async fn carry_previous(
    engine: &SharedEngine,
    instance: &InstanceName,
    request: &v1::LogsRequest,
    ends: &mut Ends,
) -> Result<(), TunnelError> {
    let kept = engine.previous_output(instance).await?;
    let kept = kept.ok_or_else(|| TunnelError::NothingBefore(instance.clone()))?;
    let lines = request.tail.map_or(usize::MAX, |tail| usize::try_from(tail).unwrap_or(usize::MAX));
    for piece in last_lines(&kept, lines).chunks(PIECE_MAX) {
        let data = Bytes::copy_from_slice(piece);
        let chunk = v1::LogsChunk { stream: v1::OutputStream::Stdout.into(), data };
        send(&ends.up, Message::Logs(chunk)).await?;
    }
    Ok(())
}

/// At most so many of the last lines.
fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let begins = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match (lines, begins.map(|(at, _)| at).nth(lines.saturating_sub(1))) {
        (0, _) => &[],
        (_, Some(at)) => &text[at + 1..],
        (_, None) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_text() {
        for (lines, last) in
            [(0, ""), (1, "c\n"), (2, "b\nc\n"), (3, "a\nb\nc\n"), (9, "a\nb\nc\n")]
        {
            assert_eq!(last_lines(b"a\nb\nc\n", lines), last.as_bytes(), "{lines}");
        }
        assert_eq!(last_lines(b"a\nb", 1), b"b");
        assert_eq!(last_lines(b"", 1), b"");
    }
}
