//! Nodes with more blocks, and with others.

use std::collections::BTreeSet;

use dwell_core::id::Revision;
use dwell_core::workload::WorkloadSpec;
use ipnet::Ipv4Net;

use super::addresses::fixed;
use super::fleet::{Fleet, address, instance, node, settings_of, spec, workload};
use crate::model::{BlockChange, Command, InstanceFilter, Refusal, Reply, Settings};

fn block(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn add(fleet: &mut Fleet, name: &str, which: Option<&str>) -> Result<String, Refusal> {
    changed(fleet, name, BlockChange::Add(which.map(block)))
}

fn retire(fleet: &mut Fleet, name: &str, which: &str) -> Result<String, Refusal> {
    changed(fleet, name, BlockChange::Retire(block(which)))
}

fn changed(fleet: &mut Fleet, name: &str, change: BlockChange) -> Result<String, Refusal> {
    match fleet.command(Command::ChangeBlocks { node: node(name), change })? {
        Reply::Block(block) => Ok(block.to_string()),
        other => panic!("{other:?}"),
    }
}

/// Two nodes with six addresses each.
fn small() -> Fleet {
    let mut fleet = Fleet::new(settings_of("10.80.0.0/26", 29));
    for name in ["n1", "n2"] {
        fleet.join(name).unwrap();
        fleet.attach(&node(name)).unwrap();
    }
    fleet
}

fn blocks_of(fleet: &Fleet, name: &str) -> Vec<String> {
    let node = fleet.model.node(&node(name)).unwrap().node;
    node.blocks().map(|block| block.to_string()).collect()
}

fn prefixes(fleet: &Fleet) -> Vec<String> {
    fleet.model.routes().iter().map(|route| format!("{} {}", route.prefix, route.node)).collect()
}

#[test]
fn what_waits_for_an_address_gets_one_of_another_block() {
    let mut fleet = small();
    fleet.apply(spec("web", 14)).unwrap();
    fleet.settle();
    assert!(fleet.message("web-12").contains("no free address in its block"));
    let base = fleet.model.revision();
    assert_eq!(add(&mut fleet, "n1", None).unwrap(), "10.80.0.16/29");
    fleet.settle();
    assert_eq!(fleet.place("web-12").unwrap(), "n1");
    assert_eq!(fleet.address("web-12").unwrap(), "10.80.0.17");
    // For the others that is one route to a block, and for itself all anew.
    let others = fleet.model.assignment_since(&node("n2"), base).unwrap().network_delta;
    assert!(others.exceptions.is_empty(), "{others:?}");
    assert_eq!(others.peers[&node("n1")].more_blocks, [block("10.80.0.16/29")]);
    assert!(fleet.model.assignment_since(&node("n1"), base).is_none());
    let own = fleet.model.assignment(&node("n1")).network;
    assert_eq!(
        (own.block, own.more_blocks),
        (Some(block("10.80.0.0/29")), vec![block("10.80.0.16/29")])
    );
    assert_eq!(prefixes(&fleet), ["10.80.0.0/29 n1", "10.80.0.8/29 n2", "10.80.0.16/29 n1"]);
    fleet.restart_controller();
    assert_eq!(blocks_of(&fleet, "n1"), ["10.80.0.0/29", "10.80.0.16/29"]);
}

#[test]
fn a_block_is_moved_by_retiring_it() {
    let mut fleet = small();
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let (first, second) = ("10.80.0.0/29", "10.80.0.40/29");
    assert_eq!(
        retire(&mut fleet, "n1", first).unwrap_err().to_string(),
        "10.80.0.0/29 is the only block of n1; `dwell node block add n1` gives it another one first"
    );
    add(&mut fleet, "n1", Some(second)).unwrap();
    retire(&mut fleet, "n1", first).unwrap();
    assert_eq!(blocks_of(&fleet, "n1"), [second, first]);
    assert_eq!(fleet.address("web-0").unwrap(), "10.80.0.1", "it keeps its address");
    assert_eq!(prefixes(&fleet).len(), 3, "and nobody needs a route to it");

    // What comes from now on, and who asks for it, gets another one.
    fleet.apply(spec("more", 2)).unwrap();
    fleet.settle();
    let of_n1 = ["more-0", "more-1"].into_iter().find(|one| fleet.place(one).unwrap() == "n1");
    assert_eq!(fleet.address(of_n1.unwrap()).unwrap(), "10.80.0.41");
    fleet.command(Command::ReaddressInstances(BTreeSet::from([instance("web-0")]))).unwrap();
    fleet.settle();
    assert_eq!(fleet.address("web-0").unwrap(), "10.80.0.42");

    // The last address is in quarantine yet.
    assert_eq!(blocks_of(&fleet, "n1"), [second, first]);
    fleet.restart_controller();
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    for _ in 0..61 {
        fleet.pass(10);
        for name in ["n1", "n2"] {
            fleet.report(&node(name)).unwrap();
        }
    }
    assert_eq!(blocks_of(&fleet, "n1"), [second]);
    fleet.join("n3").unwrap();
    assert_eq!(blocks_of(&fleet, "n3"), [first], "it is free");
    fleet.check();
}

#[test]
fn what_lives_outside_of_the_blocks_may_live_within_one_then() {
    let mut fleet = Fleet::of(2);
    let fixed = WorkloadSpec { addresses: vec![address("10.80.9.9")], ..spec("db", 1) };
    fleet.apply(fixed).unwrap();
    fleet.settle();
    assert_eq!((&*fleet.place("db-0").unwrap(), prefixes(&fleet).len()), ("n1", 3));
    let base = fleet.model.revision();
    add(&mut fleet, "n1", Some("10.80.9.0/24")).unwrap();
    assert_eq!(prefixes(&fleet), ["10.80.0.0/24 n1", "10.80.1.0/24 n2", "10.80.9.0/24 n1"]);
    let told = fleet.model.assignment_since(&node("n2"), base).unwrap().network_delta;
    assert_eq!(told.removed_exceptions, [address("10.80.9.9")]);

    // And the other way, for one on another node.
    let fixed = WorkloadSpec { addresses: vec![address("10.80.8.8")], ..spec("kv", 1) };
    fleet.apply(fixed).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("kv-0").unwrap(), "n2");
    add(&mut fleet, "n1", Some("10.80.8.0/24")).unwrap();
    assert_eq!(prefixes(&fleet).last().unwrap(), "10.80.8.8/32 n2");
    fleet.command(Command::RemoveWorkload(workload("db"))).unwrap();
    fleet.settle();
    fleet.drain("n2");
    fleet.settle();
    assert_eq!(prefixes(&fleet).len(), 4, "it has come home");
    fleet.check();
    fleet.restart_controller();
    assert_eq!(prefixes(&fleet).len(), 4);
}

#[test]
fn what_is_no_block_or_somebody_elses_is_refused() {
    let mut fleet = Fleet::new(Settings {
        static_range: Some(block("10.80.5.0/26")),
        ..settings_of("10.80.0.0/16", 24)
    });
    for name in ["n1", "n2"] {
        fleet.join(name).unwrap();
        fleet.attach(&node(name)).unwrap();
    }
    for (which, says) in [
        ("10.80.1.0/24", "10.80.1.0/24 is of n2; leave it out"),
        ("10.80.0.0/24", "10.80.0.0/24 is of n1; leave it out"),
        (
            "10.80.9.0/25",
            "10.80.9.0/25 is no block of this cluster: its blocks are the /24 networks of 10.80.0.0/16",
        ),
        ("10.80.9.7/24", "10.80.9.7/24 is no block of this cluster"),
        ("10.81.0.0/24", "10.81.0.0/24 is no block of this cluster"),
        (
            "10.80.5.0/24",
            "in 10.80.5.0/24 are addresses that are only given to instances which ask for them",
        ),
    ] {
        let refused = add(&mut fleet, "n1", Some(which)).unwrap_err().to_string();
        assert!(refused.starts_with(says), "{refused}");
    }
    let refused = retire(&mut fleet, "n1", "10.80.1.0/24").unwrap_err().to_string();
    assert!(refused.starts_with("n1 gives out no addresses of 10.80.1.0/24"), "{refused}");
    assert!(matches!(add(&mut fleet, "n9", None), Err(Refusal::NoNode(_))));

    // Whoever does not know of several blocks would have no route to them.
    fleet.hosts.get_mut(&node("n2")).unwrap().knows_no_blocks = true;
    fleet.attach(&node("n2")).unwrap();
    assert_eq!(
        add(&mut fleet, "n1", None).unwrap_err().to_string(),
        "the agent of n2 is of a version that knows of one block a node; upgrade it first"
    );
    fleet.hosts.get_mut(&node("n2")).unwrap().knows_no_blocks = false;
    fleet.attach(&node("n2")).unwrap();

    // One that was retired comes back, and a node that is removed has none.
    let more = add(&mut fleet, "n1", None).unwrap();
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    retire(&mut fleet, "n1", "10.80.0.0/24").unwrap();
    add(&mut fleet, "n1", Some("10.80.0.0/24")).unwrap();
    assert_eq!(blocks_of(&fleet, "n1"), [more, "10.80.0.0/24".to_owned()]);
    fleet.drain("n1");
    fleet.settle();
    fleet.command(Command::RemoveNode { node: node("n1"), force: false }).unwrap();
    assert!(blocks_of(&fleet, "n1").is_empty());
    assert!(fleet.model.assignment_since(&node("n1"), Revision(0)).is_none());
    assert_eq!(prefixes(&fleet).len(), 2, "there is one block, and what has kept its address");
}

#[test]
fn the_range_can_be_widened() {
    let mut fleet = small();
    for name in ["n3", "n4", "n5", "n6", "n7", "n8"] {
        fleet.join(name).unwrap();
    }
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let before = (fleet.address("web-0"), fleet.address("web-1"));
    assert!(matches!(add(&mut fleet, "n1", None), Err(Refusal::BlocksExhausted { .. })));
    fleet.restart_with(settings_of("10.80.0.0/25", 29));
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    assert_eq!(add(&mut fleet, "n1", None).unwrap(), "10.80.0.64/29");
    fleet.settle();
    assert_eq!((fleet.address("web-0"), fleet.address("web-1")), before);
    let told = fleet.model.assignment(&node("n2")).network;
    assert_eq!(told.cluster, block("10.80.0.0/25").into());
    fleet.check();
}

#[test]
fn a_second_range_is_used_when_the_first_is_full_and_left_out_when_it_is_empty() {
    let mut fleet = small();
    for name in ["n3", "n4", "n5", "n6", "n7", "n8"] {
        fleet.join(name).unwrap();
    }
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let before = (fleet.address("web-0"), fleet.address("web-1"));
    let full = fleet.join("n9").unwrap_err().to_string();
    assert!(full.contains("all 8 node blocks of 10.80.0.0/26 are taken"), "{full}");

    fleet.restart_with(settings_of("10.80.0.0/26, 172.20.0.0/28", 29));
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    let told = fleet.model.assignment(&node("n2")).network;
    assert_eq!(told.cluster.to_string(), "10.80.0.0/26, 172.20.0.0/28");

    // Whoever knows one range would take the other for the world outside.
    fleet.hosts.get_mut(&node("n2")).unwrap().knows_no_ranges = true;
    fleet.attach(&node("n2")).unwrap();
    let old =
        "the agent of n2 is of a version that knows of one range of addresses; upgrade it first";
    assert_eq!(fleet.join("n9").unwrap_err().to_string(), old);
    assert_eq!(add(&mut fleet, "n1", None).unwrap_err().to_string(), old);
    assert_eq!(fleet.apply(fixed("own", &["172.20.0.3"])).unwrap_err().to_string(), old);
    fleet.hosts.get_mut(&node("n2")).unwrap().knows_no_ranges = false;
    fleet.attach(&node("n2")).unwrap();

    fleet.join("n9").unwrap();
    fleet.attach(&node("n9")).unwrap();
    assert_eq!(blocks_of(&fleet, "n9"), ["172.20.0.0/29"]);
    assert_eq!(add(&mut fleet, "n1", Some("172.20.0.8/29")).unwrap(), "172.20.0.8/29");
    fleet.apply(fixed("own", &["172.20.0.3"])).unwrap();
    fleet.apply(spec("web", 16)).unwrap();
    fleet.settle();
    assert_eq!((fleet.address("web-0"), fleet.address("web-1")), before);
    assert_eq!(fleet.address("own-0").unwrap(), "172.20.0.3");
    let there = fleet.model.instances(&InstanceFilter::default());
    let second = there.iter().filter_map(|it| it.instance.identity);
    let second = second.filter(|it| block("172.20.0.0/28").contains(&it.address)).count();
    assert!(second > 1, "only {second} of {} are of the second range", there.len());
    fleet.check();
}
