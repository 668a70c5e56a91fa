//! `nft` and `iptables`, run to their end in the host's namespace.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::NetworkError;

/// How many programs are remembered, for what the kernel still has to say about their work.
const REMEMBERED: usize = 16;
/// The process ids of those that were started last.
static STARTED: Mutex<VecDeque<u32>> = Mutex::new(VecDeque::new());

/// Whether a netlink socket's port is that of a program started here a moment ago: the first socket of a
/// process has its process id.
pub(super) fn was_started(port: u32) -> bool {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner).contains(&port)
}

/// How much of a program's complaint goes into an error, in characters.
const COMPLAINT_CHARS: usize = 300;

/// Runs `program` with `input` and returns what it printed.
pub(super) fn feed(
    program: &'static str,
    package: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, NetworkError> {
    let output = spawn(program, arguments, input)
        .map_err(|source| NetworkError::ProgramMissing { program, package, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
    let complaint = complaint.chars().take(COMPLAINT_CHARS).collect();
    Err(NetworkError::ProgramFailed { program, complaint })
}

fn spawn(program: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Before it has its input, and so before it does anything.
    remember(child.id());
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It has ended early; its exit status and its complaint say why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output()
}

fn remember(id: u32) {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    started.push_front(id);
    started.truncate(REMEMBERED);
}
