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
    swarm::Swarm,
    tap,
};
use crate::lab::{Image, Lab, LabConfig, Signal, wait_until};

/// How many instances are "fifty".
const FIFTY: usize = 50;

/// Runs those that are wanted.
pub(super) async fn run(
    wanted: &dyn Fn(&str) -> bool,
    done: &dyn Fn(&[Report]) -> Result<()>,
) -> Result<()> {
    let done = |report: &Report| done(std::slice::from_ref(report));
    let config = LabConfig::new("bench").hosts(2).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        let tap = tap::Tap::before(lab.host(1))?;
        lab.start_nodes(&lab.hosts()[..1]).await?;
        let bench =
            Bench { dwell: Dwell::new(lab)?, plain: Plain::new(lab.host(2)).await?, lab, tap };
        if wanted("start-one") {
            done(&bench.start_one().await?)?;
        }
        if wanted("apply-latency") {
            done(&bench.apply_latency().await?)?;
        }
        if wanted("start-fifty") {
            done(&bench.start_fifty().await?)?;
        }
        for report in bench.with_fifty(wanted).await? {
            done(&report)?;
        }
        if ["deploy-one-vs-swarm", "self-heal", "start-fifty-vs-swarm"].into_iter().any(wanted) {
            let swarm = Swarm::init(lab.host(2)).await?;
            for report in bench.against_swarm(&swarm, wanted).await? {
                done(&report)?;
            }
        }
        Ok(())
    })
    .await
}

struct Bench<'a> {
    lab: &'a Lab,
    dwell: Dwell<'a>,
    plain: Plain,
    tap: tap::Tap,
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

    /// From sending the change to the first call that the engine sees: an upper bound of what is asked
    /// for, since the change is accepted, durably, in between.
    async fn apply_latency(&self) -> Result<Report> {
        let mut taken = Vec::new();
        for turn in 0..=MANY {
            let name = format!("latency-{turn}");
            self.tap.arm();
            let sent = Instant::now();
            self.dwell.apply_directly(&name).await?;
            taken.push(self.tap.first_call(Duration::from_secs(10)).await? - sent);
            wait_until("the instance to run", Duration::from_secs(30), async || {
                self.dwell.all_running(&name, 1).await
            })
            .await?;
            self.dwell.remove(&name).await?;
        }
        taken.remove(0);
        let taken = taken.iter().map(|taken| taken.as_secs_f64() * 1e3).collect();
        Ok(report::alone("apply-latency", "ms", taken, 10.0))
    }

    /// What is measured while fifty instances run.
    async fn with_fifty(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        if !["agent-rss", "controller-rss", "restart-resync"].into_iter().any(wanted) {
            return Ok(reports);
        }
        self.dwell.deploy("fifty", FIFTY).await?;
        if wanted("restart-resync") {
            reports.push(self.restart_resync().await?);
        }
        // Idle: past the start, with heartbeats and nothing else.
        tokio::time::sleep(Duration::from_secs(20)).await;
        if wanted("agent-rss") {
            let rss = self.lab.host(1).agent().resident_mib()?;
            reports.push(report::alone("agent-rss", "MiB", vec![rss], 12.0));
        }
        if wanted("controller-rss") {
            let rss = self.lab.controller().resident_mib()?;
            reports.push(report::alone("controller-rss", "MiB", vec![rss], 25.0));
        }
        self.dwell.remove("fifty").await?;
        Ok(reports)
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

    async fn against_swarm(
        &self,
        swarm: &Swarm,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        if wanted("deploy-one-vs-swarm") {
            let outcome = self.deploy_against(swarm, 1, MANY).await?;
            reports.push(outcome.report("deploy-one-vs-swarm", 0.4));
        }
        if wanted("self-heal") {
            reports.push(self.self_heal(swarm).await?);
        }
        if wanted("start-fifty-vs-swarm") {
            let outcome = self.deploy_against(swarm, FIFTY, FEW).await?;
            reports.push(outcome.report("start-fifty-vs-swarm", 0.6));
        }
        Ok(reports)
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
