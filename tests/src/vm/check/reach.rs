//! The ways to an instance that people take.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;

use crate::{
    lab::{Routes, client, network, wait_until},
    vm::fleet::{Fleet, SOON, WEB_PORT},
};

/// How long an emulated instance may take for an answer.
const SLOW: Duration = Duration::from_secs(60);

pub(super) async fn every_way(fleet: &Fleet) -> Result<String> {
    let rows = fleet.wait_well().await?;
    let first = fleet.first();

    // From outside: this machine is no node and has a route.
    let routes: Routes = first.run("dwell route ls -o json").await?.json()?;
    network::route_machine(fleet.layout(), &routes.routes).await?;
    for row in &rows {
        let what = format!("{} to answer from outside", row.name);
        wait_until(&what, SOON, async || {
            let said =
                client::get_within(SLOW, client::connect(None, row.at(WEB_PORT)?).await?).await?;
            ensure!(said.contains(&row.name), "somebody else: {said}");
            Ok(())
        })
        .await?;
    }

    // By name: what `dwell dns-config` prints is systemd-resolved's configuration.
    try_join_all(fleet.guests().iter().map(async |guest| {
        guest.sh("mkdir -p /etc/systemd/resolved.conf.d").await?;
        let snippet = fleet.cli("dns-config --server 169.254.1.1").await?;
        guest.write("/etc/systemd/resolved.conf.d/dwell.conf", &format!("{snippet}\n")).await?;
        guest.sh("systemctl restart systemd-resolved").await?;
        for row in &rows {
            let ask = format!("getent ahostsv4 {}.dwell | grep -w {}", row.name, row.address);
            guest.until(&format!("{} to be found by name", row.name), SOON, &ask).await?;
        }
        anyhow::Ok(())
    }))
    .await?;

    // By SSH: the way of `dwell ssh`, and the stock client with a key of its own.
    first
        .sh("test -e /root/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
        .await?;
    fleet.cli("key add team /root/.ssh/id_ed25519.pub").await?;
    first.sh("dwell key ca >> /root/.ssh/known_hosts").await?;
    for row in &rows {
        let name = &row.name;
        let said = first.until("dwell ssh", SOON, &format!("dwell ssh {name} -- hostname")).await?;
        ensure!(said == *name, "`dwell ssh {name} -- hostname` says {said}");
        let stock = format!("ssh -o BatchMode=yes root@{name}.dwell hostname");
        let said = first.until("ssh", SOON, &stock).await?;
        ensure!(said == *name, "`{stock}` says {said}");
    }
    Ok(format!(
        "{} instances, from outside, from every node, by resolved and by both clients",
        rows.len()
    ))
}
