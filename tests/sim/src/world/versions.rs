//! Versions of workloads: which of them failed, and whom they reach all the same.
//!
//! A version is known by its image, of which each declaration has one of its own.

use std::collections::{BTreeMap, BTreeSet};

use dwell_controller::model::{Change, Record, VersionState};
use dwell_core::id::{InstanceName, WorkloadName};
use dwell_core::instance::RunState;
use dwell_core::workload::WorkloadSpec;

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
    /// Those of them that have been placed and to run since. One that waits for a node, or was stopped, has nothing to
    /// lose by a new version.
    at_work: BTreeSet<InstanceName>,
    /// Instances that were at work and were started with a version that ends by itself, by that version.
    reached: BTreeMap<String, BTreeSet<InstanceName>>,
    /// Versions that an operator has declared once more, whatever became of them.
    tried_anew: BTreeSet<String>,
}

impl Versions {
    /// What was known of a version says nothing of the next try.
    pub(super) fn try_anew(&mut self, spec: &WorkloadSpec) {
        let image = &spec.template.image;
        self.reached.remove(image);
        self.tried_anew.insert(image.clone());
        if let Some(ruled_out) = self.ruled_out.get_mut(&spec.name) {
            ruled_out.remove(image);
        }
    }

    /// What versions did as this instance is nobody's news.
    pub(super) fn forget_reached(&mut self, name: &InstanceName) {
        self.reached.values_mut().for_each(|reached| {
            reached.remove(name);
        });
    }
}

impl World {
    /// A main process has been well for long enough to say that it serves.
    pub(super) fn serves(&mut self, name: &InstanceName, image: &str) {
        let model = self.controller.model.as_ref();
        let is = model.and_then(|model| model.instance(name));
        if is.is_some_and(|view| view.instance.task.is_some()) {
            // What does work of its own serves nobody.
            return;
        }
        if matches!(Temper::of(image), Temper::Good | Temper::Sick) {
            self.versions.served.insert(name.clone(), image.to_owned());
            // Not while it only fills the gap until it is what it is to be.
            let model = self.controller.model.as_ref();
            let is = model.and_then(|model| model.instance(name));
            if is.is_some_and(|view| view.instance.wanted.template.image == image) {
                self.versions.at_work.insert(name.clone());
            }
        }
    }

    /// What commits say of versions.
    pub(super) fn note_versions(&mut self, changes: &[Change]) {
        for change in changes {
            match (&change.old, &change.new) {
                (_, Some(Record::Version(version)))
                    if matches!(version.state, VersionState::RuledOut { .. }) =>
                {
                    let image = version.form.template.image.clone();
                    let ruled_out = self.versions.ruled_out.entry(version.workload.clone());
                    ruled_out.or_default().insert(image);
                }
                // Another of its name is another instance, which has not served.
                (Some(Record::Instance(old)), None) => {
                    self.versions.served.remove(&old.name);
                    self.versions.at_work.remove(&old.name);
                }
                (_, Some(Record::Instance(new)))
                    if new.node.is_none() || new.run == RunState::Stopped =>
                {
                    self.versions.at_work.remove(&new.name);
                    // What it did on a node that was given up was told to nobody.
                    self.versions.forget_reached(&new.name);
                }
                (old, Some(Record::Instance(new))) if new.node.is_some() => {
                    let before = match old {
                        Some(Record::Instance(old)) => Some(old),
                        _ => None,
                    };
                    let given = before.is_some_and(|old| old.wanted.number != new.wanted.number);
                    if given && new.failed_with(new.wanted.number).is_some() {
                        let (name, number) = (&new.name, new.wanted.number);
                        let what =
                            format!("{name} failed with version {number} and is given it again");
                        self.violate(Violation { rule: "not again", what });
                    }
                    let same = before.is_some_and(|old| {
                        old.node == new.node
                            && old.wanted.template.image == new.wanted.template.image
                    });
                    let ruled_out = self.versions.ruled_out.get(new.name.workload());
                    let image = &new.wanted.template.image;
                    // What it served with itself is known to work for it. What a restored controller does not know of
                    // it cannot go back to.
                    let served = self.versions.served.get(&new.name);
                    let has_served = served.is_some_and(|with| {
                        with != image && self.is_known(new.name.workload(), with)
                    });
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

    /// Whether the controller remembers a version with this image.
    fn is_known(&self, workload: &WorkloadName, image: &str) -> bool {
        let versions = self.controller.model.as_ref().map(|model| model.versions(workload));
        let versions = versions.flatten().unwrap_or_default();
        versions.iter().any(|view| view.version.form.template.image == image)
    }

    /// A main process starts: is that a version that it should not be?
    pub(super) fn check_version(&mut self, host: usize, name: &InstanceName, image: &str) {
        if Temper::of(image) == Temper::Good || !self.versions.served.contains_key(name) {
            return;
        }
        let is_new = !self.versions.tried_anew.contains(image);
        let rolled_back = is_new && self.hosts[host].disk.journals.get(name).is_some_and(|journal| {
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
        let is_at_work = self.versions.at_work.contains(name);
        // What comes up although it was taken away just now tells nobody anything.
        let model = self.controller.model.as_ref();
        let is_taken = model
            .is_some_and(|model| model.instance(name).is_none_or(|view| view.instance.removing));
        let ends = matches!(Temper::of(image), Temper::Ends(_)) && is_at_work && !is_taken;
        let reached = self.versions.reached.entry(image.to_owned()).or_default();
        if ends {
            reached.insert(name.clone());
        }
        let update = self.declared.get(name.workload()).map(|declared| &declared.spec.update);
        // With one more than may fail it stops; `None` if it goes on in any case.
        let most = update.map_or(Some(0), |update| update.failures_allowed(0));
        if ends && most.is_some_and(|most| reached.len() > most as usize + 1) {
            let what = format!("{image}, which ends by itself, has reached {reached:?}");
            self.violate(Violation { rule: "bad news stops", what });
        }
    }
}
