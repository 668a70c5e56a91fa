//! Hosts that go down, in good order and not.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;

use super::addresses;
use crate::{
    lab::InstanceRow,
    vm::{
        fleet::{Fleet, SOON},
        guest::Guest,
    },
};

/// Writes into the volume of each instance what is looked for afterwards.
async fn mark(fleet: &Fleet, word: &str) -> Result<Vec<InstanceRow>> {
    let rows = fleet.wait_well().await?;
    for row in &rows {
        let write = format!("dwell exec {} -- sh -c 'echo {word} > /data/mark && sync'", row.name);
        fleet.first().sh(&write).await?;
    }
    Ok(rows)
}

/// Expects the same instances at the same addresses, with what [`mark`] has written.
async fn ensure_back(fleet: &Fleet, before: &[InstanceRow], word: &str) -> Result<()> {
    fleet.wait_nodes().await?;
    let after = fleet.wait_well().await?;
    let (before, after_all) = (addresses(before), addresses(&after));
    ensure!(before == after_all, "the addresses {before:?} became {after_all:?}");
    for row in &after {
        let read = format!("dwell exec {} -- cat /data/mark", row.name);
        let said = fleet.first().until("the volume", SOON, &read).await?;
        ensure!(said == word, "{} finds {said:?} in its volume", row.name);
    }
    Ok(())
}

pub(super) async fn reboot(fleet: &Fleet) -> Result<String> {
    const ENDED: &str = "journalctl -b -1 -u dwell-instances -o cat | grep Stopped";
    let before = mark(fleet, "reboot").await?;
    let took = try_join_all(fleet.guests().iter().map(Guest::reboot)).await?;
    ensure_back(fleet, &before, "reboot").await?;
    let mut said = String::new();
    for guest in fleet.guests() {
        said = guest.sh(ENDED).await?;
        ensure!(
            said.contains("Stopped 1 instances"),
            "at its shutdown {} said: {said}",
            guest.name()
        );
    }
    let seconds: Vec<u64> = took.iter().map(std::time::Duration::as_secs).collect();
    Ok(format!("up again after {seconds:?} s; the shutdown said: {}", said.replace('\n', " ")))
}

pub(super) async fn cut(fleet: &Fleet) -> Result<String> {
    let before = mark(fleet, "cut").await?;
    for guest in fleet.guests() {
        guest.cut_power().await?;
    }
    let took = try_join_all(fleet.guests().iter().map(async |guest| {
        guest.power_on().await?;
        guest.wait_up().await
    }))
    .await?;
    ensure_back(fleet, &before, "cut").await?;
    let seconds: Vec<u64> = took.iter().map(std::time::Duration::as_secs).collect();
    Ok(format!(
        "all hosts lost their power at once; up again after {seconds:?} s, with addresses and data"
    ))
}
