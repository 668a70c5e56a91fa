use dwell_core::id::{Generation, WorkloadName};
use dwell_core::instance::RunState;
use dwell_core::net::Mac;
use dwell_core::quantity::Millis;
use dwell_core::workload::Template;
use proptest::prelude::*;

use super::*;

fn name(ordinal: u32) -> InstanceName {
    InstanceName::new(WorkloadName::new("web").unwrap(), ordinal)
}

fn assigned(ordinal: u32, generation: u64) -> Assigned {
    let address = Ipv4Addr::new(10, 80, 1, u8::try_from(ordinal).unwrap());
    Assigned {
        instance: name(ordinal),
        address,
        mac: Mac::of_address(address),
        generation: Generation(generation),
        run: RunState::Running,
        restarts_asked: 0,
        update_deadline: Millis::seconds(60),
        template: Template::of_image("web"),
        host_key: None,
    }
}

fn network(peers: u8) -> NodeNetwork {
    let peer = |n: u8| {
        let peer = NodePeer {
            address: Ipv4Addr::new(192, 168, 1, n),
            block: Some(Ipv4Net::new_assert([10, 80, n, 0].into(), 24)),
        };
        (NodeName::new(format!("h{n}")).unwrap(), peer)
    };
    NodeNetwork {
        cluster: "10.80.0.0/16".parse().unwrap(),
        block: Some("10.80.1.0/24".parse().unwrap()),
        peers: (2..2 + peers).map(peer).collect(),
        exceptions: BTreeMap::new(),
        closed: false,
        zone: "dwell".to_owned(),
    }
}

/// What a controller holds for the node: an instance by ordinal, and how many peers there are.
type Model = (BTreeMap<u32, u64>, u8);

fn snapshot(revision: u64, (instances, peers): &Model) -> Assignment {
    Assignment {
        revision: Revision(revision),
        network: network(*peers),
        instances: instances.iter().map(|(&n, &age)| (name(n), assigned(n, age))).collect(),
    }
}

fn delta(base: u64, before: &Model, revision: u64, after: &Model) -> Change {
    let changed = after.0.iter().filter(|(n, age)| before.0.get(n) != Some(age));
    let removed = before.0.keys().filter(|n| !after.0.contains_key(n));
    Change::Delta(Delta {
        revision: Revision(revision),
        base: Revision(base),
        changed: changed.map(|(&n, &age)| assigned(n, age)).collect(),
        removed: removed.map(|&n| name(n)).collect(),
        network: (before.1 != after.1).then(|| network(after.1)),
    })
}

fn models() -> impl Strategy<Value = Vec<Model>> {
    let instances = prop::collection::btree_map(0_u32..8, 1_u64..4, 0..8);
    prop::collection::vec((instances, 0_u8..3), 1..8)
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
                Change::Snapshot(snapshot(at as u64 + 1, &models[at]))
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
    let model = (BTreeMap::from([(0, 1)]), 0);
    let held = snapshot(7, &model);
    let older = Assignment::merge(Some(&held), Change::Snapshot(snapshot(6, &model)));
    assert_eq!(older, Err(MergeError::GoesBack { offered: Revision(6), held: Revision(7) }));
    let other_base = Assignment::merge(Some(&held), delta(8, &model, 9, &model));
    assert_eq!(other_base, Err(MergeError::OtherBase { base: Revision(8), held: Revision(7) }));
    let nothing_held = Assignment::merge(None, delta(1, &model, 2, &model));
    assert_eq!(nothing_held, Err(MergeError::OtherBase { base: Revision(1), held: Revision(0) }));
    assert!(Assignment::merge(Some(&held), Change::Snapshot(held.clone())).is_ok());
}

#[test]
fn only_exceptions_that_lead_elsewhere_become_routes() {
    let mut network = network(1);
    let (here, there) = (Ipv4Addr::new(10, 80, 9, 1), Ipv4Addr::new(10, 80, 9, 2));
    network.exceptions.insert(here, NodeName::new("h1").unwrap());
    network.exceptions.insert(there, NodeName::new("h2").unwrap());
    let routes = network.routes();
    assert_eq!(
        routes.exceptions,
        [Exception { address: there, node: NodeName::new("h2").unwrap() }]
    );
    assert_eq!(routes.peers.len(), 1);
}
