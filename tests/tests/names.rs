//! Names: every instance answers to its own, and a workload's name leads to those that are healthy.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{Image, Lab, LabConfig, Signal, wait_until};

const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(90);

const WORKLOADS: &str = "
workloads:
  web:
    image: hello
    replicas: 3
    network: {expose: [8080]}
    healthcheck: {test: [CMD, test, '!', -e, /ill], interval: 200ms, retries: 1}
  client:
    image: hello
    replicas: 3
";

#[tokio::test]
async fn instances_find_each_other_by_name() -> Result<()> {
    Lab::test(LabConfig::new("names").hosts(3).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(WORKLOADS).await?.ok()?;
        lab.wait_well("web", 3, LIMIT).await?;
        lab.wait_well("client", 3, LIMIT).await?;
        every_name_leads_to_its_instance(lab).await.context("instances")?;
        a_workload_is_its_healthy_instances(lab).await.context("workloads")?;
        an_address_has_a_name(lab).await.context("addresses")?;
        the_short_name_will_do(lab).await.context("short names")?;
        nothing_is_told_to_strangers(lab).await.context("strangers")?;
        names_work_without_a_controller(lab).await.context("without a controller")
    })
    .await
}

/// What the resolver inside `from` says of `name`.
async fn lookup(lab: &Lab, from: &str, name: &str) -> Result<BTreeSet<String>> {
    let said = lab.exec(from, &["timeout", "5", "nslookup", name]).await?.ok()?;
    // After the lines about the server comes the answer.
    let answer = said.split_once("\n\n").map_or("", |(_, answer)| answer);
    let addresses = answer.lines().filter_map(|line| line.strip_prefix("Address: "));
    Ok(addresses.map(|address| address.trim().to_owned()).collect())
}

async fn every_name_leads_to_its_instance(lab: &Lab) -> Result<()> {
    for row in lab.ps().await?.instances {
        for client in ["client-0", "client-1", "client-2"] {
            wait_until(&format!("{client} to find {}", row.name), SOON, async || {
                let found = lookup(lab, client, &format!("{}.dwell", row.name)).await?;
                ensure!(found == BTreeSet::from([row.address.clone()]), "{found:?}");
                Ok(())
            })
            .await?;
        }
    }
    let unknown = lab.exec("client-0", &["nslookup", "nobody-0.dwell"]).await?;
    ensure!(format!("{}{}", unknown.stdout, unknown.stderr).contains("NXDOMAIN"), "{unknown:?}");
    Ok(())
}

async fn a_workload_is_its_healthy_instances(lab: &Lab) -> Result<()> {
    let all: BTreeSet<String> =
        lab.ps().await?.of("web").into_iter().map(|row| row.address).collect();
    let are = async |expected: &BTreeSet<String>| {
        wait_until("the workload's name to lead to the healthy", SOON, async || {
            for client in ["client-0", "client-1", "client-2"] {
                let found = lookup(lab, client, "web.dwell").await?;
                ensure!(found == *expected, "{found:?}, not {expected:?}");
            }
            Ok(())
        })
        .await
    };
    are(&all).await?;
    let ill = lab.ps().await?.of("web").swap_remove(1);
    lab.exec("web-1", &["touch", "/ill"]).await?.ok()?;
    let mut rest = all.clone();
    rest.remove(&ill.address);
    are(&rest).await?;
    // The instance itself is still found: somebody will want to look at it.
    let found = lookup(lab, "client-0", "web-1.dwell").await?;
    ensure!(found == BTreeSet::from([ill.address]), "{found:?}");
    lab.exec("web-1", &["rm", "/ill"]).await?.ok()?;
    are(&all).await
}

async fn an_address_has_a_name(lab: &Lab) -> Result<()> {
    let row = lab.ps().await?.of("web").swap_remove(0);
    let said = lab.exec("client-0", &["timeout", "5", "nslookup", &row.address]).await?.ok()?;
    ensure!(said.contains("web-0.dwell"), "{said}");
    let srv = ["timeout", "5", "nslookup", "-type=srv", "_8080._tcp.web.dwell"];
    let said = lab.exec("client-0", &srv).await?.ok()?;
    ensure!((0..3).all(|n| said.contains(&format!("8080 web-{n}.dwell"))), "{said}");
    Ok(())
}

async fn the_short_name_will_do(lab: &Lab) -> Result<()> {
    let url = "http://web-2:8080/";
    let said = lab.exec("client-0", &["timeout", "5", "wget", "-q", "-O", "-", url]).await?.ok()?;
    ensure!(said.contains("web-2"), "{said}");
    Ok(())
}

async fn nothing_is_told_to_strangers(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    let listening =
        host.exec(&["sh", "-c", "ss -Hlun 'sport = 53' | awk '{print $4}'"]).await?.ok()?;
    ensure!(listening.trim() == "169.254.1.1:53", "DNS listens on {listening:?}");
    Ok(())
}

async fn names_work_without_a_controller(lab: &Lab) -> Result<()> {
    lab.stop_controller(Signal::SIGKILL).await?;
    let container = |number: usize, name: &'static str| async move {
        let found = lab.host(number).containers().await?;
        anyhow::Ok(found.into_iter().find(|one| one.instance.starts_with(name)))
    };
    for number in 1..=3 {
        let client = container(number, "client").await?.context("no client there")?;
        let netns = format!("--net={}", lab.host(number).sandbox(&client.instance).display());
        for name in ["web.dwell", "web-0.dwell", "client-2.dwell"] {
            let words = ["nsenter", &netns, "busybox", "nslookup", name, "169.254.1.1"];
            let said = lab.host(number).exec(&words).await?.ok()?;
            ensure!(said.contains("Address: 10."), "{name}: {said}");
        }
        // Also after an agent that knew them from the controller is gone.
        lab.host(number).stop_agent(Signal::SIGKILL).await?;
        lab.host(number).start_agent().await?;
        wait_until("the new agent to answer", SOON, async || {
            let words = ["nsenter", &netns, "busybox", "nslookup", "web.dwell", "169.254.1.1"];
            lab.host(number).exec(&words).await?.ok()
        })
        .await?;
    }
    lab.start_controller().await
}
