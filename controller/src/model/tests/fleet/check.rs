//! What must hold of a fleet at any time, and at rest.

use super::*;

impl Fleet {
    pub(super) fn check_change(&mut self, change: &Change) {
        let as_instance = |record: &Option<Record>| match record {
            Some(Record::Instance(instance)) => Some(Instance::clone(instance)),
            _ => None,
        };
        let (old, new) = (as_instance(&change.old), as_instance(&change.new));
        if let (Some(old), Some(new)) = (&old, &new) {
            assert!(new.generation >= old.generation, "a generation never falls");
            if old.node.is_some() && old.node != new.node {
                assert!(new.node.is_none(), "never from node to node at once");
            }
            if old.identity.is_some() && new.identity != old.identity {
                let workload = self.model.workload(old.name.workload()).unwrap().workload;
                let may_change = old.new_address || workload.spec.on_move == OnMove::NewAddress;
                assert!(may_change, "an address is an instance's own until somebody lets go of it");
                assert!(
                    new.identity.is_some() && old.node.is_none() && new.node.is_none(),
                    "it changes while nothing of the instance is anywhere"
                );
            }
        }
        if let (Some(Record::Workload(old)), Some(Record::Workload(new))) =
            (&change.old, &change.new)
        {
            assert!(new.generation >= old.generation, "a generation never falls");
        }
        let had = old.as_ref().and_then(|old| old.identity);
        let has = new.and_then(|new| new.identity);
        let Key::Instance(name) = &change.key else { return };
        if let Some(released) = had.filter(|_| had != has) {
            let until = self.now.after(self.model.settings().quarantine.as_duration());
            self.released.insert(released.address, (name.clone(), until));
        }
        if let Some(given) = has.filter(|_| had != has)
            && let Some((owner, until)) = self.released.remove(&given.address)
        {
            assert!(owner == *name || until <= self.now, "quarantine holds");
        }
    }

    /// No instance mounts a volume while another host has a newer one: nothing comes up empty or old in
    /// place of what is full and new.
    fn check_volumes(&self) {
        for (node, host) in &self.hosts {
            for (name, assigned) in host.assigned() {
                if !host.containers.contains_key(name) {
                    continue;
                }
                for volume in assigned.template.volumes() {
                    let key = (name.clone(), volume.clone());
                    let others = self.hosts.iter().filter(|(other, _)| *other != node);
                    let state_on = |at| {
                        let views = self.model.volumes(Some(name), Some(at));
                        let own = views.iter().find(|view| view.volume.key.name == *volume);
                        own.map(|view| view.volume.state)
                    };
                    for (other, there) in others {
                        // What it has moved away from, or did not move to, stays on the other host until that has deleted it.
                        // But an instance that mounts nothing which is known to be its data waits for the deletion.
                        let is_stale = match state_on(other) {
                            None | Some(VolumeState::Stale) => true,
                            Some(VolumeState::Deleting { .. }) => {
                                state_on(node) == Some(VolumeState::Kept)
                            }
                            Some(_) => false,
                        };
                        assert!(
                            !there.volumes.contains(&key) || is_stale,
                            "{name} runs on {node}, but its volume {volume} is on {other}"
                        );
                    }
                }
            }
        }
    }

    /// Nothing is ever there twice.
    pub(in crate::model::tests) fn check_containers(&self) {
        self.check_volumes();
        let mut seen = BTreeMap::new();
        for (node, host) in &self.hosts {
            for name in host.containers.keys() {
                if let Some(other) = seen.insert(name, node) {
                    panic!("{name} has a container on {other} and on {node}");
                }
            }
        }
    }

    /// What always holds.
    pub(in crate::model::tests) fn check(&self) {
        self.check_containers();
        assert_eq!(rebuilt(&self.model.tables), self.model.tables, "the indexes are in step");
        let instances = self.model.tables.instances();
        let addresses: Vec<Ipv4Addr> = instances
            .values()
            .filter_map(|instance| instance.identity)
            .map(|identity| identity.address)
            .collect();
        let unique: BTreeSet<&Ipv4Addr> = addresses.iter().collect();
        assert_eq!(unique.len(), addresses.len(), "no address belongs to two");
        for (node, name) in self.model.tables.index().in_use.keys() {
            let there = instances.get(name).and_then(|instance| instance.node.as_ref());
            assert_eq!(there, Some(node), "nobody would free the addresses of {name}");
        }
        let mut assigned = BTreeSet::new();
        for name in self.model.tables.nodes().keys() {
            for one in self.model.assignment(name).instances.into_keys() {
                assert!(assigned.insert(one.clone()), "{one} is assigned twice");
            }
        }
        let known: BTreeSet<&InstanceName> = instances.keys().collect();
        for name in self.model.tables.observed().keys().chain(self.model.tables.waiting().keys()) {
            assert!(known.contains(name), "nothing is known of {name}, which is not there");
        }
        for instance in instances.values() {
            let waits = self.model.tables.waiting().contains_key(&instance.name);
            let may_be_nowhere = waits || instance.rests();
            assert!(
                instance.node.is_some() || may_be_nowhere,
                "{} waits without a reason",
                instance.name
            );
        }
        for name in self.model.tables.nodes().keys() {
            let promises = |one: &Instance| match one.assigned_to() == Some(name) {
                true => Some(one.share().cpu.0),
                false => (one.arrives_on() == Some(name)).then(|| one.share_there().cpu.0),
            };
            let here = instances.values().filter_map(|one| Some((&one.name, promises(one)?)));
            let here: Vec<_> = here.map(|(name, cpu)| (name.to_string(), cpu)).collect();
            let promised: u64 = here.iter().map(|(_, cpu)| cpu).sum();
            let has = Self::capacity().cpu.0;
            assert!(promised <= has, "{name} has {has}m and is promised {promised}m: {here:?}");
        }
        for spec in self.model.workloads() {
            let changing = self.model.tables.index().updating.get(&spec.workload.spec.name);
            let allowed = spec.workload.spec.update.parallelism.of(spec.workload.spec.replicas);
            let allowed = usize::try_from(allowed).unwrap();
            // What was unwell before its node was drained waits for nobody.
            let was_unwell = |one: &&InstanceName| {
                instances[*one].evacuated.as_ref().is_some_and(|evacuated| !evacuated.was_well)
            };
            let in_turn = changing.into_iter().flatten().filter(|one| !self.ordered.contains(one));
            let in_turn = in_turn.filter(|one| !was_unwell(one));
            assert!(in_turn.count() <= allowed, "too many change at once");
        }
        let shown = self.model.directory();
        let views = instances.keys().filter_map(|name| self.model.instance(name));
        let entries = views.filter_map(|view| {
            let address = view.instance.identity?.address;
            let ready = view.status.phase == Phase::Running
                && view.status.health.is_good()
                && !view.instance.is_let_go();
            Some((view.instance.name.clone(), DirectoryInstance { address, ready }))
        });
        assert_eq!(shown.instances, entries.collect(), "the directory is what lists show");
        let declared = self.model.tables.workloads();
        assert!(shown.workloads.keys().eq(declared.keys()), "every workload is in the directory");
        assert!(self.model.tables.events().len() <= self.model.settings().events_max);
    }
}

/// The same objects in fresh tables, with or without the volatile ones.
pub(super) fn copy(tables: &Tables, volatile: bool) -> Tables {
    let mut copy = Tables::new(settings_range(tables));
    let nodes = tables.nodes().values().cloned().map(Record::Node);
    let rest = tables.workloads().values().cloned().map(Record::Workload);
    let versions = tables.versions().values().flat_map(BTreeMap::values);
    let rest = rest.chain(versions.cloned().map(Record::Version));
    let rest = rest.chain(tables.instances().values().cloned().map(Record::Instance));
    let rest = rest.chain(tables.tokens().values().cloned().map(Record::Token));
    let rest = rest.chain(tables.key_sets().values().cloned().map(Record::KeySet));
    let rest = rest.chain(tables.registries().values().cloned().map(Record::Registry));
    let rest = rest.chain(tables.contexts().values().cloned().map(Record::Context));
    let rest = rest.chain(tables.events().values().cloned().map(Record::Event));
    let rest = rest.chain(tables.volumes().values().cloned().map(Record::Volume));
    let rest = rest.chain(tables.quarantine().values().cloned().map(Record::Quarantine));
    for record in nodes.chain(rest) {
        copy.put(record);
    }
    if let Some(history) = tables.history() {
        copy.put(Record::History(std::sync::Arc::clone(history)));
    }
    if tables.stored() > Revision(0) {
        copy.put(Record::Stored(crate::model::Stored { revision: tables.stored() }));
    }
    if tables.reserved() > Revision(0) {
        copy.put(Record::Reserved(crate::model::Reserved { revision: tables.reserved() }));
    }
    if volatile {
        let links = tables.links().values().cloned().map(Record::Link);
        let observed = tables.observed().values().cloned().map(Record::Observed);
        let waiting = tables.waiting().values().cloned().map(Record::Waiting);
        let unmet = tables.unmet().values().cloned().map(Record::Unmet);
        for record in links.chain(observed).chain(waiting).chain(unmet) {
            copy.put(record);
        }
    }
    copy
}

pub(super) fn settings_range(tables: &Tables) -> ClusterRange {
    tables.index().range.clone()
}

pub(super) fn rebuilt(tables: &Tables) -> Tables {
    copy(tables, true)
}

pub(super) fn durable(tables: &Tables) -> Tables {
    copy(tables, false)
}
