//! `dwell node reboot`, as far as hosts that share one kernel can have it: none of them comes into another boot.

use std::time::Duration;

use anyhow::{Result, ensure};
use dwell_tests::lab::{Image, Lab, LabConfig, Signal, hold_for, wait_until};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn a_host_is_drained_told_to_reboot_once_and_waited_for() -> Result<()> {
    Lab::test(LabConfig::new("reboot").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply("workloads: {web: {image: hello, replicas: 2}}").await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        let refused = lab.cli(&["node", "reboot", "h2"]).await?;
        ensure!(refused.stderr.contains("reboot_command"), "{refused:?}");

        let host = lab.host(2);
        let asked = host.dir().join("asked");
        let note = format!("echo reboot >> {}", asked.display());
        host.set_agent(&json!({"reboot_command": ["sh", "-c", note]}))?;
        host.stop_agent(Signal::SIGTERM).await?;
        host.start_agent().await?;
        let order = ["node", "reboot", "h2", "--back-deadline", "20s"];
        wait_until("the order to be taken", LIMIT, async || lab.cli(&order).await?.ok().map(drop))
            .await?;
        let asked = || std::fs::read_to_string(&asked).unwrap_or_default();
        wait_until("the host to be told", LIMIT, async || {
            ensure!(asked() == "reboot\n", "it was told {:?}", asked());
            Ok(())
        })
        .await?;
        is_empty(lab).await?;

        // Whoever crashes amid it, it is done once.
        host.stop_agent(Signal::SIGKILL).await?;
        lab.stop_controller(Signal::SIGKILL).await?;
        lab.start_controller().await?;
        host.start_agent().await?;
        hold_for("one reboot", Duration::from_secs(8), async || {
            ensure!(asked() == "reboot\n", "it was told {:?}", asked());
            Ok(())
        })
        .await?;
        wait_until("the missing reboot to be told", LIMIT, async || {
            let events = lab.cli(&["events"]).await?.ok()?;
            ensure!(events.contains("reboot-failed"), "{events}");
            Ok(())
        })
        .await?;
        is_empty(lab).await?;
        lab.cli(&["node", "uncordon", "h2"]).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await.map(drop)
    })
    .await
}

/// Both instances are on the other host.
async fn is_empty(lab: &Lab) -> Result<()> {
    let rows = lab.ps().await?.of("web");
    ensure!(rows.len() == 2 && rows.iter().all(|row| row.node == "h1"), "{rows:#?}");
    Ok(())
}
