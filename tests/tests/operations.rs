//! What operators do to a fleet that is in use: change, scale, stop, move. Every instance keeps its
//! identity, and nothing is touched that need not be.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dwell_core::instance::Phase;
use dwell_tests::lab::{
    Container, Image, InstanceRow, Lab, LabConfig, ensure_untouched, finish, meanwhile, wait_until,
};

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);

/// How long an instance may be away while its container is replaced or moved, on a busy machine.
const GAP: Duration = Duration::from_secs(8);

/// The workload `web` with so many instances, and more lines.
fn web(replicas: usize, more: &[&str]) -> String {
    let lines = more.iter().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "workloads:\n  web:\n    image: hello\n    replicas: {replicas}\n    \
         healthcheck: {{http: ':8080/', interval: 500ms}}\n{lines}"
    )
}

#[tokio::test]
async fn updates() -> Result<()> {
    Lab::test(LabConfig::new("update").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.route_machine().await?;
        lab.apply(&web(2, &["environment: {VERSION: '1'}"])).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        replaces_the_container_and_keeps_the_identity(lab).await.context("in place")?;
        a_plan_is_done_as_it_was_shown(lab).await.context("plan")?;
        an_image_that_cannot_be_had_leaves_the_old_serving(lab).await.context("no image")?;
        what_does_not_work_is_put_back(lab).await.context("failing")?;
        as_many_may_fail_as_are_declared(lab).await.context("max_failures")?;
        room_is_waited_for_until_the_deadline(lab).await.context("no room")?;
        limits_change_on_the_running_container(lab).await.context("live")?;
        shared_memory_is_as_large_as_declared(lab).await.context("/dev/shm")
    })
    .await
}

async fn shared_memory_is_as_large_as_declared(lab: &Lab) -> Result<()> {
    for (declared, mebibytes) in [("shm_size: 96m", 96), ("labels: {size: default}", 64)] {
        lab.apply(&web(2, &[declared])).await?.ok()?;
        wait_until("/dev/shm to have its size", LIMIT, async || {
            for web in lab.ps().await?.of("web") {
                let said = lab.exec(&web.name, &["df", "-k", "/dev/shm"]).await?.ok()?;
                let size = said.lines().last().and_then(|line| line.split_whitespace().nth(1));
                let wanted = (mebibytes << 10).to_string();
                ensure!(size == Some(wanted.as_str()), "{} has {said}", web.name);
            }
            Ok(())
        })
        .await
        .context(declared)?;
    }
    Ok(())
}

async fn replaces_the_container_and_keeps_the_identity(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 2, LIMIT).await?;
    let identities = identities(lab).await?;
    let next = web(2, &["environment: {VERSION: '2'}"]);
    ensure!(class_of(lab, &next).await? == "in-place", "it is planned otherwise");
    let update = async {
        lab.apply(&next).await?.ok()?;
        wait_until("the new version to run", LIMIT, async || {
            for web in lab.ps().await?.of("web") {
                let version = version_of(lab, &web.name).await?;
                ensure!(version == "2", "{} is at {version}", web.name);
            }
            Ok(())
        })
        .await
    };
    let gap = longest_gap(lab, "web-0", update).await?;
    ensure!(gap < GAP, "web-0 was away for {gap:?}");
    let after = lab.wait_exactly("web", 2, LIMIT).await?;
    ensure!(ids(&before).is_disjoint(&ids(&after)), "{before:#?} became {after:#?}");
    ensure!(identities == self::identities(lab).await?, "their identities were {identities:#?}");
    Ok(())
}

async fn an_image_that_cannot_be_had_leaves_the_old_serving(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 2, LIMIT).await?;
    let image = "localhost:9/none:1";
    let next = web(2, &["environment: {VERSION: '2'}"])
        .replace("image: hello", &format!("image: {image}"));
    let update = async {
        lab.apply(&next).await?.ok()?;
        wait_until("the reason to be told", SOON, async || {
            let workloads = lab.ps().await?.workloads;
            let web = workloads.into_iter().find(|workload| workload.name == "web");
            let message = web.context("it is gone")?.message;
            ensure!(message.contains(&format!("to fetch {image}")), "it says {message:?}");
            Ok(())
        })
        .await
    };
    let gap = longest_gap(lab, "web-0", update).await?;
    ensure!(gap < Duration::from_secs(2), "web-0 was away for {gap:?}");
    ensure_untouched(&before, &lab.containers().await?)?;
    // Taking it back takes nothing down either.
    lab.apply(&web(2, &["environment: {VERSION: '2'}"])).await?.ok()?;
    ensure_untouched(&before, &lab.wait_exactly("web", 2, LIMIT).await?)
}

async fn what_does_not_work_is_put_back(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 2, LIMIT).await?;
    let bad = ["environment: {VERSION: '3'}", "command: ['false']", "update: {deadline: 4s}"];
    lab.apply(&web(2, &bad)).await?.ok()?;
    wait_until("the rollout to pause", LIMIT, async || {
        let workloads = lab.ps().await?.workloads;
        let web = workloads.into_iter().find(|workload| workload.name == "web");
        let message = web.context("it is gone")?.message;
        ensure!(message.contains("paused") && message.contains("web-0"), "it says {message:?}");
        Ok(())
    })
    .await?;
    let after = lab.wait_exactly("web", 2, LIMIT).await?;
    ensure!(ids(&before) == ids(&after), "{before:#?} became {after:#?}");
    ensure_untouched(&before[1..], &after).context("after one failed, no other is to be tried")?;
    // A mended version goes on.
    let mended = web(2, &["environment: {VERSION: '4'}"]);
    lab.apply(&mended).await?.ok()?;
    wait_until("the mended version to run", LIMIT, async || {
        for web in ["web-0", "web-1"] {
            let version = version_of(lab, web).await?;
            ensure!(version == "4", "{web} is at {version}");
        }
        Ok(())
    })
    .await
}

/// One goes back, the other keeps the new version, and the way out is another version.
async fn as_many_may_fail_as_are_declared(lab: &Lab) -> Result<()> {
    let fails = "command: [sh, -c, 'test $$(hostname) = web-0 && exit 3; exec /start']";
    let policy = "update: {max_failures: 1, deadline: 10s}";
    let declared = web(2, &["environment: {VERSION: '5'}", fails, policy]);
    let applied = lab.cli_with(&["apply", "--wait", "-f", "-"], &declared, LIMIT).await?;
    let says = "1 of 2 instances did not hold with version";
    ensure!(!applied.status.success() && applied.stderr.contains(says), "{applied:?}");
    lab.wait_exactly("web", 2, LIMIT).await?;
    let versions = (version_of(lab, "web-0").await?, version_of(lab, "web-1").await?);
    ensure!(versions == ("4".to_owned(), "5".to_owned()), "{versions:?}");
    let status = lab.cli(&["status"]).await?.stdout;
    ensure!(status.contains("web-0: ") && status.contains("exit code 3"), "{status}");
    let mended = web(2, &["environment: {VERSION: '4'}"]);
    lab.cli_with(&["apply", "--wait", "-f", "-"], &mended, LIMIT).await?.ok().map(drop)
}

/// What fits nowhere is given up, serves on as it is, and says what is missing.
async fn room_is_waited_for_until_the_deadline(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 2, LIMIT).await?;
    let huge =
        ["environment: {VERSION: '4'}", "resources: {memory: 900Gi}", "update: {deadline: 3s}"];
    let applied = lab.cli_with(&["apply", "--wait", "-f", "-"], &web(2, &huge), LIMIT).await?;
    let says = "could not be given it within 3s: 0 of 2 nodes fit";
    ensure!(!applied.status.success() && applied.stderr.contains(says), "{applied:?}");
    ensure_untouched(&before, &lab.wait_exactly("web", 2, LIMIT).await?)?;
    let mended = web(2, &["environment: {VERSION: '4'}"]);
    lab.cli_with(&["apply", "--wait", "-f", "-"], &mended, LIMIT).await?.ok().map(drop)
}

async fn limits_change_on_the_running_container(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 2, LIMIT).await?;
    let next = web(2, &["environment: {VERSION: '4'}", "resources: {cpu: 200m, memory: 64Mi}"]);
    ensure!(class_of(lab, &next).await? == "live", "it is planned otherwise");
    lab.apply(&next).await?.ok()?;
    wait_until("the limits to be set", SOON, async || {
        for host in lab.hosts() {
            for container in host.containers().await? {
                let inspected = host.docker()?.inspect_container(&container.id, None).await?;
                let limits = inspected.host_config.context("it has no configuration")?;
                let set = (limits.memory, limits.cpu_quota);
                ensure!(set == (Some(64 << 20), Some(20_000)), "{container:?} has {set:?}");
            }
        }
        Ok(())
    })
    .await?;
    ensure_untouched(&before, &lab.wait_exactly("web", 2, LIMIT).await?)
}

/// The version that an instance runs at, as it sees it.
async fn version_of(lab: &Lab, instance: &str) -> Result<String> {
    let said = lab.exec(instance, &["sh", "-c", "echo $VERSION"]).await?.ok()?;
    Ok(said.trim().to_owned())
}

/// After an update, so that the plan can say how long instances are down.
async fn a_plan_is_done_as_it_was_shown(lab: &Lab) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("web.plan");
    let file = file.to_str().context("no name")?;
    let next = web(2, &["environment: {VERSION: '2', PLANNED: 'yes'}"]);
    let arguments = ["plan", "-f", "-", "--out", file, "-o", "json"];
    let plan = finish(lab.cli_command(&arguments)?, &next).await?;
    let plan: serde_json::Value = plan.json()?;
    let instances = plan["workloads"][0]["instances"].as_array().cloned().unwrap_or_default();
    ensure!(instances.len() == 2, "{plan:#}");
    for one in &instances {
        ensure!(one["change"] == "in-place" && one["reason"] == "environment", "{one:#}");
        ensure!(one["node"] == one["to"] && one["waits"] == "", "{one:#}");
        let down = one["downtime_ms"].as_u64().context("no downtime was measured")?;
        let most = u64::try_from(GAP.as_millis())?;
        ensure!((1..most).contains(&down), "it was down for {down} ms");
    }
    let again = finish(lab.cli_command(&arguments)?, &next).await?;
    ensure!(again.code() == 4 && again.stderr.contains("exists already"), "{again:?}");

    lab.cli(&["apply", "--plan", file, "--wait"]).await?.ok()?;
    for instance in ["web-0", "web-1"] {
        let said = lab.exec(instance, &["sh", "-c", "echo $PLANNED"]).await?.ok()?;
        ensure!(said.trim() == "yes", "{instance} says {said}");
    }
    let before = lab.containers().await?;
    let outdated = lab.cli(&["apply", "--plan", file]).await?;
    ensure!(
        outdated.code() == 4 && outdated.stderr.contains("something has changed"),
        "{outdated:?}"
    );
    ensure_untouched(&before, &lab.containers().await?)?;
    lab.apply(&web(2, &["environment: {VERSION: '2'}"])).await?.ok()?;
    lab.cli(&["wait", "web"]).await?.ok()?;
    Ok(())
}

/// How `dwell plan` classifies the change to the one workload of a manifest.
async fn class_of(lab: &Lab, manifest: &str) -> Result<String> {
    let plan = finish(lab.cli_command(&["plan", "-f", "-", "-o", "json"])?, manifest).await?;
    let plan: serde_json::Value = plan.json()?;
    let change = plan["workloads"][0]["change"].as_str();
    Ok(change.with_context(|| format!("no class is in {plan}"))?.to_owned())
}

/// Address, hardware address and hostname of every instance of `web`, by name.
async fn identities(lab: &Lab) -> Result<BTreeMap<String, [String; 3]>> {
    let mut identities = BTreeMap::new();
    for InstanceRow { name, address, .. } in lab.ps().await?.of("web") {
        let mac = lab.exec(&name, &["cat", "/sys/class/net/eth0/address"]).await?.ok()?;
        let hostname = lab.exec(&name, &["hostname"]).await?.ok()?;
        identities.insert(name, [address, mac, hostname]);
    }
    Ok(identities)
}

/// The longest time that `instance` did not answer the machine while `work` was under way.
async fn longest_gap(
    lab: &Lab,
    instance: &str,
    work: impl Future<Output = Result<()>>,
) -> Result<Duration> {
    let row = lab.ps().await?.of("web").into_iter().find(|row| row.name == instance);
    let at = row.context("there is no such instance")?.at(8080)?;
    let mut answered = Instant::now();
    let mut longest = Duration::ZERO;
    meanwhile(work, async || {
        if lab.get(at).await.is_ok() {
            longest = longest.max(answered.elapsed());
            answered = Instant::now();
        }
        Ok(())
    })
    .await?;
    Ok(longest.max(answered.elapsed()))
}

fn ids(containers: &[Container]) -> BTreeSet<&str> {
    containers.iter().map(|container| container.id.as_str()).collect()
}

#[tokio::test]
async fn scaling_stopping_and_restarting() -> Result<()> {
    Lab::test(LabConfig::new("scale").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        let manifest = web(2, &["volumes: ['data:/data']"]);
        lab.apply(&manifest).await?.ok()?;
        let first = lab.wait_exactly("web", 2, LIMIT).await?;
        for web in ["web-0", "web-1"] {
            let script = format!("echo {web} > /data/marker");
            lab.exec(web, &["sh", "-c", &script]).await?.ok()?;
        }

        lab.cli(&["scale", "web=5", "--wait"]).await?.ok()?;
        ensure_untouched(&first, &lab.wait_exactly("web", 5, SOON).await?)?;
        lab.cli(&["scale", "web=2", "--wait"]).await?.ok()?;
        ensure_untouched(&first, &lab.wait_exactly("web", 2, SOON).await?)?;

        let address = lab.ps().await?.of("web")[0].address.clone();
        lab.cli(&["stop", "web-0", "--wait"]).await?.ok()?;
        let row = lab.ps().await?.of("web").swap_remove(0);
        ensure!(row.phase == Phase::Stopped && row.address == address, "{row:?}");
        let now = lab.containers().await?;
        ensure!(now[0].id == first[0].id && now[0].pid.is_none(), "it is not stopped: {now:?}");
        ensure_untouched(&first[1..], &now)?;
        lab.cli(&["start", "web-0", "--wait"]).await?.ok()?;
        let started = lab.wait_exactly("web", 2, SOON).await?;
        ensure!(started[0].id == first[0].id, "{first:?} became {started:?}");
        ensure!(lab.ps().await?.of("web")[0].address == address, "it has another address");
        ensure_untouched(&first[1..], &started)?;

        lab.cli(&["restart", "web", "--wait"]).await?.ok()?;
        let restarted = lab.wait_exactly("web", 2, SOON).await?;
        ensure!(ids(&started) == ids(&restarted), "{started:?} became {restarted:?}");
        ensure!(
            started.iter().all(|container| !restarted.contains(container)),
            "one was not restarted: {restarted:?}"
        );
        markers_are_there(lab).await.context("after a restart")?;
        lab.apply(&(manifest + "    environment: {VERSION: '2'}\n")).await?.ok()?;
        wait_until("the update to be done", LIMIT, async || {
            let updated = lab.wait_exactly("web", 2, SOON).await?;
            ensure!(ids(&updated).is_disjoint(&ids(&restarted)), "{updated:?}");
            Ok(())
        })
        .await?;
        markers_are_there(lab).await.context("after an update")
    })
    .await
}

/// Whether each instance's volume still has what was written there.
async fn markers_are_there(lab: &Lab) -> Result<()> {
    for web in ["web-0", "web-1"] {
        let marker = lab.exec(web, &["cat", "/data/marker"]).await?.ok()?;
        ensure!(marker.trim() == web, "the volume of {web} has {marker:?}");
    }
    Ok(())
}

#[tokio::test]
async fn draining_cordoning_and_constraints() -> Result<()> {
    Lab::test(LabConfig::new("drain").hosts(3).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(&web(6, &[])).await?.ok()?;
        lab.wait_exactly("web", 6, LIMIT).await?;
        draining_moves_with_address_and_never_doubles(lab).await.context("drain")?;
        cordoned_nodes_keep_what_they_have(lab).await.context("cordon")?;
        constraints_and_pools_are_kept(lab).await.context("constraints")?;
        lab.cli(&["rm", "web", "--wait"]).await?.ok()?;
        let routes = lab.routes().await?.routes;
        ensure!(!routes.iter().any(|route| route.prefix.ends_with("/32")), "left are {routes:?}");
        Ok(())
    })
    .await
}

async fn draining_moves_with_address_and_never_doubles(lab: &Lab) -> Result<()> {
    let before = lab.ps().await?.of("web");
    let others = lab.containers().await?;
    let others: Vec<_> = others.into_iter().filter(|one| one.host != "h1").collect();
    let identities = identities(lab).await?;
    let drain = async { lab.cli(&["node", "drain", "h1", "--wait"]).await?.ok() };
    meanwhile(drain, async || no_instance_runs_twice(lab).await).await?;

    let containers = lab.wait_exactly("web", 6, LIMIT).await?;
    ensure!(containers.iter().all(|one| one.host != "h1"), "left on h1: {containers:#?}");
    ensure_untouched(&others, &containers)?;
    ensure!(identities == self::identities(lab).await?, "identities were {identities:#?}");
    let routes = lab.routes().await?.routes;
    lab.route_machine().await?;
    for moved in before.iter().filter(|instance| instance.node == "h1") {
        let prefix = format!("{}/32", moved.address);
        let exception = routes.iter().find(|route| route.prefix == prefix);
        ensure!(exception.is_some_and(|route| route.node != "h1"), "{prefix} is not in {routes:?}");
        wait_until("a moved instance to be reached", SOON, async || {
            let answer = lab.get(moved.at(8080)?).await?;
            ensure!(answer.contains(&moved.name), "another answers: {answer}");
            let url = format!("http://{}/", moved.at(8080)?);
            let asking = before.iter().find(|one| one.node != "h1").context("all were on h1")?;
            lab.exec(&asking.name, &["timeout", "2", "wget", "-q", "-O", "-", &url]).await?.ok()
        })
        .await?;
    }
    lab.cli(&["scale", "web=8", "--wait"]).await?.ok()?;
    let rows = lab.ps().await?.of("web");
    ensure!(rows.iter().all(|row| row.node != "h1"), "a drained node got one: {rows:#?}");
    lab.cli(&["node", "uncordon", "h1"]).await?.ok()?;
    lab.cli(&["scale", "web=10", "--wait"]).await?.ok()?;
    let rows = lab.ps().await?.of("web");
    ensure!(rows.iter().any(|row| row.node == "h1"), "a node that came back got none: {rows:#?}");
    Ok(())
}

/// Whether no identity runs in two containers, wherever they are.
async fn no_instance_runs_twice(lab: &Lab) -> Result<()> {
    let containers = lab.containers().await;
    // One that is removed between two questions is no failure.
    let Ok(containers) = containers else { return Ok(()) };
    let running: Vec<_> = containers.iter().filter(|one| one.pid.is_some()).collect();
    let names: BTreeSet<_> = running.iter().map(|container| &container.instance).collect();
    ensure!(names.len() == running.len(), "one runs twice: {running:#?}");
    Ok(())
}

async fn cordoned_nodes_keep_what_they_have(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 10, SOON).await?;
    lab.cli(&["node", "cordon", "h2"]).await?.ok()?;
    lab.cli(&["scale", "web=14", "--wait"]).await?.ok()?;
    let after = lab.wait_exactly("web", 14, SOON).await?;
    ensure_untouched(&before, &after)?;
    let on_h2 = |all: &[Container]| all.iter().filter(|one| one.host == "h2").count();
    ensure!(on_h2(&before) == on_h2(&after), "a cordoned node got one");
    lab.cli(&["node", "uncordon", "h2"]).await?.ok()?;
    Ok(())
}

async fn constraints_and_pools_are_kept(lab: &Lab) -> Result<()> {
    lab.cli(&["node", "label", "h3", "disk=ssd"]).await?.ok()?;
    lab.cli(&["node", "label", "h2", "--pool", "storage"]).await?.ok()?;
    let manifest = "
workloads:
  quick: {image: hello, replicas: 3, constraints: ['disk==ssd']}
  slow: {image: hello, replicas: 2, constraints: ['disk!=ssd', 'node.name!=h1']}
  store: {image: hello, replicas: 2, pool: storage}
";
    lab.apply(manifest).await?.ok()?;
    for (workload, count, node) in [("quick", 3, "h3"), ("slow", 2, "h2"), ("store", 2, "h2")] {
        let containers = lab.wait_exactly(workload, count, LIMIT).await?;
        ensure!(containers.iter().all(|one| one.host == node), "{containers:#?}");
    }
    lab.cli(&["rm", "quick", "slow", "store", "--wait"]).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn chosen_instances_are_moved_resized_and_removed() -> Result<()> {
    Lab::test(LabConfig::new("orders").hosts(3).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.route_machine().await?;
        lab.apply(&web(3, &[])).await?.ok()?;
        lab.wait_exactly("web", 3, LIMIT).await?;
        a_chosen_instance_moves_with_its_address(lab).await.context("move")?;
        other_limits_reach_what_runs(lab).await.context("resize")?;
        one_in_the_middle_goes_and_comes_back(lab).await.context("rm")
    })
    .await
}

async fn a_chosen_instance_moves_with_its_address(lab: &Lab) -> Result<()> {
    let identities = identities(lab).await?;
    let node = async |name: &str| -> Result<String> {
        let row = lab.ps().await?.of("web").into_iter().find(|row| row.name == name);
        Ok(row.context("it is gone")?.node)
    };
    let (from, taken) = (node("web-0").await?, node("web-1").await?);
    let said = lab.cli(&["move", "web-0", "--to", &taken, "--dry-run"]).await?.ok()?;
    ensure!(said == format!("web-0 would move from {from} to {taken}\n"), "it says {said:?}");
    let others = lab.containers().await?;
    let others: Vec<_> = others.into_iter().filter(|one| one.host != from).collect();
    let order = async {
        lab.cli(&["move", "web-0", "--to", &taken, "--wait"]).await?.ok()?;
        ensure!(node("web-0").await? == taken, "it went elsewhere");
        Ok(())
    };
    let moved = meanwhile(order, async || no_instance_runs_twice(lab).await);
    let gap = longest_gap(lab, "web-0", moved).await?;
    ensure!(gap < GAP, "web-0 was away for {gap:?}");
    ensure!(identities == self::identities(lab).await?, "their identities were {identities:#?}");
    ensure_untouched(&others, &lab.wait_exactly("web", 3, LIMIT).await?)?;
    // Left alone it goes where it has company least, which is where it came from.
    lab.cli(&["move", "web-0", "--wait"]).await?.ok()?;
    ensure!(node("web-0").await? == from, "it went elsewhere");
    let refused = lab.cli(&["move", "web-0", "web-9", "--to", &taken]).await?;
    ensure!(refused.code() == 3 && node("web-0").await? == from, "{refused:?}");
    Ok(())
}

async fn other_limits_reach_what_runs(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 3, LIMIT).await?;
    lab.cli(&["resize", "web", "--memory", "96Mi", "--cpu", "200m", "--wait"]).await?.ok()?;
    wait_until("the limits to be set", SOON, async || {
        for host in lab.hosts() {
            for container in host.containers().await? {
                let inspected = host.docker()?.inspect_container(&container.id, None).await?;
                let limits = inspected.host_config.context("it has no configuration")?;
                let set = (limits.memory, limits.cpu_quota);
                ensure!(set == (Some(96 << 20), Some(20_000)), "{container:?} has {set:?}");
            }
        }
        Ok(())
    })
    .await?;
    ensure_untouched(&before, &lab.wait_exactly("web", 3, LIMIT).await?)?;
    let refused = lab.cli(&["resize", "web", "--memory", "1Mi"]).await?;
    ensure!(refused.code() == 2 && refused.stderr.contains("is less than the"), "{refused:?}");
    Ok(())
}

async fn one_in_the_middle_goes_and_comes_back(lab: &Lab) -> Result<()> {
    let names = async || -> Result<Vec<String>> {
        Ok(lab.ps().await?.of("web").into_iter().map(|row| row.name).collect())
    };
    let before = lab.containers().await?;
    lab.cli(&["rm", "web-1", "--wait"]).await?.ok()?;
    ensure!(names().await? == ["web-0", "web-2"], "left are {:?}", names().await?);
    let left: Vec<_> = before.into_iter().filter(|one| one.instance != "web-1").collect();
    ensure_untouched(&left, &lab.containers().await?)?;
    lab.cli(&["scale", "web=3", "--wait"]).await?.ok()?;
    ensure!(names().await? == ["web-0", "web-1", "web-2"], "there are {:?}", names().await?);
    ensure_untouched(&left, &lab.wait_exactly("web", 3, LIMIT).await?)
}
