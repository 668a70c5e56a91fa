//! One probe of an instance: a TCP connection, an HTTP request or a command, within its time.
//!
//! Connections go to the instance's own address and nowhere else, and answers are read up to a bound, so
//! that a check can neither be aimed at others nor be used against the agent.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use dwell_core::container::ContainerId;
use dwell_core::health::Probe;
use dwell_core::instance::sanitize;
use dwell_core::quantity::Millis;
use dwell_core::sandbox::Slot;
use dwell_network::mark_of;
use futures_util::TryStreamExt;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use dwell_engine::{Engine, EngineError, ExecControl, ExecRequest, Output};

/// The longest first line of an answer, in bytes.
const STATUS_LINE_MAX: u64 = 1024;
/// How much of the end of a command's output is told, in bytes.
const OUTPUT_MAX: usize = 256;
/// How long it may take to end a command that took too long.
const KILL: Duration = Duration::from_secs(5);

/// What came of a probe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The instance works.
    Passed,
    /// It does not, and why.
    Failed(String),
    /// It could not be asked.
    Unknown,
    /// There is no such container any more.
    Gone,
}

/// What is asked, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// In which container.
    pub(crate) container: &'a ContainerId,
    /// Where that is reached.
    pub(crate) address: Ipv4Addr,
    /// In which of the sandboxes with this address.
    pub(crate) slot: Slot,
    /// What.
    pub(crate) probe: &'a Probe,
    /// How long it may take.
    pub(crate) timeout: Millis,
}

/// Probes once.
pub(crate) async fn probe(engine: &dyn Engine, asked: Asked<'_>) -> Outcome {
    let limit = asked.timeout.as_duration();
    let late = || Outcome::Failed(format!("no answer within {}", asked.timeout));
    match asked.probe {
        Probe::Tcp { port } => {
            let address = SocketAddr::from((asked.address, *port));
            match timeout(limit, connect(address, asked.slot)).await {
                Ok(Ok(_)) => Outcome::Passed,
                Ok(Err(error)) => Outcome::Failed(format!("connection to {address}: {error}")),
                Err(_) => late(),
            }
        }
        Probe::Http { port, path } => {
            let address = SocketAddr::from((asked.address, *port));
            match timeout(limit, status(address, asked.slot, path)).await {
                Ok(Ok(200..=399)) => Outcome::Passed,
                Ok(Ok(status)) => {
                    Outcome::Failed(format!("http://{address}{path} answered {status}"))
                }
                Ok(Err(error)) => Outcome::Failed(format!("http://{address}{path}: {error}")),
                Err(_) => late(),
            }
        }
        Probe::Exec { command } => {
            execute(engine, asked.container, command, limit).await.unwrap_or_else(late)
        }
    }
}

/// Connects to a port of an instance, in the sandbox that is meant: its address may lead to the other one.
pub(crate) async fn connect(address: SocketAddr, slot: Slot) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    match setsockopt(&socket.as_fd(), sockopt::Mark, &mark_of(slot)) {
        // Without the right to, as in tests, there is no second sandbox either.
        Err(Errno::EPERM) if slot.is_usual() => {}
        marked => marked?,
    }
    socket.connect(address).await
}

/// The status that an HTTP server answers a GET with.
async fn status(address: SocketAddr, slot: Slot, path: &str) -> std::io::Result<u16> {
    let mut stream = connect(address, slot).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: dwell-agent\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut line = Vec::new();
    BufReader::new(stream).take(STATUS_LINE_MAX).read_until(b'\n', &mut line).await?;
    let line = String::from_utf8_lossy(&line);
    let mut words = line.split_ascii_whitespace();
    let version = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
    let status = words.next().filter(|status| status.len() == 3 && version);
    status
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}

/// Runs a command in the container; `None` if it took too long, and was killed with all that it started.
async fn execute(
    engine: &dyn Engine,
    container: &ContainerId,
    command: &[String],
    limit: Duration,
) -> Option<Outcome> {
    let request = ExecRequest { command: command.to_vec(), ..ExecRequest::default() };
    // The engine has bounds of its own for starting it; only the command's own time counts here.
    let session = match engine.exec(container, &request).await {
        Ok(session) => session,
        Err(EngineError::NotFound { .. }) => return Some(Outcome::Gone),
        Err(EngineError::NotRunning { .. } | EngineError::Unavailable { .. }) => {
            return Some(Outcome::Unknown);
        }
        // It answers and cannot run the command: there is no such program, or no such user.
        Err(error) => {
            let told = sanitize(&error.to_string(), OUTPUT_MAX);
            let name = command.first().map_or("", String::as_str);
            return Some(Outcome::Failed(format!("{name:?} cannot be run: {told}")));
        }
    };
    let finished = async {
        let told: Vec<u8> = session
            .output
            .try_fold(Vec::new(), |mut told: Vec<u8>, piece| async move {
                let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece;
                told.extend_from_slice(&bytes);
                // What it says last says most.
                let excess = told.len().saturating_sub(OUTPUT_MAX);
                told.drain(..excess);
                Ok(told)
            })
            .await?;
        Ok((exit_code(&*session.control).await?, told))
    };
    match timeout(limit, finished).await {
        Ok(Ok((0, _))) => Some(Outcome::Passed),
        Ok(Ok((code, told))) => {
            let told = sanitize(&String::from_utf8_lossy(&told), OUTPUT_MAX);
            let gap = if told.is_empty() { "" } else { ": " };
            let name = command.first().map_or("", String::as_str);
            Some(Outcome::Failed(format!("{name:?} ended with {code}{gap}{told}")))
        }
        Ok(Err::<_, EngineError>(_)) => Some(Outcome::Unknown),
        Err(_) => {
            drop(timeout(KILL, session.control.kill()).await);
            None
        }
    }
}

/// The exit code of a command whose output has ended, which the engine may know a little later.
async fn exit_code(control: &dyn ExecControl) -> Result<i32, EngineError> {
    loop {
        if let Some(code) = control.exit_code().await? {
            return Ok(code);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
