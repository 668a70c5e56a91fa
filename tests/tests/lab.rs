//! The lab itself: hosts that answer, links that break, and no trace left of either.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bollard::{
    models::{ContainerCreateBody, HostConfig},
    query_parameters::CreateContainerOptionsBuilder,
};
use dwell_tests::lab::{self, Cut, Host, Image, Lab, LabConfig, Signal, wait_until};
use nix::{sys::signal::kill, unistd::Pid};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn containers_run_and_answer_on_every_host() -> Result<()> {
    let config = LabConfig::new("run").hosts(2).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        for host in lab.hosts() {
            start_hello(host).await?;
            let answer = fetch(lab.host(1), host).await?;
            let caller = format!("\"caller\":\"{}\"", lab.host(1).address());
            ensure!(answer.contains(&caller), "{} answers {answer}", host.name());
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_sshd_image_lets_the_labs_key_in_and_no_other() -> Result<()> {
    let config = LabConfig::new("sshd").images(&[Image::Sshd]);
    Lab::test(config, async |lab| {
        let host = lab.host(1);
        let key = format!("AUTHORIZED_KEY={}", lab.ssh_public_key().await?);
        start(host, Image::Sshd, vec![key]).await?;
        let hostname = wait_until("ssh to log in", SOON, async || {
            lab.ssh(host.address().into(), "hostname").await?.ok()
        })
        .await?;
        ensure!(!hostname.trim().is_empty(), "it has no hostname");
        fs::remove_file(lab.layout().dir().join("ssh_key.pub"))?;
        fs::remove_file(lab.layout().dir().join("ssh_key"))?;
        lab.ssh_public_key().await?;
        let refused = lab.ssh(host.address().into(), "hostname").await?;
        ensure!(refused.stderr.contains("Permission denied"), "{refused:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_killed_engine_starts_again_and_finds_its_container() -> Result<()> {
    let config = LabConfig::new("engine").live_restore(true).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        let host = lab.host(1);
        start_hello(host).await?;
        let before = inspect(host).await?;
        host.stop_docker(Signal::SIGKILL).await?;
        ensure!(!host.dockerd().is_running(), "dockerd lives on");
        fetch(host, host).await.context("the container is not to notice")?;
        host.start_docker().await?;
        let after = inspect(host).await?;
        ensure!(before == after, "it was {before:?} and is {after:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn links_break_in_every_way_and_heal() -> Result<()> {
    let config = LabConfig::new("links").hosts(2).images(&[]);
    Lab::test(config, async |lab| {
        let [one, two] = lab.hosts() else { unreachable!("it has two hosts") };
        for cut in [Cut::Unplugged, Cut::BlackHole, Cut::Outbound, Cut::Inbound] {
            reach(one, two, true).await?;
            one.cut_link(cut).await?;
            reach(one, two, false).await.with_context(|| format!("{cut:?}"))?;
            let carrier = one.exec(&["ip", "-o", "link", "show", "dev", "eth0"]).await?.ok()?;
            let unplugged = carrier.contains("NO-CARRIER");
            ensure!(unplugged == (cut == Cut::Unplugged), "{cut:?} looks like {carrier}");
            one.restore_link().await?;
            reach(one, two, true).await.with_context(|| format!("after {cut:?}"))?;
        }
        one.restore_link().await.context("a whole link can be restored too")
    })
    .await
}

#[tokio::test]
async fn a_one_way_cut_is_one_way() -> Result<()> {
    let config = LabConfig::new("oneway").hosts(2).images(&[]);
    Lab::test(config, async |lab| {
        let [one, two] = lab.hosts() else { unreachable!("it has two hosts") };
        // Otherwise the question who has the address would already fail.
        reach(one, two, true).await?;
        one.cut_link(Cut::Inbound).await?;
        let refused = async || -> Result<u64> {
            let counters = two.exec(&["cat", "/proc/net/snmp"]).await?.ok()?;
            let lines = counters.lines().filter(|line| line.starts_with("Tcp: "));
            let mut columns = lines.map(|line| line.split(' ').collect::<Vec<_>>());
            let (names, values) = columns.next().zip(columns.next()).context("no counters")?;
            let at = names.iter().position(|name| *name == "OutRsts").context("no OutRsts")?;
            Ok(values[at].parse()?)
        };
        let before = refused().await?;
        reach(one, two, false).await?;
        ensure!(refused().await? > before, "what the host sent did not arrive");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_is_left_of_a_lab() -> Result<()> {
    const NAME: &str = "traces";
    lab::down(NAME).await?;
    let before = traces(NAME)?;
    let lab = Lab::up(LabConfig::new(NAME).hosts(2).images(&[Image::Hello])).await?;
    start_hello(lab.host(1)).await?;
    // A container whose engine cannot take care of it any more.
    start_hello(lab.host(2)).await?;
    lab.host(2).stop_docker(Signal::SIGKILL).await?;
    // And one whose shim cannot.
    kill(shim_of_hello(lab.host(1)).await?, Signal::SIGKILL)?;
    ensure!(traces(NAME)? != before, "the lab leaves no trace even while it is up");
    drop(lab);
    wait_until("the traces to be gone", SOON, async || {
        let after = traces(NAME)?;
        let left: Vec<_> = after.difference(&before).collect();
        ensure!(left.is_empty(), "{left:#?} are left");
        Ok(())
    })
    .await?;
    lab::down(NAME).await.context("a lab that is down can be brought down")
}

#[tokio::test]
async fn a_lab_whose_maker_was_killed_is_replaced() -> Result<()> {
    const NAME: &str = "killed";
    lab::down(NAME).await?;
    let mut maker = tokio::process::Command::new(env!("CARGO_BIN_EXE_dwell-lab"))
        .args(["up", "--name", NAME, "--hosts", "2"])
        .stdout(Stdio::null())
        .spawn()?;
    let remains = wait_until("an engine of the lab to start", SOON, async || {
        let lab = Lab::open(NAME)?;
        lab.host(1).dockerd().pid().context("no dockerd runs")
    })
    .await?;
    maker.kill().await?;
    ensure!(Lab::open(NAME)?.host(1).dockerd().pid() == Some(remains), "nothing remains");

    let config = LabConfig::new(NAME).hosts(1).images(&[]);
    Lab::test(config, async |lab| {
        ensure!(lab.host(1).dockerd().pid() != Some(remains), "the remains are used");
        // A zombie, which only its parent can remove, has no program any more.
        ensure!(fs::read_link(format!("/proc/{remains}/exe")).is_err(), "the remains run on");
        lab.host(1).docker()?.ping().await?;
        let second = Lab::up(LabConfig::new(NAME)).await;
        let error = second.err().context("a lab in use was replaced")?.to_string();
        ensure!(error.contains("in use by another process"), "{error}");
        Ok(())
    })
    .await
}

/// Starts a container of the image "hello" and waits until it answers.
async fn start_hello(host: &Host) -> Result<()> {
    start(host, Image::Hello, Vec::new()).await?;
    wait_until("the container to answer", SOON, async || fetch(host, host).await).await?;
    Ok(())
}

/// Starts a container of `image`, named after it, in the host's own network namespace.
async fn start(host: &Host, image: Image, environment: Vec<String>) -> Result<()> {
    let options = CreateContainerOptionsBuilder::default().name(image.name()).build();
    let body = ContainerCreateBody {
        image: Some(image.name().to_owned()),
        env: Some(environment),
        host_config: Some(HostConfig {
            network_mode: Some("host".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    host.docker()?.create_container(Some(options), body).await?;
    host.docker()?.start_container(image.name(), None).await?;
    Ok(())
}

/// What the container on `to` answers to a request from `from`.
async fn fetch(from: &Host, to: &Host) -> Result<String> {
    from.get((to.address(), 8080).into()).await
}

/// Waits until `from` can reach `to`, or cannot.
async fn reach(from: &Host, to: &Host, can: bool) -> Result<()> {
    wait_until("the link to change", SOON, async || {
        // Nobody listens there, and only who is reached can refuse.
        let error = from.connect((to.address(), 9).into()).await.err();
        let cause = error.as_ref().and_then(|error| error.downcast_ref::<io::Error>());
        let reached = cause.is_some_and(|cause| cause.kind() == ErrorKind::ConnectionRefused);
        ensure!(reached == can, "connecting gives {error:?}");
        Ok(())
    })
    .await
}

/// The shim of the container "hello": the parent of its first process.
async fn shim_of_hello(host: &Host) -> Result<Pid> {
    let container = host.docker()?.inspect_container("hello", None).await?;
    let pid = container.state.and_then(|state| state.pid).context("it does not run")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(Pid::from_raw(parent.context("it has no parent")?.trim().parse()?))
}

/// The id and the start time of the container.
async fn inspect(host: &Host) -> Result<(Option<String>, Option<String>)> {
    let container = host.docker()?.inspect_container("hello", None).await?;
    Ok((container.id, container.state.and_then(|state| state.started_at)))
}

/// Everything on the machine that a lab could leave behind, but what belongs to other labs.
fn traces(name: &str) -> Result<BTreeSet<String>> {
    let mut traces = BTreeSet::new();
    let directories = [
        "/sys/class/net",
        "/run",
        "/run/netns",
        "/run/docker",
        "/run/containerd",
        "/run/containerd/s",
        "/etc/docker",
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/systemd",
        "/var/lib",
        "/var/lib/dwell-lab",
    ];
    for directory in directories {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        traces.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        traces.insert(line.split(' ').nth(4).unwrap_or_default().to_owned());
    }
    let of_other_labs = |trace: &String| {
        let others = ["/dl-", "/dwell-lab-", "/var/lib/dwell-lab/"];
        let rest = others.iter().find_map(|prefix| trace.split_once(prefix));
        rest.is_some_and(|(_, rest)| !rest.starts_with(name))
    };
    traces.retain(|trace| !of_other_labs(trace));
    Ok(traces)
}
