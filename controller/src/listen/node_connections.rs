//! A node has few connections: one, and for a while those that it has lost and we have not yet.
//!
//! The newest counts, so that an agent whose link breaks again and again is never kept out by what is left of its own past.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::pki::Enrolment;

/// How many connections a node may have. A new one ends the oldest.
pub(super) const EACH_MAX: usize = 4;

/// The connections of all nodes; clones are the same ones. An earlier holder of a node's name is counted for itself.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeConnections(Arc<Mutex<HashMap<Enrolment, VecDeque<CancellationToken>>>>);

/// A connection among those of its node; no longer, when this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    all: NodeConnections,
    enrolment: Enrolment,
    displaced: CancellationToken,
}

impl NodeConnections {
    pub(super) fn add(&self, enrolment: Enrolment) -> Counted {
        let displaced = CancellationToken::new();
        let mut all = self.all();
        let of_node = all.entry(enrolment.clone()).or_default();
        if of_node.len() >= EACH_MAX
            && let Some(oldest) = of_node.pop_front()
        {
            oldest.cancel();
        }
        of_node.push_back(displaced.clone());
        Counted { all: self.clone(), enrolment, displaced }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Enrolment, VecDeque<CancellationToken>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// Cancelled when the connection is to end because the node has made too many newer ones.
    pub(super) fn displaced(&self) -> &CancellationToken {
        &self.displaced
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // What waits for it is gone with this; it only tells the entry from the others.
        self.displaced.cancel();
        let mut all = self.all.all();
        if let Some(of_node) = all.get_mut(&self.enrolment) {
            of_node.retain(|one| !one.is_cancelled());
            if of_node.is_empty() {
                all.remove(&self.enrolment);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ones_stay() {
        let connections = NodeConnections::default();
        let of = |text: &str| Enrolment(text.to_owned());
        let other = connections.add(of("other"));
        let mut all: Vec<Counted> = (0..7).map(|_| connections.add(of("node"))).collect();
        let ended: Vec<bool> = all.iter().map(|one| one.displaced().is_cancelled()).collect();
        assert_eq!(ended, [true, true, true, false, false, false, false]);
        assert!(!other.displaced().is_cancelled());
        // One that ends by itself makes room.
        drop(all.remove(5));
        all.push(connections.add(of("node")));
        assert!(!all[3].displaced().is_cancelled());
        drop((all, other));
        assert!(connections.all().is_empty());
    }
}
