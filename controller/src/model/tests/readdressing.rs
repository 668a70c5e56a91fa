//! Instances that get another address.

use std::collections::BTreeSet;

use dwell_core::instance::RunState;
use dwell_core::workload::{Mount, MountSource, OnMove, WorkloadSpec};

use super::fleet::{Fleet, address, instance, node, settings_of, spec};
use crate::model::{Command, MoveHow, NodeChange, Refusal, Target};

fn readdress(fleet: &mut Fleet, name: &str) -> Result<(), Refusal> {
    let names = BTreeSet::from([instance(name)]);
    fleet.command(Command::ReaddressInstances(names)).map(drop)
}

fn moved(fleet: &mut Fleet, name: &str, to: &str, new_address: bool) -> Result<(), Refusal> {
    let (instances, to) = (vec![instance(name)], Some(node(to)));
    let order = Command::MoveInstances {
        instances,
        to,
        new_address,
        how: MoveHow::default(),
        dry_run: false,
    };
    fleet.command(order).map(drop)
}

fn where_it_is(fleet: &Fleet) -> (String, String) {
    (fleet.place("web-0").unwrap(), fleet.address("web-0").unwrap())
}

fn is_at(fleet: &Fleet, place: &str, address: &str) {
    assert_eq!(where_it_is(fleet), (place.to_owned(), address.to_owned()));
}

fn routes(fleet: &Fleet) -> Vec<String> {
    fleet.model.routes().iter().map(|route| route.prefix.to_string()).collect()
}

/// `web-0` has come from `n1` to `n2`, with its address.
fn away() -> Fleet {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    moved(&mut fleet, "web-0", "n2", false).unwrap();
    fleet.settle();
    is_at(&fleet, "n2", "10.80.0.1");
    fleet
}

#[test]
fn one_that_stays_gets_an_address_of_its_nodes_block_once_nothing_of_it_is_there() {
    let mut fleet = away();
    assert_eq!(routes(&fleet), ["10.80.0.0/24", "10.80.1.0/24", "10.80.0.1/32"]);
    let before = fleet.model.instance(&instance("web-0")).unwrap().instance;
    readdress(&mut fleet, "web-0").unwrap();
    assert!(fleet.assigned_to("n2").is_empty());
    is_at(&fleet, "n2", "10.80.0.1");
    assert_eq!(routes(&fleet).len(), 3, "its process may be ending still");
    fleet.restart_controller();
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.sync(&node("n2"));
    is_at(&fleet, "n2", "10.80.1.1");
    assert_eq!(routes(&fleet), ["10.80.0.0/24", "10.80.1.0/24"]);
    fleet.settle();
    let after = fleet.model.instance(&instance("web-0")).unwrap().instance;
    assert!(after.generation > before.generation && !after.new_address);
    assert_eq!((&after.wanted, after.life), (&before.wanted, before.life));
    fleet.check();

    // It is for this once: the next move takes the address along, and the one before is kept for its owner.
    assert_eq!(
        readdress(&mut fleet, "web-0").unwrap_err().to_string(),
        "web-0 has 10.80.1.1, which is of the block of n2 already; nothing was changed"
    );
    moved(&mut fleet, "web-0", "n1", false).unwrap();
    fleet.settle();
    is_at(&fleet, "n1", "10.80.1.1");
    readdress(&mut fleet, "web-0").unwrap();
    fleet.settle();
    is_at(&fleet, "n1", "10.80.0.1");
    fleet.check();
}

#[test]
fn with_its_move_and_with_every_move() {
    let mut fleet = Fleet::of(3);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    moved(&mut fleet, "web-0", "n2", true).unwrap();
    fleet.settle();
    is_at(&fleet, "n2", "10.80.1.1");

    // Declared, and live: nothing happens until it moves.
    let follows = WorkloadSpec { on_move: OnMove::NewAddress, ..spec("web", 1) };
    fleet.apply(follows).unwrap();
    fleet.settle();
    is_at(&fleet, "n2", "10.80.1.1");
    moved(&mut fleet, "web-0", "n3", false).unwrap();
    fleet.settle();
    is_at(&fleet, "n3", "10.80.2.1");
    fleet.update_node("n1", NodeChange { cordoned: Some(true), ..Default::default() }).unwrap();
    fleet.drain("n3");
    fleet.settle();
    is_at(&fleet, "n2", "10.80.1.1");
    assert_eq!(routes(&fleet).len(), 3, "there are blocks alone");

    // Also from a node that was removed by force.
    fleet.command(Command::RemoveNode { node: node("n2"), force: true }).unwrap();
    fleet.attach(&node("n2")).unwrap();
    fleet.update_node("n1", NodeChange { cordoned: Some(false), ..Default::default() }).unwrap();
    fleet.settle();
    is_at(&fleet, "n1", "10.80.0.1");
    fleet.check();
}

#[test]
fn what_was_asked_for_stays_and_so_does_what_can_have_no_other() {
    let mut fleet = Fleet::of(2);
    let fixed = WorkloadSpec {
        addresses: vec![address("10.80.7.7")],
        on_move: OnMove::NewAddress,
        ..spec("web", 1)
    };
    fleet.apply(fixed).unwrap();
    fleet.settle();
    for refused in [readdress(&mut fleet, "web-0"), moved(&mut fleet, "web-0", "n2", true)] {
        assert_eq!(
            refused.unwrap_err().to_string(),
            "web-0 has 10.80.7.7 because its workload asks for that; take it out of `network.ip` first"
        );
    }
    moved(&mut fleet, "web-0", "n2", false).unwrap();
    fleet.settle();
    is_at(&fleet, "n2", "10.80.7.7");

    // The block of the node that it comes to is full.
    let mut fleet = Fleet::new(settings_of("10.80.0.0/28", 29));
    for name in ["n1", "n2"] {
        fleet.join(name).unwrap();
        fleet.attach(&node(name)).unwrap();
    }
    fleet.apply(spec("web", 12)).unwrap();
    fleet.settle();
    let before = fleet.address("web-0").unwrap();
    let to = if fleet.place("web-0").unwrap() == "n1" { "n2" } else { "n1" };
    moved(&mut fleet, "web-0", to, true).unwrap();
    fleet.settle();
    is_at(&fleet, to, &before);
    assert_eq!(
        readdress(&mut fleet, "web-0").unwrap_err().to_string(),
        format!(
            "web-0 can get no address of the block of {to}: none is free; `dwell move --new-address web-0` takes it to a \
             node that has one"
        )
    );
    fleet.check();
}

#[test]
fn volumes_and_a_stop_go_on_where_they_are() {
    let mut fleet = away();
    let mut with_volume = spec("web", 1);
    with_volume.template.mounts.push(Mount {
        source: MountSource::Volume("data".parse().unwrap()),
        target: "/data".into(),
        read_only: false,
    });
    fleet.apply(with_volume).unwrap();
    fleet.settle();
    let target = Target::Instance(instance("web-0"));
    fleet.command(Command::SetRun { target, run: RunState::Stopped }).unwrap();
    fleet.settle();
    readdress(&mut fleet, "web-0").unwrap();
    assert!(
        readdress(&mut fleet, "web-0").unwrap_err().to_string().contains("is on its way off n2")
    );
    fleet.settle();
    is_at(&fleet, "n2", "10.80.1.1");
    assert_eq!(fleet.assigned_to("n2")[0].run, RunState::Stopped);
    assert_eq!(fleet.model.tables.volumes().len(), 1);
    fleet.check();
}

#[test]
fn a_restored_controller_goes_back_to_the_address_that_it_knows() {
    let mut fleet = away();
    fleet.begin(1, None);
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.settle();
    let backup = fleet.backup();
    readdress(&mut fleet, "web-0").unwrap();
    fleet.settle();
    is_at(&fleet, "n2", "10.80.1.1");
    fleet.restore(backup);
    fleet.begin(2, Some("the store is older".into()));
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
        fleet.fetch(&node(name));
    }
    assert!(matches!(readdress(&mut fleet, "web-0"), Err(Refusal::RestoreUnconfirmed)));
    fleet.command(Command::ConfirmRestore { force: false }).unwrap();
    fleet.apply(spec("next", 2)).unwrap();
    fleet.settle();
    assert_eq!(fleet.address("web-0").unwrap(), "10.80.0.1");
    fleet.check();
}
