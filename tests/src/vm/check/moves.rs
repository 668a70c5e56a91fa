//! Instances that go from one node to another.

use anyhow::{Result, ensure};

use super::addresses;
use crate::{
    lab::wait_until,
    vm::fleet::{Fleet, WEB, WELL_LIMIT},
};

/// An instance without a volume, which may be anywhere.
const ROVER: &str = "workloads:
  rover:
    image: hello
    replicas: 2
    resources: {cpu: 100m, memory: 32Mi}
    healthcheck: {http: ':8080/', interval: 10s, timeout: 30s, retries: 5}
    update: {deadline: 15m}
";

pub(super) async fn drain(fleet: &Fleet) -> Result<String> {
    fleet.apply(ROVER).await?;
    let wait = async |away_from: Option<&str>| {
        wait_until("all rovers to be well", WELL_LIMIT, async || {
            let rows = fleet.instances("rover").await?;
            let stays = |node: &str| Some(node) != away_from;
            let well = rows.iter().filter(|row| row.is_well() && stays(&row.node)).count();
            ensure!(well == 2, "{well} of 2 are: {rows:?}");
            Ok(rows)
        })
        .await
    };
    let before = wait(None).await?;
    fleet.wait_reached(&before).await?;
    let node = fleet.guests()[1].name();
    fleet.cli(&format!("node drain {node}")).await?;
    let after = wait(Some(&node)).await?;
    ensure!(addresses(&before) == addresses(&after), "{before:?} became {after:?}");
    fleet.wait_reached(&after).await?;
    fleet.cli(&format!("node uncordon {node}")).await?;
    fleet.cli("rm rover").await?;
    wait_until("the rovers to be gone", WELL_LIMIT, async || {
        let left = fleet.instances("rover").await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    let moved = before.iter().filter(|row| row.node == node).count();
    fleet.wait_well().await?;
    ensure!(fleet.instances(WEB).await?.len() == fleet.guests().len(), "web has lost an instance");
    Ok(format!(
        "{moved} moved away from {node} with their addresses, and are reached from both nodes"
    ))
}
