//! Commands beside a container's main process.
//!
//! The connection that carries a command's input and output is made here and not by bollard: that
//! guesses by the first byte whether output comes in frames, so that a program on a terminal that
//! prints a zero byte makes it collect up to 4 GiB before it passes anything on. What was asked for
//! is known here: a terminal's output is raw, all other comes in frames, and frames are passed on in
//! pieces.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::{ExecConfig, ExecInspectResponse};
use bollard::query_parameters::ResizeExecOptions;
use dwell_core::instance::sanitize;
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio_util::bytes::Bytes;

use super::client::{Client, NAME, QUICK, limited, meaning, status, unavailable};
use super::unstarted::{Code, in_our_words};
use dwell_engine::death;
use dwell_engine::{
    ContainerId, EngineError, ExecControl, ExecRequest, ExecSession, Output, OutputStream,
    TerminalSize,
};

/// The largest piece of output that is passed on at once, in bytes.
const PIECE_MAX: usize = 16 * 1024;
/// The longest head of a reply, and the longest body of a refusal, in bytes.
const HEAD_MAX: u64 = 16 * 1024;
/// The keys that would part a terminal from its command. Docker cannot do without; these are long and
/// begin with one that hardly anybody types, as it holds back the first until it sees the second.
const DETACH_KEYS: &str = "ctrl-@,ctrl-^,ctrl-@,ctrl-_";

/// The pause between two looks whether a command has a process yet.
const START_PAUSE: Duration = Duration::from_millis(20);

/// Starts a command in a container.
pub(super) async fn start(
    client: &Arc<Client>,
    container: &ContainerId,
    request: &ExecRequest,
) -> Result<ExecSession, EngineError> {
    let docker = client.docker().await?;
    let config = ExecConfig {
        attach_stdin: Some(request.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(request.terminal.is_some()),
        detach_keys: Some(DETACH_KEYS.to_owned()),
        cmd: Some(request.command.clone()),
        env: Some(request.environment.clone()),
        user: Some(request.user.clone()).filter(|user| !user.is_empty()),
        working_dir: Some(request.working_dir.clone()).filter(|path| !path.is_empty()),
        ..ExecConfig::default()
    };
    let made = limited(QUICK, docker.create_exec(container.as_str(), config)).await;
    let id = made.map_err(|error| exec_error(error, container))?.id;

    let terminal = request.terminal.is_some();
    let attached =
        tokio::time::timeout(QUICK, attach(client.socket(), &docker, &id, request.terminal));
    let (reader, writer) = attached.await.map_err(|_| EngineError::timed_out(NAME, QUICK))??;
    let unstarted = Code::default();
    let control = Control {
        client: Arc::clone(client),
        id,
        container: container.clone(),
        unstarted: Arc::clone(&unstarted),
    };
    if let Some(size) = request.terminal {
        // Before API 1.42 the size cannot be given beforehand. A command that has ended is no reason to fail.
        drop(control.resize(size).await);
    }
    let output = if terminal { raw(reader) } else { framed(reader) };
    let command = request.command.first().cloned().unwrap_or_default();
    Ok(ExecSession {
        input: Box::pin(writer),
        output: in_our_words(output, command, unstarted),
        control: Box::new(control),
    })
}

struct Control {
    client: Arc<Client>,
    /// Docker's name for the command.
    id: String,
    container: ContainerId,
    /// The exit code of a command that could not be started.
    unstarted: Code,
}

impl Control {
    /// What Docker says of the command's process, once it has started it; `None` if its container is gone.
    async fn process(&self) -> Result<Option<ExecInspectResponse>, EngineError> {
        let docker = self.client.docker().await?;
        let started = async {
            loop {
                let seen = limited(QUICK, docker.inspect_exec(&self.id)).await;
                match seen.map_err(|error| exec_error(error, &self.container)) {
                    // Docker calls a command running before there is a process.
                    Ok(seen) if seen.running == Some(true) && seen.pid.unwrap_or(0) == 0 => {
                        tokio::time::sleep(START_PAUSE).await;
                    }
                    Ok(seen) => return Ok(Some(seen)),
                    Err(EngineError::NotFound { .. }) => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        };
        let started = tokio::time::timeout(QUICK, started).await;
        started.map_err(|_| EngineError::timed_out(NAME, QUICK))?
    }
}

#[async_trait]
impl ExecControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<(), EngineError> {
        let docker = self.client.docker().await?;
        let options = ResizeExecOptions { h: size.rows.into(), w: size.columns.into() };
        let resized = limited(QUICK, docker.resize_exec(&self.id, options)).await;
        resized.map_err(|error| exec_error(error, &self.container))
    }

    async fn exit_code(&self) -> Result<Option<i32>, EngineError> {
        if let Some(&code) = self.unstarted.get() {
            return Ok(Some(code));
        }
        let docker = self.client.docker().await?;
        let seen = limited(QUICK, docker.inspect_exec(&self.id)).await;
        let seen = seen.map_err(|error| exec_error(error, &self.container))?;
        if seen.running.unwrap_or(true) {
            return Ok(None);
        }
        Ok(seen.exit_code.and_then(|code| i32::try_from(code).ok()))
    }

    async fn hang_up(&self) -> Result<(), EngineError> {
        let Some(seen) = self.process().await? else { return Ok(()) };
        let pid = seen.pid.and_then(|pid| u32::try_from(pid).ok());
        if let (Some(true), Some(pid)) = (seen.running, pid) {
            // A process that is gone, or another by now, needs no signal.
            death::hang_up(pid, &self.container).ok();
        }
        Ok(())
    }

    async fn kill(&self) -> Result<(), EngineError> {
        let Some(seen) = self.process().await? else { return Ok(()) };
        // Also of one that has ended: what it left running holds on to its output.
        if let Some(pid) = seen.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid > 0) {
            let container = self.container.clone();
            #[expect(
                clippy::disallowed_methods,
                reason = "it reads /proc, and only this session waits for it"
            )]
            let ended = tokio::task::spawn_blocking(move || death::end_session(pid, &container));
            drop(ended.await);
        }
        Ok(())
    }
}

/// Docker says 409 of a container, or a command, that does not run.
fn exec_error(error: bollard::errors::Error, container: &ContainerId) -> EngineError {
    if status(&error) == Some(409) {
        return EngineError::NotRunning { id: container.to_string() };
    }
    meaning(error, "run a command in a container", container)
}

type Reader = BufReader<tokio::net::unix::OwnedReadHalf>;

/// Opens the connection of a command that was made, which starts it.
async fn attach(
    socket: &Path,
    docker: &Docker,
    exec: &str,
    terminal: Option<TerminalSize>,
) -> Result<(Reader, tokio::net::unix::OwnedWriteHalf), EngineError> {
    let size = terminal.map(|size| [size.rows, size.columns]);
    let body = json!({ "Detach": false, "Tty": terminal.is_some(), "ConsoleSize": size });
    let body = body.to_string();
    let request = format!(
        "POST /v{}/exec/{exec}/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n\
         Upgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        docker.client_version(),
        body.len(),
    );
    let stream = UnixStream::connect(socket).await.map_err(|error| unavailable(&error))?;
    let (reader, mut writer) = stream.into_split();
    writer.write_all(request.as_bytes()).await.map_err(|error| unavailable(&error))?;
    let mut reader = BufReader::with_capacity(PIECE_MAX, reader);
    accepted(&mut reader).await?;
    Ok((reader, writer))
}

/// Reads the head of the reply, up to where the command's output begins.
async fn accepted(reader: &mut (impl AsyncBufRead + Unpin + Send)) -> Result<(), EngineError> {
    let mut head = String::new();
    let mut limited = reader.take(HEAD_MAX);
    loop {
        let read = limited.read_line(&mut head).await.map_err(|error| unavailable(&error))?;
        if read == 0 {
            return Err(malformed("an incomplete reply"));
        }
        if head.ends_with("\r\n\r\n") {
            break;
        }
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
    if status == Some(101) {
        return Ok(());
    }
    // A refusal: a short JSON body follows, and the connection is of no further use.
    let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        let found = name.eq_ignore_ascii_case("content-length");
        found.then(|| value.trim().parse::<u64>().ok()).flatten()
    });
    let mut body = Vec::new();
    let mut rest = limited.into_inner().take(length.unwrap_or(0).min(HEAD_MAX));
    rest.read_to_end(&mut body).await.map_err(|error| unavailable(&error))?;
    Err(malformed(&format!(
        "{} {}",
        head.lines().next().unwrap_or(""),
        String::from_utf8_lossy(&body)
    )))
}

fn malformed(what: &str) -> EngineError {
    EngineError::Other {
        engine: NAME,
        operation: "run a command in a container",
        reason: format!("it replied {}", sanitize(what, 512)),
    }
}

/// The output of a terminal: as it comes.
fn raw(reader: Reader) -> OutputStream {
    stream::try_unfold(reader, |mut reader| async {
        let piece = piece(&mut reader, usize::MAX).await?;
        Ok((!piece.is_empty()).then_some((Output::Stdout(piece), reader)))
    })
    .boxed()
}

/// Output in frames: one byte for the stream, three of no meaning, four for the length, the output.
fn framed(reader: impl AsyncBufRead + Unpin + Send + 'static) -> OutputStream {
    let start = (reader, 0_u8, 0_usize);
    stream::try_unfold(start, |(mut reader, mut kind, mut left)| async move {
        while left == 0 {
            if reader.fill_buf().await.map_err(|error| unavailable(&error))?.is_empty() {
                return Ok(None);
            }
            let mut header = [0; 8];
            reader.read_exact(&mut header).await.map_err(|error| unavailable(&error))?;
            let [first, _, _, _, length @ ..] = header;
            (kind, left) = (first, u32::from_be_bytes(length) as usize);
        }
        let piece = piece(&mut reader, left).await?;
        left -= piece.len();
        match kind {
            _ if piece.is_empty() => Err(malformed("half a frame of output")),
            0 | 1 => Ok(Some((Output::Stdout(piece), (reader, kind, left)))),
            2 => Ok(Some((Output::Stderr(piece), (reader, kind, left)))),
            _ => Err(malformed("output of an unknown kind")),
        }
    })
    .boxed()
}

/// What has come, at most `max` bytes; empty at the end.
async fn piece(reader: &mut (impl AsyncBufRead + Unpin), max: usize) -> Result<Bytes, EngineError> {
    let come = reader.fill_buf().await.map_err(|error| unavailable(&error))?;
    let piece = Bytes::copy_from_slice(&come[..come.len().min(max)]);
    reader.consume(piece.len());
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    async fn read(bytes: &'static [u8]) -> Result<Vec<Output>, EngineError> {
        // A small buffer, so that frames come in pieces.
        framed(BufReader::with_capacity(4, bytes)).try_collect().await
    }

    #[tokio::test]
    async fn frames_are_passed_on_in_pieces() {
        let out = |text: &'static str| Output::Stdout(Bytes::from_static(text.as_bytes()));
        let pieces =
            read(b"\x01\0\0\0\0\0\0\x05hello\x02\0\0\0\0\0\0\x01x\x01\0\0\0\0\0\0\0").await;
        let error = Output::Stderr(Bytes::from_static(b"x"));
        assert_eq!(pieces.unwrap(), [out("hell"), out("o"), error]);
        assert_eq!(read(b"").await.unwrap(), []);
    }

    #[tokio::test]
    async fn malformed_frames_are_errors() {
        for bytes in [&b"\x01\0\0\0\0\0\0\x05he"[..], b"\x01\0\0", b"\x07\0\0\0\0\0\0\x01x"] {
            assert!(read(bytes).await.is_err(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn the_head_of_a_reply() {
        let check = async |mut bytes: &[u8]| accepted(&mut bytes).await.map_err(|e| e.to_string());
        assert_eq!(check(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n").await, Ok(()));
        let refused =
            check(b"HTTP/1.1 409 Conflict\r\nContent-Length: 3\r\n\r\nno!more").await.unwrap_err();
        assert!(refused.ends_with("409 Conflict no!"), "{refused}");
        assert!(check(b"HTTP/1.1 101 UPGR").await.is_err());
        assert!(check(&vec![b'x'; 40_000]).await.is_err());
    }
}
