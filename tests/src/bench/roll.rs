//! A rollout over twenty instances, beside a Swarm's; and how long a change of limits takes to be in the kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use bollard::models::{ContainerCreateBody, ContainerUpdateBody, HostConfig};
use bollard::query_parameters::CreateContainerOptions;

use super::{
    FEW, MANY,
    report::{Report, Samples, against, alone},
    runner::Runner,
    swarm::Swarm,
};
use crate::lab::{Image, Lab, LabConfig};

const ROLL: &str = "roll-twenty";
const RESIZE: &str = "resize-live";
const LIMIT: Duration = Duration::from_secs(180);
const REPLICAS: usize = 20;
const PARALLELISM: usize = 4;
/// How long the kernel is looked at for a change.
const KERNEL_LIMIT: Duration = Duration::from_secs(20);
/// The pause between two looks.
const LOOK: Duration = Duration::from_micros(200);
/// The container that is changed without dwell.
const PLAIN: &str = "plain-resized";

/// Runs those that are wanted.
pub(super) async fn run(runner: &Runner<'_>) {
    if runner.wants(ROLL) {
        // Two nodes, and a Swarm of as many that run tasks.
        let config = LabConfig::new("benchroll").hosts(5).images(&[Image::Hello]);
        let ran = Lab::test(config, async |lab| {
            lab.start_nodes(&lab.hosts()[..2]).await?;
            runner.take(ROLL, Box::pin(roll(lab))).await;
            Ok(())
        });
        runner.note(&[ROLL], Box::pin(ran).await);
    }
    if runner.wants(RESIZE) {
        let config = LabConfig::new("benchsize").hosts(2).images(&[Image::Hello]);
        let ran = Lab::test(config, async |lab| {
            lab.start_nodes(&lab.hosts()[..1]).await?;
            runner.take(RESIZE, Box::pin(resize(lab))).await;
            Ok(())
        });
        runner.note(&[RESIZE], Box::pin(ran).await);
    }
}

async fn roll(lab: &Lab) -> Result<[Report; 1]> {
    apply(lab, 0).await?;
    let swarm = Swarm::of(&lab.hosts()[2..]).await?;
    swarm.deploy("web", REPLICAS).await?;
    let mut samples = Samples::default();
    for turn in 0..=FEW {
        let ours = apply(lab, turn + 1).await.context("dwell")?;
        let started = Instant::now();
        swarm.update_by("web", PARALLELISM).await.context("Swarm")?;
        samples.add(turn, ours, started.elapsed());
    }
    Ok([against(samples.report(ROLL, 0.5), "Swarm")])
}

/// From the start of the command to its end, with every instance on the new version. Like a Swarm's task, an instance
/// that runs counts as well at once.
async fn apply(lab: &Lab, version: usize) -> Result<Duration> {
    let manifest = format!(
        "workloads:\n  web:\n    image: hello\n    replicas: {REPLICAS}\n    environment: {{VERSION: '{version}'}}\n    \
         update: {{parallelism: {PARALLELISM}, monitor: 1ms}}\n"
    );
    let started = Instant::now();
    lab.cli_with(&["apply", "-f", "-", "--wait"], &manifest, LIMIT).await?.ok()?;
    Ok(started.elapsed())
}

/// From the start of the command until the kernel has the limit, in turns with Docker's API.
async fn resize(lab: &Lab) -> Result<[Report; 2]> {
    lab.apply(
        "workloads: {web: {image: hello, resources: {memory: 64Mi}, update: {monitor: 1ms}}}",
    )
    .await?
    .ok()?;
    lab.wait_well("web", 1, LIMIT).await?;
    let containers = lab.containers().await?;
    let process = containers.first().and_then(|one| one.pid).context("it does not run")?;
    let own = memory_file(process)?;
    let docker = lab.host(2).docker()?.negotiate_version().await.context("no Docker answers")?;
    let options = CreateContainerOptions { name: Some(PLAIN.to_owned()), ..Default::default() };
    let body = ContainerCreateBody {
        image: Some(Image::Hello.name().to_owned()),
        host_config: Some(HostConfig { memory: Some(64 << 20), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    docker.create_container(Some(options), body).await.context("Docker does not create")?;
    docker.start_container(PLAIN, None).await.context("Docker does not start")?;
    let state = docker.inspect_container(PLAIN, None).await?.state.context("no state")?;
    let plain = memory_file(i32::try_from(state.pid.context("no process")?)?)?;
    let (mut samples, mut ours_ms) = (Samples::default(), Vec::new());
    for turn in 0..=MANY {
        let mebi = 65 + turn;
        let bytes = i64::try_from(mebi)? << 20;
        let ours = until_in_kernel(&own, bytes, async {
            let memory = format!("{mebi}Mi");
            lab.cli(&["resize", "web-0", "--memory", &memory, "--wait"]).await?.ok()?;
            Ok(())
        });
        let ours = ours.await.context("dwell")?;
        let other = until_in_kernel(&plain, bytes, async {
            // With swap left as it is, as `docker update` would.
            let change = ContainerUpdateBody {
                memory: Some(bytes),
                memory_swap: Some(-1),
                ..ContainerUpdateBody::default()
            };
            docker.update_container(PLAIN, change).await.context("Docker refuses it")
        });
        samples.add(turn, ours, other.await.context("Docker")?);
        if turn > 0 {
            ours_ms.push(ours.as_secs_f64() * 1e3);
        }
    }
    Ok([
        Report { against: Some("command to kernel"), ..alone(RESIZE, "ms", ours_ms, 50.0) },
        against(samples.report(RESIZE, 5.0), "Docker's API"),
    ])
}

/// How long it takes from the start of `change` until the kernel has the limit that it sets.
async fn until_in_kernel(
    file: &Path,
    bytes: i64,
    change: impl Future<Output = Result<()>>,
) -> Result<Duration> {
    let (file, wanted) = (file.to_owned(), bytes.to_string());
    let started = Instant::now();
    let looking = thread::spawn(move || {
        loop {
            let text = fs::read_to_string(&file)?;
            if text.trim() == wanted {
                return anyhow::Ok(started.elapsed());
            }
            ensure!(started.elapsed() < KERNEL_LIMIT, "the kernel has {} still", text.trim());
            thread::sleep(LOOK);
        }
    });
    change.await?;
    looking.join().map_err(|_| anyhow!("whoever looked panicked"))?
}

/// Where the kernel shows the memory limit of a process's group.
fn memory_file(process: i32) -> Result<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let of = |controllers: &str| {
        let mut lines = groups.lines().map(|line| line.splitn(3, ':').skip(1));
        lines.find_map(|mut parts| {
            let is_it = parts.next()?.split(',').any(|one| one == controllers);
            parts.next().filter(|_| is_it).map(|path| path.trim_start_matches('/').to_owned())
        })
    };
    let first = of("memory")
        .map(|path| Path::new("/sys/fs/cgroup/memory").join(path).join("memory.limit_in_bytes"));
    let file = match first {
        Some(file) => file,
        None => Path::new("/sys/fs/cgroup").join(of("").context("no group")?).join("memory.max"),
    };
    ensure!(file.exists(), "there is no {}", file.display());
    Ok(file)
}
