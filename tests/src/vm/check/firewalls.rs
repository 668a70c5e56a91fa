//! Other people's firewalls, which think that all rules are theirs.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde::Deserialize;

use crate::{
    lab::wait_until,
    vm::{
        fleet::{Fleet, SOON},
        guest::Guest,
    },
};

pub(super) async fn flushed(fleet: &Fleet) -> Result<String> {
    fleet
        .untouched("flushing all rules", async {
            for guest in fleet.guests() {
                guest.sh("nft flush ruleset").await?;
            }
            Ok(())
        })
        .await?;
    try_join_all(fleet.guests().iter().map(async |guest| {
        guest.sh("nft list table inet dwell").await.context("the table is not back")?;
        // Docker's own chains, for what comes after this.
        guest.sh("systemctl restart docker").await
    }))
    .await?;
    fleet.wait_well().await?;
    Ok("`nft flush ruleset` on every node; all are reached again".to_owned())
}

/// A firewall that keeps all rules of a host.
struct Firewall {
    name: &'static str,
    /// Starts it, open to SSH and to the controller's port.
    up: &'static str,
    reload: &'static str,
    down: &'static str,
}

/// One of the doctor's findings.
#[derive(Debug, Deserialize)]
struct Finding {
    check: String,
    outcome: String,
    message: String,
    fix: String,
}

/// What the doctor says against the firewalls of a host.
async fn problems(guest: &Guest) -> Result<Vec<Finding>> {
    // It fails if it has found a problem.
    let said = guest.run("dwell-agent doctor -o json").await?;
    let findings: Vec<Finding> =
        serde_json::from_str(&said.stdout).with_context(|| format!("the doctor says {said:?}"))?;
    let about_firewalls = |one: &Finding| {
        one.outcome != "ok" && ["forward-policy", "firewall-names"].contains(&one.check.as_str())
    };
    Ok(findings.into_iter().filter(about_firewalls).collect())
}

/// Does what the doctor says until it says nothing against the firewalls of a host; how many commands that took.
async fn follow_the_doctor(guest: &Guest) -> Result<usize> {
    let found = wait_until("the doctor to name the firewall", SOON, async || {
        let found = problems(guest).await?;
        ensure!(found.iter().any(|one| !one.fix.is_empty()), "it says {found:?}");
        Ok(found)
    })
    .await?;
    let fixes: BTreeSet<&str> = found.iter().map(|one| one.fix.as_str()).collect();
    for fix in &fixes {
        guest.sh(fix).await.with_context(|| format!("what the doctor says fails: {found:?}"))?;
    }
    wait_until("the doctor to be content", SOON, async || {
        let left = problems(guest).await?;
        let left: Vec<&str> = left.iter().map(|one| one.message.as_str()).collect();
        ensure!(left.is_empty(), "after {fixes:?} it says {left:?}");
        Ok(())
    })
    .await?;
    Ok(fixes.len())
}

/// Has a firewall come up, be opened as the doctor says, reload and go again on every guest, each time with all instances
/// reached.
async fn comes_and_goes(fleet: &Fleet, firewall: &Firewall) -> Result<String> {
    let Firewall { name, up, reload, down } = firewall;
    let all = async |script: &str| {
        try_join_all(fleet.guests().iter().map(|guest| Guest::sh(guest, script))).await.map(drop)
    };
    let looked = async {
        let opened = async {
            all(up).await?;
            try_join_all(fleet.guests().iter().map(follow_the_doctor)).await.map(drop)
        };
        fleet.untouched(&format!("starting {name}"), opened).await?;
        fleet.untouched(&format!("reloading {name}"), all(reload)).await
    }
    .await;
    all(down).await?;
    looked?;
    fleet.wait_well().await?;
    Ok(format!(
        "{name} came up, was opened as the doctor says, reloaded and went again; all instances were reached each time"
    ))
}

pub(super) async fn ufw(fleet: &Fleet) -> Result<String> {
    let ufw = Firewall {
        name: "ufw",
        up: "ufw allow 22/tcp && ufw allow 7400/tcp && ufw --force enable",
        reload: "ufw reload",
        down: "ufw --force reset && ufw disable",
    };
    comes_and_goes(fleet, &ufw).await
}

pub(super) async fn firewalld(fleet: &Fleet) -> Result<String> {
    let firewalld = Firewall {
        name: "firewalld",
        up: "systemctl start firewalld && firewall-cmd --permanent --add-service=ssh \
             && firewall-cmd --permanent --add-port=7400/tcp && firewall-cmd --reload",
        reload: "firewall-cmd --reload",
        // Also takes away what is permanent. Docker's chains went with the reloads.
        down: "firewall-cmd --reset-to-defaults; systemctl stop firewalld && systemctl restart docker",
    };
    comes_and_goes(fleet, &firewalld).await
}
