//! What an instance's main process printed.

use dwell_core::clock::Timestamp;
use dwell_proto::v1;
use dwell_proto::v1::tunnel_up::Message;
use futures_util::StreamExt;

use super::{Ends, PIECE_MAX, TunnelError, send};
use crate::engine::{ContainerId, LogOptions, Output, SharedEngine};

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
