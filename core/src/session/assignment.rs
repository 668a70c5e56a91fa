//! All that a node is to do, and how changes to it are merged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::network::{NetworkDelta, NodeNetwork};
use crate::id::{Incarnation, InstanceName, Position, Revision, Term, VolumeName};
use crate::instance::Assigned;
use crate::registry::RegistryLogins;
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
    /// How far the controller's store was when this was made. A controller whose store is not that far any more was
    /// restored from a backup.
    #[serde(default, skip_serializing_if = "is_no_revision")]
    pub durable: Revision,
    /// The controller was restored from a backup, and nobody has confirmed that what it knows is right. What was
    /// assigned before stays assigned, and what is not assigned is not taken away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
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
    /// The logins at the registries of its instances' images.
    #[serde(default, skip_serializing_if = "RegistryLogins::is_empty")]
    pub registries: RegistryLogins,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_no_term(term: &Term) -> bool {
    *term == Term(0)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_no_revision(revision: &Revision) -> bool {
    *revision == Revision(0)
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
    /// How far the controller's store was when this was made.
    pub durable: Revision,
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
    /// The logins at registries, all of them, if they or the instances changed.
    pub registries: Option<RegistryLogins>,
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
    /// The change is of another history of the controller.
    #[error(
        "got changes of the controller's history {offered}, but hold an assignment of {held}; asking for everything again"
    )]
    OtherHistory {
        /// The history of the change.
        offered: Incarnation,
        /// The history of what is here.
        held: Incarnation,
    },
    /// The controller has forgotten something without knowing it.
    #[error(
        "the controller is at revision {offered}, this node was at {held} already in the same history; nothing is \
         touched. `dwell restore status` says what the controller knows of its past"
    )]
    GoesBack {
        /// What the controller sent.
        offered: Revision,
        /// What is here.
        held: Revision,
    },
    /// There is a controller that has started later.
    #[error(
        "this controller has started {offered} times, but this node has heard of start {held}; nothing is touched. Stop \
         the controller that runs from an old copy of the data directory"
    )]
    OlderTerm {
        /// The term of the change.
        offered: Term,
        /// The term of what is here.
        held: Term,
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
            && self.registries.is_none()
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
            durable: Revision(0),
            unconfirmed: false,
            network,
            instances: BTreeMap::new(),
            ssh_trust: SshTrust::default(),
            volumes_to_delete: Vec::new(),
            registries: RegistryLogins::new(),
        }
    }

    /// Where in a controller's history this is.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { incarnation: self.incarnation, revision: self.revision }
    }

    /// What is to be done after a change.
    ///
    /// A snapshot of another history replaces what is held, whatever its revision. If it is not confirmed, it changes
    /// nothing but where the node is: what was assigned stays.
    ///
    /// # Errors
    /// [`MergeError`]; what was held stays right.
    pub fn merge(held: Option<&Self>, change: AssignmentChange) -> Result<Self, MergeError> {
        match (change, held) {
            (AssignmentChange::Snapshot(new), None) => Ok(new),
            (AssignmentChange::Snapshot(new), Some(held)) => {
                if held.incarnation.fits(new.incarnation) {
                    held.check_order(new.term, new.revision)?;
                }
                Ok(if new.unconfirmed { held.unconfirmed_at(&new) } else { new })
            }
            (AssignmentChange::Delta(delta), None) => {
                Err(MergeError::OtherBase { base: delta.base, held: Revision(0) })
            }
            (AssignmentChange::Delta(delta), Some(held)) => {
                let (offered, base) = (delta.incarnation, delta.base);
                if !held.incarnation.fits(offered) {
                    return Err(MergeError::OtherHistory { offered, held: held.incarnation });
                }
                if base != held.revision {
                    return Err(MergeError::OtherBase { base, held: held.revision });
                }
                held.check_order(delta.term, delta.revision)?;
                Ok(held.with(delta))
            }
        }
    }

    /// Refuses what comes before this in the same history.
    fn check_order(&self, term: Term, revision: Revision) -> Result<(), MergeError> {
        if term < self.term {
            return Err(MergeError::OlderTerm { offered: term, held: self.term });
        }
        if revision < self.revision {
            return Err(MergeError::GoesBack { offered: revision, held: self.revision });
        }
        Ok(())
    }

    /// The same to do, at the place of an assignment that nobody has confirmed.
    fn unconfirmed_at(&self, place: &Self) -> Self {
        let Self { incarnation, term, revision, durable, .. } = *place;
        Self { incarnation, term, revision, durable, unconfirmed: true, ..self.clone() }
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
            durable: delta.durable,
            unconfirmed: self.unconfirmed,
            network,
            instances,
            ssh_trust: delta.ssh_trust.unwrap_or_else(|| self.ssh_trust.clone()),
            volumes_to_delete: delta
                .volumes_to_delete
                .unwrap_or_else(|| self.volumes_to_delete.clone()),
            registries: delta.registries.unwrap_or_else(|| self.registries.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
