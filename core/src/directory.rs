//! Who is where: the names and addresses of all instances of the cluster, as every node knows them.
//!
//! A node answers DNS from it and resolves the sources of `allow_from`, so that neither needs the
//! controller. The controller sends it whole once and then what changed ([`DirectoryChange`]).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::id::{InstanceName, Revision, WorkloadName};
use crate::workload::ServicePort;

/// All instances of the cluster that have an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// The revision of the controller's model that this is of.
    pub revision: Revision,
    /// The workloads.
    pub workloads: BTreeMap<WorkloadName, DirectoryWorkload>,
    /// The instances. Its workload is in `workloads`.
    pub instances: BTreeMap<InstanceName, DirectoryInstance>,
}

/// A workload, as other instances see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryWorkload {
    /// Ports that its instances listen on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// Its labels and those of its containers, for selectors; its own win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// An instance, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryInstance {
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it runs and its health check, if it has one, is content.
    pub ready: bool,
}

/// What changed in the directory, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryChange {
    /// The revision after the change.
    pub revision: Revision,
    /// The revision it builds upon; `None` for the whole directory.
    pub base: Option<Revision>,
    /// Workloads that are new or different.
    pub workloads: BTreeMap<WorkloadName, DirectoryWorkload>,
    /// Instances that are new or different.
    pub instances: BTreeMap<InstanceName, DirectoryInstance>,
    /// Workloads that are gone.
    pub removed_workloads: Vec<WorkloadName>,
    /// Instances that are gone.
    pub removed_instances: Vec<InstanceName>,
}

/// A change does not fit what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the directory's change builds upon revision {base}, but revision {held} is held; asking for all of it again"
)]
pub struct DirectoryGap {
    /// What the change builds upon.
    pub base: Revision,
    /// What is held.
    pub held: Revision,
}

impl Directory {
    /// Takes in a change.
    ///
    /// # Errors
    /// [`DirectoryGap`] if something between was lost; the directory stays as it was.
    pub fn apply(&mut self, change: DirectoryChange) -> Result<(), DirectoryGap> {
        let DirectoryChange { revision, base, workloads, instances, .. } = change;
        match base {
            // Taken over and not inserted one by one, which would need twice the memory.
            None => *self = Self { revision, workloads, instances },
            Some(base) if base != self.revision => {
                return Err(DirectoryGap { base, held: self.revision });
            }
            Some(_) => {
                for name in &change.removed_instances {
                    self.instances.remove(name);
                }
                for name in &change.removed_workloads {
                    self.workloads.remove(name);
                }
                self.workloads.extend(workloads);
                self.instances.extend(instances);
                self.revision = revision;
            }
        }
        Ok(())
    }

    /// The instances of a workload, by ordinal.
    pub fn instances_of(
        &self,
        workload: &WorkloadName,
    ) -> impl Iterator<Item = (&InstanceName, &DirectoryInstance)> {
        let first = InstanceName::new(workload.clone(), 0);
        let last = InstanceName::new(workload.clone(), crate::id::ORDINAL_MAX);
        self.instances.range(first..=last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(last: u8) -> DirectoryInstance {
        DirectoryInstance { address: Ipv4Addr::new(10, 80, 0, last), ready: true }
    }

    fn change(base: Option<u64>, revision: u64, instance: &str, last: u8) -> DirectoryChange {
        let name: InstanceName = instance.parse().unwrap();
        DirectoryChange {
            revision: Revision(revision),
            base: base.map(Revision),
            workloads: BTreeMap::from([(name.workload().clone(), DirectoryWorkload::default())]),
            instances: BTreeMap::from([(name, entry(last))]),
            removed_workloads: Vec::new(),
            removed_instances: Vec::new(),
        }
    }

    #[test]
    fn changes_add_up_and_a_gap_changes_nothing() {
        let mut directory = Directory::default();
        directory.apply(change(None, 5, "web-0", 1)).unwrap();
        directory.apply(change(Some(5), 7, "web-1", 2)).unwrap();
        let before = directory.clone();
        let gap = directory.apply(change(Some(6), 9, "web-2", 3)).unwrap_err();
        assert_eq!(gap, DirectoryGap { base: Revision(6), held: Revision(7) });
        assert_eq!(directory, before);

        let mut gone = change(Some(7), 8, "db-0", 4);
        gone.removed_instances = vec!["web-0".parse().unwrap()];
        directory.apply(gone).unwrap();
        let web: WorkloadName = "web".parse().unwrap();
        let names: Vec<_> =
            directory.instances_of(&web).map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["web-1"]);

        directory.apply(change(None, 9, "new-0", 5)).unwrap();
        assert_eq!(directory.instances.len(), 1);
    }
}
