//! What a node is to do: all of it, or what changed since a revision.
//!
//! The model has no secrets: the host keys of the instances and the authorities of SSH are not in what it makes. The
//! session puts them in.

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, Revision, WorkloadName};
use dwell_core::instance::{Assigned, RunState};
use dwell_core::session::{Assignment, AssignmentChange, AssignmentDelta};
use dwell_core::ssh::SshTrust;
use dwell_core::workload::{Template, WorkloadSpec};

use super::jobs::InstanceTask;
use super::log::Log;
use super::object::{Instance, KeySet};
use super::record::{Change, Key, Record};
use super::versions::{Form, VersionState};
use super::volumes::VolumeState;
use super::{Model, Touched};

/// How many changes a node may be behind before it is sent everything again.
const LOG_MAX: usize = 1024;

impl Model {
    /// All that a node is to do; nothing for one that is unknown or removed.
    #[must_use]
    pub fn assignment(&self, node: &NodeName) -> Assignment {
        let occupancy = self.tables.index().occupancy.get(node);
        let names = occupancy.into_iter().flat_map(|occupancy| &occupancy.instances);
        let assigned = names.filter_map(|name| Some((name.clone(), self.assigned(node, name)?)));
        Assignment {
            incarnation: self.incarnation(),
            term: self.term(),
            revision: self.revision,
            durable: self.tables.stored(),
            unconfirmed: false,
            network: self.network(node),
            instances: assigned.collect(),
            ssh_trust: self.ssh_trust(node),
            volumes_to_delete: self.volumes_to_delete(node),
            registries: self.registries_of(node),
        }
    }

    /// What changed for a node since it had `base`; `None` if that is not known any more, and a
    /// snapshot is needed.
    #[must_use]
    pub fn assignment_since(&self, node: &NodeName, base: Revision) -> Option<AssignmentDelta> {
        if base == Revision(0) || base < self.started || base > self.revision {
            return None;
        }
        let has_other_keys = self.key_sets_changed > base && self.is_member(node);
        let mut delta = AssignmentDelta {
            incarnation: self.incarnation(),
            term: self.term(),
            base,
            revision: self.revision,
            durable: self.tables.stored(),
            changed: Vec::new(),
            removed: Vec::new(),
            network: None,
            network_delta: self.network_since(node, base)?,
            ssh_trust: has_other_keys.then(|| self.ssh_trust(node)),
            volumes_to_delete: self
                .deletions_changed
                .get(node)
                .is_some_and(|&changed| changed > base)
                .then(|| self.volumes_to_delete(node)),
            registries: None,
        };
        let changed: BTreeSet<&InstanceName> = match self.node_logs.get(node) {
            Some(log) => log.since(base).ok()?.collect(),
            None => BTreeSet::new(),
        };
        for name in changed {
            match self.assigned(node, name) {
                Some(assigned) => delta.changed.push(assigned),
                None => delta.removed.push(name.clone()),
            }
        }
        // A node knows only the logins that its instances' images need, so these change with its instances.
        let has_other_instances = !delta.changed.is_empty() || !delta.removed.is_empty();
        let has_logins = !self.tables.registries().is_empty();
        if self.registries_changed > base || (has_other_instances && has_logins) {
            delta.registries = Some(self.registries_of(node));
        }
        Some(delta)
    }

    /// What brings a node that was brought to `sent` to the newest revision: what changed, if that is still known, else
    /// everything. `None` if nothing changed.
    #[must_use]
    pub fn assignment_change(
        &self,
        node: &NodeName,
        sent: Option<Revision>,
    ) -> Option<AssignmentChange> {
        if self.is_unconfirmed() {
            // Once is enough: whatever changes, they go on as they are.
            let is_told = sent.is_some_and(|sent| sent >= self.started);
            return (!is_told).then(|| AssignmentChange::Snapshot(self.unconfirmed(node)));
        }
        match sent.and_then(|base| self.assignment_since(node, base)) {
            Some(delta) if delta.is_empty() => None,
            Some(delta) => Some(AssignmentChange::Delta(delta)),
            None => Some(AssignmentChange::Snapshot(self.assignment(node))),
        }
    }

    /// What a node is told while a restore is not confirmed: to go on as it is.
    fn unconfirmed(&self, node: &NodeName) -> Assignment {
        Assignment {
            incarnation: self.incarnation(),
            term: self.term(),
            revision: self.revision,
            durable: self.tables.stored(),
            unconfirmed: true,
            ..Assignment::empty(self.network(node))
        }
    }

    /// When an instance was made: with its name, what its host key is made from.
    #[must_use]
    pub fn made_at(&self, name: &InstanceName) -> Option<Timestamp> {
        self.tables.instances().get(name).map(|instance| instance.created_at)
    }

    /// Who may log in by key, everywhere; nobody as far as a removed node is told.
    fn ssh_trust(&self, node: &NodeName) -> SshTrust {
        let is_told = self.is_member(node);
        let sets = self.tables.key_sets().values().filter(|_| is_told);
        let lines = |set: &KeySet| set.keys.iter().map(|key| key.line.clone()).collect();
        let key_sets = sets.map(|set| (set.name.clone(), lines(set))).collect();
        SshTrust { key_sets, ..SshTrust::default() }
    }

    /// Notes whose assignment a committed change touches.
    pub(super) fn note_for_nodes(&mut self, change: &Change, touched: &mut Touched) {
        self.note_for_network(change, touched);
        if matches!(change.key, Key::KeySet(_)) {
            self.key_sets_changed = change.revision;
            touched.everyone = true;
        }
        if matches!(change.key, Key::Registry(_)) {
            self.registries_changed = change.revision;
            touched.everyone = true;
        }
        if let Key::Volume(key) = &change.key
            && is_deletion(change.old.as_ref()) != is_deletion(change.new.as_ref())
        {
            self.deletions_changed.insert(key.node.clone(), change.revision);
            touched.nodes.insert(key.node.clone());
        }
        if let Key::Volume(key) = &change.key
            && has_been_there(change.old.as_ref()) != has_been_there(change.new.as_ref())
            && let Some(instance) = self.tables.instances().get(&key.instance)
            && instance.assigned_to() == Some(&key.node)
        {
            self.note_for_node(&key.node, key.instance.clone(), change.revision, touched);
        }
        if let (Some(Record::Workload(old)), Some(Record::Workload(new))) =
            (&change.old, &change.new)
            && (is_told_otherwise(&old.spec, &new.spec) || old.good != new.good)
        {
            // Its instances are told the policies, and what to fall back to, along with all else.
            let is_concerned = |one: &Instance| {
                is_told_otherwise(&old.spec, &new.spec) || (!one.holds() && one.fallback.is_none())
            };
            self.note_for_nodes_of(&new.spec.name, is_concerned, change.revision, touched);
        }
        if let (Some(Record::Version(old)), Some(Record::Version(new))) = (&change.old, &change.new)
            && old.image_digest != new.image_digest
        {
            // Those that hold with another version are told nothing of this one.
            let number = new.form.number;
            let is_concerned = |one: &Instance| one.wanted.number == number || !one.holds();
            self.note_for_nodes_of(&new.workload, is_concerned, change.revision, touched);
        }
        let rolls_out = |record: Option<&Record>| match record {
            Some(Record::Version(version)) => {
                let is_open = version.state == VersionState::RollingOut;
                is_open.then(|| {
                    (version.form.template.image.clone(), version.image_digest, version.forced)
                })
            }
            _ => None,
        };
        let told = [rolls_out(change.old.as_ref()), rolls_out(change.new.as_ref())];
        if let Key::Version(name, number) = &change.key
            && told[0] != told[1]
        {
            // Nodes are told which image they are to have before they are given it, and whether limits are forced.
            let is_forced = |told: &Option<(_, _, bool)>| told.as_ref().map(|(.., forced)| *forced);
            let forces = is_forced(&told[0]) == Some(false) && is_forced(&told[1]) == Some(true);
            let is_concerned = |one: &Instance| {
                let mut images = told.iter().flatten().map(|(image, ..)| image);
                match one.wanted.number == *number {
                    true => forces,
                    false => images.any(|image| *image != one.wanted.template.image),
                }
            };
            self.note_for_nodes_of(name, is_concerned, change.revision, touched);
        }
        let (old, new) = (instance(change.old.as_ref()), instance(change.new.as_ref()));
        let (before, after) =
            (old.and_then(Instance::assigned_to), new.and_then(Instance::assigned_to));
        if before == after && same_for_the_node(old, new) {
            return;
        }
        let Some(name) = old.or(new).map(|instance| &instance.name) else { return };
        for node in BTreeSet::from([before, after]).into_iter().flatten() {
            self.note_for_node(node, name.clone(), change.revision, touched);
        }
    }

    /// Notes that what the nodes are told of some instances of a workload has changed.
    fn note_for_nodes_of(
        &mut self,
        workload: &WorkloadName,
        is_concerned: impl Fn(&Instance) -> bool,
        revision: Revision,
        touched: &mut Touched,
    ) {
        let instances = self.tables.instances_of(workload).filter(|one| is_concerned(one));
        let told: Vec<(InstanceName, NodeName)> = instances
            .filter_map(|one| Some((one.name.clone(), one.assigned_to()?.clone())))
            .collect();
        for (name, node) in told {
            self.note_for_node(&node, name, revision, touched);
        }
    }

    fn note_for_node(
        &mut self,
        node: &NodeName,
        name: InstanceName,
        revision: Revision,
        touched: &mut Touched,
    ) {
        let started = self.started;
        let log = self.node_logs.entry(node.clone());
        log.or_insert_with(|| Log::new(started, LOG_MAX)).push(revision, name);
        touched.nodes.insert(node.clone());
    }

    /// What a node is told of an instance, if it is its own.
    fn assigned(&self, node: &NodeName, name: &InstanceName) -> Option<Assigned> {
        let instance = self.tables.instances().get(name)?;
        let identity = instance.identity?;
        let workload = self.tables.workloads().get(name.workload())?;
        let fallback = self.fallback(workload, instance);
        let digest = |form: &Form| self.meant(instance, form);
        let assigned = || Assigned {
            instance: name.clone(),
            address: identity.address,
            mac: identity.mac,
            generation: instance.generation,
            run: if instance.rests() { RunState::Stopped } else { instance.run },
            restarts_asked: instance.restarts_asked,
            beside: instance.second_share.is_some(),
            update_deadline: workload.spec.update.deadline_for(&instance.wanted.template),
            monitor: workload.spec.update.monitor,
            life: instance.life,
            edition: instance.edition,
            rebuilt: instance.root.rebuilt,
            template: instance.made_from(&instance.wanted.template),
            image_digest: digest(&instance.wanted),
            fallback: match instance.own_size_before.filter(|_| instance.holds()) {
                Some(before) => Some(Template {
                    resources: before.over(instance.wanted.template.resources),
                    ..instance.made_from(&instance.wanted.template)
                }),
                None => fallback.as_ref().map(|form| instance.made_from(&form.template)),
            },
            fallback_image_digest: fallback.as_deref().and_then(digest),
            image_ahead: self.image_ahead(instance),
            force_limits: instance.own_size_forced || self.is_forced(instance),
            lease: workload.spec.on_lost.lease().filter(|_| !instance.is_let_go()),
            custody: instance.custody,
            task: instance.task.as_ref().map(InstanceTask::assigned),
            kept_volumes: self.kept_volumes(name, node),
            adopts: instance.adopts.as_deref().cloned(),
            host_key: None,
        };
        (instance.assigned_to() == Some(node)).then(assigned)
    }
}

fn instance(record: Option<&Record>) -> Option<&Instance> {
    match record {
        Some(Record::Instance(instance)) => Some(instance),
        _ => None,
    }
}

/// Whether all instances of a workload are told something else than before, whatever they are made from.
fn is_told_otherwise(old: &WorkloadSpec, new: &WorkloadSpec) -> bool {
    old.update != new.update || old.on_lost != new.on_lost
}

/// Whether a node is told to delete this volume.
fn is_deletion(record: Option<&Record>) -> bool {
    matches!(record, Some(Record::Volume(volume)) if matches!(volume.state, VolumeState::Deleting { .. }))
}

/// Whether a node is told that it has had this volume.
fn has_been_there(record: Option<&Record>) -> bool {
    matches!(record, Some(Record::Volume(volume)) if volume.has_been_there())
}

/// Whether two states of an instance look the same from its node.
fn same_for_the_node(old: Option<&Instance>, new: Option<&Instance>) -> bool {
    let shown = |instance: &Instance| {
        (
            instance.identity,
            instance.created_at,
            instance.life,
            instance.generation,
            instance.run,
            instance.restarts_asked,
            (instance.edition, instance.root.clone()),
            (instance.second_share.is_some(), instance.custody, instance.adopts.is_some()),
            (instance.own_size, instance.own_size_before, instance.own_size_forced),
            instance.task.as_ref().map(InstanceTask::assigned),
            instance.rests(),
            instance.failed.as_ref().map(|failed| failed.version),
        )
    };
    match (old, new) {
        (Some(old), Some(new)) => {
            let forms =
                |one: &Instance| (Arc::clone(&one.wanted), one.fallback.clone(), one.holds());
            let (old_forms, new_forms) = (forms(old), forms(new));
            shown(old) == shown(new) && old_forms == new_forms
        }
        _ => false,
    }
}
