//! Hosts that go down, in good order and not.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;

use super::addresses;
use crate::{
    lab::{InstanceRow, wait_until},
    vm::{
        fleet::{Fleet, SOON, WELL_LIMIT},
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

/// All hosts are rebooted by one order, that of the controller among them, with their instances on them.
pub(super) async fn reboot(fleet: &Fleet) -> Result<String> {
    const ENDED: &str = "journalctl -b -1 -u dwell-instances -o cat | grep Stopped";
    const ALLOW: &str = "grep -q ^reboot_command /etc/dwell/agent.yaml \
                         || { echo 'reboot_command: [systemctl, reboot]' >> /etc/dwell/agent.yaml && systemctl restart dwell-agent; }";
    let before = mark(fleet, "reboot").await?;
    let guests = fleet.guests();
    for guest in guests {
        guest.sh(ALLOW).await?;
    }
    fleet.wait_nodes().await?;
    let boots = try_join_all(guests.iter().map(Guest::boot)).await?;
    let names: Vec<String> = guests.iter().map(Guest::name).collect();
    let names = names.join(" ");
    let order = format!("node reboot {names} --no-drain --parallelism {}", guests.len());
    wait_until("the order to be taken", SOON, async || fleet.cli(&order).await.map(drop)).await?;
    let back = guests.iter().zip(&boots).map(|(guest, boot)| guest.wait_rebooted(boot));
    let took = try_join_all(back).await?;
    ensure_back(fleet, &before, "reboot").await?;
    wait_until("the reboot to be over", WELL_LIMIT, async || {
        let nodes = fleet.cli("node ls -o json").await?;
        ensure!(!nodes.contains("\"cordoned\": true"), "{nodes}");
        let events = fleet.cli("events -o json").await?;
        ensure!(!events.contains("reboot-failed"), "{events}");
        Ok(())
    })
    .await?;
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

/// Ends three seconds after it was told to, and writes that down.
const SLOW: &str = "workloads:
  slow:
    image: hello
    command: [sh, -c, 'trap \"sleep 3; echo ended > /data/end; sync; exit 0\" TERM; while :; do sleep 1; done']
    stop_grace_period: 60s
    volumes: ['data:/data']
    resources: {cpu: 100m, memory: 32Mi}
";

/// Docker begins only once the node has its routes and answers for names, or after two minutes without.
const LATE_DOCKER: &str = "[Service]
TimeoutStartSec=15min
ExecStartPre=/bin/sh -c 'for n in $(seq 120); do \
  busybox nslookup slow-0.dwell 169.254.1.1 > /run/before-docker && ip -4 route show type unreachable >> /run/before-docker \
  && sysctl net.ipv4.ip_forward >> /run/before-docker && exit 0; sleep 1; done; rm /run/before-docker'
";

/// What systemd said in the boot before, in this order, when the host went down.
const SHUTDOWN: [&str; 4] = [
    "Stopped dwell-agent.service",
    "Stopped dwell-instances.service",
    "Stopping docker.service",
    "Stopping systemd-networkd.service",
];

pub(super) async fn order(fleet: &Fleet) -> Result<String> {
    const DROP_IN: &str = "/etc/systemd/system/docker.service.d";
    let guest = fleet.first();
    fleet.apply(SLOW).await?;
    let slow = wait_until("the slow instance", WELL_LIMIT, async || {
        let rows = fleet.instances("slow").await?;
        rows.into_iter().find(InstanceRow::is_well).context("it is not well yet")
    })
    .await?;
    let guest = if slow.node == guest.name() { guest } else { fleet.guest(&slow.node)? };
    let policy = guest.sh("iptables -S FORWARD | head -n 1").await?;
    guest.sh(&format!("mkdir -p {DROP_IN}")).await?;
    guest.write(&format!("{DROP_IN}/late.conf"), LATE_DOCKER).await?;
    guest.reboot().await?;
    let seen = guest.sh("cat /run/before-docker").await.context("nothing came before Docker")?;
    guest.sh(&format!("rm -r {DROP_IN} && systemctl daemon-reload")).await?;
    ensure!(
        seen.contains(&slow.address)
            && seen.contains("unreachable")
            && seen.contains("forward = 0"),
        "before Docker there was: {seen}"
    );

    let said = guest.sh("journalctl -b -1 -o cat -t systemd").await?;
    let lines: Vec<&str> = said.lines().collect();
    let at = SHUTDOWN.map(|what| lines.iter().rposition(|line| line.starts_with(what)));
    ensure!(at.iter().all(Option::is_some) && at.is_sorted(), "{SHUTDOWN:?} were at {at:?}");

    let after = wait_until("the slow instance to be back", WELL_LIMIT, async || {
        let rows = fleet.instances("slow").await?;
        rows.into_iter().find(InstanceRow::is_well).context("it is not well yet")
    })
    .await?;
    ensure!(after.address == slow.address, "{slow:?} became {after:?}");
    let read = "dwell exec slow-0 -- cat /data/end";
    let ended = fleet.first().until("the volume", SOON, read).await?;
    ensure!(ended == "ended", "its end was cut short: {ended}");
    fleet.wait_nodes().await?;
    fleet.wait_well().await?;
    let now = guest.sh("iptables -S FORWARD | head -n 1").await?;
    ensure!(now == policy, "{policy:?} became {now:?}");
    fleet.cli("rm slow").await?;
    wait_until("it to be removed", SOON, async || {
        let left = fleet.instances("slow").await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    Ok(format!(
        "names and routes were there before Docker, whose policy is {now}; {SHUTDOWN:?} in this order"
    ))
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
