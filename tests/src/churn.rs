//! Births and deaths: instances come, change, move, crash and go in random order while everything that looks after them
//! is killed, frozen and cut off, and in the end there is exactly what was declared.
//!
//! A run is a sequence of rounds. In each, a few things are declared and one thing goes wrong; now and then everything
//! is mended, the fleet has to come to rest, and [`audit`] looks at every host from outside: engines, namespaces,
//! control groups, links, routes, files and volumes, with nothing of dwell's own code. `dwell audit`, which looks from
//! inside, has to find nothing either. One seed decides everything that
//! is decided here; what the machine makes of it is never twice the same.

mod audit;
mod declared;
mod fault;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::kill;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use self::declared::{Declared, Workload};
use self::fault::Fault;
use crate::lab::{Container, Image, Lab, LabConfig, Signal, wait_until};

/// How many rounds pass between two rests.
const ROUNDS_BETWEEN_RESTS: usize = 8;
/// How long a fleet may take to come to rest once nothing goes wrong any more.
const REST_LIMIT: Duration = Duration::from_secs(240);
/// How long layers may disagree after that: until a node has swept away what is left of instances.
const AUDIT_LIMIT: Duration = Duration::from_secs(20);
/// The most instances that are declared at a time; the machine is small.
const INSTANCES_MAX: usize = 18;
/// The most workloads that are declared at a time.
const WORKLOADS_MAX: usize = 6;

/// What a run is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Churn {
    /// How many containers are to be born, at least.
    pub births: usize,
    /// What decides everything.
    pub seed: u64,
    /// How many hosts.
    pub hosts: usize,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Containers that were asked for.
    pub births: usize,
    /// Things that went wrong.
    pub faults: usize,
    /// Times that everything was found as declared.
    pub audits: usize,
}

impl Churn {
    /// Brings up a lab, runs, and takes the lab down again.
    ///
    /// # Errors
    /// If the fleet does not come to rest as declared, or the audit finds more or less; the message has the seed.
    pub async fn run(self, say: fn(&str)) -> Result<Tally> {
        let config = LabConfig::new("churn")
            .hosts(self.hosts)
            .live_restore(true)
            .images(&[Image::Hello])
            .say(say);
        let mut tally = Tally::default();
        let told = &mut tally;
        Lab::test(config, async move |lab| self.churn(lab, told, say).await)
            .await
            .with_context(|| format!("repeat it with seed {}", self.seed))?;
        Ok(tally)
    }

    async fn churn(self, lab: &Lab, tally: &mut Tally, say: fn(&str)) -> Result<()> {
        lab.start_fleet().await?;
        let began = Instant::now();
        let mut run = Run {
            lab,
            random: StdRng::seed_from_u64(self.seed),
            declared: Declared::default(),
            faults: Vec::new(),
            tally,
            say,
        };
        let mut round = 0;
        while run.tally.births < self.births {
            round += 1;
            run.round().await?;
            if round % ROUNDS_BETWEEN_RESTS == 0 {
                run.rest().await?;
            }
        }
        run.rest().await?;
        run.remove_all().await?;
        let Tally { births, faults, audits } = *run.tally;
        say(&format!(
            "{births} births, {faults} faults and {audits} audits in {} s",
            began.elapsed().as_secs()
        ));
        Ok(())
    }
}

struct Run<'a> {
    lab: &'a Lab,
    random: StdRng,
    declared: Declared,
    /// What is wrong now.
    faults: Vec<Fault>,
    tally: &'a mut Tally,
    say: fn(&str),
}

impl Run<'_> {
    /// A few changes, and one thing that goes wrong amid them or is mended.
    async fn round(&mut self) -> Result<()> {
        let changes = self.random.random_range(1..=3);
        let at = self.random.random_range(0..changes);
        for change in 0..changes {
            self.change().await?;
            if change == at {
                self.upset().await?;
            }
        }
        Ok(())
    }

    async fn upset(&mut self) -> Result<()> {
        if !self.faults.is_empty() && self.random.random_bool(0.6) {
            return self.mend_all().await;
        }
        let fault = Fault::random(&mut self.random, self.lab.hosts().len());
        (self.say)(&format!("fault: {fault:?}"));
        fault.bring(self.lab).await.with_context(|| format!("{fault:?}"))?;
        self.tally.faults += 1;
        self.faults.push(fault);
        Ok(())
    }

    async fn mend_all(&mut self) -> Result<()> {
        for fault in std::mem::take(&mut self.faults) {
            fault.mend(self.lab).await.with_context(|| format!("mending {fault:?}"))?;
        }
        Ok(())
    }

    /// Declares something. It is asked for again until it is answered: what is wrong may be the controller.
    async fn change(&mut self) -> Result<()> {
        let full =
            self.declared.instances() >= INSTANCES_MAX || self.declared.len() >= WORKLOADS_MAX;
        let names: Vec<String> = self.declared.names().map(str::to_owned).collect();
        let Some(name) = names.choose(&mut self.random).cloned() else {
            return self.create().await;
        };
        match self.random.random_range(0..12) {
            0..=2 if !full => self.create().await,
            0..=3 => self.remove(&name).await,
            4..=5 => self.replace(&name, true).await,
            6 => self.replace(&name, false).await,
            7 => self.crash().await,
            8 => self.scale(&name).await,
            9 => self.resize(&name).await,
            10 => self.restart(&name).await,
            _ => self.drain().await,
        }
    }

    async fn create(&mut self) -> Result<()> {
        let name = self.declared.new_name();
        let workload = Workload::random(&mut self.random);
        (self.say)(&format!("create {name} x{}", workload.replicas));
        self.tally.births += workload.replicas;
        self.declared.put(name.clone(), workload);
        self.apply(&name).await
    }

    /// Another version: one that works, or one that ends at once, which has to be rolled back and is mended after that.
    async fn replace(&mut self, name: &str, good: bool) -> Result<()> {
        (self.say)(&format!("replace {name}, {}", if good { "good" } else { "bad" }));
        let Some(workload) = self.declared.get_mut(name) else { return Ok(()) };
        workload.version += 1;
        self.tally.births += workload.replicas;
        if !good {
            let bad = workload.manifest(name, true);
            self.ask(&["apply", "-f", "-"], &bad).await?;
            // What follows is a good one again: a roll-out that was paused goes on with it.
        }
        self.apply(name).await
    }

    async fn scale(&mut self, name: &str) -> Result<()> {
        let room = INSTANCES_MAX.saturating_sub(self.declared.instances());
        let Some(workload) = self.declared.get_mut(name) else { return Ok(()) };
        let replicas = self.random.random_range(0..=(workload.replicas + room).min(5));
        (self.say)(&format!("scale {name}={replicas}"));
        self.tally.births += replicas.saturating_sub(workload.replicas);
        workload.replicas = replicas;
        self.ask(&["scale", &format!("{name}={replicas}")], "").await
    }

    async fn resize(&mut self, name: &str) -> Result<()> {
        let Some(workload) = self.declared.get_mut(name) else { return Ok(()) };
        workload.memory_mib = self.random.random_range(32..=96);
        (self.say)(&format!("resize {name} to {} MiB", workload.memory_mib));
        self.apply(name).await
    }

    async fn restart(&mut self, name: &str) -> Result<()> {
        (self.say)(&format!("restart {name}"));
        self.ask(&["restart", name], "").await
    }

    async fn remove(&mut self, name: &str) -> Result<()> {
        (self.say)(&format!("remove {name}"));
        self.declared.remove(name);
        self.ask(&["rm", name], "").await
    }

    async fn remove_all(&mut self) -> Result<()> {
        let names: Vec<String> = self.declared.names().map(str::to_owned).collect();
        for name in names {
            self.remove(&name).await?;
        }
        self.rest().await
    }

    /// Kills the main process of any instance.
    async fn crash(&mut self) -> Result<()> {
        let mut running = Vec::new();
        for host in self.lab.hosts() {
            // An engine that is frozen or gone has no say here.
            let asked = tokio::time::timeout(Duration::from_secs(2), host.containers()).await;
            running.extend(asked.ok().and_then(Result::ok).into_iter().flatten());
        }
        running.retain(|container: &Container| container.pid.is_some());
        let Some(victim) = running.choose(&mut self.random) else { return Ok(()) };
        (self.say)(&format!("crash {}", victim.instance));
        self.tally.births += 1;
        // It may have ended meanwhile.
        kill(victim.main_process()?, Signal::SIGKILL).ok();
        Ok(())
    }

    /// Everything moves off a node that may be used again at once.
    async fn drain(&mut self) -> Result<()> {
        let host = self.random.random_range(1..=self.lab.hosts().len());
        let node = self.lab.host(host).name();
        (self.say)(&format!("drain {node}"));
        self.tally.births += self.declared.instances() / self.lab.hosts().len();
        self.ask(&["node", "drain", &node], "").await?;
        self.ask(&["node", "uncordon", &node], "").await
    }

    async fn apply(&mut self, name: &str) -> Result<()> {
        let Some(workload) = self.declared.get_mut(name) else { return Ok(()) };
        let manifest = workload.manifest(name, false);
        self.ask(&["apply", "-f", "-"], &manifest).await
    }

    /// Asks the controller for something, mends what is wrong if it does not answer, and asks again.
    async fn ask(&mut self, words: &[&str], input: &str) -> Result<()> {
        let said = self.lab.cli_with(words, input, Duration::from_secs(10)).await;
        if said.is_ok_and(|said| said.status.success()) {
            return Ok(());
        }
        self.mend_all().await?;
        wait_until(&format!("`dwell {}` to be answered", words.join(" ")), REST_LIMIT, async || {
            let said = self.lab.cli_with(words, input, Duration::from_secs(30)).await?;
            // It may have been done at the first try, without an answer.
            let is_done = words.first() == Some(&"rm") && said.stderr.contains("no workload");
            ensure!(said.status.success() || is_done, "{said:?}");
            Ok(())
        })
        .await
    }

    /// Nothing is wrong any more: what is declared has to be there, all of it, once, and nothing else.
    async fn rest(&mut self) -> Result<()> {
        self.mend_all().await?;
        self.lab.start_fleet().await?;
        let (lab, declared) = (self.lab, &self.declared);
        wait_until("the fleet to come to rest", REST_LIMIT, async || {
            go_on(lab, declared).await?;
            for (name, workload) in declared.iter() {
                lab.look_exactly(name, workload.replicas).await?;
            }
            let said = lab.ps().await?;
            ensure!(said.instances.len() == declared.instances(), "the controller has {said:#?}");
            audit::audit(lab, declared, &said).await
        })
        .await?;
        // Nothing may be on its way any more that layers could disagree about, once what was left is swept away.
        wait_until("dwell to agree with itself", AUDIT_LIMIT, async || {
            let found = lab.audit(false).await?;
            ensure!(found.is_empty(), "dwell finds itself in disagreement: {found:#?}");
            Ok(())
        })
        .await?;
        self.tally.audits += 1;
        (self.say)(&format!("at rest: {} instances, as declared", declared.instances()));
        let names: Vec<String> = declared.names().map(str::to_owned).collect();
        for name in names {
            audit::mark_volumes(lab, &mut self.declared, &name).await?;
        }
        Ok(())
    }
}

/// Declares again what was paused, as its operator would: a good version whose new container was killed while it had to
/// prove itself counts as one that did not hold.
async fn go_on(lab: &Lab, declared: &Declared) -> Result<()> {
    for row in lab.ps().await?.workloads {
        if let (true, Some(workload)) =
            (row.message.starts_with("rollout paused"), declared.get(&row.name))
        {
            lab.apply(&workload.manifest(&row.name, false)).await?.ok()?;
        }
    }
    Ok(())
}
