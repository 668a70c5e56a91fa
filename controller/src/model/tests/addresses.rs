//! Blocks, addresses, static addresses, quarantine.

use dwell_core::net::Mac;

use super::fleet::{Fleet, address, node, settings_of, spec, workload};
use crate::model::{Command, Refusal, RefusalClass, Reply, Settings};

pub(super) fn fixed(name: &str, addresses: &[&str]) -> dwell_core::workload::WorkloadSpec {
    let mut spec = spec(name, u32::try_from(addresses.len()).unwrap());
    spec.addresses = addresses.iter().map(|text| address(text)).collect();
    spec
}

fn remove(fleet: &mut Fleet, name: &str) {
    fleet.command(Command::RemoveWorkload(workload(name))).unwrap();
    fleet.settle();
}

#[test]
fn every_node_gets_the_first_free_block() {
    let mut fleet = Fleet::new(settings_of("10.80.0.0/24", 26));
    let block = |reply| match reply {
        Ok(Reply::Joined { block }) => block.unwrap().to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(block(fleet.join("n1")), "10.80.0.0/26");
    assert_eq!(block(fleet.join("n2")), "10.80.0.64/26");
    fleet.command(Command::RemoveNode { node: node("n1"), force: false }).unwrap();
    assert_eq!(block(fleet.join("n3")), "10.80.0.0/26");
    assert_eq!(block(fleet.join("n4")), "10.80.0.128/26");
    assert_eq!(block(fleet.join("n5")), "10.80.0.192/26");
    let refusal = fleet.join("n6").unwrap_err();
    assert_eq!(refusal.class(), RefusalClass::Exhausted);
    assert_eq!(
        refusal.to_string(),
        "all 4 node blocks of 10.80.0.0/24 are taken; remove a node that is no longer used, or add a range to the cluster \
         (`cluster: {more: [CIDR]}` in the controller's configuration)"
    );
}

#[test]
fn what_is_kept_back_is_only_given_to_who_asks_for_it() {
    let range = |text: &str| Some(text.parse().unwrap());
    let mut fleet = Fleet::new(Settings {
        static_range: range("10.80.0.0/26"),
        ..settings_of("10.80.0.0/24", 26)
    });
    let Ok(Reply::Joined { block }) = fleet.join("n1") else { panic!("it does not join") };
    assert_eq!(block.unwrap().to_string(), "10.80.0.64/26");
    fleet.attach(&node("n1")).unwrap();
    fleet.apply(fixed("db", &["10.80.0.9"])).unwrap();
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    assert_eq!(fleet.address("db-0").unwrap(), "10.80.0.9");
    assert_eq!(fleet.address("web-0").unwrap(), "10.80.0.65");
    let refusal = fleet.apply(fixed("other", &["10.80.0.9"])).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "other-0 cannot have 10.80.0.9: it is db-0's; choose another of 10.80.0.0/26, from which none is given without \
         asking, or remove db-0 first"
    );

    // Kept back within a block that a node has already.
    let mut settings = settings_of("10.80.0.0/24", 29);
    settings.static_range = range("10.80.0.0/30");
    let mut fleet = Fleet::new(settings_of("10.80.0.0/24", 29));
    fleet.join("n1").unwrap();
    fleet.restart_with(settings);
    fleet.attach(&node("n1")).unwrap();
    fleet.apply(spec("web", 8)).unwrap();
    fleet.settle();
    let given: Vec<String> =
        (0..8).filter_map(|ordinal| fleet.address(&format!("web-{ordinal}"))).collect();
    assert_eq!(given.first().map(String::as_str), Some("10.80.0.4"), "{given:?}");
    assert!(given.len() < 4, "{given:?}");
    assert!(fleet.message("web-7").contains("address"), "{}", fleet.message("web-7"));
}

#[test]
fn an_instance_keeps_its_address_and_its_hardware_address() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let before = fleet.model.tables.instances().values().next().unwrap().identity.unwrap();
    assert_eq!(before.mac, Mac::of_address(before.address));
    fleet.drain("n1");
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
    let after = fleet.model.tables.instances().values().next().unwrap().identity.unwrap();
    assert_eq!(before, after);
    for name in ["n1", "n2"] {
        let exceptions = fleet.model.assignment(&node(name)).network.exceptions;
        assert_eq!(exceptions.len(), 1);
        assert_eq!(exceptions[&before.address].as_str(), "n2");
    }
    let routes: Vec<String> = fleet
        .model
        .routes()
        .iter()
        .map(|route| format!("{} {}", route.prefix, route.node))
        .collect();
    assert_eq!(routes, ["10.80.0.0/24 n1", "10.80.1.0/24 n2", "10.80.0.1/32 n2"]);

    // At home again it is no exception any more.
    fleet
        .update_node("n1", crate::model::NodeChange { cordoned: Some(false), ..Default::default() })
        .unwrap();
    fleet.drain("n2");
    fleet.settle();
    assert!(fleet.model.assignment(&node("n1")).network.exceptions.is_empty());
}

#[test]
fn a_released_address_is_kept_for_its_owner() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("a", 1)).unwrap();
    fleet.settle();
    assert_eq!(fleet.address("a-0").unwrap(), "10.80.0.1");
    remove(&mut fleet, "a");

    fleet.apply(spec("b", 1)).unwrap();
    assert_eq!(fleet.address("b-0").unwrap(), "10.80.0.2", "the released one is passed over");
    let refusal = fleet.apply(fixed("c", &["10.80.0.1"])).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "c-0 cannot have 10.80.0.1: it was a-0's and is kept for it for another 600 s; choose another or wait"
    );
    fleet.apply(spec("a", 1)).unwrap();
    assert_eq!(fleet.address("a-0").unwrap(), "10.80.0.1", "its owner gets it back at once");

    fleet.settle();
    remove(&mut fleet, "a");
    for _ in 0..61 {
        fleet.pass(10);
        fleet.report(&node("n1")).unwrap();
    }
    fleet.apply(fixed("c", &["10.80.0.1"])).unwrap();
    assert_eq!(fleet.address("c-0").unwrap(), "10.80.0.1");
}

#[test]
fn a_full_block_is_passed_over_and_named() {
    let mut fleet = Fleet::new(settings_of("10.80.0.0/28", 29));
    for name in ["n1", "n2"] {
        fleet.join(name).unwrap();
        fleet.attach(&node(name)).unwrap();
    }
    fleet.apply(spec("web", 13)).unwrap();
    fleet.settle();
    assert_eq!(fleet.model.node(&node("n1")).unwrap().instances, 6);
    assert_eq!(fleet.place("web-12"), None);
    assert_eq!(
        fleet.message("web-12"),
        "0 of 2 nodes fit: n1 has no free address in its block, n2 has no free address in its block"
    );
}

#[test]
fn static_addresses() {
    let mut fleet = Fleet::of(2);
    fleet.apply(fixed("db", &["10.80.1.7", "10.80.9.9"])).unwrap();
    fleet.settle();
    assert_eq!(fleet.address("db-0").unwrap(), "10.80.1.7");
    assert_eq!(fleet.address("db-1").unwrap(), "10.80.9.9", "also of a block that no node has");
    assert_eq!(fleet.place("db-0").unwrap(), "n1");
    assert_eq!(fleet.model.assignment(&node("n1")).network.exceptions.len(), 2);

    for (spec, says) in [
        (fixed("a", &["10.81.0.1"]), "a-0 cannot have 10.81.0.1: 10.80.0.0/16 has no such"),
        (fixed("a", &["10.80.0.255"]), "a-0 cannot have 10.80.0.255: 10.80.0.0/16 has no such"),
        (fixed("a", &["10.80.1.7"]), "a-0 cannot have 10.80.1.7: it is db-0's; choose another"),
        (fixed("db", &["10.80.1.8", "10.80.9.9"]), "db-0 has 10.80.1.7 for life and cannot get"),
    ] {
        let refusal = fleet.apply(spec).unwrap_err();
        assert!(refusal.to_string().starts_with(says), "{refusal}");
    }
    let specs = vec![fixed("x", &["10.80.0.9"]), fixed("y", &["10.80.0.9"])];
    let refusal = fleet.dry_run(specs).unwrap_err();
    assert!(matches!(refusal, Refusal::AddressTaken { .. }), "{refusal}");
}

#[test]
fn a_static_address_that_was_lost_meanwhile_is_waited_for() {
    let mut fleet = Fleet::of(1);
    fleet.apply(fixed("a", &["10.80.0.9"])).unwrap();
    fleet.settle();
    // Removed and declared again with another address, which another workload takes meanwhile.
    fleet.command(Command::RemoveWorkload(workload("a"))).unwrap();
    fleet.apply(fixed("a", &["10.80.0.10"])).unwrap();
    fleet.apply(fixed("b", &["10.80.0.10"])).unwrap();
    fleet.settle();
    assert_eq!(fleet.address("a-0"), None);
    assert!(fleet.message("a-0").starts_with("a-0 cannot have 10.80.0.10: it is b-0's"));
    assert_eq!(fleet.address("b-0").unwrap(), "10.80.0.10");
}
