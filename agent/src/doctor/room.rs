//! What may be full: disks, and tables of the kernel.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::{Finding, Host, reading};

/// From which share of its size on something is worth a word, and does harm, in percent.
const NEARLY_FULL: u64 = 85;
const FULL: u64 = 95;

/// What makes room on Docker's disk and takes nothing of an instance: images that no container has. Whatever
/// removes containers as well removes those that are stopped, or kept for the way back, with their files.
const ROOM_FOR_DOCKER: &str = "docker image prune -a";

/// Something of which there is only so much.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Store {
    check: &'static str,
    /// Which one, for people.
    name: String,
    used: u64,
    size: u64,
    /// What makes room.
    fix: String,
}

pub(super) async fn findings(host: &Host) -> Vec<Finding> {
    let data_root = match &host.engine {
        Some(engine) => engine.info().await.ok().and_then(|report| report.data_root),
        None => None,
    };
    let data_dir = host.config.data_dir.clone();
    let stores = reading::blocking(move || {
        let disks = [
            disk("the agent's data directory", &data_dir, "journalctl --vacuum-size=200M"),
            data_root.and_then(|root| disk("Docker's data", &root, ROOM_FOR_DOCKER)),
        ];
        disks.into_iter().chain([connections(), neighbours()]).flatten().collect::<Vec<_>>()
    });
    stores.await.unwrap_or_default().iter().map(judge).collect()
}

fn judge(store: &Store) -> Finding {
    let Store { check, name, used, size, fix } = store;
    let percent = used.saturating_mul(100) / size.max(&1);
    let message = format!("{name} is {percent} % full");
    match percent {
        ..NEARLY_FULL => Finding::ok(check, message),
        NEARLY_FULL..FULL => Finding::warning(check, message, fix),
        FULL.. => Finding::problem(check, message, fix),
    }
}

fn disk(what: &str, path: &Path, fix: &str) -> Option<Store> {
    let seen = statvfs(path).ok()?;
    let used = seen.blocks().saturating_sub(seen.blocks_free());
    Some(Store {
        check: "disk",
        name: format!("the disk of {what} ({})", path.display()),
        used,
        // As `df` counts: what is kept for root is no room.
        size: used + seen.blocks_available(),
        fix: fix.to_owned(),
    })
}

fn connections() -> Option<Store> {
    let size = reading::number("/proc/sys/net/netfilter/nf_conntrack_max")?;
    Some(Store {
        check: "conntrack",
        name: format!("the table of tracked connections (at most {size})"),
        used: reading::number("/proc/sys/net/netfilter/nf_conntrack_count")?,
        size,
        fix: format!("sysctl -w net.netfilter.nf_conntrack_max={}", size.saturating_mul(2)),
    })
}

fn neighbours() -> Option<Store> {
    let size = reading::number("/proc/sys/net/ipv4/neigh/default/gc_thresh3")?;
    let text = fs::read_to_string("/proc/thread-self/net/arp").ok()?;
    // Permanent entries, as instances have, do not count.
    let is_counted = |line: &&str| line.split_ascii_whitespace().nth(2) != Some("0x6");
    Some(Store {
        check: "neighbours",
        name: format!("the table of neighbours (at most {size})"),
        used: text.lines().skip(1).filter(is_counted).count() as u64,
        size,
        fix: format!("sysctl -w net.ipv4.neigh.default.gc_thresh3={}", size.saturating_mul(2)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn what_is_nearly_full_is_told_before_it_is_full() {
        for (used, size, outcome) in [
            (0, 0, Outcome::Ok),
            (84, 100, Outcome::Ok),
            (85, 100, Outcome::Warning),
            (95, 100, Outcome::Problem),
            (u64::MAX, u64::MAX, Outcome::Ok),
        ] {
            let (name, fix) = ("it".to_owned(), "make room".to_owned());
            let found = judge(&Store { check: "disk", name, used, size, fix });
            assert_eq!(found.outcome, outcome, "{used} of {size}");
            assert_eq!(found.fix.is_empty(), outcome == Outcome::Ok);
        }
    }

    #[test]
    fn making_room_takes_nothing_of_an_instance() {
        for taken in ["system", "container", "volume"] {
            assert!(!ROOM_FOR_DOCKER.contains(taken), "it removes what instances need");
        }
    }

    #[test]
    fn a_disk_has_a_size() {
        let found = disk("it", Path::new("/"), "").unwrap();
        assert!(found.size > 0 && found.used <= found.size);
        assert_eq!(disk("it", Path::new("/nonexistent"), ""), None);
    }
}
