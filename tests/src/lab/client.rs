//! TCP and HTTP from where a host, or the machine, stands in the network; needs no tool there.

use std::{
    fs::File,
    net::{SocketAddr, TcpStream as BlockingStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long a connection may take to be made, and how long an answer.
const LIMIT: Duration = Duration::from_secs(2);

/// Longest answer that is read, in bytes.
const ANSWER_LIMIT: u64 = 1 << 20;

/// A connection to `to` from within network namespace `netns`, or from this process's own.
pub(crate) async fn connect(netns: Option<String>, to: SocketAddr) -> Result<TcpStream> {
    // A socket stays in the namespace it was made in, so a thread goes there to make it, and ends.
    let connect = move || -> Result<BlockingStream> {
        if let Some(netns) = netns {
            let path = format!("/run/netns/{netns}");
            let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
            setns(file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter {path}"))?;
        }
        BlockingStream::connect_timeout(&to, LIMIT)
            .with_context(|| format!("cannot connect to {to}"))
    };
    let (answer, answered) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || answer.send(connect()));
    let stream = answered.await.context("the connecting thread panicked")??;
    stream.set_nonblocking(true).context("cannot make a socket non-blocking")?;
    TcpStream::from_std(stream).context("cannot use a socket")
}

/// The body of the answer to `GET /` over `stream`.
pub(crate) async fn get(stream: TcpStream) -> Result<String> {
    get_within(LIMIT, stream).await
}

/// The same, from a server that may take its time.
pub(crate) async fn get_within(limit: Duration, mut stream: TcpStream) -> Result<String> {
    let exchange = async {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.take(ANSWER_LIMIT).read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(limit, exchange).await.context("no answer came in time")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "the answer is {status}");
    Ok(body.trim().to_owned())
}
