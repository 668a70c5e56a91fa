//! What a container that did not hold printed last, as a part of the reason for which it was rolled back.
//!
//! Nothing waits for it for long: without it the reason is shorter.

use std::time::Duration;

use dwell_core::container::ContainerId;
use dwell_core::instance::sanitize;
use futures_util::StreamExt;
use tokio::time::timeout;

use dwell_engine::{EngineError, LogOptions, Output, SharedEngine};

/// How long the engine may take to tell them.
const LIMIT: Duration = Duration::from_secs(1);
/// How many of the last lines are told, and how many bytes of them.
const LINES_MAX: u32 = 5;
const BYTES_MAX: usize = 300;
/// How many of the last bytes are read: what is left out above is not all that is cut.
const READ_MAX: usize = 16 * BYTES_MAX;

/// The last lines in one; `None` if there are none, or they cannot be had in time.
pub(super) async fn of(engine: &SharedEngine, container: &ContainerId) -> Option<String> {
    let printed = match timeout(LIMIT, read(engine, container)).await {
        Ok(Ok(printed)) => printed,
        Ok(Err(error)) => {
            tracing::debug!(%container, %error, "cannot read what it printed last");
            return None;
        }
        Err(_) => {
            tracing::debug!(%container, "what it printed last could not be read in time");
            return None;
        }
    };
    Some(in_one_line(&printed)).filter(|words| !words.is_empty())
}

async fn read(engine: &SharedEngine, container: &ContainerId) -> Result<Vec<u8>, EngineError> {
    let options = LogOptions { tail: Some(LINES_MAX), ..LogOptions::default() };
    let mut pieces = engine.logs(container, &options).await?;
    let mut printed = Vec::new();
    while let Some(piece) = pieces.next().await {
        let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece?;
        printed.extend_from_slice(&bytes);
        let excess = printed.len().saturating_sub(READ_MAX);
        printed.drain(..excess);
    }
    Ok(printed)
}

/// The last lines that say something, without what commands a terminal. Of too much, the end is kept.
fn in_one_line(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    let lines = text.lines().map(|line| sanitize(line, READ_MAX).trim().to_owned());
    let mut lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    lines.drain(..lines.len().saturating_sub(LINES_MAX as usize));
    let all = lines.join(" | ");
    let cut = all.len().saturating_sub(BYTES_MAX);
    let start = (cut..=all.len()).find(|&at| all.is_char_boundary(at)).unwrap_or_default();
    all.get(start..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_in_one() {
        assert_eq!(in_one_line(b"FATAL: no config file\n"), "FATAL: no config file");
        assert_eq!(in_one_line(b"1\n2\n3\n\n4\r\n5\n6"), "2 | 3 | 4 | 5 | 6");
        assert_eq!(in_one_line(b"\x1b[31mred\xff\n"), "[31mred\u{fffd}");
        assert_eq!(in_one_line(b"\n \n"), "");
    }

    #[test]
    fn too_long_a_line_keeps_its_end() {
        let words = in_one_line(format!("{}FATAL", "é".repeat(BYTES_MAX)).as_bytes());
        assert!(words.len() <= BYTES_MAX && words.ends_with("éFATAL"), "{words}");
    }
}
