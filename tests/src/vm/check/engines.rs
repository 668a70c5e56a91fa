//! Docker as people configure it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::addresses;
use crate::{
    lab::InstanceRow,
    vm::{
        fleet::{Fleet, IMAGE, Limits, SOON},
        guest::Guest,
    },
};

/// What the instances may use from the change of image stores on.
const STORE_LIMITS: Limits = Limits { millicores: 450, mebibytes: 80 };

/// Adds settings, a JSON object, to Docker's and starts it with them; its file is kept aside.
async fn configure(guest: &Guest, settings: &str) -> Result<()> {
    const SET: &str = "import json
path = '/etc/docker/daemon.json'
settings = json.load(open(path))
settings.update(json.loads('''SETTINGS'''))
json.dump(settings, open(path, 'w'))
";
    guest.sh("cp -p /etc/docker/daemon.json /root/daemon.json").await?;
    guest.feed("python3 -", &SET.replace("SETTINGS", settings)).await?.ok()?;
    guest.sh("systemctl restart docker").await.map(drop)
}

/// Does `work` while Docker has further settings on every guest; then all is as before.
async fn with_settings(
    fleet: &Fleet,
    settings: &str,
    work: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let before = addresses(&fleet.wait_well().await?);
    for guest in fleet.guests() {
        configure(guest, settings).await?;
    }
    let done = work().await;
    for guest in fleet.guests() {
        guest
            .sh("cp -p /root/daemon.json /etc/docker/daemon.json && systemctl restart docker")
            .await?;
    }
    done.with_context(|| format!("with {settings}"))?;
    fleet.wait_nodes().await?;
    let after = addresses(&fleet.wait_well().await.context("with the settings of before")?);
    ensure!(before == after, "the addresses {before:?} became {after:?}");
    Ok(())
}

pub(super) async fn image_store(fleet: &Fleet) -> Result<String> {
    const ON: &str = r#"{"features": {"containerd-snapshotter": true}}"#;
    // The containers are of the generation before this change. In the other store, they are of this one.
    fleet.apply(&fleet.web(STORE_LIMITS)).await?;
    let before = containers(&fleet.wait_well().await?);
    with_settings(fleet, ON, async || {
        for guest in fleet.guests() {
            let status = guest.sh("docker info -f '{{.DriverStatus}}'").await?;
            ensure!(status.contains("containerd"), "the image store is {status}");
            // Docker does not see the images of its other store.
            guest.sh(&format!("docker load -qi {IMAGE}")).await?;
        }
        let rows = fleet.wait_well().await?;
        for row in &rows {
            let said = fleet.cli(&format!("ssh {} -- hostname", row.name)).await?;
            ensure!(said == row.name, "`dwell ssh {}` says {said}", row.name);
        }
        Ok(())
    })
    .await?;
    let after = containers(&fleet.wait_well().await?);
    let older = before.intersection(&after).count();
    ensure!(older == 0, "containers from before serve again: {before:?} became {after:?}");
    Ok("with Docker's other image store and back, at the same addresses; no older container serves"
        .to_owned())
}

fn containers(rows: &[InstanceRow]) -> BTreeSet<String> {
    rows.iter().map(|row| row.container_id.clone()).collect()
}

pub(super) async fn networks(fleet: &Fleet) -> Result<String> {
    const SETTINGS: &str = r#"{"userland-proxy": false, "icc": false}"#;
    const OTHER: &str =
        "docker network create lab && docker run -d --name lab --network lab -p 8081:8080 hello";
    with_settings(fleet, SETTINGS, async || {
        for guest in fleet.guests() {
            guest.sh(OTHER).await?;
        }
        fleet.wait_well().await?;
        for guest in fleet.guests() {
            let ask = format!("busybox wget -T 20 -qO- http://{}:8081/", guest.address());
            guest.until("a published port", SOON, &ask).await?;
            guest.sh("docker rm -f lab && docker network rm lab").await?;
        }
        Ok(())
    })
    .await?;
    Ok("without its userland proxy, with `icc: false`, and beside a bridge of its own".to_owned())
}

pub(super) async fn remapped_users(fleet: &Fleet) -> Result<String> {
    const REMAP: &str = r#"{"userns-remap": "default"}"#;
    const FIX: &str = "userns-remap";
    for guest in fleet.guests() {
        guest.sh("ls /etc/*- > /root/backups || true").await?;
    }
    let refused = with_settings(fleet, REMAP, async || {
        for guest in fleet.guests() {
            let ask = format!("dwell-agent doctor | grep {FIX}");
            guest.until("the doctor to name it", SOON, &ask).await?;
            let node = format!("dwell node inspect {} | grep {FIX}", guest.name());
            fleet.first().until("the node to name it", SOON, &node).await?;
            let containers = guest.sh("docker ps -aq").await?;
            ensure!(containers.is_empty(), "{} has made {containers}", guest.name());
        }
        Ok(())
    })
    .await;
    for guest in fleet.guests() {
        // What Docker has made for it.
        guest
            .sh("userdel dockremap; groupdel dockremap; rm -rf /var/lib/docker/*.*; \
                 for file in /etc/*-; do grep -qx \"$file\" /root/backups || rm \"$file\"; done")
            .await?;
    }
    refused?;
    Ok("node and doctor name `userns-remap`, and nothing was started; then all was as before"
        .to_owned())
}
