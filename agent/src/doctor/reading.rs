//! How checks read files and run programs: bounded in size, and never with a terminal.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// The most that a program may print, in bytes.
const OUTPUT_MAX_BYTES: u64 = 16 << 20;

/// What came of running a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Printed {
    /// It succeeded and printed this.
    Text(String),
    /// There is no such program.
    Missing,
    /// It failed, or printed too much; why.
    Failed(String),
}

impl Printed {
    /// What it printed; `None` if it did not succeed.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Missing | Self::Failed(_) => None,
        }
    }
}

/// Runs a program to its end, or until the future is dropped.
pub(super) async fn run(program: &str, arguments: &[&str]) -> Printed {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Printed::Missing,
        Err(error) => return Printed::Failed(error.to_string()),
    };
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take()
        && let Err(error) = stdout.take(OUTPUT_MAX_BYTES + 1).read_to_string(&mut text).await
    {
        return Printed::Failed(error.to_string());
    }
    if text.len() as u64 > OUTPUT_MAX_BYTES {
        return Printed::Failed(format!("it printed more than {OUTPUT_MAX_BYTES} bytes"));
    }
    match child.wait().await {
        Ok(status) if status.success() => Printed::Text(text),
        Ok(status) => Printed::Failed(status.to_string()),
        Err(error) => Printed::Failed(error.to_string()),
    }
}

/// What a program says in JSON, as most of `ip` can; or why not.
pub(super) async fn ask<T: DeserializeOwned>(
    program: &str,
    arguments: &[&str],
) -> Result<T, String> {
    match run(program, arguments).await {
        // `ip` says nothing at all if there is nothing.
        Printed::Text(text) if text.trim().is_empty() => {
            serde_json::from_str("[]").map_err(|error| error.to_string())
        }
        Printed::Text(text) => {
            serde_json::from_str(&text).map_err(|error| format!("{program}: {error}"))
        }
        Printed::Missing => Err(format!("{program} is not installed")),
        Printed::Failed(why) => Err(format!("{program} {}: {why}", arguments.join(" "))),
    }
}

/// A short file of `/proc` or `/sys`; `None` if there is none.
pub(super) fn line(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// A number in such a file.
pub(super) fn number(path: impl AsRef<Path>) -> Option<u64> {
    line(path)?.parse().ok()
}

/// Does blocking work beside the runtime; `None` if the runtime ends.
#[expect(clippy::disallowed_methods, reason = "a doctor that waits for a disk that hangs says so")]
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// How long a process has been there.
pub(super) fn age(id: u32) -> Option<Duration> {
    let ticks = dwell_daemon::process::start_ticks(id)?;
    let started =
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
    let up: f64 = line("/proc/uptime")?.split(' ').next()?.parse().ok()?;
    Some(Duration::try_from_secs_f64(up).ok()?.saturating_sub(started))
}

/// All processes and their short names (of 15 characters at most).
pub(super) fn processes() -> BTreeMap<u32, String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| Some((id, line(format!("/proc/{id}/comm"))?))).collect()
}
