//! Other people's firewalls, which think that all rules are theirs.

use anyhow::{Context, Result};

use crate::vm::{fleet::Fleet, guest::Guest};

pub(super) async fn flushed(fleet: &Fleet) -> Result<String> {
    fleet
        .untouched("flushing all rules", async {
            for guest in fleet.guests() {
                guest.sh("nft flush ruleset").await?;
            }
            Ok(())
        })
        .await?;
    for guest in fleet.guests() {
        guest.sh("nft list table inet dwell").await.context("the table is not back")?;
        // Docker's own chains, for what comes after this.
        guest.sh("systemctl restart docker").await?;
    }
    fleet.wait_well().await?;
    Ok("`nft flush ruleset` on every node; all are reached again".to_owned())
}

/// Has a firewall come up, reload and go again on every guest, each time with all instances reached.
async fn comes_and_goes(
    fleet: &Fleet,
    name: &str,
    up: &str,
    reload: &str,
    down: &str,
) -> Result<String> {
    let all = async |script: &str| {
        for guest in fleet.guests() {
            Guest::sh(guest, script).await?;
        }
        anyhow::Ok(())
    };
    let looked = async {
        fleet.untouched(&format!("starting {name}"), all(up)).await?;
        fleet.untouched(&format!("reloading {name}"), all(reload)).await
    }
    .await;
    all(down).await?;
    looked?;
    fleet.wait_well().await?;
    Ok(format!("{name} came up, reloaded and went again; all instances were reached each time"))
}

pub(super) async fn ufw(fleet: &Fleet) -> Result<String> {
    let up = "ufw allow 22/tcp && ufw allow 7400/tcp && ufw allow in to 169.254.1.1 port 53 && ufw --force enable";
    comes_and_goes(fleet, "ufw", up, "ufw reload", "ufw --force reset && ufw disable").await
}

pub(super) async fn firewalld(fleet: &Fleet) -> Result<String> {
    let up = "systemctl start firewalld && firewall-cmd --add-port=7400/tcp --add-service=ssh \
              && firewall-cmd --permanent --add-port=7400/tcp --add-service=ssh";
    let down = "firewall-cmd --permanent --remove-port=7400/tcp; systemctl stop firewalld && systemctl restart docker";
    comes_and_goes(fleet, "firewalld", up, "firewall-cmd --reload", down).await
}
