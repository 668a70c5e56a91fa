//! What may be full: disks, and tables of the kernel.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::{Finding, Host, reading};

/// From which share of its size on something is worth a word, and does harm, in percent.
const NEARLY_FULL: u64 = 85;
const FULL: u64 = 95;

/// The most process numbers that Linux has.
const PID_MAX: u64 = 1 << 22;

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
        let mut stores =
            disk("the agent's data directory", &data_dir, "journalctl --vacuum-size=200M");
        if let Some(root) = data_root {
            stores.extend(disk("Docker's data", &root, ROOM_FOR_DOCKER));
        }
        let tables = [connections(), neighbours(), files(), processes()];
        stores.into_iter().chain(tables.into_iter().flatten()).collect::<Vec<_>>()
    });
    let mut findings: Vec<Finding> = stores.await.unwrap_or_default().iter().map(judge).collect();
    if let Some(pattern) = reading::line("/proc/sys/kernel/core_pattern") {
        let has_pid = reading::number("/proc/sys/kernel/core_uses_pid") == Some(1);
        findings.push(core_files(&pattern, has_pid));
    }
    findings
}

/// Whether core files of instances add up. A program that takes them (`|…`) sees to that itself; else they go into the file system of
/// the container, which is on Docker's disk.
fn core_files(pattern: &str, has_pid: bool) -> Finding {
    const CHECK: &str = "core-files";
    let each_other = ["%p", "%P", "%i", "%I", "%t"].iter().any(|part| pattern.contains(part));
    if pattern.starts_with('|') || pattern.is_empty() {
        Finding::ok(CHECK, "core files of instances go to a program of the host, or nowhere")
    } else if has_pid || each_other {
        Finding::warning(
            CHECK,
            format!(
                "each crash leaves one more core file in its container ({pattern}), on Docker's disk"
            ),
            "sysctl -w kernel.core_pattern=core kernel.core_uses_pid=0",
        )
    } else {
        Finding::ok(CHECK, "a core file of a container is replaced by its next one")
    }
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

/// Its bytes, and its files where their number is bounded.
fn disk(what: &str, path: &Path, fix: &str) -> Vec<Store> {
    let Ok(seen) = statvfs(path) else { return Vec::new() };
    let place = format!("the disk of {what} ({})", path.display());
    let used = seen.blocks().saturating_sub(seen.blocks_free());
    // As `df` counts: what is kept for root is no room.
    let size = used + seen.blocks_available();
    let mut found =
        vec![Store { check: "disk", name: place.clone(), used, size, fix: fix.to_owned() }];
    // Some file systems make inodes as they need them, and say 0.
    if seen.files() > 0 {
        let used = seen.files().saturating_sub(seen.files_free());
        let size = used + seen.files_available();
        let name = format!("the number of files on {place}");
        found.push(Store { check: "inodes", name, used, size, fix: fix.to_owned() });
    }
    found
}

/// Files that are open on the whole host.
fn files() -> Option<Store> {
    let text = reading::line("/proc/sys/fs/file-nr")?;
    let mut words = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (used, size) = (words.next()?.ok()?, words.nth(1)?.ok()?);
    Some(Store {
        check: "open-files",
        name: format!("the table of open files (at most {size})"),
        used,
        size,
        fix: "lsof -n | awk '{print $1}' | sort | uniq -c | sort -n | tail".to_owned(),
    })
}

/// Processes and threads of the whole host, instances included.
fn processes() -> Option<Store> {
    let text = reading::line("/proc/loadavg")?;
    // The fourth word: how many are runnable, of how many.
    let used = text.split_ascii_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let numbers = reading::number("/proc/sys/kernel/pid_max")?;
    let size =
        reading::number("/proc/sys/kernel/threads-max").map_or(numbers, |most| most.min(numbers));
    Some(Store {
        check: "processes",
        name: format!("the table of processes and threads (at most {size})"),
        used,
        size,
        fix: format!(
            "sysctl -w kernel.pid_max={0} kernel.threads-max={0}",
            size.saturating_mul(2).min(PID_MAX)
        ),
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
    fn core_files_do_not_add_up() {
        for (pattern, has_pid, outcome) in [
            ("core", false, Outcome::Ok),
            ("core", true, Outcome::Warning),
            ("core.%p", false, Outcome::Warning),
            ("/var/cores/%e-%t", false, Outcome::Warning),
            ("/core-%e", false, Outcome::Ok),
            ("|/lib/systemd/systemd-coredump %P %u", true, Outcome::Ok),
            ("", false, Outcome::Ok),
        ] {
            assert_eq!(core_files(pattern, has_pid).outcome, outcome, "{pattern:?} {has_pid}");
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
        let found = disk("it", Path::new("/"), "");
        assert_eq!(found[0].check, "disk");
        assert!(found.iter().all(|store| store.size > 0 && store.used <= store.size), "{found:?}");
        assert!(disk("it", Path::new("/nonexistent"), "").is_empty());
    }

    #[test]
    fn the_tables_of_this_kernel_are_read() {
        for store in [files(), processes()] {
            let store = store.unwrap();
            assert!(store.used > 0 && store.used < store.size, "{store:?}");
        }
    }
}
