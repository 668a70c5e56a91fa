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
use super::volumes::Home;

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

    /// The ordinals of the instances that such a workload is to have: those that are on their nodes, then those whose volumes are
    /// on a node without one, and the lowest without any volume for the others.
    pub(super) fn ordinals_of_nodes(&self, spec: &WorkloadSpec) -> BTreeSet<u32> {
        let most = usize::try_from(REPLICAS_MAX).unwrap_or(usize::MAX);
        let (mut ordinals, mut without) = (BTreeSet::new(), Vec::new());
        for node in self.nodes_of(spec).take(most) {
            match self.one_on(&spec.name, node) {
                Some(instance) => drop(ordinals.insert(instance.name.ordinal())),
                None => without.push(node),
            }
        }
        let mut strangers = 0;
        for node in without {
            let home = self.at_home_on(&spec.name, node).find(|home| !ordinals.contains(home));
            strangers += usize::from(home.is_none());
            ordinals.extend(home);
        }
        let living = self.tables.index().living.get(&spec.name);
        let is_living = |ordinal: &u32| living.is_some_and(|living| living.contains(ordinal));
        let unplaced = living.into_iter().flatten().copied();
        let unused = (0..REPLICAS_MAX).filter(|ordinal| !is_living(ordinal));
        let is_free = |ordinal: &u32| {
            let name = InstanceName::new(spec.name.clone(), *ordinal);
            !ordinals.contains(ordinal)
                && !self.is_placed(&name)
                && matches!(self.home_without(&name), Home::Anywhere)
        };
        let more: Vec<u32> = unplaced.chain(unused).filter(is_free).take(strangers).collect();
        ordinals.extend(more);
        ordinals
    }

    /// The ordinals of instances without a node whose volumes are on this one.
    fn at_home_on<'a>(
        &'a self,
        workload: &'a WorkloadName,
        node: &'a NodeName,
    ) -> impl Iterator<Item = u32> + use<'a> {
        let names = self.tables.volumes_on(node).map(|volume| &volume.key.instance);
        let own = names.filter(move |name| name.workload() == workload && !self.is_placed(name));
        let at_home = own.filter(move |name| match self.home_without(name) {
            Home::At { node: home, .. } => home == *node,
            Home::Anywhere | Home::Nowhere(_) => false,
        });
        at_home.map(InstanceName::ordinal)
    }

    /// Where the volumes of an instance let it be that is not placed.
    fn home_without(&self, name: &InstanceName) -> Home {
        let instance = self.tables.instances().get(name).filter(|instance| !instance.removing);
        self.home_of(name, instance.map(Arc::as_ref))
    }

    /// Whether an instance is, and is to stay, on a node.
    fn is_placed(&self, name: &InstanceName) -> bool {
        let instance = self.tables.instances().get(name);
        instance.is_some_and(|instance| instance.node.is_some() && !instance.removing)
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
        let may_be_otherwise = agenda.unplaced || !agenda.nodes.is_empty();
        let is_unsure = (living > placed || living != wanted) && may_be_otherwise;
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
