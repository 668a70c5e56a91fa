//! Machines on a host with control groups of version 2 alone: what is done in one stays, and a systemd in it has what it needs and no
//! more.

use anyhow::{Context, Result, ensure};

use crate::{
    lab::{Image, wait_until},
    vm::fleet::{Fleet, SOON, WELL_LIMIT},
};

const BOX: &str = "workloads:
  box:
    image: debian
    machine: true
    init: systemd
    constraints: ['node.name == HOST']
    resources: {cpu: 1, memory: 256Mi, pids: 400}
";

pub(super) async fn systemd(fleet: &Fleet) -> Result<String> {
    let guest = fleet.first();
    let archive = Image::Debian.archive(&Fleet::cache()?).await?;
    guest.copy(std::slice::from_ref(&archive), "/root").await?;
    let name = archive.file_name().context("an archive has no name")?.to_string_lossy();
    guest.sh(&format!("docker load -qi /root/{name}; rm /root/{name}")).await?;
    fleet.apply(&BOX.replace("HOST", &guest.name())).await?;
    let inside = async |script: &str| {
        let quoted = script.replace('\'', "'\\''");
        fleet.cli(&format!("exec box-0 -- sh -c '{quoted}'")).await
    };
    let is_up = async |what: &str| {
        wait_until(what, WELL_LIMIT, async || {
            let state = inside("systemctl is-system-running; systemctl --failed --no-legend").await;
            let state = state.context("systemd does not answer")?;
            ensure!(state.starts_with("running") || state.starts_with("degraded"), "it is {state}");
            Ok(state.trim().to_owned())
        })
        .await
    };
    let state = is_up("systemd to be up").await?;
    inside("echo mine > /mine; systemctl enable --now cron").await?;

    // The kernel has the limits, and what is in it cannot change them.
    let limits = inside("cd /sys/fs/cgroup; cat memory.max pids.max cpu.max").await?;
    for (file, value) in [("memory.max", "max"), ("pids.max", "max"), ("cpu.max", "max")] {
        drop(inside(&format!("echo {value} > /sys/fs/cgroup/{file} 2>&1")).await);
    }
    let after = inside("cd /sys/fs/cgroup; cat memory.max pids.max cpu.max").await?;
    ensure!(limits == after && !limits.contains("max"), "its limits were {limits} and are {after}");

    let rows = fleet.instances("box").await?;
    let before = rows.first().context("there is no instance")?.started_at.clone();
    inside("systemctl reboot").await?;
    wait_until("it to be rebooted", WELL_LIMIT, async || {
        let rows = fleet.instances("box").await?;
        let row = rows.first().context("there is no instance")?;
        ensure!(row.is_well() && row.started_at != before, "{row:?}");
        Ok(())
    })
    .await?;
    is_up("systemd to be up again").await?;
    inside("grep mine /mine && systemctl is-active cron").await?;

    fleet.cli("rm box").await?;
    wait_until("it to be removed", SOON, async || {
        let left = fleet.instances("box").await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    fleet.cli("volume rm box-0 root").await?;
    Ok(format!(
        "{}; rebooted from inside; its limits stayed {}",
        state.replace('\n', ", "),
        limits.replace('\n', " ")
    ))
}
