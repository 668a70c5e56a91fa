//! Nodes: what a host has, and how it is doing.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::quantity::{Bytes, Millicores};
use crate::workload::Resources;

/// What a host has and what it runs on, as its agent reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// Processor time of all online processors.
    pub cpu: Millicores,
    /// Physical memory, in bytes.
    pub memory: Bytes,
    /// The file system with the engine's data: its size, in bytes.
    pub disk: Bytes,
    /// What of that is free, in bytes.
    pub disk_free: Bytes,
    /// NUMA nodes; 1 where there is no such thing.
    pub numa_nodes: u32,
    /// Processor architecture, such as `x86_64`.
    pub arch: String,
    /// Operating system, such as `Debian GNU/Linux 12`.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of the agent.
    pub agent_version: String,
    /// What of processor and memory is kept for the host itself: its system, the engine, the agent.
    pub reserved: Resources,
    /// Whether the host is so short of memory that what runs there has to wait for it.
    pub memory_pressed: bool,
    /// Paths of the host which, with all below them, instances may mount.
    pub allow_binds: Vec<String>,
    /// Capabilities that instances may have beside those that an engine gives.
    pub allow_capabilities: Vec<String>,
    /// Devices of the host, and directories of such, that instances may have.
    pub allow_devices: Vec<String>,
    /// Engines that answer, by name.
    pub engines: BTreeMap<String, EngineInfo>,
    /// Its file systems that have no room left.
    pub disk_pressures: Vec<DiskPressure>,
}

/// A file system of a host that has no room left. Nothing new is placed on the host meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPressure {
    /// Where: the engine's data, or the agent's.
    pub path: String,
    /// What there is no more of.
    pub lacks: Room,
    /// How much of that is used, in percent, as `df` says.
    pub percent: u8,
    /// How much of it is left.
    pub left: u64,
}

/// What a file system can run out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Room {
    /// Room, in bytes.
    Bytes,
    /// Inodes, of which each file takes one.
    Files,
}

impl fmt::Display for DiskPressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, lacks, percent, left } = self;
        match lacks {
            Room::Bytes => write!(f, "{path} {percent} % full, {} left", Bytes(left >> 20 << 20)),
            Room::Files => write!(f, "{path} has {percent} % of its inodes in use, {left} left"),
        }
    }
}

impl Capacity {
    /// What instances can be promised.
    #[must_use]
    pub fn for_instances(&self) -> Resources {
        Resources { cpu: self.cpu, memory: self.memory }.minus(self.reserved)
    }

    /// Whether there is an engine that could run something new. One that says nothing of engines is
    /// believed to have one.
    #[must_use]
    pub fn has_engine(&self) -> bool {
        self.engines.is_empty() || self.engines.values().any(|engine| engine.ready)
    }

    /// Whether a file system has no room for another image, as the agent says; of one that says nothing of it, by its numbers: less than 3 %
    /// of the engine's disk is free, and less than 1 GiB.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        const ENOUGH: Bytes = Bytes::mebi(1024);
        if !self.disk_pressures.is_empty() {
            return true;
        }
        self.disk > Bytes(0) && self.disk_free < ENOUGH && self.disk_free.0 < self.disk.0 / 100 * 3
    }
}

/// An engine of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineInfo {
    /// Its version.
    pub version: String,
    /// The version of its API that was agreed on.
    pub api_version: String,
    /// Whether it answers now.
    pub ready: bool,
    /// If not: why. If so: what it cannot do for instances.
    pub message: String,
}

/// How sure the controller is of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Heard of in time.
    Ready,
    /// Not heard of for a while: nothing new is placed there, what runs there is left alone.
    Unreachable,
    /// Not heard of for long.
    #[default]
    Down,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ready => "ready",
            Self::Unreachable => "unreachable",
            Self::Down => "down",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_the_host_is_promised_to_nobody() {
        let reserved = Resources { cpu: Millicores(200), memory: Bytes::mebi(300) };
        let host = Capacity {
            cpu: Millicores(4000),
            memory: Bytes::mebi(4000),
            reserved,
            ..Capacity::default()
        };
        let left = Resources { cpu: Millicores(3800), memory: Bytes::mebi(3700) };
        assert_eq!(host.for_instances(), left);
    }

    #[test]
    fn engines_and_disks() {
        let mut host = Capacity::default();
        assert!(host.has_engine() && !host.is_disk_full(), "nothing is said of them");
        host.engines.insert("docker".into(), EngineInfo::default());
        assert!(!host.has_engine());
        host.engines.insert("other".into(), EngineInfo { ready: true, ..EngineInfo::default() });
        assert!(host.has_engine());
        let gibi = |count: u64| Bytes::mebi(count * 1024);
        for (disk, free, full) in [
            (gibi(100), Bytes::mebi(900), true),
            (gibi(100), gibi(2), false),
            (gibi(8), Bytes::mebi(900), false),
            (gibi(8), Bytes::mebi(100), true),
        ] {
            let host = Capacity { disk, disk_free: free, ..Capacity::default() };
            assert_eq!(host.is_disk_full(), full, "{free} of {disk}");
        }
        let files =
            DiskPressure { path: "/data".into(), lacks: Room::Files, percent: 99, left: 70 };
        assert_eq!(files.to_string(), "/data has 99 % of its inodes in use, 70 left");
        let host = Capacity { disk_pressures: vec![files], ..Capacity::default() };
        assert!(host.is_disk_full());
    }

    /// As an agent or a store of an earlier version has it.
    #[test]
    fn a_capacity_without_the_newer_fields_is_read() {
        let old = r#"{"cpu":"4","memory":"1Gi","arch":"x86_64"}"#;
        let read: Capacity = serde_json::from_str(old).unwrap();
        assert_eq!(read.for_instances().cpu, Millicores(4000));
    }
}
