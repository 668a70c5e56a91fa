//! What a container wrote.
//!
//! Lines can be asked for from a moment on, to the millisecond and for any year. Docker takes whole seconds of 32 bits; it is asked
//! for the second before, with the time of each line, by which those that are too old are left out.

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use dwell_core::clock::Timestamp;
use dwell_engine::{ContainerId, Engine as _, EngineError, LogOptions, Output, OutputStream};
use futures_util::StreamExt;

use super::DockerEngine;
use super::client::meaning;

/// The longest time that is looked for, in bytes.
const TIME_MAX: usize = 40;

pub(super) async fn logs(
    engine: &DockerEngine,
    id: &ContainerId,
    options: &LogOptions,
) -> Result<OutputStream, EngineError> {
    // Also finds out whether it is still there, which the stream would tell late.
    engine.inspect(id).await?;
    let docker = engine.client.docker().await?;
    let (since, timestamps) = (options.since, options.timestamps);
    let options = LogsOptions {
        follow: options.follow,
        stdout: true,
        stderr: true,
        since: since.map_or(0, asked),
        until: 0,
        timestamps: timestamps || since.is_some(),
        tail: options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
    };
    let id = id.clone();
    let output = docker.logs(id.as_str(), Some(options)).map(move |piece| match piece {
        Ok(LogOutput::StdErr { message }) => Ok(Output::Stderr(message)),
        Ok(
            LogOutput::StdOut { message }
            | LogOutput::StdIn { message }
            | LogOutput::Console { message },
        ) => Ok(Output::Stdout(message)),
        Err(error) => Err(meaning(error, "read what a container wrote", &id)),
    });
    let Some(since) = since else { return Ok(output.boxed()) };
    let only_later = move |output| {
        let kept = match output {
            Ok(output) => later(output, since, timestamps).map(Ok),
            Err(error) => Some(Err(error)),
        };
        std::future::ready(kept)
    };
    Ok(output.filter_map(only_later).boxed())
}

/// The second that Docker is asked for.
fn asked(since: Timestamp) -> i32 {
    i32::try_from(since.0 / 1000).unwrap_or(i32::MAX)
}

/// A line with its time before it, as Docker writes it; `None` if it is older than `since`. Its time is taken off unless
/// it is to be `kept`. A line without a time is passed on: it is nothing that Docker has said.
fn later(output: Output, since: Timestamp, kept: bool) -> Option<Output> {
    let (mut line, wrap): (_, fn(_) -> Output) = match output {
        Output::Stdout(line) => (line, Output::Stdout),
        Output::Stderr(line) => (line, Output::Stderr),
    };
    let Some(end) = line.iter().take(TIME_MAX).position(|&byte| byte == b' ') else {
        return Some(wrap(line));
    };
    let time = std::str::from_utf8(&line[..end]).ok().and_then(|time| time.parse().ok());
    let Some(time) = time.map(|time: jiff::Timestamp| time.as_millisecond()) else {
        return Some(wrap(line));
    };
    if u64::try_from(time).unwrap_or(0) < since.0 {
        return None;
    }
    if !kept {
        drop(line.split_to(end + 1));
    }
    Some(wrap(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &'static str, since: u64, kept: bool) -> Option<String> {
        let output = Output::Stdout(line.as_bytes().into());
        match later(output, Timestamp(since), kept)? {
            Output::Stdout(line) => Some(String::from_utf8(line.to_vec()).unwrap()),
            Output::Stderr(_) => panic!("another stream"),
        }
    }

    #[test]
    fn lines_count_from_the_very_millisecond() {
        let line = "2026-01-31T12:00:00.250999999Z hello world\n";
        let at = 1_769_860_800_250;
        assert_eq!(of(line, at, true).as_deref(), Some(line));
        assert_eq!(of(line, at, false).as_deref(), Some("hello world\n"));
        assert_eq!(of(line, at + 1, false), None);
        assert_eq!(asked(Timestamp(at)), 1_769_860_800);
    }

    #[test]
    fn years_beyond_32_bits_of_seconds_count() {
        let line = "2040-06-01T00:00:00Z later\n";
        let at = 2_222_121_600_000;
        assert_eq!(asked(Timestamp(at)), i32::MAX);
        assert_eq!(of(line, at, false).as_deref(), Some("later\n"));
        assert_eq!(of(line, at + 1, false), None);
    }

    #[test]
    fn what_has_no_time_is_passed_on() {
        for line in ["", "no time here\n", "2026-01-31T12:00:00Z"] {
            assert_eq!(of(line, u64::MAX, false).as_deref(), Some(line));
        }
    }
}
