//! Who may reach an instance: by workload, by label, by range, by port; and nobody sends under another's address.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dwell_tests::lab::{Image, Lab, LabConfig, hold_for, wait_until};

const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(90);
const MOMENT: Duration = Duration::from_millis(600);

fn manifest(allow_from: &str) -> String {
    format!(
        "
workloads:
  db:
    image: hello
    replicas: 2
    network: {{allow_from: {allow_from}}}
    healthcheck: {{http: ':8080/', interval: 1s}}
  front:
    image: hello
    labels: {{tier: front}}
  other:
    image: hello
    replicas: 2
"
    )
}

#[tokio::test]
async fn only_those_who_are_let_in_reach_an_instance() -> Result<()> {
    Lab::test(LabConfig::new("isolation").hosts(3).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.route_machine().await?;
        let cases: [(&str, &str, &[&str]); 9] = [
            ("any", "[any]", &["db-1", "front-0", "other-0", "machine"]),
            ("nobody", "[]", &[]),
            ("its own", "[same-workload]", &["db-1"]),
            ("a workload", "[front]", &["front-0"]),
            ("a label", "[{labels: {tier: front}}]", &["front-0"]),
            ("several", "[same-workload, other]", &["db-1", "other-0", "other-1"]),
            ("the port", "[{workload: front, ports: [8080]}]", &["front-0"]),
            ("another port", "[{workload: front, ports: [8081, 9000-9100]}]", &[]),
            ("a range", "['10.99.0.0/16']", &["machine"]),
        ];
        let mut before = None;
        for (what, allow_from, expected) in cases {
            lab.apply(&manifest(allow_from)).await?.ok()?;
            for (workload, count) in [("db", 2), ("front", 1), ("other", 2)] {
                lab.wait_well(workload, count, LIMIT).await?;
            }
            exactly_these(lab, expected).await.context(what)?;
            // It is changed without touching a container.
            let containers = lab.containers().await?;
            if let Some(before) = before.replace(containers.clone()) {
                dwell_tests::lab::ensure_untouched(&before, &containers)?;
            }
        }
        a_newcomer_is_let_in(lab).await.context("a newcomer")?;
        an_address_cannot_be_borrowed(lab).await.context("spoofing")
    })
    .await
}

/// Whether `from` gets an answer of the database's first instance.
async fn reaches(lab: &Lab, from: &str) -> Result<bool> {
    let db = lab.ps().await?.of("db").swap_remove(0).at(8080)?;
    if from == "machine" {
        return Ok(lab.get(db).await.is_ok());
    }
    let url = format!("http://{db}/");
    let said = lab.exec(from, &["timeout", "2", "wget", "-q", "-O", "-", &url]).await?;
    Ok(said.code() == 0)
}

async fn exactly_these(lab: &Lab, expected: &[&str]) -> Result<()> {
    for from in ["db-1", "front-0", "other-0", "other-1", "machine"] {
        let all = expected.contains(&"other-0") && expected.contains(&"machine");
        if from == "other-1" && all {
            continue;
        }
        let wanted = expected.contains(&from);
        wait_until(
            &format!("{from} to be {}", if wanted { "let in" } else { "kept out" }),
            SOON,
            async || {
                ensure!(reaches(lab, from).await? == wanted, "it is not");
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}

async fn a_newcomer_is_let_in(lab: &Lab) -> Result<()> {
    lab.apply(&manifest("[other]")).await?.ok()?;
    lab.cli(&["scale", "other=3", "--wait"]).await?.ok()?;
    wait_until("the newcomer to be let in", SOON, async || {
        ensure!(reaches(lab, "other-2").await?, "it is not");
        Ok(())
    })
    .await?;
    // And one that is new to the closed workload is closed from the start.
    lab.apply(&manifest("[]").replace("replicas: 2\n    network", "replicas: 3\n    network"))
        .await?
        .ok()?;
    hold_for("the new one to be closed", Duration::from_secs(5), async || {
        let Some(new) = lab.ps().await?.of("db").into_iter().nth(2) else { return Ok(()) };
        let Ok(at) = new.at(8080) else { return Ok(()) };
        if tokio::time::timeout(MOMENT, lab.host(1).get(at)).await.is_ok_and(|said| said.is_ok()) {
            // Its own host is not kept out: that is who probes its health.
            ensure!(new.node == "h1", "it answered a stranger");
        }
        Ok(())
    })
    .await
}

async fn an_address_cannot_be_borrowed(lab: &Lab) -> Result<()> {
    lab.apply(&manifest("[front]")).await?.ok()?;
    let ps = lab.ps().await?;
    let (front, thief) = (ps.of("front").swap_remove(0), ps.of("other").swap_remove(0));
    let db = ps.of("db").swap_remove(0);
    wait_until("the rule", SOON, async || {
        ensure!(reaches(lab, "front-0").await? && !reaches(lab, "other-0").await?, "not yet");
        Ok(())
    })
    .await?;
    let host = lab.hosts().iter().find(|host| host.name() == thief.node);
    let Some(host) = host else { bail!("{} is nowhere", thief.name) };
    let netns = format!("--net={}", host.sandbox(&thief.name).display());
    let borrow = [
        "nsenter",
        &netns,
        "ip",
        "address",
        "add",
        &format!("{}/32", front.address),
        "dev",
        "eth0",
    ];
    host.exec(&borrow).await?.ok()?;
    let spoofed = [
        "nsenter",
        &netns,
        "busybox",
        "ping",
        "-c",
        "2",
        "-W",
        "1",
        "-I",
        &front.address,
        &db.address,
    ];
    let said = host.exec(&spoofed).await?;
    ensure!(said.code() != 0 && said.stdout.contains("0 packets received"), "{said:?}");
    Ok(())
}
