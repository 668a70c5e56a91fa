//! What nodes are told of the network: how little, and in which order.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dwell_core::id::{Incarnation, NodeName, Position, Revision};
use dwell_core::session::{AssignmentDelta, NetworkDelta, StatusReport};

use super::fleet::{Fleet, address, arrived, instance, node, settings, spec};
use super::reads::{large, quickly};
use crate::model::{Command, NodeChange, Settings};

fn since(fleet: &Fleet, name: &str, base: Revision) -> AssignmentDelta {
    fleet.model.assignment_since(&node(name), base).unwrap()
}

fn lives_on(text: &str, name: &str) -> BTreeMap<Ipv4Addr, NodeName> {
    BTreeMap::from([(address(text), node(name))])
}

#[test]
fn an_instance_at_home_is_no_news_for_the_other_nodes() {
    let mut fleet = Fleet::of(3);
    let base = fleet.model.revision();
    let specs = vec![spec("web", 1)];
    let command = Command::ApplyWorkloads {
        specs,
        keep_replicas: std::collections::BTreeSet::new(),
        dry_run: false,
        force: false,
        planned: Vec::new(),
        by: String::new(),
    };
    let applied = fleet.model.apply(command, fleet.now).unwrap();
    let touched = fleet.model.publish(applied.changes);
    assert_eq!((touched.nodes, touched.everyone), ([node("n1")].into(), false));
    assert_eq!(since(&fleet, "n1", base).network_delta, NetworkDelta::default());
    assert!(since(&fleet, "n2", base).is_empty());
}

#[test]
fn a_move_is_one_exception_announced_with_the_new_assignment() {
    let mut fleet = Fleet::of(4);
    let mut web = spec("web", 1);
    web.placement.constraints = vec!["disk==ssd".parse().unwrap()];
    for name in ["n1", "n2", "n3"] {
        let labels = [("disk".into(), "ssd".into())].into();
        fleet.update_node(name, NodeChange { set_labels: labels, ..Default::default() }).unwrap();
    }
    fleet.apply(web).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n1");
    let at = "10.80.0.1";

    // As long as the old node has not confirmed, everybody's way leads there.
    let base = fleet.model.revision();
    fleet.drain("n1");
    assert_eq!(since(&fleet, "n1", base).removed, [instance("web-0")]);
    assert!(since(&fleet, "n2", base).is_empty() && since(&fleet, "n4", base).is_empty());
    fleet.sync(&node("n1"));
    for (name, instances) in [("n1", 0), ("n2", 1), ("n4", 0)] {
        let delta = since(&fleet, name, base);
        assert_eq!(delta.network_delta.exceptions, lives_on(at, "n2"));
        assert!(
            delta.network_delta.removed_exceptions.is_empty()
                && delta.network_delta.peers.is_empty()
        );
        assert_eq!(delta.changed.len(), instances, "with the same message");
    }

    // From there to a third: replaced, and at no revision nowhere.
    fleet.settle();
    let base = fleet.model.revision();
    fleet.drain("n2");
    assert!(since(&fleet, "n4", base).is_empty());
    fleet.sync(&node("n2"));
    let delta = since(&fleet, "n4", base);
    assert_eq!(delta.network_delta.exceptions, lives_on(at, "n3"));
    assert!(delta.network_delta.removed_exceptions.is_empty());

    // And home.
    fleet.settle();
    let open = NodeChange { cordoned: Some(false), ..NodeChange::default() };
    fleet.update_node("n1", open).unwrap();
    let base = fleet.model.revision();
    fleet.drain("n3");
    fleet.sync(&node("n3"));
    assert_eq!(since(&fleet, "n4", base).network_delta.removed_exceptions, [address(at)]);
    assert_eq!(since(&fleet, "n1", base).changed.len(), 1, "with the same message");
}

#[test]
fn a_node_that_is_gone_or_elsewhere_is_one_peer() {
    let mut fleet = Fleet::of(3);
    let base = fleet.model.revision();
    fleet.command(Command::RemoveNode { node: node("n3"), force: false }).unwrap();
    assert_eq!(since(&fleet, "n1", base).network_delta.removed_peers, [node("n3")]);
    assert!(fleet.model.assignment_since(&node("n3"), base).is_none(), "its own: all anew");
    // Its stream has ended; it comes back and is told so.
    fleet.attach(&node("n3")).unwrap();
    fleet.sync(&node("n3"));
    assert_eq!(fleet.hosts[&node("n3")].held.as_ref().unwrap().network.block, None);

    // What the others do is nothing to a removed node.
    let base = fleet.model.revision();
    fleet.join("n4").unwrap();
    assert!(since(&fleet, "n3", base).is_empty());
    assert_eq!(since(&fleet, "n1", base).network_delta.peers.len(), 1);
}

#[test]
fn what_a_change_costs_does_not_grow_with_the_fleet() {
    let (mut fleet, sessions) = large(1_000, 2_000);
    let now = fleet.now;
    // Five hundred addresses live outside of their block already.
    let mut fixed = spec("fixed", 500);
    let last = (1..=250u8).flat_map(|last| [(0, last), (1, last)]);
    fixed.addresses = last.map(|(third, last)| [10, 200, third, last].into()).collect();
    let command = Command::ApplyWorkloads {
        specs: vec![fixed],
        keep_replicas: std::collections::BTreeSet::new(),
        dry_run: false,
        force: false,
        planned: Vec::new(),
        by: String::new(),
    };
    quickly(&mut fleet.model, command, now);
    let name = fleet.place("w0-0").unwrap();
    let index: usize = name[1..].parse().unwrap();
    let base = fleet.model.revision();
    let change = NodeChange { draining: Some(true), ..NodeChange::default() };
    quickly(&mut fleet.model, Command::UpdateNode { node: node(&name), change }, now);
    for noted in arrived(&fleet.model) {
        quickly(&mut fleet.model, noted, now);
    }
    let report = StatusReport {
        seen_under: Position {
            incarnation: Incarnation::UNKNOWN,
            revision: fleet.model.revision(),
        },
        gone: vec![instance("w0-0")],
        ..Default::default()
    };
    let (session, from) = (sessions[index], node(&name));
    let (acknowledged, stored) = (from.clone(), report.seen_under);
    let acknowledge = Command::Acknowledge { node: acknowledged, session, stored };
    quickly(&mut fleet.model, acknowledge, now);
    quickly(&mut fleet.model, Command::NodeStatus { node: from, session, report }, now);

    let begun = Instant::now();
    for _ in 0..1_000 {
        let delta = since(&fleet, "n999", base);
        // Those that were on the drained node, out of 2,000 instances and 500 older exceptions.
        assert!(
            (1..=3).contains(&delta.network_delta.exceptions.len()),
            "{:?}",
            delta.network_delta
        );
        let rest = NetworkDelta { exceptions: BTreeMap::new(), ..delta.network_delta };
        assert!(rest.is_empty() && delta.removed.is_empty());
    }
    let moved = begun.elapsed();
    // A walk over all nodes or instances for each would take minutes.
    assert!(moved < Duration::from_secs(10), "1000 deltas took {moved:?}");

    let base = fleet.model.revision();
    fleet.join_quickly(1_000, crate::model::SessionId(9_999));
    let delta = since(&fleet, "n999", base);
    assert_eq!((delta.network_delta.peers.len(), delta.network_delta.exceptions.len()), (1, 0));
}

#[test]
fn a_node_too_far_behind_the_network_gets_everything() {
    let mut fleet = Fleet::of(2);
    let base = fleet.model.revision();
    let (home, away) = (["192.168.0.2", "192.168.9.2"], node("n2"));
    for index in 0..=crate::model::network::LOG_MAX {
        let address = Some(address(home[(index + 1) % 2]));
        let change = NodeChange { address, ..NodeChange::default() };
        let command = Command::UpdateNode { node: away.clone(), change };
        quickly(&mut fleet.model, command, fleet.now);
    }
    assert!(fleet.model.assignment_since(&node("n1"), base).is_none());
}

#[test]
fn isolation_zone_and_prefix_come_with_the_network() {
    let ipv6 = "fd00:5::/64".parse().ok();
    let zone = "fleet".to_owned();
    let mut fleet = Fleet::new(Settings { closed: true, zone, ipv6, ..settings() });
    fleet.join("n1").unwrap();
    let network = fleet.model.assignment(&node("n1")).network;
    assert_eq!((network.closed, network.zone.as_str(), network.ipv6), (true, "fleet", ipv6));
}

#[test]
fn a_node_is_told_by_which_address_it_is_known() {
    let mut fleet = Fleet::of(2);
    let told = |fleet: &Fleet| fleet.model.assignment(&node("n1")).network.address;
    assert_eq!(told(&fleet), Some(address("192.168.0.1")));
    let base = fleet.model.revision();
    let new = Some(address("192.168.0.77"));
    fleet.update_node("n1", NodeChange { address: new, ..NodeChange::default() }).unwrap();
    assert_eq!(told(&fleet), new);
    // It is not left with the old one.
    assert!(fleet.model.assignment_since(&node("n1"), base).is_none(), "all of it is sent");
    fleet.sync(&node("n1"));
    assert_eq!(fleet.hosts[&node("n1")].held.as_ref().unwrap().network.address, new);
    fleet.command(Command::RemoveNode { node: node("n1"), force: true }).unwrap();
    assert_eq!(told(&fleet), None);
}
