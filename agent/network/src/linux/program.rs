//! `nft` and `iptables`, run to their end in the host's namespace, or killed when they take too long.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

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

/// A program, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    /// The Debian package that has it.
    pub(super) package: &'static str,
    pub(super) limit: Duration,
}

/// Runs `program` with `input` and returns what it printed.
pub(super) fn feed(
    Program { name: program, package, limit }: Program,
    arguments: &[&str],
    input: &str,
) -> Result<String, NetworkError> {
    let (output, was_killed) = run(program, arguments, input, limit)
        .map_err(|source| NetworkError::ProgramMissing { program, package, source })?;
    if was_killed {
        return Err(NetworkError::ProgramHung { program, limit });
    }
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
    let complaint = complaint.chars().take(COMPLAINT_CHARS).collect();
    Err(NetworkError::ProgramFailed { program, complaint })
}

/// The output of a program, and whether it had to be killed.
fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
    limit: Duration,
) -> io::Result<(Output, bool)> {
    let child = start(program, arguments)?;
    // By its descriptor, and not its number, which may be another process's by then.
    let id = rustix::process::Pid::from_child(&child);
    let process = pidfd_open(id, PidfdFlags::empty())?;
    let was_killed = AtomicBool::new(false);
    let output = thread::scope(|scope| {
        let (ended, end) = channel::<()>();
        thread::Builder::new().name("dwell-limit".to_owned()).spawn_scoped(scope, || {
            let end = end;
            if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                was_killed.store(true, Ordering::Relaxed);
                // One that has ended by now needs no signal.
                let _gone = pidfd_send_signal(&process, Signal::KILL);
            }
        })?;
        let output = finish(child, input);
        drop(ended);
        output
    })?;
    let was_killed = was_killed.into_inner() && !output.status.success();
    Ok((output, was_killed))
}

fn start(program: &str, arguments: &[&str]) -> io::Result<Child> {
    let child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Before it has its input, and so before it does anything.
    remember(child.id());
    Ok(child)
}

fn finish(mut child: Child, input: &str) -> io::Result<Output> {
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
