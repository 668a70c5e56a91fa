//! A new authority for a fleet that runs: nobody who is there notices, and the old one is worth nothing at the end.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use dwell_tests::lab::{
    Image, Lab, LabConfig, Output, Person, Signal, ensure_untouched, run, wait_until,
};
use serde::Deserialize;

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);

#[derive(Debug, Deserialize)]
struct Status {
    authorities: Vec<Authority>,
    nodes: Vec<Named>,
    contexts: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Authority {
    number: u32,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

async fn status(lab: &Lab) -> Result<Status> {
    lab.cli(&["ca", "status", "-o", "json"]).await?.json()
}

/// How many CAs a host trusts, by what is on its disk.
fn trusted(lab: &Lab, host: usize) -> Result<usize> {
    let text = fs::read_to_string(lab.host(host).dir().join("agent/identity.json"))?;
    Ok(text.matches("BEGIN CERTIFICATE").count() - 1)
}

#[tokio::test]
async fn a_rotation_under_a_fleet_that_runs() -> Result<()> {
    let config = LabConfig::new("rotation").hosts(2).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        lab.apply("workloads: {web: {image: hello, replicas: 2}}").await?.ok()?;
        let before = lab.wait_exactly("web", 2, LIMIT).await?;
        lab.route_machine().await?;
        let old = context(lab, "old").await?;
        // Two people, each with a certificate of another user CA.
        let ann = lab.person("ann").await?;
        let sign = async |key: &str| {
            let words = ["key", "sign", key, "--principal", "root", "--valid", "1h"];
            lab.cli(&words).await?.ok()
        };
        let path = |person: &Person| person.key().with_extension("pub");
        sign(path(&ann).to_str().context("not UTF-8")?).await?;
        let logs_in = async |person: &Person| {
            let said = person.ssh(&["root@web-0.dwell", "true"]).await?;
            ensure!(said.status.success(), "{}", said.stderr);
            Ok(())
        };
        wait_until("ann to log in", SOON, async || logs_in(&ann).await).await?;

        // One host is away when it begins.
        lab.host(2).stop_agent(Signal::SIGKILL).await?;
        lab.cli(&["ca", "rotate"]).await?.ok()?;
        wait_until("the node that is there to renew", SOON, async || {
            let now = status(lab).await?;
            let nodes: Vec<_> = now.nodes.iter().map(|node| node.name.as_str()).collect();
            ensure!(nodes == ["h2"] && now.authorities.len() == 2, "{now:?}");
            ensure!(trusted(lab, 1)? == 2);
            Ok(())
        })
        .await?;
        // `lab.person` reads the known hosts anew; those of ann are from before, and still right.
        logs_in(&ann).await?;
        let bob = lab.person("bob").await?;
        sign(path(&bob).to_str().context("not UTF-8")?).await?;
        wait_until("bob to log in", SOON, async || logs_in(&bob).await).await?;
        let new = context(lab, "new").await?;
        with_context(lab, &old).await?.ok()?;
        with_context(lab, &new).await?.ok()?;
        let refused = lab.cli(&["ca", "finish"]).await?;
        ensure!(!refused.status.success(), "it cut somebody off");
        ensure!(
            refused.stderr.contains("node h2") && refused.stderr.contains("old ("),
            "{}",
            refused.stderr
        );

        // The controller is killed in the middle, and the host comes back.
        lab.stop_controller(Signal::SIGKILL).await?;
        lab.start_controller().await?;
        lab.host(2).start_agent().await?;
        wait_until("the other node to renew", LIMIT, async || {
            let now = status(lab).await?;
            ensure!(now.nodes.is_empty() && now.contexts.len() == 1, "{now:?}");
            Ok(())
        })
        .await?;
        ensure!(status(lab).await?.contexts[0].name == "old");
        lab.cli(&["ca", "finish", "--force"]).await?.ok()?;
        wait_until("the old one to be trusted by nobody", LIMIT, async || {
            for host in [1, 2] {
                ensure!(trusted(lab, host)? == 1, "host {host} trusts both");
            }
            let now = status(lab).await?;
            ensure!(now.authorities.len() == 1 && now.authorities[0].number == 2, "{now:?}");
            ensure!(logs_in(&ann).await.is_err(), "ann's certificate still counts");
            Ok(())
        })
        .await?;
        let cut_off = with_context(lab, &old).await?;
        ensure!(!cut_off.status.success(), "the old context still counts");
        with_context(lab, &new).await?.ok()?;
        // Bob's certificate is the new one's, and so are the host keys' by now, whose line is in both lines of his.
        wait_until("bob to log in", SOON, async || logs_in(&bob).await).await?;
        ensure_untouched(&before, &lab.wait_exactly("web", 2, LIMIT).await?)?;
        let events = lab.cli(&["events"]).await?.ok()?;
        ensure!(events.contains("authority-rotated") && events.contains("authority-retired"));
        Ok(())
    })
    .await
}

/// The file of a context for a person.
async fn context(lab: &Lab, name: &str) -> Result<String> {
    let path = lab.layout().dir().join(format!("{name}.yaml"));
    let path = path.to_str().context("the lab's path is not UTF-8")?.to_owned();
    lab.cli(&["context", "issue", name, "--file", &path]).await?.ok()?;
    Ok(path)
}

/// Asks for the instances from elsewhere.
async fn with_context(lab: &Lab, file: &str) -> Result<Output> {
    let words = ["--context", file, "ps"];
    run(lab.program("dwell")?, &words).await
}
