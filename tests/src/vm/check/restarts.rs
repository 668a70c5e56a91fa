//! Restarts of units, of dwell's and of Docker's.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;

use super::{
    addresses,
    engines::{FORGET_LIVE_RESTORE, turn_live_restore_on},
};
use crate::vm::fleet::Fleet;

pub(super) async fn units(fleet: &Fleet) -> Result<String> {
    fleet
        .untouched("restarting dwell-controller", async {
            fleet.first().sh("systemctl restart dwell-controller").await.map(drop)
        })
        .await?;
    for unit in ["dwell-sandboxes", "dwell-agent", "dwell-ssh"] {
        let restart = format!("systemctl restart {unit}");
        fleet
            .untouched(&format!("restarting {unit}"), async {
                let restarting = fleet.guests().iter().map(|guest| guest.sh(&restart));
                try_join_all(restarting).await.map(drop)
            })
            .await?;
    }
    // It ends the instances when the host shuts down, and otherwise only complains.
    fleet
        .untouched("restarting dwell-instances", async {
            for guest in fleet.guests() {
                guest.run("systemctl restart dwell-instances").await?;
                guest.sh("systemctl start dwell-instances").await?;
            }
            Ok(())
        })
        .await?;
    Ok("controller, sandboxes, agent, ssh and instances were restarted under the same containers"
        .to_owned())
}

pub(super) async fn engine(fleet: &Fleet) -> Result<String> {
    let (before, were) = (addresses(&fleet.wait_well().await?), fleet.processes().await?);
    try_join_all(fleet.guests().iter().map(|guest| guest.sh("systemctl restart docker"))).await?;
    let after = addresses(&fleet.wait_well().await?);
    ensure!(before == after, "the addresses {before:?} became {after:?}");
    ensure!(were != fleet.processes().await?, "Docker was not restarted at all");
    Ok("Docker ended the containers, the agent started them with the same addresses".to_owned())
}

pub(super) async fn engine_with_live_restore(fleet: &Fleet) -> Result<String> {
    try_join_all(fleet.guests().iter().map(turn_live_restore_on)).await?;
    let restarted = fleet
        .untouched("restarting docker with live-restore", async {
            let restarting =
                fleet.guests().iter().map(|guest| guest.sh("systemctl restart docker"));
            try_join_all(restarting).await.map(drop)
        })
        .await;
    try_join_all(fleet.guests().iter().map(|guest| guest.sh(FORGET_LIVE_RESTORE))).await?;
    restarted.context("with live-restore")?;
    Ok("the same processes before and after".to_owned())
}
