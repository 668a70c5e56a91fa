//! Commands beside a main process.

use std::time::Instant;

use dwell_core::container::ContainerId;
use futures_util::TryStreamExt;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{Command, GRACE, Harness, PATIENCE, Program, started, texts};
use crate::{EngineError, ExecRequest, ExecSession, TerminalSize};

const SERVES: Program = Program::Serves { exit_code: 0 };

fn request(harness: &dyn Harness, command: Command) -> ExecRequest {
    ExecRequest { command: harness.command(command), ..ExecRequest::default() }
}

async fn run(harness: &dyn Harness, id: &ContainerId, command: Command) -> ExecSession {
    harness.engine().exec(id, &request(harness, command)).await.unwrap()
}

/// The two outputs are told apart, and the exit code is there when they have ended.
pub async fn a_command_has_both_outputs_and_an_exit_code(harness: &dyn Harness) {
    let id = started(harness, "exec-1", SERVES).await;
    let prints = Command::Prints { stdout: "out\n", stderr: "err\n", exit_code: 7 };
    let session = run(harness, &id, prints).await;
    assert_eq!(texts(session.output).await, ("out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(session.control.exit_code().await, Ok(Some(7)));
    session.control.hang_up().await.unwrap();
    session.control.kill().await.unwrap();
    harness.engine().remove(&id).await.unwrap();
}

/// Input goes in while output comes out, and ends when it is shut down.
pub async fn a_command_reads_its_input(harness: &dyn Harness) {
    let id = started(harness, "exec-2", SERVES).await;
    let request = ExecRequest { stdin: true, ..request(harness, Command::Repeats) };
    let mut session = harness.engine().exec(&id, &request).await.unwrap();
    let text = "0123456789".repeat(100_000);
    let write = async {
        session.input.write_all(text.as_bytes()).await.unwrap();
        session.input.shutdown().await.unwrap();
    };
    let ((), (output, _)) = tokio::join!(write, texts(session.output));
    assert!(output == text, "{} of {} bytes", output.len(), text.len());
    assert_eq!(session.control.exit_code().await, Ok(Some(0)));
    harness.engine().remove(&id).await.unwrap();
}

/// A command that is not there, or is no program, ends as in a shell, with a line that names it and no output.
pub async fn a_command_that_cannot_be_started_says_why(harness: &dyn Harness) {
    let id = started(harness, "exec-3", SERVES).await;
    for (command, told, code) in [
        (Command::IsMissing, "not found in the instance", 127),
        (Command::IsNoProgram, "not executable", 126),
    ] {
        let name = harness.command(command).remove(0);
        let session = run(harness, &id, command).await;
        let line = format!("dwell: {name}: {told}\r\n");
        assert_eq!(texts(session.output).await, (String::new(), line));
        assert_eq!(session.control.exit_code().await, Ok(Some(code)));
    }
    harness.engine().remove(&id).await.unwrap();
}

/// A command without anybody who waits for it can be ended, on a terminal or not.
pub async fn a_command_ends_when_it_is_hung_up_or_killed(harness: &dyn Harness) {
    let id = started(harness, "exec-4", SERVES).await;
    let terminal = Some(TerminalSize { rows: 24, columns: 80 });
    let waits = ExecRequest { terminal, stdin: true, ..request(harness, Command::Waits) };
    let hung_up = harness.engine().exec(&id, &waits).await.unwrap();
    assert_eq!(hung_up.control.exit_code().await, Ok(None));
    hung_up.control.resize(TerminalSize { rows: 10, columns: 20 }).await.unwrap();
    hung_up.control.hang_up().await.unwrap();
    assert_eq!(ended(hung_up).await, 129);

    let killed = run(harness, &id, Command::Waits).await;
    assert_eq!(killed.control.exit_code().await, Ok(None));
    killed.control.kill().await.unwrap();
    assert_eq!(ended(killed).await, 137);
    harness.engine().remove(&id).await.unwrap();
}

/// Reads the output of a command until it has ended, and asks for its exit code until it is there.
async fn ended(mut session: ExecSession) -> i32 {
    while timeout(PATIENCE, session.output.try_next()).await.unwrap().unwrap().is_some() {}
    let begun = Instant::now();
    loop {
        if let Some(code) = session.control.exit_code().await.unwrap() {
            return code;
        }
        assert!(begun.elapsed() < PATIENCE, "it has no exit code");
        tokio::task::yield_now().await;
    }
}

/// There is no command in a container that does not run, or is not there.
pub async fn no_command_runs_in_what_does_not_run(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = started(harness, "exec-5", SERVES).await;
    engine.stop(&id, GRACE).await.unwrap();
    let waits = request(harness, Command::Waits);
    let refused = engine.exec(&id, &waits).await.err();
    assert!(matches!(refused, Some(EngineError::NotRunning { .. })), "{refused:?}");
    engine.remove(&id).await.unwrap();
    let refused = engine.exec(&id, &waits).await.err();
    assert!(matches!(refused, Some(EngineError::NotFound { .. })), "{refused:?}");
}
