//! Commands on the fake engine and paused time for the prober, real sockets on loopback for probes.

use dwell_core::health::Probe;
use dwell_core::quantity::Millis;
use dwell_core::workload::Template;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::*;
use crate::engine::Engine;
use crate::engine::fake::control::TokioClock;
use crate::engine::fake::{FakeEngine, Operation, assigned};

struct World {
    engine: FakeEngine,
    clock: Arc<TokioClock>,
    prober: Prober,
    verdicts: mpsc::Receiver<Verdict>,
}

fn world(capacity: usize) -> World {
    let clock = Arc::new(TokioClock::new());
    let engine = FakeEngine::new(Arc::<TokioClock>::clone(&clock));
    let (sender, verdicts) = mpsc::channel(capacity);
    let (prober, task) =
        Prober::new(Arc::new(engine.clone()), Arc::<TokioClock>::clone(&clock), sender);
    tokio::spawn(task);
    World { engine, clock, prober, verdicts }
}

fn exec_check() -> HealthCheck {
    HealthCheck::new(Probe::Exec { command: vec!["check".to_owned()] })
}

impl World {
    async fn started(&self, name: &str) -> Target {
        let web = assigned(name, 1, Template::of_image("a"));
        let container = self.engine.create(&web).await.unwrap();
        self.engine.start(&container).await.unwrap();
        Target {
            instance: web.instance,
            container,
            started_at: self.clock.now(),
            address: web.address,
            check: exec_check(),
        }
    }

    async fn next(&mut self) -> Health {
        let verdict = timeout(Duration::from_secs(600), self.verdicts.recv()).await;
        verdict.expect("a verdict").unwrap().health
    }

    async fn assert_silent(&mut self) {
        let verdict = timeout(Duration::from_secs(600), self.verdicts.recv()).await;
        assert!(verdict.is_err(), "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn verdicts_come_when_they_change() {
    let mut world = world(8);
    let target = world.started("web-0").await;
    let start = Instant::now();
    world.prober.watch(target).await;
    assert_eq!(world.next().await, Health::Healthy);
    assert!(start.elapsed() < Duration::from_millis(100), "a fresh one is probed at once");
    world.assert_silent().await;
    world.engine.set_exec_exit_code(1);
    let start = Instant::now();
    assert_eq!(world.next().await, Health::Unhealthy);
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_secs(17) && elapsed <= Duration::from_secs(30), "{elapsed:?}");
    world.engine.set_exec_exit_code(0);
    assert_eq!(world.next().await, Health::Healthy);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer_counts_neither_way() {
    let mut world = world(8);
    let target = world.started("web-0").await;
    world.prober.watch(target).await;
    assert_eq!(world.next().await, Health::Healthy);
    world.engine.down();
    world.assert_silent().await;
    world.engine.up();
    world.assert_silent().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_run_begins_anew_and_another_check_does_not() {
    let mut world = world(8);
    let mut target = world.started("web-0").await;
    world.prober.watch(target.clone()).await;
    assert_eq!(world.next().await, Health::Healthy);
    target.check.interval = Millis::seconds(1);
    world.prober.watch(target.clone()).await;
    world.assert_silent().await;
    target.started_at = world.clock.now();
    world.prober.watch(target.clone()).await;
    assert_eq!(world.next().await, Health::Healthy);
    world.prober.forget(target.instance).await;
    world.engine.set_exec_exit_code(1);
    world.assert_silent().await;
}

#[tokio::test(start_paused = true)]
async fn probes_are_spread_and_verdicts_wait_for_the_reader() {
    let mut world = world(1);
    let mut targets = Vec::new();
    for n in 0..500 {
        targets.push(world.started(&format!("web-{n}")).await);
    }
    sleep(Duration::from_secs(60)).await;
    for target in targets {
        world.prober.watch(target).await;
    }
    // Nobody takes verdicts: probing goes on, and requests are still taken.
    sleep(Duration::from_millis(500)).await;
    let half = world.engine.count(Operation::Exec);
    assert!((150..350).contains(&half), "{half} of 500 within half of the first second");
    sleep(Duration::from_secs(60)).await;
    let mut seen = BTreeSet::new();
    for _ in 0..500 {
        seen.insert(
            timeout(Duration::from_secs(1), world.verdicts.recv()).await.unwrap().unwrap().instance,
        );
    }
    assert_eq!(seen.len(), 500);
    let journal = world.engine.journal();
    let mut per_second = BTreeMap::<u64, u32>::new();
    let steady = world.clock.now().0 - 30_000;
    for call in journal.iter().filter(|call| call.operation == Operation::Exec) {
        if call.at.0 > steady {
            *per_second.entry(call.at.0 / 1000).or_default() += 1;
        }
    }
    let most = per_second.values().max().unwrap();
    assert!(*most < 250, "{most} probes in one second of a ten second interval");
}

#[tokio::test(start_paused = true)]
async fn what_a_command_failed_with_is_told() {
    let mut world = world(8);
    let mut target = world.started("web-0").await;
    target.check.retries = 1;
    world.engine.set_exec_exit_code(9);
    world.prober.watch(target.clone()).await;
    let verdict = world.verdicts.recv().await.unwrap();
    assert_eq!(verdict.health, Health::Unhealthy);
    assert_eq!(verdict.message, "\"check\" ended with 9: check");

    world.engine.set_exec_exit_code(0);
    assert_eq!(world.next().await, Health::Healthy);
    world.engine.set_exec_hangs(true);
    let verdict = world.verdicts.recv().await.unwrap();
    assert_eq!(verdict.message, "no answer within 5s");
    assert_eq!(world.engine.hang_ups(), 1);
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
    let check = HealthCheck { timeout: Millis(500), ..HealthCheck::new(probe) };
    let target = Target {
        instance: "web-0".parse().unwrap(),
        container: ContainerId("c".to_owned()),
        started_at: Timestamp(0),
        address: Ipv4Addr::LOCALHOST,
        check,
    };
    probe::probe(&FakeEngine::new(Arc::new(TokioClock::new())), &target).await
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
