//! Commands on the fake engine and paused time for the verdicts, real sockets on loopback for probes.

use std::collections::BTreeMap;

use dwell_core::health::Probe;
use dwell_core::quantity::Millis;
use dwell_core::sandbox::Slot;
use dwell_core::workload::Template;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use dwell_engine::Engine;
use dwell_engine::fake::control::TokioClock;
use dwell_engine::fake::{FakeEngine, Operation, assigned};

struct World {
    engine: FakeEngine,
    clock: Arc<TokioClock>,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(TokioClock::new());
        Self { engine: FakeEngine::new(Arc::<TokioClock>::clone(&clock)), clock }
    }

    /// The verdicts over a container that was started now, by a command.
    async fn started(&self, name: &str, retries: u32) -> Verdicts {
        let web = assigned(name, 1, Template::of_image("a"));
        let container = self.engine.create(&web).await.unwrap();
        self.engine.start(&container).await.unwrap();
        let probe = Probe::Exec { command: vec!["check".to_owned()] };
        let check = HealthCheck { retries, ..HealthCheck::new(probe) };
        let started = self.clock.now();
        let subject = Subject {
            container,
            address: web.address,
            slot: Slot::A,
            check,
            started,
            since: started,
        };
        watch(Arc::new(self.engine.clone()), Arc::<TokioClock>::clone(&self.clock), subject)
    }
}

async fn assert_silent(verdicts: &mut Verdicts) {
    let verdict = timeout(Duration::from_secs(600), verdicts.next()).await;
    assert!(verdict.is_err(), "{verdict:?}");
}

#[tokio::test(start_paused = true)]
async fn verdicts_come_when_they_change() {
    let world = World::new();
    let mut verdicts = world.started("web-0", 3).await;
    let start = Instant::now();
    assert_eq!(verdicts.next().await, Some(Health::Healthy));
    assert!(start.elapsed() < Duration::from_millis(10), "a fresh one is probed at once");
    assert_silent(&mut verdicts).await;
    world.engine.set_exec_exit_code(1);
    let start = Instant::now();
    assert_eq!(verdicts.next().await, Some(Health::Unhealthy));
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_secs(20) && elapsed <= Duration::from_secs(30), "{elapsed:?}");
    world.engine.set_exec_exit_code(0);
    assert_eq!(verdicts.next().await, Some(Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer_counts_neither_way() {
    let world = World::new();
    let mut verdicts = world.started("web-0", 1).await;
    assert_eq!(verdicts.next().await, Some(Health::Healthy));
    world.engine.down();
    assert_silent(&mut verdicts).await;
    world.engine.up();
    assert_silent(&mut verdicts).await;
    world.engine.vanish(&verdicts.subject.container.clone());
    assert_eq!(verdicts.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn what_a_command_failed_with_is_told() {
    let world = World::new();
    let mut verdicts = world.started("web-0", 1).await;
    world.engine.set_exec_exit_code(9);
    assert_eq!(verdicts.next().await, Some(Health::Unhealthy));
    assert_eq!(verdicts.reason(), "\"check\" ended with 9: check");
    world.engine.set_exec_exit_code(0);
    assert_eq!(verdicts.next().await, Some(Health::Healthy));
    assert_eq!(verdicts.reason(), "");
    world.engine.set_exec_hangs(true);
    assert_eq!(verdicts.next().await, Some(Health::Unhealthy));
    assert_eq!(verdicts.reason(), "no answer within 5s");
    assert_eq!((world.engine.kills(), world.engine.hang_ups()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_cannot_be_run_fails_and_says_why() {
    let world = World::new();
    let mut verdicts = world.started("web-0", 1).await;
    let refused = dwell_engine::EngineError::Other {
        engine: "fake",
        operation: "run a command in a container",
        reason: "no such program".to_owned(),
    };
    world.engine.fail_next(Operation::Exec, 100, refused);
    assert_eq!(verdicts.next().await, Some(Health::Unhealthy));
    assert!(verdicts.reason().starts_with("\"check\" cannot be run: "), "{}", verdicts.reason());
    assert!(verdicts.reason().ends_with("no such program"), "{}", verdicts.reason());
}

/// The engine's clock is ten minutes ahead of the agent's, or behind it.
#[tokio::test(start_paused = true)]
async fn a_check_counts_by_the_clock_of_the_agent_alone() {
    for ahead in [true, false] {
        let world = World::new();
        let mut verdicts = world.started("web-0", 3).await;
        let now = world.clock.now().0;
        let started = if ahead { now + 600_000 } else { now - 600_000 };
        let check =
            HealthCheck { start_period: Millis::seconds(30), ..verdicts.subject.check.clone() };
        let subject = Subject { started: Timestamp(started), check, ..verdicts.subject.clone() };
        verdicts =
            watch(Arc::new(world.engine.clone()), Arc::<TokioClock>::clone(&world.clock), subject);
        world.engine.set_exec_exit_code(1);
        let begun = Instant::now();
        assert_eq!(verdicts.next().await, Some(Health::Unhealthy));
        let elapsed = begun.elapsed();
        let expected = Duration::from_secs(30)..Duration::from_secs(120);
        assert!(expected.contains(&elapsed), "{ahead}: {elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn probes_are_spread_in_time() {
    let world = World::new();
    let mut all = Vec::new();
    for n in 0..500 {
        all.push(world.started(&format!("web-{n}"), 3).await);
    }
    // The agent was away for a while.
    sleep(Duration::from_secs(60)).await;
    let mut tasks: JoinSet<_> = all
        .into_iter()
        .map(|mut verdicts| async move { while verdicts.next().await.is_some() {} })
        .collect();
    sleep(Duration::from_millis(500)).await;
    let half = world.engine.count(Operation::Exec);
    assert!((150..350).contains(&half), "{half} of 500 within half of the first second");
    sleep(Duration::from_secs(120)).await;
    tasks.shutdown().await;

    let mut per_second = BTreeMap::<u64, u32>::new();
    let settled = world.clock.now().0 - 60_000;
    for call in world.engine.journal() {
        if call.operation == Operation::Exec && call.at.0 > settled {
            *per_second.entry(call.at.0 / 1000).or_default() += 1;
        }
    }
    let most = per_second.values().max().unwrap();
    assert!(*most < 100, "{most} of 500 in one second, of an interval of ten");
}

/// Answers one connection with a text, after reading the request.
async fn answer(text: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        assert!(request[..length].starts_with(b"GET /ready?x HTTP/1.1\r\nHost: 127.0.0.1:"));
        stream.write_all(text.as_bytes()).await.unwrap();
        // Keeps the connection, as a server may that ignores `Connection: close`.
        sleep(Duration::from_secs(60)).await;
    });
    port
}

async fn probe_of(probe: Probe) -> Outcome {
    let subject = Subject {
        container: ContainerId("c".to_owned()),
        address: Ipv4Addr::LOCALHOST,
        slot: Slot::A,
        check: HealthCheck { timeout: Millis(500), ..HealthCheck::new(probe) },
        started: Timestamp(0),
        since: Timestamp(0),
    };
    probe::probe(&World::new().engine, subject.asked()).await
}

#[tokio::test]
async fn http() {
    for (text, expected) in [
        ("HTTP/1.1 200 OK\r\n", None),
        ("HTTP/1.0 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n", None),
        ("HTTP/1.1 503 Busy\r\n\r\n", Some("answered 503")),
        ("HTTP/1.1 2000 OK\r\n", Some("not HTTP")),
        ("SSH-2.0-OpenSSH_9.2\r\n", Some("not HTTP")),
        ("HTTP/1.1 20", Some("no answer within 500ms")),
    ] {
        let port = answer(text).await;
        match (probe_of(Probe::Http { port, path: "/ready?x".to_owned() }).await, expected) {
            (Outcome::Passed, None) => {}
            (Outcome::Failed(message), Some(part)) if message.contains(part) => {}
            (outcome, _) => panic!("{text:?}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(probe_of(Probe::Tcp { port }).await, Outcome::Passed);
    drop(listener);
    let outcome = probe_of(Probe::Tcp { port }).await;
    assert!(
        matches!(&outcome, Outcome::Failed(message) if message.contains("refused")),
        "{outcome:?}"
    );
}
