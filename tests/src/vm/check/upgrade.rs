//! A later version of the packages.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;

use super::install::install;
use crate::vm::fleet::Fleet;

pub(super) async fn packages(fleet: &Fleet) -> Result<String> {
    const PIDS: &str = "systemctl show -P MainPID dwell-agent dwell-sandboxes dwell-ssh | grep .";
    let directory = tempfile::tempdir().context("cannot make a directory to work in")?;
    let later = fleet.later_packages(directory.path()).await?;
    let pids = async || try_join_all(fleet.guests().iter().map(|guest| guest.sh(PIDS))).await;
    let before = pids().await?;
    fleet
        .untouched("an upgrade", async {
            try_join_all(fleet.guests().iter().map(|guest| install(guest, &later))).await.map(drop)
        })
        .await?;
    let after = pids().await?;
    for (before, after) in before.iter().zip(&after) {
        let same = before.lines().zip(after.lines()).find(|(before, after)| before == after);
        ensure!(same.is_none(), "a unit runs the earlier programs: {before:?}, {after:?}");
    }
    let version = fleet.first().sh("dpkg-query -W -f '${Version}' dwell-agent").await?;
    ensure!(version.ends_with("+later"), "the version is {version}");
    Ok(format!("{version} runs, in the same containers"))
}
