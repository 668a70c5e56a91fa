//! Where the model and its nodes disagree, and that what is on its way is none of that.

use std::collections::BTreeMap;

use dwell_core::audit::{Kind, NodeAudit};
use dwell_core::id::{Generation, NodeName};
use dwell_core::quantity::Millicores;
use dwell_core::session::{Claim, SeenVolume};

use super::fleet::{Fleet, Host, instance, node, spec};
use crate::model::Answers;
use crate::model::audit::audit_ledger;
use crate::model::tables::Occupancy;

/// What the hosts of a fleet would answer.
fn answers(fleet: &Fleet) -> Answers {
    let answer = |(name, host): (&NodeName, &Host)| {
        let held = host.held.clone()?;
        let assigned: Vec<Claim> = held.instances.values().map(Claim::of).collect();
        let runs = |claim: &&Claim| host.containers.contains_key(&claim.instance);
        let running = assigned.iter().filter(runs).cloned().collect();
        let answer = NodeAudit {
            findings: Vec::new(),
            held: held.position(),
            assigned,
            running: Some(running),
            volumes: Some(Vec::new()),
        };
        Some((name.clone(), answer))
    };
    fleet.hosts.iter().filter_map(answer).collect()
}

fn kinds(fleet: &Fleet, answers: &Answers) -> Vec<Kind> {
    fleet.model.audit(answers).into_iter().map(|finding| finding.kind).collect()
}

fn settled() -> (Fleet, Answers) {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let answers = answers(&fleet);
    assert_eq!(answers.values().map(|answer| answer.assigned.len()).sum::<usize>(), 2);
    (fleet, answers)
}

#[test]
fn a_fleet_at_rest_agrees_with_its_nodes() {
    let (fleet, answers) = settled();
    assert_eq!(kinds(&fleet, &answers), []);
}

#[test]
fn what_nodes_hold_is_compared_with_what_they_were_told() {
    type Change = fn(&mut NodeAudit, &mut NodeAudit);
    let table: &[(Kind, Change)] = &[
        (Kind::InstanceMissing, |one, _| {
            one.assigned.clear();
            one.running = Some(Vec::new());
        }),
        (Kind::InstanceOutdated, |one, _| {
            one.assigned[0].generation = Generation(77);
        }),
        (Kind::InstanceElsewhere, |one, _| {
            let mut ghost = one.assigned[0].clone();
            ghost.instance = instance("ghost-0");
            ghost.address = "10.80.200.1".parse().unwrap();
            one.assigned.push(ghost);
        }),
        (Kind::InstanceTwice, |one, other| {
            let twin = one.assigned[0].clone();
            other.running.as_mut().unwrap().push(twin);
        }),
        (Kind::AddressTwice, |one, other| {
            let mut thief = other.assigned[0].clone();
            thief.address = one.assigned[0].address;
            one.running.as_mut().unwrap().push(thief);
            other.running.as_mut().unwrap().clear();
        }),
        (Kind::VolumeUnknown, |one, _| {
            let volume = SeenVolume {
                instance: instance("db-0"),
                name: "data".parse().unwrap(),
                image_path: None,
                is_copy: false,
            };
            one.volumes.as_mut().unwrap().push(volume);
        }),
    ];
    for (kind, change) in table {
        let (fleet, mut answers) = settled();
        let (first, second) = (node("n1"), node("n2"));
        let (mut one, mut other) =
            (answers.remove(&first).unwrap(), answers.remove(&second).unwrap());
        change(&mut one, &mut other);
        answers.extend([(first, one), (second, other)]);
        assert_eq!(kinds(&fleet, &answers), [*kind]);
    }
}

#[test]
fn what_a_node_has_not_been_told_yet_is_no_disagreement() {
    let (mut fleet, answers) = settled();
    fleet.apply(spec("new", 2)).unwrap();
    assert_eq!(kinds(&fleet, &answers), []);
    let unheard = Answers::new();
    assert_eq!(kinds(&fleet, &unheard), [], "who was not asked has not said anything");
}

#[test]
fn the_ledger_is_the_sum_of_the_shares() {
    let (fleet, _) = settled();
    let mut ledger = fleet.model.tables.index().occupancy.clone();
    let audit = |ledger: &BTreeMap<NodeName, Occupancy>| {
        audit_ledger(fleet.model.tables.instances().values(), ledger)
    };
    assert_eq!(audit(&ledger), []);
    let there = ledger.get_mut(&node("n1")).unwrap();
    there.promised.cpu = Millicores(there.promised.cpu.0 + 1);
    let found = audit(&ledger);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].kind, found[0].node.clone()), (Kind::Ledger, Some(node("n1"))));
}
