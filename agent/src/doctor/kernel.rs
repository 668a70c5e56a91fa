//! Features of the kernel that dwell builds upon.

use std::fs;
use std::path::Path;

use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::{Finding, reading};

const CHECK: &str = "kernel";

/// What was seen.
#[derive(Clone, Debug, Default)]
struct Facts {
    release: String,
    nexthops: bool,
    namespaces: bool,
    veth: bool,
    nf_tables: bool,
    nft_fib: bool,
    nft_reject: bool,
    pidfd: bool,
    /// Controllers of control groups that can be had.
    controllers: Vec<String>,
}

pub(super) async fn findings() -> Vec<Finding> {
    reading::blocking(|| judge(&look())).await.unwrap_or_default()
}

fn look() -> Facts {
    let release = reading::line("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = modules(&release);
    // A kernel without modules has built in what it has, and no list of it.
    let is_modular = reading::line("/proc/modules").is_some_and(|loaded| !loaded.is_empty());
    let has = |name: &str| {
        let is_listed = modules.iter().any(|module| module == name);
        !is_modular || is_listed || Path::new("/sys/module").join(name).exists()
    };
    Facts {
        nexthops: Path::new("/proc/sys/net/ipv4/nexthop_compat_mode").exists(),
        namespaces: Path::new("/proc/self/ns/net").exists(),
        veth: has("veth"),
        nf_tables: has("nf_tables"),
        nft_fib: has("nft_fib_inet"),
        nft_reject: has("nft_reject_inet"),
        pidfd: pidfd_open(getpid(), PidfdFlags::empty()).is_ok(),
        controllers: controllers(),
        release,
    }
}

/// The modules that are built in or can be loaded, by name.
fn modules(release: &str) -> Vec<String> {
    let directory = Path::new("/lib/modules").join(release);
    let lists =
        ["modules.builtin", "modules.dep"].map(|list| fs::read_to_string(directory.join(list)));
    let name = |line: &str| {
        let path = line.split(':').next()?;
        let file = path.rsplit('/').next()?;
        file.split_once(".ko").map(|(name, _)| name.replace('-', "_"))
    };
    lists
        .into_iter()
        .flatten()
        .flat_map(|text| text.lines().filter_map(name).collect::<Vec<_>>())
        .collect()
}

/// Of the unified hierarchy, or of the separate ones.
fn controllers() -> Vec<String> {
    if let Some(unified) = reading::line("/sys/fs/cgroup/cgroup.controllers") {
        return unified.split_ascii_whitespace().map(str::to_owned).collect();
    }
    // Name, hierarchy, groups, enabled.
    let text = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let enabled = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        (words.get(3) == Some(&"1")).then(|| words.first().map(|name| (*name).to_owned()))?
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(enabled).collect()
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let controller = |name: &str| facts.controllers.iter().any(|there| there == name);
    let release = &facts.release;
    let upgrade = "apt-get install linux-image-generic || apt-get install linux-image-amd64";
    let table = [
        (facts.nexthops, "nexthop objects (Linux 5.8 or later)", upgrade),
        (facts.pidfd, "pidfds (Linux 5.3 or later)", upgrade),
        (facts.namespaces, "network namespaces", upgrade),
        (
            facts.veth,
            "veth interfaces (after an upgrade its modules may be gone until the next boot)",
            "modprobe veth",
        ),
        (
            facts.nf_tables,
            "nf_tables (after an upgrade its modules may be gone until the next boot)",
            "modprobe nf_tables",
        ),
        (
            facts.nft_fib,
            "nft_fib_inet, by which the firewall finds false sources (CONFIG_NFT_FIB_INET)",
            "modprobe nft_fib_inet",
        ),
        (
            facts.nft_reject,
            "nft_reject_inet, by which the firewall refuses (CONFIG_NFT_REJECT_INET)",
            "modprobe nft_reject_inet",
        ),
        (
            controller("cpu"),
            "the cpu controller of control groups",
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
        (
            controller("memory"),
            "the memory controller of control groups (some systems need cgroup_enable=memory at boot)",
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
        (
            controller("pids"),
            "the pids controller of control groups, which limits processes (CONFIG_CGROUP_PIDS)",
            upgrade,
        ),
    ];
    let missing = table.iter().filter(|(is_there, ..)| !is_there);
    let mut findings: Vec<_> = missing
        .map(|(_, what, fix)| {
            Finding::problem(CHECK, format!("Linux {release} lacks {what}"), *fix)
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("Linux {release} has what is needed")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn each_missing_feature_is_named() {
        let all = Facts {
            release: "6.1.0".to_owned(),
            nexthops: true,
            namespaces: true,
            veth: true,
            nf_tables: true,
            nft_fib: true,
            nft_reject: true,
            pidfd: true,
            controllers: ["cpu", "memory", "pids"].map(str::to_owned).into(),
        };
        assert_eq!(judge(&all)[0].outcome, Outcome::Ok);
        for (facts, said) in [
            (Facts { nexthops: false, ..all.clone() }, "nexthop"),
            (Facts { veth: false, ..all.clone() }, "veth"),
            (Facts { nf_tables: false, ..all.clone() }, "nf_tables"),
            (Facts { pidfd: false, ..all.clone() }, "pidfd"),
            (Facts { namespaces: false, ..all.clone() }, "namespaces"),
            (Facts { nft_fib: false, ..all.clone() }, "nft_fib_inet"),
            (Facts { nft_reject: false, ..all.clone() }, "nft_reject_inet"),
            (
                Facts { controllers: ["cpu", "pids"].map(str::to_owned).into(), ..all.clone() },
                "memory",
            ),
            (
                Facts { controllers: ["cpu", "memory"].map(str::to_owned).into(), ..all.clone() },
                "pids",
            ),
        ] {
            let found = judge(&facts);
            assert_eq!((found.len(), found[0].outcome), (1, Outcome::Problem), "{found:?}");
            assert!(found[0].message.contains(said) && !found[0].fix.is_empty(), "{found:?}");
        }
        assert_eq!(judge(&Facts::default()).len(), 10);
    }
}
