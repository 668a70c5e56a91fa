//! Replacement by a container that is started beside the one that serves: no client is ever refused.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{Host, Image, Lab, LabConfig, Output, Signal, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);

/// One instance. Its server may finish what it has begun before it is stopped.
fn web(version: &str, more: &str) -> String {
    format!(
        "workloads:\n  web:\n    image: hello\n    environment: {{VERSION: '{version}'}}\n    \
         healthcheck: {{http: ':8080/', interval: 500ms}}\n    \
         hooks: {{before_stop: {{exec: [sleep, '1']}}}}\n    \
         update: {{order: start-first, deadline: 10s, monitor: 1s}}\n{more}"
    )
}

#[tokio::test]
async fn start_first() -> Result<()> {
    Lab::test(LabConfig::new("first").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(&web("1", "")).await?.ok()?;
        let at = lab.wait_well("web", 1, LIMIT).await?.swap_remove(0).at(8080)?;
        let clients = Clients::start(lab, at);
        what_holds_takes_over(lab, at).await.context("takes over")?;
        what_does_not_hold_never_serves(lab).await.context("does not hold")?;
        an_agent_that_dies_in_the_middle_goes_on(lab).await.context("agent killed")?;
        clients.stop().await.context("requests")?;
        what_would_be_written_twice_is_refused(lab).await.context("volumes")?;
        one_that_has_no_room_waits_and_says_so(lab).await.context("no room")
    })
    .await
}

/// Somebody on each host, and on the machine of the instance itself, who asks again and again.
struct Clients {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Clients {
    fn start(lab: &Lab, at: SocketAddr) -> Self {
        let (stop, made, failed) = (Arc::default(), Arc::default(), Arc::default());
        let clients = Self { stop, made, failed, tasks: Vec::new() };
        let ask = |host: &Host| {
            let (host, stop) = (host.clone(), Arc::clone(&clients.stop));
            let (made, failed) = (Arc::clone(&clients.made), Arc::clone(&clients.failed));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let asked = host.get(at).await;
                    made.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = asked {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.push(format!("from {}: {error:#}", host.name()));
                    }
                }
            })
        };
        let tasks = lab.hosts().iter().map(ask).collect();
        Self { tasks, ..clients }
    }

    /// All of them were answered, and there were many.
    async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.context("a client panicked")?;
        }
        let made = self.made.load(Ordering::Relaxed);
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(made > 20 && failed.is_empty(), "{} of {made} failed: {failed:?}", failed.len());
        Ok(())
    }
}

/// Applies a file, and waits for what comes of it.
async fn apply(lab: &Lab, file: &str) -> Result<Output> {
    lab.cli_with(&["apply", "-f", "-", "--wait"], file, LIMIT).await
}

async fn version(lab: &Lab) -> Result<String> {
    let version = lab.exec("web-0", &["sh", "-c", "echo $VERSION"]).await?.ok()?;
    Ok(version.trim().to_owned())
}

async fn containers(lab: &Lab) -> Result<BTreeSet<String>> {
    Ok(lab.containers().await?.into_iter().map(|container| container.id).collect())
}

async fn what_holds_takes_over(lab: &Lab, at: SocketAddr) -> Result<()> {
    let before = containers(lab).await?;
    // Somebody who has connected before and says nothing for a while.
    let mut idle = lab.host(2).connect(at).await?;
    let applied = async { apply(lab, &web("2", "")).await?.ok() };
    let both = wait_until("both containers to run", SOON, async || {
        let running = lab.containers().await?;
        let running = running.iter().filter(|one| one.pid.is_some()).count();
        ensure!(running == 2, "{running} run");
        Ok(())
    });
    let (applied, both) = tokio::join!(applied, both);
    applied.and(both)?;
    wait_until("the new one to be alone", SOON, async || {
        let now = lab.containers().await?;
        ensure!(now.len() == 1 && !before.contains(&now[0].id), "{now:?}");
        Ok(())
    })
    .await?;
    ensure!(version(lab).await? == "2", "it is the old version");
    // The old one has ended by now, with what it had begun.
    let _ended = idle.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
    let mut answer = String::new();
    let _ended = tokio::time::timeout(SOON, idle.read_to_string(&mut answer)).await?;
    ensure!(answer.is_empty(), "somebody else has answered: {answer}");
    Ok(())
}

async fn what_does_not_hold_never_serves(lab: &Lab) -> Result<()> {
    let before = containers(lab).await?;
    let bad = web("3", "    command: [sleep, '1000']\n");
    let applied = apply(lab, &bad).await?;
    ensure!(applied.code() != 0, "{applied:?}");
    wait_until("the new one to be gone", SOON, async || {
        let now = containers(lab).await?;
        ensure!(now == before, "{now:?}");
        Ok(())
    })
    .await?;
    ensure!(version(lab).await? == "2", "it is another version");
    Ok(())
}

async fn an_agent_that_dies_in_the_middle_goes_on(lab: &Lab) -> Result<()> {
    let node = lab.ps().await?.of("web").swap_remove(0).node;
    let host = lab.hosts().iter().find(|host| host.name() == node).context("no such host")?;
    for turn in 0..3_u64 {
        let file = web(&format!("{}", turn + 4), "");
        let kill = async {
            tokio::time::sleep(Duration::from_millis(150 + 450 * turn)).await;
            host.stop_agent(Signal::SIGKILL).await?;
            host.start_agent().await
        };
        let (applied, killed) = tokio::join!(apply(lab, &file), kill);
        killed?;
        applied?.ok()?;
        ensure!(version(lab).await? == format!("{}", turn + 4), "turn {turn}");
    }
    wait_until("one container to be left", SOON, async || {
        let now = containers(lab).await?;
        ensure!(now.len() == 1, "{now:?}");
        Ok(())
    })
    .await
}

async fn what_would_be_written_twice_is_refused(lab: &Lab) -> Result<()> {
    let refused = apply(lab, &web("9", "    volumes: ['data:/data']\n")).await?;
    ensure!(refused.code() != 0, "{refused:?}");
    ensure!(
        refused.stderr.contains("update.order") && refused.stderr.contains("/data"),
        "{refused:?}"
    );
    Ok(())
}

async fn one_that_has_no_room_waits_and_says_so(lab: &Lab) -> Result<()> {
    let node = lab.ps().await?.of("web").swap_remove(0).node;
    let shown = lab.cli(&["node", "inspect", &node, "-o", "json"]).await?.ok()?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let cpu = shown["capacity"]["cpu_millicores"].as_u64().with_context(|| format!("{shown}"))?;
    let big = format!("    resources: {{cpu: {}m}}\n", cpu * 6 / 10);
    apply(lab, &web("10", &big)).await?.ok()?;
    let plan = lab.cli_with(&["plan", "-f", "-"], &web("11", &big), LIMIT).await?;
    ensure!(plan.stdout.contains("lacks cpu"), "{plan:?}");
    lab.apply(&web("11", &big)).await?.ok()?;
    let status = lab.cli(&["status"]).await?;
    ensure!(status.stdout.contains("second share"), "{status:?}");
    let stop_first = web("11", &big).replace("start-first", "stop-first");
    apply(lab, &stop_first).await?.ok()?;
    ensure!(version(lab).await? == "11", "it is the old version");
    Ok(())
}
