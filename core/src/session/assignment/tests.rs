use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::*;
use crate::fixtures;
use crate::id::{NodeName, WorkloadName};
use crate::registry::RegistryLogin;
use crate::session::NodePeer;
use crate::ssh::HostKey;
use crate::workload::Template;

fn name(ordinal: u32) -> InstanceName {
    InstanceName::new(WorkloadName::new("web").unwrap(), ordinal)
}

fn assigned(ordinal: u32, generation: u64) -> Assigned {
    let address = Ipv4Addr::new(10, 80, 1, u8::try_from(ordinal).unwrap());
    let template = Template::of_image("web");
    fixtures::at(address, fixtures::assigned(&name(ordinal).to_string(), generation, template))
}

/// What a controller holds for the node.
#[derive(Clone, Debug)]
struct Model {
    /// The generation of each instance, by ordinal.
    instances: BTreeMap<u32, u64>,
    /// Of each peer whether it has a block.
    peers: BTreeMap<u8, bool>,
    /// The peer of each address.
    exceptions: BTreeMap<u8, u8>,
    has_block: bool,
    keys: u8,
}

impl Model {
    fn with(instances: impl Into<BTreeMap<u32, u64>>, peers: u8) -> Self {
        Self {
            instances: instances.into(),
            peers: (2..2 + peers).map(|n| (n, true)).collect(),
            exceptions: BTreeMap::new(),
            has_block: true,
            keys: 0,
        }
    }

    fn network(&self) -> NodeNetwork {
        NodeNetwork {
            cluster: "10.80.0.0/16".parse().unwrap(),
            block: self.block(),
            more_blocks: Vec::new(),
            address: None,
            peers: self.peers.iter().map(|(&n, &has_block)| peer(n, has_block)).collect(),
            exceptions: self.exceptions.iter().map(|(&n, &on)| (address(9, n), node(on))).collect(),
            closed: false,
            ipv6: None,
            zone: "dwell".to_owned(),
        }
    }

    fn block(&self) -> Option<Ipv4Net> {
        self.has_block.then(|| Ipv4Net::new_assert(address(1, 0), 24))
    }

    fn ssh_trust(&self) -> SshTrust {
        let keys = (0..self.keys).map(|n| format!("key {n}")).collect();
        let key_sets = BTreeMap::from([("team".parse().unwrap(), keys)]);
        SshTrust { key_sets, ..SshTrust::default() }
    }

    fn registries(&self) -> RegistryLogins {
        let login = |n| RegistryLogin::new(format!("user{n}"), "secret".to_owned()).unwrap();
        (0..self.keys).map(|n| (format!("r{n}.example").parse().unwrap(), login(n))).collect()
    }
}

fn node(n: u8) -> NodeName {
    NodeName::new(format!("h{n}")).unwrap()
}

fn address(block: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 80, block, n)
}

fn peer(n: u8, has_block: bool) -> (NodeName, NodePeer) {
    let block = has_block.then(|| Ipv4Net::new_assert(address(n, 0), 24));
    (node(n), NodePeer { address: Ipv4Addr::new(192, 168, 1, n), block, more_blocks: Vec::new() })
}

fn snapshot(revision: u64, model: &Model) -> Assignment {
    Assignment {
        incarnation: Incarnation::UNKNOWN,
        term: Term(0),
        revision: Revision(revision),
        durable: Revision(0),
        unconfirmed: false,
        network: model.network(),
        instances: model.instances.iter().map(|(&n, &age)| (name(n), assigned(n, age))).collect(),
        ssh_trust: model.ssh_trust(),
        volumes_to_delete: Vec::new(),
        registries: model.registries(),
    }
}

/// What is in one and not, or not so, in the other; and what is only in the other.
fn difference<K: Ord + Copy, V: PartialEq + Copy>(
    after: &BTreeMap<K, V>,
    before: &BTreeMap<K, V>,
) -> (Vec<(K, V)>, Vec<K>) {
    let changed = after.iter().filter(|&(key, value)| before.get(key) != Some(value));
    let removed = before.keys().filter(|key| !after.contains_key(key));
    (changed.map(|(&key, &value)| (key, value)).collect(), removed.copied().collect())
}

fn delta(base: u64, before: &Model, revision: u64, after: &Model) -> AssignmentChange {
    let (changed, removed) = difference(&after.instances, &before.instances);
    let (peers, removed_peers) = difference(&after.peers, &before.peers);
    let (exceptions, removed_exceptions) = difference(&after.exceptions, &before.exceptions);
    AssignmentChange::Delta(AssignmentDelta {
        incarnation: Incarnation::UNKNOWN,
        term: Term(0),
        revision: Revision(revision),
        base: Revision(base),
        durable: Revision(0),
        changed: changed.into_iter().map(|(n, age)| assigned(n, age)).collect(),
        removed: removed.into_iter().map(name).collect(),
        network: None,
        network_delta: NetworkDelta {
            peers: peers.into_iter().map(|(n, has_block)| peer(n, has_block)).collect(),
            removed_peers: removed_peers.into_iter().map(node).collect(),
            exceptions: exceptions.into_iter().map(|(n, on)| (address(9, n), node(on))).collect(),
            removed_exceptions: removed_exceptions.into_iter().map(|n| address(9, n)).collect(),
            block: (before.has_block != after.has_block).then(|| after.block()),
        },
        ssh_trust: (before.keys != after.keys).then(|| after.ssh_trust()),
        volumes_to_delete: None,
        registries: (before.keys != after.keys).then(|| after.registries()),
    })
}

fn models() -> impl Strategy<Value = Vec<Model>> {
    let model = (
        prop::collection::btree_map(0_u32..8, 1_u64..4, 0..8),
        prop::collection::btree_map(2_u8..5, any::<bool>(), 0..3),
        prop::collection::btree_map(0_u8..4, 2_u8..5, 0..4),
        any::<bool>(),
        0_u8..3,
    );
    let model = model.prop_map(|(instances, peers, exceptions, has_block, keys)| Model {
        instances,
        peers,
        exceptions,
        has_block,
        keys,
    });
    prop::collection::vec(model, 1..8)
}

proptest! {
    /// A snapshot and the deltas after it end where the newest snapshot is.
    #[test]
    fn deltas_lead_to_the_snapshot(models in models()) {
        let mut held = snapshot(1, &models[0]);
        for (at, pair) in models.windows(2).enumerate() {
            let base = at as u64 + 1;
            let change = delta(base, &pair[0], base + 1, &pair[1]);
            held = Assignment::merge(Some(&held), change).unwrap();
            prop_assert_eq!(&held, &snapshot(base + 1, &pair[1]));
        }
    }

    /// Whatever is lost, doubled or reordered, what is held is always one of the controller's states,
    /// and never an older one than before.
    #[test]
    fn lost_and_reordered_changes_never_mix(
        models in models(),
        order in prop::collection::vec((0_usize..8, any::<bool>()), 0..24),
    ) {
        let mut held: Option<Assignment> = None;
        for (at, whole) in order {
            let at = at % models.len();
            let change = if whole || at == 0 {
                AssignmentChange::Snapshot(snapshot(at as u64 + 1, &models[at]))
            } else {
                delta(at as u64, &models[at - 1], at as u64 + 1, &models[at])
            };
            let before = held.as_ref().map_or(Revision(0), |held| held.revision);
            if let Ok(merged) = Assignment::merge(held.as_ref(), change) {
                prop_assert!(merged.revision >= before);
                held = Some(merged);
            }
            if let Some(held) = &held {
                let at = usize::try_from(held.revision.0).unwrap() - 1;
                prop_assert_eq!(held, &snapshot(held.revision.0, &models[at]));
            }
        }
    }
}

#[test]
fn the_reason_of_a_refusal_is_told() {
    let model = Model::with([(0, 1)], 0);
    let held = snapshot(7, &model);
    let older = Assignment::merge(Some(&held), AssignmentChange::Snapshot(snapshot(6, &model)));
    assert_eq!(older, Err(MergeError::GoesBack { offered: Revision(6), held: Revision(7) }));
    let other_base = Assignment::merge(Some(&held), delta(8, &model, 9, &model));
    assert_eq!(other_base, Err(MergeError::OtherBase { base: Revision(8), held: Revision(7) }));
    let nothing_held = Assignment::merge(None, delta(1, &model, 2, &model));
    assert_eq!(nothing_held, Err(MergeError::OtherBase { base: Revision(1), held: Revision(0) }));
    assert!(Assignment::merge(Some(&held), AssignmentChange::Snapshot(held.clone())).is_ok());
}

/// Of a history, at a term.
fn of(incarnation: u64, term: u64, all: Assignment) -> Assignment {
    Assignment { incarnation: Incarnation(incarnation), term: Term(term), ..all }
}

#[test]
fn a_delta_never_applies_across_histories() {
    let model = Model::with([(0, 1)], 0);
    let held = of(1, 1, snapshot(7, &model));
    let AssignmentChange::Delta(delta) = delta(7, &model, 8, &model) else { panic!("no delta") };
    let (own, other) = (Incarnation(1), Incarnation(2));
    let foreign = AssignmentDelta { incarnation: other, term: Term(1), ..delta.clone() };
    let refused = Assignment::merge(Some(&held), AssignmentChange::Delta(foreign));
    assert_eq!(refused, Err(MergeError::OtherHistory { offered: other, held: own }));
    let fits = AssignmentDelta { incarnation: own, term: Term(1), ..delta };
    assert_eq!(
        Assignment::merge(Some(&held), AssignmentChange::Delta(fits)).unwrap().revision,
        Revision(8)
    );
}

#[test]
fn a_snapshot_of_another_history_counts_whatever_its_revision() {
    let held = of(1, 9, snapshot(700, &Model::with([(0, 3), (1, 1)], 1)));
    let other = of(2, 1, snapshot(5, &Model::with([(0, 1)], 0)));
    let merged = Assignment::merge(Some(&held), AssignmentChange::Snapshot(other.clone()));
    assert_eq!(merged.unwrap(), other);
}

#[test]
fn until_a_restore_is_confirmed_nothing_is_taken_away() {
    let held = of(1, 9, snapshot(700, &Model::with([(0, 3), (1, 1)], 1)));
    let restored = Assignment { unconfirmed: true, ..of(2, 1, snapshot(5, &Model::with([], 0))) };
    let change = AssignmentChange::Snapshot(restored.clone());
    let kept = Assignment::merge(Some(&held), change.clone()).unwrap();
    assert_eq!(kept.position(), restored.position());
    assert!(kept.unconfirmed);
    assert_eq!((&kept.instances, &kept.network), (&held.instances, &held.network));
    // A node that holds nothing has nothing to keep, but what is on it stays as well.
    assert!(Assignment::merge(None, change).unwrap().unconfirmed);

    let confirmed = of(2, 1, snapshot(6, &Model::with([(1, 1)], 0)));
    let change = AssignmentChange::Snapshot(confirmed.clone());
    assert_eq!(Assignment::merge(Some(&kept), change).unwrap(), confirmed);
}

#[test]
fn an_older_controller_of_the_same_history_is_refused() {
    let model = Model::with([(0, 1)], 0);
    let held = of(1, 3, snapshot(7, &model));
    let older = AssignmentChange::Snapshot(of(1, 2, snapshot(9, &model)));
    let refused = Assignment::merge(Some(&held), older);
    assert_eq!(refused, Err(MergeError::OlderTerm { offered: Term(2), held: Term(3) }));
}

#[test]
fn a_network_that_comes_whole_replaces_the_old_one() {
    let (before, after) = (Model::with([(0, 1)], 2), Model::with([(0, 1)], 1));
    let held = snapshot(1, &before);
    let AssignmentChange::Delta(mut delta) = delta(1, &before, 2, &before) else {
        panic!("no delta")
    };
    delta.network = Some(NodeNetwork { closed: true, ..after.network() });
    let merged = Assignment::merge(Some(&held), AssignmentChange::Delta(delta)).unwrap();
    assert_eq!(merged.network, NodeNetwork { closed: true, ..after.network() });
    assert_eq!(merged.instances, held.instances);
}

#[test]
fn what_is_logged_has_no_keys() {
    let mut assignment = snapshot(1, &Model::with([(0, 1)], 0));
    let host_key = HostKey { private_key: "secret".to_owned(), certificate: "public".to_owned() };
    assignment.instances.get_mut(&name(0)).unwrap().host_key = Some(host_key);
    let shown = format!("{assignment:?}");
    assert!(shown.contains("public") && !shown.contains("secret"), "{shown}");
}
