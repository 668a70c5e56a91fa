//! Programs that do not do what one would wish: that listen late, end by themselves, do not end when they are told to, or
//! leave children behind. Everything here has the default settings, unless the documentation says to set something.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{
    Container, Image, InstanceRow, Lab, LabConfig, ensure_untouched, wait_until,
};

const LIMIT: Duration = Duration::from_secs(90);

/// Programs that listen after 0.3, 3 and 75 s; the last one says so with its start period.
fn late(version: u32) -> String {
    let program = |name: &str, replicas: u32, seconds: &str, check: &str| {
        format!(
            "  {name}:\n    image: hello\n    replicas: {replicas}\n    command: [/program, late, '{seconds}']\n    \
             environment: {{VERSION: '{version}'}}\n    healthcheck: {{{check}}}\n"
        )
    };
    format!(
        "workloads:\n{}{}{}",
        program("soon", 2, "0.3", "tcp: 8080"),
        program("later", 2, "3", "tcp: 8080"),
        program("late", 1, "75", "tcp: 8080, start_period: 90s"),
    )
}

#[tokio::test]
async fn programs_that_listen_late_are_started_and_updated_with_the_default_settings() -> Result<()>
{
    let limit = Duration::from_secs(200);
    Lab::test(LabConfig::new("late").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        for version in [1, 2] {
            lab.cli_with(&["apply", "-f", "-", "--wait"], &late(version), limit).await?.ok()?;
            for (workload, count) in [("soon", 2), ("later", 2), ("late", 1)] {
                for row in lab.wait_well(workload, count, Duration::from_secs(10)).await? {
                    let asked = lab.exec(&row.name, &["sh", "-c", "echo $VERSION"]).await?.ok()?;
                    ensure!(asked.trim() == version.to_string(), "{row:?} is at {asked}");
                }
            }
        }
        Ok(())
    })
    .await
}

/// A program without a health check.
fn web(command: &str) -> String {
    format!("workloads:\n  web:\n    image: hello\n    replicas: 2\n{command}")
}

#[tokio::test]
async fn a_version_that_ends_by_itself_is_put_back_and_reaches_no_second_instance() -> Result<()> {
    Lab::test(LabConfig::new("ends").hosts(1).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.cli_with(&["apply", "-f", "-", "--wait"], &web(""), LIMIT).await?.ok()?;
        for seconds in ["0.5", "3"] {
            let before = lab.wait_exactly("web", 2, LIMIT).await?;
            let command = format!("    command: [/program, ends, '{seconds}']\n");
            lab.apply(&web(&command)).await?.ok()?;
            wait_until("the rollout to pause", LIMIT, async || {
                let rows = lab.ps().await?.workloads;
                let row = rows.into_iter().find(|row| row.name == "web");
                let message = row.context("web is not there")?.message;
                ensure!(message.starts_with("rollout paused"), "{message:?}");
                Ok(())
            })
            .await?;
            let after = lab.wait_exactly("web", 2, LIMIT).await?;
            ensure_untouched(&before[1..], &after[1..])
                .with_context(|| format!("web-1 was reached by what ends after {seconds} s"))?;
            ensure!(before[0].id == after[0].id, "web-0 has another container than before");
            lab.cli_with(&["apply", "-f", "-", "--wait"], &web(""), LIMIT).await?.ok()?;
        }
        Ok(())
    })
    .await
}

/// One ignores that it is told to end, the other one's first process waits for none of its children.
const RUDE: &str = "
workloads:
  deaf:
    image: hello
    command: [/program, deaf]
    stop_grace_period: 4s
  litter:
    image: hello
    command: [/program, litter]
    healthcheck: {tcp: 8080}
";

#[tokio::test]
async fn what_ignores_its_end_is_ended_after_its_grace_and_what_litters_does_no_harm() -> Result<()>
{
    Lab::test(LabConfig::new("rude").hosts(1).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(RUDE).await?.ok()?;
        lab.wait_exactly("deaf", 1, LIMIT).await?;
        let litter = lab.wait_well("litter", 1, LIMIT).await?.swap_remove(0);
        ends_after_its_grace(lab).await.context("deaf")?;
        does_no_harm(lab, &litter).await.context("litter")
    })
    .await
}

async fn ends_after_its_grace(lab: &Lab) -> Result<()> {
    let began = Instant::now();
    lab.cli(&["rm", "deaf", "--wait"]).await?.ok()?;
    let taken = began.elapsed();
    let grace = Duration::from_secs(4);
    ensure!(taken >= grace, "it was ended after {taken:?}, before its grace was over");
    ensure!(taken < grace + Duration::from_secs(8), "it was ended after {taken:?}");
    lab.wait_exactly("deaf", 0, LIMIT).await?;
    Ok(())
}

async fn does_no_harm(lab: &Lab, row: &InstanceRow) -> Result<()> {
    wait_until("children to be left behind", LIMIT, async || {
        let states = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '";
        let zombies = lab.exec(&row.name, &["sh", "-c", states]).await?.stdout;
        let count: u32 = zombies.trim().parse().context("no number")?;
        ensure!(count >= 10, "{count} are");
        Ok(())
    })
    .await?;
    let before = lab.wait_exactly("litter", 1, LIMIT).await?;
    ensure!(
        lab.wait_well("litter", 1, LIMIT).await?[0].restarts == row.restarts,
        "it was restarted"
    );
    lab.cli(&["restart", "litter", "--wait"]).await?.ok()?;
    let after: Vec<Container> = lab.wait_exactly("litter", 1, LIMIT).await?;
    ensure!(before[0].pid != after[0].pid, "it was not restarted");
    lab.cli(&["rm", "litter", "--wait"]).await?.ok()?;
    lab.wait_exactly("litter", 0, LIMIT).await?;
    Ok(())
}
