//! Instances that do not work, or not yet: what is done about them, and who is told how soon.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{Image, Lab, LabConfig, Signal, wait_until};
use serde_json::json;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(90);

/// What is in `/dev/shm` is gone after a restart, what is in `/` is not.
const RESTARTED: &str = "
workloads:
  web:
    image: hello
    healthcheck:
      test: [CMD-SHELL, 'test ! -e /dev/shm/ill && test ! -e /ill']
      interval: 200ms
      retries: 1
      restart: 2s
";

#[tokio::test]
async fn what_stays_unhealthy_is_restarted_also_without_a_controller() -> Result<()> {
    Lab::test(LabConfig::new("ill").hosts(1).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(RESTARTED).await?.ok()?;
        let before = lab.wait_well("web", 1, LIMIT).await?.swap_remove(0);
        let later = "(sleep 3; touch /dev/shm/ill) >/dev/null 2>&1 &";
        lab.exec("web-0", &["sh", "-c", later]).await?.ok()?;
        lab.stop_controller(Signal::SIGKILL).await?;
        sleep(Duration::from_secs(10)).await;
        lab.start_controller().await?;
        let after = lab.wait_well("web", 1, LIMIT).await?.swap_remove(0);
        ensure!((before.restarts, after.restarts) == (0, 1), "{after:?}");
        ensure!(before.container_id == after.container_id, "it was replaced: {after:?}");
        let told = wait_until("the reason to be told", LIMIT, async || {
            let events = lab.cli(&["events", "--about", "instance/web-0"]).await?.ok()?;
            ensure!(events.contains("instance-given-up"), "{events}");
            Ok(events)
        })
        .await?;
        ensure!(told.contains("it was unhealthy for 2s: \"/bin/sh\" ended with 1"), "{told}");

        // A restart does not help, so that they come ever more seldom; once it does, it is well.
        lab.exec("web-0", &["touch", "/ill"]).await?.ok()?;
        wait_until("restarts that do not help to make a pause", LIMIT, async || {
            let row = lab.ps().await?.of("web").swap_remove(0);
            ensure!(row.restarts >= 6, "{row:?}");
            ensure!(row.message.contains("started again after a pause"), "{row:?}");
            Ok(())
        })
        .await
    })
    .await
}

const READY: &str = "
workloads:
  web:
    image: hello
    replicas: 2
    healthcheck: {http: ':8080/', interval: 500ms, restart: 2s}
    readiness: {test: [CMD, test, '!', -e, /busy], interval: 200ms, retries: 1}
";

/// How soon names follow on a machine that has much else to do.
const FOLLOWS: Duration = Duration::from_secs(1);
/// How soon they usually do.
const FOLLOWS_USUALLY: Duration = Duration::from_millis(100);

#[tokio::test]
async fn names_on_all_nodes_follow_readiness_at_once_and_nothing_is_restarted() -> Result<()> {
    Lab::test(LabConfig::new("ready").hosts(2).images(&[Image::Hello]), async |lab| {
        for host in lab.hosts() {
            host.set_agent(&json!({ "dns": { "listen": [dns_of(host.address())] } }))?;
        }
        lab.start_fleet().await?;
        lab.apply(READY).await?.ok()?;
        let before = lab.wait_well("web", 2, LIMIT).await?;
        let busy = &before[0];
        let on = if busy.node == lab.host(1).name() { 1 } else { 2 };
        let other = Resolver::of(dns_of(lab.host(3 - on).address())).await?;
        other.until(2).await?;
        let mut all = Vec::new();
        for round in 0..10 {
            for (command, expected, word) in
                [("touch /busy", 1, "unhealthy"), ("rm /busy", 2, "healthy")]
            {
                let log = std::fs::metadata(lab.host(on).agent().log())?.len();
                let words = ["sh", "-c", command];
                let changing = lab.exec(&busy.name, &words);
                let (changed, seen) = tokio::join!(changing, other.until(expected));
                changed?.ok()?;
                let (seen, known) = (seen?, verdict(lab, on, log, word)?);
                let took = seen.checked_sub(known).context("it was seen before it was known")?;
                println!("round {round}: {word} was known to the other node's DNS after {took:?}");
                ensure!(took < FOLLOWS, "{word} after {took:?}");
                all.push(took);
                // Changes that follow each other at once go together.
                sleep(Duration::from_millis(300)).await;
            }
        }
        all.sort();
        println!("median {:?}, longest {:?}", all[all.len() / 2], all[all.len() - 1]);
        ensure!(all[all.len() / 2] < FOLLOWS_USUALLY, "{all:?}");
        let after = lab.wait_well("web", 2, LIMIT).await?;
        ensure!(after.iter().all(|row| row.restarts == 0), "{after:?}");
        let ids = |rows: &[dwell_tests::lab::InstanceRow]| -> Vec<String> {
            rows.iter().map(|row| row.container_id.clone()).collect()
        };
        ensure!(ids(&before) == ids(&after), "something was replaced: {after:?}");
        a_rollout_waits_for_readiness(lab).await.context("rollout")
    })
    .await
}

/// The first instance of a version that is never ready is put back, and the second keeps serving.
async fn a_rollout_waits_for_readiness(lab: &Lab) -> Result<()> {
    let bad = READY
        .replace("image: hello", "image: hello\n    command: [sh, -c, 'touch /busy; exec /start']")
        + "    update: {deadline: 8s}\n";
    lab.apply(&bad).await?.ok()?;
    wait_until("the version to be ruled out", LIMIT, async || {
        let history = lab.cli(&["history", "web"]).await?.ok()?;
        ensure!(history.contains("ruled-out"), "{history}");
        Ok(())
    })
    .await?;
    let rows = lab.wait_well("web", 2, LIMIT).await?;
    ensure!(rows.iter().all(|row| row.restarts == 0), "{rows:?}");
    let events = lab.cli(&["events"]).await?.ok()?;
    ensure!(events.contains("it was not ready within 8s"), "{events}");
    Ok(())
}

fn dns_of(address: std::net::Ipv4Addr) -> SocketAddr {
    (address, 5353).into()
}

/// When the agent of a host last said that a check has come to say `word`, since the epoch.
fn verdict(lab: &Lab, host: usize, after: u64, word: &str) -> Result<Duration> {
    const DAY: u64 = 24 * 3600;
    let log = std::fs::read(lab.host(host).agent().log())?;
    let log = String::from_utf8_lossy(log.get(after as usize..).unwrap_or_default());
    let health = format!("health={word}");
    let is_it =
        |line: &&str| line.contains("a check says something else") && line.contains(&health);
    let line = log.lines().rfind(is_it).with_context(|| format!("no {health} in:\n{log}"))?;
    // As in 2026-01-31T12:34:56.789012Z.
    let time = line.split(['T', 'Z']).nth(1).context("no time")?;
    let parts: Vec<f64> = time.split(':').map(str::parse).collect::<Result<_, _>>()?;
    let [hours, minutes, seconds] = parts[..] else { anyhow::bail!("{time} is no time") };
    let today = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / DAY * DAY;
    Ok(Duration::from_secs(today)
        + Duration::from_secs_f64(hours.mul_add(3600.0, minutes.mul_add(60.0, seconds))))
}

/// Asks one node for the addresses of `web`.
struct Resolver(UdpSocket);

impl Resolver {
    async fn of(server: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(server).await?;
        Ok(Self(socket))
    }

    /// Waits until there are so many; when that was, since the epoch.
    async fn until(&self, count: u16) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let found = self.ask().await.unwrap_or(0);
            if found == count {
                return Ok(SystemTime::now().duration_since(UNIX_EPOCH)?);
            }
            ensure!(begun.elapsed() < LIMIT, "web has {found} addresses, not {count}");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// How many there are.
    async fn ask(&self) -> Result<u16> {
        // One question, and recursion desired: for A of web.dwell in class IN.
        let mut question = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend_from_slice(b"\x03web\x05dwell\x00\x00\x01\x00\x01");
        self.0.send(&question).await?;
        let mut answer = [0; 512];
        let length = timeout(Duration::from_secs(1), self.0.recv(&mut answer)).await??;
        ensure!(length > 12, "a short answer");
        Ok(u16::from_be_bytes([answer[6], answer[7]]))
    }
}

/// Both hooks leave their marks in a volume, which outlives the container.
const HOOKS: &str = "
workloads:
  web:
    image: hello
    volumes: ['marks:/marks']
    environment: {VERSION: 'NUMBER'}
    stop_grace_period: 2s
    hooks:
      after_start: {exec: [sh, -c, 'test ! -e /marks/refuse && echo start NUMBER >> /marks/all || { echo no cache; exit 4; }'], timeout: 10s}
      before_stop: {exec: [sh, -c, 'echo stop NUMBER >> /marks/all; test ! -e /marks/hang || sleep 60'], timeout: 3s}
    update: {deadline: 20s}
";

#[tokio::test]
async fn hooks_are_called_after_every_start_and_before_every_ordered_stop() -> Result<()> {
    Lab::test(LabConfig::new("hooks").hosts(1).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(&hooks(1)).await?.ok()?;
        lab.wait_well("web", 1, LIMIT).await?;
        marks_are(lab, "start 1").await.context("first start")?;
        lab.cli(&["restart", "web-0", "--wait"]).await?.ok()?;
        marks_are(lab, "start 1, stop 1, start 1").await.context("restart")?;
        lab.apply(&hooks(2)).await?.ok()?;
        marks_are(lab, "start 1, stop 1, start 1, stop 1, start 2").await.context("update")?;
        // What ends while it is on trial is rolled back, whoever ended it.
        lab.cli(&["wait", "web"]).await?.ok()?;

        // What nobody asked dwell for has no hook before, and the same after.
        let docker = ["docker", "-H"].map(str::to_owned);
        let socket = format!("unix://{}", lab.host(1).docker_socket().display());
        let id = lab.ps().await?.of("web").swap_remove(0).container_id;
        let words: Vec<String> = docker
            .into_iter()
            .chain([socket, "restart".into(), "-t".into(), "1".into(), id])
            .collect();
        lab.host(1).exec(&words).await?.ok()?;
        marks_are(lab, "start 1, stop 1, start 1, stop 1, start 2, start 2")
            .await
            .context("by hand")?;

        a_version_whose_hook_fails_is_put_back(lab).await.context("failing start")?;
        a_hook_that_hangs_holds_up_no_stop(lab).await.context("hanging stop")
    })
    .await
}

async fn a_version_whose_hook_fails_is_put_back(lab: &Lab) -> Result<()> {
    lab.exec("web-0", &["sh", "-c", "touch /marks/refuse; > /marks/all"]).await?.ok()?;
    lab.apply(&hooks(3)).await?.ok()?;
    wait_until("the version to be ruled out", LIMIT, async || {
        let history = lab.cli(&["history", "web"]).await?.ok()?;
        ensure!(history.contains("ruled-out"), "{history}");
        let said = "its hook after_start failed: \"sh\" ended with 4: no cache";
        ensure!(history.contains(said), "{history}");
        Ok(())
    })
    .await?;
    // The old version cannot be started either meanwhile, and is tried on.
    wait_until("the reason to be told", LIMIT, async || {
        let events = lab.cli(&["events", "--about", "instance/web-0"]).await?.ok()?;
        ensure!(events.contains("instance-given-up"), "{events}");
        Ok(())
    })
    .await?;
    wait_until("the old version to serve", LIMIT, async || {
        lab.exec("web-0", &["rm", "-f", "/marks/refuse"]).await?.ok()?;
        let row = lab.ps().await?.of("web").swap_remove(0);
        ensure!(row.is_well(), "{row:?}");
        Ok(())
    })
    .await
}

async fn a_hook_that_hangs_holds_up_no_stop(lab: &Lab) -> Result<()> {
    lab.exec("web-0", &["sh", "-c", "touch /marks/hang; > /marks/all"]).await?.ok()?;
    let begun = Instant::now();
    lab.cli(&["stop", "web"]).await?.ok()?;
    wait_until("the stop to be done", LIMIT, async || {
        let row = lab.ps().await?.of("web").swap_remove(0);
        ensure!(row.phase == dwell_core::instance::Phase::Stopped, "{row:?}");
        Ok(())
    })
    .await?;
    let took = begun.elapsed();
    ensure!(took >= Duration::from_secs(3) && took < Duration::from_secs(20), "{took:?}");
    wait_until("the failure to be told", LIMIT, async || {
        let events = lab.cli(&["events", "--about", "instance/web-0"]).await?.ok()?;
        ensure!(events.contains("instance-hook-failed"), "{events}");
        ensure!(events.contains("before_stop failed: no answer within 3s"), "{events}");
        Ok(())
    })
    .await
}

fn hooks(number: u32) -> String {
    HOOKS.replace("NUMBER", &number.to_string())
}

async fn marks_are(lab: &Lab, expected: &str) -> Result<()> {
    wait_until(&format!("the marks {expected}"), LIMIT, async || {
        let said = lab.exec("web-0", &["cat", "/marks/all"]).await?.ok()?;
        let marks = said.lines().collect::<Vec<_>>().join(", ");
        ensure!(marks == expected, "{marks}");
        Ok(())
    })
    .await
}
