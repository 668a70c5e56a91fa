//! A node against plain Docker and against a Swarm of one: starting, healing, and what it takes to rest.
//!
//! Host 1 is a node of a fleet; host 2 has nothing but a Docker engine, which is the alternative:
//! plain, through its API on its default bridge, or as a Swarm of one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    FEW, MANY,
    dwell::{self, Dwell},
    heal,
    plain::Plain,
    report::{self, Report, Samples},
    runner::Runner,
    swarm::Swarm,
    tap,
};
use crate::lab::{Image, Lab, LabConfig, Signal, wait_until};

/// How many instances are "fifty".
/// How long daemons rest before their memory is measured, every second for as long again: more than one round of giving back.
const REST: Duration = Duration::from_secs(70);
const FIFTY: usize = 50;

const NAMES: [&str; 8] = [
    "start-one",
    "start-fifty",
    "restart-resync",
    "agent-rss",
    "controller-rss",
    "deploy-one-vs-swarm",
    "self-heal",
    "start-fifty-vs-swarm",
];

/// Runs those that are wanted.
pub(super) async fn run(runner: &Runner<'_>) {
    if runner.wants_any(&NAMES) {
        let config = LabConfig::new("bench").hosts(2).images(&[Image::Hello]);
        let ran = Lab::test(config, async |lab| against_engines(lab, runner).await);
        runner.note(&NAMES, ran.await);
    }
    if runner.wants("apply-latency") {
        // The agent's first call is seen by a tap, which would be in the way of everything else.
        let config = LabConfig::new("benchtap").hosts(1).images(&[Image::Hello]);
        let ran = Lab::test(config, async |lab| {
            let tap = tap::Tap::before(lab.host(1))?;
            lab.start_fleet().await?;
            let dwell = Dwell::new(lab)?;
            runner.take("apply-latency", async { Ok([apply_latency(&dwell, &tap).await?]) }).await;
            Ok(())
        });
        runner.note(&["apply-latency"], ran.await);
    }
}

async fn against_engines(lab: &Lab, runner: &Runner<'_>) -> Result<()> {
    lab.start_nodes(&lab.hosts()[..1]).await?;
    let bench = Bench { dwell: Dwell::new(lab)?, plain: Plain::new(lab.host(2)).await?, lab };
    runner.take("start-one", async { Ok([bench.start_one().await?]) }).await;
    runner.take("start-fifty", async { Ok([bench.start_fifty().await?]) }).await;
    if runner.wants_any(&NAMES[2..5]) {
        bench.dwell.deploy("fifty", FIFTY).await?;
        runner.take("restart-resync", async { Ok([bench.restart_resync().await?]) }).await;
        let [mut agent, mut controller] = [Vec::new(), Vec::new()];
        if runner.wants_any(&["agent-rss", "controller-rss"]) {
            // Idle: past the start, with heartbeats and nothing else.
            tokio::time::sleep(REST).await;
            for _ in 0..REST.as_secs() {
                agent.push(lab.host(1).agent().resident_mib()?);
                controller.push(lab.controller().resident_mib()?);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        let agent = async { Ok([report::alone("agent-rss", "MiB", agent, 12.0)]) };
        runner.take("agent-rss", agent).await;
        let controller = async { Ok([report::alone("controller-rss", "MiB", controller, 25.0)]) };
        runner.take("controller-rss", controller).await;
        bench.dwell.remove("fifty").await?;
    }
    if runner.wants_any(&NAMES[5..]) {
        let swarm = Swarm::init(lab.host(2)).await?;
        let deploy_one = async {
            let outcome = bench.deploy_against(&swarm, 1, MANY).await?;
            Ok([outcome.report("deploy-one-vs-swarm", 0.4)])
        };
        runner.take("deploy-one-vs-swarm", deploy_one).await;
        runner.take("self-heal", async { Ok([bench.self_heal(&swarm).await?]) }).await;
        let deploy_fifty = async {
            let outcome = bench.deploy_against(&swarm, FIFTY, FEW).await?;
            Ok([outcome.report("start-fifty-vs-swarm", 0.6)])
        };
        runner.take("start-fifty-vs-swarm", deploy_fifty).await;
    }
    Ok(())
}

/// From sending the change to the first call that the engine sees: an upper bound of what is asked
/// for, since the change is accepted, durably, in between.
async fn apply_latency(dwell: &Dwell<'_>, tap: &tap::Tap) -> Result<Report> {
    let mut taken = Vec::new();
    for turn in 0..=MANY {
        let name = format!("latency-{turn}");
        tap.arm();
        let sent = Instant::now();
        dwell.apply_directly(&name).await?;
        taken.push(tap.first_call(Duration::from_secs(10)).await? - sent);
        wait_until("the instance to run", Duration::from_secs(30), async || {
            dwell.all_running(&name, 1).await
        })
        .await?;
        dwell.remove(&name).await?;
    }
    taken.remove(0);
    let taken = taken.iter().map(|taken| taken.as_secs_f64() * 1e3).collect();
    Ok(report::alone("apply-latency", "ms", taken, 10.0))
}

struct Bench<'a> {
    lab: &'a Lab,
    dwell: Dwell<'a>,
    plain: Plain,
}

impl Bench<'_> {
    async fn start_one(&self) -> Result<Report> {
        let mut samples = Samples::default();
        for turn in 0..=MANY {
            let ours = self.dwell.deploy("one", 1).await?;
            self.dwell.remove("one").await?;
            let other = self.plain.start(1, 1).await?;
            self.plain.remove().await?;
            samples.add(turn, ours, other);
        }
        Ok(samples.report("start-one", 0.6))
    }

    async fn start_fifty(&self) -> Result<Report> {
        let concurrency = self.plain.best_concurrency().await?;
        let mut samples = Samples::default();
        for turn in 0..=FEW {
            let ours = self.dwell.deploy("fifty", FIFTY).await?;
            self.dwell.remove("fifty").await?;
            let other = self.plain.start(FIFTY, concurrency).await?;
            self.plain.remove().await?;
            samples.add(turn, ours, other);
        }
        Ok(samples.report("start-fifty", 0.6))
    }

    async fn restart_resync(&self) -> Result<Report> {
        let mut taken = Vec::new();
        for _ in 0..=FEW {
            let before = self.dwell.containers("fifty").await?;
            self.lab.host(1).stop_agent(Signal::SIGKILL).await?;
            let (started, at) = (Instant::now(), dwell::now_ms());
            self.lab.host(1).start_agent().await?;
            self.dwell.seen_since("fifty", FIFTY, at).await?;
            taken.push(started.elapsed().as_secs_f64());
            ensure!(before == self.dwell.containers("fifty").await?, "instances were touched");
        }
        taken.remove(0);
        Ok(report::alone("restart-resync", "s", taken, 0.5))
    }

    async fn deploy_against(&self, swarm: &Swarm, count: usize, runs: usize) -> Result<Samples> {
        let mut samples = Samples::default();
        for turn in 0..=runs {
            let ours = self.dwell.deploy("deploy", count).await?;
            self.dwell.remove("deploy").await?;
            let other = swarm.deploy("deploy", count).await?;
            swarm.remove("deploy").await?;
            samples.add(turn, ours, other);
        }
        Ok(samples)
    }

    /// Every turn kills an instance of its own: one that keeps dying soon is started again after
    /// growing pauses, and what is measured is a first death.
    async fn self_heal(&self, swarm: &Swarm) -> Result<Report> {
        swarm.deploy("heal", 1).await?;
        let mut samples = Samples::default();
        for turn in 0..=MANY {
            self.dwell.deploy("heal", 1).await?;
            let ours = heal::time(self.lab.host(1), "dwell.instance=heal-0").await?;
            self.dwell.remove("heal").await?;
            let label = "com.docker.swarm.service.name=heal";
            let other = heal::time(self.lab.host(2), label).await?;
            samples.add(turn, ours, other);
        }
        swarm.remove("heal").await?;
        Ok(samples.report("self-heal", 0.35))
    }
}
