//! From nothing to a fleet with instances, as the README says it.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;

use crate::{
    lab::JoinToken,
    vm::{
        fleet::{Fleet, LIMITS, SOON},
        guest::Guest,
    },
};

/// The units that are people's to start.
const UNITS: [&str; 5] =
    ["dwell-controller", "dwell-agent", "dwell-sandboxes", "dwell-ssh", "dwell-instances"];

pub(super) async fn packages(fleet: &Fleet) -> Result<String> {
    let packages = fleet.packages()?;
    let versions = try_join_all(fleet.guests().iter().map(async |guest| {
        let engine = guest.sh("systemctl show -P MainPID docker").await?;
        install(guest, &packages).await?;
        let after = guest.sh("systemctl show -P MainPID docker").await?;
        ensure!(engine == after, "the installation restarted Docker on {}", guest.name());
        guest
            .until(
                "Docker to know the runtime",
                SOON,
                "docker info -f '{{.Runtimes}}' | grep dwell",
            )
            .await?;
        for unit in UNITS {
            let state = guest
                .run(&format!("systemctl is-active {unit}; systemctl is-enabled {unit}"))
                .await?;
            // These are the agent's to start.
            let is_static = ["dwell-sandboxes", "dwell-instances"].contains(&unit);
            let expected = if is_static { "static" } else { "disabled" };
            let is_off = state.stdout.trim() == format!("inactive\n{expected}");
            ensure!(is_off, "{unit} is {}", state.stdout);
        }
        guest.sh("dpkg-query -W -f '${Package} ${Version}\n' 'dwell*'").await
    }))
    .await?;
    let first = versions.first().context("there is no guest")?;
    Ok(format!("{}; Docker was told and not restarted", first.replace('\n', ", ")))
}

/// Installs packages as people do; what they depend on is there.
pub(super) async fn install(guest: &Guest, packages: &[std::path::PathBuf]) -> Result<()> {
    guest.sh("rm -rf /root/packages && mkdir /root/packages").await?;
    guest.copy(packages, "/root/packages").await?;
    let apt = "DEBIAN_FRONTEND=noninteractive apt-get -q -y install /root/packages/*.deb 2>&1";
    let said = guest.run(apt).await?;
    ensure!(said.status.success(), "apt-get failed on {}: {}", guest.name(), said.stdout);
    Ok(())
}

pub(super) async fn start(fleet: &Fleet) -> Result<String> {
    let (first, layout) = (fleet.first(), fleet.layout());
    // A node that is emulated on a busy machine is silent for longer than a real one.
    let settings = format!(
        "cluster: {{cidr: {}}}\nadvertise: ['{}:7400']\n\
         nodes: {{heartbeat: 2s, unreachable_after: 60s, down_after: 300s}}\n",
        layout.cluster_cidr(),
        first.address()
    );
    first.write("/etc/dwell/controller.yaml", &settings).await?;
    first.sh("dwell-controller --check && systemctl enable --now dwell-controller").await?;
    try_join_all(fleet.guests().iter().map(async |guest| {
        let JoinToken { token } = first.run("dwell node token -o json").await?.json()?;
        let join = format!("dwell-agent join --controller {}:7400 --token -", first.address());
        guest.feed(&join, &token).await?.ok()?;
        guest.sh("systemctl enable --now dwell-agent dwell-ssh").await?;
        anyhow::Ok(())
    }))
    .await?;
    fleet.wait_nodes().await?;
    let findings = try_join_all(fleet.guests().iter().map(async |guest| {
        let doctor = guest.run("dwell-agent doctor").await?;
        ensure!(doctor.status.success(), "the doctor of {} says: {}", guest.name(), doctor.stdout);
        anyhow::Ok(doctor.stdout.lines().count())
    }))
    .await?;
    fleet.apply(&fleet.web(LIMITS)).await?;
    let rows = fleet.wait_well().await?;
    Ok(format!(
        "{} nodes are ready, the doctor has nothing to say against them in {} lines, {} instances are well",
        fleet.guests().len(),
        findings.iter().sum::<usize>(),
        rows.len()
    ))
}
