//! Commands on a terminal.

use dwell_core::id::Generation;
use dwell_core::instance::Assigned;
use dwell_core::job::Task;
use dwell_core::workload::Template;
use dwell_docker::Runtime;
use dwell_docker::world::{PATIENCE, World, shell};
use dwell_engine::fake::assigned;
use dwell_engine::{Engine as _, ExecRequest, ExecSession, LogOptions, Output, TerminalSize};
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

/// The terminal of a main process: what was printed before anybody attached is not lost, though it is no line, and what is
/// typed arrives. A shell that is left is gone.
#[tokio::test]
async fn a_main_process_has_a_terminal() {
    let world = World::shared().await;
    let node = world.node("main-terminal", Runtime::Dwell);
    let script = "printf 'name? '; read name; echo hello $name; stty size; exec sleep 1000";
    let template = Template { stdin: true, tty: true, ..shell(script) };
    let task = Some(Task { number: Generation(1), failed_before: 0 });
    let id = node.run(&Assigned { task, ..assigned("tty-1", 1, template) }).await;
    let log = LogOptions::default();
    // The shell waits for a name. What it has printed is in no log yet.
    let pid = node.inspect(&id).await.details.unwrap().pid.unwrap();
    world
        .until("the shell reads", async || {
            let at = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            // Of `read`, `ppoll` or `poll` on its standard input; busybox polls.
            ["0 0x0", "7 ", "271 "].iter().any(|call| at.starts_with(call))
        })
        .await;
    let logged: Vec<Output> =
        node.engine.logs(&id, &log).await.unwrap().try_collect().await.unwrap();
    assert_eq!(logged, [], "nothing of it would be shown without an attachment before the start");
    let mut session = node.engine.attach(&id).await.unwrap();
    session.control.resize(TerminalSize { rows: 33, columns: 77 }).await.unwrap();
    session.input.write_all(b"you\n").await.unwrap();
    let shown = expect(&mut session, "33 77").await;
    assert!(shown.starts_with("name? you\r\nhello you\r\n"), "{shown:?}");
    // It ignores that, as the first process of its namespace.
    session.control.hang_up().await.unwrap();
    assert_eq!(session.control.exit_code().await, Ok(Some(137)));
    node.engine.remove(&id).await.unwrap();
}

fn command(script: &str) -> ExecRequest {
    ExecRequest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        ..ExecRequest::default()
    }
}

/// Reads output until it has this in it.
async fn expect(session: &mut ExecSession, text: &str) -> String {
    let mut output = String::new();
    while !output.contains(text) {
        let piece = timeout(PATIENCE, session.output.try_next()).await.unwrap().unwrap();
        output += &String::from_utf8_lossy(bytes(&piece.unwrap()));
    }
    output
}

fn bytes(output: &Output) -> &[u8] {
    match output {
        Output::Stdout(bytes) | Output::Stderr(bytes) => bytes,
    }
}
