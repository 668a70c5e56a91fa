//! What somebody changes by hand is found by `dwell audit`, with what each layer claims of it; `--fix` puts right what needs no
//! decision, and then nothing is found any more. No container is touched for it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptions;
use dwell_tests::lab::{
    AuditRow, Container, Host, Image, Lab, LabConfig, Signal, ensure_untouched, wait_until,
};

const LIMIT: Duration = Duration::from_secs(90);
/// Far below the time after which everything is looked at although nothing was told.
const SOON: Duration = Duration::from_secs(30);

const WEB: &str = "
workloads:
  web:
    image: hello
    replicas: 2
    resources: {cpu: 200m, memory: 64Mi}
    volumes: ['data:/data']
    update: {monitor: 1s}
";

#[tokio::test]
async fn what_was_changed_by_hand_is_found_and_mended() -> Result<()> {
    Lab::test(LabConfig::new("audit").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(WEB).await?.ok()?;
        let before = lab.wait_exactly("web", 2, LIMIT).await?;
        nothing_is_found(lab).await.context("of a fleet that is well")?;
        heals_by_itself(lab).await.context("what agents notice")?;
        is_found_and_mended(lab, &before[0]).await?;
        ensure_untouched(&before, &lab.containers().await?)?;
        is_left_to_a_person(lab, &before[0]).await?;
        ensure_untouched(&before, &lab.containers().await?)?;
        a_volume_that_was_deleted(lab).await.context("a volume")?;
        a_node_that_does_not_answer(lab).await.context("a silent node")
    })
    .await
}

async fn nothing_is_found(lab: &Lab) -> Result<()> {
    let found = lab.audit(false).await?;
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

/// What the agent is told of as it happens is mended before anybody can find it.
async fn heals_by_itself(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    let id = first_on(lab, host).await?.id;
    let docker = format!("unix://{}", host.docker_socket().display());
    let update = ["docker", "--host", &docker, "update", "--cpu-quota", "90000", &id];
    host.exec(&update).await?.ok()?;
    host.exec(&["ip", "route", "flush", "proto", "157"]).await?.ok()?;
    host.exec(&["nft", "flush", "set", "inet", "dwell", "sources"]).await?.ok()?;
    wait_until("what was broken to be mended", SOON, async || nothing_is_found(lab).await).await
}

async fn first_on(lab: &Lab, host: &Host) -> Result<Container> {
    let mut all = lab.containers().await?;
    all.retain(|container| container.host == host.name());
    all.into_iter().next().with_context(|| format!("nothing runs on {}", host.name()))
}

/// One thing of each kind that nobody tells the agent of.
async fn is_found_and_mended(lab: &Lab, victim: &Container) -> Result<()> {
    let host = lab.hosts().iter().find(|host| host.name() == victim.host).context("no host")?;
    let (run, data) = (host.dir().join("run"), host.dir().join("agent"));
    // The kernel's limits, the runtime's mapping.
    fs::write(quota_of(victim)?, "90000")?;
    fs::remove_file(run.join("containers").join(&victim.id))?;
    // Leftovers of a container, of an instance and of a sandbox.
    fs::write(run.join("containers/0123456789ab"), "{}")?;
    symlink("/nonexistent", run.join("bundles/0123456789ab"))?;
    fs::create_dir_all(data.join("instances/ghost-0/g3"))?;
    fs::write(data.join("journals/ghost-0.json"), r#"{"restarts":1}"#)?;
    fs::write(run.join("netns/ghost-0"), "")?;
    let veth = ["ip", "link", "add", "dw-0123456789ab", "type", "veth", "peer", "name", "ghost0"];
    host.exec(&veth).await?.ok()?;
    host.exec(&["ip", "route", "add", "10.80.77.77", "dev", "lo", "proto", "157", "metric", "57"])
        .await?
        .ok()?;
    let expected = [
        ("file-unowned", 3),
        ("journal-unowned", 1),
        ("limits-kernel", 1),
        ("mapping", 1),
        ("network-unowned", 2),
        ("sandbox-unowned", 1),
    ];
    let found = lab.audit(false).await?;
    let counted = |found: &[AuditRow], remedy: &str| -> Vec<(String, usize)> {
        let kinds: BTreeSet<&str> = found.iter().map(|one| one.kind.as_str()).collect();
        let count = |kind: &str| {
            found
                .iter()
                .filter(|one| one.kind == kind && one.remedy == remedy && one.node == victim.host)
                .count()
        };
        kinds.into_iter().map(|kind| (kind.to_owned(), count(kind))).collect()
    };
    let expected = expected.map(|(kind, count)| (kind.to_owned(), count));
    ensure!(counted(&found, "repair") == expected, "{found:#?}");
    ensure!(found.iter().any(|one| one.subject == format!("instance {}", victim.instance)));
    let repaired = lab.audit(true).await?;
    ensure!(counted(&repaired, "repaired") == expected, "{repaired:#?}");
    nothing_is_found(lab).await.context("after the repair")?;
    ensure!(fs::read_to_string(quota_of(victim)?)?.contains("20000"), "the limit is not back");
    ensure!(run.join("containers").join(&victim.id).exists(), "the mapping is not back");
    for path in ["containers/0123456789ab", "bundles/0123456789ab", "netns/ghost-0"] {
        ensure!(fs::symlink_metadata(run.join(path)).is_err(), "{path} is there");
    }
    for path in ["instances/ghost-0", "journals/ghost-0.json"] {
        ensure!(!data.join(path).exists(), "{path} is there");
    }
    Ok(())
}

/// Where the kernel has the limit of a container's processor time, on control groups of either version.
fn quota_of(container: &Container) -> Result<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", container.main_process()?))?;
    let mut paths = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        if controllers.split(',').any(|one| one == "cpu") {
            Some(
                PathBuf::from("/sys/fs/cgroup")
                    .join(controllers)
                    .join(path)
                    .join("cpu.cfs_quota_us"),
            )
        } else {
            Some(PathBuf::from("/sys/fs/cgroup").join(path).join("cpu.max"))
        }
    });
    paths.find(|path| path.exists()).with_context(|| format!("no limit is in {groups}"))
}

/// Somebody else's container with the cluster's label is named, and left alone.
async fn is_left_to_a_person(lab: &Lab, one: &Container) -> Result<()> {
    let host = lab.hosts().iter().find(|host| host.name() == one.host).context("no host")?;
    let docker = host.docker()?;
    let inspected = docker.inspect_container(&one.id, None).await?;
    let config = inspected.config.context("it has no configuration")?;
    let labels = config.labels.unwrap_or_default();
    let cluster = labels.get("dwell.cluster").cloned().context("it has no label")?;
    let body = ContainerCreateBody {
        image: config.image,
        labels: Some([("dwell.cluster".to_owned(), cluster)].into()),
        ..Default::default()
    };
    let id = docker.create_container(None::<CreateContainerOptions>, body).await?.id;
    let found = lab.audit(true).await?;
    let [foreign] = &found[..] else { anyhow::bail!("{found:#?}") };
    ensure!((foreign.kind.as_str(), foreign.remedy.as_str()) == ("container-foreign", "person"));
    ensure!(foreign.next.contains(&format!("docker rm -f {id}")), "{foreign:#?}");
    docker.remove_container(&id, None).await.context("it was touched")?;
    nothing_is_found(lab).await.context("after it was removed")
}

async fn a_volume_that_was_deleted(lab: &Lab) -> Result<()> {
    let web = lab.ps().await?.of("web");
    let last = web.last().context("there is none")?.clone();
    lab.cli(&["scale", "web=1", "--wait"]).await?.ok()?;
    let host = lab.hosts().iter().find(|host| host.name() == last.node).context("no host")?;
    let docker = host.docker()?;
    let volume = format!("dwell.{}.data", last.name);
    docker
        .remove_volume(&volume, None::<bollard::query_parameters::RemoveVolumeOptions>)
        .await
        .context("cannot remove the volume")?;
    let found = lab.audit(false).await?;
    match &found[..] {
        [missing] => {
            ensure!(
                (missing.kind.as_str(), missing.remedy.as_str()) == ("volume-missing", "person")
            );
        }
        // The look that follows the end of a container was late, and has told of it.
        _ => {
            let events = lab.cli(&["events", "-o", "json"]).await?.ok()?;
            ensure!(events.contains("volume-missing"), "{found:#?}");
        }
    }
    lab.cli(&["volume", "rm", &last.name, "data"]).await?.ok()?;
    wait_until("the volume to be forgotten", SOON, async || nothing_is_found(lab).await).await
}

async fn a_node_that_does_not_answer(lab: &Lab) -> Result<()> {
    let host = lab.host(2);
    host.stop_agent(Signal::SIGTERM).await?;
    let found = lab.audit(false).await?;
    let [silent] = &found[..] else { anyhow::bail!("{found:#?}") };
    ensure!((silent.kind.as_str(), silent.node.as_str()) == ("node-silent", "h2"), "{silent:#?}");
    Ok(())
}
