//! Who is where: the names and addresses of all instances of the cluster, as every node knows them.
//!
//! A node answers DNS from it and resolves the sources of `allow_from`, so that neither needs the
//! controller. The controller sends it whole once and then what changed ([`DirectoryChange`]).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, InstanceName, Position, Revision, WorkloadName};
use crate::workload::ServicePort;

/// All instances of the cluster that have an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// The history that `revision` counts in.
    #[serde(default, skip_serializing_if = "Incarnation::is_unknown")]
    pub incarnation: Incarnation,
    /// The revision of the controller's model that this is of.
    pub revision: Revision,
    /// The workloads.
    pub workloads: BTreeMap<WorkloadName, DirectoryWorkload>,
    /// The instances. Its workload is in `workloads`.
    pub instances: BTreeMap<InstanceName, DirectoryInstance>,
}

/// A workload, as other instances see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct DirectoryInstance {
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it runs and every check that it has is content.
    pub ready: bool,
}

/// What changed in the directory, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryChange {
    /// The history that both revisions count in.
    pub incarnation: Incarnation,
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
    pub base: Position,
    /// What is held.
    pub held: Position,
}

impl DirectoryChange {
    /// Where the directory is after the change.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { incarnation: self.incarnation, revision: self.revision }
    }
}

impl Directory {
    /// Where in a controller's history this is; revision 0 if there is no directory yet.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { incarnation: self.incarnation, revision: self.revision }
    }

    /// Takes in a change.
    ///
    /// # Errors
    /// [`DirectoryGap`] if something between was lost; the directory stays as it was.
    pub fn apply(&mut self, change: DirectoryChange) -> Result<(), DirectoryGap> {
        let DirectoryChange { incarnation, revision, base, workloads, instances, .. } = change;
        match base {
            // Taken over and not inserted one by one, which would need twice the memory.
            None => *self = Self { incarnation, revision, workloads, instances },
            Some(base) if base != self.revision || !incarnation.fits(self.incarnation) => {
                let base = Position { incarnation, revision: base };
                return Err(DirectoryGap { base, held: self.position() });
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
                (self.incarnation, self.revision) = (incarnation, revision);
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

    const LIFE: Incarnation = Incarnation(7);

    fn entry(last: u8) -> DirectoryInstance {
        DirectoryInstance { address: Ipv4Addr::new(10, 80, 0, last), ready: true }
    }

    fn change(base: Option<u64>, revision: u64, instance: &str, last: u8) -> DirectoryChange {
        let name: InstanceName = instance.parse().unwrap();
        DirectoryChange {
            incarnation: LIFE,
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
        let at = |revision| Position { incarnation: LIFE, revision: Revision(revision) };
        assert_eq!(gap, DirectoryGap { base: at(6), held: at(7) });
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

    #[test]
    fn a_change_of_another_history_is_a_gap_and_a_whole_directory_of_one_replaces_everything() {
        let mut directory = Directory::default();
        directory.apply(change(None, 5, "ghost-0", 1)).unwrap();
        let other = Incarnation(8);
        let foreign = DirectoryChange { incarnation: other, ..change(Some(5), 7, "web-1", 2) };
        assert!(directory.apply(foreign).is_err());
        assert_eq!(directory.revision, Revision(5));
        let whole = DirectoryChange { incarnation: other, ..change(None, 3, "other-0", 1) };
        directory.apply(whole).unwrap();
        assert_eq!(directory.position(), Position { incarnation: other, revision: Revision(3) });
        let names: Vec<_> = directory.instances.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["other-0"]);
    }

    #[test]
    fn a_file_of_the_first_form_is_read() {
        let old = r#"{"revision":7,"workloads":{"web":{"ports":[{"port":80,"protocol":"tcp"}]}},
            "instances":{"web-0":{"address":"10.80.0.2","ready":true}}}"#;
        let read: Directory = serde_json::from_str(old).unwrap();
        assert_eq!(
            read.position(),
            Position { incarnation: Incarnation::UNKNOWN, revision: Revision(7) }
        );
        assert!(read.instances[&"web-0".parse::<InstanceName>().unwrap()].ready);
        let newer = old.replacen('{', r#"{"of_a_newer_version":1,"#, 1);
        assert_eq!(serde_json::from_str::<Directory>(&newer).unwrap(), read);
    }
}
