//! Commands on a terminal.

use dwell_docker::Runtime;
use dwell_docker::world::{PATIENCE, World, shell};
use dwell_engine::fake::assigned;
use dwell_engine::{Engine as _, ExecRequest, ExecSession, Output, TerminalSize};
use futures_util::TryStreamExt;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

#[tokio::test]
async fn a_terminal_is_raw_and_has_a_size() {
    let node = World::shared().await.node("terminal", Runtime::Dwell);
    let id = node.run(&assigned("tty-0", 1, shell("sleep 1000"))).await;
    let terminal = Some(TerminalSize { rows: 33, columns: 77 });
    let open = async |script: &str| {
        let request = ExecRequest { terminal, stdin: true, ..command(script) };
        node.engine.exec(&id, &request).await.unwrap()
    };
    // Bytes that a guess at framing would take for the head of a frame of 4 GiB.
    let session = open(r"printf '\000\001\002\377\377\377\377\377\377x'; exit 3").await;
    let pieces: Vec<Output> = session.output.try_collect().await.unwrap();
    let bytes: Vec<u8> = pieces.iter().flat_map(|piece| bytes(piece).to_vec()).collect();
    assert_eq!(bytes, b"\0\x01\x02\xff\xff\xff\xff\xff\xffx");
    assert_eq!(session.control.exit_code().await, Ok(Some(3)));

    let mut session = open("read line; stty size; read line; stty size; sleep 1000").await;
    session.input.write_all(b"\n").await.unwrap();
    expect(&mut session, "33 77").await;
    session.control.resize(TerminalSize { rows: 10, columns: 20 }).await.unwrap();
    session.input.write_all(b"\n").await.unwrap();
    expect(&mut session, "10 20").await;

    assert_eq!(session.control.exit_code().await, Ok(None));
    session.control.hang_up().await.unwrap();
    World::shared()
        .await
        .until("the hang-up ends the command", async || {
            session.control.exit_code().await.unwrap() == Some(129)
        })
        .await;
    session.control.hang_up().await.unwrap();
    node.engine.remove(&id).await.unwrap();
}

fn command(script: &str) -> ExecRequest {
    ExecRequest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        ..ExecRequest::default()
    }
}

/// Reads a command's output until it has this in it.
async fn expect(session: &mut ExecSession, text: &str) {
    let mut output = String::new();
    while !output.contains(text) {
        let piece = timeout(PATIENCE, session.output.try_next()).await.unwrap().unwrap();
        output += &String::from_utf8_lossy(bytes(&piece.unwrap()));
    }
}

fn bytes(output: &Output) -> &[u8] {
    match output {
        Output::Stdout(bytes) | Output::Stderr(bytes) => bytes,
    }
}
