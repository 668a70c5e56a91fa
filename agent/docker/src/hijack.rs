//! Connections that carry the input and the output of a process.
//!
//! They are made here and not by bollard: that guesses by the first byte whether output comes in frames, so that a program on a
//! terminal that prints a zero byte makes it collect up to 4 GiB before it passes anything on. What was asked for is known here: a
//! terminal's output is raw, all other comes in frames, and frames are passed on in pieces.

use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use dwell_core::instance::sanitize;
use dwell_engine::{EngineError, Output, OutputStream};
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::bytes::Bytes;

use super::client::{Client, NAME, unavailable};

/// The largest piece of output that is passed on at once, in bytes.
const PIECE_MAX: usize = 16 * 1024;
/// The longest head of a reply, and the longest body of a refusal, in bytes.
const HEAD_MAX: u64 = 16 * 1024;
/// The keys that would part a terminal from its process. Docker cannot do without; these are long and
/// begin with one that hardly anybody types, as it holds back the first until it sees the second.
pub(super) const DETACH_KEYS: &str = "ctrl-@,ctrl-^,ctrl-@,ctrl-_";

/// What the process prints.
pub(super) type Reader = BufReader<OwnedReadHalf>;

/// A connection to a process; dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) reader: Reader,
    /// What is written here is the process's input, and shutting it down that input's end.
    pub(super) writer: OwnedWriteHalf,
}

impl Connection {
    /// Asks for it: `path` is below the version of the API.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], and [`EngineError::Other`] if the daemon refuses.
    pub(super) async fn open(
        client: &Client,
        docker: &Docker,
        (path, body): (&str, &str),
        limit: Duration,
    ) -> Result<Self, EngineError> {
        let opening = Self::ask(client.socket(), docker, path, body);
        let opened = tokio::time::timeout(limit, opening).await;
        opened.map_err(|_| EngineError::timed_out(NAME, limit))?
    }

    async fn ask(
        socket: &Path,
        docker: &Docker,
        path: &str,
        body: &str,
    ) -> Result<Self, EngineError> {
        let request = format!(
            "POST /v{}/{path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n\
             Upgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            docker.client_version(),
            body.len(),
        );
        let stream = UnixStream::connect(socket).await.map_err(|error| unavailable(&error))?;
        let (reader, mut writer) = stream.into_split();
        writer.write_all(request.as_bytes()).await.map_err(|error| unavailable(&error))?;
        let mut reader = BufReader::with_capacity(PIECE_MAX, reader);
        accepted(&mut reader).await?;
        Ok(Self { reader, writer })
    }
}

/// What comes of a process, which has a terminal or has none.
pub(super) fn output(reader: Reader, terminal: bool) -> OutputStream {
    if terminal { raw(reader) } else { framed(reader) }
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
        operation: "connect to a process in a container",
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
