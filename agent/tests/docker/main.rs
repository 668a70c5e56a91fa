//! The Docker engine, and the reconciler with it, against a real daemon, as root. One daemon serves all parts, one after the other;
//! each uses instances of its own. See [`world`].

#![expect(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "these are tests")]

mod by_hand;
mod reconciled;
mod world;

use std::fs;
use std::time::{Duration, Instant};

use dwell_core::clock::Timestamp;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::workload::{Mount, MountSource, Resources, Template};
use dwell_docker::{DockerEngine, Runtime};
use dwell_engine::death;
use dwell_engine::{
    ContainerState, Engine as _, EngineError, EventKind, ExecRequest, ExecSession, LogOptions,
    Output, OutputStream, TerminalSize,
};
use futures_util::{StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use world::{PATIENCE, World, assigned, config, shell};

#[tokio::test]
async fn the_docker_engine() {
    let world = World::new().await;
    runtime_missing(&world).await;
    world.register_runtime().await;
    a_life(&world).await;
    refusals(&world).await;
    identity_and_mounts(&world).await;
    limits(&world).await;
    logs(&world).await;
    exec(&world).await;
    terminal(&world).await;
    others_are_left_alone(&world).await;
    leftovers(&world).await;
    reconciled::a_node(&world).await;
    by_hand::at_an_instance(&world).await;
    a_stopped_daemon(&world).await;
}

async fn runtime_missing(world: &World) {
    let report = world.engine.info().await.unwrap();
    assert!(!report.info.ready && report.info.message.contains("install-runtime"), "{report:?}");
    assert_eq!(report.data_root.unwrap(), world.directory.path().join("data"));
    let refused = world.create(&assigned("early-0", 1, shell("true"))).await.unwrap_err();
    assert!(matches!(refused, EngineError::RuntimeMissing { .. }), "{refused}");
    assert_eq!(world.engine.list().await.unwrap(), []);
}

async fn a_life(world: &World) {
    let engine = &world.engine;
    let mut events = engine.events().await.unwrap();
    let web = assigned("web-0", 7, shell("trap 'exit 5' TERM; while :; do sleep 0.01; done"));
    let id = world.create(&web).await.unwrap();
    let twice = world.create(&web).await.unwrap_err();
    assert_eq!(twice, EngineError::AlreadyExists { name: "dwell.web-0.g7".to_owned() });

    let listed = engine.list().await.unwrap();
    let [seen] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!((&seen.id, seen.generation, seen.restarts_asked), (&id, web.generation, 2));
    assert_eq!((&seen.instance, seen.state), (&web.instance, ContainerState::Created));
    assert_eq!(seen.fingerprint, web.template.fingerprint());

    engine.start(&id).await.unwrap();
    engine.start(&id).await.unwrap();
    let seen = world.inspect(&id).await;
    let pid = seen.details.unwrap().pid.unwrap();
    assert_eq!(seen.state, ContainerState::Running);

    let death = death::watch(pid, &id).unwrap();
    let (stopped, code, ()) =
        tokio::join!(engine.stop(&id, Duration::from_secs(20)), engine.wait(&id), death);
    assert_eq!((stopped, code), (Ok(()), Ok(5)));
    engine.stop(&id, Duration::ZERO).await.unwrap();
    let details = world.inspect(&id).await.details.unwrap();
    assert_eq!((details.pid, details.exit_code), (None, Some(5)));
    assert!(details.finished_at > details.started_at);

    engine.start(&id).await.unwrap();
    assert!(world.directory.path().join("run/containers").join(id.as_str()).exists());
    engine.remove(&id).await.unwrap();
    engine.remove(&id).await.unwrap();
    assert!(!world.directory.path().join("run/containers").join(id.as_str()).exists());
    assert!(!world.directory.path().join("lib/instances/web-0").exists());
    assert_eq!(engine.inspect(&id).await, Err(EngineError::NotFound { id: id.to_string() }));

    let mut kinds = Vec::new();
    while kinds.last() != Some(&EventKind::Removed) {
        let event = timeout(PATIENCE, events.try_next()).await.unwrap().unwrap().unwrap();
        assert_eq!((&event.id, &event.instance), (&id, &web.instance));
        kinds.push(event.kind);
    }
    let died = |code| EventKind::Died { exit_code: Some(code) };
    let expected = [
        EventKind::Changed,
        EventKind::Started,
        died(5),
        EventKind::Started,
        died(137),
        EventKind::Removed,
    ];
    assert_eq!(kinds, expected);
}

async fn refusals(world: &World) {
    let missing = world.create(&assigned("no-0", 1, Template::of_image("no-such-image"))).await;
    let expected = EngineError::ImageMissing { image: "no-such-image".to_owned() };
    assert_eq!(missing.unwrap_err(), expected);

    let progress = tokio::sync::watch::Sender::default();
    // There is no network and so no registry; a reference that is none is refused without one.
    let pulled = world.engine.pull("no-such-image", &progress).await.unwrap_err();
    assert!(matches!(pulled, EngineError::PullFailed { permanent: false, .. }), "{pulled}");
    let pulled = world.engine.pull("UPPER:x", &progress).await.unwrap_err();
    assert!(pulled.is_permanent(), "{pulled}");

    let mut template = shell("true");
    template.entrypoint = vec!["/no/such/program".to_owned()];
    let id = world.create(&assigned("no-0", 1, template)).await.unwrap();
    let refused = world.engine.start(&id).await.unwrap_err();
    assert!(matches!(refused, EngineError::Refused { .. }), "{refused}");
    world.engine.remove(&id).await.unwrap();

    let id = world.create(&assigned("no-0", 1, shell("true"))).await.unwrap();
    fs::remove_file(world.directory.path().join("run/netns/no-0")).unwrap();
    let refused = world.engine.start(&id).await.unwrap_err();
    assert!(refused.to_string().contains("its sandbox"), "{refused}");
    assert_eq!(world.inspect(&id).await.state, ContainerState::Created);
    world.engine.remove(&id).await.unwrap();
}

async fn identity_and_mounts(world: &World) {
    let binds = world.directory.path().join("binds");
    fs::create_dir_all(&binds).unwrap();
    fs::write(binds.join("file"), "of the node").unwrap();
    let mount =
        |source, target: &str| Mount { source, target: target.to_owned(), read_only: false };
    let mut template = shell(
        "cat /etc/content/file /bound/file; hostname; cat /etc/hosts; echo more > /etc/content/new",
    );
    template.environment.insert("A".to_owned(), "b".to_owned());
    template.mounts = vec![
        mount(MountSource::Volume("content".parse().unwrap()), "/etc/content"),
        mount(MountSource::Bind(binds.to_str().unwrap().to_owned()), "/bound"),
    ];
    let id = world.create(&assigned("db-0", 1, template.clone())).await.unwrap();
    world.engine.start(&id).await.unwrap();
    assert_eq!(world.engine.wait(&id).await, Ok(0));
    let output = world.engine.logs(&id, &LogOptions::default()).await.unwrap();
    let (output, errors) = texts(output).await;
    assert!(output.starts_with("of the imageof the nodedb-0\n127.0.0.1\tlocalhost\n"), "{output}");
    assert!(output.ends_with("10.80.0.1\tdb-0\n") && errors.is_empty(), "{output}{errors}");

    // Another container of the instance has the same volume, after the first one is gone.
    world.engine.remove(&id).await.unwrap();
    template.command = ["cat", "/etc/content/new"].map(str::to_owned).into();
    let id = world.create(&assigned("db-0", 2, template)).await.unwrap();
    world.engine.start(&id).await.unwrap();
    assert_eq!(world.engine.wait(&id).await, Ok(0));
    world.engine.remove(&id).await.unwrap();
}

async fn limits(world: &World) {
    let half = Resources { cpu: Millicores(500), memory: Bytes::mebi(64) };
    let mut template = shell("sleep 1000");
    template.resources = half;
    let id = world.create(&assigned("small-0", 1, template)).await.unwrap();
    world.engine.start(&id).await.unwrap();
    assert_eq!(world.inspect(&id).await.details.unwrap().limits, half);
    let double = Resources { cpu: Millicores(1000), memory: Bytes::mebi(128) };
    for limits in [double, Resources::default(), half] {
        world.engine.update_limits(&id, limits).await.unwrap();
        assert_eq!(world.inspect(&id).await.details.unwrap().limits, limits);
    }
    world.engine.remove(&id).await.unwrap();

    // `tail` keeps the last line in memory, and this one has no end.
    let mut template = shell("head -c 200000000 /dev/zero | busybox tail -n 1 > /dev/null");
    template.resources = half;
    let id = world.create(&assigned("big-0", 1, template)).await.unwrap();
    world.engine.start(&id).await.unwrap();
    world.engine.wait(&id).await.unwrap();
    assert!(world.inspect(&id).await.details.unwrap().out_of_memory);
    world.engine.remove(&id).await.unwrap();
}

async fn logs(world: &World) {
    let id = world.run("log-0", "echo one; echo two >&2; echo three; sleep 1000").await;
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let mut output = world.engine.logs(&id, &follow).await.unwrap();
    let mut pieces = Vec::new();
    while pieces.len() < 3 {
        pieces.push(timeout(PATIENCE, output.try_next()).await.unwrap().unwrap().unwrap());
    }
    assert!(pieces.contains(&Output::Stderr("two\n".into())), "{pieces:?}");
    let (all, rest) = tokio::join!(texts(output), world.engine.stop(&id, Duration::ZERO));
    assert_eq!((all, rest), ((String::new(), String::new()), Ok(())));

    let last = LogOptions { tail: Some(1), timestamps: true, ..LogOptions::default() };
    // The two streams are written down in any order.
    let (text, errors) = texts(world.engine.logs(&id, &last).await.unwrap()).await;
    let text = text + &errors;
    assert!(text.starts_with("20") && text.contains("Z t") && text.lines().count() == 1, "{text}");
    world.engine.remove(&id).await.unwrap();

    // Within one second, which is the finest that Docker takes.
    let id =
        world.run("since-0", "echo one; usleep 50000; echo two; usleep 50000; echo three").await;
    world.engine.wait(&id).await.unwrap();
    let times = LogOptions { timestamps: true, ..LogOptions::default() };
    let (all, _) = texts(world.engine.logs(&id, &times).await.unwrap()).await;
    let second = all.lines().nth(1).and_then(|line| line.split_once(' ')).unwrap().0;
    let second: jiff::Timestamp = second.parse().unwrap();
    let since = Some(Timestamp(u64::try_from(second.as_millisecond()).unwrap()));
    let since = LogOptions { since, ..LogOptions::default() };
    let (late, _) = texts(world.engine.logs(&id, &since).await.unwrap()).await;
    assert_eq!(late, "two\nthree\n", "of {all}");
    world.engine.remove(&id).await.unwrap();
    assert!(matches!(world.engine.logs(&id, &last).await, Err(EngineError::NotFound { .. })));
}

async fn exec(world: &World) {
    let id = world.run("exec-0", "sleep 1000").await;
    let run = async |script: &str| {
        let request = command(script);
        world.engine.exec(&id, &request).await.unwrap()
    };
    let session = run("echo out; echo err >&2; exit 7").await;
    assert_eq!(texts(session.output).await, ("out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(session.control.exit_code().await, Ok(Some(7)));

    let environment = vec!["GREETING=hi".to_owned()];
    let request = ExecRequest { stdin: true, environment, ..command("echo $GREETING; cat") };
    let mut session = world.engine.exec(&id, &request).await.unwrap();
    let text = "0123456789".repeat(100_000);
    let write = async {
        session.input.write_all(text.as_bytes()).await.unwrap();
        session.input.shutdown().await.unwrap();
    };
    let ((), (output, _)) = tokio::join!(write, texts(session.output));
    assert_eq!(output.len(), 3 + text.len());
    assert_eq!(session.control.exit_code().await, Ok(Some(0)));

    // Docker tells only in the output, and in its own words, that there is no such command.
    for (command, told, code) in [
        ("/no", "dwell: /no: not found in the instance\r\n", 127),
        ("no", "dwell: no: not found in the instance\r\n", 127),
        ("/etc/hosts", "dwell: /etc/hosts: not executable\r\n", 126),
    ] {
        let request = ExecRequest { command: vec![command.to_owned()], ..ExecRequest::default() };
        let session = world.engine.exec(&id, &request).await.unwrap();
        assert_eq!(texts(session.output).await, (String::new(), told.to_owned()));
        assert_eq!(session.control.exit_code().await, Ok(Some(code)));
    }

    world.engine.stop(&id, Duration::ZERO).await.unwrap();
    let refused = world.engine.exec(&id, &command("true")).await.err().unwrap();
    assert!(matches!(refused, EngineError::NotRunning { .. }), "{refused}");
    world.engine.remove(&id).await.unwrap();
}

async fn terminal(world: &World) {
    let id = world.run("tty-0", "sleep 1000").await;
    let terminal = Some(TerminalSize { rows: 33, columns: 77 });
    let open = async |script: &str| {
        let request = ExecRequest { terminal, stdin: true, ..command(script) };
        world.engine.exec(&id, &request).await.unwrap()
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
    world
        .until("the hang-up ends the command", async || {
            session.control.exit_code().await.unwrap() == Some(129)
        })
        .await;
    session.control.hang_up().await.unwrap();
    world.engine.remove(&id).await.unwrap();
}

async fn others_are_left_alone(world: &World) {
    let id = world.run("mine-0", "sleep 1000").await;
    let mut config = config(world.directory.path(), Runtime::Dwell);
    config.cluster = "other".to_owned();
    let other = DockerEngine::new(config);
    let not_found = EngineError::NotFound { id: id.to_string() };
    assert_eq!(other.list().await.unwrap(), []);
    assert_eq!(other.inspect(&id).await.unwrap_err(), not_found);
    assert_eq!(other.stop(&id, Duration::ZERO).await.unwrap_err(), not_found);
    other.remove(&id).await.unwrap();
    assert_eq!(world.inspect(&id).await.state, ContainerState::Running);
    world.engine.remove(&id).await.unwrap();
}

/// What is kept for a container goes with it, also if somebody else removes it, and whatever is left over is found.
async fn leftovers(world: &World) {
    let engine = &world.engine;
    let (run, data) = (world.directory.path().join("run"), world.directory.path().join("lib"));
    let kept = world.run("kept-0", "sleep 1000").await;
    let by_hand = world.run("hand-1", "sleep 1000").await;
    let host = format!("--host=unix://{}", world.directory.path().join("socket").display());
    let docker = |words: &[&str]| {
        assert!(
            std::process::Command::new("docker").arg(&host).args(words).status().unwrap().success()
        );
    };
    docker(&["rm", "--force", by_hand.as_str()]);
    let gone = engine.inspect(&by_hand).await.unwrap_err();
    assert_eq!(gone, EngineError::NotFound { id: by_hand.to_string() });
    assert!(!run.join("containers").join(by_hand.as_str()).exists());
    assert!(!data.join("instances/hand-1").exists());
    assert_eq!(engine.leftovers().await.unwrap(), [].into());

    let planted = [
        run.join("containers/0123456789ab"),
        run.join("bundles/0123456789ab"),
        data.join("instances/ghost-0/g3"),
    ];
    for path in &planted {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
    }
    fs::write(&planted[0], "{}").unwrap();
    std::os::unix::fs::symlink("/nonexistent", &planted[1]).unwrap();
    fs::create_dir(&planted[2]).unwrap();
    assert_eq!(engine.leftovers().await.unwrap(), planted.clone().into());
    engine.sweep().await.unwrap();
    assert!(planted.iter().all(|path| fs::symlink_metadata(path).is_err()));
    assert!(run.join("containers").join(kept.as_str()).exists());
    assert!(data.join("instances/kept-0/g1/hosts").exists());
    engine.remove(&kept).await.unwrap();
    assert_eq!(fs::read_dir(run.join("containers")).unwrap().count(), 0);
}

/// A daemon that does not answer makes calls fail in time; one that is back serves again, with the
/// same engine object.
async fn a_stopped_daemon(world: &World) {
    world.signal("STOP");
    let start = Instant::now();
    let failed = world.engine.list().await.unwrap_err();
    world.signal("CONT");
    assert!(matches!(failed, EngineError::Unavailable { .. }), "{failed}");
    assert!(start.elapsed() < Duration::from_secs(40));
    world.until("it answers again", async || world.engine.list().await.is_ok()).await;

    let mut events = world.engine.events().await.unwrap();
    // Opens the connection, which begins with the last second.
    drop(timeout(Duration::from_millis(100), events.next()).await);
    world.signal("TERM");
    let end = async { while let Some(Ok(_)) = events.next().await {} };
    timeout(PATIENCE, end).await.unwrap();
    // It ends the events first and answers for a little while yet.
    world
        .until("it answers no more", async || {
            matches!(world.engine.list().await, Err(EngineError::Unavailable { .. }))
        })
        .await;
}

fn command(script: &str) -> ExecRequest {
    ExecRequest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        ..ExecRequest::default()
    }
}

/// All output, standard and error.
async fn texts(mut output: OutputStream) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = timeout(PATIENCE, output.try_next()).await.unwrap().unwrap() {
        match piece {
            Output::Stdout(bytes) => out.extend_from_slice(&bytes),
            Output::Stderr(bytes) => err.extend_from_slice(&bytes),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
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
