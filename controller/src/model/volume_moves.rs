//! Instances that go to another node with their volumes.
//!
//! ```text
//!   Copying ──a pass is done──▶ Stopping ──its node has let go──▶ Settling ──the copy is the volume──▶ Trying ──it holds──▶ (done)
//!      │                           │                                │                                  │
//!      └──────────── given up: it stays, or starts again, where it was, and the copy is deleted        │ it does not
//!                                                  Returning ◀──────────────────────────────────────────┘
//! ```
//!
//! The move is a part of the instance, so it is durable with it. The bytes are somebody else's: [`Model::volume_moves`] says what is
//! to be copied, and [`Command::NoteVolumeMove`](super::Command) says how far that is. A copy is a record of a volume in the state
//! [`VolumeState::Copy`]; it is deleted as any volume is.
//!
//! Invariants:
//! - up to the change-over the instance belongs to the node that it leaves, also while it is stopped, and after it to the other one;
//! - what it has where it was is not deleted before it holds where it is;
//! - where it may have to go, room is kept for it: there and back.

use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, Revision, VolumeName};
use dwell_core::instance::{InstanceStatus, MESSAGE_MAX, Outcome, RunState, sanitize};
use serde::{Deserialize, Serialize};

use super::command::Moved;
use super::object::{Instance, Leaving, Observed, Severity, Subject, UpdateState};
use super::record::Record;
use super::refusal::NotMoved;
use super::rollout::has_arrived;
use super::volumes::{Volume, VolumeKey, VolumeState};
use super::{Model, Refusal};

/// For how long nothing may be copied before a move is given up.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(300);

/// An instance on its way to another node, with its volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMove {
    /// Where its volumes are.
    pub from: NodeName,
    /// Where they go.
    pub to: NodeName,
    /// How far it is.
    pub phase: VolumeMovePhase,
    /// Names the move: the revision at which it began.
    pub since: Revision,
    /// When it began.
    pub began_at: Timestamp,
}

/// How far a move with volumes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeMovePhase {
    /// It runs, and its volumes are copied meanwhile.
    Copying,
    /// Its node is to stop it.
    Stopping,
    /// It does not run, and what has changed since is copied.
    Settling,
    /// It runs with the copies, and what it had is kept.
    Trying,
    /// It did not hold, and goes back to what it had.
    Returning,
}

impl VolumeMove {
    /// Where room is kept for the instance, beside where it is and where it is on its way to.
    #[must_use]
    pub fn keeps_room_on(&self) -> Option<&NodeName> {
        match self.phase {
            VolumeMovePhase::Copying => Some(&self.to),
            VolumeMovePhase::Trying => Some(&self.from),
            VolumeMovePhase::Stopping | VolumeMovePhase::Settling | VolumeMovePhase::Returning => {
                None
            }
        }
    }
}

impl Instance {
    /// Whether it does not run anywhere, since the last of its volumes is being copied.
    pub(super) fn is_stopped_for_copy(&self) -> bool {
        let moving = self.volume_move.as_deref();
        moving.is_some_and(|moving| moving.phase == VolumeMovePhase::Settling)
    }
}

/// What is to be copied now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeJob {
    /// Whose volumes.
    pub instance: InstanceName,
    /// For which move.
    pub of_move: Revision,
    /// Who has them.
    pub from: NodeName,
    /// Who gets them.
    pub to: NodeName,
    /// What the instance is made from there.
    pub image: String,
    /// Nothing changes them any more: the copies are to become the volumes.
    pub is_final: bool,
    /// Their names, and the paths at which the image asked for them.
    pub volumes: Vec<(VolumeName, Option<String>)>,
}

/// What came of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeMoveNews {
    /// It goes on.
    Progress {
        /// What the volumes take on the disk, in bytes, as far as that is known.
        bytes: u64,
        /// What was sent of it in this pass, in bytes.
        sent: u64,
    },
    /// As many as may are copied; it has to wait for one of them.
    Waits,
    /// It could not go on, and will be tried again.
    Interrupted(String),
    /// A pass is done while the instance ran.
    Copied,
    /// The copies are the volumes of their new node.
    Adopted,
    /// Trying again is pointless.
    Failed(String),
}

/// How far a copy is. Not durable: it is told again.
#[derive(Clone, Debug, Default)]
pub(super) struct CopyProgress {
    bytes: u64,
    sent: u64,
    /// Bytes in a second, lately.
    rate: u64,
    /// When there was progress last, on the controller's own clock.
    at: Timestamp,
    /// What went wrong last.
    problem: String,
}

impl Model {
    /// Begins to move an instance together with its volumes.
    pub(super) fn move_with_volumes(
        &mut self,
        instance: &Instance,
        to: &NodeName,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Some(from) = instance.node.clone() else {
            return Err(NotMoved::NoNode(instance.name.clone()).into());
        };
        let name = &instance.name;
        for node in [&from, to] {
            let link = self.tables.links().get(node);
            if !link.is_some_and(|link| link.moves_volumes) {
                return Err(
                    NotMoved::OldAgent { instance: name.clone(), node: node.clone() }.into()
                );
            }
        }
        let volumes: Vec<Arc<Volume>> = self.tables.volumes_of(name).cloned().collect();
        for volume in &volumes {
            if volume.key.node == *to {
                return Err(NotMoved::HasOne { volume: volume.key.clone() }.into());
            }
            let is_there = match volume.state {
                VolumeState::Kept => volume.seen,
                VolumeState::Lost => false,
                VolumeState::Stale | VolumeState::Copy | VolumeState::Deleting { .. } => true,
            };
            if volume.key.node == from && !is_there {
                return Err(NotMoved::NotSeen { volume: volume.key.clone() }.into());
            }
        }
        let message = format!("its volumes are copied from {from} to {to}; it runs on meanwhile");
        let subject = Subject::Instance(name.clone());
        self.event(now, Severity::Info, subject, "volume-move-began", message);
        self.put_with(|revision| {
            let begun = VolumeMove {
                from: from.clone(),
                to: to.clone(),
                phase: VolumeMovePhase::Copying,
                since: revision,
                began_at: now,
            };
            let volume_move = Some(Box::new(begun));
            Record::Instance(Arc::new(Instance { volume_move, revision, ..instance.clone() }))
        });
        let is_meant = |one: &&Arc<Volume>| one.key.node == from && one.state == VolumeState::Kept;
        for volume in volumes.iter().filter(is_meant) {
            let key = VolumeKey { node: to.clone(), ..volume.key.clone() };
            self.put_copy(key, volume.image_path.clone());
        }
        Ok(())
    }

    /// Has an instance stay with its volumes, or come back to them.
    pub(super) fn abort_move(
        &mut self,
        instance: &Instance,
        now: Timestamp,
    ) -> Result<Moved, Refusal> {
        let Some(moving) = instance.volume_move.as_deref() else {
            return Err(NotMoved::NotMoving(instance.name.clone()).into());
        };
        if matches!(moving.phase, VolumeMovePhase::Trying | VolumeMovePhase::Returning) {
            let (instance, to) = (instance.name.clone(), moving.to.clone());
            return Err(NotMoved::ChangedOver { instance, to }.into());
        }
        let back = moving.from.clone();
        self.give_up_move(instance, "somebody has called it off", now);
        Ok(Moved { instance: instance.name.clone(), from: back.clone(), to: back })
    }

    /// What is to be copied, as far as both nodes are heard of.
    #[must_use]
    pub fn volume_moves(&self) -> Vec<VolumeJob> {
        if self.is_unconfirmed() {
            return Vec::new();
        }
        let moving = self.tables.index().moving.iter();
        moving.filter_map(|name| self.volume_job(name)).collect()
    }

    fn volume_job(&self, name: &InstanceName) -> Option<VolumeJob> {
        let instance = self.tables.instances().get(name)?;
        let moving = instance.volume_move.as_deref()?;
        let is_final = match moving.phase {
            VolumeMovePhase::Copying => false,
            VolumeMovePhase::Settling => true,
            _ => return None,
        };
        if !self.is_ready(&moving.from) || !self.is_ready(&moving.to) {
            return None;
        }
        let kept = self.tables.volumes_of(name).filter(|volume| {
            volume.key.node == moving.from && volume.state == VolumeState::Kept && volume.seen
        });
        Some(VolumeJob {
            instance: name.clone(),
            of_move: moving.since,
            from: moving.from.clone(),
            to: moving.to.clone(),
            image: self.own_image(instance),
            is_final,
            volumes: kept.map(|one| (one.key.name.clone(), one.image_path.clone())).collect(),
        })
    }

    /// Takes in what came of a copy, unless it was for another move or an earlier part of it.
    pub(super) fn note_volume_move(
        &mut self,
        name: &InstanceName,
        of_move: Revision,
        news: VolumeMoveNews,
        now: Timestamp,
    ) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        let Some(moving) = instance.volume_move.as_deref().filter(|one| one.since == of_move)
        else {
            return;
        };
        let is_copied =
            matches!(moving.phase, VolumeMovePhase::Copying | VolumeMovePhase::Settling);
        match news {
            VolumeMoveNews::Progress { bytes, sent } => {
                let clock = self.clock.steady;
                let progress = self.copies.entry(name.clone()).or_default();
                let took = clock.since(progress.at).as_secs();
                let more = sent.saturating_sub(progress.sent);
                progress.rate = more.checked_div(took).unwrap_or(more);
                *progress = CopyProgress {
                    bytes,
                    sent,
                    at: clock,
                    problem: String::new(),
                    ..progress.clone()
                };
                self.show_again(name);
            }
            VolumeMoveNews::Waits => {
                // Waiting for its turn is no standstill.
                let (at, problem) = (self.clock.steady, "waits for its turn".to_owned());
                let progress = self.copies.entry(name.clone()).or_default();
                *progress = CopyProgress { at, problem, ..progress.clone() };
                self.show_again(name);
            }
            VolumeMoveNews::Interrupted(problem) => {
                if let Some(progress) = self.copies.get_mut(name) {
                    progress.problem = sanitize(&problem, MESSAGE_MAX);
                }
            }
            VolumeMoveNews::Copied if moving.phase == VolumeMovePhase::Copying => {
                self.stop_to_settle(&instance, moving, now);
            }
            VolumeMoveNews::Adopted if moving.phase == VolumeMovePhase::Settling => {
                self.change_over(&instance, moving, now);
            }
            VolumeMoveNews::Failed(reason) if is_copied => {
                self.give_up_move(&instance, &sanitize(&reason, MESSAGE_MAX), now);
            }
            VolumeMoveNews::Copied | VolumeMoveNews::Adopted | VolumeMoveNews::Failed(_) => {}
        }
    }

    /// Has watchers look at an instance again, of which nothing durable has changed.
    pub(super) fn show_again(&mut self, name: &InstanceName) {
        if let Some(seen) = self.tables.observed().get(name).cloned() {
            self.put_with(|revision| {
                Record::Observed(Arc::new(Observed { revision, ..Observed::clone(&seen) }))
            });
        }
    }

    /// The most is copied: the instance is stopped, so that the rest cannot change.
    fn stop_to_settle(&mut self, instance: &Instance, moving: &VolumeMove, now: Timestamp) {
        let is_changing =
            instance.update == UpdateState::Updating && !self.is_failing(&instance.name);
        if is_changing {
            let problem = "waits until its change holds or is put back".to_owned();
            self.note_problem(&instance.name, problem);
            return;
        }
        let node = self.tables.nodes().get(&moving.to);
        let is_open = node.is_some_and(|node| !node.cordoned && !node.draining && !node.removed);
        if !is_open {
            let why = format!("{} takes no new instances any more", moving.to);
            return self.give_up_move(instance, &why, now);
        }
        let mut next = instance.clone();
        next.generation = self.next_generation(instance);
        next.update = UpdateState::Updating;
        next.evacuated = None;
        let to = moving.to.clone();
        let phase = VolumeMovePhase::Stopping;
        next.volume_move = Some(Box::new(VolumeMove { phase, ..moving.clone() }));
        self.send(next, to, now);
    }

    fn note_problem(&mut self, name: &InstanceName, problem: String) {
        let at = self.clock.steady;
        let fresh = || CopyProgress { at, ..CopyProgress::default() };
        self.copies.entry(name.clone()).or_insert_with(fresh).problem = problem;
    }

    /// Whether an instance that its node has let go of stays that node's, since its volumes are still being copied.
    pub(super) fn stays_for_copy(&mut self, instance: &Instance) -> bool {
        let Some(moving) = instance.volume_move.as_deref() else { return false };
        if instance.removing || instance.node.as_ref() != Some(&moving.from) {
            return false;
        }
        if !self.is_member(&moving.from) {
            return false;
        }
        match moving.phase {
            VolumeMovePhase::Stopping => {
                let phase = VolumeMovePhase::Settling;
                let volume_move = Some(Box::new(VolumeMove { phase, ..moving.clone() }));
                self.copies.remove(&instance.name);
                self.put_instance(Instance { volume_move, ..instance.clone() });
                true
            }
            VolumeMovePhase::Settling => true,
            _ => false,
        }
    }

    /// The copies are the volumes now: the instance goes where they are.
    fn change_over(&mut self, instance: &Instance, moving: &VolumeMove, now: Timestamp) {
        let copies: Vec<Arc<Volume>> = self.copies_of(&instance.name);
        for copy in copies {
            self.supersede(&copy.key);
            let state = VolumeState::Kept;
            self.put_volume(Volume { state, seen: true, ..Volume::clone(&copy) });
        }
        self.copies.remove(&instance.name);
        let phase = VolumeMovePhase::Trying;
        let volume_move = Some(Box::new(VolumeMove { phase, ..moving.clone() }));
        let next = Instance { volume_move, ..instance.clone() };
        self.put_instance(next.clone());
        self.vacate(&next, now);
    }

    /// What becomes of the move of an instance of which nothing is left on its node.
    pub(super) fn leave_in_move(&mut self, instance: &Instance, now: Timestamp) -> Instance {
        let Some(moving) = instance.volume_move.as_deref() else { return instance.clone() };
        let is_gone_from = |node: &NodeName| instance.node.as_ref() == Some(node);
        let mut next = instance.clone();
        match moving.phase {
            // To where its volumes are now.
            VolumeMovePhase::Trying if is_gone_from(&moving.from) => return next,
            VolumeMovePhase::Trying | VolumeMovePhase::Returning if is_gone_from(&moving.to) => {
                if instance.rests() {
                    self.finish_move(instance, now);
                } else {
                    self.restore_data(instance, moving, now);
                    let since = self.revision;
                    next.leaving = Some(Leaving { since, to: Some(moving.from.clone()) });
                }
            }
            _ => {
                self.drop_copies(&instance.name);
                let message =
                    format!("its volumes do not move to {}: it is off {}", moving.to, moving.from);
                let subject = Subject::Instance(instance.name.clone());
                self.event(now, Severity::Warning, subject, "volume-move-ended", message);
                next.leaving = next.leaving.map(|leaving| Leaving { to: None, ..leaving });
            }
        }
        next.volume_move = None;
        next
    }

    /// What an instance had before is its data again. What it had since is nobody's any more, but it may have written to that, so
    /// it is an operator who deletes it.
    fn restore_data(&mut self, instance: &Instance, moving: &VolumeMove, now: Timestamp) {
        let all: Vec<Arc<Volume>> = self.tables.volumes_of(&instance.name).cloned().collect();
        for volume in &all {
            if volume.key.node == moving.to && volume.state == VolumeState::Kept {
                self.put_volume(Volume { state: VolumeState::Stale, ..Volume::clone(volume) });
            }
        }
        for volume in &all {
            if volume.key.node == moving.from && volume.state == VolumeState::Stale {
                self.put_volume(Volume { state: VolumeState::Kept, ..Volume::clone(volume) });
            }
        }
        let message = format!(
            "did not hold on {to}, and goes back to {} with the data that it had there; what it wrote on {to} is kept until \
             `dwell volume rm {} NAME --node {to}`",
            moving.from,
            instance.name,
            to = moving.to,
        );
        let subject = Subject::Instance(instance.name.clone());
        self.event(now, Severity::Warning, subject, "volume-move-ended", message);
    }

    /// A node has said how an instance is that is tried with its copies.
    pub(super) fn judge_volume_move(
        &mut self,
        name: &InstanceName,
        status: &InstanceStatus,
        now: Timestamp,
    ) {
        if self.volatile_only || self.is_unconfirmed() {
            return;
        }
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        let Some(moving) = instance.volume_move.as_deref() else { return };
        let is_tried = moving.phase == VolumeMovePhase::Trying
            && instance.assigned_to() == Some(&moving.to)
            && instance.run == RunState::Running;
        if !is_tried {
            return;
        }
        // That it does not run may be as it was told before; only what holds, or has done its work, needs nothing to go back to.
        let verdict = status.verdict_on(instance.generation);
        let has_proven = instance.rests() || verdict == Some(&Outcome::Held);
        if has_proven && has_arrived(&instance, status) {
            self.finish_move(&instance, now);
            self.put_instance(Instance { volume_move: None, ..Instance::clone(&instance) });
        } else if let Some(Outcome::Failing { reason }) = verdict {
            let message = format!("does not hold on {}: {reason}", moving.to);
            let subject = Subject::Instance(name.clone());
            self.event(now, Severity::Warning, subject, "volume-move-failed", message);
            let mut next = Instance::clone(&instance);
            next.generation = self.next_generation(&instance);
            next.update = UpdateState::Updating;
            let phase = VolumeMovePhase::Returning;
            next.volume_move = Some(Box::new(VolumeMove { phase, ..moving.clone() }));
            self.send(next, moving.from.clone(), now);
        }
    }

    /// It holds where it is: what it had before is deleted.
    fn finish_move(&mut self, instance: &Instance, now: Timestamp) {
        let Some(moving) = instance.volume_move.as_deref() else { return };
        let all: Vec<Arc<Volume>> = self.tables.volumes_of(&instance.name).cloned().collect();
        let is_here = |name: &VolumeName| {
            all.iter().any(|one| {
                one.key.node == moving.to && one.key.name == *name && one.state == VolumeState::Kept
            })
        };
        for volume in &all {
            let is_old = volume.key.node == moving.from && volume.state == VolumeState::Stale;
            if is_old && is_here(&volume.key.name) {
                self.order_deletion(volume);
            }
        }
        let message = format!(
            "holds on {} with its volumes; what {} has of them is deleted",
            moving.to, moving.from
        );
        let subject = Subject::Instance(instance.name.clone());
        self.event(now, Severity::Info, subject, "volume-move-done", message);
    }

    /// An instance has done its work before it came to where its volumes are now: nothing will show whether it holds there, so what
    /// it had is its data again, and the copies go.
    fn stay_with_data(&mut self, instance: &Instance, moving: &VolumeMove, now: Timestamp) {
        let all: Vec<Arc<Volume>> = self.tables.volumes_of(&instance.name).cloned().collect();
        for volume in &all {
            if volume.key.node == moving.from && volume.state == VolumeState::Stale {
                self.put_volume(Volume { state: VolumeState::Kept, ..Volume::clone(volume) });
            } else if volume.key.node == moving.to && volume.state == VolumeState::Kept {
                self.order_deletion(volume);
            }
        }
        let message = format!(
            "its volumes do not move to {}: it has done its work; they stay on {}",
            moving.to, moving.from
        );
        let subject = Subject::Instance(instance.name.clone());
        self.event(now, Severity::Info, subject, "volume-move-ended", message);
        self.put_instance(Instance { volume_move: None, ..instance.clone() });
    }

    /// Gives up a move before the change-over: the instance stays where it is, or starts there again.
    fn give_up_move(&mut self, instance: &Instance, reason: &str, now: Timestamp) {
        let Some(moving) = instance.volume_move.as_deref() else { return };
        let message = format!(
            "its volumes do not move to {}: {reason}; it stays on {} with them",
            moving.to, moving.from
        );
        let subject = Subject::Instance(instance.name.clone());
        self.event(now, Severity::Warning, subject, "volume-move-ended", message);
        let mut next = Instance { volume_move: None, ..instance.clone() };
        if moving.phase != VolumeMovePhase::Copying {
            next.leaving = None;
            next.generation = self.next_generation(instance);
            next.update = UpdateState::Updating;
        }
        self.put_instance(next);
        self.drop_copies(&instance.name);
    }

    /// A volume of an instance is given up that may be on its way: what is left of it is its data.
    pub(super) fn give_up_move_of(&mut self, name: &InstanceName, now: Timestamp) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        match instance.volume_move.as_deref().map(|moving| moving.phase) {
            Some(VolumeMovePhase::Trying | VolumeMovePhase::Returning) => {
                self.put_instance(Instance { volume_move: None, ..Instance::clone(&instance) });
            }
            Some(_) => self.give_up_move(&instance, "a volume of it was given up", now),
            None => {}
        }
    }

    /// Time has passed: moves whose other node is gone, or that do not go on, are given up.
    pub(super) fn tend_volume_moves(&mut self, now: Timestamp) {
        if self.is_unconfirmed() {
            return;
        }
        let moving: Vec<InstanceName> = self.tables.index().moving.iter().cloned().collect();
        self.copies.retain(|name, _| moving.binary_search(name).is_ok());
        for name in moving {
            let Some(instance) = self.tables.instances().get(&name).cloned() else { continue };
            let Some(moving) = instance.volume_move.as_deref() else { continue };
            if moving.phase == VolumeMovePhase::Trying
                && instance.node.is_none()
                && instance.rests()
            {
                self.stay_with_data(&instance, moving, now);
                continue;
            }
            let is_before = matches!(
                moving.phase,
                VolumeMovePhase::Copying | VolumeMovePhase::Stopping | VolumeMovePhase::Settling
            );
            if !is_before {
                continue;
            }
            if !self.is_member(&moving.to) {
                self.give_up_move(&instance, "that node was removed", now);
                continue;
            }
            if moving.phase == VolumeMovePhase::Stopping {
                continue;
            }
            let at = self.clock.steady;
            let fresh = || CopyProgress { at, ..CopyProgress::default() };
            let progress = self.copies.entry(name.clone()).or_insert_with(fresh);
            if at.since(progress.at) >= STALLED_AFTER {
                let mut reason =
                    format!("nothing was copied for {} min", STALLED_AFTER.as_secs() / 60);
                if !progress.problem.is_empty() {
                    reason = format!("{reason}: {}", progress.problem);
                }
                self.give_up_move(&instance, &reason, now);
            }
        }
    }

    /// Another history begins: nobody knows how far moves have come, so no copy is deleted, and none becomes a volume.
    pub(super) fn forget_volume_moves(&mut self) {
        let moving: Vec<InstanceName> = self.tables.index().moving.iter().cloned().collect();
        for name in moving {
            for copy in self.copies_of(&name) {
                self.put_volume(Volume { state: VolumeState::Stale, ..Volume::clone(&copy) });
            }
            let Some(instance) = self.tables.instances().get(&name).cloned() else { continue };
            let mut next = Instance::clone(&instance);
            let is_before = next.volume_move.as_deref().is_some_and(|moving| {
                matches!(moving.phase, VolumeMovePhase::Stopping | VolumeMovePhase::Settling)
            });
            if is_before {
                next.leaving = None;
            }
            next.volume_move = None;
            self.put_instance(next);
        }
    }

    fn copies_of(&self, name: &InstanceName) -> Vec<Arc<Volume>> {
        let all = self.tables.volumes_of(name);
        all.filter(|volume| volume.state == VolumeState::Copy).cloned().collect()
    }

    /// Has the copies for an instance deleted.
    pub(super) fn drop_copies(&mut self, name: &InstanceName) {
        for copy in self.copies_of(name) {
            self.order_deletion(&copy);
        }
        self.copies.remove(name);
    }

    /// How far the move of an instance is, and what it waits for.
    pub(super) fn volume_move_in_words(&self, instance: &Instance) -> Option<String> {
        let VolumeMove { from, to, phase, .. } = instance.volume_move.as_deref()?;
        let unheard = [from, to].into_iter().find(|node| !self.is_ready(node));
        let far = match (self.copies.get(&instance.name), unheard) {
            (_, Some(node)) => format!("waits for {node}, which is not heard of"),
            (Some(progress), None) => progress.in_words(),
            (None, None) => "begins".to_owned(),
        };
        Some(match phase {
            VolumeMovePhase::Copying => {
                format!("its volumes are copied from {from} to {to}, and it runs meanwhile: {far}")
            }
            VolumeMovePhase::Stopping => format!(
                "most of its volumes is on {to}; waits for {from} to stop it, so that the rest can be copied"
            ),
            VolumeMovePhase::Settling => format!(
                "is stopped while what has changed of its volumes is copied from {from} to {to}: {far}"
            ),
            VolumeMovePhase::Trying if instance.run == RunState::Stopped => format!(
                "its volumes are on {to}; {from} keeps what it had until it was started and holds"
            ),
            VolumeMovePhase::Trying => {
                format!("is on {to} with its volumes; {from} keeps what it had until it holds")
            }
            VolumeMovePhase::Returning => {
                format!(
                    "did not hold on {to} and goes back to {from}, with the data that it had there"
                )
            }
        })
    }
}

impl CopyProgress {
    fn in_words(&self) -> String {
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        let (sent, bytes) = (mebibytes(self.sent), mebibytes(self.bytes.max(self.sent)));
        let mut words = format!("{sent} of {bytes} MiB sent, {} MiB/s", mebibytes(self.rate));
        if !self.problem.is_empty() {
            words = format!("{words}; {}", self.problem);
        }
        words
    }
}
