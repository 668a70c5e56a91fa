//! Nodes, routes and join tokens.

use std::collections::BTreeMap;

use dwell_core::node::{DiskPressure, NodeState, Room};
use dwell_proto::v1;
use serde::Serialize;

/// `dwell node ls`.
#[derive(Debug, Serialize)]
pub(crate) struct NodesView {
    pub(crate) nodes: Vec<NodeView>,
}

/// A host that runs the agent.
#[derive(Debug, Serialize)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) address: String,
    /// From which its instances get addresses; empty for a node that runs none.
    pub(crate) block: String,
    /// From which they get them when that is full.
    pub(crate) more_blocks: Vec<String>,
    /// From which nobody gets one any more; they lead to it as long as somebody has one.
    pub(crate) retired_blocks: Vec<String>,
    pub(crate) pool: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) state: NodeState,
    pub(crate) cordoned: bool,
    pub(crate) draining: bool,
    /// When a drain ends by itself.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) drained_until: Option<u64>,
    /// When a drain is given up if instances are left.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) drain_deadline: Option<u64>,
    /// When the last drain was given up; the node is still cordoned then.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) drain_given_up: Option<u64>,
    /// What is still there although the node is drained.
    pub(crate) obstacles: Vec<ObstacleView>,
    /// Its part in a reboot of nodes, also after that; `null` if it has had none.
    pub(crate) reboot: Option<RebootView>,
    /// What it has; `null` if it has not been heard of since the controller started.
    pub(crate) capacity: Option<CapacityView>,
    /// What is promised to its instances.
    pub(crate) allocated: ResourcesView,
    pub(crate) instances: u32,
    /// How many of them belong to it, since every node has one: a drain leaves them.
    pub(crate) own: u32,
    /// Which of them were let go; shown of one node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) let_go: Vec<String>,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) joined_at: u64,
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) last_seen: Option<u64>,
    /// Why it is not ready, or what a drain waits for.
    pub(crate) message: String,
}

/// A node's part in a reboot.
#[derive(Debug, Serialize)]
pub(crate) struct RebootView {
    /// `waiting`, `draining`, `rebooting`, `done`, `failed` or `cancelled`.
    pub(crate) state: &'static str,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) since: u64,
    pub(crate) message: String,
}

/// An instance that is still on a node that is drained.
#[derive(Debug, Serialize)]
pub(crate) struct ObstacleView {
    pub(crate) instance: String,
    pub(crate) reason: String,
    /// The next step: a command.
    pub(crate) next: String,
}

/// What a host has and what it runs on.
#[derive(Debug, Serialize)]
pub(crate) struct CapacityView {
    pub(crate) cpu_millicores: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_free_bytes: u64,
    pub(crate) numa_nodes: u32,
    pub(crate) arch: String,
    pub(crate) os: String,
    pub(crate) kernel: String,
    pub(crate) agent_version: String,
    /// By name.
    pub(crate) engines: BTreeMap<String, EngineView>,
    pub(crate) memory_pressed: bool,
    /// File systems that have no room left.
    pub(crate) disk_pressures: Vec<DiskPressureView>,
}

/// A file system of a host that has no room left.
#[derive(Debug, Serialize)]
pub(crate) struct DiskPressureView {
    pub(crate) path: String,
    /// What there is no more of: `bytes` or `files`.
    pub(crate) lacks: Room,
    pub(crate) percent: u8,
    pub(crate) left: u64,
}

/// An engine of a host.
#[derive(Debug, Serialize)]
pub(crate) struct EngineView {
    pub(crate) version: String,
    pub(crate) api_version: String,
    pub(crate) ready: bool,
    pub(crate) message: String,
}

/// Shares.
#[derive(Debug, Serialize)]
pub(crate) struct ResourcesView {
    pub(crate) cpu_millicores: u64,
    pub(crate) memory_bytes: u64,
}

impl NodesView {
    /// In the order of names.
    pub(crate) fn new(nodes: Vec<v1::Node>) -> Self {
        let mut nodes: Vec<NodeView> = nodes.into_iter().map(Into::into).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Self { nodes }
    }
}

impl From<v1::Node> for NodeView {
    fn from(wire: v1::Node) -> Self {
        let allocated = wire.allocated.unwrap_or_default();
        Self {
            state: wire.state().into(),
            name: wire.name,
            address: wire.address,
            block: wire.block,
            more_blocks: wire.more_blocks,
            retired_blocks: wire.retired_blocks,
            pool: wire.pool,
            labels: wire.labels.into_iter().collect(),
            cordoned: wire.cordoned,
            draining: wire.draining,
            drained_until: wire.drained_until_ms,
            drain_deadline: wire.drain_deadline_ms,
            drain_given_up: wire.drain_given_up_ms,
            reboot: wire.reboot.map(Into::into),
            obstacles: wire.obstacles.into_iter().map(Into::into).collect(),
            capacity: wire.capacity.map(Into::into),
            allocated: ResourcesView {
                cpu_millicores: allocated.cpu_millicores,
                memory_bytes: allocated.memory_bytes,
            },
            instances: wire.instances,
            own: wire.own,
            let_go: Vec::new(),
            joined_at: wire.joined_at_ms,
            last_seen: wire.last_seen_ms,
            message: wire.message,
        }
    }
}

impl From<v1::Reboot> for RebootView {
    fn from(wire: v1::Reboot) -> Self {
        use v1::reboot::State;
        let state = match wire.state() {
            State::Unspecified => "unknown",
            State::Waiting => "waiting",
            State::Draining => "draining",
            State::Rebooting => "rebooting",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        };
        Self { state, since: wire.since_ms, message: wire.message }
    }
}

impl From<v1::DrainObstacle> for ObstacleView {
    fn from(wire: v1::DrainObstacle) -> Self {
        Self { instance: wire.instance, reason: wire.reason, next: wire.next }
    }
}

impl From<v1::Capacity> for CapacityView {
    fn from(wire: v1::Capacity) -> Self {
        Self {
            cpu_millicores: wire.cpu_millicores,
            memory_bytes: wire.memory_bytes,
            disk_bytes: wire.disk_bytes,
            disk_free_bytes: wire.disk_free_bytes,
            numa_nodes: wire.numa_nodes,
            arch: wire.arch,
            os: wire.os,
            kernel: wire.kernel,
            agent_version: wire.agent_version,
            engines: wire.engines.into_iter().map(|(name, info)| (name, info.into())).collect(),
            memory_pressed: wire.memory_pressed,
            disk_pressures: wire.disk_pressures.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::DiskPressure> for DiskPressureView {
    fn from(wire: v1::DiskPressure) -> Self {
        let DiskPressure { path, lacks, percent, left } = wire.into();
        Self { path, lacks, percent, left }
    }
}

impl From<v1::EngineInfo> for EngineView {
    fn from(wire: v1::EngineInfo) -> Self {
        Self {
            version: wire.version,
            api_version: wire.api_version,
            ready: wire.ready,
            message: wire.message,
        }
    }
}

/// `dwell node token`.
#[derive(Debug, Serialize)]
pub(crate) struct TokenView {
    pub(crate) token: String,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) expires_at: u64,
    /// HOST:PORT.
    pub(crate) controller: String,
}

/// `dwell route ls`.
#[derive(Debug, Serialize)]
pub(crate) struct RoutesView {
    pub(crate) routes: Vec<RouteView>,
    /// How many of them are of instances outside of their node's block.
    pub(crate) exceptions: usize,
    /// What those take of the kernel of each node, in bytes, about.
    pub(crate) exceptions_bytes: u64,
}

/// What a route to one address takes of a kernel, in bytes: measured with 100,000 of them, of which a table has 104 of each, without
/// what joins them into a tree.
const ROUTE_BYTES: u64 = 120;

impl RoutesView {
    pub(crate) fn new(routes: Vec<v1::Route>) -> Self {
        let routes: Vec<RouteView> = routes.into_iter().map(Into::into).collect();
        let exceptions = routes.iter().filter(|route| !route.instance.is_empty()).count();
        let exceptions_bytes = u64::try_from(exceptions).unwrap_or(u64::MAX);
        let exceptions_bytes = exceptions_bytes.saturating_mul(ROUTE_BYTES);
        Self { routes, exceptions, exceptions_bytes }
    }
}

/// Packets for the prefix go to the node.
#[derive(Debug, Serialize)]
pub(crate) struct RouteView {
    pub(crate) prefix: String,
    pub(crate) node: String,
    pub(crate) via: String,
    /// The instance of a /32; empty for a block.
    pub(crate) instance: String,
}

impl From<v1::Route> for RouteView {
    fn from(wire: v1::Route) -> Self {
        Self { prefix: wire.prefix, node: wire.node, via: wire.via, instance: wire.instance }
    }
}
