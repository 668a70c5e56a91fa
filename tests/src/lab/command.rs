//! Running the machine's tools to their end, with errors that say what was run and what it said.

use std::{
    ffi::{OsStr, OsString},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use tokio::{io::AsyncWriteExt, process::Command, time};

/// No tool may take longer; what hangs is killed and reported.
const LIMIT: Duration = Duration::from_secs(300);

/// What a finished command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote to its standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Its standard output, if it succeeded.
    ///
    /// # Errors
    /// If it did not; the message has the command, its status and what it said.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        bail!("`{}` ended with {}: {}", self.command, self.status, said.trim())
    }

    /// Its standard output read as JSON, if it succeeded.
    ///
    /// # Errors
    /// If it did not, or said something that is not a `T`.
    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        let command = self.command.clone();
        let text = self.ok()?;
        serde_json::from_str(&text)
            .with_context(|| format!("`{command}` did not answer as expected, but {text}"))
    }

    /// Its exit code, -1 if a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

/// Runs `program` to its end with nothing on its standard input.
///
/// # Errors
/// If it cannot be started or takes longer than five minutes; a failing exit status is no error here.
pub async fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S]) -> Result<Output> {
    finish(command(program.as_ref(), args), "").await
}

/// As [`run`], but a failing exit status is an error, and `input` is on its standard input.
///
/// # Errors
/// If it cannot be started, fails, or takes longer than five minutes.
pub(crate) async fn feed<S: AsRef<OsStr>>(
    program: &str,
    args: &[S],
    input: &str,
) -> Result<String> {
    finish(command(program.as_ref(), args), input).await?.ok()
}

/// As [`run`], within the network namespace `netns`.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_in<S: AsRef<OsStr>>(netns: &str, args: &[S]) -> Result<Output> {
    // Not `ip netns exec`: it mounts a /sys of its own, which hides the cgroups.
    let mut all = vec![OsString::from(format!("--net=/run/netns/{netns}")), "--".into()];
    all.extend(args.iter().map(|arg| arg.as_ref().to_owned()));
    run("nsenter", &all).await
}

pub(crate) fn command<S: AsRef<OsStr>>(program: &OsStr, args: &[S]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Runs a prepared command to its end, with `input` on its standard input.
///
/// # Errors
/// If it cannot be started or takes longer than five minutes; a failing exit status is no error here.
pub async fn finish(command: Command, input: &str) -> Result<Output> {
    finish_within(LIMIT, command, input).await
}

/// As [`finish`], with a limit of its own.
///
/// # Errors
/// If it cannot be started or takes longer than `limit`; a failing exit status is no error here.
pub(crate) async fn finish_within(
    limit: Duration,
    mut command: Command,
    input: &str,
) -> Result<Output> {
    let line = line_of(&command);
    let mut child = command
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading everything says itself what is wrong.
        let _unread = stdin.write_all(input.as_bytes()).await;
    }
    let output = time::timeout(limit, child.wait_with_output())
        .await
        .with_context(|| format!("`{line}` did not end within {} s", limit.as_secs()))?
        .with_context(|| format!("cannot read what `{line}` says"))?;
    Ok(Output {
        command: line,
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn line_of(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
