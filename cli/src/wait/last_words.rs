//! What an instance that has failed printed last, as far as it can be had.

use std::time::Duration;

use dwell_core::instance::sanitize;
use dwell_proto::v1;

use crate::client::Client;

/// How many lines are shown.
const LINES: u64 = 10;
/// The longest line that is shown, in bytes.
const LINE_MAX: usize = 400;
/// The most that is read.
const BYTES_MAX: usize = 64 << 10;
/// How long its node may take to say it.
const TIME: Duration = Duration::from_secs(5);

/// The last lines, to follow a message; nothing if they cannot be had.
pub(super) async fn of(client: &mut Client, instance: &str) -> String {
    let read = tokio::time::timeout(TIME, read(client, instance)).await;
    let Ok(Some(text)) = read else { return String::new() };
    let lines: Vec<String> = text
        .lines()
        .map(|line| sanitize(line, LINE_MAX))
        .filter(|line| !line.is_empty())
        .map(|line| format!("\n  {line}"))
        .collect();
    if lines.is_empty() { String::new() } else { format!("; it printed last:{}", lines.concat()) }
}

async fn read(client: &mut Client, instance: &str) -> Option<String> {
    let request = v1::LogsRequest {
        instance: instance.to_owned(),
        tail: Some(LINES),
        ..v1::LogsRequest::default()
    };
    let mut chunks = client.logs(request).await.ok()?.into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = chunks.message().await.ok()? {
        text.extend_from_slice(&chunk.data);
        if text.len() > BYTES_MAX {
            break;
        }
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}
