//! What nodes say: that they live, what they saw, what is gone.
//!
//! A report is judged by the revision of the assignment that it was made under, not by when it
//! arrives. That an instance is gone counts only if the node knew, when it looked, that the instance
//! was no longer its own: an older, late or repeated report proves nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, Position, Revision};
use dwell_core::instance::{InstanceStatus, MESSAGE_MAX, sanitize};
use dwell_core::node::{Capacity, NodeState, Room};
use dwell_core::session::StatusReport;

use super::jobs::InstanceTask;
use super::object::{Instance, Link, Observed, SessionId, Severity, Subject, UpdateState};
use super::record::{Key, Record};
use super::view::unfit_message;
use super::volumes::Home;
use super::{Model, Refusal};

/// The longest name of a container that is kept, in bytes.
const CONTAINER_ID_MAX: usize = 128;

impl Model {
    /// Takes in what a node saw.
    pub(super) fn report(
        &mut self,
        node: &NodeName,
        session: SessionId,
        report: StatusReport,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let link = self.hear(node, session, now)?;
        self.note_remains(node, &report);
        let revision = self.known(report.seen_under);
        let reported = if report.complete {
            Some(revision)
        } else {
            link.reported.map(|before| before.max(revision))
        };
        self.put_link(Link { reported, ..link });
        let seen: BTreeSet<InstanceName> =
            report.instances.iter().map(|status| status.instance.clone()).collect();
        for status in report.instances {
            self.observe(node, session, status, now);
        }
        let mut gone: BTreeSet<InstanceName> = report.gone.into_iter().collect();
        if report.complete {
            self.rivals_gone(node, |name| !seen.contains(name));
            if let Some(occupancy) = self.tables.index().occupancy.get(node) {
                gone.extend(occupancy.instances.iter().cloned());
            }
        }
        for name in gone.difference(&seen) {
            self.note_gone(node, name);
        }
        self.vacate_confirmed(node, session, now);
        if self.volatile_only {
            self.half_heard.insert(node.clone(), session);
        } else if let Some(volumes) = report.volumes {
            self.note_volumes(node, volumes, revision, now);
        }
        Ok(())
    }

    /// Frees what a node has let go of. That nothing of an instance is there counts once two things are so: the node has
    /// looked under an assignment without the instance, and it has that assignment on disk, since a crash would bring
    /// back what is there. A stream begins with a complete report and goes on with differences, so that what it does
    /// not speak of is not there; that may be an instance that came and went before its node took it up.
    fn vacate_confirmed(&mut self, node: &NodeName, session: SessionId, now: Timestamp) {
        if self.volatile_only || self.is_unconfirmed() {
            return;
        }
        let Some(link) = self.tables.links().get(node) else { return };
        let Some(reported) = link.reported else { return };
        let confirmed = reported.min(link.acknowledged);
        let occupancy = self.tables.index().occupancy.get(node);
        let names = occupancy.into_iter().flat_map(|occupancy| &occupancy.instances);
        let is_spoken_of = |name: &InstanceName| {
            let observed = self.tables.observed().get(name);
            observed.is_some_and(|seen| seen.node == *node && seen.session == session)
                || self.remains_on(node, name)
        };
        let instances = names.filter(|name| !is_spoken_of(name));
        let instances = instances.filter_map(|name| self.tables.instances().get(name));
        let has_left = |instance: &&Arc<Instance>| {
            instance.node.as_ref() == Some(node)
                && instance.leaving.as_ref().is_some_and(|leaving| leaving.since <= confirmed)
        };
        let left: Vec<Arc<Instance>> = instances.filter(has_left).cloned().collect();
        for instance in left {
            self.delete(Key::Observed(instance.name.clone()));
            if !self.stays_for_copy(&instance) {
                self.vacate(&instance, now);
            }
        }
        self.release_removed(node, now);
    }

    pub(super) fn heartbeat(
        &mut self,
        node: &NodeName,
        session: SessionId,
        capacity: Option<Capacity>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let link = self.hear(node, session, now)?;
        if let Some(capacity) = capacity {
            self.note_pressure(node, link.capacity.as_deref(), &capacity, now);
            self.put_link(Link { capacity: Some(Arc::new(capacity)), ..link });
        }
        Ok(())
    }

    /// A node has come to be without room or memory, lacks them otherwise than before, or has them again.
    pub(super) fn note_pressure(
        &mut self,
        node: &NodeName,
        before: Option<&Capacity>,
        now_has: &Capacity,
        now: Timestamp,
    ) {
        if self.volatile_only || !self.is_member(node) {
            return;
        }
        let (had, has) = (before.map(pressures).unwrap_or_default(), pressures(now_has));
        if had == has {
            return;
        }
        let subject = Subject::Node(node.clone());
        if has.is_empty() {
            let message = "has room and memory again, and takes new instances".to_owned();
            self.event(now, Severity::Info, subject, "node-pressure-over", message);
        } else {
            self.event(now, Severity::Warning, subject, "node-pressure", unfit_message(now_has));
        }
    }

    /// Whether a node can be told what it is to do has changed.
    pub(super) fn note_unserved(
        &mut self,
        node: &NodeName,
        session: SessionId,
        reason: String,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let link = self.hear(node, session, now)?;
        if !reason.is_empty() && link.unserved.is_empty() {
            let message = format!("cannot be told what to do: {reason}");
            let subject = Subject::Node(node.clone());
            self.event(now, Severity::Warning, subject, "node-unserved", message);
        }
        self.put_link(Link { unserved: reason, ..link });
        Ok(())
    }

    /// The store can be written again. What nodes said meanwhile was shown, but not acted upon: they are
    /// made to say it again, on a new stream. That is forgotten once their stream is seen to be another: this may
    /// be taken back, if the store fails once more.
    pub(super) fn hear_again(&mut self) {
        for (node, session) in self.half_heard.clone() {
            let link = self.tables.links().get(&node).cloned();
            match link.filter(|link| link.session == Some(session)) {
                Some(link) => {
                    self.put_link(Link { session: None, ..Link::clone(&link) });
                    self.reconsider(&node);
                }
                None => drop(self.half_heard.remove(&node)),
            }
        }
    }

    pub(super) fn acknowledge(
        &mut self,
        node: &NodeName,
        session: SessionId,
        stored: Position,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let link = self.hear(node, session, now)?;
        let acknowledged = link.acknowledged.max(self.known(stored));
        let link = Link { acknowledged, ..link };
        self.put_link(link.clone());
        self.note_fences(&link);
        self.vacate_confirmed(node, session, now);
        Ok(())
    }

    /// A revision that this controller never gave out is of another life of it (a restored backup)
    /// and says nothing about this one.
    pub(super) fn known(&self, position: Position) -> Revision {
        let revision = position.within(self.incarnation());
        if revision > self.revision { Revision(0) } else { revision }
    }

    /// A node's stream spoke: it lives. Returns its link.
    pub(super) fn hear(
        &mut self,
        node: &NodeName,
        session: SessionId,
        now: Timestamp,
    ) -> Result<Link, Refusal> {
        let link = self.tables.links().get(node).cloned();
        let link = link.ok_or_else(|| Refusal::NoNode(node.clone()))?;
        if link.session != Some(session) {
            return Err(Refusal::SessionSuperseded(node.clone()));
        }
        self.last_heard.insert(node.clone(), self.clock.steady);
        self.set_node_state(node, NodeState::Ready, now);
        let link = self.tables.links().get(node).unwrap_or(&link);
        Ok(Link::clone(link))
    }

    fn observe(
        &mut self,
        node: &NodeName,
        session: SessionId,
        mut status: InstanceStatus,
        now: Timestamp,
    ) {
        let Some(instance) = self.tables.instances().get(&status.instance).cloned() else { return };
        if instance.node.as_ref() != Some(node) {
            // Not its own (any more, or yet); its assignment says so.
            self.note_rival(node, &instance, &status, now);
            let said = self.said_early.entry(status.instance.clone()).or_default();
            said.insert(node.clone(), (session, status));
            return;
        }
        status.message = sanitize(&status.message, MESSAGE_MAX);
        status.container_id = sanitize(&status.container_id, CONTAINER_ID_MAX);
        let before = self.tables.observed().get(&status.instance).cloned();
        if let Some(before) = &before
            && before.node == *node
            && before.session == session
            && (before.status == status || before.status.observed_at > status.observed_at)
        {
            return;
        }
        let instance = self.count_on(&instance, &status);
        let instance = self.note_let_go(&instance, &status, now);
        let instance = self.note_news(&instance, &status, now);
        let instance = self.note_task(&instance, &status, now);
        self.measure(&instance, before.as_ref().map(|before| &before.status), &status);
        let node = node.clone();
        self.put_with(|revision| {
            Record::Observed(Arc::new(Observed { node, session, status: status.clone(), revision }))
        });
        self.note_image_ahead(before.as_ref().map(|before| &before.status), &status);
        self.judge(&instance, &status, now);
        self.judge_volume_move(&instance.name, &status, now);
    }

    /// A node looked, and nothing of an instance was there.
    fn note_gone(&mut self, node: &NodeName, name: &InstanceName) {
        self.rivals_gone(node, |gone| gone == name);
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        if instance.node.as_ref() == Some(node) {
            let before = self.tables.observed().get(name).cloned();
            self.note_down(&instance, before.as_ref().map(|before| &before.status));
            self.delete(Key::Observed(name.clone()));
        }
    }

    /// A node runs an instance that belongs to another one. That is seen once each time, and shown until it is over.
    fn note_rival(
        &mut self,
        node: &NodeName,
        instance: &Instance,
        status: &InstanceStatus,
        now: Timestamp,
    ) {
        let Some(owner) = instance.node.clone() else { return };
        if status.container_id.is_empty() {
            return;
        }
        let rivals = self.rivals.entry(instance.name.clone()).or_default();
        if rivals.insert(node.clone(), status.generation).is_some() {
            return;
        }
        let message = format!(
            "{node} has generation {} of it, but it belongs to {owner} with generation {}; {node} is told to stop it",
            status.generation, instance.generation
        );
        let subject = Subject::Instance(instance.name.clone());
        self.event(now, Severity::Warning, subject, "instance-claimed-twice", message);
    }

    /// An instance is a node's now: what that said of it before counts.
    pub(super) fn recall(&mut self, name: &InstanceName, node: &NodeName, now: Timestamp) {
        let said = self.said_early.get(name).and_then(|said| said.get(node)).cloned();
        let session = self.tables.links().get(node).and_then(|link| link.session);
        if let Some((on, status)) = said.filter(|(on, _)| session == Some(*on)) {
            self.observe(node, on, status, now);
        }
    }

    /// A node does not have these instances (any more) that are another node's.
    fn rivals_gone(&mut self, node: &NodeName, is_gone: impl Fn(&InstanceName) -> bool) {
        self.said_early.retain(|name, said| {
            if is_gone(name) {
                said.remove(node);
            }
            !said.is_empty()
        });
        self.rivals.retain(|name, nodes| {
            if is_gone(name) {
                nodes.remove(node);
            }
            !nodes.is_empty()
        });
    }

    /// Nothing of an instance is on its node any more.
    pub(super) fn vacate(&mut self, instance: &Instance, now: Timestamp) {
        if let Some(node) = &instance.node {
            self.let_go_of_addresses(&instance.name, node, now);
        }
        if instance.removing {
            return self.delete_instance(instance, now);
        }
        let instance = &self.leave_in_move(instance, now);
        let to = instance.leaving.as_ref().and_then(|leaving| leaving.to.clone());
        // It has left for another address alone.
        let to = to.or_else(|| instance.node.clone().filter(|_| instance.new_address));
        // Never where it would begin without its data.
        let to = to.filter(|to| match self.home_of(&instance.name, Some(instance)) {
            Home::Anywhere => true,
            Home::At { node, .. } => node == *to,
            Home::Nowhere(_) => false,
        });
        // What has ended needs no place.
        let to = to.filter(|_| !instance.rests());
        // Where it was to go may have been lost, cordoned, drained or removed meanwhile.
        let to = to.filter(|to| {
            let node = self.tables.nodes().get(to);
            self.is_ready(to)
                && node.is_some_and(|node| !node.removed && !node.cordoned && !node.draining)
        });
        // What was declared while it was on its way is looked at when it has arrived.
        let update = match instance.update {
            _ if instance.rests() => UpdateState::Current,
            UpdateState::Current => UpdateState::Due,
            // It waits for a place, perhaps for good (its volume may be lost): others get its turn.
            UpdateState::Updating if to.is_none() => UpdateState::Due,
            other => other,
        };
        let task = instance.task.clone().map(InstanceTask::elsewhere);
        let mut next = Instance { node: None, leaving: None, update, task, ..instance.clone() };
        // What has not been found to hold where it was is not tried elsewhere without a turn.
        let workload = self.tables.workloads().get(instance.name.workload()).cloned();
        let has_turn = next.update == UpdateState::Updating;
        if let Some(workload) = workload.filter(|one| one.paused.is_some() || !has_turn)
            && let Some(back) = self.fallback(&workload, instance)
        {
            (next.wanted, next.fallback, next.update) = (back, None, UpdateState::Due);
            next.unseen = None;
            next.generation = self.next_generation(instance);
        }
        self.put_instance(next);
        if let Some(to) = to {
            self.place(&instance.name, &to, now);
        }
    }
}

/// What a node lacks, whatever the numbers.
fn pressures(capacity: &Capacity) -> Vec<(&str, Option<Room>)> {
    let disks = capacity.disk_pressures.iter().map(|disk| (disk.path.as_str(), Some(disk.lacks)));
    // An agent of an earlier version leaves it to the numbers.
    let full = capacity.disk_pressures.is_empty() && capacity.is_disk_full();
    let unnamed = full.then_some(("", Some(Room::Bytes)));
    disks.chain(unnamed).chain(capacity.memory_pressed.then_some(("", None))).collect()
}
