//! How objects change, and how changes become visible, are taken back, or are read again.
//!
//! Everything a command does goes through [`Model::put`] and [`Model::delete`], which give each change
//! its revision and note it down. That list is all there is to a command: it is stored, published, or
//! walked backwards.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use dwell_core::clock::{Now, Timestamp};
use dwell_core::id::{NodeName, Revision};
use dwell_core::node::NodeState;
use dwell_core::skill::Skills;

use super::directory::Shown;
use super::log::Log;
use super::network;
use super::object::{Event, Instance, Link, Node, Reserved, Severity, Subject, Workload};
use super::record::{Change, Key, Record};
use super::{Model, Settings, Touched};

/// How many revisions are reserved with one durable write. Volatile changes have revisions too; so a
/// restarted controller skips at most this many, instead of every heartbeat being stored.
const RESERVE: u64 = 10_000;

impl Model {
    /// The model that these records of the store are, in any order, at the start of a controller.
    /// Nodes count as unreachable until they are heard of.
    #[must_use]
    pub fn restore(
        settings: Settings,
        records: impl IntoIterator<Item = Record>,
        now: impl Into<Now>,
    ) -> Self {
        let mut model = Self::new(settings);
        model.clock = now.into();
        let now = model.clock.steady;
        let mut later = Vec::new();
        for record in records {
            match record {
                // The indexes of instances look at the nodes' blocks.
                Record::Instance(instance) => later.push(instance),
                record => drop(model.tables.put(record)),
            }
        }
        for instance in model.resolve_versions(later) {
            model.tables.put(Record::Instance(instance));
        }
        model.revision = model.tables.reserved();
        model.loaded = model.tables.stored();
        model.started = model.revision;
        model.log = Log::new(model.started, model.settings.watch_max);
        model.network_log = Log::new(model.started, network::LOG_MAX);
        model.key_sets_changed = model.started;
        model.registries_changed = model.started;
        let names: Vec<NodeName> = model.tables.nodes().keys().cloned().collect();
        for node in names {
            model.last_heard.insert(node.clone(), now);
            model.tables.put(Record::Link(Arc::new(Link {
                node,
                session: None,
                keeps_leases: false,
                fetches_ahead: false,
                carries: false,
                knows_blocks: false,
                knows_ranges: false,
                skills: Skills::default(),
                lets_go: false,
                takes_over: false,
                moves_volumes: false,
                boot: None,
                state: NodeState::Unreachable,
                capacity: None,
                claimed: None,
                claim_told: false,
                acknowledged: Revision(0),
                unserved: String::new(),
                reported: None,
                revision: model.revision,
            })));
        }
        let learned = now.after(model.settings.unreachable_after.as_duration());
        model.shown = Shown::new(model.started, Some(learned));
        model.learn();
        model.show_all();
        model.agenda.everything = true;
        model.volumes_derived = false;
        model
    }

    /// The changes are committed: watchers and sessions may see them.
    pub fn publish(&mut self, changes: Vec<Change>) -> Touched {
        let mut touched = Touched::default();
        let mut watched = Vec::new();
        for change in changes {
            if change.key == Key::Stored {
                continue;
            }
            if change.key == Key::History {
                let (old, new) = (change.old.as_ref(), change.new.as_ref());
                touched.everyone |= self.note_for_history(old, new, change.revision);
            }
            self.note_for_nodes(&change, &mut touched);
            self.note_for_directory(&change);
            watched.push(change);
        }
        self.note_for_watchers(watched);
        touched
    }

    /// Watchers are shown everything as it is, so one mention of each thing is enough: however much a command changes, it
    /// pushes out of the log no more than what it touches.
    fn note_for_watchers(&mut self, changes: Vec<Change>) {
        let mut seen = BTreeSet::new();
        let is_last = |change: &Change| {
            let is_over = matches!(change.key, Key::Event(_)) && change.new.is_none();
            !is_over && change.key.shown_as().is_some_and(|key| seen.insert(key))
        };
        let newest: Vec<Change> = changes.into_iter().rev().filter(is_last).collect();
        for change in newest.into_iter().rev() {
            self.log.push(change.revision, change);
        }
    }

    /// The changes could not be committed: takes them back. They have to be all that were applied
    /// since the last call of `publish` or `revert`, in order. Their revisions are not used again.
    pub fn revert(&mut self, changes: Vec<Change>) {
        self.undo(changes);
        self.agenda.everything = true;
        self.volumes_derived = false;
    }

    /// Walks changes backwards.
    pub(super) fn undo(&mut self, changes: Vec<Change>) {
        self.views.get_mut().unwrap_or_else(PoisonError::into_inner).forget();
        for change in changes.into_iter().rev() {
            match change.old {
                Some(old) => drop(self.tables.put(old)),
                None => drop(self.tables.delete(&change.key)),
            }
        }
    }

    /// Makes or replaces the object that `make` returns for the revision it is given.
    pub(super) fn put_with(&mut self, make: impl FnOnce(Revision) -> Record) {
        let revision = self.next_revision();
        let new = make(revision);
        let old = self.tables.put(new.clone());
        self.agenda.note(old.as_ref(), Some(&new));
        let instance = match &new {
            Record::Instance(instance) => Some(Arc::clone(instance)),
            _ => None,
        };
        self.changes.push(Change { revision, key: new.key(), old, new: Some(new) });
        if let Some(instance) = instance {
            self.keep_volumes(&instance);
        }
    }

    /// Makes or replaces an object without a revision of its own.
    pub(super) fn put(&mut self, record: Record) {
        self.put_with(|_| record);
    }

    pub(super) fn put_workload(&mut self, workload: Workload) {
        self.put_with(|revision| Record::Workload(Arc::new(Workload { revision, ..workload })));
    }

    /// Replaces an instance, unless it is as it was.
    pub(super) fn put_instance(&mut self, instance: Instance) {
        let current = self.tables.instances().get(&instance.name);
        if current.is_none_or(|current| **current != instance) {
            self.put_with(|revision| Record::Instance(Arc::new(Instance { revision, ..instance })));
        }
    }

    /// Makes an instance, in a life of its own.
    pub(super) fn make_instance(&mut self, instance: Instance) {
        self.put_with(|revision| {
            Record::Instance(Arc::new(Instance { revision, life: revision, ..instance }))
        });
    }

    pub(super) fn put_node(&mut self, node: Node) {
        self.put_with(|revision| Record::Node(Arc::new(Node { revision, ..node })));
    }

    /// Replaces a link, unless it is as it was.
    pub(super) fn put_link(&mut self, link: Link) {
        let current = self.tables.links().get(&link.node);
        if current.is_none_or(|current| **current != link) {
            self.put_with(|revision| Record::Link(Arc::new(Link { revision, ..link })));
        }
    }

    /// Takes an object away, if it is there.
    pub(super) fn delete(&mut self, key: Key) {
        if let Some(old) = self.tables.delete(&key) {
            self.agenda.note(Some(&old), None);
            if let Key::Quarantine(address) = &key
                && let Some(block) = self.settings.range.block_of(*address)
                && let Some(node) = self.tables.index().blocks.get(&block)
            {
                self.agenda.nodes.insert(node.clone());
            }
            let revision = self.next_revision();
            self.changes.push(Change { revision, key, old: Some(old), new: None });
        }
    }

    /// Writes into the fleet's diary, and drops its oldest page when it is full.
    pub(super) fn event(
        &mut self,
        now: Timestamp,
        severity: Severity,
        subject: Subject,
        reason: &str,
        message: String,
    ) {
        if self.volatile_only {
            return;
        }
        let (owned, by) = (reason.to_owned(), self.by.clone());
        self.put_with(|revision| {
            let reason = owned;
            Record::Event(Arc::new(Event {
                revision,
                at: now,
                severity,
                subject,
                reason,
                message,
                by,
            }))
        });
        // What there is much of makes room for itself first, so that it does not push out everything else.
        let (alike, oldest_alike) = self.tables.events_like(reason);
        let oldest = if alike > self.settings.events_of_a_kind_max() {
            oldest_alike
        } else if self.tables.events().len() > self.settings.events_max {
            self.tables.events().keys().next().copied()
        } else {
            None
        };
        if let Some(oldest) = oldest {
            self.delete(Key::Event(oldest));
        }
    }

    fn next_revision(&mut self) -> Revision {
        // Half of them are left when the next are reserved, for a store that cannot be written for a while.
        let ahead = if self.volatile_only { 0 } else { RESERVE / 2 };
        if self.revision.0 + ahead >= self.tables.reserved().0 {
            self.revision = self.revision.next();
            let new = Record::Reserved(Reserved { revision: Revision(self.revision.0 + RESERVE) });
            let old = self.tables.put(new.clone());
            let key = Key::Reserved;
            self.changes.push(Change { revision: self.revision, key, old, new: Some(new) });
        }
        self.revision = self.revision.next();
        self.revision
    }
}
