//! Lists in pages: each page is a short look at the model, however long the list is.

use std::ops::Bound;

use dwell_core::id::{InstanceName, NodeName, ORDINAL_MAX, WorkloadName};

use super::Model;
use super::view::{InstanceFilter, InstanceView, NodeView, WorkloadView};
use super::volumes::{VolumeKey, VolumeView};

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page<T, N> {
    /// In order of their names.
    pub items: Vec<T>,
    /// The last name, if there are more after it.
    pub next: Option<N>,
}

impl Model {
    /// At most `limit` instances that a filter lets through, from the one after `after` on.
    #[must_use]
    pub fn instances_page(
        &self,
        filter: &InstanceFilter,
        after: Option<&InstanceName>,
        limit: usize,
    ) -> Page<InstanceView, InstanceName> {
        let first = filter.workload.as_ref().map(|name| InstanceName::new(name.clone(), 0));
        let last =
            filter.workload.as_ref().map(|name| InstanceName::new(name.clone(), ORDINAL_MAX));
        let from = match (after, &first) {
            (Some(after), _) => Bound::Excluded(after),
            (None, Some(first)) => Bound::Included(first),
            (None, None) => Bound::Unbounded,
        };
        let to = last.as_ref().map_or(Bound::Unbounded, Bound::Included);
        // A name that is beyond the workload's own begins and ends there.
        if let (Bound::Excluded(from), Bound::Included(to)) = (from, to)
            && from >= to
        {
            return Page { items: Vec::new(), next: None };
        }
        let mut names: Box<dyn Iterator<Item = &InstanceName>> = match &filter.node {
            Some(node) => {
                let there = self.tables.index().occupancy.get(node);
                Box::new(there.into_iter().flat_map(move |there| there.instances.range((from, to))))
            }
            None => Box::new(self.tables.instances().range((from, to)).map(|(name, _)| name)),
        };
        let items: Vec<InstanceView> =
            names.by_ref().take(limit).filter_map(|name| self.instance(name)).collect();
        let more = names.next().is_some();
        drop(names);
        let next = items.last().filter(|_| more).map(|last| last.instance.name.clone());
        Page { items, next }
    }

    /// Workloads from the one after `after` on: at most `limit`, and no more once they have so many instances
    /// together, since each of these is looked at.
    #[must_use]
    pub fn workloads_page(
        &self,
        after: Option<&WorkloadName>,
        limit: usize,
        instances_limit: u32,
    ) -> Page<WorkloadView, WorkloadName> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut names = self
            .tables
            .workloads()
            .range::<WorkloadName, _>((from, Bound::Unbounded))
            .map(|(name, _)| name);
        let mut items: Vec<WorkloadView> = Vec::new();
        let mut instances = 0;
        while items.len() < limit && instances < instances_limit {
            let Some(view) = names.next().and_then(|name| self.workload(name)) else {
                return Page { items, next: None };
            };
            instances += view.instances;
            items.push(view);
        }
        let more = names.next().is_some();
        let next = items.last().filter(|_| more).map(|last| last.workload.spec.name.clone());
        Page { items, next }
    }

    /// At most `limit` nodes that were not removed, from the one after `after` on.
    #[must_use]
    pub fn nodes_page(&self, after: Option<&NodeName>, limit: usize) -> Page<NodeView, NodeName> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let nodes = self.tables.nodes().range::<NodeName, _>((from, Bound::Unbounded));
        let mut nodes = nodes.map(|(_, node)| node).filter(|node| !node.removed);
        let items: Vec<NodeView> =
            nodes.by_ref().take(limit).map(|node| self.view_node(node)).collect();
        let more = nodes.next().is_some();
        let next = items.last().filter(|_| more).map(|last| last.node.name.clone());
        Page { items, next }
    }

    /// At most `limit` volumes, from the one after `after` on; only those of an instance or a node, if one is given.
    #[must_use]
    pub fn volumes_page(
        &self,
        of: (Option<&InstanceName>, Option<&NodeName>),
        after: Option<&VolumeKey>,
        limit: usize,
    ) -> Page<VolumeView, VolumeKey> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let volumes = self.tables.volumes().range::<VolumeKey, _>((from, Bound::Unbounded));
        let mut volumes = volumes
            .map(|(_, volume)| volume)
            .filter(|volume| of.0.is_none_or(|instance| volume.key.instance == *instance))
            .filter(|volume| of.1.is_none_or(|node| volume.key.node == *node));
        let items: Vec<VolumeView> =
            volumes.by_ref().take(limit).map(|volume| self.view_volume(volume)).collect();
        let more = volumes.next().is_some();
        let next = items.last().filter(|_| more).map(|last| last.volume.key.clone());
        Page { items, next }
    }
}
