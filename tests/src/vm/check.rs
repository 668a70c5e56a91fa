//! What must hold on real machines. Each check begins with what the one before it has left: dwell installed from the
//! packages, and an instance of the workload `web` on each guest, except where it is about getting there or leaving.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::fleet::Fleet;

mod engines;
mod firewalls;
mod install;
mod limits;
mod machines;
mod moves;
mod power;
mod reach;
mod removal;
mod restarts;
mod units;
mod upgrade;

/// A thing that must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Install,
    Start,
    Reach,
    Limits,
    LiveLimits,
    OutOfMemory,
    SessionLimits,
    Machine,
    UnitRestarts,
    EngineRestart,
    EngineLiveRestore,
    ImageStore,
    DockerNetworks,
    RemappedUsers,
    Upgrade,
    FlushedRules,
    Ufw,
    Firewalld,
    Drain,
    Reboot,
    BootOrder,
    PowerCut,
    UnitBounds,
    DeniedCalls,
    Removal,
}

impl Check {
    /// In the order in which they are run.
    const ALL: [Self; 25] = [
        Self::Install,
        Self::Start,
        Self::Reach,
        Self::Limits,
        Self::LiveLimits,
        Self::OutOfMemory,
        Self::SessionLimits,
        Self::Machine,
        Self::UnitRestarts,
        Self::EngineRestart,
        Self::EngineLiveRestore,
        Self::ImageStore,
        Self::DockerNetworks,
        Self::RemappedUsers,
        Self::Upgrade,
        Self::FlushedRules,
        Self::Ufw,
        Self::Firewalld,
        Self::Drain,
        Self::Reboot,
        Self::BootOrder,
        Self::PowerCut,
        Self::UnitBounds,
        Self::DeniedCalls,
        Self::Removal,
    ];

    /// The checks of a run.
    pub(super) fn all(short: bool, guests: usize) -> Vec<Self> {
        let fits = |check: &Self| (!short || check.is_short()) && check.guests() <= guests;
        Self::ALL.into_iter().filter(fits).collect()
    }

    /// Of these, those that are asked for by `names`, if any are, and what they begin with.
    pub(super) fn only(checks: Vec<Self>, names: &[String]) -> Result<Vec<Self>> {
        let named = Self::named(&checks, names)?;
        let is_wanted = |check: &Self| check.is_ground() || named.contains(check);
        Ok(checks.into_iter().filter(|check| names.is_empty() || is_wanted(check)).collect())
    }

    /// Those of `names`, as they come.
    pub(super) fn named(checks: &[Self], names: &[String]) -> Result<Vec<Self>> {
        let find = |name: &String| {
            let all = || checks.iter().map(|check| check.name()).collect::<Vec<_>>().join("\n  ");
            let found = checks.iter().find(|check| check.name() == name).copied();
            found.with_context(|| format!("this run has no check {name:?}; it has\n  {}", all()))
        };
        names.iter().map(find).collect()
    }

    /// Whether the short form has it, too.
    fn is_short(self) -> bool {
        matches!(
            self,
            Self::Install
                | Self::Start
                | Self::Reach
                | Self::Limits
                | Self::LiveLimits
                | Self::OutOfMemory
                | Self::SessionLimits
                | Self::UnitBounds
                | Self::DeniedCalls
        )
    }

    /// How many guests it needs.
    fn guests(self) -> usize {
        if self == Self::Drain { 2 } else { 1 }
    }

    /// Whether nothing can be looked at if it fails.
    pub(super) fn is_ground(self) -> bool {
        matches!(self, Self::Install | Self::Start)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Install => "packages-are-installed-and-start-nothing",
            Self::Start => "a-controller-its-nodes-and-their-instances-come-up",
            Self::Reach => "instances-are-reached-by-address-by-name-and-by-ssh",
            Self::Limits => "limits-are-those-of-control-groups-2",
            Self::LiveLimits => "a-changed-limit-touches-no-instance",
            Self::OutOfMemory => "the-end-by-the-oom-killer-is-named",
            Self::SessionLimits => "a-session-is-in-the-control-group-of-its-container",
            Self::Machine => "a-machine-keeps-its-root-and-systemd-boots-in-it",
            Self::UnitRestarts => "restarting-a-unit-touches-no-instance",
            Self::EngineRestart => "restarting-docker-brings-the-instances-back",
            Self::EngineLiveRestore => "restarting-docker-with-live-restore-touches-no-instance",
            Self::ImageStore => "instances-run-with-the-containerd-image-store",
            Self::DockerNetworks => {
                "instances-are-reached-whatever-docker-does-to-its-own-networks"
            }
            Self::RemappedUsers => "a-docker-that-remaps-users-is-refused-with-the-reason",
            Self::Upgrade => "an-upgrade-touches-no-instance",
            Self::FlushedRules => "flushed-rules-heal",
            Self::Ufw => "ufw-leaves-instances-reachable",
            Self::Firewalld => "firewalld-leaves-instances-reachable",
            Self::Drain => "a-drained-node-gives-its-instances-away-with-their-addresses",
            Self::Reboot => "a-reboot-brings-everything-back",
            Self::BootOrder => "the-agent-comes-before-docker-and-instances-end-before-it",
            Self::PowerCut => "a-power-cut-brings-everything-back",
            Self::UnitBounds => "the-bounds-of-the-units-are-enforced",
            Self::DeniedCalls => "no-system-call-was-denied",
            Self::Removal => "a-purge-leaves-the-host-as-it-was",
        }
    }

    /// Looks whether it holds; what was seen.
    pub(super) async fn run(self, fleet: &Fleet) -> Result<String> {
        match self {
            Self::Install => install::packages(fleet).await,
            Self::Start => install::start(fleet).await,
            Self::Reach => reach::every_way(fleet).await,
            Self::Limits => limits::enforced(fleet).await,
            Self::LiveLimits => limits::changed(fleet).await,
            Self::OutOfMemory => limits::out_of_memory(fleet).await,
            Self::SessionLimits => limits::session(fleet).await,
            Self::Machine => machines::systemd(fleet).await,
            Self::UnitRestarts => restarts::units(fleet).await,
            Self::EngineRestart => restarts::engine(fleet).await,
            Self::EngineLiveRestore => restarts::engine_with_live_restore(fleet).await,
            Self::ImageStore => engines::image_store(fleet).await,
            Self::DockerNetworks => engines::networks(fleet).await,
            Self::RemappedUsers => engines::remapped_users(fleet).await,
            Self::Upgrade => upgrade::packages(fleet).await,
            Self::FlushedRules => firewalls::flushed(fleet).await,
            Self::Ufw => firewalls::ufw(fleet).await,
            Self::Firewalld => firewalls::firewalld(fleet).await,
            Self::Drain => moves::drain(fleet).await,
            Self::Reboot => power::reboot(fleet).await,
            Self::BootOrder => power::order(fleet).await,
            Self::PowerCut => power::cut(fleet).await,
            Self::UnitBounds => units::bounds(fleet).await,
            Self::DeniedCalls => units::denied_calls(fleet).await,
            Self::Removal => removal::purge(fleet).await,
        }
    }
}

/// The addresses of instances, by name.
fn addresses(rows: &[crate::lab::InstanceRow]) -> BTreeSet<(String, String)> {
    rows.iter().map(|row| (row.name.clone(), row.address.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own_and_a_place() {
        let names: BTreeSet<&str> = Check::ALL.iter().map(|check| check.name()).collect();
        assert_eq!(names.len(), Check::ALL.len());
        assert_eq!(Check::all(false, 3), Check::ALL);
        assert_eq!(Check::all(true, 1).first(), Some(&Check::Install));
        assert!(!Check::all(false, 1).contains(&Check::Drain));
        let only = |name: &str| Check::only(Check::all(false, 1), &[name.to_owned()]);
        assert_eq!(only(Check::Ufw.name()).unwrap(), [Check::Install, Check::Start, Check::Ufw]);
        assert!(only(Check::Drain.name()).is_err(), "it needs a second guest");
        let names = [Check::Removal, Check::Ufw].map(|check| check.name().to_owned());
        assert_eq!(Check::named(&Check::ALL, &names).unwrap(), [Check::Removal, Check::Ufw]);
    }
}
