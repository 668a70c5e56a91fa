//! Keys of Compose that the format does not have: what becomes of a file that uses them.
//!
//! What asks for nothing (`privileged: false`, `ports: []`) is nobody's business. What changes nothing that a
//! program could rely on is ignored with a warning. Everything else is refused, with the way out: a file never
//! seems to work while something of it is left out. `docs/compose.md` shows all of it; a test holds the page to it.

#[cfg(test)]
mod page;

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

/// Where in a file a key is, as far as Compose has keys there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At the top.
    File,
    /// Of a service.
    Service,
    /// Beneath `deploy`.
    Deploy,
    /// Beneath `deploy.resources`.
    Resources,
    /// Beneath `deploy.resources.limits`.
    Limits,
    /// Beneath `deploy.placement`.
    Placement,
    /// Of a health check.
    HealthCheck,
    /// Of what a service mounts, in its long spelling.
    Mount,
    /// Of a volume at the top of the file.
    Volume,
    /// Where Compose has nothing.
    Other,
}

impl Place {
    /// Where the keys are of a mapping that these keys lead to.
    pub(super) fn of(path: &[&str]) -> Self {
        match path {
            [] => Self::File,
            ["volumes", _] => Self::Volume,
            ["services" | "workloads", _, inside @ ..] => match inside {
                [] => Self::Service,
                ["deploy"] => Self::Deploy,
                ["deploy", "resources"] => Self::Resources,
                ["deploy", "resources", "limits"] => Self::Limits,
                ["deploy", "placement"] => Self::Placement,
                ["healthcheck"] => Self::HealthCheck,
                ["volumes"] => Self::Mount,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }

    /// The keys that Compose has there and the format has not, in alphabetical order.
    fn entries(self) -> &'static [Entry] {
        match self {
            Self::File => FILE,
            Self::Deploy => DEPLOY,
            Self::Resources => RESOURCES,
            Self::Placement => PLACEMENT,
            Self::HealthCheck => HEALTH_CHECK,
            Self::Mount => MOUNT,
            Self::Volume => VOLUME,
            // Whoever writes one in a mapping of ours means that.
            Self::Service | Self::Other => SERVICE,
            Self::Limits => &[],
        }
    }
}

/// The verdict on a key in its place; `None` if it is not one of Compose's.
pub(super) fn verdict(place: Place, key: &str, value: &Kind) -> Option<Verdict> {
    let entry = place.entries().iter().find(|entry| entry.key == key)?;
    if value.asks_for_nothing() {
        return Some(Verdict::Pass);
    }
    Some(match entry.fate {
        Fate::Ignored(why) => Verdict::Ignore(why),
        Fate::Refused(instead) => Verdict::Refuse(instead),
        Fate::Depends { harmless, why, instead } => match value.is_among(harmless) {
            true => Verdict::Ignore(why),
            false => Verdict::Refuse(instead),
        },
    })
}

/// A key, and what becomes of it.
struct Entry {
    key: &'static str,
    fate: Fate,
}

enum Fate {
    /// It may be left out, for this reason.
    Ignored(&'static str),
    /// This is to be done instead.
    Refused(&'static str),
    /// It may be left out with these values, or a list or mapping of nothing else.
    Depends { harmless: &'static [&'static str], why: &'static str, instead: &'static str },
}

const fn ignored(key: &'static str, why: &'static str) -> Entry {
    Entry { key, fate: Fate::Ignored(why) }
}

const fn refused(key: &'static str, instead: &'static str) -> Entry {
    Entry { key, fate: Fate::Refused(instead) }
}

/// What several keys have in common.
const NO_DEVICES: &str = "name each device under \"devices\"";
const USE_CPUS: &str = "use \"cpus\"";
const OWN_NAMESPACES: &str = "every instance has namespaces of its own; remove it";
const ONE_LIMIT: &str = "memory has one limit, \"mem_limit\"; remove it";
const NO_SHAPING: &str = "there are no limits for disks; remove it";
const ON_THE_NODE: &str = "volumes are kept on the node of their instance; remove it";
const FILES: &str = "put the file into the image, or on the nodes beneath a path of \"allow_binds\" and mount it from there";
const NETWORK: &str = "every instance has an address of its own and reaches all others; remove it, and say who may reach whom with \"network.allow_from\" (\"dwell import\" does both)";

const FILE: &[Entry] = &[
    refused("configs", FILES),
    refused("include", "apply each file by itself"),
    refused("models", "run the model as a workload of its own"),
    Entry {
        key: "networks",
        fate: Fate::Depends {
            harmless: &["default"],
            why: "every instance has an address of its own and reaches all others",
            instead: NETWORK,
        },
    },
    refused("secrets", FILES),
];

const SERVICE: &[Entry] = &[
    refused("annotations", "use \"labels\""),
    ignored("attach", "nothing is attached to an instance; \"dwell logs\" shows what it prints"),
    refused("blkio_config", NO_SHAPING),
    refused("build", "dwell runs images; build and push one, and name it with \"image\""),
    refused("cgroup", "dwell places its instances in cgroups itself"),
    refused("cgroup_parent", "dwell places its instances in cgroups itself"),
    refused("configs", FILES),
    ignored(
        "container_name",
        "instances are called WORKLOAD-NUMBER, and are found by that name and by the workload's",
    ),
    refused("cpu_count", USE_CPUS),
    refused("cpu_percent", USE_CPUS),
    refused("cpu_period", USE_CPUS),
    refused("cpu_quota", USE_CPUS),
    refused("cpu_rt_period", USE_CPUS),
    refused("cpu_rt_runtime", USE_CPUS),
    refused("cpu_shares", USE_CPUS),
    refused(
        "cpuset",
        "instances are not bound to single processors; use \"cpus\" for how much they get",
    ),
    refused("credential_spec", "that is for Windows; remove it"),
    ignored(
        "depends_on",
        "all workloads of a file are declared at once and start independently, whatever the condition; a program that cannot go on \
         without another is started again until it can",
    ),
    ignored("develop", "dwell runs images and does not watch sources"),
    refused("device_cgroup_rules", NO_DEVICES),
    refused(
        "dns",
        "instances ask their node, which knows the names of the cluster and asks others for the rest; remove it, and have those \
         servers in \"dns: {upstream: […]}\" of the nodes' agent.yaml",
    ),
    refused("domainname", "instances are called NAME in the cluster's zone; remove it"),
    refused(
        "driver_opts",
        "those are of a network or a volume, and there are no drivers; remove it",
    ),
    refused("external_links", "instances reach each other by name; remove it"),
    refused("gpus", NO_DEVICES),
    refused("ipc", OWN_NAMESPACES),
    refused("isolation", "that is for Windows; remove it"),
    refused("label_file", "write the labels under \"labels\""),
    refused("links", "instances reach each other by name; remove it"),
    ignored(
        "logging",
        "the node keeps the newest 30 MiB of what an instance prints, in three files, and \"dwell logs\" shows them",
    ),
    refused("mac_address", "every instance has a MAC address of its own for life; remove it"),
    refused("mem_reservation", "what \"mem_limit\" says is reserved as well; remove it"),
    refused("mem_swappiness", ONE_LIMIT),
    refused("memswap_limit", ONE_LIMIT),
    refused("models", "run the model as a workload of its own"),
    refused("network_mode", "every instance has an address of its own; remove it"),
    Entry {
        key: "networks",
        fate: Fate::Depends {
            harmless: &["default"],
            why: "every instance has an address of its own and reaches all others",
            instead: NETWORK,
        },
    },
    refused("oom_kill_disable", ONE_LIMIT),
    refused("oom_score_adj", ONE_LIMIT),
    refused("pid", OWN_NAMESPACES),
    refused("platform", "choose nodes with constraints: [node.arch==ARCH]"),
    refused(
        "ports",
        "every instance is reached at its own address; name the port inside under \"expose\" (\"dwell import\" does)",
    ),
    refused("post_start", "use \"hooks: {after_start: {exec: …}}\""),
    refused("pre_stop", "use \"hooks: {before_stop: {exec: …}}\""),
    refused(
        "privileged",
        "workloads run without privileges over their node; name what it needs of them under \"cap_add\" and \"devices\"",
    ),
    refused("provider", "run what it provides as a workload"),
    refused(
        "pull_refresh_after",
        "a tag is looked up again at each new version with \"pull_policy: always\"; remove it",
    ),
    refused("runtime", "the node's operator chooses the runtime; remove it"),
    refused("secrets", FILES),
    refused("security_opt", "workloads run with the engine's standard profile"),
    refused("storage_opt", NO_SHAPING),
    refused("use_api_socket", "workloads do not get the engine's socket"),
    refused("userns_mode", OWN_NAMESPACES),
    refused("uts", OWN_NAMESPACES),
    refused("volumes_from", "name the volumes under \"volumes\""),
];

const DEPLOY: &[Entry] = &[
    Entry {
        key: "endpoint_mode",
        fate: Fate::Depends {
            harmless: &["dnsrr"],
            why: "the name of a workload always leads to the addresses of its instances",
            instead: "the name of a workload leads to the addresses of its instances, and not to one in front of them; \
                      remove it",
        },
    },
    refused("restart_policy", "use \"restart\""),
    refused(
        "rollback_config",
        "going back is done by the same rules as going on, which \"update\" has; remove it",
    ),
    refused(
        "update_config",
        "use \"update: {order, parallelism, canary, deadline, monitor, max_failures, on_failure}\"",
    ),
];

const RESOURCES: &[Entry] =
    &[refused("reservations", "what \"limits\" says is reserved as well; remove it")];

const PLACEMENT: &[Entry] = &[
    refused(
        "max_replicas_per_node",
        "instances are spread over the nodes; for one on each, use \"deploy: {mode: global}\"",
    ),
    refused("preferences", "instances are spread over the nodes; remove it"),
];

const HEALTH_CHECK: &[Entry] =
    &[ignored("start_interval", "a starting instance is probed often anyway")];

const MOUNT: &[Entry] = &[
    refused("bind", "files are mounted as they are on the node; remove it"),
    ignored("consistency", "files are mounted as they are on the node"),
    refused(
        "image",
        "run what is in that image as a workload of its own, or copy it into this one",
    ),
    refused("tmpfs", "name the directory under the service's \"tmpfs\", such as /run:size=64m"),
    refused(
        "volume",
        "each volume is mounted as a whole, and has what the image has there; remove it",
    ),
];

const VOLUME: &[Entry] = &[
    Entry {
        key: "driver",
        fate: Fate::Depends {
            harmless: &["local"],
            why: "volumes are kept on the node of their instance",
            instead: ON_THE_NODE,
        },
    },
    refused("driver_opts", ON_THE_NODE),
    refused("external", "volumes belong to instances; remove it"),
    ignored("labels", "volumes have no labels"),
    ignored("name", "every instance has a volume of its own, which is called as the file calls it"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_entry() {
        let places = [FILE, SERVICE, DEPLOY, RESOURCES, PLACEMENT, HEALTH_CHECK, MOUNT, VOLUME];
        for entries in places {
            let keys: Vec<&str> = entries.iter().map(|entry| entry.key).collect();
            assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        }
    }
}
