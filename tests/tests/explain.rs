//! The network explains itself: what a route is like from every node, and what is wrong with a host.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{Image, Lab, LabConfig, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn routes_are_checked_and_faults_are_named_with_their_remedy() -> Result<()> {
    Lab::test(LabConfig::new("explain").hosts(3).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply("workloads:\n  web:\n    image: hello\n    replicas: 3\n").await?.ok()?;
        lab.wait_well("web", 3, LIMIT).await?;
        every_node_has_a_working_route(lab).await.context("routes")?;
        a_fault_is_named_and_its_remedy_works(lab).await.context("doctor")?;
        tunnels_need_no_route(lab).await.context("tunnels")
    })
    .await
}

async fn every_node_has_a_working_route(lab: &Lab) -> Result<()> {
    wait_until("all routes to work", SOON, async || {
        let table = lab.cli(&["route", "check", "web-0"]).await?.ok()?;
        ensure!(["h1", "h2", "h3"].iter().all(|node| table.contains(node)), "{table}");
        Ok(())
    })
    .await?;
    // One host loses the way to the instance's node, behind dwell's back and beyond its repair.
    let row = lab.ps().await?.of("web").swap_remove(0);
    let victim =
        lab.hosts().iter().find(|host| host.name() != row.node).context("no other host")?;
    let bare = format!("{}/32", row.address);
    victim.exec(&["ip", "route", "add", "blackhole", &bare]).await?.ok()?;
    let checked = lab.cli(&["route", "check", "web-0", "-o", "json"]).await?;
    ensure!(checked.code() == 1 && checked.stdout.contains(&victim.name()), "{checked:?}");
    victim.exec(&["ip", "route", "del", "blackhole", &bare]).await?.ok()?;
    lab.cli(&["route", "check", "web-0"]).await?.ok()?;
    Ok(())
}

async fn a_fault_is_named_and_its_remedy_works(lab: &Lab) -> Result<()> {
    let findings = async |outcome: &str| -> Result<Vec<Value>> {
        let said = lab.host(1).run_agent(&["doctor", "-o", "json"]).await?;
        let all: Value = serde_json::from_str(&said.stdout)
            .with_context(|| format!("the doctor says {said:?}"))?;
        let list = all.as_array().or_else(|| all["findings"].as_array()).cloned();
        let list = list.context("no list of findings")?;
        Ok(list.into_iter().filter(|one| one["outcome"] == outcome).collect())
    };
    let healthy = findings("problem").await?;
    lab.host(1).exec(&["sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1"]).await?.ok()?;
    lab.host(1).exec(&["iptables", "-P", "FORWARD", "DROP"]).await?.ok()?;
    let fleet = lab.cli(&["doctor"]).await?;
    ensure!(["h1", "h2", "h3"].iter().all(|node| fleet.stdout.contains(node)), "{fleet:?}");
    ensure!(healthy.is_empty(), "on a host that is well: {healthy:#?}");
    Ok(())
}

async fn tunnels_need_no_route(lab: &Lab) -> Result<()> {
    // The machine has no routes into the fleet here.
    let row = lab.ps().await?.of("web").swap_remove(0);
    ensure!(lab.get(row.at(8080)?).await.is_err(), "there is a route");
    let hostname = wait_until("dwell ssh", SOON, async || {
        lab.cli(&["ssh", "web-0", "--", "hostname"]).await?.ok()
    })
    .await?;
    ensure!(hostname.trim() == "web-0", "{hostname}");
    let failed = lab.cli(&["ssh", "web-0", "--", "exit", "7"]).await?;
    ensure!(failed.code() == 7, "{failed:?}");
    let file = lab.layout().dir().join("copied");
    std::fs::write(&file, "through the tunnel")?;
    let path = file.to_str().context("the lab's path is not UTF-8")?;
    lab.cli(&["cp", path, "web-1:/tmp/copied"]).await?.ok()?;
    ensure!(lab.exec("web-1", &["cat", "/tmp/copied"]).await?.ok()? == "through the tunnel");
    lab.cli(&["cp", "web-1:/tmp/copied", &format!("{path}.back")]).await?.ok()?;
    ensure!(std::fs::read_to_string(format!("{path}.back"))? == "through the tunnel");

    let mut forward = lab.cli_command(&["port-forward", "web-2", "0:8080"])?;
    forward
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true);
    let mut child = forward.spawn()?;
    let (out, err) =
        (child.stdout.take().context("no output")?, child.stderr.take().context("none")?);
    let port = wait_for_port(out, err).await?;
    let said = lab.get(([127, 0, 0, 1], port).into()).await?;
    ensure!(said.contains("web-2"), "{said}");
    child.kill().await?;
    Ok(())
}

/// The port that the first line on either stream names.
async fn wait_for_port(
    out: tokio::process::ChildStdout,
    err: tokio::process::ChildStderr,
) -> Result<u16> {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let (mut out, mut err) = (BufReader::new(out).lines(), BufReader::new(err).lines());
    let line = tokio::select! {
        Ok(Some(line)) = out.next_line() => line,
        Ok(Some(line)) = err.next_line() => line,
        () = tokio::time::sleep(SOON) => anyhow::bail!("it does not say where it listens"),
    };
    let digits = line.split("127.0.0.1:").nth(1).unwrap_or_default();
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("no port in {line:?}"))
}
