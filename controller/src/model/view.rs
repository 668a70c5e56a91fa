//! What the API shows: objects with what is known of them now, honest about what is not.

use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, Revision, WorkloadName};
use dwell_core::instance::InstanceStatus;
use dwell_core::node::{Capacity, NodeState};
use dwell_core::workload::Resources;
use ipnet::Ipv4Net;

use super::object::{Instance, Node, Workload};

/// A workload and how far it is.
#[derive(Clone, Debug)]
pub struct WorkloadView {
    /// What was declared.
    pub workload: Arc<Workload>,
    /// Instances that are there, those on their way out among them.
    pub instances: u32,
    /// Instances that run, with good health.
    pub ready: u32,
    /// Instances that are as declared, as far as the controller has told them.
    pub updated: u32,
    /// What it waits for; empty if all is as declared.
    pub message: String,
}

/// An instance and what is known of it.
#[derive(Clone, Debug)]
pub struct InstanceView {
    /// What was decided.
    pub instance: Arc<Instance>,
    /// What was seen last; `Unknown` if its node is not heard of, `Pending` with a reason if it has none.
    pub status: InstanceStatus,
    /// The newest revision of anything shown here.
    pub revision: Revision,
}

/// A node and how it is doing.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// What was decided.
    pub node: Arc<Node>,
    /// How sure we are of it.
    pub state: NodeState,
    /// What it has; `None` if it has not been heard of since the controller's start.
    pub capacity: Option<Arc<Capacity>>,
    /// What is promised to its instances.
    pub allocated: Resources,
    /// How many instances are, or may be, there.
    pub instances: usize,
    /// When it was heard of last; `None` if not since the controller's start.
    pub last_seen: Option<Timestamp>,
    /// The assignment's revision it has stored.
    pub acknowledged: Revision,
    /// Why it is not ready, or what a drain waits for; empty if there is nothing to say.
    pub message: String,
    /// The newest revision of anything shown here.
    pub revision: Revision,
}

/// Packets for `prefix` go to `node`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteView {
    /// A node's block, or one address.
    pub prefix: Ipv4Net,
    /// Which node.
    pub node: NodeName,
    /// Its address in the underlay.
    pub via: std::net::Ipv4Addr,
    /// Whose address it is; `None` for a block.
    pub instance: Option<InstanceName>,
}

/// Which instances are wanted; all conditions together.
#[derive(Clone, Debug, Default)]
pub struct InstanceFilter {
    /// Only of this workload.
    pub workload: Option<WorkloadName>,
    /// Only on this node.
    pub node: Option<NodeName>,
}
