//! Instances of which something was told that does not fit what is known: they have to be looked at.
//!
//! ```text
//!            raise            begin               end
//!   (none) ────────▶ open ───────────▶ looking ─────────▶ (none)
//!                     ▲                  │ raised again meanwhile
//!                     └──────────────────┘ end
//! ```

use std::collections::{BTreeMap, BTreeSet};

use dwell_core::id::InstanceName;
use dwell_planner::ContainerId;

/// What to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Containers, beside the known ones of the instance.
    pub(super) containers: BTreeSet<ContainerId>,
    /// Whether there may be containers that nobody named.
    pub(super) list: bool,
}

/// The open doubts. Looking is the owner's business.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    open: BTreeMap<InstanceName, Doubt>,
    looking: BTreeSet<InstanceName>,
}

impl Doubts {
    /// Something has happened to a container of an instance, or to whichever.
    pub(super) fn raise(&mut self, name: &InstanceName, container: Option<&ContainerId>) {
        let doubt = self.open.entry(name.clone()).or_default();
        doubt.containers.extend(container.cloned());
        doubt.list |= container.is_none();
    }

    /// Whether an instance is to be looked at, or is just now.
    pub(super) fn concern(&self, name: &InstanceName) -> bool {
        self.open.contains_key(name) || self.looking.contains(name)
    }

    /// What to look at now, unless somebody is looking.
    pub(super) fn begin(&mut self, name: &InstanceName) -> Option<Doubt> {
        if self.looking.contains(name) {
            return None;
        }
        let doubt = self.open.remove(name)?;
        self.looking.insert(name.clone());
        Some(doubt)
    }

    /// Somebody has looked.
    pub(super) fn end(&mut self, name: &InstanceName) {
        self.looking.remove(name);
    }

    /// The instances that are to be looked at.
    pub(super) fn open(&self) -> Vec<InstanceName> {
        self.open.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_that_is_raised_while_somebody_looks_is_not_lost() {
        let name: InstanceName = "web-0".parse().unwrap();
        let id = ContainerId("c1".into());
        let mut doubts = Doubts::default();
        assert_eq!(doubts.begin(&name), None);
        doubts.raise(&name, Some(&id));
        assert_eq!(doubts.begin(&name), Some(Doubt { containers: [id].into(), list: false }));
        doubts.raise(&name, None);
        assert_eq!(doubts.begin(&name), None);
        doubts.end(&name);
        assert!(doubts.concern(&name));
        assert_eq!(doubts.begin(&name), Some(Doubt { list: true, ..Doubt::default() }));
        doubts.end(&name);
        assert!(!doubts.concern(&name));
    }
}
