//! Connections to ports, with an instance that is played by a listener on loopback.

use dwell_proto::v1::connect_input::Input;
use dwell_proto::v1::connect_output::Output;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

async fn listener() -> (TcpListener, u32) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port.into())
}

fn to(instance: &str, port: u32) -> Option<Purpose> {
    Some(Purpose::Connect(v1::ConnectRequest { instance: instance.to_owned(), port }))
}

/// A connection, from both ends.
async fn connected(node: &mut Fixture) -> (Carried, TcpStream) {
    let (listener, port) = listener().await;
    let mut tunnel = node.open(to("web-0", port)).await;
    let (instance, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    assert_eq!(output(&mut tunnel).await, Some(Output::Connected(true)));
    (tunnel, instance)
}

async fn output(tunnel: &mut Carried) -> Option<Output> {
    match next(tunnel).await? {
        Message::Connect(message) => message.output,
        other => panic!("{other:?}"),
    }
}

/// All that comes until the instance sends no more.
async fn received(tunnel: &mut Carried) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match output(tunnel).await.unwrap() {
            Output::Data(piece) => {
                assert!(piece.len() <= PIECE_MAX);
                all.extend_from_slice(&piece);
            }
            Output::Closed(true) => return all,
            other => panic!("{other:?}"),
        }
    }
}

fn message(input: Input) -> Result<v1::TunnelDown, tonic::Status> {
    let connect = Some(v1::ConnectInput { input: Some(input) });
    Ok(v1::TunnelDown { connect, ..Default::default() })
}

async fn send_all(down: mpsc::Sender<Result<v1::TunnelDown, tonic::Status>>, data: Bytes) {
    for piece in data.chunks(PIECE_MAX) {
        down.send(message(Input::Data(Bytes::copy_from_slice(piece)))).await.unwrap();
    }
    down.send(message(Input::Closed(true))).await.unwrap();
}

/// Bytes that tell when some of them are lost or out of order.
fn numbers(count: u32) -> Bytes {
    (0..count).flat_map(u32::to_le_bytes).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let mut node = Fixture::start().await;
    let all = numbers(1 << 18);

    // The client first: the answer comes when all is said.
    let (mut tunnel, mut instance) = connected(&mut node).await;
    let echo = tokio::spawn(async move {
        let mut read = Vec::new();
        instance.read_to_end(&mut read).await.unwrap();
        instance.write_all(&read).await.unwrap();
    });
    let sending = tokio::spawn(send_all(tunnel.down.clone(), all.clone()));
    assert_eq!(received(&mut tunnel).await, all);
    assert_eq!(next(&mut tunnel).await, None);
    let (echo, sending) = tokio::join!(echo, sending);
    echo.unwrap();
    sending.unwrap();

    // The instance first: it still reads.
    let (mut tunnel, mut instance) = connected(&mut node).await;
    let said = all.clone();
    let reading = tokio::spawn(async move {
        instance.write_all(&said).await.unwrap();
        instance.shutdown().await.unwrap();
        let mut read = Vec::new();
        instance.read_to_end(&mut read).await.unwrap();
        read
    });
    assert_eq!(received(&mut tunnel).await, all);
    send_all(tunnel.down.clone(), all.clone()).await;
    assert_eq!(reading.await.unwrap(), all);
    assert_eq!(next(&mut tunnel).await, None);
    until(|| node.tunnels.all.available_permits() == TUNNELS_MAX).await;
}

#[tokio::test]
async fn when_one_side_goes_so_does_the_other() {
    let mut node = Fixture::start().await;
    let (tunnel, mut instance) = connected(&mut node).await;
    drop(tunnel);
    timeout(LIMIT, instance.read_to_end(&mut Vec::new())).await.unwrap().ok();

    // After half a close, too.
    let (tunnel, mut instance) = connected(&mut node).await;
    tunnel.down.send(message(Input::Closed(true))).await.unwrap();
    assert_eq!(timeout(LIMIT, instance.read(&mut [0])).await.unwrap().unwrap(), 0);
    drop(tunnel);
    until(|| node.tunnels.all.available_permits() == TUNNELS_MAX).await;
    drop(instance);

    let (mut tunnel, instance) = connected(&mut node).await;
    instance.set_zero_linger().unwrap();
    drop(instance);
    let Some(Message::Error(error)) = next(&mut tunnel).await else { panic!("no error") };
    assert!(error.message.starts_with("web-0 broke the connection"), "{}", error.message);

    // Gone for good, which only shows when something is sent to it.
    let (mut tunnel, instance) = connected(&mut node).await;
    drop(instance);
    assert_eq!(output(&mut tunnel).await, Some(Output::Closed(true)));
    while tunnel.down.send(message(Input::Data("x".into()))).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(next(&mut tunnel).await, None);
}

#[tokio::test]
async fn a_connection_that_nobody_reads_stops_its_instance_and_no_other() {
    let mut node = Fixture::start().await;
    let (stalled, mut flood) = connected(&mut node).await;
    let flood = tokio::spawn(async move {
        let mut written = 0_usize;
        while let Ok(Ok(())) = timeout(Duration::from_secs(1), flood.write_all(&[0; 4096])).await {
            written += 4096;
        }
        written
    });
    let (mut tunnel, mut instance) = connected(&mut node).await;
    let all = numbers(4 << 20);
    let echo = tokio::spawn(async move {
        let (mut reader, mut writer) = instance.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let sending = tokio::spawn(send_all(tunnel.down.clone(), all.clone()));
    assert!(received(&mut tunnel).await == all);
    echo.await.unwrap();
    sending.await.unwrap();
    // The kernel's own buffers are most of it.
    let written = flood.await.unwrap();
    assert!(written < 16 << 20, "{written} bytes are buffered somewhere");
    drop(stalled);
}

#[tokio::test]
async fn what_cannot_be_connected_to_is_told() {
    let mut node = Fixture::start().await;
    let (gone, port) = listener().await;
    drop(gone);
    for (purpose, code, said) in [
        (
            to("web-0", port),
            Code::FailedPrecondition,
            format!("nothing listens on port {port} of web-0"),
        ),
        (to("web-1", 80), Code::FailedPrecondition, "web-1 is not running (stopped)".to_owned()),
        (to("web-7", 80), Code::NotFound, "web-7 is not on this node".to_owned()),
        (to("web-0", 0), Code::InvalidArgument, "0 is no port".to_owned()),
        (to("web-0", 65_536), Code::InvalidArgument, "65536 is no port".to_owned()),
    ] {
        assert_refused(&mut node, purpose, code, &said).await;
    }
    let free = Arc::clone(&node.tunnels.connections.free);
    let taken = free.acquire_many(1024).await.unwrap();
    assert_refused(&mut node, to("web-0", port), Code::ResourceExhausted, "1024 connections").await;
    drop(taken);
    node.tunnels.node.assignment = watch::Sender::new(None).subscribe();
    assert_refused(&mut node, to("web-0", port), Code::NotFound, "not on this node").await;
    node.tunnels.node.engine = None;
    assert_refused(&mut node, to("web-0", port), Code::FailedPrecondition, "no instances").await;
}

async fn assert_refused(node: &mut Fixture, purpose: Option<Purpose>, code: Code, said: &str) {
    let mut tunnel = node.open(purpose).await;
    let Some(Message::Error(error)) = next(&mut tunnel).await else { panic!("no error") };
    assert_eq!(Code::from(error.code), code, "{}", error.message);
    assert!(error.message.contains(said), "{}", error.message);
}
