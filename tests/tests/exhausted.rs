//! What a host or a program runs out of: nothing is lost, what lacks is said, and all goes on by itself once there is some again.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwell_core::instance::Phase;
use dwell_core::node::NodeState;
use dwell_tests::lab::{
    Image, Lab, LabConfig, Process, Signal, ensure_untouched, hold_for, run, wait_until,
};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::kill;

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);

/// The agent's disk in this test, in bytes.
const DISK: usize = 16 << 20;
/// The controller's port for agents.
const CONTROLLER_PORT: u16 = 7443;

#[tokio::test]
async fn a_full_disk_of_an_agent_is_a_state_and_ends_by_itself() -> Result<()> {
    Lab::test(LabConfig::new("nodisk").images(&[Image::Hello]), async |lab| {
        // A disk of its own, small enough to fill; it goes with the lab.
        let disk = lab.host(1).dir().join("agent");
        fs::create_dir_all(&disk)?;
        let options = format!("size={DISK},mode=0700");
        mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some(&*options))?;
        lab.start_fleet().await?;
        lab.apply("workloads: {web: {image: hello}}").await?.ok()?;
        let before = lab.wait_exactly("web", 1, LIMIT).await?;

        fill(&disk.join("rest")).await?;
        let words = [disk.to_str().context("it is not UTF-8")?, "disk-pressure", "100 % full"];
        says(lab, &words).await?;
        // What is declared meanwhile waits, and says for what; what runs is left alone, by an agent that starts as well.
        lab.apply("workloads: {late: {image: hello}}").await?.ok()?;
        wait_until("the reason to be told", SOON, async || {
            let late = lab.ps().await?.of("late");
            let waits = |message: &str| message.contains("h1 has a full disk");
            ensure!(
                late.iter().all(|one| one.phase == Phase::Pending && waits(&one.message)),
                "{late:?}"
            );
            Ok(())
        })
        .await?;
        lab.host(1).stop_agent(Signal::SIGKILL).await?;
        lab.host(1).start_agent().await?;
        wait_until("the agent to be heard of", SOON, async || ready(lab).await).await?;
        says(lab, &words).await?;
        hold_for("peace on a full disk", Duration::from_secs(3), async || {
            ensure_untouched(&before, &lab.containers().await?)
        })
        .await?;

        fs::remove_file(disk.join("rest"))?;
        lab.wait_exactly("late", 1, LIMIT).await?;
        says(lab, &[]).await?;
        ensure_untouched(&before, &lab.containers().await?)?;
        let events = lab.cli(&["events"]).await?.ok()?;
        for reason in ["node-pressure ", "node-pressure-over"] {
            ensure!(events.contains(reason), "no {reason} in {events}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_agent_without_open_files_says_so_and_goes_on_once_it_has_some() -> Result<()> {
    Lab::test(LabConfig::new("nofiles").images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply("workloads: {web: {image: hello}}").await?.ok()?;
        let before = lab.wait_exactly("web", 1, LIMIT).await?;
        let agent = lab.host(1).agent();
        let pid = agent.pid();
        exhaust(agent).await?;
        let victim = before[0].main_process()?;
        kill(victim, Signal::SIGKILL)?;
        // What it is told is to be written to a file.
        lab.apply("workloads: {web: {image: hello, stop_grace_period: 11s}}").await?.ok()?;
        hold_for("an agent without open files", Duration::from_secs(10), async || {
            ensure!(agent.pid() == pid, "it has ended: {}", agent.log_tail(20));
            Ok(())
        })
        .await?;
        let log = fs::read_to_string(agent.log())?;
        ensure!(log.contains("Too many open files"), "it does not say so: {log}");
        relieve(agent).await?;
        let after = wait_until("the instance to run again", LIMIT, async || {
            let containers = lab.wait_exactly("web", 1, SOON).await?;
            ensure!(containers[0].pid != Some(victim.as_raw()), "{containers:?}");
            Ok(containers)
        })
        .await?;
        ensure!(agent.pid() == pid, "the agent was restarted");
        ensure!(after[0].instance == before[0].instance);
        ready(lab).await
    })
    .await
}

#[tokio::test]
async fn an_agent_that_may_start_no_process_says_so_and_goes_on_once_it_may() -> Result<()> {
    Lab::test(LabConfig::new("nopids").images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply("workloads: {web: {image: hello}}").await?.ok()?;
        let before = lab.wait_exactly("web", 1, LIMIT).await?;
        let agent = lab.host(1).agent();
        let pid = agent.pid();
        let most = confine(lab, agent)?;
        // It has as many threads as it has, and gets neither another one nor a program.
        fs::write(&most, "1")?;
        lab.host(1).exec(&["nft", "flush", "ruleset"]).await?.ok()?;
        let victim = before[0].main_process()?;
        kill(victim, Signal::SIGKILL)?;
        wait_until("the reason to be told", SOON, async || {
            let log = fs::read_to_string(agent.log())?;
            ensure!(log.contains("Resource temporarily unavailable"), "{}", agent.log_tail(20));
            Ok(())
        })
        .await?;
        hold_for("an agent that may start nothing", Duration::from_secs(10), async || {
            ensure!(agent.pid() == pid, "it has ended: {}", agent.log_tail(20));
            Ok(())
        })
        .await?;
        // The controller still hears of it.
        ready(lab).await?;

        fs::write(&most, "max")?;
        wait_until("the instance to run again, and be reached", LIMIT, async || {
            let containers = lab.wait_exactly("web", 1, SOON).await?;
            ensure!(containers[0].pid != Some(victim.as_raw()), "{containers:?}");
            let web = lab.ps().await?.of("web");
            lab.host(1).get(web.first().context("it is gone")?.at(8080)?).await
        })
        .await?;
        wait_until("the firewall to be back", SOON, async || {
            let rules = lab.host(1).exec(&["nft", "list", "ruleset"]).await?.ok()?;
            ensure!(rules.contains("table inet dwell"), "{rules}");
            Ok(())
        })
        .await?;
        ensure!(agent.pid() == pid, "the agent was restarted");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_controller_without_open_files_keeps_its_nodes_and_lets_people_in_again() -> Result<()> {
    Lab::test(LabConfig::new("nosocks").images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply("workloads: {web: {image: hello}}").await?.ok()?;
        let before = lab.wait_exactly("web", 1, LIMIT).await?;
        let controller = lab.controller();
        let pid = controller.pid();
        exhaust(controller).await?;
        // Both listeners have somebody at the door whom they cannot let in.
        let mut waiting = Vec::new();
        for _ in 0..4 {
            waiting.push(UnixStream::connect(lab.controller_socket())?);
        }
        let tcp = TcpStream::connect((lab.layout().machine_address(), CONTROLLER_PORT))?;
        let used = cpu(controller)?;
        hold_for("a controller without open files", Duration::from_secs(5), async || {
            ensure!(controller.pid() == pid, "it has ended: {}", controller.log_tail(20));
            Ok(())
        })
        .await?;
        let used = cpu(controller)? - used;
        ensure!(used < Duration::from_secs(1), "its listeners spin: {used:?} of 5 s");
        let log = fs::read_to_string(controller.log())?;
        ensure!(log.contains("Too many open files"), "it does not say so: {log}");
        relieve(controller).await?;
        drop((waiting, tcp));
        ready(lab).await?;
        lab.apply("workloads: {late: {image: hello}}").await?.ok()?;
        lab.wait_exactly("late", 1, LIMIT).await?;
        ensure!(controller.pid() == pid, "the controller was restarted");
        let containers = lab.containers().await?;
        ensure!(containers.iter().any(|one| one.pid == before[0].pid), "{containers:?}");
        Ok(())
    })
    .await
}

async fn fill(path: &Path) -> Result<()> {
    let full = run("dd", &["if=/dev/zero", &format!("of={}", path.display())]).await?;
    ensure!(full.stderr.contains("No space left"), "the disk is not full: {full:?}");
    Ok(())
}

/// Waits until the node says all `words` of itself, or nothing if there are none.
async fn says(lab: &Lab, words: &[&str]) -> Result<()> {
    wait_until("what the node says of itself", SOON, async || {
        let nodes = lab.nodes().await?.nodes;
        let message = &nodes.first().context("there is no node")?.message;
        let all = words.iter().all(|word| message.contains(word));
        ensure!(all && message.is_empty() == words.is_empty(), "{message:?}");
        Ok(())
    })
    .await
}

async fn ready(lab: &Lab) -> Result<()> {
    let nodes = lab.nodes().await?.nodes;
    ensure!(nodes.iter().all(|node| node.state == NodeState::Ready), "{nodes:?}");
    Ok(())
}

/// From now on the process can open nothing more.
async fn exhaust(process: &Process) -> Result<()> {
    let pid = process.pid().context("it does not run")?;
    // The lowest number that is free now and then: what is open for a moment only is not to leave room.
    let mut lowest = usize::MAX;
    for _ in 0..40 {
        let open: BTreeSet<usize> = fs::read_dir(format!("/proc/{pid}/fd"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        lowest = (0..lowest).find(|number| !open.contains(number)).unwrap_or(lowest);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    limit(process, &format!("{lowest}:")).await
}

async fn relieve(process: &Process) -> Result<()> {
    limit(process, "1024:").await
}

async fn limit(process: &Process, files: &str) -> Result<()> {
    let pid = process.pid().context("it does not run")?.to_string();
    run("prlimit", &["--pid", &pid, &format!("--nofile={files}")]).await?.ok()?;
    Ok(())
}

/// Puts a process into a control group of its own beneath the lab's; the file that says how many tasks may be in there.
fn confine(lab: &Lab, process: &Process) -> Result<PathBuf> {
    let pid = process.pid().context("it does not run")?;
    // Of version 1, or of version 2, where the engine has switched the controller on.
    let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
    let groups = roots.map(|root| root.join(lab.layout().cgroup()));
    let group = groups.into_iter().find(|group| group.is_dir()).context("the lab has no group")?;
    let group = group.join("agent");
    fs::create_dir_all(&group)?;
    fs::write(group.join("cgroup.procs"), pid.to_string())?;
    Ok(group.join("pids.max"))
}

/// What a process has used of processors.
fn cpu(process: &Process) -> Result<Duration> {
    let pid = process.pid().context("it does not run")?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("it has no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // The 14th and 15th of all, in ticks of 10 ms.
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(10 * ticks))
}
