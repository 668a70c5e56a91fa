//! Stopping by declaration, and replacing chosen instances: the identity, the place and the volumes stay.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwell_core::instance::Phase;
use dwell_tests::lab::{
    Container, Image, InstanceRow, Lab, LabConfig, Signal, ensure_untouched, wait_until,
};

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);

/// Two instances, whose next start fails where somebody has made `/data/broken`.
const WEB: &str = "\
workloads:
  web:
    image: hello
    replicas: 2
    command: ['sh', '-c', 'if rm /data/broken; then exit 1; fi; exec /start']
    volumes: ['data:/data']
    healthcheck: {http: ':8080/', interval: 500ms}
    update: {deadline: 4s}
";

#[tokio::test]
async fn lifecycle() -> Result<()> {
    Lab::test(LabConfig::new("life").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(WEB).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        for web in ["web-0", "web-1"] {
            let script = format!("echo {web} > /data/marker");
            lab.exec(web, &["sh", "-c", &script]).await?.ok()?;
        }
        what_is_declared_stopped_stays_so_over_restarts(lab).await.context("stopped")?;
        a_chosen_one_gets_a_new_container(lab).await.context("replaced")?;
        what_does_not_hold_is_put_back(lab).await.context("not replaced")?;
        every_host_that_is_allowed_has_one(lab).await.context("one on every node")
    })
    .await
}

/// The second host has one once it has the label, and loses it with that.
async fn every_host_that_is_allowed_has_one(lab: &Lab) -> Result<()> {
    const LOG: &str = "\
workloads:
  log:
    image: hello
    one_per_node: true
    constraints: ['logs==yes']
";
    // Its volumes would hold up the drain.
    lab.cli(&["rm", "web", "--wait"]).await?.ok()?;
    let nodes: Vec<String> = lab.hosts().iter().map(dwell_tests::lab::Host::name).collect();
    let [first, second] = &nodes[..] else { anyhow::bail!("{nodes:?}") };
    lab.cli(&["node", "label", first, "logs=yes"]).await?.ok()?;
    lab.apply(LOG).await?.ok()?;
    lab.wait_exactly("log", 1, LIMIT).await?;
    lab.cli(&["node", "label", second, "logs=yes"]).await?.ok()?;
    lab.wait_exactly("log", 2, LIMIT).await?;
    lab.stop_controller(Signal::SIGKILL).await?;
    lab.start_controller().await?;
    let placed = async || {
        let rows = lab.ps().await?.of("log");
        Ok::<_, anyhow::Error>(rows.into_iter().map(|row| (row.name, row.node)).collect::<Vec<_>>())
    };
    wait_until("every host to have its own", SOON, async || {
        let placed = placed().await?;
        let wanted = [("log-0".to_owned(), first.clone()), ("log-1".to_owned(), second.clone())];
        ensure!(placed == wanted, "{placed:?}");
        Ok(())
    })
    .await?;
    // A drain is done when all others have left.
    lab.cli(&["node", "drain", second, "--wait", "--timeout", "60s"]).await?.ok()?;
    ensure!(placed().await?.len() == 2, "{:?}", placed().await?);
    lab.cli(&["node", "uncordon", second]).await?.ok()?;
    lab.cli(&["node", "label", first, "logs-"]).await?.ok()?;
    wait_until("the first host to have none", SOON, async || {
        let placed = placed().await?;
        ensure!(placed == [("log-1".to_owned(), second.clone())], "{placed:?}");
        Ok(())
    })
    .await?;
    let refused = lab.cli(&["scale", "log=3"]).await?;
    ensure!(refused.stderr.contains("one instance on every node"), "{}", refused.stderr);
    lab.cli(&["rm", "log", "--wait"]).await?.ok()?;
    Ok(())
}

async fn what_is_declared_stopped_stays_so_over_restarts(lab: &Lab) -> Result<()> {
    let (before, rows) = (lab.containers().await?, lab.ps().await?.of("web"));
    lab.apply(&format!("{WEB}    stopped: true\n")).await?.ok()?;
    lab.cli(&["wait", "web", "--for", "stopped"]).await?.ok()?;
    lab.stop_controller(Signal::SIGKILL).await?;
    for host in lab.hosts() {
        host.stop_agent(Signal::SIGKILL).await?;
        host.start_agent().await?;
    }
    lab.start_controller().await?;
    wait_until("the agents to say that they are stopped", SOON, async || {
        let web = lab.ps().await?.of("web");
        ensure!(web.len() == 2 && web.iter().all(|one| one.phase == Phase::Stopped), "{web:?}");
        Ok(())
    })
    .await?;
    let now = lab.containers().await?;
    ensure!(now.iter().all(|container| container.pid.is_none()), "{now:?}");
    let status = lab.cli(&["status"]).await?;
    ensure!(status.code() == 0, "it is as somebody asked, but {status:?}");
    // A file that does not say leaves it as it is.
    lab.apply(WEB).await?.ok()?;
    let web = lab.ps().await?.of("web");
    ensure!(web.iter().all(|one| one.phase == Phase::Stopped), "{web:?}");
    lab.cli(&["start", "web", "--wait"]).await?.ok()?;
    let after = lab.wait_exactly("web", 2, SOON).await?;
    ensure!(ids(&after) == ids(&before), "{before:?} became {after:?}");
    same_place(lab, &rows).await
}

async fn a_chosen_one_gets_a_new_container(lab: &Lab) -> Result<()> {
    let (before, rows) = (lab.wait_exactly("web", 2, SOON).await?, lab.ps().await?.of("web"));
    lab.exec("web-0", &["touch", "/tmp/mess"]).await?.ok()?;
    lab.cli(&["replace", "web-0", "--wait"]).await?.ok()?;
    let after = lab.wait_exactly("web", 2, SOON).await?;
    ensure!(
        before.iter().all(|one| one.instance != "web-0" || !ids(&after).contains(one.id.as_str())),
        "{after:?}"
    );
    let others: Vec<_> = before.into_iter().filter(|one| one.instance != "web-0").collect();
    ensure_untouched(&others, &after)?;
    ensure!(
        lab.exec("web-0", &["test", "-e", "/tmp/mess"]).await?.code() != 0,
        "it is the old one"
    );
    same_place(lab, &rows).await
}

async fn what_does_not_hold_is_put_back(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 2, SOON).await?;
    lab.exec("web-0", &["touch", "/data/broken"]).await?.ok()?;
    let replaced = lab.cli(&["replace", "web-0", "--wait"]).await?;
    ensure!(replaced.code() != 0 && replaced.stderr.contains("was not replaced"), "{replaced:?}");
    lab.cli(&["wait", "web"]).await?.ok()?;
    let after = lab.wait_exactly("web", 2, LIMIT).await?;
    ensure!(ids(&after) == ids(&before), "{before:?} became {after:?}");
    let history = lab.cli(&["history", "web"]).await?.ok()?;
    ensure!(!history.contains("ruled out"), "{history}");
    Ok(())
}

fn ids(containers: &[Container]) -> BTreeSet<&str> {
    containers.iter().map(|container| container.id.as_str()).collect()
}

/// Whether both are where they were, at the addresses that they had, with what they wrote.
async fn same_place(lab: &Lab, rows: &[InstanceRow]) -> Result<()> {
    let places = |rows: &[InstanceRow]| {
        rows.iter().map(|row| (row.node.clone(), row.address.clone())).collect::<Vec<_>>()
    };
    let now = lab.ps().await?.of("web");
    ensure!(places(&now) == places(rows), "{rows:?} became {now:?}");
    for web in ["web-0", "web-1"] {
        let marker = lab.exec(web, &["cat", "/data/marker"]).await?.ok()?;
        ensure!(marker.trim() == web, "the volume of {web} has {marker:?}");
    }
    Ok(())
}
