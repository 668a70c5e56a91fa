//! What is to be: the half of a plan's input that the controller says.

use std::collections::BTreeMap;

use dwell_core::id::{InstanceName, Revision};
use dwell_core::instance::Assigned;
use dwell_core::registry::RegistryLogins;

use crate::target::Target;

/// All that the node is to run, at a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    revision: Revision,
    instances: BTreeMap<InstanceName, Target>,
    keeps_unknown: bool,
    registries: RegistryLogins,
}

impl Desired {
    /// All instances, by name.
    #[must_use]
    pub fn instances(&self) -> &BTreeMap<InstanceName, Target> {
        &self.instances
    }

    /// The revision of the controller's model that this is of; 0 if it is of none.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The same, as of a revision.
    #[must_use]
    pub fn at(self, revision: Revision) -> Self {
        Self { revision, ..self }
    }

    /// The same, where what is not in it is to be left alone instead of being taken away.
    #[must_use]
    pub fn keeping_unknown(self, keeps_unknown: bool) -> Self {
        Self { keeps_unknown, ..self }
    }

    /// Whether what is not in it is left alone: the controller was restored from a backup and may have forgotten it.
    #[must_use]
    pub fn keeps_unknown(&self) -> bool {
        self.keeps_unknown
    }

    /// The same, with these logins at registries.
    #[must_use]
    pub fn with_registries(self, registries: RegistryLogins) -> Self {
        Self { registries, ..self }
    }

    /// The logins at registries.
    pub(crate) fn registries(&self) -> &RegistryLogins {
        &self.registries
    }

    /// One instance, if it is to be.
    #[must_use]
    pub fn get(&self, name: &InstanceName) -> Option<&Target> {
        self.instances.get(name)
    }
}

impl FromIterator<Assigned> for Desired {
    fn from_iter<I: IntoIterator<Item = Assigned>>(all: I) -> Self {
        let target = |assigned: Assigned| (assigned.instance.clone(), Target::of(assigned));
        let instances = all.into_iter().map(target).collect();
        Self { instances, ..Self::default() }
    }
}
