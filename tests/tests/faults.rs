//! What dwell survives: in the end exactly the declared instances run, none twice, none lost, and
//! those that were well before the fault are the same containers, never restarted.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dwell_core::{instance::Phase, node::NodeState};
use dwell_tests::lab::{
    Container, Cut, Image, Lab, LabConfig, Signal, ensure_untouched, hold_for, wait_until,
};
use nix::sys::signal::kill;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

const SOON: Duration = Duration::from_secs(30);
/// How long thirty instances may take on a small machine with three engines.
const LIMIT: Duration = Duration::from_secs(120);

fn crowd(name: &str, replicas: usize) -> String {
    format!(
        "workloads: {{{name}: {{image: hello, replicas: {replicas}, \
         healthcheck: {{tcp: 8080, interval: 1s}}}}}}"
    )
}

#[tokio::test]
async fn processes_killed_while_thirty_instances_are_applied() -> Result<()> {
    let config = LabConfig::new("killed").hosts(3).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        while_thirty_are_applied(lab, "agent", async |_| {
            lab.host(2).stop_agent(Signal::SIGKILL).await?;
            lab.host(2).start_agent().await?;
            Ok(BTreeSet::new())
        })
        .await?;
        while_thirty_are_applied(lab, "controller", async |_| {
            lab.stop_controller(Signal::SIGKILL).await?;
            lab.start_controller().await?;
            Ok(BTreeSet::new())
        })
        .await?;
        while_thirty_are_applied(lab, "container", async |well| {
            let victim = &well[well.len() / 2];
            kill(victim.main_process()?, Signal::SIGKILL)?;
            Ok(BTreeSet::from([victim.id.clone()]))
        })
        .await?;
        while_thirty_are_applied(lab, "dockerd", async |well| {
            lab.host(2).stop_docker(Signal::SIGKILL).await?;
            lab.host(2).start_docker().await?;
            // Without live-restore its containers die with it, or when it comes back.
            let died = well.iter().filter(|container| container.host == "h2");
            Ok(died.map(|container| container.id.clone()).collect())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn an_engine_with_live_restore_killed_while_thirty_instances_are_applied() -> Result<()> {
    let config = LabConfig::new("restore").hosts(3).live_restore(true).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        while_thirty_are_applied(lab, "killed", async |_| {
            lab.host(2).stop_docker(Signal::SIGKILL).await?;
            lab.host(2).start_docker().await?;
            Ok(BTreeSet::new())
        })
        .await?;
        while_thirty_are_applied(lab, "stopped", async |_| {
            lab.host(3).stop_docker(Signal::SIGTERM).await?;
            lab.host(3).start_docker().await?;
            Ok(BTreeSet::new())
        })
        .await
    })
    .await
}

/// As after a change of its data root, or of its image store: what runs runs on, and nobody but the kernel knows.
#[tokio::test]
async fn an_engine_with_live_restore_that_has_forgotten_what_it_runs() -> Result<()> {
    let config = LabConfig::new("forgets").live_restore(true).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        lab.apply(&crowd("web", 3)).await?.ok()?;
        let host = lab.host(1);
        for agent_sees_it in [true, false] {
            let before = lab.wait_exactly("web", 3, LIMIT).await?;
            host.stop_docker(Signal::SIGKILL).await?;
            if !agent_sees_it {
                host.stop_agent(Signal::SIGKILL).await?;
            }
            fs::remove_dir_all(host.dir().join("data/containers"))?;
            ensure!(before.iter().all(runs), "not all of {before:#?} outlive their engine");
            host.start_docker().await?;
            if !agent_sees_it {
                host.start_agent().await?;
            }
            wait_until("what was forgotten to end", LIMIT, async || {
                ensure!(!before.iter().any(runs), "some of {before:#?} run");
                Ok(())
            })
            .await?;
            let after = lab.wait_exactly("web", 3, LIMIT).await?;
            ensure!(after.iter().all(|one| before.iter().all(|old| old.id != one.id)));
        }
        Ok(())
    })
    .await
}

/// Whether the main process of a container, as it was seen, runs.
fn runs(container: &Container) -> bool {
    let group =
        container.pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).ok());
    group.is_some_and(|group| group.contains(&container.id))
}

/// Applies thirty instances, lets `fault` happen to the fleet when some of them are well, and expects
/// exactly thirty in the end. `fault` is given those that are well and answers with the ids of those
/// it cannot spare; all others have to be untouched.
async fn while_thirty_are_applied(
    lab: &Lab,
    fault_of: &str,
    fault: impl AsyncFnOnce(&[Container]) -> Result<BTreeSet<String>>,
) -> Result<()> {
    let story = async {
        let name = &format!("with-{fault_of}");
        lab.apply(&crowd(name, 30)).await?.ok()?;
        let well = wait_until("some of thirty to be well", LIMIT, async || {
            let said = lab.ps().await?.of(name);
            let well = said.iter().filter(|instance| instance.is_well());
            let well: BTreeSet<String> = well.map(|row| row.container_id.clone()).collect();
            ensure!(well.len() >= 8, "{} are", well.len());
            Ok(well)
        })
        .await?;
        ensure!(well.len() < 30, "all thirty are well already: that is not the middle");
        let mut before = lab.containers().await?;
        before.retain(|container| well.contains(&container.id));
        let died = fault(&before).await?;
        let after = lab.wait_exactly(name, 30, LIMIT).await?;
        before.retain(|container| !died.contains(&container.id));
        ensure_untouched(&before, &after)?;
        remove(lab, name).await
    };
    story.await.with_context(|| format!("with a fault of the {fault_of}"))
}

async fn remove(lab: &Lab, workload: &str) -> Result<()> {
    lab.cli(&["rm", workload]).await?.ok()?;
    wait_until("it to be gone", LIMIT, async || {
        let left = lab.ps().await?.of(workload);
        ensure!(left.is_empty(), "the controller has {left:#?}");
        let mut left = lab.containers().await?;
        left.retain(|container| container.instance.starts_with(workload));
        ensure!(left.is_empty(), "engines have {left:#?}");
        Ok(())
    })
    .await
}

/// Two labs at a time: most of it is waiting.
#[tokio::test]
async fn a_minute_alone() -> Result<()> {
    tokio::try_join!(a_minute_without_a_controller(), a_minute_of_cut_links())?;
    Ok(())
}

async fn a_minute_without_a_controller() -> Result<()> {
    let config = LabConfig::new("alone").hosts(2).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        lab.apply(&crowd("crowd", 6)).await?.ok()?;
        let mut others = lab.wait_exactly("crowd", 6, LIMIT).await?;
        let crashed = others.remove(0);

        lab.stop_controller(Signal::SIGKILL).await?;
        let gone_since = Instant::now();
        kill(crashed.main_process()?, Signal::SIGKILL)?;
        wait_until("the crashed instance to be restarted", SOON, async || {
            let now = lab.containers().await?;
            let again = now.iter().find(|container| container.id == crashed.id);
            let again = again.context("its container is gone")?;
            ensure!(again.pid.is_some() && again.started_at != crashed.started_at, "{again:?}");
            Ok(())
        })
        .await?;
        lab.host(2).stop_agent(Signal::SIGKILL).await?;
        lab.host(2).start_agent().await?;
        let rest = Duration::from_secs(60).saturating_sub(gone_since.elapsed());
        hold_for("peace without a controller", rest, async || {
            let now = lab.containers().await?;
            ensure!(now.len() == 6, "there are {now:#?}");
            ensure_untouched(&others, &now)
        })
        .await?;

        lab.start_fleet().await?;
        let after = lab.wait_exactly("crowd", 6, SOON).await?;
        ensure_untouched(&others, &after)?;
        let restarted: Vec<_> = lab.ps().await?.of("crowd");
        let restarted: Vec<_> = restarted.iter().filter(|instance| instance.restarts > 0).collect();
        ensure!(
            restarted.len() == 1 && restarted[0].container_id == crashed.id,
            "the controller is told of these restarts: {restarted:#?}"
        );
        Ok(())
    })
    .await
}

async fn a_minute_of_cut_links() -> Result<()> {
    let config = LabConfig::new("cut").hosts(3).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        lab.apply(&crowd("crowd", 9)).await?.ok()?;
        let before = lab.wait_exactly("crowd", 9, LIMIT).await?;
        lab.host(2).cut_link(Cut::BlackHole).await?;
        lab.host(3).cut_link(Cut::Unplugged).await?;
        let cut_since = Instant::now();
        wait_until("the silence to be noticed", SOON, async || honest(lab).await).await?;
        let rest = Duration::from_secs(60).saturating_sub(cut_since.elapsed());
        hold_for("peace behind cut links", rest, async || {
            honest(lab).await?;
            ensure_untouched(&before, &lab.containers().await?)
        })
        .await?;

        lab.host(2).restore_link().await?;
        lab.host(3).restore_link().await?;
        let after = lab.wait_exactly("crowd", 9, SOON).await?;
        ensure!(before == after, "it was {before:#?} and is {after:#?}");
        wait_until("instances to reach each other again", SOON, async || {
            for [from, to] in [["h2", "h3"], ["h3", "h1"], ["h1", "h2"]] {
                let rows = lab.ps().await?.of("crowd");
                let on = |node: &str| rows.iter().find(|row| row.node == node).context("none");
                let url = format!("http://{}/", on(to)?.at(8080)?);
                let ask = ["timeout", "2", "wget", "-q", "-O", "-", &url];
                lab.exec(&on(from)?.name, &ask).await?.ok()?;
            }
            Ok(())
        })
        .await
    })
    .await
}

/// Whether the controller says of what it cannot see that it is unknown, and of the rest how it is.
async fn honest(lab: &Lab) -> Result<()> {
    for node in lab.nodes().await?.nodes {
        let is_ready = node.state == NodeState::Ready;
        ensure!(is_ready == (node.name == "h1"), "{node:?}");
    }
    for instance in lab.ps().await?.of("crowd") {
        let phase = if instance.node == "h1" { Phase::Running } else { Phase::Unknown };
        ensure!(instance.phase == phase, "{instance:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_engine_that_hangs_holds_up_nobody_else() -> Result<()> {
    let config = LabConfig::new("hang").hosts(3).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        lab.apply(&crowd("first", 6)).await?.ok()?;
        let first = lab.wait_exactly("first", 6, LIMIT).await?;
        lab.host(2).dockerd().signal(Signal::SIGSTOP)?;
        lab.apply(&crowd("second", 6)).await?.ok()?;
        wait_until("the others' instances to be well", LIMIT, async || {
            let second = lab.ps().await?.of("second");
            let (here, there): (Vec<_>, Vec<_>) =
                second.iter().partition(|instance| instance.node == "h2");
            ensure!(!there.is_empty() && there.iter().all(|one| one.is_well()), "{there:#?}");
            ensure!(here.iter().all(|instance| !instance.is_well()), "{here:#?}");
            Ok(())
        })
        .await?;
        lab.host(2).dockerd().signal(Signal::SIGCONT)?;
        lab.wait_exactly("second", 6, LIMIT).await?;
        ensure_untouched(&first, &lab.wait_exactly("first", 6, SOON).await?)
    })
    .await
}

/// What the old backup does not know runs on until somebody confirms the restore; what it knows is not touched. This
/// test once asserted that what is not known goes at once, which is what nobody wants who restores a backup.
#[tokio::test]
async fn a_controller_restored_from_an_old_backup() -> Result<()> {
    let config = LabConfig::new("backup").hosts(2).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        lab.apply(&crowd("old", 4)).await?.ok()?;
        let old = lab.wait_exactly("old", 4, LIMIT).await?;
        lab.stop_controller(Signal::SIGTERM).await?;
        copy(lab, "controller", "backup").await?;
        lab.start_fleet().await?;
        lab.apply(&crowd("new", 4)).await?.ok()?;
        lab.wait_exactly("new", 4, LIMIT).await?;
        lab.stop_controller(Signal::SIGKILL).await?;
        copy(lab, "backup", "controller").await?;
        lab.start_fleet().await?;
        ensure_untouched(&old, &lab.wait_exactly("old", 4, SOON).await?)?;
        let refused = lab.apply(&crowd("newer", 4)).await?;
        ensure!(
            !refused.status.success(),
            "a restored controller takes declarations before it is confirmed"
        );
        let status = lab.cli(&["restore", "status"]).await?.ok()?;
        ensure!(status.contains("new-0"), "{status}");
        lab.cli(&["restore", "confirm"]).await?.ok()?;
        lab.apply(&crowd("newer", 4)).await?.ok()?;
        lab.wait_exactly("newer", 4, LIMIT).await?;
        ensure_untouched(&old, &lab.wait_exactly("old", 4, SOON).await?)
    })
    .await
}

/// Host 2 is a node again without joining; what it ran and the backup does not know goes on until somebody confirms.
#[tokio::test]
async fn a_host_that_joined_after_the_backup_is_adopted_when_it_is_restored() -> Result<()> {
    let config = LabConfig::new("adopted").hosts(2).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        let late = lab.host(2).name();
        lab.start_nodes(&lab.hosts()[..1]).await?;
        lab.apply(&crowd("old", 2)).await?.ok()?;
        lab.wait_exactly("old", 2, LIMIT).await?;
        lab.stop_controller(Signal::SIGTERM).await?;
        copy(lab, "controller", "backup").await?;
        lab.start_fleet().await?;
        lab.apply(&crowd("new", 4)).await?.ok()?;
        lab.wait_exactly("new", 4, LIMIT).await?;
        ensure!(
            lab.ps().await?.of("new").iter().any(|new| new.node == late),
            "it has nothing to do"
        );
        let before = lab.containers().await?;

        lab.stop_controller(Signal::SIGKILL).await?;
        copy(lab, "backup", "controller").await?;
        lab.start_controller().await?;
        wait_until("both hosts to have said what they run", LIMIT, async || {
            let status = lab.cli(&["restore", "status"]).await?.ok()?;
            let adopted = format!("Nodes that joined after the backup: {late}\n");
            let all = ["Nodes that have not: none\n", &adopted, "new-0", "new-3"];
            ensure!(all.iter().all(|part| status.contains(part)), "{status}");
            Ok(())
        })
        .await?;
        ensure_untouched(&before, &lab.containers().await?)?;

        lab.cli(&["restore", "confirm"]).await?.ok()?;
        lab.apply(&crowd("newer", 4)).await?.ok()?;
        lab.wait_exactly("newer", 4, LIMIT).await?;
        let newer = lab.ps().await?.of("newer");
        ensure!(newer.iter().any(|one| one.node == late), "{late} is no node any more: {newer:?}");
        wait_until("what nobody knows to end", LIMIT, async || {
            let containers = lab.containers().await?;
            ensure!(containers.len() == 6, "{containers:?}");
            let old = before.iter().filter(|one| one.instance.starts_with("old-"));
            ensure_untouched(&old.cloned().collect::<Vec<_>>(), &containers)
        })
        .await
    })
    .await
}

/// Makes directory `to` of the lab a copy of `from`.
async fn copy(lab: &Lab, from: &str, to: &str) -> Result<()> {
    let script = "rm -rf \"$2\" && cp -a \"$1\" \"$2\"";
    let paths = [from, to].map(|name| lab.layout().dir().join(name).display().to_string());
    let words = ["-c", script, "sh", &paths[0], &paths[1]];
    dwell_tests::lab::run("sh", &words).await?.ok()?;
    Ok(())
}

/// Names the seed of a run to repeat.
const SEED_VARIABLE: &str = "DWELL_TEST_SEED";

/// How many faults.
const ROUNDS: usize = 12;

#[tokio::test]
async fn random_faults() -> Result<()> {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(seed) => seed.parse().with_context(|| format!("{SEED_VARIABLE} is no number"))?,
        Err(_) => rand::random::<u32>().into(),
    };
    println!("{SEED_VARIABLE}={seed}");
    let config = LabConfig::new("random").hosts(3).live_restore(true).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        let mut random = StdRng::seed_from_u64(seed);
        let mut declared = 0;
        for _ in 0..ROUNDS {
            if random.random_bool(0.5) || declared == 0 {
                declared = random.random_range(3..=15);
                lab.apply(&crowd("crowd", declared)).await?.ok()?;
            }
            let fault = Fault::random(&mut random);
            println!("{declared} declared; {fault:?}");
            fault.bring(lab).await.with_context(|| format!("{fault:?}"))?;
        }
        lab.wait_exactly("crowd", declared, LIMIT).await?;
        Ok(())
    })
    .await
    .with_context(|| format!("repeat it with {SEED_VARIABLE}={seed}"))
}

/// Something that goes wrong, on a host counted from 1.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Agent(usize),
    Controller,
    Engine(usize),
    EngineStops(usize),
    Link(usize, Cut),
    Containers(usize),
}

impl Fault {
    fn random(random: &mut StdRng) -> Self {
        let host = random.random_range(1..=3);
        let all = [
            Self::Agent(host),
            Self::Controller,
            Self::Engine(host),
            Self::EngineStops(host),
            Self::Link(host, Cut::BlackHole),
            Self::Link(host, Cut::Unplugged),
            Self::Containers(host),
        ];
        all.choose(random).copied().unwrap_or(Self::Controller)
    }

    /// Brings it upon the lab and takes away the cause, not what it has done.
    async fn bring(self, lab: &Lab) -> Result<()> {
        match self {
            Self::Agent(host) => {
                lab.host(host).stop_agent(Signal::SIGKILL).await?;
                lab.host(host).start_agent().await
            }
            Self::Controller => {
                lab.stop_controller(Signal::SIGKILL).await?;
                lab.start_controller().await
            }
            Self::Engine(host) => {
                lab.host(host).stop_docker(Signal::SIGKILL).await?;
                lab.host(host).start_docker().await
            }
            Self::EngineStops(host) => {
                lab.host(host).stop_docker(Signal::SIGTERM).await?;
                lab.host(host).start_docker().await
            }
            Self::Link(host, cut) => {
                let name = lab.host(host).name();
                lab.host(host).cut_link(cut).await?;
                wait_until("the silence to be noticed", SOON, async || {
                    let nodes = lab.nodes().await?.nodes;
                    let node = nodes.into_iter().find(|node| node.name == name);
                    ensure!(node.context("it is gone")?.state != NodeState::Ready, "not yet");
                    Ok(())
                })
                .await?;
                lab.host(host).restore_link().await
            }
            Self::Containers(host) => {
                for container in lab.host(host).containers().await? {
                    if let Some(pid) = container.pid {
                        // One that has just ended by itself is as good.
                        let _gone = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
                Ok(())
            }
        }
    }
}
