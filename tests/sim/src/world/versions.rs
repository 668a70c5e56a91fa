//! Versions of workloads: which of them failed, and whom they reach all the same.
//!
//! A version is known by its image, of which each declaration has one of its own.

use std::collections::{BTreeMap, BTreeSet};

use dwell_controller::model::{Change, Record};
use dwell_core::id::{InstanceName, WorkloadName};

use super::World;
use crate::host::Temper;
use crate::truth::Violation;

/// The books about versions.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// Versions that were ruled out, by workload.
    ruled_out: BTreeMap<WorkloadName, BTreeSet<String>>,
    /// Instances that have served, and with what last.
    served: BTreeMap<InstanceName, String>,
    /// Instances that had served and were started with a version that ends by itself, by that version.
    reached: BTreeMap<String, BTreeSet<InstanceName>>,
}

impl World {
    /// A main process has been well for long enough to say that it serves.
    pub(super) fn serves(&mut self, name: &InstanceName, image: &str) {
        if Temper::of(image) == Temper::Good {
            self.versions.served.insert(name.clone(), image.to_owned());
        }
    }

    /// What commits say of versions.
    pub(super) fn note_versions(&mut self, changes: &[Change]) {
        for change in changes {
            match (&change.old, &change.new) {
                (Some(Record::Workload(old)), Some(Record::Workload(new)))
                    if old.paused.is_none() && new.paused.is_some() =>
                {
                    let image = new.spec.template.image.clone();
                    let name = new.spec.name.clone();
                    self.versions.ruled_out.entry(name).or_default().insert(image);
                }
                (Some(Record::Workload(old)), None) => {
                    self.versions.served.retain(|name, _| *name.workload() != old.spec.name);
                }
                (old, Some(Record::Instance(new))) if new.node.is_some() => {
                    let before = match old {
                        Some(Record::Instance(old)) => Some(old),
                        _ => None,
                    };
                    let same = before.is_some_and(|old| {
                        old.node == new.node && old.template.image == new.template.image
                    });
                    let ruled_out = self.versions.ruled_out.get(new.name.workload());
                    let image = &new.template.image;
                    let has_served = self.versions.served.contains_key(&new.name);
                    if !same && has_served && ruled_out.is_some_and(|all| all.contains(image)) {
                        let what = format!(
                            "{} served, and is to run {image}, which was ruled out",
                            new.name
                        );
                        self.violate(Violation { rule: "ruled out", what });
                    }
                }
                _ => {}
            }
        }
    }

    /// A main process starts: is that a version that it should not be?
    pub(super) fn check_version(&mut self, host: usize, name: &InstanceName, image: &str) {
        if Temper::of(image) == Temper::Good || !self.versions.served.contains_key(name) {
            return;
        }
        let rolled_back = self.hosts[host].disk.journals.get(name).is_some_and(|journal| {
            matches!(
                &journal.verdict,
                Some(dwell_planner::Verdict {
                    ruling: dwell_planner::Ruling::RolledBack { .. },
                    generation,
                    ..
                }) if self.hosts[host].engine.containers.values().any(|real| {
                    real.instance == *name && real.image == image && real.generation == *generation
                })
            )
        });
        if rolled_back {
            let what = format!(
                "{name} is started on host {host} with {image}, which was rolled back there"
            );
            self.violate(Violation { rule: "ruled out", what });
        }
        let ends = matches!(Temper::of(image), Temper::Ends(_));
        let reached = self.versions.reached.entry(image.to_owned()).or_default();
        reached.insert(name.clone());
        if ends && reached.len() > 1 {
            let what = format!("{image}, which ends by itself, has reached {reached:?}");
            self.violate(Violation { rule: "bad news stops", what });
        }
    }
}
