//! Nodes: what a host has, and how it is doing.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::quantity::{Bytes, Millicores};

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
    /// Engines that answer, by name.
    pub engines: BTreeMap<String, EngineInfo>,
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
    /// If not: why.
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
