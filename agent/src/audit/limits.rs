//! The limits that the kernel enforces on a container, read from its control groups, version 1, version 2 or both.

use std::fs;
use std::io;
use std::path::Path;

use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::workload::Limits;
use dwell_daemon::cgroups::{self, Hierarchy, Place};

/// From here on, a limit of memory is none: the kernel and engines have several numbers for that.
const MEMORY_UNLIMITED: u64 = 1 << 60;

/// The limits of a process's control groups; zero is none.
pub(super) fn of(pid: u32) -> io::Result<Limits> {
    Ok(at(&cgroups::of_process(pid)?))
}

/// Of several trees, each has some of the controllers, and their files.
fn at(places: &[Place]) -> Limits {
    let mut limits = Limits::default();
    for Place { hierarchy, directory } in places {
        let (memory, cpu) = match hierarchy {
            Hierarchy::Unified => (number(directory, "memory.max"), quota(directory)),
            Hierarchy::Legacy(_) => {
                let period = number(directory, "cpu.cfs_period_us");
                let quota = number(directory, "cpu.cfs_quota_us");
                (number(directory, "memory.limit_in_bytes"), share(quota, period))
            }
        };
        if let Some(memory) = memory.filter(|memory| *memory < MEMORY_UNLIMITED) {
            limits.share.memory = Bytes(memory);
        }
        if let Some(cpu) = cpu {
            limits.share.cpu = cpu;
        }
        if let Some(pids) = number(directory, "pids.max") {
            limits.pids = u32::try_from(pids).unwrap_or(u32::MAX);
        }
    }
    limits
}

/// `max PERIOD`, or `QUOTA PERIOD`.
fn quota(directory: &Path) -> Option<Millicores> {
    let text = fs::read_to_string(directory.join("cpu.max")).ok()?;
    let mut words = text.split_whitespace().map(|word| word.parse().ok());
    share(words.next()?, words.next()?)
}

fn share(quota_us: Option<u64>, period_us: Option<u64>) -> Option<Millicores> {
    Some(Millicores(quota_us?.saturating_mul(1_000).checked_div(period_us?)?))
}

/// A number in a file; `None` for `max`, `-1`, or if there is no such file.
fn number(directory: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()
}

/// Whether the kernel enforces what it was told: it counts memory in pages.
pub(super) fn are_in_force(told: Limits, kernel: Limits) -> bool {
    let page = rustix::param::page_size() as u64;
    let pages = |bytes: Bytes| bytes.0.checked_div(page);
    told.share.cpu == kernel.share.cpu
        && pages(told.share.memory) == pages(kernel.share.memory)
        && told.pids == kernel.pids
}

#[cfg(test)]
mod tests {
    use dwell_core::workload::Resources;

    use super::*;

    fn limits(hierarchy: &Hierarchy, files: &[(&str, &str)]) -> Limits {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        at(&[Place { hierarchy: hierarchy.clone(), directory: directory.path().to_owned() }])
    }

    #[test]
    fn both_versions_say_what_is_enforced() {
        let legacy = Hierarchy::Legacy(Vec::new());
        let share = Resources { cpu: Millicores(250), memory: Bytes(64 << 20) };
        let set = Limits { share, pids: 0 };
        let none = Limits::default();
        for (hierarchy, files, expected) in [
            (
                &Hierarchy::Unified,
                &[("memory.max", "67108864\n"), ("cpu.max", "25000 100000\n")][..],
                set,
            ),
            (&Hierarchy::Unified, &[("memory.max", "max\n"), ("cpu.max", "max 100000\n")], none),
            (&Hierarchy::Unified, &[], none),
            (&Hierarchy::Unified, &[("pids.max", "4096\n")], Limits { pids: 4096, ..none }),
            (&legacy, &[("pids.max", "100\n")], Limits { pids: 100, ..none }),
            (&legacy, &[("pids.max", "max\n")], none),
            (
                &legacy,
                &[
                    ("memory.limit_in_bytes", "67108864\n"),
                    ("cpu.cfs_quota_us", "25000\n"),
                    ("cpu.cfs_period_us", "100000\n"),
                ],
                set,
            ),
            (
                &legacy,
                &[
                    ("memory.limit_in_bytes", "9223372036854771712\n"),
                    ("cpu.cfs_quota_us", "-1\n"),
                    ("cpu.cfs_period_us", "100000\n"),
                ],
                none,
            ),
            (&legacy, &[("cpu.cfs_quota_us", "25000\n"), ("cpu.cfs_period_us", "0\n")], none),
        ] {
            assert_eq!(limits(hierarchy, files), expected, "{files:?}");
        }
    }

    #[test]
    fn memory_is_counted_in_pages() {
        let limits = |cpu, memory, pids| Limits {
            share: Resources { cpu: Millicores(cpu), memory: Bytes(memory) },
            pids,
        };
        let told = limits(1, (64 << 20) + 1, 100);
        assert!(are_in_force(told, limits(1, 64 << 20, 100)));
        assert!(!are_in_force(told, limits(1, 65 << 20, 100)));
        assert!(!are_in_force(told, limits(2, 64 << 20, 100)));
        assert!(!are_in_force(told, limits(1, 64 << 20, 0)));
    }
}
