//! What an instance may use, as control groups of version 2 have it.

use anyhow::{Context, Result, ensure};

use crate::{
    lab::{InstanceRow, wait_until},
    vm::fleet::{Fleet, LIMITS, Limits, SOON, WEB, WELL_LIMIT},
};

/// What is declared next.
const CHANGED: Limits = Limits { millicores: 500, mebibytes: 96 };

/// Takes all memory that there is, a while after its start, and is not started again.
const GREEDY: &str = "workloads:
  greedy:
    image: hello
    command: [sh, -c, 'sleep 5; tail /dev/zero']
    restart: 'no'
    resources: {cpu: 200m, memory: 16Mi}
";

pub(super) async fn enforced(fleet: &Fleet) -> Result<String> {
    let rows = fleet.wait_well().await?;
    for row in &rows {
        ensure_kernel(fleet, row, LIMITS).await?;
    }
    let group = group(fleet, &rows[0]).await?;
    Ok(format!("memory.max and cpu.max of {group}, and as many of the others, are as declared"))
}

/// Expects the kernel to have `limits` for an instance.
async fn ensure_kernel(fleet: &Fleet, row: &InstanceRow, limits: Limits) -> Result<()> {
    let guest = fleet.guest(&row.node)?;
    let group = group(fleet, row).await?;
    let seen = guest.sh(&format!("cd /sys/fs/cgroup{group} && cat memory.max cpu.max")).await?;
    let mut lines = seen.lines();
    let memory: u64 = lines.next().context("no memory.max")?.parse().context("memory.max")?;
    let cpu = lines.next().context("no cpu.max")?;
    let (quota, period) = cpu.split_once(' ').context("cpu.max")?;
    let quota: u64 = quota.parse().context("cpu.max is no number")?;
    let period: u64 = period.parse().context("cpu.max has no period")?;
    ensure!(
        memory == limits.mebibytes << 20 && quota * 1000 == limits.millicores * period,
        "{} has memory.max {memory} and cpu.max {cpu} instead of {limits:?}",
        row.name
    );
    Ok(())
}

/// The control group of an instance's main process, as the host sees it.
async fn group(fleet: &Fleet, row: &InstanceRow) -> Result<String> {
    let find =
        format!("cat /proc/$(docker inspect -f '{{{{.State.Pid}}}}' {})/cgroup", row.container_id);
    let said = fleet.guest(&row.node)?.sh(&find).await?;
    let group = said.strip_prefix("0::").with_context(|| format!("not version 2: {said}"))?;
    ensure!(group.contains(&row.container_id), "{} is in {group}", row.name);
    Ok(group.to_owned())
}

pub(super) async fn changed(fleet: &Fleet) -> Result<String> {
    fleet
        .untouched("a change of limits", async {
            fleet.apply(&fleet.web(CHANGED)).await?;
            for row in fleet.instances(WEB).await? {
                let what = format!("the kernel to know the limits of {}", row.name);
                wait_until(&what, SOON, async || ensure_kernel(fleet, &row, CHANGED).await).await?;
            }
            Ok(())
        })
        .await?;
    Ok(format!("{LIMITS:?} became {CHANGED:?} in the same processes"))
}

pub(super) async fn out_of_memory(fleet: &Fleet) -> Result<String> {
    fleet.apply(GREEDY).await?;
    let message = wait_until("the end by the OOM killer", WELL_LIMIT, async || {
        let rows = fleet.instances("greedy").await?;
        let row = rows.first().context("there is no instance")?;
        let events = fleet.cli("events").await?;
        let named = events.lines().find(|line| line.contains("greedy") && is_named(line));
        let said = if is_named(&row.message) { Some(row.message.as_str()) } else { named };
        said.map(str::to_owned).with_context(|| format!("{row:?}; {events}"))
    })
    .await?;
    fleet.cli("rm greedy").await?;
    wait_until("it to be removed", SOON, async || {
        let left = fleet.instances("greedy").await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    Ok(message.trim().to_owned())
}

fn is_named(message: &str) -> bool {
    message.contains("more memory than its limit")
}

pub(super) async fn session(fleet: &Fleet) -> Result<String> {
    let rows = fleet.wait_well().await?;
    for row in &rows {
        let guest = fleet.guest(&row.node)?;
        let session =
            format!("setsid dwell ssh {} -- sleep 7777 </dev/null >/dev/null 2>&1 &", row.name);
        fleet.first().sh(&session).await?;
        // The clients' own command lines have more words.
        let pid = guest.until("the session's process", SOON, "pgrep -xf 'sleep 7777'").await?;
        let seen = guest.sh(&format!("cat /proc/{pid}/cgroup")).await?;
        guest.sh(&format!("kill {pid}")).await?;
        let group = group(fleet, row).await?;
        ensure!(
            seen.starts_with(&format!("0::{group}")),
            "the session is in {seen}, not in {group}"
        );
        guest.until("its end", SOON, "! pgrep -xf 'sleep 7777'").await?;
    }
    Ok("what a session starts is where its container's main process is".to_owned())
}
