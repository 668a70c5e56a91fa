//! `dwell registry`.

use std::io::{Read, Write};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use super::terminal::Terminal;
use super::{Fake, LIMIT, Ran, command, run, starting};

async fn log_in(fake: &Fake, arguments: &[&str], input: &str) -> Ran {
    let mut command = command(fake, arguments);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that refuses its arguments ends without reading.
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.ok();
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

#[tokio::test]
async fn logins_come_and_go_and_no_password_is_shown() {
    let fake = Fake::start(starting());
    let login = ["registry", "login", "GHCR.io", "-u", "ci", "--password-stdin"];
    let ran = log_in(&fake, &login, "hunter2\n").await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.stdout, "nodes log in to ghcr.io as ci from now on\n");
    let kept = fake.state.lock().unwrap().logins["ghcr.io"].clone();
    assert_eq!(kept, ("ci".to_owned(), "hunter2".to_owned()));
    for output in ["table", "json", "yaml"] {
        let ran = run(&fake, &["registry", "ls", "-o", output]).await;
        assert!(
            ran.stdout.contains("ghcr.io") && !ran.stdout.contains("hunter2"),
            "{}",
            ran.stdout
        );
    }
    assert_eq!(run(&fake, &["registry", "logout", "quay.io"]).await.code, 3);
    let ran = run(&fake, &["registry", "logout", "ghcr.io"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "nodes no longer log in to ghcr.io\n"));
    assert!(fake.state.lock().unwrap().logins.is_empty());
}

#[tokio::test]
async fn what_can_be_no_login_is_not_sent() {
    let fake = Fake::start(starting());
    for (host, name, password) in [
        ("https://ghcr.io", "ci", "x"),
        ("ghcr", "ci", "x"),
        ("ghcr.io", "c:i", "x"),
        ("ghcr.io", "", "x"),
        ("ghcr.io", "ci", "\n"),
    ] {
        let login = ["registry", "login", host, "-u", name, "--password-stdin"];
        let ran = log_in(&fake, &login, password).await;
        assert_eq!(ran.code, 2, "{host} {name} {}", ran.stderr);
    }
    let ran = run(&fake, &["registry", "login", "ghcr.io", "-u", "ci"]).await;
    assert!(ran.code == 2 && ran.stderr.contains("--password-stdin"), "{}", ran.stderr);
    assert!(fake.state.lock().unwrap().logins.is_empty());
}

#[tokio::test]
async fn a_password_is_asked_for_and_not_shown_while_it_is_typed() {
    let fake = Fake::start(starting());
    let mut terminal = Terminal::open();
    let login = ["registry", "login", "ghcr.io", "-u", "ci"];
    let mut child = terminal.spawn_with(&fake, &login);
    terminal.shows("Password of ci at ghcr.io: ").await;
    while !terminal.is_silent() {
        tokio::task::yield_now().await;
    }
    terminal.ours.write_all(b"hunter2\n").unwrap();
    // The line break is what comes next: what was typed is not shown.
    terminal.shows("\r\nnodes log in to ghcr.io as ci").await;
    assert!(tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap().success());
    assert_eq!(fake.state.lock().unwrap().logins["ghcr.io"].1, "hunter2");
    assert!(!terminal.is_silent());

    let mut child = terminal.spawn_with(&fake, &login);
    terminal.shows("Password of ci at ghcr.io: ").await;
    while !terminal.is_silent() {
        tokio::task::yield_now().await;
    }
    terminal.ours.write_all(b"half\x03").unwrap();
    let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(!terminal.is_silent(), "the terminal is as it was");
}

#[tokio::test]
async fn a_paste_of_several_lines_or_of_a_long_one_is_no_password_and_nothing_of_it_is_left() {
    let fake = Fake::start(starting());
    let mut terminal = Terminal::open();
    let long = [vec![b'x'; 5_000], b"\n".to_vec()].concat();
    for (pasted, problem) in [
        (&b"hunter2\nrm -rf x\n"[..], "more than one line"),
        (&b"hunter2\nrm -rf x"[..], "more than one line"),
        (&long, "longer than what a terminal passes on"),
    ] {
        let mut child = terminal.spawn_with(&fake, &["registry", "login", "ghcr.io", "-u", "ci"]);
        terminal.shows("Password of ci at ghcr.io: ").await;
        while !terminal.is_silent() {
            tokio::task::yield_now().await;
        }
        terminal.ours.write_all(pasted).unwrap();
        terminal.shows(problem).await;
        let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(2));
        assert!(!terminal.is_silent(), "the terminal is as it was");
        terminal.ours.write_all(b"next\n").unwrap();
        let mut next = [0; 16];
        let length = terminal.theirs.read(&mut next).unwrap();
        assert_eq!(&next[..length], b"next\n");
    }
    assert!(fake.state.lock().unwrap().logins.is_empty());
}
