//! Ends that others have a hand in: tracers, and who stops a process before it is a session's.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dwell_core::ssh::SshContainer;
use dwell_ssh::enter::{Exit, Failure, Session, Work};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::world::{PATIENCE, World, request};

/// A field of `/proc/PID/status`; `None` if the process is gone.
fn status(pid: u32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Some(line?.trim().to_owned())
}

/// The children of this process that are in a container, by their numbers here and there. Fast, since who looks may be
/// racing.
fn children_in(container: &SshContainer) -> Vec<(u32, u32)> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let its = namespace(container.pid);
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let children =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|text| text.split_whitespace().map(|it| it.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    let numbers = |pid| {
        let numbers = status(pid, "NSpid")?;
        let (_, inside) = numbers.split_once('\t')?;
        Some((pid, inside.rsplit('\t').next()?.parse().ok()?))
    };
    children.into_iter().filter(|&pid| namespace(pid) == its).filter_map(numbers).collect()
}

fn send(signal: &str, pid: u32) {
    let signal: Signal = format!("SIG{signal}").parse().unwrap();
    // One that is gone is seen to be gone.
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).ok();
}

/// Seizes a process with `ptrace`, says so, and waits for its end once it is told to. It is a process of its own, since
/// one's own children can always be waited for.
const TRACER: &str = r#"
    my ($ptrace, $seize, $pid) = map { $_ + 0 } @ARGV;
    syscall($ptrace, $seize, $pid, 0, 0) == 0 or die "cannot trace: $!";
    $| = 1;
    print "traces\n";
    <STDIN>;
    waitpid($pid, 0x40000000) == $pid or die "cannot wait: $!";
"#;

/// A tracer that has seized a process and does not wait for it.
fn tracer(pid: u32) -> Child {
    let numbers = [libc::SYS_ptrace.to_string(), libc::PTRACE_SEIZE.to_string(), pid.to_string()];
    let mut tracer = Command::new("perl")
        .args(["-e", TRACER])
        .args(numbers)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("perl has to be installed: apt-get install perl-base");
    let mut line = String::new();
    BufReader::new(tracer.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "traces\n");
    tracer
}

/// A session that waits for a line, and the number of its process.
async fn waiting(world: &World, script: &str) -> (Session, u32, SshContainer) {
    let container = world.idle(&[]);
    let command = Work::Command(format!("echo $$; {script}"));
    let mut session = world.enter.start(request(&container, "root", command)).await.unwrap();
    let mut inside = String::new();
    while !inside.ends_with('\n') {
        let byte = timeout(PATIENCE, session.output.read_u8()).await.unwrap().unwrap();
        inside.push(char::from(byte));
    }
    let inside: u32 = inside.trim().parse().unwrap();
    let found = children_in(&container).into_iter().find(|&(_, number)| number == inside);
    (session, found.unwrap().0, container)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traced_process_is_waited_for_once_its_tracer_lets_it_go() {
    let world = World::new().await;
    // Either the tracer waits for it, as strace and gdb do, or it ends without having done so.
    for tracer_waits in [true, false] {
        let (mut session, pid, container) = waiting(&world, "read line; exit 3").await;
        let mut tracer = tracer(pid);
        session.input.write_all(b"end\n").await.unwrap();
        let is_zombie = || status(pid, "State").is_some_and(|state| state.starts_with('Z'));
        world.until("it has ended", is_zombie).await;
        let early = timeout(Duration::from_millis(300), session.control.wait()).await;
        assert!(early.is_err(), "its end was told before anybody could know it: {early:?}");

        if tracer_waits {
            tracer.stdin.take().unwrap().write_all(b"\n").unwrap();
        } else {
            tracer.kill().unwrap();
        }
        let exit = timeout(PATIENCE, session.control.wait()).await.unwrap();
        assert_eq!(exit, Exit::Code(3), "the tracer waits: {tracer_waits}");
        assert_eq!(status(pid, "State"), None, "a zombie is left");
        assert_eq!(tracer.wait().unwrap().success(), tracer_waits);
        drop(session);
        // And so the container can end.
        world.docker(&["rm", "--force", &container.id]);
    }
}

/// What stops a process in its first moments, when it still has all capabilities, does not keep it.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_stopped_before_it_is_a_sessions_is_killed() {
    let world = World::new().await;
    let container = world.idle(&[]);
    // The helper is there before.
    world.output(&container, "root", "true").await;
    for _ in 0..200 {
        let (stopped, over) =
            (Arc::new(std::sync::Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let watcher = std::thread::spawn({
            let (stopped, over) = (Arc::clone(&stopped), Arc::clone(&over));
            let container = container.clone();
            move || {
                while !over.load(Ordering::Relaxed) {
                    if let Some((pid, _)) = children_in(&container).into_iter().next() {
                        send("STOP", pid);
                        *stopped.lock().unwrap() = Some(pid);
                        return;
                    }
                }
            }
        });
        let command = Work::Command("sleep 0.2".to_owned());
        let started = world.enter.start(request(&container, "root", command)).await;
        over.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
        let pid = *stopped.lock().unwrap();
        match (started, pid) {
            (Err(error), Some(pid)) => {
                assert_eq!(error.failure, Failure::Slow { seconds: 10 });
                world.until("it is gone", || status(pid, "State").is_none()).await;
                return;
            }
            // It was a session's already.
            (Ok(session), pid) => {
                if let Some(pid) = pid {
                    send("CONT", pid);
                }
                let Session { mut control, .. } = session;
                timeout(PATIENCE, control.wait()).await.unwrap();
            }
            (Err(error), None) => panic!("{error}"),
        }
    }
    panic!("no process was stopped early enough");
}
