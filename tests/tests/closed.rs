//! A cluster whose instances are closed to all unless their workload says who may reach them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{Image, Lab, LabConfig, Signal, ensure_untouched, wait_until};
use futures_util::future::try_join_all;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(90);

/// One that says nothing of who may reach it, and one that does.
const WORKLOADS: &str = "
workloads:
  silent:
    image: hello
    replicas: 2
    healthcheck: {http: ':8080/', interval: 1s}
  pair:
    image: hello
    replicas: 2
    network: {allow_from: [same-workload]}
    healthcheck: {http: ':8080/', interval: 1s}
";

#[tokio::test]
async fn closed_unless_told_otherwise() -> Result<()> {
    Lab::test(LabConfig::new("shut").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.set_controller(&json!({"isolation": "closed"}))?;
        lab.start_fleet().await?;
        lab.route_machine().await?;
        lab.apply(WORKLOADS).await?.ok()?;
        // Being healthy they are probed, which nobody had to allow.
        lab.wait_exactly("silent", 2, LIMIT).await?;
        lab.wait_exactly("pair", 2, LIMIT).await?;
        let before = lab.containers().await?;
        only_these_reach(lab, "silent-0", &[]).await?;
        only_these_reach(lab, "pair-0", &["pair-1"]).await?;
        the_operators_ways_are_open(lab).await.context("operators")?;
        names_are_told(lab).await.context("names")?;

        switch(lab, "open").await?;
        let all = ["silent-1", "pair-0", "pair-1", "neighbour", "machine"];
        only_these_reach(lab, "silent-0", &all).await.context("opened")?;
        only_these_reach(lab, "pair-0", &["pair-1"]).await.context("opened")?;
        switch(lab, "closed").await?;
        only_these_reach(lab, "silent-0", &[]).await.context("closed again")?;
        lab.wait_well("silent", 2, SOON).await?;
        ensure_untouched(&before, &lab.containers().await?)
    })
    .await
}

/// Starts the controller anew with the switch set so.
async fn switch(lab: &Lab, isolation: &str) -> Result<()> {
    lab.stop_controller(Signal::SIGTERM).await?;
    lab.set_controller(&json!({"isolation": isolation}))?;
    lab.start_fleet().await
}

/// Waits until `expected` reach an instance, and nobody else of those there are. The neighbour is the host
/// that it is not on; its own is not asked, since that is who probes it.
async fn only_these_reach(lab: &Lab, instance: &str, expected: &[&str]) -> Result<()> {
    let rows = lab.ps().await?.instances;
    let row = rows.iter().find(|row| row.name == instance).context("it is gone")?;
    let at = row.at(8080)?;
    let neighbour = lab.hosts().iter().find(|host| host.name() != row.node);
    let neighbour = neighbour.context("it has no neighbour")?;
    let url = format!("http://{at}/");
    let others = rows.iter().map(|row| &*row.name).filter(|name| *name != instance);
    let callers = others.chain(["neighbour", "machine"]);
    try_join_all(callers.map(async |from| {
        let wanted = expected.contains(&from);
        let what = if wanted { "reach" } else { "not reach" };
        wait_until(&format!("{from} to {what} {instance}"), SOON, async || {
            let reaches = match from {
                "machine" => lab.get(at).await.is_ok(),
                "neighbour" => neighbour.get(at).await.is_ok(),
                _ => {
                    let ask = ["timeout", "2", "wget", "-q", "-O", "-", &url];
                    lab.exec(from, &ask).await?.code() == 0
                }
            };
            ensure!(reaches == wanted, "it is otherwise");
            Ok(())
        })
        .await
    }))
    .await?;
    Ok(())
}

/// `dwell exec`, `dwell ssh` and `dwell port-forward` go by the node, which is never shut out.
async fn the_operators_ways_are_open(lab: &Lab) -> Result<()> {
    for name in ["silent-0", "silent-1"] {
        let said = lab.exec(name, &["hostname"]).await?.ok()?;
        ensure!(said.trim() == name, "exec: {said}");
        let said = lab.cli(&["ssh", name, "--", "hostname"]).await?.ok()?;
        ensure!(said.trim() == name, "ssh: {said}");
        let forward = lab.forward(name, &[8080]).await?;
        let answer = lab.get(forward.at()[0]).await?;
        ensure!(answer.contains(name), "port-forward: {answer}");
    }
    Ok(())
}

async fn names_are_told(lab: &Lab) -> Result<()> {
    let address = lab.ps().await?.of("pair").swap_remove(0).address;
    let said = lab.exec("silent-0", &["timeout", "5", "nslookup", "pair-0.dwell"]).await?.ok()?;
    ensure!(said.contains(&address), "{said}");
    Ok(())
}
