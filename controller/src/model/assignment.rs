//! What a node is to do: all of it, or what changed since a revision.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;

use dwell_core::id::{InstanceName, NodeName, Revision};
use dwell_core::instance::Assigned;
use dwell_core::workload::Template;
use ipnet::Ipv4Net;

use super::object::{Instance, Node};
use super::record::{Change, Record};
use super::{Model, Touched};

/// All that a node is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Up to which revision this is true.
    pub revision: Revision,
    /// The instances, by name.
    pub instances: Vec<Assigned>,
    /// What it needs to know of the network.
    pub network: NodeNetwork,
}

/// What changed in an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignmentDelta {
    /// The revision it builds upon.
    pub base: Revision,
    /// Up to which revision this is true.
    pub revision: Revision,
    /// Instances that are new or changed.
    pub instances: Vec<Assigned>,
    /// Instances that are not assigned, and may have been.
    pub removed: Vec<InstanceName>,
    /// The network, complete, if it changed.
    pub network: Option<NodeNetwork>,
}

impl AssignmentDelta {
    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.removed.is_empty() && self.network.is_none()
    }
}

/// What a node needs to know of the cluster's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetwork {
    /// The range of all instances.
    pub cluster: Ipv4Net,
    /// The node's own block.
    pub block: Option<Ipv4Net>,
    /// All other nodes, by name.
    pub peers: Vec<Peer>,
    /// Instances that live outside their address's block, by address.
    pub exceptions: Vec<Exception>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: NodeName,
    /// Its address in the underlay.
    pub address: Ipv4Addr,
    /// Its block; `None` if it runs no instances.
    pub block: Option<Ipv4Net>,
}

/// An instance's address that lies in another node's block, or in none's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The address.
    pub address: Ipv4Addr,
    /// Where it lives.
    pub node: NodeName,
}

/// Which instances of a node changed, and when.
///
/// Invariant: it holds every change after `floor`, and at most [`LOG_MAX`] of them.
#[derive(Debug)]
pub(super) struct NodeLog {
    floor: Revision,
    entries: VecDeque<(Revision, InstanceName)>,
}

/// How many changes a node may be behind before it is sent everything again.
const LOG_MAX: usize = 1024;

impl NodeLog {
    fn push(&mut self, revision: Revision, instance: InstanceName) {
        self.entries.push_back((revision, instance));
        if self.entries.len() > LOG_MAX
            && let Some((oldest, _)) = self.entries.pop_front()
        {
            self.floor = oldest;
        }
    }
}

impl Model {
    /// All that a node is to do; empty for one that is unknown or removed.
    #[must_use]
    pub fn assignment(&self, node: &NodeName) -> Assignment {
        let occupancy = self.tables.index().occupancy.get(node);
        let names = occupancy.into_iter().flat_map(|occupancy| &occupancy.instances);
        Assignment {
            revision: self.revision,
            instances: names.filter_map(|name| self.assigned(node, name)).collect(),
            network: self.network(node),
        }
    }

    /// What changed for a node since it had `base`; `None` if that is not known any more, and a
    /// snapshot is needed.
    #[must_use]
    pub fn assignment_since(&self, node: &NodeName, base: Revision) -> Option<AssignmentDelta> {
        let log = self.node_logs.get(node);
        let floor = log.map_or(self.started, |log| log.floor);
        if base == Revision(0) || base < floor || base > self.revision {
            return None;
        }
        let changed: BTreeSet<&InstanceName> = log
            .into_iter()
            .flat_map(|log| log.entries.iter().rev())
            .take_while(|(revision, _)| *revision > base)
            .map(|(_, name)| name)
            .collect();
        let mut delta = AssignmentDelta {
            base,
            revision: self.revision,
            instances: Vec::new(),
            removed: Vec::new(),
            network: (self.network_changed > base).then(|| self.network(node)),
        };
        for name in changed {
            match self.assigned(node, name) {
                Some(assigned) => delta.instances.push(assigned),
                None => delta.removed.push(name.clone()),
            }
        }
        Some(delta)
    }

    /// Notes whose assignment a committed change touches.
    pub(super) fn note_for_nodes(&mut self, change: &Change, touched: &mut Touched) {
        match (&change.old, &change.new) {
            (Some(Record::Node(old)), Some(Record::Node(new))) => {
                let shown = |node: &Node| (node.address, node.block, node.removed);
                if shown(old) == shown(new) {
                    return;
                }
                self.network_changed = change.revision;
                touched.network = true;
            }
            (None, Some(Record::Node(_))) => {
                self.network_changed = change.revision;
                touched.network = true;
            }
            (old, new) => {
                let (old, new) = (instance(old.as_ref()), instance(new.as_ref()));
                if old.is_some() || new.is_some() {
                    self.note_instance(change.revision, old, new, touched);
                }
            }
        }
    }

    fn note_instance(
        &mut self,
        revision: Revision,
        old: Option<&Instance>,
        new: Option<&Instance>,
        touched: &mut Touched,
    ) {
        let exception = |instance| self.tables.index().exception(instance);
        if old.and_then(exception) != new.and_then(exception) {
            self.network_changed = revision;
            touched.network = true;
        }
        let (before, after) =
            (old.and_then(Instance::assigned_to), new.and_then(Instance::assigned_to));
        if before == after && same_for_the_node(old, new) {
            return;
        }
        let Some(name) = old.or(new).map(|instance| &instance.name) else { return };
        for node in BTreeSet::from([before, after]).into_iter().flatten() {
            let floor = self.started;
            let log = self
                .node_logs
                .entry(node.clone())
                .or_insert_with(|| NodeLog { floor, entries: VecDeque::new() });
            log.push(revision, name.clone());
            touched.nodes.insert(node.clone());
        }
    }

    /// What a node is told of an instance, if it is its own.
    fn assigned(&self, node: &NodeName, name: &InstanceName) -> Option<Assigned> {
        let instance = self.tables.instances().get(name)?;
        let identity = instance.identity?;
        let workload = self.tables.workloads().get(name.workload())?;
        (instance.assigned_to() == Some(node)).then(|| Assigned {
            instance: name.clone(),
            address: identity.address,
            mac: identity.mac,
            generation: instance.generation,
            run: instance.run,
            restarts_asked: instance.restarts_asked,
            update_deadline: workload.spec.update.deadline,
            template: Template::clone(&instance.template),
            host_key: None,
        })
    }

    fn network(&self, name: &NodeName) -> NodeNetwork {
        let cluster = self.settings.range.cidr();
        let Some(own) = self.tables.nodes().get(name).filter(|node| !node.removed) else {
            let (peers, exceptions) = (Vec::new(), Vec::new());
            return NodeNetwork { cluster, block: None, peers, exceptions };
        };
        let peer = |node: &Node| Peer {
            node: node.name.clone(),
            address: node.address,
            block: node.block,
        };
        let nodes = self.tables.nodes().values();
        let exceptions = self.tables.index().exceptions.iter();
        NodeNetwork {
            cluster,
            block: own.block,
            peers: nodes
                .filter(|node| !node.removed && node.name != *name)
                .map(|node| peer(node))
                .collect(),
            exceptions: exceptions
                .map(|(&address, node)| Exception { address, node: node.clone() })
                .collect(),
        }
    }
}

fn instance(record: Option<&Record>) -> Option<&Instance> {
    match record {
        Some(Record::Instance(instance)) => Some(instance),
        _ => None,
    }
}

/// Whether two states of an instance look the same from its node.
fn same_for_the_node(old: Option<&Instance>, new: Option<&Instance>) -> bool {
    let shown = |instance: &Instance| {
        (instance.identity, instance.generation, instance.run, instance.restarts_asked)
    };
    match (old, new) {
        (Some(old), Some(new)) => shown(old) == shown(new) && old.template == new.template,
        _ => false,
    }
}
