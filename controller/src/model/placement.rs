//! The model's world as a problem for the scheduler, and the solution as changes of the model.

use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, WorkloadName};
use dwell_core::node::{Capacity, NodeState};
use dwell_core::skill::Skills;
use dwell_core::workload::{Placement as Rules, Resources};
use dwell_scheduler::{
    Bin, Closed, Group, Misfit, Placement, Problem, Reason, misfit, refusal, solve,
};

use super::Model;
use super::carry::{carries, skills};
use super::object::{
    Demand, Instance, Link, Node, Severity, Subject, Waiting, WaitingCause, Workload,
};
use super::record::{Key, Record};
use super::tables::Occupancy;

/// What the scheduler says to a demand: nodes, the best first, and why there are no more.
type Answered = (Demand, Vec<NodeName>, Option<Reason>);

impl Model {
    /// Puts an instance onto a node.
    pub(super) fn place(&mut self, name: &InstanceName, node: &NodeName, now: Timestamp) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        let Some(identity) = self.identity_on(&instance, node, now) else {
            // The scheduler counted one; what waits is looked at again.
            self.agenda.unplaced = true;
            return;
        };
        if let Err(refusal) = self.check_not_in_use(name, identity.address) {
            return self.wait(name, WaitingCause::Address(refusal.to_string()));
        }
        self.put_instance(Instance {
            identity: Some(identity),
            new_address: false,
            node: Some(node.clone()),
            heading: None,
            leaving: None,
            second_share: None,
            // Every node counts for itself.
            last_end: None,
            last_hook_failed: None,
            ..Instance::clone(&instance)
        });
        self.delete(Key::Waiting(name.clone()));
        let message = format!("placed on {node} with address {}", identity.address);
        let subject = Subject::Instance(name.clone());
        self.event(now, Severity::Info, subject, "instance-placed", message);
        self.recall(name, node, now);
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

    /// Whether nothing that was declared keeps instances of a workload off a node, and whether it takes new ones; `None` if that
    /// cannot be known before it is heard of.
    pub(super) fn allows(&self, node: &Node, rules: &Rules) -> Option<(bool, bool)> {
        let bin = self.bin(node, self.capacity(&node.name)?);
        Some((misfit(&bin, rules).is_none(), bin.closed.is_none()))
    }

    /// What is promised to a node's instances, and what it has, if that is known.
    pub(super) fn room(&self, node: &NodeName) -> Option<(Resources, Resources)> {
        let capacity = self.capacity(node)?;
        let occupancy = self.tables.index().occupancy.get(node);
        let promised = occupancy.map(|there| there.promised).unwrap_or_default();
        Some((promised, capacity.for_instances()))
    }

    fn capacity(&self, node: &NodeName) -> Option<&Capacity> {
        self.tables.links().get(node)?.capacity.as_deref()
    }

    /// What an instance wants of a node. What is placed anew comes as what it is to be, unless its
    /// rollout is paused.
    pub(super) fn demand(&self, workload: &Workload, instance: &Instance) -> Demand {
        let request = match &workload.paused {
            None => {
                let says = instance.own_size.over(workload.spec.template.resources);
                says.max(instance.share())
            }
            Some(_) => instance.share(),
        };
        Demand {
            workload: workload.spec.name.clone(),
            cpu: request.cpu,
            memory: request.memory,
            takes_address: instance.identity.is_none(),
        }
    }

    /// Why a node does not meet a demand as things are; `None` if it does.
    pub(super) fn refuses(&self, node: &NodeName, demand: &Demand) -> Option<Misfit> {
        self.refuses_asked(node, demand, self.avoided_by(&demand.workload))
    }

    /// The same, if these nodes are avoided.
    fn refuses_asked(
        &self,
        node: &NodeName,
        demand: &Demand,
        avoids: Vec<&NodeName>,
    ) -> Option<Misfit> {
        let down = Some(Misfit::Closed(Closed::Down));
        let Some(node) = self.tables.nodes().get(node).filter(|node| is_home(node)) else {
            return down;
        };
        let Some(workload) = self.tables.workloads().get(&demand.workload) else { return down };
        let unknown = Capacity::default();
        let capacity = self.capacity(&node.name).unwrap_or(&unknown);
        let copies = self.tables.index().copies.get(&demand.workload);
        let there = copies.and_then(|copies| copies.get(&node.name)).copied().unwrap_or_default();
        refusal(&self.bin(node, capacity), &group(workload, demand, (0, 1), avoids), there)
    }

    /// Why an instance cannot be on this one node, if so; `None` if that is no place for instances. Whoever has to be there, or is sent
    /// there, is not kept off by an image that could not be had before.
    pub(super) fn decide_at(
        &self,
        name: &InstanceName,
        node: &NodeName,
    ) -> Option<Result<(), Arc<Reason>>> {
        self.tables.nodes().get(node).filter(|node| is_home(node))?;
        let instance = self.tables.instances().get(name)?;
        let workload = self.tables.workloads().get(name.workload())?;
        Some(match self.refuses_asked(node, &self.demand(workload, instance), Vec::new()) {
            None => Ok(()),
            Some(misfit) => {
                Err(Arc::new(Reason { nodes: 1, refusals: vec![(node.clone(), misfit)] }))
            }
        })
    }

    /// Asks the scheduler about some demands together, each with how many have it. Copies of a workload
    /// are spread, so those that have a place are part of the question. One node may be left out of it.
    pub(super) fn solve(
        &self,
        asked: &BTreeMap<Demand, usize>,
        without: Option<&NodeName>,
    ) -> Vec<Answered> {
        let unknown = Capacity::default();
        let index = self.tables.index();
        let mut links = InStep::over(self.tables.links());
        let mut occupancy = InStep::over(&index.occupancy);
        let mut names: Vec<&NodeName> = Vec::new();
        let mut bins = Vec::new();
        let is_asked = |node: &&Arc<Node>| is_home(node) && Some(&node.name) != without;
        for node in self.tables.nodes().values().filter(is_asked) {
            let link = links.get(&node.name).map(Arc::as_ref);
            let capacity = link.and_then(|link| link.capacity.as_deref()).unwrap_or(&unknown);
            names.push(&node.name);
            bins.push(self.bin_of(node, link, occupancy.get(&node.name), capacity));
        }
        let spreads: BTreeMap<&WorkloadName, usize> =
            asked.keys().enumerate().map(|(number, demand)| (&demand.workload, number)).collect();
        let mut previous = Placement::new();
        for (&workload, &spread) in &spreads {
            let Some(copies) = index.copies.get(workload) else { continue };
            let mut copies = InStep::over(copies);
            for (bin, name) in names.iter().enumerate() {
                if let Some(&count) = copies.get(name) {
                    previous.insert((spread, bin), count);
                }
            }
        }
        let mut demands = Vec::new();
        let mut groups = Vec::new();
        for (demand, &wanted) in asked {
            if let Some(workload) = self.tables.workloads().get(&demand.workload) {
                demands.push(demand);
                let counts = (spreads[&demand.workload], wanted);
                let avoids = self.avoided_by(&demand.workload);
                groups.push(group(workload, demand, counts, avoids));
            }
        }
        let solution = solve(&Problem { bins, groups }, &previous);
        let name = |bin: usize| names[bin].clone();
        let answers = demands.into_iter().zip(solution.groups);
        answers
            .map(|(demand, answer)| {
                (demand.clone(), answer.bins.into_iter().map(name).collect(), answer.reason)
            })
            .collect()
    }

    fn bin<'a>(&self, node: &'a Node, capacity: &'a Capacity) -> Bin<'a> {
        let link = self.tables.links().get(&node.name).map(Arc::as_ref);
        let occupancy = self.tables.index().occupancy.get(&node.name);
        self.bin_of(node, link, occupancy, capacity)
    }

    fn bin_of<'a>(
        &self,
        node: &'a Node,
        link: Option<&Link>,
        occupancy: Option<&Occupancy>,
        capacity: &'a Capacity,
    ) -> Bin<'a> {
        Bin {
            name: &node.name,
            labels: &node.labels,
            pool: node.pool.as_ref(),
            arch: &capacity.arch,
            capacity: capacity.for_instances(),
            used: occupancy.map(|occupancy| occupancy.promised).unwrap_or_default(),
            items: occupancy.map_or(0, |there| there.instances.len() + there.arriving.len()),
            addresses: self.free_addresses(node),
            closed: closed(node, link),
            carries: link.is_none_or(carries),
            skills: link.map_or(Skills::ALL, skills),
        }
    }

    /// Whether nobody else uses an instance's address, and it has the one that was declared for it: that may have been
    /// another's when the instance was made again after its removal.
    pub(super) fn ensure_address(&mut self, name: &InstanceName, now: Timestamp) -> bool {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return false };
        let checked = match (instance.identity, self.declared_address(name)) {
            (Some(own), _) => self.check_not_in_use(name, own.address),
            (None, Some(address)) => self.claim_static(name, address, now).map(|identity| {
                let identity = Some(identity);
                self.put_instance(Instance { identity, ..Instance::clone(&instance) });
            }),
            (None, None) => Ok(()),
        };
        match checked {
            Ok(()) => true,
            Err(refusal) => {
                self.wait(name, WaitingCause::Address(refusal.to_string()));
                false
            }
        }
    }
}

/// Whether instances can live on a node.
pub(super) fn is_home(node: &Node) -> bool {
    !node.removed && node.block.is_some()
}

fn closed(node: &Node, link: Option<&Link>) -> Option<Closed> {
    match link.map(|link| link.state) {
        None | Some(NodeState::Down) => Some(Closed::Down),
        Some(NodeState::Unreachable) => Some(Closed::Unreachable),
        Some(NodeState::Ready) if node.draining => Some(Closed::Draining),
        Some(NodeState::Ready) if node.cordoned => Some(Closed::Cordoned),
        Some(NodeState::Ready) => link.and_then(|link| link.capacity.as_deref()).and_then(unfit),
    }
}

/// Why a host that is there cannot take anything new.
pub(super) fn unfit(capacity: &Capacity) -> Option<Closed> {
    if !capacity.has_engine() {
        Some(Closed::NoEngine)
    } else if capacity.is_disk_full() {
        Some(Closed::DiskFull)
    } else if capacity.memory_pressed {
        Some(Closed::Pressed)
    } else {
        None
    }
}

fn group<'a>(
    workload: &'a Workload,
    demand: &Demand,
    (spread, wanted): (usize, usize),
    avoids: Vec<&'a NodeName>,
) -> Group<'a> {
    Group {
        request: demand.request(),
        rules: &workload.spec.placement,
        takes_address: demand.takes_address,
        spread,
        wanted,
        carries: !workload.spec.template.carry.is_empty(),
        needs: workload.spec.template.needs(),
        avoids,
    }
}

/// Looks up keys that come in order in one pass over a sorted map.
struct InStep<'a, V>(Peekable<btree_map::Iter<'a, NodeName, V>>);

impl<'a, V> InStep<'a, V> {
    fn over(map: &'a BTreeMap<NodeName, V>) -> Self {
        Self(map.iter().peekable())
    }

    fn get(&mut self, key: &NodeName) -> Option<&'a V> {
        while self.0.next_if(|(name, _)| *name < key).is_some() {}
        self.0.peek().filter(|(name, _)| *name == key).map(|(_, value)| *value)
    }
}
