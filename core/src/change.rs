//! What a change does to an instance, said before it is done.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::workload::Template;

/// How a change reaches an instance, from the gentlest to the hardest.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeClass {
    /// Nothing changes.
    #[default]
    None,
    /// Applied to the running container; no downtime.
    Live,
    /// The container is replaced on its node, with the same identity; down between stop and start.
    InPlace,
    /// The instance is placed on another node, with the same identity; down between stop and start.
    Move,
}

impl ChangeClass {
    /// The class of going from one template to another on the same node.
    #[must_use]
    pub fn between(old: &Template, new: &Template) -> Self {
        if old == new {
            Self::None
        } else if old.fingerprint() == new.fingerprint() {
            Self::Live
        } else {
            Self::InPlace
        }
    }
}

/// Whether a live change can make a running container fail: less memory can kill it, fewer processes, less
/// processor time and other checks can make it unhealthy. Such a change reaches instances a few at a time.
#[must_use]
pub fn can_hurt(old: &Template, new: &Template) -> bool {
    // 0 is no limit at all.
    let tighter = |old: u64, new: u64| new != 0 && (old == 0 || new < old);
    let (before, after) = (old.limits(), new.limits());
    tighter(before.share.memory.0, after.share.memory.0)
        || tighter(before.share.cpu.0, after.share.cpu.0)
        || tighter(before.pids.into(), after.pids.into())
        || old.healthcheck != new.healthcheck
        || old.readiness != new.readiness
}

impl fmt::Display for ChangeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Live => "live",
            Self::InPlace => "in-place",
            Self::Move => "move",
        })
    }
}

/// The names of the fields in which two templates differ, for people.
#[must_use]
pub fn changed_fields(old: &Template, new: &Template) -> Vec<&'static str> {
    let differences = [
        ("image", old.image != new.image),
        ("image_policy", old.image_policy != new.image_policy),
        ("entrypoint", old.entrypoint != new.entrypoint),
        ("command", old.command != new.command),
        ("environment", old.environment != new.environment),
        ("user", old.user != new.user),
        ("working_dir", old.working_dir != new.working_dir),
        ("hostname", old.hostname != new.hostname),
        ("labels", old.labels != new.labels),
        ("volumes", old.mounts != new.mounts),
        ("machine", old.machine != new.machine),
        ("carry", old.carry != new.carry),
        ("stop_signal", old.stop_signal != new.stop_signal),
        ("stdin_open", old.stdin != new.stdin),
        ("tty", old.tty != new.tty),
        ("init", old.process.init != new.process.init),
        ("read_only", old.process.read_only != new.process.read_only),
        ("tmpfs", old.process.tmpfs != new.process.tmpfs),
        ("ulimits", old.process.ulimits != new.process.ulimits),
        ("cap_drop", old.process.cap_drop != new.process.cap_drop),
        ("group_add", old.process.group_add != new.process.group_add),
        ("extra_hosts", old.process.extra_hosts != new.process.extra_hosts),
        ("sysctls", old.process.sysctls != new.process.sysctls),
        ("cap_add", old.process.cap_add != new.process.cap_add),
        ("devices", old.process.devices != new.process.devices),
        ("dns_search", old.process.dns_search != new.process.dns_search),
        ("dns_opt", old.process.dns_options != new.process.dns_options),
        ("shm_size", old.shm_size != new.shm_size),
        ("stop_grace_period", old.stop_grace != new.stop_grace),
        ("resources", (old.resources, old.pids) != (new.resources, new.pids)),
        ("restart", old.restart != new.restart),
        ("healthcheck", old.healthcheck != new.healthcheck),
        ("readiness", old.readiness != new.readiness),
        ("hooks", old.hooks != new.hooks),
        ("network.expose", old.expose != new.expose),
        ("network.allow_from", old.allow_from != new.allow_from),
        ("network.allow_to", old.allow_to != new.allow_to),
        ("ssh", old.ssh != new.ssh),
    ];
    differences.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::Millicores;

    #[test]
    fn what_can_hurt_a_running_container() {
        let with = |cpu, memory| {
            let resources = crate::workload::Resources {
                cpu: Millicores(cpu),
                memory: crate::quantity::Bytes(memory),
            };
            Template { resources, ..Template::of_image("a") }
        };
        assert!(can_hurt(&with(0, 0), &with(0, 100)), "a limit where there was none");
        assert!(can_hurt(&with(0, 200), &with(0, 100)));
        assert!(can_hurt(&with(200, 0), &with(100, 0)));
        assert!(!can_hurt(&with(100, 100), &with(200, 200)));
        assert!(!can_hurt(&with(100, 100), &with(0, 0)));
        let pids = |pids| Template { pids, ..Template::of_image("a") };
        assert!(can_hurt(&pids(None), &pids(Some(100))), "less than the default");
        assert!(can_hurt(&pids(Some(5000)), &pids(None)));
        assert!(!can_hurt(&pids(Some(100)), &pids(None)));
    }

    #[test]
    fn classes() {
        let old = Template::of_image("a");
        let mut new = old.clone();
        assert_eq!(ChangeClass::between(&old, &new), ChangeClass::None);
        new.resources.cpu = Millicores(100);
        assert_eq!(changed_fields(&old, &new), ["resources"]);
        new.resources.cpu = Millicores(0);
        new.pids = Some(100);
        assert_eq!(changed_fields(&old, &new), ["resources"]);
        new.allow_to = Some(Vec::new());
        assert_eq!(changed_fields(&old, &new), ["resources", "network.allow_to"]);
        assert_eq!(ChangeClass::between(&old, &new), ChangeClass::Live);
        (new.allow_from, new.allow_to) = (Some(Vec::new()), None);
        assert_eq!(ChangeClass::between(&old, &new), ChangeClass::Live);
        assert_eq!(changed_fields(&old, &new), ["resources", "network.allow_from"]);
        new.image = "b".into();
        assert_eq!(ChangeClass::between(&old, &new), ChangeClass::InPlace);
        assert_eq!(changed_fields(&old, &new), ["image", "resources", "network.allow_from"]);
    }
}
