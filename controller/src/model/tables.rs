//! Where the objects are kept, and the indexes over them.
//!
//! Invariant: objects change only in [`Tables::put`] and [`Tables::delete`], which keep the indexes in
//! step; commands, reverting and restoring all go through these two. What an index says is a function
//! of the objects, so putting the old objects back puts the indexes back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{
    InstanceName, KeySetName, NodeName, ORDINAL_MAX, Revision, VersionNumber, WorkloadName,
};
use dwell_core::instance::RunState;
use dwell_core::net::ClusterRange;
use dwell_core::registry::RegistryHost;
use dwell_core::workload::Resources;
use ipnet::Ipv4Net;

use super::object::{
    Demand, Event, History, Instance, JoinToken, KeySet, Link, Node, Observed, Quarantine,
    Registry, Reserved, Stored, TokenId, Unmet, UpdateState, Waiting, Workload,
};
use super::record::{Key, Record};
use super::versions::Version;
use super::volumes::{Volume, VolumeKey};

/// All objects, and the indexes over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tables {
    workloads: BTreeMap<WorkloadName, Arc<Workload>>,
    versions: BTreeMap<WorkloadName, BTreeMap<VersionNumber, Arc<Version>>>,
    instances: BTreeMap<InstanceName, Arc<Instance>>,
    nodes: BTreeMap<NodeName, Arc<Node>>,
    tokens: BTreeMap<TokenId, Arc<JoinToken>>,
    key_sets: BTreeMap<KeySetName, Arc<KeySet>>,
    registries: BTreeMap<RegistryHost, Arc<Registry>>,
    events: BTreeMap<Revision, Arc<Event>>,
    /// The events of each kind, so that none pushes out those of others.
    event_kinds: BTreeMap<String, BTreeSet<Revision>>,
    volumes: BTreeMap<VolumeKey, Arc<Volume>>,
    quarantine: BTreeMap<Ipv4Addr, Arc<Quarantine>>,
    reserved: Revision,
    history: Option<Arc<History>>,
    stored: Revision,
    links: BTreeMap<NodeName, Arc<Link>>,
    observed: BTreeMap<InstanceName, Arc<Observed>>,
    waiting: BTreeMap<InstanceName, Arc<Waiting>>,
    unmet: BTreeMap<Demand, Arc<Unmet>>,
    index: Index,
}

/// What an event is counted as. A session over SSH has several, which come together.
fn event_kind(reason: &str) -> &str {
    if reason.starts_with("ssh-") { "ssh" } else { reason }
}

/// What is on a node, or promised to come there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Occupancy {
    /// Instances that are, or may be, there.
    pub(super) instances: BTreeSet<InstanceName>,
    /// Instances on their way there.
    pub(super) arriving: BTreeSet<InstanceName>,
    /// What all of them were promised.
    pub(super) promised: Resources,
}

/// The indexes. Entries without content are removed, so that equal objects make equal indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) range: ClusterRange,
    /// Whose an address is.
    pub(super) holders: BTreeMap<Ipv4Addr, InstanceName>,
    /// How many addresses of a block are held or in quarantine.
    pub(super) block_load: BTreeMap<Ipv4Net, u32>,
    /// Whose a block is.
    pub(super) blocks: BTreeMap<Ipv4Net, NodeName>,
    /// What is on each node.
    pub(super) occupancy: BTreeMap<NodeName, Occupancy>,
    /// Instances without a node that are not known to fit nowhere.
    pub(super) open: BTreeSet<InstanceName>,
    /// Instances that wait for a node that fits, with a node or without.
    pub(super) blocked: BTreeMap<Demand, BTreeSet<InstanceName>>,
    /// How many instances of a workload are on each node, or on their way there.
    pub(super) copies: BTreeMap<WorkloadName, BTreeMap<NodeName, u32>>,
    /// Instances that the rollout has to look at, without those that are known to fit nowhere.
    pub(super) due: BTreeMap<WorkloadName, BTreeSet<InstanceName>>,
    /// Instances that are being changed.
    pub(super) updating: BTreeMap<WorkloadName, BTreeSet<InstanceName>>,
    /// Instances that are not known to hold with the newest version of their workload, but should.
    pub(super) unproven: BTreeMap<WorkloadName, BTreeSet<InstanceName>>,
    /// Where instances outside their address's block are.
    pub(super) exceptions: BTreeMap<Ipv4Addr, NodeName>,
    /// The volumes of each instance, whether or not it is there.
    volumes_of: BTreeMap<InstanceName, BTreeSet<VolumeKey>>,
    /// The volumes of each node.
    volumes_on: BTreeMap<NodeName, BTreeSet<VolumeKey>>,
    /// Quarantined addresses by the end of their quarantine.
    pub(super) expiry: BTreeSet<(Timestamp, Ipv4Addr)>,
}

impl Tables {
    pub(super) fn new(range: ClusterRange) -> Self {
        Self {
            workloads: BTreeMap::new(),
            versions: BTreeMap::new(),
            instances: BTreeMap::new(),
            nodes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            key_sets: BTreeMap::new(),
            registries: BTreeMap::new(),
            events: BTreeMap::new(),
            event_kinds: BTreeMap::new(),
            volumes: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            reserved: Revision(0),
            history: None,
            stored: Revision(0),
            links: BTreeMap::new(),
            observed: BTreeMap::new(),
            waiting: BTreeMap::new(),
            unmet: BTreeMap::new(),
            index: Index {
                range,
                holders: BTreeMap::new(),
                block_load: BTreeMap::new(),
                blocks: BTreeMap::new(),
                occupancy: BTreeMap::new(),
                open: BTreeSet::new(),
                blocked: BTreeMap::new(),
                copies: BTreeMap::new(),
                due: BTreeMap::new(),
                updating: BTreeMap::new(),
                unproven: BTreeMap::new(),
                exceptions: BTreeMap::new(),
                volumes_of: BTreeMap::new(),
                volumes_on: BTreeMap::new(),
                expiry: BTreeSet::new(),
            },
        }
    }

    /// Makes or replaces an object, and returns what it was.
    pub(super) fn put(&mut self, record: Record) -> Option<Record> {
        match record {
            Record::Workload(new) => {
                self.workloads.insert(new.spec.name.clone(), new).map(Record::Workload)
            }
            Record::Version(new) => {
                let versions = self.versions.entry(new.workload.clone()).or_default();
                versions.insert(new.form.number, new).map(Record::Version)
            }
            Record::Instance(new) => {
                let old = self.instances.insert(new.name.clone(), Arc::clone(&new));
                self.index.instance(old.as_deref(), Some(&new));
                self.list_anew(&new.name);
                old.map(Record::Instance)
            }
            Record::Node(new) => {
                let old = self.nodes.insert(new.name.clone(), Arc::clone(&new));
                self.index.node(old.as_deref(), Some(&new));
                old.map(Record::Node)
            }
            Record::Token(new) => self.tokens.insert(new.id.clone(), new).map(Record::Token),
            Record::KeySet(new) => self.key_sets.insert(new.name.clone(), new).map(Record::KeySet),
            Record::Registry(new) => {
                self.registries.insert(new.host.clone(), new).map(Record::Registry)
            }
            Record::Event(new) => {
                let kind = event_kind(&new.reason).to_owned();
                self.event_kinds.entry(kind).or_default().insert(new.revision);
                self.events.insert(new.revision, new).map(Record::Event)
            }
            Record::Volume(new) => {
                self.index.remember_volume(&new.key);
                self.volumes.insert(new.key.clone(), new).map(Record::Volume)
            }
            Record::Quarantine(new) => {
                let old = self.quarantine.insert(new.address, Arc::clone(&new));
                self.index.quarantine(old.as_deref(), Some(&new));
                old.map(Record::Quarantine)
            }
            Record::Reserved(new) => {
                let old = std::mem::replace(&mut self.reserved, new.revision);
                (old != Revision(0)).then_some(Record::Reserved(Reserved { revision: old }))
            }
            Record::History(new) => self.history.replace(new).map(Record::History),
            Record::Stored(new) => {
                let old = std::mem::replace(&mut self.stored, new.revision);
                (old != Revision(0)).then_some(Record::Stored(Stored { revision: old }))
            }
            Record::Link(new) => self.links.insert(new.node.clone(), new).map(Record::Link),
            Record::Observed(new) => {
                self.observed.insert(new.status.instance.clone(), new).map(Record::Observed)
            }
            Record::Waiting(new) => {
                let old = self.waiting.insert(new.instance.clone(), Arc::clone(&new));
                self.index.waiting(old.as_deref(), Some(&new));
                self.list_anew(&new.instance);
                old.map(Record::Waiting)
            }
            Record::Unmet(new) => {
                let demand = new.demand.clone();
                let old = self.unmet.insert(demand.clone(), new);
                self.list_all_anew(&demand);
                old.map(Record::Unmet)
            }
        }
    }

    /// Takes an object away, and returns what it was.
    pub(super) fn delete(&mut self, key: &Key) -> Option<Record> {
        match key {
            Key::Workload(name) => self.workloads.remove(name).map(Record::Workload),
            Key::Version(name, number) => {
                let versions = self.versions.get_mut(name)?;
                let old = versions.remove(number);
                if versions.is_empty() {
                    self.versions.remove(name);
                }
                old.map(Record::Version)
            }
            Key::Instance(name) => {
                let old = self.instances.remove(name);
                self.index.instance(old.as_deref(), None);
                self.list_anew(name);
                old.map(Record::Instance)
            }
            Key::Node(name) => {
                let old = self.nodes.remove(name);
                self.index.node(old.as_deref(), None);
                old.map(Record::Node)
            }
            Key::Token(id) => self.tokens.remove(id).map(Record::Token),
            Key::KeySet(name) => self.key_sets.remove(name).map(Record::KeySet),
            Key::Registry(host) => self.registries.remove(host).map(Record::Registry),
            Key::Event(revision) => {
                let old = self.events.remove(revision);
                if let Some(old) = &old {
                    self.forget_event(old);
                }
                old.map(Record::Event)
            }
            Key::Volume(key) => {
                self.index.forget_volume(key);
                self.volumes.remove(key).map(Record::Volume)
            }
            Key::Quarantine(address) => {
                let old = self.quarantine.remove(address);
                self.index.quarantine(old.as_deref(), None);
                old.map(Record::Quarantine)
            }
            Key::Reserved => {
                let old = std::mem::take(&mut self.reserved);
                (old != Revision(0)).then_some(Record::Reserved(Reserved { revision: old }))
            }
            Key::History => self.history.take().map(Record::History),
            Key::Stored => {
                let old = std::mem::take(&mut self.stored);
                (old != Revision(0)).then_some(Record::Stored(Stored { revision: old }))
            }
            Key::Link(name) => self.links.remove(name).map(Record::Link),
            Key::Observed(name) => self.observed.remove(name).map(Record::Observed),
            Key::Waiting(name) => {
                let old = self.waiting.remove(name);
                self.index.waiting(old.as_deref(), None);
                self.list_anew(name);
                old.map(Record::Waiting)
            }
            Key::Unmet(demand) => {
                let old = self.unmet.remove(demand);
                self.list_all_anew(demand);
                old.map(Record::Unmet)
            }
        }
    }

    pub(super) fn workloads(&self) -> &BTreeMap<WorkloadName, Arc<Workload>> {
        &self.workloads
    }

    /// The versions of each workload that are remembered.
    pub(super) fn versions(
        &self,
    ) -> &BTreeMap<WorkloadName, BTreeMap<VersionNumber, Arc<Version>>> {
        &self.versions
    }

    pub(super) fn instances(&self) -> &BTreeMap<InstanceName, Arc<Instance>> {
        &self.instances
    }

    /// The instances of one workload, by ordinal.
    pub(super) fn instances_of(
        &self,
        workload: &WorkloadName,
    ) -> impl DoubleEndedIterator<Item = &Arc<Instance>> + use<'_> {
        let first = InstanceName::new(workload.clone(), 0);
        let last = InstanceName::new(workload.clone(), ORDINAL_MAX);
        self.instances.range(first..=last).map(|(_, instance)| instance)
    }

    pub(super) fn nodes(&self) -> &BTreeMap<NodeName, Arc<Node>> {
        &self.nodes
    }

    pub(super) fn tokens(&self) -> &BTreeMap<TokenId, Arc<JoinToken>> {
        &self.tokens
    }

    pub(super) fn key_sets(&self) -> &BTreeMap<KeySetName, Arc<KeySet>> {
        &self.key_sets
    }

    pub(super) fn registries(&self) -> &BTreeMap<RegistryHost, Arc<Registry>> {
        &self.registries
    }

    pub(super) fn events(&self) -> &BTreeMap<Revision, Arc<Event>> {
        &self.events
    }

    /// How many events of the kind of `reason` there are, and the oldest of them.
    pub(super) fn events_like(&self, reason: &str) -> (usize, Option<Revision>) {
        let events = self.event_kinds.get(event_kind(reason));
        events.map_or((0, None), |events| (events.len(), events.first().copied()))
    }

    fn forget_event(&mut self, event: &Event) {
        let kind = event_kind(&event.reason);
        if let Some(events) = self.event_kinds.get_mut(kind) {
            events.remove(&event.revision);
            if events.is_empty() {
                self.event_kinds.remove(kind);
            }
        }
    }

    pub(super) fn volumes(&self) -> &BTreeMap<VolumeKey, Arc<Volume>> {
        &self.volumes
    }

    /// The volumes of one instance, by name and node, whether or not there is such an instance.
    pub(super) fn volumes_of(
        &self,
        instance: &InstanceName,
    ) -> impl Iterator<Item = &Arc<Volume>> + use<'_> {
        let keys = self.index.volumes_of.get(instance).into_iter().flatten();
        keys.filter_map(|key| self.volumes.get(key))
    }

    /// The volumes of one node.
    pub(super) fn volumes_on(
        &self,
        node: &NodeName,
    ) -> impl Iterator<Item = &Arc<Volume>> + use<'_> {
        let keys = self.index.volumes_on.get(node).into_iter().flatten();
        keys.filter_map(|key| self.volumes.get(key))
    }

    pub(super) fn quarantine(&self) -> &BTreeMap<Ipv4Addr, Arc<Quarantine>> {
        &self.quarantine
    }

    pub(super) fn reserved(&self) -> Revision {
        self.reserved
    }

    /// Which history this is, once the controller has begun one.
    pub(super) fn history(&self) -> Option<&Arc<History>> {
        self.history.as_ref()
    }

    /// How far the store is.
    pub(super) fn stored(&self) -> Revision {
        self.stored
    }

    pub(super) fn links(&self) -> &BTreeMap<NodeName, Arc<Link>> {
        &self.links
    }

    pub(super) fn observed(&self) -> &BTreeMap<InstanceName, Arc<Observed>> {
        &self.observed
    }

    pub(super) fn waiting(&self) -> &BTreeMap<InstanceName, Arc<Waiting>> {
        &self.waiting
    }

    pub(super) fn unmet(&self) -> &BTreeMap<Demand, Arc<Unmet>> {
        &self.unmet
    }

    /// Puts an instance on the lists of what has to be looked at, or takes it off them.
    fn list_anew(&mut self, name: &InstanceName) {
        let demand = self.waiting.get(name).and_then(|waiting| waiting.demand());
        let blocked = demand.is_some_and(|demand| self.unmet.contains_key(demand));
        let instance = self.instances.get(name).filter(|_| !blocked);
        self.index.list(name, instance.map(Arc::as_ref));
    }

    /// The same for all that wait for a demand to be met.
    fn list_all_anew(&mut self, demand: &Demand) {
        for name in self.index.blocked.get(demand).cloned().into_iter().flatten() {
            self.list_anew(&name);
        }
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }
}

impl Index {
    /// An instance was `old` and is `new`.
    fn instance(&mut self, old: Option<&Instance>, new: Option<&Instance>) {
        if let Some(old) = old {
            self.forget(old);
        }
        if let Some(new) = new {
            self.remember(new);
        }
    }

    fn remember(&mut self, instance: &Instance) {
        let name = &instance.name;
        if let Some(identity) = instance.identity {
            self.holders.insert(identity.address, name.clone());
            self.load(identity.address, true);
        }
        if let Some(node) = &instance.node {
            let occupancy = self.occupancy.entry(node.clone()).or_default();
            occupancy.instances.insert(name.clone());
            occupancy.promise(instance.share());
            if let Some((address, node)) = self.exception(instance) {
                self.exceptions.insert(address, node.clone());
            }
        }
        if let Some(place) = destination(instance).or(instance.node.as_ref()) {
            let copies = self.copies.entry(name.workload().clone()).or_default();
            *copies.entry(place.clone()).or_default() += 1;
        }
        if let Some(to) = destination(instance) {
            let occupancy = self.occupancy.entry(to.clone()).or_default();
            occupancy.arriving.insert(name.clone());
            occupancy.promise(instance.share());
        }
        if is_unproven(instance) {
            self.unproven.entry(name.workload().clone()).or_default().insert(name.clone());
        }
        if instance.update == UpdateState::Updating {
            self.updating.entry(name.workload().clone()).or_default().insert(name.clone());
        }
    }

    fn forget(&mut self, instance: &Instance) {
        let name = &instance.name;
        if let Some(identity) = instance.identity {
            self.holders.remove(&identity.address);
            self.load(identity.address, false);
            self.exceptions.remove(&identity.address);
        }
        if let Some(place) = destination(instance).or(instance.node.as_ref())
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
        for node in [instance.node.as_ref(), destination(instance)].into_iter().flatten() {
            if let Some(occupancy) = self.occupancy.get_mut(node) {
                occupancy.instances.remove(name);
                occupancy.arriving.remove(name);
                occupancy.release(instance.share());
                if occupancy.instances.is_empty() && occupancy.arriving.is_empty() {
                    self.occupancy.remove(node);
                }
            }
        }
        remove_from(&mut self.updating, name.workload(), name);
        remove_from(&mut self.unproven, name.workload(), name);
    }

    /// An instance waited for `old` and waits for `new`.
    fn waiting(&mut self, old: Option<&Waiting>, new: Option<&Waiting>) {
        if let Some((waiting, demand)) = old.and_then(|old| Some((old, old.demand()?))) {
            remove_from(&mut self.blocked, demand, &waiting.instance);
        }
        if let Some((waiting, demand)) = new.and_then(|new| Some((new, new.demand()?))) {
            self.blocked.entry(demand.clone()).or_default().insert(waiting.instance.clone());
        }
    }

    /// Lists an instance that may get a place or a turn.
    fn list(&mut self, name: &InstanceName, instance: Option<&Instance>) {
        if instance.is_some_and(|instance| instance.node.is_none()) {
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

    /// The address and place of an instance that lives outside its address's block. A node's block
    /// does not change while instances are there, so this needs to be asked only when they change.
    pub(super) fn exception<'a>(&self, instance: &'a Instance) -> Option<(Ipv4Addr, &'a NodeName)> {
        let (identity, node) = (instance.identity?, instance.node.as_ref()?);
        let block = self.range.block_of(identity.address)?;
        (self.blocks.get(&block) != Some(node)).then_some((identity.address, node))
    }

    fn node(&mut self, old: Option<&Node>, new: Option<&Node>) {
        if let Some(block) = old.and_then(|old| old.block) {
            self.blocks.remove(&block);
        }
        if let Some(new) = new
            && let Some(block) = new.block
        {
            self.blocks.insert(block, new.name.clone());
        }
    }

    fn quarantine(&mut self, old: Option<&Quarantine>, new: Option<&Quarantine>) {
        if let Some(old) = old {
            self.expiry.remove(&(old.until, old.address));
            self.load(old.address, false);
        }
        if let Some(new) = new {
            self.expiry.insert((new.until, new.address));
            self.load(new.address, true);
        }
    }

    fn remember_volume(&mut self, key: &VolumeKey) {
        self.volumes_of.entry(key.instance.clone()).or_default().insert(key.clone());
        self.volumes_on.entry(key.node.clone()).or_default().insert(key.clone());
    }

    fn forget_volume(&mut self, key: &VolumeKey) {
        remove_from(&mut self.volumes_of, &key.instance, key);
        remove_from(&mut self.volumes_on, &key.node, key);
    }

    fn load(&mut self, address: Ipv4Addr, more: bool) {
        let Some(block) = self.range.block_of(address) else { return };
        let load = self.block_load.entry(block).or_default();
        *load = if more { load.saturating_add(1) } else { load.saturating_sub(1) };
        if *load == 0 {
            self.block_load.remove(&block);
        }
    }
}

impl Occupancy {
    fn promise(&mut self, resources: Resources) {
        self.promised = self.promised.plus(resources);
    }

    fn release(&mut self, resources: Resources) {
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
    !instance.removing
        && (instance.update != UpdateState::Current || (is_tried && !instance.holds()))
}

/// Where an instance is on its way to.
fn destination(instance: &Instance) -> Option<&NodeName> {
    instance.leaving.as_ref()?.to.as_ref()
}
