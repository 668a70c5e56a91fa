//! The indexes over the objects: each is a function of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, WorkloadName};
use dwell_core::instance::RunState;
use dwell_core::job::TaskOutcome;
use dwell_core::net::ClusterRange;
use dwell_core::workload::Resources;
use ipnet::Ipv4Net;

use crate::model::jobs::Tally;
use crate::model::object::{
    Demand, Instance, Node, Quarantine, UpdateState, Waiting, WaitingCause, Workload,
};
use crate::model::reboots::is_rebooting;
use crate::model::volumes::VolumeKey;

/// What is on a node, or promised to come there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::model) struct Occupancy {
    /// Instances that are, or may be, there.
    pub(in crate::model) instances: BTreeSet<InstanceName>,
    /// Instances on their way there.
    pub(in crate::model) arriving: BTreeSet<InstanceName>,
    /// What all of them were promised.
    pub(in crate::model) promised: Resources,
}

/// The indexes. Entries without content are removed, so that equal objects make equal indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct Index {
    pub(in crate::model) range: ClusterRange,
    /// Whose an address is.
    pub(in crate::model) holders: BTreeMap<Ipv4Addr, InstanceName>,
    /// How many addresses of a block are held or in quarantine.
    pub(in crate::model) block_load: BTreeMap<Ipv4Net, u32>,
    /// Whose a block is.
    pub(in crate::model) blocks: BTreeMap<Ipv4Net, NodeName>,
    /// What is on each node.
    pub(in crate::model) occupancy: BTreeMap<NodeName, Occupancy>,
    /// The ordinals of the instances of a workload that are not being removed.
    pub(in crate::model) living: BTreeMap<WorkloadName, BTreeSet<u32>>,
    /// The ordinals of the instances of a workload that were let go: no other instance is given their names.
    pub(in crate::model) let_go: BTreeMap<WorkloadName, BTreeSet<u32>>,
    /// Instances without a node that are not known to fit nowhere.
    pub(in crate::model) open: BTreeSet<InstanceName>,
    /// Instances that wait for a node that fits, with a node or without.
    pub(in crate::model) blocked: BTreeMap<Demand, BTreeSet<InstanceName>>,
    /// Instances that wait until others of their job have ended.
    pub(in crate::model) turns: BTreeMap<WorkloadName, BTreeSet<InstanceName>>,
    /// Workloads with one instance on every node.
    pub(in crate::model) per_node: BTreeSet<WorkloadName>,
    /// How the instances of each workload are.
    pub(in crate::model) tallies: BTreeMap<WorkloadName, Tally>,
    /// How many instances of a workload are on each node, or on their way there.
    pub(in crate::model) copies: BTreeMap<WorkloadName, BTreeMap<NodeName, u32>>,
    /// Instances that the rollout has to look at, without those that are known to fit nowhere.
    pub(in crate::model) due: BTreeMap<WorkloadName, BTreeSet<InstanceName>>,
    /// Instances that are being changed.
    pub(in crate::model) updating: BTreeMap<WorkloadName, BTreeSet<InstanceName>>,
    /// Instances that drains moved and that have not held since.
    pub(in crate::model) evacuated: BTreeMap<WorkloadName, BTreeSet<InstanceName>>,
    /// Instances that go to another node once it has their image.
    pub(in crate::model) headings: BTreeMap<WorkloadName, BTreeSet<InstanceName>>,
    /// Instances that move with their volumes.
    pub(in crate::model) moving: BTreeSet<InstanceName>,
    /// Nodes that are drained.
    pub(in crate::model) draining: BTreeSet<NodeName>,
    /// Nodes with an open part in a reboot.
    pub(in crate::model) rebooting: BTreeSet<NodeName>,
    /// Instances that are not known to hold with the newest version of their workload, but should.
    pub(in crate::model) unproven: BTreeMap<WorkloadName, BTreeSet<InstanceName>>,
    /// Where instances outside their address's block are.
    pub(in crate::model) exceptions: BTreeMap<Ipv4Addr, NodeName>,
    /// The volumes of each instance, whether or not it is there.
    pub(super) volumes_of: BTreeMap<InstanceName, BTreeSet<VolumeKey>>,
    /// The volumes of each node.
    pub(super) volumes_on: BTreeMap<NodeName, BTreeSet<VolumeKey>>,
    /// Addresses that are in use on a node, by an instance that the ledger does not have there with that address.
    pub(in crate::model) in_use: BTreeMap<(NodeName, InstanceName), BTreeSet<Ipv4Addr>>,
    /// Quarantined addresses by the end of their quarantine.
    pub(in crate::model) expiry: BTreeSet<(Timestamp, Ipv4Addr)>,
}

impl Index {
    /// A workload is there, or not.
    pub(super) fn workload(&mut self, name: &WorkloadName, new: Option<&Workload>) {
        if new.is_some_and(|new| new.spec.placement.one_per_node) {
            self.per_node.insert(name.clone());
        } else {
            self.per_node.remove(name);
        }
    }

    /// An instance was `old` and is `new`.
    pub(super) fn instance(&mut self, old: Option<&Instance>, new: Option<&Instance>) {
        if let Some(old) = old {
            self.forget(old);
        }
        if let Some(new) = new {
            self.remember(new);
        }
    }

    pub(super) fn remember(&mut self, instance: &Instance) {
        let name = &instance.name;
        if let Some(identity) = instance.identity {
            self.holders.insert(identity.address, name.clone());
            self.load(identity.address, true);
        }
        if let Some(node) = &instance.node {
            let occupancy = self.occupancy.entry(node.clone()).or_default();
            occupancy.instances.insert(name.clone());
            occupancy.promise(instance.promised());
            if let Some((address, node)) = self.exception(instance) {
                self.exceptions.insert(address, node.clone());
            }
        }
        self.tally(instance, true);
        if let Some(place) = place_of_copy(instance) {
            let copies = self.copies.entry(name.workload().clone()).or_default();
            *copies.entry(place.clone()).or_default() += 1;
        }
        if instance.heading.is_some() {
            self.headings.entry(name.workload().clone()).or_default().insert(name.clone());
        }
        if instance.volume_move.is_some() {
            self.moving.insert(name.clone());
        }
        if let Some(to) = instance.arrives_on() {
            let occupancy = self.occupancy.entry(to.clone()).or_default();
            occupancy.arriving.insert(name.clone());
            occupancy.promise(instance.share_there());
        }
        if instance.is_let_go() {
            self.let_go.entry(name.workload().clone()).or_default().insert(name.ordinal());
        }
        if !instance.removing {
            self.living.entry(name.workload().clone()).or_default().insert(name.ordinal());
        }
        if is_unproven(instance) {
            self.unproven.entry(name.workload().clone()).or_default().insert(name.clone());
        }
        if instance.update == UpdateState::Updating {
            self.updating.entry(name.workload().clone()).or_default().insert(name.clone());
        }
        if instance.evacuated.is_some() {
            self.evacuated.entry(name.workload().clone()).or_default().insert(name.clone());
        }
    }

    pub(super) fn forget(&mut self, instance: &Instance) {
        let name = &instance.name;
        if let Some(identity) = instance.identity {
            self.holders.remove(&identity.address);
            self.load(identity.address, false);
            self.exceptions.remove(&identity.address);
        }
        self.tally(instance, false);
        if let Some(place) = place_of_copy(instance)
            && let Some(copies) = self.copies.get_mut(name.workload())
            && let Some(count) = copies.get_mut(place)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                copies.remove(place);
            }
            if copies.is_empty() {
                self.copies.remove(name.workload());
            }
        }
        let places = [
            (instance.node.as_ref(), instance.promised()),
            (instance.arrives_on(), instance.share_there()),
        ];
        for (node, promised) in places {
            if let Some(node) = node
                && let Some(occupancy) = self.occupancy.get_mut(node)
            {
                occupancy.instances.remove(name);
                occupancy.arriving.remove(name);
                occupancy.release(promised);
                if occupancy.instances.is_empty() && occupancy.arriving.is_empty() {
                    self.occupancy.remove(node);
                }
            }
        }
        self.moving.remove(name);
        remove_from(&mut self.headings, name.workload(), name);
        remove_from(&mut self.living, name.workload(), &name.ordinal());
        remove_from(&mut self.let_go, name.workload(), &name.ordinal());
        remove_from(&mut self.updating, name.workload(), name);
        remove_from(&mut self.evacuated, name.workload(), name);
        remove_from(&mut self.unproven, name.workload(), name);
    }

    /// An instance waited for `old` and waits for `new`.
    pub(super) fn waiting(&mut self, old: Option<&Waiting>, new: Option<&Waiting>) {
        if let Some((waiting, demand)) = old.and_then(|old| Some((old, old.demand()?))) {
            remove_from(&mut self.blocked, demand, &waiting.instance);
        }
        if let Some(old) = old.filter(|old| waits_for_turn(old)) {
            remove_from(&mut self.turns, old.instance.workload(), &old.instance);
        }
        if let Some(new) = new.filter(|new| waits_for_turn(new)) {
            let turns = self.turns.entry(new.instance.workload().clone()).or_default();
            turns.insert(new.instance.clone());
        }
        if let Some((waiting, demand)) = new.and_then(|new| Some((new, new.demand()?))) {
            self.blocked.entry(demand.clone()).or_default().insert(waiting.instance.clone());
        }
    }

    /// Lists an instance that may get a place or a turn.
    pub(super) fn list(&mut self, name: &InstanceName, instance: Option<&Instance>) {
        if instance.is_some_and(|instance| instance.node.is_none() && !instance.rests()) {
            self.open.insert(name.clone());
        } else {
            self.open.remove(name);
        }
        let due = |instance: &Instance| instance.update == UpdateState::Due;
        if instance.is_some_and(due) {
            self.due.entry(name.workload().clone()).or_default().insert(name.clone());
        } else {
            remove_from(&mut self.due, name.workload(), name);
        }
    }

    fn tally(&mut self, instance: &Instance, more: bool) {
        let workload = instance.name.workload();
        let tally = self.tallies.entry(workload.clone()).or_default();
        tally.count(instance, more);
        if tally.is_empty() {
            self.tallies.remove(workload);
        }
    }

    /// The address and place of an instance that lives outside of its node's blocks.
    pub(in crate::model) fn exception<'a>(
        &self,
        instance: &'a Instance,
    ) -> Option<(Ipv4Addr, &'a NodeName)> {
        let (identity, node) = (instance.identity?, instance.node.as_ref()?);
        let block = self.range.block_of(identity.address)?;
        (self.blocks.get(&block) != Some(node)).then_some((identity.address, node))
    }

    pub(super) fn node(&mut self, old: Option<&Node>, new: Option<&Node>) {
        for block in old.into_iter().flat_map(Node::blocks) {
            self.blocks.remove(&block);
        }
        if let Some(old) = old {
            self.draining.remove(&old.name);
            self.rebooting.remove(&old.name);
        }
        if let Some(new) = new.filter(|new| is_rebooting(new)) {
            self.rebooting.insert(new.name.clone());
        }
        if let Some(new) = new.filter(|new| new.draining) {
            self.draining.insert(new.name.clone());
        }
        if let Some(new) = new {
            self.blocks.extend(new.blocks().map(|block| (block, new.name.clone())));
        }
    }

    /// The instances with an address of a block.
    pub(in crate::model) fn holders_in(
        &self,
        block: Ipv4Net,
    ) -> impl Iterator<Item = &InstanceName> + use<'_> {
        self.holders.range(block.network()..=block.broadcast()).map(|(_, holder)| holder)
    }

    /// The blocks around an instance's address are another node's now, or nobody's.
    pub(super) fn look_again(&mut self, instance: &Instance) {
        if let Some(identity) = instance.identity {
            self.exceptions.remove(&identity.address);
        }
        if let Some((address, node)) = self.exception(instance) {
            self.exceptions.insert(address, node.clone());
        }
    }

    pub(super) fn quarantine(&mut self, old: Option<&Quarantine>, new: Option<&Quarantine>) {
        if let Some(old) = old {
            self.expiry.remove(&(old.until, old.address));
            if let Some(node) = &old.in_use_on {
                remove_from(&mut self.in_use, &(node.clone(), old.owner.clone()), &old.address);
            }
            self.load(old.address, false);
        }
        if let Some(new) = new {
            match &new.in_use_on {
                Some(node) => {
                    let of = (node.clone(), new.owner.clone());
                    self.in_use.entry(of).or_default().insert(new.address);
                }
                None => drop(self.expiry.insert((new.until, new.address))),
            }
            self.load(new.address, true);
        }
    }

    pub(super) fn remember_volume(&mut self, key: &VolumeKey) {
        self.volumes_of.entry(key.instance.clone()).or_default().insert(key.clone());
        self.volumes_on.entry(key.node.clone()).or_default().insert(key.clone());
    }

    pub(super) fn forget_volume(&mut self, key: &VolumeKey) {
        remove_from(&mut self.volumes_of, &key.instance, key);
        remove_from(&mut self.volumes_on, &key.node, key);
    }

    pub(super) fn load(&mut self, address: Ipv4Addr, more: bool) {
        let Some(block) = self.range.block_of(address) else { return };
        let load = self.block_load.entry(block).or_default();
        *load = if more { load.saturating_add(1) } else { load.saturating_sub(1) };
        if *load == 0 {
            self.block_load.remove(&block);
        }
    }
}

impl Occupancy {
    pub(super) fn promise(&mut self, resources: Resources) {
        self.promised = self.promised.plus(resources);
    }

    pub(super) fn release(&mut self, resources: Resources) {
        self.promised = self.promised.minus(resources);
    }
}

/// Takes one of a set away, and the set if it was the last.
fn remove_from<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, of: &K, value: &V) {
    if let Some(set) = sets.get_mut(of) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(of);
        }
    }
}

/// Whether an instance stands against its workload's newest version being good: it has one to come, or runs and has
/// not held yet.
fn is_unproven(instance: &Instance) -> bool {
    let is_tried = instance.node.is_some() && instance.run == RunState::Running;
    let has_completed =
        instance.ended().is_some_and(|ended| ended.outcome == TaskOutcome::Completed);
    // What has failed for good is not waited for.
    let has_failed = instance.failed_with(instance.wanted.number).is_some();
    let is_tried = is_tried && !has_failed;
    !instance.removing
        && !has_completed
        && (instance.update != UpdateState::Current || (is_tried && !instance.holds()))
}

/// Where an instance is, or goes, that others of its workload are kept apart from.
fn place_of_copy(instance: &Instance) -> Option<&NodeName> {
    let leads_to = instance.leaving.as_ref().and_then(|leaving| leaving.to.as_ref());
    let place = leads_to.or(instance.node.as_ref());
    place.filter(|_| !instance.rests())
}

/// Whether an instance waits until others of its job have ended.
pub(super) fn waits_for_turn(waiting: &Waiting) -> bool {
    matches!(waiting.cause, WaitingCause::Turn { .. })
}
