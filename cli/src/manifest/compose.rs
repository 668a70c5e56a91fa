//! Keys of Compose that the format does not have: what becomes of a file that uses them.
//!
//! What asks for nothing (`privileged: false`, `ports: []`) is nobody's business. What changes nothing that a
//! program could rely on is ignored with a warning. Everything else is refused, with the way out: a file never
//! seems to work while something of it is left out.

use super::shape::Kind;

/// What is to be done with a key that the format does not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It asks for nothing.
    Pass,
    /// It makes no difference, for this reason.
    Ignore(&'static str),
    /// It cannot be honoured; this is to be done instead.
    Refuse(&'static str),
}

/// The verdict on a key; `None` if it is not one of Compose's.
pub(super) fn verdict(key: &str, value: &Kind) -> Option<Verdict> {
    let ignored = IGNORED.iter().find(|ignored| ignored.key == key);
    let refused = REFUSED.iter().find(|(refused, _)| *refused == key);
    match (ignored, refused) {
        (None, None) => None,
        _ if value.asks_for_nothing() => Some(Verdict::Pass),
        (Some(ignored), _) if ignored.values.is_empty() || value.is_among(ignored.values) => {
            Some(Verdict::Ignore(ignored.why))
        }
        (_, Some((_, instead))) => Some(Verdict::Refuse(instead)),
        (Some(_), None) => None,
    }
}

/// A key that may be left out.
struct Ignored {
    key: &'static str,
    /// Only with these values, or a list or mapping of nothing else; with any value if there are none.
    values: &'static [&'static str],
    why: &'static str,
}

/// Keys of Compose that make no difference here.
const IGNORED: &[Ignored] = &[
    Ignored {
        key: "attach",
        values: &[],
        why: "nothing is attached to an instance; \"dwell logs\" shows what it prints",
    },
    Ignored {
        key: "container_name",
        values: &[],
        why: "instances are called WORKLOAD-NUMBER, and are found by that name and by the workload's",
    },
    Ignored {
        key: "depends_on",
        values: &[],
        why: "workloads start independently; a program that cannot go on without another is started again until it can",
    },
    Ignored { key: "develop", values: &[], why: "dwell runs images and does not watch sources" },
    Ignored {
        key: "driver",
        values: &["local"],
        why: "volumes are kept on the node of their instance",
    },
    Ignored { key: "logging", values: &[], why: "\"dwell logs\" shows what an instance prints" },
    Ignored {
        key: "networks",
        values: &["default"],
        why: "every instance has an address of its own and reaches all others",
    },
    Ignored {
        key: "start_interval",
        values: &[],
        why: "a starting instance is probed often anyway",
    },
];

/// Keys of Compose that dwell cannot honour, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("annotations", "use \"labels\""),
    ("blkio_config", "there are no limits for disks"),
    ("build", "dwell runs images; build and push one, and name it with \"image\""),
    (
        "cap_add",
        "workloads have no more than the engine's standard capabilities; \"cap_drop\" takes some away",
    ),
    ("cgroup", "dwell places its instances in cgroups itself"),
    ("cgroup_parent", "dwell places its instances in cgroups itself"),
    ("configs", "put the file into the image or mount it with \"volumes\""),
    ("cpu_count", "use \"cpus\""),
    ("cpu_percent", "use \"cpus\""),
    ("cpu_period", "use \"cpus\""),
    ("cpu_quota", "use \"cpus\""),
    ("cpu_rt_period", "use \"cpus\""),
    ("cpu_rt_runtime", "use \"cpus\""),
    ("cpu_shares", "use \"cpus\""),
    ("cpuset", "instances are not bound to single processors; use \"cpus\" for how much they get"),
    ("credential_spec", "that is for Windows; remove it"),
    ("device_cgroup_rules", "workloads get no devices of their node"),
    ("devices", "workloads get no devices of their node"),
    ("dns", "instances use the names of the cluster; remove it"),
    ("dns_opt", "instances use the names of the cluster; remove it"),
    ("dns_search", "instances use the names of the cluster; remove it"),
    ("domainname", "instances are called NAME in the cluster's zone; remove it"),
    ("driver", "volumes are kept on the node; remove it"),
    ("driver_opts", "volumes are kept on the node; remove it"),
    (
        "env_file",
        "name the variables under \"environment\" without values, which are then taken from whoever applies the file: \
         set -a; . ./FILE; dwell apply …",
    ),
    ("extends", "write the workload out, or use a YAML anchor and merge key"),
    ("external", "volumes belong to instances; remove it"),
    ("external_links", "instances reach each other by name; remove it"),
    ("gpus", "workloads get no devices of their node"),
    ("include", "apply each file by itself"),
    ("ipc", "every instance has namespaces of its own"),
    ("isolation", "that is for Windows; remove it"),
    ("label_file", "write the labels under \"labels\""),
    ("links", "instances reach each other by name; remove it"),
    ("mac_address", "every instance has a MAC address of its own for life; remove it"),
    ("mem_reservation", "what \"mem_limit\" says is reserved as well; remove it"),
    ("mem_swappiness", "memory has one limit, \"mem_limit\"; remove it"),
    ("memswap_limit", "memory has one limit, \"mem_limit\"; remove it"),
    ("models", "run the model as a workload of its own"),
    ("network_mode", "every instance has an address of its own; remove it"),
    (
        "networks",
        "every instance has an address of its own and reaches all others; remove it, and say who may reach whom with \"network.allow_from\"",
    ),
    ("oom_kill_disable", "memory has one limit, \"mem_limit\"; remove it"),
    ("oom_score_adj", "memory has one limit, \"mem_limit\"; remove it"),
    ("pid", "every instance has namespaces of its own"),
    ("platform", "choose nodes with constraints: [node.arch==ARCH]"),
    (
        "ports",
        "every instance is reached at its own address; name the port inside under \"expose\"",
    ),
    ("post_start", "use \"hooks: {after_start: {exec: …}}\""),
    ("pre_stop", "use \"hooks: {before_stop: {exec: …}}\""),
    ("privileged", "workloads run without privileges over their node"),
    ("profiles", "put the workload into a file of its own"),
    ("provider", "run what it provides as a workload"),
    (
        "pull_refresh_after",
        "a tag is looked up again at each new version with \"pull_policy: always\"; remove it",
    ),
    ("reservations", "what \"limits\" says is reserved as well; remove it"),
    ("restart_policy", "use \"restart\""),
    ("runtime", "the node's operator chooses the runtime; remove it"),
    ("secrets", "mount a directory the node's operator allows, or use \"environment\""),
    ("security_opt", "workloads run with the engine's standard profile"),
    ("storage_opt", "there are no limits for disks"),
    ("sysctls", "workloads run with the node's settings"),
    (
        "update_config",
        "use \"update: {order, parallelism, canary, deadline, monitor, max_failures, on_failure}\"",
    ),
    ("use_api_socket", "workloads do not get the engine's socket"),
    ("userns_mode", "every instance has namespaces of its own"),
    ("uts", "every instance has namespaces of its own"),
    ("volumes_from", "name the volumes under \"volumes\""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_entry_that_leads_somewhere() {
        let mut keys: Vec<&str> = REFUSED.iter().map(|(key, _)| *key).collect();
        assert!(keys.is_sorted());
        keys.dedup();
        assert_eq!(keys.len(), REFUSED.len());
        for Ignored { key, values, .. } in IGNORED {
            // Where only some values do no harm, there are words for the others.
            assert_eq!(keys.contains(key), !values.is_empty(), "{key}");
        }
    }
}
