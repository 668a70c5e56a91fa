//! Who is a node, for those who have to know before they may ask the owner anything.
//!
//! A request of somebody who is out has to be refused before it costs anything, however much the owner has to do, so this
//! is not asked of it but published by it, with each change and before that is answered.
//!
//! Owned by the owner; everybody else reads. An entry for each node and each tombstone.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use dwell_core::id::NodeName;

use crate::model::{Change, Key, Model, Node, Record};

/// Who is a node, as of the last commit; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster(Arc<RwLock<HashMap<NodeName, Arc<Node>>>>);

impl Roster {
    pub(super) fn of(model: &Model) -> Self {
        let nodes = model.nodes_and_tombstones();
        Self(Arc::new(RwLock::new(nodes.map(|node| (node.name.clone(), node)).collect())))
    }

    /// The node of this name, also a removed one.
    pub(crate) fn node(&self, name: &NodeName) -> Option<Arc<Node>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Takes committed changes over.
    pub(super) fn publish(&self, changes: &[Change]) {
        let of_nodes = changes.iter().filter_map(|change| match &change.key {
            Key::Node(name) => Some((name, &change.new)),
            _ => None,
        });
        let mut nodes = None;
        for (name, new) in of_nodes {
            let nodes =
                nodes.get_or_insert_with(|| self.0.write().unwrap_or_else(PoisonError::into_inner));
            match new {
                Some(Record::Node(node)) => nodes.insert(name.clone(), Arc::clone(node)),
                _ => nodes.remove(name),
            };
        }
    }
}
