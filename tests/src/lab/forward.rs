//! `dwell port-forward`, as a test has it in the background.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr},
    time::timeout,
};

use super::Lab;

/// How long it may take until it says something.
const LIMIT: Duration = Duration::from_secs(20);

/// Ports of this machine that lead to an instance, until it is dropped.
#[derive(Debug)]
pub struct Forward {
    at: Vec<SocketAddr>,
    said: Lines<BufReader<ChildStderr>>,
    _command: Child,
}

impl Lab {
    /// Has free ports of this machine lead to ports of an instance.
    ///
    /// # Errors
    /// If the command line does not say within 20 s that it does.
    pub async fn forward(&self, instance: &str, ports: &[u16]) -> Result<Forward> {
        let mut command = self.cli_command(&["port-forward", instance])?;
        command.args(ports.iter().map(|port| format!("0:{port}")));
        command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut command = command.spawn().context("cannot start the command line")?;
        let mut said = BufReader::new(command.stderr.take().context("no output")?).lines();
        let mut at = Vec::new();
        for _ in ports {
            let line = next(&mut said).await?;
            let here = line.split_whitespace().next().and_then(|here| here.parse().ok());
            at.push(here.with_context(|| format!("it does not listen, but says {line:?}"))?);
        }
        Ok(Forward { at, said, _command: command })
    }
}

impl Forward {
    /// Where it listens, in the order of the ports.
    #[must_use]
    pub fn at(&self) -> &[SocketAddr] {
        &self.at
    }

    /// The next line of what it says.
    ///
    /// # Errors
    /// If it says nothing more within 20 s.
    pub async fn says(&mut self) -> Result<String> {
        next(&mut self.said).await
    }
}

async fn next(said: &mut Lines<BufReader<ChildStderr>>) -> Result<String> {
    let line = timeout(LIMIT, said.next_line()).await.context("it says nothing")??;
    line.context("it has ended")
}
