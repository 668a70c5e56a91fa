//! Who lives by an earlier authority of the cluster.

use std::sync::Arc;

use dwell_core::access::Issuer;
use dwell_core::clock::Timestamp;
use dwell_core::id::NodeName;

use super::object::Node;
use super::{Context, Model};

/// Those whose certificate an earlier authority than the newest signed.
#[derive(Clone, Debug, Default)]
pub struct OldHolders {
    /// Nodes, by name.
    pub nodes: Vec<OldNode>,
    /// Contexts that are good, by name.
    pub contexts: Vec<Arc<Context>>,
}

/// A node among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldNode {
    /// Its name.
    pub name: NodeName,
    /// Whether its agent has a stream.
    pub attached: bool,
    /// Who signed its certificate.
    pub issuer: Issuer,
}

impl OldHolders {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.contexts.is_empty()
    }
}

impl Model {
    /// Who lives by an earlier authority than this.
    #[must_use]
    pub fn old_holders(&self, newest: Issuer, now: Timestamp) -> OldHolders {
        let nodes = self.tables.nodes().values();
        let nodes = nodes.filter(|node| !node.removed && node.issuer < newest).map(|node| {
            let link = self.tables.links().get(&node.name);
            let attached = link.is_some_and(|link| link.session.is_some());
            OldNode { name: node.name.clone(), attached, issuer: node.issuer }
        });
        let is_good = |context: &Context| context.revoked_at.is_none() && context.expires_at > now;
        let mut contexts = self.contexts();
        contexts.retain(|context| is_good(context) && context.issuer < newest);
        OldHolders { nodes: nodes.collect(), contexts }
    }

    /// A node has attached with a certificate of this authority.
    pub(super) fn note_issuer(&mut self, name: &NodeName, issuer: Issuer) {
        let node = self.tables.nodes().get(name).cloned();
        if let Some(node) = node.filter(|node| node.issuer != issuer) {
            self.put_node(Node { issuer, ..Node::clone(&node) });
        }
    }
}
