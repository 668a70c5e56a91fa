//! How long an instance is missed whose host is gone, beside a task of a Swarm: from the moment at which nothing reaches the
//! host any more until it runs elsewhere.
//!
//! dwell waits as long as it was told to, since that is when the lost one is certain to be reached no more; what counts is what it
//! takes beyond that. A Swarm waits for its own time, and makes sure of nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{
    FEW,
    report::{Report, Samples, against, alone},
    runner::Runner,
    swarm::Swarm,
};
use crate::lab::{Cut, Host, Image, Lab, LabConfig, wait_until};

const NAME: &str = "failover-lost-node";
const LIMIT: Duration = Duration::from_secs(120);
/// The shortest time that dwell can be told.
const AFTER: Duration = Duration::from_secs(15);
const WEB: &str = "workloads: {web: {image: hello, on_lost: replace after 15s, \
                   constraints: [\"node.name!=h1\"], update: {monitor: 1ms}}}";

/// Runs it, if it is wanted.
pub(super) async fn run(runner: &Runner<'_>) {
    if !runner.wants(NAME) {
        return;
    }
    // Three nodes, and three hosts of a Swarm.
    let config = LabConfig::new("benchlost").hosts(6).images(&[Image::Hello]);
    let ran = Lab::test(config, async |lab| {
        lab.start_nodes(&lab.hosts()[..3]).await?;
        lab.apply(WEB).await?.ok()?;
        let swarm = Swarm::of(&lab.hosts()[3..]).await?;
        swarm.deploy("web", 1).await?;
        runner.take(NAME, compare(lab, &swarm)).await;
        Ok(())
    });
    runner.note(&[NAME], ran.await);
}

async fn compare(lab: &Lab, swarm: &Swarm) -> Result<[Report; 2]> {
    let (mut samples, mut beyond) = (Samples::default(), Vec::new());
    for turn in 0..=FEW {
        let ours = dwell(lab).await.context("dwell")?;
        let other = in_swarm(lab, swarm).await.context("Swarm")?;
        samples.add(turn, ours, other);
        if turn > 0 {
            // A node that was heard of a while ago is given up so much earlier.
            beyond.push(ours.saturating_sub(AFTER).as_secs_f64());
        }
    }
    let beyond = Report { against: Some("beyond the 15 s"), ..alone(NAME, "s", beyond, 1.0) };
    Ok([beyond, against(samples.report(NAME, 1.2), "Swarm")])
}

async fn dwell(lab: &Lab) -> Result<Duration> {
    let home = wait_until("an instance that may be replaced", LIMIT, async || {
        let rows = lab.ps().await?.of("web");
        let row = rows.first().filter(|row| row.is_well()).context("it does not run")?.clone();
        let why = lab.cli(&["explain", &row.name]).await?.ok()?;
        ensure!(why.contains("is placed elsewhere once"), "{why}");
        Ok(row.node)
    })
    .await?;
    let host = host(lab, &home)?;
    host.cut_link(Cut::BlackHole).await?;
    let since = Instant::now();
    let taken = wait_until("it to run elsewhere", LIMIT, async || {
        let rows = lab.ps().await?.of("web");
        let row = rows.first().context("it is gone")?;
        ensure!(row.node != home && row.is_well(), "{row:?}");
        Ok(since.elapsed())
    })
    .await?;
    host.restore_link().await?;
    lab.wait_exactly("web", 1, LIMIT).await?;
    Ok(taken)
}

async fn in_swarm(lab: &Lab, swarm: &Swarm) -> Result<Duration> {
    let home = wait_until("its task", LIMIT, async || swarm.home("web").await).await?;
    let host = host(lab, &home)?;
    host.cut_link(Cut::BlackHole).await?;
    let since = Instant::now();
    let taken = wait_until("its task to run elsewhere", LIMIT, async || {
        ensure!(swarm.home("web").await? != home, "it is on {home}");
        Ok(since.elapsed())
    })
    .await?;
    host.restore_link().await?;
    // It counts on both until the lost one is heard of.
    tokio::time::sleep(Duration::from_secs(10)).await;
    Ok(taken)
}

/// The host of this name, or of this address.
fn host<'a>(lab: &'a Lab, name: &str) -> Result<&'a Host> {
    let is_it = |host: &&Host| host.name() == name || host.address().to_string() == name;
    let found = lab.hosts().iter().find(is_it);
    found.with_context(|| format!("{name} is no host of the lab"))
}
