//! Docker as people configure it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;

use super::addresses;
use crate::{
    lab::{InstanceRow, images},
    vm::{
        fleet::{Fleet, LIMITS, Limits, SOON},
        guest::Guest,
    },
};

/// What the instances may use from the change of image stores on.
const STORE_LIMITS: Limits = Limits { millicores: 450, mebibytes: 80 };

/// The image of the instances in a registry of each guest. A Docker trusts what listens on its own loopback without TLS.
const STORED: &str = "127.0.0.1:5000/hello";

/// Gives each guest a registry with the image of the instances: what was only loaded, a Docker does not know in its other
/// store, nor under the digest that it has there.
async fn start_registries(fleet: &Fleet) -> Result<()> {
    const CONFIG: &str = r#"{"version": "0.1", "log": {"level": "warn"}, "http": {"addr": "127.0.0.1:5000"},
        "storage": {"filesystem": {"rootdirectory": "/root/registry"}}}"#;
    const START: &str = "chmod +x /root/docker-registry \
        && systemd-run -q --unit lab-registry /root/docker-registry serve /root/registry.yml";
    let program = images::program("docker-registry", &Fleet::cache()?).await?;
    for guest in fleet.guests() {
        guest.copy(std::slice::from_ref(&program), "/root").await?;
        guest.write("/root/registry.yml", CONFIG).await?;
        guest.sh(START).await?;
        let push = format!("docker tag hello {STORED} && docker push -q {STORED}");
        guest.until("an image to be pushed", SOON, &push).await?;
    }
    Ok(())
}

async fn stop_registries(fleet: &Fleet) -> Result<()> {
    for guest in fleet.guests() {
        guest
            .sh("systemctl stop lab-registry; rm -r /root/docker-registry /root/registry*")
            .await?;
    }
    Ok(())
}

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

/// Undoes [`turn_live_restore_on`]; until its next start, Docker itself goes on as before.
pub(super) const FORGET_LIVE_RESTORE: &str =
    "cp -p /root/daemon.before /etc/docker/daemon.json && systemctl reload docker";

/// Has containers outlive a restart of Docker, as its file says from now on.
pub(super) async fn turn_live_restore_on(guest: &Guest) -> Result<()> {
    const SET: &str = "import json
path = '/etc/docker/daemon.json'
settings = json.load(open(path))
settings['live-restore'] = True
json.dump(settings, open(path, 'w'))
";
    guest.sh("cp -p /etc/docker/daemon.json /root/daemon.before").await?;
    guest.feed("python3 -", SET).await?.ok()?;
    guest.sh("systemctl reload docker").await?;
    let ask = "docker info -f '{{.LiveRestoreEnabled}}' | grep true";
    guest.until("live-restore", SOON, ask).await.map(drop)
}

/// Does `work` while Docker has further settings on every guest; then all is as before.
async fn with_settings(
    fleet: &Fleet,
    settings: &str,
    work: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let before = addresses(&fleet.wait_well().await?);
    const BACK: &str =
        "cp -p /root/daemon.json /etc/docker/daemon.json && systemctl restart docker";
    try_join_all(fleet.guests().iter().map(|guest| configure(guest, settings))).await?;
    let done = work().await;
    try_join_all(fleet.guests().iter().map(|guest| guest.sh(BACK))).await?;
    done.with_context(|| format!("with {settings}"))?;
    fleet.wait_nodes().await?;
    let after = addresses(&fleet.wait_well().await.context("with the settings of before")?);
    ensure!(before == after, "the addresses {before:?} became {after:?}");
    Ok(())
}

pub(super) async fn image_store(fleet: &Fleet) -> Result<String> {
    const ON: &str = r#"{"features": {"containerd-snapshotter": true}}"#;
    start_registries(fleet).await?;
    // From then on the version means an image by the registry's digest, which is the same in both stores.
    fleet.apply_and_wait(&fleet.web_of(STORED, LIMITS)).await?;
    // The containers are of the generation before this change. In the other store, they are of this one.
    fleet.apply_and_wait(&fleet.web_of(STORED, STORE_LIMITS)).await?;
    let before = containers(&fleet.wait_well().await?);
    // What runs then goes on running, and Docker knows nothing of it.
    try_join_all(fleet.guests().iter().map(turn_live_restore_on)).await?;
    let switched = with_settings(fleet, ON, async || {
        for guest in fleet.guests() {
            let status = guest.sh("docker info -f '{{.DriverStatus}}'").await?;
            ensure!(status.contains("containerd"), "the image store is {status}");
        }
        let rows = fleet.wait_well().await?;
        for row in &rows {
            let said = fleet.cli(&format!("ssh {} -- hostname", row.name)).await?;
            ensure!(said == row.name, "`dwell ssh {}` says {said}", row.name);
        }
        Ok(())
    })
    .await;
    try_join_all(fleet.guests().iter().map(|guest| guest.sh(FORGET_LIVE_RESTORE))).await?;
    switched?;
    let after = containers(&fleet.wait_well().await?);
    stop_registries(fleet).await?;
    let older = before.intersection(&after).count();
    ensure!(older == 0, "containers from before serve again: {before:?} became {after:?}");
    Ok("with live-restore, Docker's other image store and back, at the same addresses; no older container serves"
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
