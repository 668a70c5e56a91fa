//! The end: packages that go without leaving a trace.

use anyhow::{Result, ensure};

use crate::{
    lab::wait_until,
    vm::{
        fleet::{Fleet, SOON, WEB, WELL_LIMIT},
        listing::Listing,
    },
};

pub(super) async fn purge(fleet: &Fleet) -> Result<String> {
    const PURGE: &str = "DEBIAN_FRONTEND=noninteractive apt-get -q -y purge 2>&1";
    const ENDED: &str = "systemctl stop dwell-agent && dwell-agent stop-instances \
        && umount /run/dwell/netns/* && rm /run/dwell/netns/*";
    let refused = fleet.first().run(&format!("{PURGE} dwell-agent")).await?;
    ensure!(
        !refused.status.success() && refused.stdout.contains("instances are on this host"),
        "a host with instances let the package go: {}",
        refused.stdout
    );
    // What a boot leaves without the agent: containers that have ended, and no sandbox.
    fleet.first().sh(ENDED).await?;
    let refused = fleet.first().run(&format!("{PURGE} dwell-agent")).await?;
    ensure!(
        !refused.status.success() && refused.stdout.contains(&format!("{WEB}-")),
        "a host with containers that have ended let the package go: {}",
        refused.stdout
    );
    fleet.first().sh("systemctl start dwell-agent").await?;
    fleet.wait_nodes().await?;
    fleet.wait_well().await?;
    fleet.cli(&format!("rm {WEB}")).await?;
    wait_until("the instances to be gone", WELL_LIMIT, async || {
        let left = fleet.instances(WEB).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    let mut things = 0;
    for (number, guest) in fleet.guests().iter().enumerate().rev() {
        let what = "the sandboxes to be gone";
        guest.until(what, SOON, "test -z \"$(ls -A /run/dwell/netns 2>/dev/null)\"").await?;
        let said = guest.run(&format!("{PURGE} dwell dwell-agent dwell-controller")).await?;
        ensure!(said.status.success(), "apt-get failed on {}: {}", guest.name(), said.stdout);
        // What these checks have put there.
        guest
            .sh("rm -rf /etc/systemd/resolved.conf.d && systemctl restart systemd-resolved")
            .await?;
        // A route that the first file system of a boot has made, by the guest's parameters. networkd takes it away at a boot, but
        // not where dwell is, whose setting has it leave alone what it has not made. No route of dwell's is of this protocol.
        guest.sh("ip -4 route del default dev eth0 proto boot 2>/dev/null || true").await?;
        // Docker forgets a runtime when it starts: what its file does not name any more, it keeps when it reads it again.
        guest.sh("systemctl restart docker").await?;
        // Volumes are data, which a purge of programs does not touch.
        guest.sh("docker volume ls -q | xargs -r docker volume rm").await?;
        let after = Listing::take(guest).await?;
        fleet.before(number).ensure_same(&after)?;
        things += after.len();
    }
    Ok(format!(
        "refused while there were instances; then {things} files, links, routes, rules and settings as before"
    ))
}
