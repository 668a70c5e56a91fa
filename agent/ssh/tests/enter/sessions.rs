//! What a session does: streams, terminals, signals, ends, and what it says where something is missing.

use std::fs;
use std::time::{Duration, Instant};

use dwell_ssh::enter::{Exit, Failure, Request, Terminal, Work};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::world::{Outcome, PATIENCE, SCRATCH, World, outcome, request};

fn killed(name: &str) -> Exit {
    Exit::Signal {
        name: name.to_owned(),
        core_dumped: false,
        message: format!("ended by signal {name}"),
    }
}

fn terminal() -> Option<Terminal> {
    Some(Terminal {
        term: "xterm-256color".to_owned(),
        columns: 100,
        rows: 30,
        pixel_width: 0,
        pixel_height: 0,
        // No echo.
        modes: vec![(53, 0)],
    })
}

/// The children of this process that have ended and were not waited for.
fn zombies() -> usize {
    let states = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned);
        Some((fields.next()?, fields.next()?))
    });
    let own = std::process::id().to_string();
    states.filter(|(state, parent)| state == "Z" && *parent == own).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_ends_and_signals() {
    let world = World::new().await;
    let container = world.idle(&[]);

    let Outcome { output, errors, exit } =
        world.outcome(&container, "root", "echo out; echo err >&2; exit 7").await;
    assert_eq!((&*output, &*errors, exit), ("out\n", "err\n", Exit::Code(7)));

    for (command, exit) in [
        ("kill -TERM $$", killed("TERM")),
        ("kill -KILL $$", killed("KILL")),
        ("no-such-program", Exit::Code(127)),
        ("exit 255", Exit::Code(255)),
    ] {
        assert_eq!(world.outcome(&container, "root", command).await.exit, exit, "{command}");
    }

    // More than pipes hold, both ways at once.
    let mut session = world
        .enter
        .start(request(&container, "alice", Work::Command("cat".to_owned())))
        .await
        .unwrap();
    let sent: Vec<u8> = (0..=250).cycle().take(5_000_000).collect();
    let (mut input, data) = (session.input, sent.clone());
    let writer = tokio::spawn(async move {
        input.write_all(&data).await.unwrap();
        input.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    timeout(PATIENCE, session.output.read_to_end(&mut received)).await.unwrap().unwrap();
    writer.await.unwrap();
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    assert_eq!(session.control.wait().await, Exit::Code(0));

    // A signal by name, to the whole group.
    let script = "trap 'echo int; exit 3' INT; echo ready; sleep 1000 & wait";
    let mut session = world
        .enter
        .start(request(&container, "alice", Work::Command(script.to_owned())))
        .await
        .unwrap();
    let mut line = [0; 6];
    timeout(PATIENCE, session.output.read_exact(&mut line)).await.unwrap().unwrap();
    session.control.signal("NO-SUCH");
    session.control.signal("INT");
    assert_eq!(timeout(PATIENCE, session.control.wait()).await.unwrap(), Exit::Code(3));

    // A session that is dropped ends its processes.
    let script = "echo $$; sleep 4321 & wait";
    let mut session = world
        .enter
        .start(request(&container, "root", Work::Command(script.to_owned())))
        .await
        .unwrap();
    session.output.read_u8().await.unwrap();
    drop(session);
    world
        .until("the session's processes are gone", || {
            !world.docker(&["exec", &container.id, "ps", "-o", "args"]).contains("sleep 4321")
        })
        .await;

    // A container that ends, ends its sessions, and does not wait for us.
    let mut session = world
        .enter
        .start(request(&container, "root", Work::Command("sleep 1000".to_owned())))
        .await
        .unwrap();
    let start = Instant::now();
    world.docker(&["rm", "--force", &container.id]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(timeout(PATIENCE, session.control.wait()).await.unwrap(), killed("KILL"));
    let groups = || {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        hierarchies.filter(|one| one.path().join("docker").join(&container.id).exists()).count()
    };
    world.until("the helper has left the container's cgroups", || groups() == 0).await;
    let gone = world.enter.start(request(&container, "root", Work::Shell)).await.unwrap_err();
    assert_eq!(gone.failure, Failure::Gone);
    assert!(gone.to_string().starts_with("cannot enter web-0: its container has ended"));
    world.until("nothing is left to wait for", || zombies() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_the_containers_and_as_the_clients() {
    let world = World::new().await;
    let container = world.idle(&[]);
    let script = "stty size; tty; echo $TERM $SSH_TTY; stat -c '%A %u' $SSH_TTY; \
                  for fd in 0 1 2; do test -t $fd && echo terminal; done; \
                  read line; stty size; echo got $line; exit 5";
    let asked = Request {
        terminal: terminal(),
        ..request(&container, "alice", Work::Command(script.to_owned()))
    };
    let mut session = world.enter.start(asked).await.unwrap();
    assert!(session.errors.is_none());
    let expect = async |output: &mut dwell_ssh::enter::SessionOutput, expected: &str| {
        let mut seen = Vec::new();
        let mut output = output.take(expected.len() as u64);
        timeout(PATIENCE, output.read_to_end(&mut seen)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&seen), expected);
    };
    let shown = "30 100\r\n/dev/pts/0\r\nxterm-256color /dev/pts/0\r\ncrw--w---- 1000\r\n\
                 terminal\r\nterminal\r\nterminal\r\n";
    expect(&mut session.output, shown).await;
    session.control.resize(300, 50, 1, 1);
    session.input.write_all(b"hello\r").await.unwrap();
    expect(&mut session.output, "50 300\r\ngot hello\r\n").await;
    let mut rest = Vec::new();
    timeout(PATIENCE, session.output.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!((rest.len(), session.control.wait().await), (0, Exit::Code(5)));

    // A login shell, ^C and ^D.
    let asked = Request { terminal: terminal(), ..request(&container, "root", Work::Shell) };
    let mut session = world.enter.start(asked).await.unwrap();
    session.input.write_all(b"echo $0 in $PWD\r").await.unwrap();
    let mut seen = String::new();
    let mut read = async |session: &mut dwell_ssh::enter::Session, until: &str| {
        while !seen.contains(until) {
            let mut buffer = [0; 256];
            let read = timeout(PATIENCE, session.output.read(&mut buffer)).await.unwrap().unwrap();
            assert!(read > 0, "{seen:?} and no {until:?}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    };
    read(&mut session, "-sh in /root").await;
    session.input.write_all(b"sleep 1234; echo status $?\r").await.unwrap();
    world.until("it sleeps", || world.docker(&["top", &container.id]).contains("sleep 1234")).await;
    session.input.write_all(b"\x03\recho again\r").await.unwrap();
    read(&mut session, "again").await;
    session.input.write_all(b"exit 4\r").await.unwrap();
    assert_eq!(timeout(PATIENCE, session.control.wait()).await.unwrap(), Exit::Code(4));

    // Whoever closes the connection hangs up.
    let asked = Request { terminal: terminal(), ..request(&container, "root", Work::Shell) };
    let session = world.enter.start(asked).await.unwrap();
    drop(session);
    world.until("nothing is left to wait for", || zombies() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said() {
    let world = World::new().await;
    let container = world.idle(&[]);
    let rsync = world.outcome(&container, "root", "rsync --server . /").await;
    assert_eq!(rsync.exit, Exit::Code(127));
    assert!(
        rsync.errors.starts_with("dwell: rsync is not in the image of web-0"),
        "{}",
        rsync.errors
    );
    assert_eq!(world.outcome(&container, "locked", "true").await.exit, Exit::Code(1));

    let bare = world.run(&[], SCRATCH, &["/busybox", "sleep", "100000"]);
    let shell =
        outcome(world.enter.start(request(&bare, "@container", Work::Shell)).await.unwrap()).await;
    assert_eq!(shell.exit, Exit::Code(127));
    assert!(
        shell.errors.starts_with("dwell: the image of web-0 has no shell; sftp"),
        "{}",
        shell.errors
    );
    assert_eq!(
        world.output(&bare, "@container", "/busybox echo 'a  b' \"$HOME\"").await,
        "a  b $HOME\n"
    );
    let absent = world.outcome(&bare, "@container", "ls -l").await;
    assert_eq!(absent.exit, Exit::Code(127));
    assert!(absent.errors.contains("ls is not in the image of web-0"), "{}", absent.errors);

    world.docker(&["pause", &container.id]);
    for _ in 0..2 {
        let start = Instant::now();
        let paused = world.enter.start(request(&container, "root", Work::Shell)).await.unwrap_err();
        assert_eq!(paused.failure, Failure::Paused);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    world.docker(&["unpause", &container.id]);
    assert_eq!(world.output(&container, "root", "echo on").await, "on\n");

    let full = world.idle(&["--pids-limit=2"]);
    let first =
        world.enter.start(request(&full, "root", Work::Command("sleep 1000".to_owned()))).await;
    let second = world.enter.start(request(&full, "root", Work::Command("true".to_owned()))).await;
    let failures = [first.err(), second.err()].into_iter().flatten();
    assert!(failures.map(|error| error.failure).any(|failure| failure == Failure::Full));

    let mut unknown = request(&container, "root", Work::Shell);
    unknown.container.id = "unknown".to_owned();
    let error = world.enter.start(unknown).await.unwrap_err();
    assert!(matches!(error.failure, Failure::Bundle(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_reached_by_a_socket_that_goes_with_the_session() {
    let world = World::new().await;
    for options in [&[][..], &["--read-only"]] {
        let container = world.idle(options);
        let script = "ls -ldn ${SSH_AUTH_SOCK%/*} | cut -d' ' -f1,5; test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK; cat";
        let asked = Request {
            agent_forwarding: true,
            ..request(&container, "alice", Work::Command(script.to_owned()))
        };
        let mut session = world.enter.start(asked).await.unwrap();
        assert!(session.agent_listener.is_some());
        let mut seen = String::new();
        while seen.lines().count() < 2 || !seen.ends_with('\n') {
            seen.push(char::from(
                timeout(PATIENCE, session.output.read_u8()).await.unwrap().unwrap(),
            ));
        }
        let (directory, path) = seen.trim().split_once('\n').unwrap();
        // The directory's owner comes after several blanks.
        assert!(directory.starts_with("drwx------"), "{seen}");
        let (directory, _) = path.rsplit_once('/').unwrap();
        drop(session);
        world.docker(&["exec", &container.id, "test", "!", "-e", directory]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_told_of_the_runtime_directory_that_is_the_users_alone() {
    let world = World::new().await;
    let container = world.idle(&["--tmpfs", "/run"]);
    let told = async || world.output(&container, "alice", "echo $XDG_RUNTIME_DIR").await;
    assert_eq!(told().await, "\n", "there is none");
    let make = "mkdir -p /run/user/1000 && chmod 700 /run/user/1000";
    world.output(&container, "root", make).await;
    assert_eq!(told().await, "\n", "it is root's");
    world.output(&container, "root", "chown 1000 /run/user/1000").await;
    assert_eq!(told().await, "/run/user/1000\n");
    world.output(&container, "root", "chmod 755 /run/user/1000").await;
    assert_eq!(told().await, "\n", "others may look into it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_container_lacks_is_nobody() {
    let world = World::new().await;
    let container = world.idle(&["--user", "1002"]);
    let id = |login: &str| request(&container, login, Work::Command("id -u".to_owned()));
    let refused = world.enter.start(id("intern")).await.unwrap_err();
    let known = vec!["root".to_owned(), "alice".to_owned()];
    assert_eq!(refused.failure, Failure::NoUser { login: "intern".to_owned(), known });
    let said = "its container has no user \"intern\"; it has root, alice, and its own: @container";
    assert!(refused.to_string().contains(said), "{refused}");
    let looked = async |login| {
        world.enter.account(&container, &"web-0".parse().unwrap(), login, false).await
    };
    assert_eq!(looked("intern").await, Err(refused));
    for (login, uid) in [("@container", "1002\n"), ("alice", "1000\n")] {
        assert_eq!(looked(login).await, Ok(String::new()));
        let session = world.enter.start(id(login)).await.unwrap();
        assert_eq!(outcome(session).await.output, uid, "{login}");
    }
}
