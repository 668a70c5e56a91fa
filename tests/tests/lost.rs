//! Instances that are replaced when their node is lost: they are reached nowhere for a moment, and never in two places.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use dwell_core::instance::Phase;
use dwell_tests::lab::{Container, Cut, Image, InstanceRow, Lab, LabConfig, Signal, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// What is to be replaced after 15 s is not before: its node was heard of a heartbeat ago at most.
const SOONEST: Duration = Duration::from_secs(13);
const PORT: u16 = 8080;

const WEB: &str = "workloads: {web: {image: hello, replicas: 2, constraints: [\"node.name!=h1\"], \
                   on_lost: replace after 15s}}";

#[tokio::test]
async fn what_is_lent_to_a_lost_node_is_placed_elsewhere() -> Result<()> {
    let config = LabConfig::new("lost").hosts(3).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        lab.apply(WEB).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        behind_a_cut_link(lab).await.context("behind a cut link")?;
        beside_a_dead_agent(lab).await.context("beside a dead agent")?;
        without_a_controller(lab).await.context("without a controller")
    })
    .await
}

/// The instance on the second host, once the node has acknowledged that it may be replaced.
async fn victim(lab: &Lab) -> Result<(InstanceRow, SocketAddr)> {
    wait_until("an instance on h2 that may be replaced", LIMIT, async || {
        let all = lab.ps().await?.of("web");
        let one = all.into_iter().find(|one| one.node == "h2").context("nothing is there")?;
        let why = lab.cli(&["explain", &one.name]).await?.ok()?;
        ensure!(why.contains("is placed elsewhere once h2 has not been heard of"), "{why}");
        let at = one.at(PORT)?;
        Ok((one, at))
    })
    .await
}

/// Waits until an instance is well on another node than the second one, and returns how long that took.
async fn replaced(lab: &Lab, name: &str, since: Instant) -> Result<Duration> {
    wait_until("it to be well elsewhere", LIMIT, async || {
        let all = lab.ps().await?.of("web");
        let one = all.iter().find(|one| one.name == name).context("it is gone")?;
        ensure!(one.node != "h2" && one.is_well(), "{one:?}");
        Ok(since.elapsed())
    })
    .await
}

/// Waits until an instance of the second host is well elsewhere, and returns how long that took. By then nobody on that host may
/// have reached it for as long as it has run in its new place.
async fn replaced_and_shut(lab: &Lab, name: &str, at: SocketAddr) -> Result<Duration> {
    let (host, since) = (lab.host(2), Instant::now());
    let last = Cell::new(None);
    let reach = async {
        loop {
            if host.get(at).await.is_ok() {
                last.set(Some(SystemTime::now()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let taken = tokio::select! {
        taken = replaced(lab, name, since) => taken?,
        () = reach => unreachable!("it goes on for ever"),
    };
    let last = last.get().context("it was never reached on its host")?;
    let new = on(lab, "h3", name).await?.context("its new container is gone")?;
    let started: jiff::Timestamp = new.started_at.parse()?;
    let last = jiff::Timestamp::try_from(last)?;
    ensure!(
        last < started,
        "it was reached on its host at {last}, and runs elsewhere since {started}"
    );
    ensure!(host.get(at).await.is_err(), "it is reached on its host again");
    Ok(taken)
}

async fn on(lab: &Lab, host: &str, name: &str) -> Result<Option<Container>> {
    let all = lab.containers().await?;
    Ok(all.into_iter().find(|one| one.host == host && one.instance == name))
}

async fn behind_a_cut_link(lab: &Lab) -> Result<()> {
    let (one, at) = victim(lab).await?;
    let host = lab.host(2);
    ensure!(host.get(at).await.is_ok(), "it is not reached on its host");
    host.cut_link(Cut::BlackHole).await?;
    let taken = replaced_and_shut(lab, &one.name, at).await?;
    ensure!(taken > SOONEST, "it was replaced after {taken:?} already");
    let now = lab.ps().await?.of("web");
    let now = now.iter().find(|row| row.name == one.name).context("it is gone")?;
    ensure!(now.address == one.address, "it has another address, {}", now.address);
    lab.host(1).get(at).await.context("its new place does not answer")?;
    wait_until("the lost one to be stopped by its agent", LIMIT, async || {
        let left = on(lab, "h2", &one.name).await?;
        ensure!(left.as_ref().is_none_or(|left| left.pid.is_none()), "{left:?}");
        Ok(())
    })
    .await?;
    host.restore_link().await?;
    lab.wait_exactly("web", 2, LIMIT).await?;
    host.get(at).await.context("the host does not reach the new place")?;
    home(lab).await
}

async fn beside_a_dead_agent(lab: &Lab) -> Result<()> {
    let (one, at) = victim(lab).await?;
    let host = lab.host(2);
    host.stop_agent(Signal::SIGKILL).await?;
    replaced_and_shut(lab, &one.name, at).await?;
    let left = on(lab, "h2", &one.name).await?.context("its container is gone")?;
    ensure!(left.pid.is_some(), "who has stopped it?");
    lab.host(1).get(at).await.context("its new place does not answer")?;
    host.start_agent().await?;
    lab.wait_exactly("web", 2, LIMIT).await?;
    host.get(at).await.context("the host does not reach the new place")?;
    home(lab).await
}

/// Nobody is replaced, since nobody is there to do it; what was stopped for its lease starts again where it is.
async fn without_a_controller(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 2, LIMIT).await?;
    let (one, _) = victim(lab).await?;
    lab.stop_controller(Signal::SIGKILL).await?;
    wait_until("its lease to be over", LIMIT, async || {
        let left = on(lab, "h2", &one.name).await?.context("its container is gone")?;
        ensure!(left.pid.is_none(), "it runs");
        Ok(())
    })
    .await?;
    lab.start_controller().await?;
    let after = lab.wait_exactly("web", 2, LIMIT).await?;
    let ids = |all: &[Container]| all.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
    ensure!(ids(&before) == ids(&after), "{before:#?} became {after:#?}");
    let rows = lab.ps().await?.of("web");
    ensure!(rows.iter().all(|row| row.phase == Phase::Running), "{rows:#?}");
    Ok(())
}

/// The instances are spread again.
async fn home(lab: &Lab) -> Result<()> {
    let rows = lab.ps().await?.of("web");
    let there = rows.iter().filter(|row| row.node == "h3").map(|row| row.name.clone());
    let there: Vec<String> = there.collect();
    if let [_, second] = &there[..] {
        lab.cli(&["move", second, "--to", "h2", "--wait"]).await?.ok()?;
    }
    lab.wait_exactly("web", 2, LIMIT).await?;
    Ok(())
}
