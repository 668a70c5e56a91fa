//! `dwell proxy` and `dwell port-forward`, with real bytes: every instance's ports are this machine's.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::{Child, ChildStderr};
use tokio::time::timeout;

use super::{Fake, LIMIT, command, run, starting};

/// Far more than all buffers on the way hold.
const LARGE: usize = 8 << 20;

fn pattern() -> Vec<u8> {
    (0..LARGE).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port that is taken and that nobody listens on.
fn deaf() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// Sends back whatever comes, on every connection; what it has to send ends when what comes does.
async fn echo() -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.into_split();
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            });
        }
    });
    port
}

/// A port-forward to the instance's port `remote`, and where it listens.
async fn forward(fake: &Fake, remote: u16) -> (Child, SocketAddr, Lines<BufReader<ChildStderr>>) {
    let ports = format!("0:{remote}");
    let mut child = command(fake, &["port-forward", "web-0.dwell", &ports])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut says = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = timeout(LIMIT, says.next_line()).await.unwrap().unwrap().unwrap();
    let (local, rest) = line.split_once(' ').unwrap();
    assert_eq!(rest, format!("leads to web-0:{remote}"));
    (child, local.parse().unwrap(), says)
}

#[tokio::test]
async fn a_proxy_carries_bytes_and_ends_each_direction_by_itself() {
    let fake = Fake::start(starting());
    let port = echo().await.to_string();
    let mut child = command(&fake, &["proxy", "web-0.dwell", &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (sent, mut received) = (pattern(), Vec::new());
    let write = async {
        stdin.write_all(&sent).await.unwrap();
        drop(stdin);
    };
    let both = async { tokio::join!(write, stdout.read_to_end(&mut received)) };
    timeout(LIMIT, both).await.unwrap().1.unwrap();
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    let status = timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(fake.asked(), [format!("connect web-0:{port}")]);
}

#[tokio::test]
async fn a_proxy_goes_on_sending_when_the_instance_has_said_all() {
    let fake = Fake::start(starting());
    let (listener, port) = listener().await;
    let mut child = command(&fake, &["proxy", "web-0", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    stream.write_all(b"all").await.unwrap();
    stream.shutdown().await.unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut received = String::new();
    timeout(LIMIT, stdout.read_to_string(&mut received)).await.unwrap().unwrap();
    assert_eq!(received, "all");
    stdin.write_all(b"still here").await.unwrap();
    drop(stdin);
    received.clear();
    timeout(LIMIT, stream.read_to_string(&mut received)).await.unwrap().unwrap();
    assert_eq!(received, "still here");
    drop(stream);
    timeout(LIMIT, child.wait()).await.unwrap().unwrap();
}

/// Whoever uses it as a ProxyCommand keeps its input open.
#[tokio::test]
async fn a_proxy_ends_with_an_instance_that_breaks_the_connection() {
    let fake = Fake::start(starting());
    let (listener, port) = listener().await;
    let mut child = command(&fake, &["proxy", "web-0", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut far, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    far.write_all(b"half").await.unwrap();
    let (_open, stdout) = (child.stdin.take().unwrap(), child.stdout.as_mut().unwrap());
    timeout(LIMIT, stdout.read_exact(&mut [0; 4])).await.unwrap().unwrap();
    far.set_zero_linger().unwrap();
    drop(far);
    let ended = timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap();
    assert!(!ended.status.success());
    assert!(String::from_utf8_lossy(&ended.stderr).contains("broke the connection"), "{ended:?}");
}

#[tokio::test]
async fn why_there_is_no_connection_is_said() {
    let fake = Fake::start(starting());
    let (_socket, port) = deaf();
    let ran = run(&fake, &["proxy", "web-0", &port.to_string()]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (4, ""));
    assert_eq!(ran.stderr, "dwell: nobody listens there\n");

    let (mut child, local, mut says) = forward(&fake, port).await;
    for _ in 0..2 {
        let mut stream = TcpStream::connect(local).await.unwrap();
        let read = timeout(LIMIT, stream.read(&mut [0])).await.unwrap();
        assert!(!matches!(read, Ok(1..)));
        let line = timeout(LIMIT, says.next_line()).await.unwrap().unwrap().unwrap();
        assert_eq!(line, format!("web-0:{port}: nobody listens there"));
    }
    child.kill().await.unwrap();
}

#[tokio::test]
async fn forwarded_connections_are_independent() {
    let fake = Fake::start(starting());
    let (mut child, local, _) = forward(&fake, echo().await).await;
    // A program that sends and never reads: it stops when every buffer on the way is full.
    let mut stuck = TcpStream::connect(local).await.unwrap();
    let chunk = vec![0; 64 << 10];
    let mut taken = 0;
    while let Ok(Ok(count)) = timeout(Duration::from_millis(500), stuck.write(&chunk)).await {
        taken += count;
        assert!(taken < 256 << 20, "nothing holds it back");
    }
    let sent = pattern();
    for _ in 0..3 {
        let (mut reader, mut writer) = TcpStream::connect(local).await.unwrap().into_split();
        let mut received = Vec::new();
        let write = async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let both = async { tokio::join!(write, reader.read_to_end(&mut received)) };
        timeout(LIMIT, both).await.unwrap().1.unwrap();
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    }
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_forwarded_connection_that_breaks_is_no_plain_end() {
    let fake = Fake::start(starting());
    let (listener, port) = listener().await;
    let (mut child, local, mut says) = forward(&fake, port).await;
    let mut stream = TcpStream::connect(local).await.unwrap();
    let (mut far, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    far.write_all(b"half").await.unwrap();
    timeout(LIMIT, stream.read_exact(&mut [0; 4])).await.unwrap().unwrap();
    far.set_zero_linger().unwrap();
    drop(far);
    let error = timeout(LIMIT, stream.read(&mut [0])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let line = timeout(LIMIT, says.next_line()).await.unwrap().unwrap().unwrap();
    assert_eq!(line, format!("web-0:{port}: the instance broke the connection"));
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_said() {
    let fake = Fake::start(starting());
    let (_listener, port) = listener().await;
    let ran = run(&fake, &["port-forward", "web-0", &format!("{port}:80")]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{}", ran.stderr);
}
