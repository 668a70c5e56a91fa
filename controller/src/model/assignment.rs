//! What a node is to do: all of it, or what changed since a revision.

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, Revision, VolumeName};
use dwell_core::instance::Assigned;
use dwell_core::workload::Template;

use super::log::Log;
use super::network::{NetworkDelta, NodeNetwork};
use super::object::{Instance, KeySet};
use super::record::{Change, Key, Record};
use super::volumes::VolumeState;
use super::{Model, Touched};

/// All that a node is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Up to which revision this is true.
    pub revision: Revision,
    /// The instances, by name. Their host keys are not the model's business: it has no secrets.
    pub instances: Vec<Assigned>,
    /// When each of the instances was made, in their order: with its name, what an identity is told by.
    pub made_at: Vec<Timestamp>,
    /// What it needs to know of the network.
    pub network: NodeNetwork,
    /// Who may log in by key, everywhere; nobody as far as a removed node is told.
    pub key_sets: Vec<Arc<KeySet>>,
    /// The volumes that it is to delete.
    pub volumes_to_delete: Vec<(InstanceName, VolumeName)>,
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
    /// When each of them was made, in their order.
    pub made_at: Vec<Timestamp>,
    /// Instances that are not assigned, and may have been.
    pub removed: Vec<InstanceName>,
    /// What changed of the network.
    pub network: NetworkDelta,
    /// The key sets, all of them, if any changed.
    pub key_sets: Option<Vec<Arc<KeySet>>>,
    /// The volumes that it is to delete, all of them, if that changed.
    pub volumes_to_delete: Option<Vec<(InstanceName, VolumeName)>>,
}

impl AssignmentDelta {
    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
            && self.removed.is_empty()
            && self.network.is_empty()
            && self.key_sets.is_none()
            && self.volumes_to_delete.is_none()
    }
}

/// How many changes a node may be behind before it is sent everything again.
const LOG_MAX: usize = 1024;

impl Model {
    /// All that a node is to do; empty for one that is unknown or removed.
    #[must_use]
    pub fn assignment(&self, node: &NodeName) -> Assignment {
        let occupancy = self.tables.index().occupancy.get(node);
        let names = occupancy.into_iter().flat_map(|occupancy| &occupancy.instances);
        let (instances, made_at) = names.filter_map(|name| self.assigned(node, name)).unzip();
        let network = self.network(node);
        let key_sets = if self.is_member(node) { self.key_sets() } else { Vec::new() };
        let volumes_to_delete = self.volumes_to_delete(node);
        Assignment {
            revision: self.revision,
            instances,
            made_at,
            network,
            key_sets,
            volumes_to_delete,
        }
    }

    /// What changed for a node since it had `base`; `None` if that is not known any more, and a
    /// snapshot is needed.
    #[must_use]
    pub fn assignment_since(&self, node: &NodeName, base: Revision) -> Option<AssignmentDelta> {
        if base == Revision(0) || base < self.started || base > self.revision {
            return None;
        }
        let mut delta = AssignmentDelta {
            base,
            revision: self.revision,
            instances: Vec::new(),
            made_at: Vec::new(),
            removed: Vec::new(),
            network: self.network_since(node, base)?,
            key_sets: (self.key_sets_changed > base && self.is_member(node))
                .then(|| self.key_sets()),
            volumes_to_delete: self
                .deletions_changed
                .get(node)
                .is_some_and(|&changed| changed > base)
                .then(|| self.volumes_to_delete(node)),
        };
        let changed: BTreeSet<&InstanceName> = match self.node_logs.get(node) {
            Some(log) => log.since(base).ok()?.collect(),
            None => BTreeSet::new(),
        };
        for name in changed {
            match self.assigned(node, name) {
                Some((assigned, made_at)) => {
                    delta.instances.push(assigned);
                    delta.made_at.push(made_at);
                }
                None => delta.removed.push(name.clone()),
            }
        }
        Some(delta)
    }

    /// Notes whose assignment a committed change touches.
    pub(super) fn note_for_nodes(&mut self, change: &Change, touched: &mut Touched) {
        self.note_for_network(change, touched);
        if matches!(change.key, Key::KeySet(_)) {
            self.key_sets_changed = change.revision;
            touched.everyone = true;
        }
        if let Key::Volume(key) = &change.key
            && is_deletion(change.old.as_ref()) != is_deletion(change.new.as_ref())
        {
            self.deletions_changed.insert(key.node.clone(), change.revision);
            touched.nodes.insert(key.node.clone());
        }
        let (old, new) = (instance(change.old.as_ref()), instance(change.new.as_ref()));
        let (before, after) =
            (old.and_then(Instance::assigned_to), new.and_then(Instance::assigned_to));
        if before == after && same_for_the_node(old, new) {
            return;
        }
        let Some(name) = old.or(new).map(|instance| &instance.name) else { return };
        for node in BTreeSet::from([before, after]).into_iter().flatten() {
            let started = self.started;
            let log = self.node_logs.entry(node.clone());
            let log = log.or_insert_with(|| Log::new(started, LOG_MAX));
            log.push(change.revision, name.clone());
            touched.nodes.insert(node.clone());
        }
    }

    /// What a node is told of an instance, if it is its own, and when that was made.
    fn assigned(&self, node: &NodeName, name: &InstanceName) -> Option<(Assigned, Timestamp)> {
        let instance = self.tables.instances().get(name)?;
        let identity = instance.identity?;
        let workload = self.tables.workloads().get(name.workload())?;
        let assigned = || Assigned {
            instance: name.clone(),
            address: identity.address,
            mac: identity.mac,
            generation: instance.generation,
            run: instance.run,
            restarts_asked: instance.restarts_asked,
            update_deadline: workload.spec.update.deadline,
            template: Template::clone(&instance.template),
            host_key: None,
        };
        (instance.assigned_to() == Some(node)).then(|| (assigned(), instance.created_at))
    }
}

fn instance(record: Option<&Record>) -> Option<&Instance> {
    match record {
        Some(Record::Instance(instance)) => Some(instance),
        _ => None,
    }
}

/// Whether a node is told to delete this volume.
fn is_deletion(record: Option<&Record>) -> bool {
    matches!(record, Some(Record::Volume(volume)) if matches!(volume.state, VolumeState::Deleting { .. }))
}

/// Whether two states of an instance look the same from its node.
fn same_for_the_node(old: Option<&Instance>, new: Option<&Instance>) -> bool {
    let shown = |instance: &Instance| {
        (
            instance.identity,
            instance.created_at,
            instance.generation,
            instance.run,
            instance.restarts_asked,
        )
    };
    match (old, new) {
        (Some(old), Some(new)) => shown(old) == shown(new) && old.template == new.template,
        _ => false,
    }
}
