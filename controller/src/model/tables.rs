//! Where the objects are kept, and the indexes over them.
//!
//! Invariant: objects change only in [`Tables::put`] and [`Tables::delete`], which keep the indexes in
//! step; commands, reverting and restoring all go through these two. What an index says is a function
//! of the objects, so putting the old objects back puts the indexes back.

mod index;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::access::ContextId;
use dwell_core::id::{
    InstanceName, KeySetName, NodeName, ORDINAL_MAX, Revision, VersionNumber, WorkloadName,
};
use dwell_core::net::ClusterRange;
use dwell_core::registry::RegistryHost;
use ipnet::Ipv4Net;

pub(super) use self::index::Occupancy;
use self::index::{Index, waits_for_turn};
use super::contexts::Context;
use super::object::{
    Demand, Event, History, Instance, JoinToken, KeySet, Link, Node, Observed, Quarantine,
    Registry, Reserved, Stored, TokenId, Unmet, Waiting, Workload,
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
    contexts: BTreeMap<ContextId, Arc<Context>>,
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
            contexts: BTreeMap::new(),
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
                living: BTreeMap::new(),
                let_go: BTreeMap::new(),
                range,
                holders: BTreeMap::new(),
                block_load: BTreeMap::new(),
                blocks: BTreeMap::new(),
                occupancy: BTreeMap::new(),
                open: BTreeSet::new(),
                blocked: BTreeMap::new(),
                turns: BTreeMap::new(),
                per_node: BTreeSet::new(),
                tallies: BTreeMap::new(),
                copies: BTreeMap::new(),
                due: BTreeMap::new(),
                updating: BTreeMap::new(),
                evacuated: BTreeMap::new(),
                headings: BTreeMap::new(),
                moving: BTreeSet::new(),
                draining: BTreeSet::new(),
                rebooting: BTreeSet::new(),
                unproven: BTreeMap::new(),
                exceptions: BTreeMap::new(),
                volumes_of: BTreeMap::new(),
                volumes_on: BTreeMap::new(),
                in_use: BTreeMap::new(),
                expiry: BTreeSet::new(),
            },
        }
    }

    /// Makes or replaces an object, and returns what it was.
    pub(super) fn put(&mut self, record: Record) -> Option<Record> {
        match record {
            Record::Workload(new) => {
                self.index.workload(&new.spec.name, Some(&new));
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
                self.blocks_changed(old.as_deref(), Some(&new));
                old.map(Record::Node)
            }
            Record::Token(new) => self.tokens.insert(new.id.clone(), new).map(Record::Token),
            Record::KeySet(new) => self.key_sets.insert(new.name.clone(), new).map(Record::KeySet),
            Record::Registry(new) => {
                self.registries.insert(new.host.clone(), new).map(Record::Registry)
            }
            Record::Context(new) => self.contexts.insert(new.id, new).map(Record::Context),
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
            Key::Workload(name) => {
                self.index.workload(name, None);
                self.workloads.remove(name).map(Record::Workload)
            }
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
                self.blocks_changed(old.as_deref(), None);
                old.map(Record::Node)
            }
            Key::Token(id) => self.tokens.remove(id).map(Record::Token),
            Key::KeySet(name) => self.key_sets.remove(name).map(Record::KeySet),
            Key::Registry(host) => self.registries.remove(host).map(Record::Registry),
            Key::Context(id) => self.contexts.remove(id).map(Record::Context),
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

    pub(super) fn contexts(&self) -> &BTreeMap<ContextId, Arc<Context>> {
        &self.contexts
    }

    pub(super) fn events(&self) -> &BTreeMap<Revision, Arc<Event>> {
        &self.events
    }

    /// How many events of the kind of `reason` there are, and the oldest of them.
    pub(super) fn events_like(&self, reason: &str) -> (usize, Option<Revision>) {
        let events = self.event_kinds.get(event_kind(reason));
        events.map_or((0, None), |events| (events.len(), events.first().copied()))
    }

    /// The events that have this reason, the oldest first.
    pub(super) fn events_of(
        &self,
        reason: &str,
    ) -> impl DoubleEndedIterator<Item = &Arc<Event>> + use<'_> {
        let revisions = self.event_kinds.get(event_kind(reason)).into_iter().flatten();
        let reason = reason.to_owned();
        let events = revisions.filter_map(|revision| self.events.get(revision));
        events.filter(move |event| event.reason == reason)
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

    /// Instances with addresses of blocks that have come to a node, or left it, live within its blocks or outside of them now.
    fn blocks_changed(&mut self, old: Option<&Node>, new: Option<&Node>) {
        for block in changed_blocks(old, new) {
            let holders: Vec<InstanceName> = self.index.holders_in(block).cloned().collect();
            for instance in holders.iter().filter_map(|name| self.instances.get(name)) {
                self.index.look_again(instance);
            }
        }
    }

    /// Puts an instance on the lists of what has to be looked at, or takes it off them.
    fn list_anew(&mut self, name: &InstanceName) {
        let waiting = self.waiting.get(name);
        let demand = waiting.and_then(|waiting| waiting.demand());
        let blocked = demand.is_some_and(|demand| self.unmet.contains_key(demand))
            || waiting.is_some_and(|waiting| waits_for_turn(waiting));
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

/// The blocks that only one of the two has.
pub(super) fn changed_blocks(old: Option<&Node>, new: Option<&Node>) -> BTreeSet<Ipv4Net> {
    let blocks = |node: Option<&Node>| -> BTreeSet<Ipv4Net> {
        node.into_iter().flat_map(Node::blocks).collect()
    };
    &blocks(old) ^ &blocks(new)
}
