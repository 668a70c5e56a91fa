//! Volumes: what data there is, whose it is, and on which node.
//!
//! A volume is made by the node that first runs an instance with it, and holds that instance's data
//! from then on. It outlives the instance: `scale 0`, `rm` and a new `apply` leave it where it is, and
//! an instance that is placed again goes where its data is, or waits and says why it cannot.
//!
//! ```text
//!                                its node was removed by force, or had it and has it no more
//!   (none) ──assigned──▶ Kept ◀─────────────────────────▶ Lost ──rm──▶ (none)
//!                          │  ▲      the node has it again
//!                          rm  └─────── a node has it, and no other node does
//!                          ▼
//!                       Deleting ──the node, told so, does not have it any more──▶ (none)
//!                          ▲
//!                          rm
//!                        Stale  ◀── a node has it, but another one's has taken its place
//!                          ▲
//!   (none) ──move──▶ Copy ─┴─ the copy has become the volume: it is Kept, and what it is a copy of is Stale (`volume_moves.rs`)
//! ```
//!
//! Invariants:
//! - wherever an instance is assigned with a volume, there is a record of it ([`Model::put_with`] sees to that);
//! - no instance is placed where it would get an empty or an older volume in place of one that is known of;
//! - a node is told which volumes of an instance it has had already ([`Model::kept_volumes`]), and makes none of them anew;
//! - what is left when the others were given up is the instance's data: of a volume that only one node has, that is never stale.

mod object;

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, Revision, VolumeName};
use dwell_core::instance::Phase;
use dwell_core::session::SeenVolume;
use dwell_core::workload::Template;
use dwell_scheduler::Reason;

pub use self::object::{Volume, VolumeKey, VolumeState, VolumeView};
use super::object::{Instance, Leaving, Severity, Subject, WaitingCause};
use super::record::{Key, Record};
use super::{Model, Refusal};

/// Where the volumes of an instance let it be.
pub(super) enum Home {
    Anywhere,
    At { node: NodeName, volume: VolumeName },
    Nowhere(WaitingCause),
}

impl Model {
    /// Where an instance may be placed: every node, only the one that has its volumes, or none.
    fn home(&self, instance: &Instance) -> Home {
        self.home_of(&instance.name, Some(instance))
    }

    /// The same of an instance that is perhaps still to be made.
    pub(super) fn home_of(&self, instance: &InstanceName, known: Option<&Instance>) -> Home {
        let workload = self.tables.workloads().get(instance.workload());
        let declared = workload.map(|workload| &workload.spec.template);
        let templates = declared.into_iter().chain(known.into_iter().flat_map(Instance::templates));
        let declared: BTreeSet<&VolumeName> = templates.flat_map(Template::volumes).collect();
        let all: Vec<&Arc<Volume>> =
            self.tables.volumes_of(instance).filter(|volume| volume.concerns(&declared)).collect();
        let kept = |name: &VolumeName| {
            all.iter().find(|one| one.key.name == *name && one.state == VolumeState::Kept)
        };
        let mut home: Option<&VolumeKey> = None;
        for volume in &all {
            let VolumeKey { name, node, .. } = &volume.key;
            let cause = match (volume.state, home) {
                (VolumeState::Kept, Some(other)) if other.node != *node => {
                    WaitingCause::VolumesApart {
                        one: (other.name.clone(), other.node.clone()),
                        other: (name.clone(), node.clone()),
                    }
                }
                (VolumeState::Kept, _) => {
                    home = Some(&volume.key);
                    continue;
                }
                _ if kept(name).is_some() => continue,
                (VolumeState::Stale, _) if self.is_in_doubt(&volume.key) => {
                    WaitingCause::VolumeInDoubt {
                        instance: instance.clone(),
                        volume: name.clone(),
                        nodes: self.stale_on(&volume.key),
                    }
                }
                (VolumeState::Lost, _) if self.is_member(node) => WaitingCause::VolumeMissing {
                    key: volume.key.clone(),
                    older: self.stale_on(&volume.key),
                },
                (VolumeState::Stale, _) if self.awaits_another(&volume.key) => continue,
                (state, _) => WaitingCause::Volume {
                    instance: instance.clone(),
                    volume: name.clone(),
                    node: node.clone(),
                    state,
                },
            };
            return Home::Nowhere(cause);
        }
        match home {
            Some(VolumeKey { name, node, .. }) => {
                Home::At { node: node.clone(), volume: name.clone() }
            }
            None => Home::Anywhere,
        }
    }

    /// All that there is of a volume, on whatever node.
    fn everywhere<'a>(&'a self, key: &'a VolumeKey) -> impl Iterator<Item = &'a Arc<Volume>> {
        self.tables.volumes_of(&key.instance).filter(|other| other.key.name == key.name)
    }

    /// Whether several nodes have a volume, and none of them is known to have the newest.
    fn is_in_doubt(&self, key: &VolumeKey) -> bool {
        self.everywhere(key).all(|one| one.state == VolumeState::Stale)
            && self.everywhere(key).nth(1).is_some()
    }

    /// Whether somebody has to decide about another one first.
    fn awaits_another(&self, key: &VolumeKey) -> bool {
        self.everywhere(key).any(|one| one.state != VolumeState::Stale)
    }

    /// The nodes that have a volume of this name that is not known to be the newest.
    fn stale_on(&self, key: &VolumeKey) -> Vec<NodeName> {
        let stale = self.everywhere(key).filter(|one| one.state == VolumeState::Stale);
        stale.map(|one| one.key.node.clone()).collect()
    }

    /// The volumes of an instance that a node has had, so that it makes none of them anew.
    pub(super) fn kept_volumes(
        &self,
        instance: &InstanceName,
        node: &NodeName,
    ) -> BTreeSet<VolumeName> {
        let there = self.tables.volumes_of(instance).filter(|volume| volume.key.node == *node);
        let known = there.filter(|volume| volume.has_been_there());
        known.map(|volume| volume.key.name.clone()).collect()
    }

    /// Has an instance leave its node for the one that has its data now. One that runs has its data where it is, whatever
    /// its engine lists.
    fn follow_volumes(&mut self, name: &InstanceName, now: Timestamp) {
        if self.is_unconfirmed() {
            return;
        }
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        let Some(node) = instance.assigned_to() else { return };
        let observed = self.tables.observed().get(name);
        let runs = observed.is_some_and(|seen| seen.status.phase == Phase::Running);
        if runs || instance.volume_move.is_some() || self.is_bound(&instance) {
            return;
        }
        let is_elsewhere = match self.home(&instance) {
            Home::At { node: home, .. } => home != *node,
            Home::Nowhere(WaitingCause::VolumeInDoubt { .. }) => true,
            Home::Anywhere | Home::Nowhere(_) => false,
        };
        if !is_elsewhere {
            return;
        }
        let message = format!("leaves {node}, which has not its data");
        let subject = Subject::Instance(name.clone());
        self.event(now, Severity::Warning, subject, "instance-follows-data", message);
        self.put_with(|since| {
            Record::Instance(Arc::new(Instance {
                heading: None,
                leaving: Some(Leaving { since, to: None }),
                revision: since,
                ..Instance::clone(&instance)
            }))
        });
    }

    /// A restore is confirmed, and nodes have said which volumes they have. What only one of them has is the data, whatever the
    /// backup says. Which of several is the newest is known if one of these nodes was told to run the instance; else somebody
    /// has to look.
    pub(super) fn settle_volumes(&mut self, now: Timestamp) {
        // Kept, since it may have to be confirmed once more if the store fails.
        let told = self.volumes_told.clone();
        let all: BTreeSet<(InstanceName, VolumeName)> = self
            .tables
            .volumes()
            .keys()
            .map(|key| (key.instance.clone(), key.name.clone()))
            .collect();
        let mut instances = BTreeSet::new();
        for (instance, name) in all {
            let records: Vec<Arc<Volume>> = self
                .tables
                .volumes_of(&instance)
                .filter(|volume| volume.key.name == name)
                .filter(|volume| told.contains_key(&volume.key.node))
                .filter(|volume| match volume.state {
                    VolumeState::Kept | VolumeState::Lost | VolumeState::Stale => true,
                    VolumeState::Copy | VolumeState::Deleting { .. } => false,
                })
                .cloned()
                .collect();
            let is_there = |volume: &&Arc<Volume>| {
                let there = told.get(&volume.key.node);
                there.is_some_and(|there| there.contains(&volume.key))
            };
            let (there, gone): (Vec<_>, Vec<_>) = records.iter().partition(is_there);
            // What was to be deleted is, or an older one is not there any more.
            let is_left =
                |volume: &Arc<Volume>| there.is_empty() && volume.state != VolumeState::Stale;
            for volume in gone.into_iter().filter(|volume| !is_left(volume)) {
                self.delete(Key::Volume(volume.key.clone()));
            }
            let is_claimed =
                |volume: &&&Arc<Volume>| self.claims_of(&volume.key.node, &volume.key.instance);
            let newest = match &there[..] {
                [] => continue,
                [one] => Some(*one),
                several => several.iter().find(is_claimed).copied(),
            };
            // What a node has not said anything of may be newer than all these.
            let unheard = self.tables.volumes_of(&instance).any(|volume| {
                volume.key.name == name
                    && volume.state == VolumeState::Kept
                    && !told.contains_key(&volume.key.node)
            });
            for volume in &there {
                let is_newest = !unheard && newest.is_some_and(|one| one.key == volume.key);
                let state = if is_newest { VolumeState::Kept } else { VolumeState::Stale };
                if volume.state != state {
                    self.put_volume(Volume { state, ..Volume::clone(volume) });
                }
            }
            instances.insert(instance);
        }
        for name in &instances {
            self.follow_volumes(name, now);
        }
    }

    /// Places an instance that has volumes where they are, or notes why it cannot be there. Returns
    /// whether that settles it: one without volumes may go anywhere.
    pub(super) fn place_by_volumes(&mut self, name: &InstanceName, now: Timestamp) -> bool {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return true };
        match self.home(&instance) {
            Home::Anywhere => return false,
            Home::Nowhere(cause) => self.wait(name, cause),
            Home::At { node, volume } => match self.decide_at(name, &node) {
                Some(Ok(_)) => self.place(name, &node, now),
                Some(Err(reason)) => {
                    self.wait(name, WaitingCause::VolumeAt { volume, node, reason });
                }
                None => {
                    let state = VolumeState::Lost;
                    let instance = name.clone();
                    self.wait(name, WaitingCause::Volume { instance, volume, node, state });
                }
            },
        }
        true
    }

    /// Whether an instance cannot leave its node, because it has volumes there or belongs to it.
    pub(super) fn is_pinned(&self, instance: &Instance) -> bool {
        let Some(node) = &instance.node else { return false };
        if self.is_bound(instance) {
            return true;
        }
        let declared: BTreeSet<&VolumeName> =
            instance.templates().flat_map(Template::volumes).collect();
        self.tables.volumes_of(&instance.name).any(|volume| {
            volume.key.node == *node
                && matches!(volume.state, VolumeState::Kept | VolumeState::Lost)
                && volume.concerns(&declared)
        })
    }

    /// Refuses a declaration under which a placed instance would mount a volume that is elsewhere.
    pub(super) fn check_volumes(
        &self,
        instance: &Instance,
        declared: &Template,
    ) -> Result<(), Refusal> {
        let Some(node) = &instance.node else { return Ok(()) };
        for volume in declared.volumes() {
            let mut records = self.tables.volumes_of(&instance.name);
            let elsewhere = records.find(|record| {
                record.key.name == *volume
                    && record.key.node != *node
                    && record.state != VolumeState::Stale
            });
            let here = VolumeKey {
                instance: instance.name.clone(),
                name: volume.clone(),
                node: node.clone(),
            };
            let is_here = self.tables.volumes().get(&here).is_some();
            if let Some(elsewhere) = elsewhere.filter(|_| !is_here) {
                return Err(Refusal::VolumeElsewhere {
                    volume: elsewhere.key.clone(),
                    node: node.clone(),
                });
            }
        }
        Ok(())
    }

    /// Sees to it that there is a record of every volume that an instance has where it is assigned.
    pub(super) fn keep_volumes(&mut self, instance: &Instance) {
        let Some(node) = instance.assigned_to() else { return };
        let names: BTreeSet<VolumeName> =
            instance.templates().flat_map(Template::volumes).cloned().collect();
        for name in names {
            let key = VolumeKey { instance: instance.name.clone(), name, node: node.clone() };
            self.keep_volume(key);
        }
    }

    fn keep_volume(&mut self, key: VolumeKey) {
        let here = self.tables.volumes().get(&key).cloned();
        let is_known =
            |volume: &Arc<Volume>| matches!(volume.state, VolumeState::Kept | VolumeState::Lost);
        if here.as_ref().is_some_and(is_known) {
            return;
        }
        // Placing and declaring see to it that there is no other; if there is, it is not deleted.
        self.supersede(&key);
        let state = VolumeState::Kept;
        match here {
            Some(here) => self.put_volume(Volume { state, ..Volume::clone(&here) }),
            None => self.put_volume(Volume {
                key,
                state,
                image_path: None,
                seen: false,
                created_at: self.now,
                revision: Revision(0),
            }),
        }
    }

    /// What other nodes have of a volume is out of date.
    pub(super) fn supersede(&mut self, key: &VolumeKey) {
        let others: Vec<Arc<Volume>> = self
            .tables
            .volumes_of(&key.instance)
            .filter(|other| other.key.name == key.name && other.key.node != key.node)
            .filter(|other| match other.state {
                VolumeState::Kept => true,
                VolumeState::Lost => self.is_member(&other.key.node),
                VolumeState::Stale | VolumeState::Copy | VolumeState::Deleting { .. } => false,
            })
            .cloned()
            .collect();
        for other in others {
            match other.state {
                VolumeState::Kept => {
                    self.put_volume(Volume { state: VolumeState::Stale, ..Volume::clone(&other) });
                }
                // There is nothing of it.
                _ => self.delete(Key::Volume(other.key.clone())),
            }
        }
    }

    /// Brings records up to what instances are placed: a store of an earlier version has no volumes.
    pub(super) fn derive_volumes(&mut self) {
        if std::mem::replace(&mut self.volumes_derived, true) {
            return;
        }
        let instances: Vec<Arc<Instance>> = self.tables.instances().values().cloned().collect();
        for instance in instances {
            // Also of one on its way off the node: its data is still there.
            self.keep_volumes(&Instance { leaving: None, ..Instance::clone(&instance) });
        }
    }

    /// Takes in which volumes a node has. `revision` is the assignment that is on the node's disk.
    pub(super) fn note_volumes(
        &mut self,
        node: &NodeName,
        seen: Vec<SeenVolume>,
        revision: Revision,
        now: Timestamp,
    ) {
        if !self.is_member(node) {
            return;
        }
        let (mut there, mut volumes) = (BTreeSet::new(), BTreeSet::new());
        for SeenVolume { instance, name, image_path, is_copy } in seen {
            let key = VolumeKey { instance, name, node: node.clone() };
            there.insert(key.clone());
            match is_copy {
                true => self.note_copy(&key, image_path),
                false => {
                    volumes.insert(key.clone());
                    self.note_volume(key, image_path, now);
                }
            }
        }
        let gone: Vec<Arc<Volume>> = self
            .tables
            .volumes_on(node)
            .filter(|volume| !there.contains(&volume.key))
            .filter(|volume| {
                matches!(volume.state, VolumeState::Deleting { since } if since <= revision)
            })
            .cloned()
            .collect();
        for volume in gone {
            self.forget_volume(&volume, "is deleted", now);
        }
        self.note_missing(node, &there, now);
        if self.is_unconfirmed() {
            self.volumes_told.insert(node.clone(), volumes);
        }
    }

    /// What a node had and does not have any more is lost: its instance waits, rather than begin with nothing.
    fn note_missing(&mut self, node: &NodeName, there: &BTreeSet<VolumeKey>, now: Timestamp) {
        let missing: Vec<Arc<Volume>> = self
            .tables
            .volumes_on(node)
            .filter(|volume| volume.state == VolumeState::Kept && volume.seen)
            .filter(|volume| !there.contains(&volume.key))
            .cloned()
            .collect();
        for volume in missing {
            self.put_volume(Volume { state: VolumeState::Lost, ..Volume::clone(&volume) });
            let VolumeKey { instance, name, .. } = &volume.key;
            let message = format!(
                "its volume {name} is not on {node} any more, although nobody had it deleted; it gets no empty one in its \
                 place: bring it back, or give the data up with `dwell volume rm {instance} {name} --node {node}`"
            );
            let subject = Subject::Instance(instance.clone());
            self.event(now, Severity::Warning, subject, "volume-missing", message);
        }
    }

    /// A copy is on a node. One that nobody knows of is of a move that was forgotten.
    fn note_copy(&mut self, key: &VolumeKey, image_path: Option<String>) {
        let known = self.tables.volumes().get(key).cloned();
        match known.as_deref().map(|known| known.state) {
            Some(VolumeState::Copy | VolumeState::Deleting { .. }) => {}
            // It is none that could be mounted, so none of which somebody has to say which is the newest.
            Some(VolumeState::Stale) if self.is_unconfirmed() => {
                self.delete(Key::Volume(key.clone()));
            }
            _ if self.is_unconfirmed() || self.is_taken_over(key) => {}
            // What is known there is a volume, and what deletes a copy deletes that as well: what is left of the copy goes with it.
            _ if known.as_deref().is_some_and(Volume::may_have_data) => {}
            _ => {
                if known.is_none() {
                    self.put_copy(key.clone(), image_path);
                }
                if let Some(copy) = self.tables.volumes().get(key).cloned() {
                    self.order_deletion(&copy);
                }
            }
        }
    }

    /// Another history begins: what was to be deleted may be the newest there is by now. Whoever wants it deleted says so again.
    pub(super) fn forget_deletions(&mut self) {
        let is_order = |volume: &&Arc<Volume>| matches!(volume.state, VolumeState::Deleting { .. });
        let orders: Vec<Arc<Volume>> =
            self.tables.volumes().values().filter(is_order).cloned().collect();
        for order in orders {
            self.put_volume(Volume { state: VolumeState::Stale, ..Volume::clone(&order) });
        }
    }

    /// A node is to get a copy of a volume.
    pub(super) fn put_copy(&mut self, key: VolumeKey, image_path: Option<String>) {
        self.put_volume(Volume {
            key,
            state: VolumeState::Copy,
            image_path,
            seen: false,
            created_at: self.now,
            revision: Revision(0),
        });
    }

    /// Has a node delete what it has of a volume.
    pub(super) fn order_deletion(&mut self, volume: &Volume) {
        if matches!(volume.state, VolumeState::Deleting { .. }) {
            return;
        }
        self.put_with(|since| {
            let state = VolumeState::Deleting { since };
            Record::Volume(Arc::new(Volume { state, revision: since, ..volume.clone() }))
        });
    }

    fn note_volume(&mut self, key: VolumeKey, image_path: Option<String>, now: Timestamp) {
        let known = self.tables.volumes().get(&key).cloned();
        let replaced = self.tables.volumes_of(&key.instance).any(|other| {
            other.key.name == key.name
                && other.key.node != key.node
                && other.state == VolumeState::Kept
        });
        let instance = self.tables.instances().get(&key.instance);
        let is_assigned = instance.is_some_and(|one| one.assigned_to() == Some(&key.node));
        // A restored controller knows less of who has the newest one than whoever was told to run the instance.
        let is_claimed = self.is_unconfirmed() && self.claims_of(&key.node, &key.instance);
        let is_home = is_assigned || is_claimed;
        let free = if replaced && !is_home { VolumeState::Stale } else { VolumeState::Kept };
        let state = match known.as_ref().map(|known| known.state) {
            None | Some(VolumeState::Lost) => free,
            Some(VolumeState::Stale) if is_claimed => free,
            Some(state) => state,
        };
        if known.as_ref().is_some_and(|known| known.state == state && known.seen) {
            return;
        }
        if known.as_ref().is_none_or(|known| known.state != state) && image_path.is_none() {
            let message = match state {
                VolumeState::Stale => format!(
                    "volume {} was found on {}, but another one has taken its place",
                    key.name, key.node
                ),
                _ => format!("volume {} was found on {}", key.name, key.node),
            };
            let subject = Subject::Instance(key.instance.clone());
            self.event(now, Severity::Info, subject, "volume-found", message);
        }
        let created_at = known.as_ref().map_or(now, |known| known.created_at);
        let image_path = known.and_then(|known| known.image_path.clone()).or(image_path);
        if state == VolumeState::Kept {
            self.supersede(&key);
        }
        let (revision, instance) = (Revision(0), key.instance.clone());
        self.put_volume(Volume { key, state, image_path, seen: true, created_at, revision });
        self.follow_volumes(&instance, now);
    }

    /// Deletes a volume: at once if its node is lost, else when its node has done it.
    pub(super) fn remove_volume(
        &mut self,
        instance: &InstanceName,
        name: &VolumeName,
        node: Option<&NodeName>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let mut found = self
            .tables
            .volumes_of(instance)
            .filter(|volume| volume.key.name == *name)
            .filter(|volume| node.is_none_or(|node| volume.key.node == *node))
            .cloned();
        let (first, second) = (found.next(), found.next());
        drop(found);
        let volume = match (first, second) {
            (Some(volume), None) => volume,
            (Some(one), Some(other)) => {
                return Err(Refusal::VolumeAmbiguous {
                    one: one.key.clone(),
                    other: other.key.node.clone(),
                });
            }
            (None, _) => {
                return Err(Refusal::NoVolume { instance: instance.clone(), name: name.clone() });
            }
        };
        if self.is_in_use(&volume) {
            return Err(Refusal::VolumeInUse(volume.key.clone()));
        }
        match volume.state {
            VolumeState::Deleting { .. } => {}
            VolumeState::Lost => {
                self.give_up_move_of(instance, now);
                self.forget_volume(&volume, "is given up", now);
                // It goes where an older one is, or begins with nothing where it is.
                self.follow_volumes(instance, now);
                if let Some(instance) = self.tables.instances().get(instance).cloned() {
                    self.keep_volumes(&instance);
                }
            }
            VolumeState::Kept | VolumeState::Stale | VolumeState::Copy => {
                self.order_deletion(&volume);
            }
        }
        Ok(())
    }

    /// A node is taken out of the cluster without its data.
    pub(super) fn lose_volumes(&mut self, node: &NodeName, now: Timestamp) {
        let there: Vec<Arc<Volume>> = self.tables.volumes_on(node).cloned().collect();
        for volume in there {
            if volume.state == VolumeState::Lost {
                continue;
            }
            if volume.state != VolumeState::Kept && !self.is_in_doubt(&volume.key) {
                self.forget_volume(&volume, "went with its node", now);
                continue;
            }
            self.put_volume(Volume { state: VolumeState::Lost, ..Volume::clone(&volume) });
            let VolumeKey { instance, name, .. } = &volume.key;
            let message = format!(
                "its volume {name} was on {node}, which was removed by force; it does not start without it: join {node} \
                 again with its data, or give the data up with `dwell volume rm {instance} {name}`"
            );
            let subject = Subject::Instance(instance.clone());
            self.event(now, Severity::Warning, subject, "volume-lost", message);
        }
    }

    /// A volume that keeps a node from being removed without force.
    pub(super) fn example_volume(&self, node: &NodeName) -> Option<(VolumeKey, usize)> {
        let example = self.tables.volumes_on(node).next()?;
        Some((example.key.clone(), self.tables.volumes_on(node).count()))
    }

    fn forget_volume(&mut self, volume: &Volume, what: &str, now: Timestamp) {
        self.delete(Key::Volume(volume.key.clone()));
        let message = format!("volume {} of {} {what}", volume.key.name, volume.key.node);
        let subject = Subject::Instance(volume.key.instance.clone());
        self.event(now, Severity::Info, subject, "volume-removed", message);
        // What is left is all there is.
        let left: Vec<Arc<Volume>> = self.everywhere(&volume.key).cloned().collect();
        if let [one] = &left[..]
            && one.state == VolumeState::Stale
        {
            self.put_volume(Volume { state: VolumeState::Kept, ..Volume::clone(one) });
        }
    }

    pub(super) fn put_volume(&mut self, volume: Volume) {
        self.put_with(|revision| Record::Volume(Arc::new(Volume { revision, ..volume })));
    }

    fn is_in_use(&self, volume: &Volume) -> bool {
        let Some(instance) = self.tables.instances().get(&volume.key.instance) else {
            return false;
        };
        if volume.state == VolumeState::Lost {
            return false;
        }
        if instance.volume_move.is_some() && !matches!(volume.state, VolumeState::Deleting { .. }) {
            // It may have to come back to it.
            return true;
        }
        let declared: BTreeSet<&VolumeName> =
            instance.templates().flat_map(Template::volumes).collect();
        instance.node.as_ref() == Some(&volume.key.node)
            && volume.state == VolumeState::Kept
            && volume.concerns(&declared)
    }

    /// The volumes that a node is to delete.
    #[must_use]
    pub fn volumes_to_delete(&self, node: &NodeName) -> Vec<(InstanceName, VolumeName)> {
        let there = self.tables.volumes_on(node);
        let deleting = |volume: &&Arc<Volume>| matches!(volume.state, VolumeState::Deleting { .. });
        there
            .filter(deleting)
            .map(|volume| (volume.key.instance.clone(), volume.key.name.clone()))
            .collect()
    }

    /// All volumes, by instance, name and node; only those of an instance or a node, if one is given.
    #[must_use]
    pub fn volumes(
        &self,
        instance: Option<&InstanceName>,
        node: Option<&NodeName>,
    ) -> Vec<VolumeView> {
        self.volumes_page((instance, node), None, usize::MAX).items
    }

    pub(super) fn view_volume(&self, volume: &Arc<Volume>) -> VolumeView {
        let VolumeKey { instance, name, node } = &volume.key;
        let in_use = self.is_in_use(volume);
        let message = match volume.state {
            VolumeState::Copy => format!("a copy; it becomes the volume when {instance} has moved"),
            VolumeState::Stale if in_use => {
                format!("kept until {instance} holds where it has moved to")
            }
            VolumeState::Kept if in_use => String::new(),
            VolumeState::Kept if self.tables.instances().contains_key(instance) => {
                format!("{instance} does not mount it now")
            }
            VolumeState::Kept => format!("there is no {instance} now; it comes back to this data"),
            VolumeState::Lost if self.is_member(node) => format!(
                "{node} had it and does not have it any more; bring it back, or give the data up with `dwell volume rm \
                 {instance} {name} --node {node}`"
            ),
            VolumeState::Stale if self.is_in_doubt(&volume.key) => format!(
                "more than one node has it, and which has the newest is not known; look at them, and delete the others with \
                 `dwell volume rm {instance} {name} --node NODE`"
            ),
            VolumeState::Lost => format!(
                "{node} was removed by force; join it again with its data, or give the data up with `dwell volume rm \
                 {instance} {name}`"
            ),
            VolumeState::Stale => {
                "an older copy: another node has the data that is in use".to_owned()
            }
            VolumeState::Deleting { .. } => format!("waits for {node} to delete it"),
        };
        VolumeView { volume: Arc::clone(volume), in_use, message }
    }
}

/// Why an instance does not go where its volume is, in the words of the scheduler's refusal of that node.
pub(super) fn why_not_there(node: &NodeName, reason: &Reason) -> String {
    let refusal = reason.refusals.iter().find(|(refused, _)| refused == node);
    refusal.map_or_else(|| reason.to_string(), |(_, misfit)| misfit.to_string())
}
