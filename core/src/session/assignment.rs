//! All that a node is to do, and how changes to it are merged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::network::{NetworkDelta, NodeNetwork};
use crate::id::{Incarnation, InstanceName, Position, Revision, Term, VolumeName};
use crate::instance::Assigned;
use crate::ssh::SshTrust;

/// All that a node is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The history that `revision` counts in.
    #[serde(default, skip_serializing_if = "Incarnation::is_unknown")]
    pub incarnation: Incarnation,
    /// The term of the controller that sent it.
    #[serde(default, skip_serializing_if = "is_no_term")]
    pub term: Term,
    /// The revision of the controller's model that this is of.
    pub revision: Revision,
    /// What the node knows of the cluster's network.
    pub network: NodeNetwork,
    /// Its instances.
    pub instances: BTreeMap<InstanceName, Assigned>,
    /// Who may log in to instances; its zone is empty, since that is the network's.
    #[serde(default)]
    pub ssh_trust: SshTrust,
    /// The volumes that it is to delete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes_to_delete: Vec<(InstanceName, VolumeName)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_no_term(term: &Term) -> bool {
    *term == Term(0)
}

/// What the controller sent: everything, or what has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssignmentChange {
    /// Everything.
    Snapshot(Assignment),
    /// What has changed.
    Delta(AssignmentDelta),
}

/// What has changed since a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignmentDelta {
    /// The history that both revisions count in.
    pub incarnation: Incarnation,
    /// The term of the controller that sent it.
    pub term: Term,
    /// The revision after the change.
    pub revision: Revision,
    /// The revision it builds upon.
    pub base: Revision,
    /// Instances that are new or different.
    pub changed: Vec<Assigned>,
    /// Instances that are no longer this node's.
    pub removed: Vec<InstanceName>,
    /// All of the network, if something of it is different that [`NetworkDelta`] has no word for.
    pub network: Option<NodeNetwork>,
    /// What is different in the network.
    pub network_delta: NetworkDelta,
    /// Who may log in to instances, if that is different.
    pub ssh_trust: Option<SshTrust>,
    /// The volumes that it is to delete, all of them, if that changed.
    pub volumes_to_delete: Option<Vec<(InstanceName, VolumeName)>>,
}

/// Why a change cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Something between was lost.
    #[error(
        "got the changes since revision {base}, but hold revision {held}; asking for everything again"
    )]
    OtherBase {
        /// What the change builds upon.
        base: Revision,
        /// What is here.
        held: Revision,
    },
    /// The controller has forgotten something.
    #[error(
        "the controller is at revision {offered}, this node was at {held} already; nothing is touched. If the \
         controller was restored from a backup and is right, stop the agent, delete assignment.json in its data \
         directory and start it again"
    )]
    GoesBack {
        /// What the controller sent.
        offered: Revision,
        /// What is here.
        held: Revision,
    },
}

impl AssignmentDelta {
    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
            && self.removed.is_empty()
            && self.network.is_none()
            && self.network_delta.is_empty()
            && self.ssh_trust.is_none()
            && self.volumes_to_delete.is_none()
    }
}

impl AssignmentChange {
    /// Where the node is once it has merged this.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Self::Snapshot(all) => all.position(),
            Self::Delta(delta) => {
                Position { incarnation: delta.incarnation, revision: delta.revision }
            }
        }
    }
}

impl Assignment {
    /// Nothing to do, at revision 0 of no history.
    #[must_use]
    pub fn empty(network: NodeNetwork) -> Self {
        Self {
            incarnation: Incarnation::UNKNOWN,
            term: Term(0),
            revision: Revision(0),
            network,
            instances: BTreeMap::new(),
            ssh_trust: SshTrust::default(),
            volumes_to_delete: Vec::new(),
        }
    }

    /// Where in a controller's history this is.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { incarnation: self.incarnation, revision: self.revision }
    }

    /// What is to be done after a change.
    ///
    /// # Errors
    /// [`MergeError`]; what was held stays right.
    pub fn merge(held: Option<&Self>, change: AssignmentChange) -> Result<Self, MergeError> {
        let revision = held.map_or(Revision(0), |held| held.revision);
        let goes_back = |offered| MergeError::GoesBack { offered, held: revision };
        match (change, held) {
            (AssignmentChange::Snapshot(all), _) if all.revision < revision => {
                Err(goes_back(all.revision))
            }
            (AssignmentChange::Snapshot(all), _) => Ok(all),
            (AssignmentChange::Delta(delta), Some(held)) if delta.base == held.revision => {
                if delta.revision < held.revision {
                    return Err(goes_back(delta.revision));
                }
                Ok(held.with(delta))
            }
            (AssignmentChange::Delta(delta), _) => {
                Err(MergeError::OtherBase { base: delta.base, held: revision })
            }
        }
    }

    fn with(&self, delta: AssignmentDelta) -> Self {
        let mut instances = self.instances.clone();
        for name in &delta.removed {
            instances.remove(name);
        }
        instances.extend(delta.changed.into_iter().map(|one| (one.instance.clone(), one)));
        let mut network = delta.network.unwrap_or_else(|| self.network.clone());
        network.apply(delta.network_delta);
        Self {
            incarnation: delta.incarnation,
            term: delta.term,
            revision: delta.revision,
            network,
            instances,
            ssh_trust: delta.ssh_trust.unwrap_or_else(|| self.ssh_trust.clone()),
            volumes_to_delete: delta
                .volumes_to_delete
                .unwrap_or_else(|| self.volumes_to_delete.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
