//! Networks, which keep services apart: here everybody has an address and reaches all others, unless it is said who may.

use std::collections::{BTreeMap, BTreeSet};

use super::{Import, ports};
use crate::manifest::lower;
use crate::manifest::tree::{Item, Key, Tree};

impl Import<'_> {
    pub(super) fn networks(&mut self, file: &mut Item) {
        let top = file.remove("networks");
        let Some(services) = file.get_mut("workloads").and_then(Item::entries_mut) else { return };
        let mut of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (key, service) in &*services {
            if service.get("network_mode").is_none() {
                of.insert(key.name.clone(), names(service));
            }
        }
        let kinds: BTreeSet<&BTreeSet<String>> = of.values().collect();
        let are_apart = kinds.len() > 1;
        let mut is_said = false;
        for (key, service) in services {
            let is_declared = service.remove("networks").is_some();
            is_said |= is_declared;
            if let Some(own) = of.get(&key.name).filter(|_| are_apart) {
                let peers = of
                    .iter()
                    .filter(|(peer, theirs)| **peer != key.name && !theirs.is_disjoint(own));
                let peers: Vec<&str> = peers.map(|(name, _)| name.as_str()).collect();
                allow(service, &peers);
            }
        }
        let Some(origin) = top.map(|(key, _)| key.origin).filter(|_| of.len() > 1 || is_said)
        else {
            return;
        };
        let message = match are_apart {
            true => {
                "\"networks\" are \"network.allow_from\": each workload is reached by those that shared a network with it, and at \
                 the ports that were published by everybody"
            }
            false => {
                "\"networks\" are left out: all share the same ones, and every instance reaches all others; say who may reach whom \
                 with \"network.allow_from\" if others in the cluster are not to"
            }
        };
        self.note(&origin, message);
    }
}

/// The networks that a service is on.
fn names(service: &Item) -> BTreeSet<String> {
    let networks = service.get("networks");
    let keys =
        networks.and_then(Item::entries).unwrap_or_default().iter().map(|(key, _)| &*key.name);
    let items = networks.map(Item::items).unwrap_or_default().iter().filter_map(Item::scalar);
    let names: BTreeSet<String> = keys.chain(items).map(str::to_owned).collect();
    if names.is_empty() { ["default".to_owned()].into() } else { names }
}

/// Says who may reach a service.
fn allow(service: &mut Item, peers: &[&str]) {
    let key = |name: &str| Key { name: name.to_owned(), origin: service.origin.clone() };
    let called = |name: &&str| {
        lower::name_of(name).map_or_else(|_| (*name).to_owned(), |name| name.to_string())
    };
    let mut rules: Vec<Item> = vec![Item::text("same-workload")];
    rules.extend(peers.iter().map(called).map(Item::text));
    let published = service.get("ports").map(Item::items).unwrap_or_default();
    let published: Vec<String> = published.iter().filter_map(ports::inside).collect();
    if !published.is_empty() {
        let any = Item::new(Tree::Map(vec![
            (key("any"), Item::flag(true)),
            (key("ports"), Item::texts(published)),
        ]));
        rules.push(any);
    }
    let allow = (key("allow_from"), Item::new(Tree::List(rules)));
    let network = (key("network"), Item::new(Tree::Map(vec![allow])));
    service.insert(network.0, network.1);
}
