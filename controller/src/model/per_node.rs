//! Workloads with one instance on every node that their rules allow.
//!
//! How many there are follows from the nodes: a node has one if it is a home for instances, if pool and constraints allow it, and if
//! it has one already or takes new ones. So nothing waits for a node that is down or cordoned, and such a node keeps what it has.
//!
//! ```text
//!   node joins, opens, is labelled ──▶ a new instance, the lowest number that is free ──▶ placed there
//!   node is removed, or not allowed any more ──▶ its instance is removed
//! ```
//!
//! Which node an instance belongs to is where it is placed: it never leaves it, also if that is drained or lost, so that its number,
//! name and address belong to that node for as long as the node has one. The scheduler gives no node a second one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, WorkloadName};
use dwell_core::workload::{REPLICAS_MAX, WorkloadSpec};

use super::Model;
use super::object::{Instance, Node, Severity, Subject, Workload};
use super::placement::is_home;
use super::settle::Agenda;

impl Model {
    /// A specification with the number of instances that follows from the nodes, if it does.
    pub(super) fn counted_by_nodes(&self, spec: WorkloadSpec) -> WorkloadSpec {
        if !spec.placement.one_per_node {
            return spec;
        }
        let replicas = u32::try_from(self.nodes_of(&spec).count()).unwrap_or(u32::MAX);
        WorkloadSpec { replicas: replicas.min(REPLICAS_MAX), ..spec }
    }

    /// The nodes that are to have an instance.
    fn nodes_of<'a>(&'a self, spec: &'a WorkloadSpec) -> impl Iterator<Item = &'a NodeName> {
        let nodes = self.tables.nodes().values();
        nodes.filter(|node| self.is_to_have_one(spec, node)).map(|node| &node.name)
    }

    fn is_to_have_one(&self, spec: &WorkloadSpec, node: &Node) -> bool {
        let has_one = || self.one_on(&spec.name, &node.name).is_some();
        is_home(node)
            && match self.allows(node, &spec.placement) {
                Some((is_allowed, takes_new)) => is_allowed && (takes_new || has_one()),
                // Its architecture is not known yet.
                None => has_one(),
            }
    }

    /// The instance of a workload that is on a node and to stay, the first if there are several.
    fn one_on(&self, workload: &WorkloadName, node: &NodeName) -> Option<&Arc<Instance>> {
        let first = InstanceName::new(workload.clone(), 0);
        let there = &self.tables.index().occupancy.get(node)?.instances;
        let own = there.range((Bound::Included(first), Bound::Unbounded));
        let mut own = own
            .take_while(|name| name.workload() == workload)
            .filter_map(|name| self.tables.instances().get(name));
        own.find(|instance| !instance.removing)
    }

    /// The ordinals of the instances that such a workload is to have: those that are on their nodes, and the lowest for the others.
    pub(super) fn ordinals_of_nodes(&self, spec: &WorkloadSpec) -> BTreeSet<u32> {
        let living = self.tables.index().living.get(&spec.name);
        let mut ordinals = BTreeSet::new();
        let mut without = 0_usize;
        for node in self.nodes_of(spec).take(usize::try_from(REPLICAS_MAX).unwrap_or(usize::MAX)) {
            match self.one_on(&spec.name, node) {
                Some(instance) => drop(ordinals.insert(instance.name.ordinal())),
                None => without += 1,
            }
        }
        let unplaced = living.into_iter().flatten().copied().filter(|&ordinal| {
            let name = InstanceName::new(spec.name.clone(), ordinal);
            let instance = self.tables.instances().get(&name);
            instance.is_some_and(|instance| instance.node.is_none())
        });
        let unused = (0..REPLICAS_MAX)
            .filter(|ordinal| living.is_none_or(|living| !living.contains(ordinal)));
        let more: Vec<u32> = unplaced.chain(unused).take(without).collect();
        ordinals.extend(more);
        ordinals
    }

    /// Whether an instance belongs to the node that it is on.
    pub(super) fn is_bound(&self, instance: &Instance) -> bool {
        let workload = self.tables.workloads().get(instance.name.workload());
        instance.node.is_some()
            && workload.is_some_and(|workload| workload.spec.placement.one_per_node)
    }

    /// The instances on a node that do not belong to it.
    pub(super) fn guests_on(&self, node: &NodeName) -> impl Iterator<Item = &InstanceName> {
        let there = self.tables.index().occupancy.get(node);
        let names = there.into_iter().flat_map(|there| &there.instances);
        names.filter(|name| {
            let instance = self.tables.instances().get(*name);
            instance.is_none_or(|instance| !self.is_bound(instance))
        })
    }

    /// Makes what is missing on nodes, and removes what has no node any more.
    pub(super) fn follow_nodes(&mut self, agenda: &Agenda, now: Timestamp) {
        for name in self.tables.index().per_node.clone() {
            let Some(workload) = self.tables.workloads().get(&name).cloned() else { continue };
            if !workload.removing && (agenda.everything || self.is_out_of_step(&workload, agenda)) {
                self.fit_to_nodes(&workload, now);
            }
        }
    }

    /// Whether a node that has changed has what it is not to have, or lacks what it is to have; or whether there is one without a
    /// node, or one that is to be made when the one before is gone: it may be too much by now.
    fn is_out_of_step(&self, workload: &Workload, agenda: &Agenda) -> bool {
        let (spec, index) = (&workload.spec, self.tables.index());
        let living = index.living.get(&spec.name).map_or(0, BTreeSet::len);
        let placed = index.copies.get(&spec.name).map_or(0, BTreeMap::len);
        let wanted = usize::try_from(spec.replicas).unwrap_or(usize::MAX);
        let is_unsure = (living > placed || living != wanted) && !agenda.nodes.is_empty();
        is_unsure
            || agenda.nodes.iter().any(|name| {
                let node = self.tables.nodes().get(name);
                let is_to_have = node.is_some_and(|node| self.is_to_have_one(spec, node));
                is_to_have != self.one_on(&spec.name, name).is_some()
            })
    }

    fn fit_to_nodes(&mut self, workload: &Workload, now: Timestamp) {
        let spec = self.counted_by_nodes(workload.spec.clone());
        let (before, count) = (workload.spec.replicas, spec.replicas);
        let workload = Workload { spec, ..workload.clone() };
        if before != count {
            let message = format!(
                "has {count} instances now, one on every node that it may be on; it had {before}"
            );
            let subject = Subject::Workload(workload.spec.name.clone());
            self.event(now, Severity::Info, subject, "workload-changed", message);
            self.put_workload(workload.clone());
        }
        // Nothing was declared anew that could be refused.
        if let Err(refusal) = self.reconcile(&workload, false, now) {
            tracing::error!(workload = %workload.spec.name, %refusal, "cannot follow the nodes");
        }
    }
}
