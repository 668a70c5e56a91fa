//! The model's world as a problem for the scheduler, and the solution as changes of the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, WorkloadName};
use dwell_core::node::{Capacity, NodeState};
use dwell_core::workload::Resources;
use dwell_scheduler::{Bin, Closed, Group, Placement, Problem, Reason, misfit, solve};

use super::Model;
use super::object::{Instance, Node, Severity, Subject, Waiting, WaitingCause, Workload};
use super::record::{Key, Record};

/// Where instances go, or why they do not.
type Decisions = Vec<(InstanceName, Result<NodeName, Arc<Reason>>)>;

impl Model {
    /// Places every instance that has no node, as far as there is room.
    pub(super) fn place_waiting(&mut self, now: Timestamp) {
        let unplaced = self.tables.index().unplaced.clone();
        if unplaced.is_empty() {
            return;
        }
        let mut placeable = BTreeSet::new();
        for name in unplaced {
            if self.ensure_static_address(&name, now) && !self.place_by_volumes(&name, now) {
                placeable.insert(name);
            }
        }
        for (name, decision) in self.decide(&placeable, None) {
            match decision {
                Ok(node) => self.place(&name, &node, now),
                Err(reason) => self.wait(&name, WaitingCause::Unplaced(reason)),
            }
        }
    }

    /// Where an instance could go that has to leave its node.
    pub(super) fn decide_move(&self, name: &InstanceName) -> Option<Result<NodeName, Arc<Reason>>> {
        let decisions = self.decide(&BTreeSet::from([name.clone()]), None);
        decisions.into_iter().next().map(|(_, decision)| decision)
    }

    /// Whether an instance could be on this one node; `None` if that is no place for instances.
    pub(super) fn decide_at(
        &self,
        name: &InstanceName,
        node: &NodeName,
    ) -> Option<Result<NodeName, Arc<Reason>>> {
        let place = self.tables.nodes().get(node)?;
        if place.removed || place.block.is_none() {
            return None;
        }
        let decisions = self.decide(&BTreeSet::from([name.clone()]), Some(node));
        decisions.into_iter().next().map(|(_, decision)| decision)
    }

    /// Puts an instance onto a node.
    pub(super) fn place(&mut self, name: &InstanceName, node: &NodeName, now: Timestamp) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        let Some(identity) = instance.identity.or_else(|| self.claim_from_block(name, node)) else {
            // The scheduler counted one; what waits is looked at again.
            return;
        };
        self.put_instance(Instance {
            identity: Some(identity),
            node: Some(node.clone()),
            leaving: None,
            ..Instance::clone(&instance)
        });
        self.delete(Key::Waiting(name.clone()));
        let message = format!("placed on {node} with address {}", identity.address);
        let subject = Subject::Instance(name.clone());
        self.event(now, Severity::Info, subject, "instance-placed", message);
    }

    /// Notes why an instance waits, unless that is known.
    pub(super) fn wait(&mut self, name: &InstanceName, cause: WaitingCause) {
        if self.tables.waiting().get(name).is_none_or(|waiting| waiting.cause != cause) {
            let waiting = Waiting { instance: name.clone(), cause };
            self.put(Record::Waiting(Arc::new(waiting)));
        }
    }

    /// Whether the rules of a workload do not allow a node any more.
    pub(super) fn is_misplaced(&self, workload: &Workload, node: &NodeName) -> bool {
        let Some(node) = self.tables.nodes().get(node) else { return false };
        let Some(capacity) = self.capacity(&node.name) else {
            // Not heard of since the start: its architecture is unknown, so nothing is moved.
            return false;
        };
        misfit(&self.bin(node, capacity), &workload.spec.placement).is_some()
    }

    /// What is promised to a node's instances, and what it has, if that is known.
    pub(super) fn room(&self, node: &NodeName) -> Option<(Resources, Resources)> {
        let capacity = self.capacity(node)?;
        let occupancy = self.tables.index().occupancy.get(node);
        let promised = occupancy.map(|there| there.promised).unwrap_or_default();
        Some((promised, Resources { cpu: capacity.cpu, memory: capacity.memory }))
    }

    fn capacity(&self, node: &NodeName) -> Option<&Capacity> {
        self.tables.links().get(node)?.capacity.as_deref()
    }

    /// Asks the scheduler about `wanted`. Their siblings are part of the question, since copies are
    /// spread; they stay where they are. `only` leaves no other node to choose.
    fn decide(&self, wanted: &BTreeSet<InstanceName>, only: Option<&NodeName>) -> Decisions {
        let unknown = Capacity::default();
        let nodes: Vec<&Arc<Node>> = self
            .tables
            .nodes()
            .values()
            .filter(|node| !node.removed && node.block.is_some())
            .filter(|node| only.is_none_or(|only| node.name == *only))
            .collect();
        let mut bins: Vec<Bin<'_>> = nodes
            .iter()
            .map(|node| self.bin(node, self.capacity(&node.name).unwrap_or(&unknown)))
            .collect();
        let index_of: BTreeMap<&NodeName, usize> =
            nodes.iter().enumerate().map(|(index, node)| (&node.name, index)).collect();

        let mut groups = Groups::default();
        let mut items = Vec::new();
        let mut names = Vec::new();
        let mut previous = Placement::new();
        let workloads: BTreeSet<&WorkloadName> =
            wanted.iter().map(InstanceName::workload).collect();
        for (spread, name) in workloads.into_iter().enumerate() {
            let Some(workload) = self.tables.workloads().get(name) else { continue };
            for instance in self.tables.instances_of(name) {
                let asked = wanted.contains(&instance.name);
                let place = instance.node.as_ref().and_then(|node| {
                    let to = instance.leaving.as_ref().and_then(|leaving| leaving.to.as_ref());
                    index_of.get(to.unwrap_or(node)).copied()
                });
                if !asked {
                    let Some(bin) = place else { continue };
                    previous.insert(items.len(), bin);
                    let bin = &mut bins[bin];
                    bin.items = bin.items.saturating_sub(1);
                    bin.used = bin.used.minus(instance.template.resources);
                }
                // What is placed anew comes as what it is to be, unless its rollout is paused.
                let request = if asked && workload.paused.is_none() {
                    workload.spec.template.resources
                } else {
                    instance.template.resources
                };
                items.push(groups.of(workload, instance, request, spread));
                names.push(&instance.name);
            }
        }
        let problem = Problem { bins, groups: groups.list, items };
        let solution = solve(&problem, &previous);
        let placed = solution.placed.into_iter().map(|(item, bin)| (item, Ok(bin)));
        let unplaced = solution.unplaced.into_iter().map(|(item, reason)| (item, Err(reason)));
        placed
            .chain(unplaced)
            .filter(|(item, _)| !previous.contains_key(item))
            .map(|(item, decision)| {
                (names[item].clone(), decision.map(|bin| nodes[bin].name.clone()))
            })
            .collect()
    }

    fn bin<'a>(&self, node: &'a Node, capacity: &'a Capacity) -> Bin<'a> {
        let occupancy = self.tables.index().occupancy.get(&node.name);
        Bin {
            name: &node.name,
            labels: &node.labels,
            pool: node.pool.as_ref(),
            arch: &capacity.arch,
            capacity: Resources { cpu: capacity.cpu, memory: capacity.memory },
            used: occupancy.map(|occupancy| occupancy.promised).unwrap_or_default(),
            items: occupancy.map_or(0, |there| there.instances.len() + there.arriving.len()),
            addresses: node.block.map_or(0, |block| self.free_addresses(block)),
            closed: self.closed(node),
        }
    }

    fn closed(&self, node: &Node) -> Option<Closed> {
        match self.tables.links().get(&node.name).map(|link| link.state) {
            None | Some(NodeState::Down) => Some(Closed::Down),
            Some(NodeState::Unreachable) => Some(Closed::Unreachable),
            Some(NodeState::Ready) if node.draining => Some(Closed::Draining),
            Some(NodeState::Ready) => node.cordoned.then_some(Closed::Cordoned),
        }
    }

    /// Whether an instance has the address that was declared for it, or needs none: it may have been
    /// another's when the instance was made again after its removal.
    fn ensure_static_address(&mut self, name: &InstanceName, now: Timestamp) -> bool {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return false };
        let Some(address) = self.declared_address(name).filter(|_| instance.identity.is_none())
        else {
            return true;
        };
        match self.claim_static(name, address, now) {
            Ok(identity) => {
                let identity = Some(identity);
                self.put_instance(Instance { identity, ..Instance::clone(&instance) });
                true
            }
            Err(refusal) => {
                self.wait(name, WaitingCause::Address(refusal.to_string()));
                false
            }
        }
    }
}

/// Instances that are the same to the scheduler.
#[derive(Default)]
struct Groups<'a> {
    list: Vec<Group<'a>>,
    numbers: BTreeMap<(usize, u64, u64, bool), usize>,
}

impl<'a> Groups<'a> {
    fn of(
        &mut self,
        workload: &'a Workload,
        instance: &Instance,
        request: Resources,
        spread: usize,
    ) -> usize {
        let takes_address = instance.identity.is_none();
        let key = (spread, request.cpu.0, request.memory.0, takes_address);
        *self.numbers.entry(key).or_insert_with(|| {
            let rules = &workload.spec.placement;
            self.list.push(Group { request, rules, takes_address, spread });
            self.list.len() - 1
        })
    }
}
