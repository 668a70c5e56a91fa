//! Who is where, as every node is told: what [`Directory`] holds, kept in step with what is published, and what
//! changed in it since a revision.
//!
//! An entry is compared with what was shown before, so a status report that changes neither address nor
//! readiness (nearly all of them) is no change here and costs one look-up.
//!
//! A controller that has just started knows what it stored, but not yet what runs: it is *learning*. Nodes keep
//! what they hold meanwhile, or a restart of the controller would take every name of the fleet out of DNS for
//! a moment. It has learned as soon as every node has reported, or the time has passed after which a silent one
//! counts as unreachable.

use std::collections::{BTreeMap, BTreeSet};

use dwell_core::clock::Timestamp;
use dwell_core::directory::{Directory, DirectoryChange, DirectoryInstance, DirectoryWorkload};
use dwell_core::id::{InstanceName, Revision, WorkloadName};
use dwell_core::node::NodeState;

use super::Model;
use super::log::Log;
use super::record::{Change, Key};

/// How many changes a node may be behind before it is sent the whole directory again.
pub(super) const LOG_MAX: usize = 16_384;

/// The directory as published.
#[derive(Debug)]
pub(super) struct Shown {
    directory: Directory,
    log: Log<Entry>,
    /// What is known of instances is not to be told before this, unless all nodes have reported.
    learning: Option<Timestamp>,
}

/// Something in the directory that changed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Workload(WorkloadName),
    Instance(InstanceName),
}

impl Shown {
    pub(super) fn new(started: Revision, learning: Option<Timestamp>) -> Self {
        let directory = Directory { revision: started, ..Directory::default() };
        Self { directory, log: Log::new(started, LOG_MAX), learning }
    }
}

impl Shown {
    /// Forgets how the directory came about, so that everybody gets all of it.
    pub(super) fn restart(&mut self, at: Revision) {
        self.directory.revision = at;
        self.log = Log::new(at, LOG_MAX);
    }
}

impl Model {
    /// The revision of the directory's last change; `None` while it is not to be shown: a restored controller knows
    /// less than the nodes do.
    #[must_use]
    pub fn directory_revision(&self) -> Option<Revision> {
        (self.shown.learning.is_none() && !self.is_unconfirmed())
            .then_some(self.shown.directory.revision)
    }

    /// All of the directory. Its cost is that of the fleet.
    #[must_use]
    pub fn directory(&self) -> DirectoryChange {
        let Directory { workloads, instances, .. } = &self.shown.directory;
        DirectoryChange {
            incarnation: self.incarnation(),
            revision: self.revision,
            base: None,
            workloads: workloads.clone(),
            instances: instances.clone(),
            removed_workloads: Vec::new(),
            removed_instances: Vec::new(),
        }
    }

    /// What changed in the directory since a revision; `None` if that is not known (any more), and all of
    /// it is needed.
    #[must_use]
    pub fn directory_since(&self, held: Revision) -> Option<DirectoryChange> {
        // A revision of an earlier life of this controller says nothing about what it was told then.
        if held <= self.started || held > self.revision {
            return None;
        }
        let entries = self.shown.log.since(held).ok()?;
        let directory = &self.shown.directory;
        let mut change = DirectoryChange {
            incarnation: self.incarnation(),
            revision: self.revision,
            base: Some(held),
            workloads: BTreeMap::new(),
            instances: BTreeMap::new(),
            removed_workloads: Vec::new(),
            removed_instances: Vec::new(),
        };
        for entry in entries.collect::<BTreeSet<_>>() {
            match entry {
                Entry::Workload(name) => match directory.workloads.get(name).cloned() {
                    Some(workload) => drop(change.workloads.insert(name.clone(), workload)),
                    None => change.removed_workloads.push(name.clone()),
                },
                Entry::Instance(name) => match directory.instances.get(name).copied() {
                    Some(instance) => drop(change.instances.insert(name.clone(), instance)),
                    None => change.removed_instances.push(name.clone()),
                },
            }
        }
        Some(change)
    }

    /// Notes what a committed change does to the directory.
    pub(super) fn note_for_directory(&mut self, change: &Change) {
        let entry = match &change.key {
            Key::Workload(name) => self.show_workload(name).then(|| Entry::Workload(name.clone())),
            // A node that is lost or found shows in the change of each instance that it has told of.
            Key::Instance(name) | Key::Observed(name) => {
                self.show_instance(name).then(|| Entry::Instance(name.clone()))
            }
            _ => None,
        };
        if let Some(entry) = entry {
            self.shown.directory.revision = change.revision;
            self.shown.log.push(change.revision, entry);
        }
    }

    /// The directory of what was restored.
    pub(super) fn show_all(&mut self) {
        let workloads: Vec<_> = self.tables.workloads().keys().cloned().collect();
        for name in workloads {
            self.show_workload(&name);
        }
        let instances: Vec<_> = self.tables.instances().keys().cloned().collect();
        for name in instances {
            self.show_instance(&name);
        }
    }

    /// Ends the learning if its time is over or all nodes have been heard of.
    pub(super) fn learn(&mut self) {
        let Some(until) = self.shown.learning else { return };
        let links = self.tables.links();
        let heard = || {
            let mut members = self.tables.nodes().values().filter(|node| !node.removed);
            members.all(|node| links.get(&node.name).is_some_and(|link| link.capacity.is_some()))
        };
        if self.clock.steady >= until || heard() {
            self.shown.learning = None;
        }
    }

    /// Shows a workload as it is; whether that is something new.
    fn show_workload(&mut self, name: &WorkloadName) -> bool {
        let shown = &mut self.shown.directory.workloads;
        let Some(workload) = self.tables.workloads().get(name) else {
            return shown.remove(name).is_some();
        };
        let spec = &workload.spec;
        // Who selects by a label does not care whether it was put on the workload or on its containers.
        let mut labels = spec.template.labels.clone();
        labels.extend(spec.labels.clone());
        let new = DirectoryWorkload { ports: spec.template.expose.clone(), labels };
        if shown.get(name) == Some(&new) {
            return false;
        }
        shown.insert(name.clone(), new);
        true
    }

    /// Shows an instance as it is; whether that is something new.
    fn show_instance(&mut self, name: &InstanceName) -> bool {
        let new = self.tables.instances().get(name).and_then(|instance| {
            let address = instance.identity?.address;
            // Its workload's name does not lead to what was let go; its own does.
            let ready = self.is_serving(name) && !instance.is_let_go();
            Some(DirectoryInstance { address, ready })
        });
        let shown = &mut self.shown.directory.instances;
        match new {
            Some(new) if shown.get(name) == Some(&new) => false,
            Some(new) => {
                shown.insert(name.clone(), new);
                true
            }
            None => shown.remove(name).is_some(),
        }
    }

    /// Whether an instance is ready, as far as is known: on a node that is not heard of, nothing is.
    fn is_serving(&self, name: &InstanceName) -> bool {
        self.tables.observed().get(name).is_some_and(|observed| {
            let link = self.tables.links().get(&observed.node);
            let status = &observed.status;
            link.is_some_and(|link| link.state == NodeState::Ready) && status.is_ready()
        })
    }
}
