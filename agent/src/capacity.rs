//! What the host has: the report that the controller places instances by.
//!
//! Everything is read anew each time, from the kernel alone: about a millisecond, so that once a minute
//! is nothing. Only the one file system that matters is asked for its size, since any other could be
//! a network's and hang.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dwell_core::node::{Capacity, EngineInfo};
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::workload::Resources;
use dwell_docker::Allowed;
use sysinfo::System;

/// Reads what the host has. It blocks for as long as the file system of `data` takes to answer.
///
/// `data` is where the engine keeps images and containers, or else the agent's own data; `allowed` is configured. Disks
/// that are full are told by others. `was_pressed` is whether the host was short of memory before.
#[must_use]
pub fn read(
    data: &Path,
    allowed: &Allowed,
    engines: BTreeMap<String, EngineInfo>,
    was_pressed: bool,
) -> Capacity {
    let memory = System::new().map_or(0, |mut system| {
        system.refresh_memory();
        system.total_memory()
    });
    let (disk, disk_free) = file_system(data);
    let cpu = Millicores(1000 * count_of("/sys/devices/system/cpu/online"));
    let memory = Bytes(memory);
    let pressure = fs::read_to_string("/proc/pressure/memory").unwrap_or_default();
    Capacity {
        cpu,
        memory,
        reserved: reserved(cpu, memory),
        memory_pressed: is_pressed(&pressure, was_pressed),
        disk,
        disk_free,
        numa_nodes: u32::try_from(count_of("/sys/devices/system/node/online")).unwrap_or(u32::MAX),
        arch: System::cpu_arch(),
        os: System::long_os_version().unwrap_or_default(),
        kernel: System::kernel_version().unwrap_or_default(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        allow_binds: texts(&allowed.binds),
        allow_capabilities: allowed.capabilities.clone(),
        allow_devices: texts(&allowed.devices),
        disk_pressures: Vec::new(),
        engines,
    }
}

fn texts(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

/// What is kept for the system, the engine and the agent: a twentieth, within bounds.
fn reserved(cpu: Millicores, memory: Bytes) -> Resources {
    let cpu = Millicores((cpu.0 / 20).clamp(50, 500));
    let memory = Bytes((memory.0 / 20).clamp(Bytes::mebi(128).0, Bytes::mebi(2048).0));
    Resources { cpu, memory }
}

/// Whether every process of the host had to wait for memory for a tenth of the last minute, by the kernel's
/// `/proc/pressure/memory`; once it was so, until it is less than half of that. A kernel without it says nothing.
pub(crate) fn is_pressed(pressure: &str, was_pressed: bool) -> bool {
    let most_percent = if was_pressed { 5.0 } else { 10.0 };
    let full = pressure.lines().find_map(|line| line.strip_prefix("full "));
    let average =
        full.and_then(|full| full.split(' ').find_map(|part| part.strip_prefix("avg60=")));
    average.and_then(|average| average.parse::<f64>().ok()).is_some_and(|full| full >= most_percent)
}

/// The size of a file system, and what of it is free for others than root, who has a reserve.
fn file_system(path: &Path) -> (Bytes, Bytes) {
    nix::sys::statvfs::statvfs(path).map_or_else(
        |_| (Bytes(0), Bytes(0)),
        |stat| {
            let bytes = |blocks: u64| Bytes(blocks.saturating_mul(stat.fragment_size()));
            (bytes(stat.blocks()), bytes(stat.blocks_available()))
        },
    )
}

/// How many things the kernel lists in a file; 1 where it has no such list. Not what this process may
/// use: its unit can have limits of its own.
fn count_of(path: &str) -> u64 {
    fs::read_to_string(path).ok().and_then(|list| count(&list)).unwrap_or(1)
}

/// Counts a list of the kernel's, such as `0-3,8,10-11`.
pub(crate) fn count(list: &str) -> Option<u64> {
    let ranges = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        Some(u64::from(last.checked_sub(first)?) + 1)
    });
    ranges.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel() {
        for (list, expected) in [
            ("0\n", Some(1)),
            ("0-3\n", Some(4)),
            ("0-3,8,10-11", Some(7)),
            ("", None),
            ("3-0", None),
            ("a-b", None),
        ] {
            assert_eq!(count(list), expected, "{list:?}");
        }
    }

    #[test]
    fn pressure_is_what_stops_everything() {
        let kernel = |full: &str| {
            format!(
                "some avg10=90.00 avg60=90.00 avg300=9.00 total=1\nfull avg10=0.00 avg60={full} avg300=0.00 total=1\n"
            )
        };
        assert!(!is_pressed(&kernel("9.99"), false) && is_pressed(&kernel("10.00"), false));
        assert!(is_pressed(&kernel("5.00"), true) && !is_pressed(&kernel("4.99"), true));
        assert!(!is_pressed("", false) && !is_pressed("", true), "an older kernel");
    }

    #[test]
    fn a_part_is_kept_for_the_host() {
        let of = |cores: u64, mebi: u64| reserved(Millicores(cores * 1000), Bytes::mebi(mebi));
        assert_eq!(of(2, 4_000), Resources { cpu: Millicores(100), memory: Bytes::mebi(200) });
        assert_eq!(of(1, 512), Resources { cpu: Millicores(50), memory: Bytes::mebi(128) });
        assert_eq!(of(64, 256_000), Resources { cpu: Millicores(500), memory: Bytes::mebi(2048) });
    }

    #[test]
    fn this_host_has_something() {
        let capacity = read(Path::new("/"), &Allowed::default(), BTreeMap::new(), false);
        assert!(capacity.cpu >= Millicores(1000) && capacity.cpu.0.is_multiple_of(1000));
        assert!(capacity.memory > Bytes::mebi(64));
        assert!(capacity.disk >= capacity.disk_free && capacity.disk_free > Bytes(0));
        assert!(capacity.numa_nodes >= 1);
        assert!(!capacity.kernel.is_empty() && !capacity.os.is_empty());
        assert_eq!(
            read(Path::new("/no/such/path"), &Allowed::default(), BTreeMap::new(), false).disk,
            Bytes(0)
        );
    }
}
