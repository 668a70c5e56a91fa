//! Nodes: what a host has and how it is doing.

use dwell_core::instance::sanitize;
use dwell_core::node::{Capacity, DiskPressure, EngineInfo, NodeState, Room};
use dwell_core::quantity::{Bytes, Millicores};

use crate::v1;

/// The longest text of a capacity report, in bytes.
const TEXT_MAX: usize = 256;
/// The most engines a host may report.
const ENGINES_MAX: usize = 16;
/// The most paths for mounts a host may report.
const BINDS_MAX: usize = 64;
/// The most file systems without room a host may report.
const DISKS_MAX: usize = 8;

impl From<&Capacity> for v1::Capacity {
    fn from(capacity: &Capacity) -> Self {
        let engines = capacity.engines.iter();
        Self {
            cpu_millicores: capacity.cpu.0,
            memory_bytes: capacity.memory.0,
            disk_bytes: capacity.disk.0,
            disk_free_bytes: capacity.disk_free.0,
            numa_nodes: capacity.numa_nodes,
            arch: capacity.arch.clone(),
            os: capacity.os.clone(),
            kernel: capacity.kernel.clone(),
            agent_version: capacity.agent_version.clone(),
            reserved: Some((&capacity.reserved).into()),
            memory_pressed: capacity.memory_pressed,
            allow_binds: capacity.allow_binds.clone(),
            allow_capabilities: capacity.allow_capabilities.clone(),
            allow_devices: capacity.allow_devices.clone(),
            disk_pressures: capacity.disk_pressures.iter().map(Into::into).collect(),
            engines: engines.map(|(name, info)| (name.clone(), info.into())).collect(),
        }
    }
}

impl From<v1::Capacity> for Capacity {
    /// Texts are cut and cleaned: they come from another machine and end up on terminals.
    fn from(wire: v1::Capacity) -> Self {
        let engines = wire.engines.into_iter().take(ENGINES_MAX);
        let allowed = |those: Vec<String>| -> Vec<String> {
            those.into_iter().take(BINDS_MAX).map(|one| sanitize(&one, TEXT_MAX)).collect()
        };
        let disks = wire.disk_pressures.into_iter().take(DISKS_MAX);
        Self {
            cpu: Millicores(wire.cpu_millicores),
            memory: Bytes(wire.memory_bytes),
            disk: Bytes(wire.disk_bytes),
            disk_free: Bytes(wire.disk_free_bytes),
            numa_nodes: wire.numa_nodes,
            arch: sanitize(&wire.arch, TEXT_MAX),
            os: sanitize(&wire.os, TEXT_MAX),
            kernel: sanitize(&wire.kernel, TEXT_MAX),
            agent_version: sanitize(&wire.agent_version, TEXT_MAX),
            reserved: wire.reserved.map(Into::into).unwrap_or_default(),
            memory_pressed: wire.memory_pressed,
            allow_binds: allowed(wire.allow_binds),
            allow_capabilities: allowed(wire.allow_capabilities),
            allow_devices: allowed(wire.allow_devices),
            disk_pressures: disks.map(Into::into).collect(),
            engines: engines.map(|(name, info)| (sanitize(&name, TEXT_MAX), info.into())).collect(),
        }
    }
}

impl From<&DiskPressure> for v1::DiskPressure {
    fn from(disk: &DiskPressure) -> Self {
        Self {
            path: disk.path.clone(),
            inodes: disk.lacks == Room::Files,
            percent: disk.percent.into(),
            left: disk.left,
        }
    }
}

impl From<v1::DiskPressure> for DiskPressure {
    fn from(wire: v1::DiskPressure) -> Self {
        Self {
            path: sanitize(&wire.path, TEXT_MAX),
            lacks: if wire.inodes { Room::Files } else { Room::Bytes },
            percent: u8::try_from(wire.percent).unwrap_or(u8::MAX).min(100),
            left: wire.left,
        }
    }
}

impl From<&EngineInfo> for v1::EngineInfo {
    fn from(info: &EngineInfo) -> Self {
        Self {
            version: info.version.clone(),
            api_version: info.api_version.clone(),
            ready: info.ready,
            message: info.message.clone(),
        }
    }
}

impl From<v1::EngineInfo> for EngineInfo {
    fn from(wire: v1::EngineInfo) -> Self {
        Self {
            version: sanitize(&wire.version, TEXT_MAX),
            api_version: sanitize(&wire.api_version, TEXT_MAX),
            ready: wire.ready,
            message: sanitize(&wire.message, TEXT_MAX),
        }
    }
}

impl From<NodeState> for v1::NodeState {
    fn from(state: NodeState) -> Self {
        match state {
            NodeState::Ready => Self::Ready,
            NodeState::Unreachable => Self::Unreachable,
            NodeState::Down => Self::Down,
        }
    }
}

impl From<v1::NodeState> for NodeState {
    fn from(wire: v1::NodeState) -> Self {
        match wire {
            v1::NodeState::Ready => Self::Ready,
            v1::NodeState::Unreachable => Self::Unreachable,
            v1::NodeState::Unspecified | v1::NodeState::Down => Self::Down,
        }
    }
}
