//! Joining, being heard of, being lost, being removed; restarts and faults of the controller.

use dwell_core::clock::Timestamp;
use dwell_core::id::{Incarnation, Position, Revision};
use dwell_core::instance::Phase;
use dwell_core::node::NodeState;
use dwell_core::session::StatusReport;

use super::fleet::{Fleet, Host, address, instance, node, settings, spec, workload};
use crate::model::{Command, Join, NodeChange, Refusal, RefusalClass, SessionId, TokenId};

fn heartbeat(fleet: &mut Fleet, name: &str) {
    let session = fleet.hosts[&node(name)].session.unwrap();
    let beat = Command::Heartbeat { node: node(name), session, capacity: None };
    fleet.command(beat).unwrap();
}

fn state(fleet: &Fleet, name: &str) -> NodeState {
    fleet.model.node(&node(name)).unwrap().state
}

/// A place in the history of the controller.
fn at(revision: u64) -> Position {
    Position { incarnation: Incarnation::UNKNOWN, revision: Revision(revision) }
}

#[test]
fn tokens_are_good_once_and_for_a_while() {
    let mut fleet = Fleet::new(settings());
    let (token, digest) = fleet.mint();
    let join = Join {
        token,
        digest,
        name: node("n1"),
        address: address("192.168.0.1"),
        enrolment: "c".into(),
        routes_only: false,
        host_mark: None,
    };
    let cases = [
        Join { token: TokenId("unknown".into()), ..join.clone() },
        Join { digest: [8; 32], ..join.clone() },
    ];
    for wrong in cases {
        assert_eq!(fleet.command(Command::RedeemToken(wrong)).unwrap_err(), Refusal::TokenInvalid);
    }
    fleet.command(Command::RedeemToken(join.clone())).unwrap();
    let again = Join { name: node("n2"), address: address("192.168.0.2"), ..join };
    let refusal = fleet.command(Command::RedeemToken(again.clone())).unwrap_err();
    assert_eq!((refusal.class(), refusal), (RefusalClass::Denied, Refusal::TokenInvalid));

    let (token, digest) = fleet.mint();
    let late = Join { token, digest, ..again };
    fleet.now = Timestamp(fleet.now.0 + 3_600_000);
    assert_eq!(fleet.command(Command::RedeemToken(late)).unwrap_err(), Refusal::TokenInvalid);
    fleet.pass(1);
    assert!(fleet.model.tables.tokens().is_empty(), "what is worth nothing is forgotten");
}

#[test]
fn names_and_addresses_of_nodes_are_their_own() {
    let mut fleet = Fleet::of(1);
    assert_eq!(fleet.join("n1").unwrap_err(), Refusal::NodeExists(node("n1")));
    let (token, digest) = fleet.mint();
    let twin = Join {
        token,
        digest,
        name: node("n2"),
        address: address("192.168.0.1"),
        enrolment: "c".into(),
        routes_only: false,
        host_mark: None,
    };
    let refusal = fleet.command(Command::RedeemToken(twin)).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "192.168.0.1 is node n1's address; every node needs one of its own"
    );
}

#[test]
fn a_node_for_the_routes_runs_nothing() {
    let mut fleet = Fleet::of(1);
    let (token, digest) = fleet.mint();
    fleet
        .command(Command::RedeemToken(Join {
            token,
            digest,
            name: node("n2"),
            address: address("192.168.0.2"),
            enrolment: "c".into(),
            routes_only: true,
            host_mark: None,
        }))
        .unwrap();
    fleet.hosts.insert(node("n2"), Host::default());
    fleet.attach(&node("n2")).unwrap();
    fleet.apply(spec("web", 4)).unwrap();
    fleet.settle();
    assert_eq!(fleet.model.node(&node("n1")).unwrap().instances, 4);
    let network = fleet.model.assignment(&node("n2")).network;
    assert_eq!(network.block, None);
    assert_eq!(network.peers[&node("n1")].block.unwrap().to_string(), "10.80.0.0/24");
}

#[test]
fn a_node_names_what_it_cannot_look_at() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 3)).unwrap();
    fleet.settle();
    let message = |fleet: &Fleet| fleet.model.node(&node("n1")).unwrap().message;
    let report = |fleet: &mut Fleet, doubtful: &[&str]| {
        let mut report = fleet.hosts[&node("n1")].look();
        for status in &mut report.instances {
            if doubtful.contains(&status.instance.to_string().as_str()) {
                status.phase = Phase::Unknown;
            }
        }
        fleet.deliver(&node("n1"), report).unwrap();
    };
    assert_eq!(message(&fleet), "");
    report(&mut fleet, &["web-1"]);
    assert_eq!(message(&fleet), "cannot look at web-1");
    report(&mut fleet, &["web-0", "web-1", "web-2"]);
    assert_eq!(message(&fleet), "cannot look at web-0 and 2 more");
    report(&mut fleet, &[]);
    assert_eq!(message(&fleet), "");
}

#[test]
fn a_silent_node_is_unreachable_then_down_and_keeps_its_instances() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    for (seconds, expected, phase) in [
        (14, NodeState::Ready, Phase::Running),
        (1, NodeState::Unreachable, Phase::Unknown),
        (104, NodeState::Unreachable, Phase::Unknown),
        (1, NodeState::Down, Phase::Unknown),
        (9_999, NodeState::Down, Phase::Unknown),
    ] {
        fleet.pass(seconds);
        heartbeat(&mut fleet, "n2");
        assert_eq!(state(&fleet, "n1"), expected);
        assert_eq!(fleet.phase("web-0"), phase);
        assert_eq!(fleet.place("web-0").unwrap(), "n1");
        assert_eq!(fleet.phase("web-1"), Phase::Running);
    }
    assert_eq!(fleet.message("web-0"), "n1 is not heard of; it was running when last seen");
    assert_eq!(fleet.assigned_to("n1").len(), 1, "it may still be running it");
    // It may only be cut off: whoever is shown the way out is told when it is one.
    let message = fleet.model.node(&node("n1")).unwrap().message;
    let only_if = message.find("Only if its host is switched off or destroyed").unwrap();
    assert!(message.find("rm --force").unwrap() > only_if, "{message}");

    fleet.command(Command::Scale { workload: workload("web"), replicas: 3 }).unwrap();
    assert_eq!(fleet.place("web-2").unwrap(), "n2", "nothing new goes there");

    heartbeat(&mut fleet, "n1");
    assert_eq!(state(&fleet, "n1"), NodeState::Ready);
    assert_eq!(fleet.phase("web-0"), Phase::Running);
}

#[test]
fn removal_needs_an_empty_node_or_force() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let remove = |force| Command::RemoveNode { node: node("n1"), force };
    assert_eq!(
        fleet.command(remove(false)).unwrap_err().to_string(),
        "node n1 still has 1 instance (web-0); drain it first (`dwell node drain n1`)"
    );
    let before = fleet.model.instance(&instance("web-0")).unwrap().instance;
    fleet.pass(200);
    heartbeat(&mut fleet, "n2");
    fleet.command(remove(true)).unwrap();
    let after = fleet.model.instance(&instance("web-0")).unwrap().instance;
    assert_eq!(after.node, Some(node("n2")));
    assert_eq!(after.identity, before.identity);
    assert!(after.generation > before.generation, "the dead node's claim is older");
    assert!(fleet.model.nodes().iter().all(|view| view.node.name != node("n1")));

    // It was not dead after all: it is told to run nothing, and nothing it says counts.
    fleet.attach(&node("n1")).unwrap();
    fleet.fetch(&node("n1"));
    assert!(fleet.hosts[&node("n1")].assigned().is_empty());
    assert_eq!(fleet.phase("web-0"), Phase::Pending);
    assert_eq!(fleet.model.events(Some("node/n1"), 1)[0].reason, "node-returned");
    let network = fleet.model.assignment(&node("n1")).network;
    assert!(network.peers.is_empty() && network.block.is_none());

    fleet.join("n1").unwrap();
    fleet.attach(&node("n1")).unwrap();
    assert_eq!(state(&fleet, "n1"), NodeState::Ready);
    fleet.settle();
}

#[test]
fn only_the_newest_stream_speaks_for_a_node() {
    let mut fleet = Fleet::of(1);
    let old = fleet.hosts[&node("n1")].session.unwrap();
    fleet.attach(&node("n1")).unwrap();
    for command in [
        Command::Heartbeat { node: node("n1"), session: old, capacity: None },
        Command::NodeStatus { node: node("n1"), session: old, report: StatusReport::default() },
        Command::Acknowledge { node: node("n1"), session: old, stored: at(1) },
    ] {
        let refusal = fleet.command(command).unwrap_err();
        assert_eq!(refusal, Refusal::SessionSuperseded(node("n1")));
    }
    // Its end is not the end of the new one.
    fleet.command(Command::DetachNode { node: node("n1"), session: old }).unwrap();
    heartbeat(&mut fleet, "n1");
    let unknown = Command::Heartbeat { node: node("n9"), session: SessionId(1), capacity: None };
    assert_eq!(fleet.command(unknown).unwrap_err(), Refusal::NoNode(node("n9")));
}

#[test]
fn a_node_speaks_only_of_its_own_instances() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let mut forged = fleet.hosts[&node("n1")].look();
    forged.instances[0].instance = instance("web-1");
    forged.instances[0].phase = Phase::Failed;
    forged.complete = false;
    forged.gone = vec![instance("web-1")];
    fleet.deliver(&node("n1"), forged).unwrap();
    assert_eq!(fleet.phase("web-1"), Phase::Running);
}

#[test]
fn a_revision_of_another_life_proves_nothing() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    let revision = Revision(u64::MAX);
    let report =
        StatusReport { seen_under: at(revision.0), complete: true, ..StatusReport::default() };
    fleet.deliver(&node("n1"), report).unwrap();
    assert!(fleet.model.instance(&instance("web-0")).is_some());
    assert!(fleet.model.node(&node("n1")).unwrap().acknowledged < revision);
}

#[test]
fn old_news_does_not_replace_newer() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let mut late = fleet.hosts[&node("n1")].look();
    late.instances[0].phase = Phase::Preparing;
    late.instances[0].observed_at = Timestamp(1);
    fleet.deliver(&node("n1"), late).unwrap();
    assert_eq!(fleet.phase("web-0"), Phase::Running);
}

#[test]
fn a_restarted_controller_knows_what_it_does_not_know() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    fleet.restart_controller();
    assert_eq!(state(&fleet, "n1"), NodeState::Unreachable);
    assert_eq!(fleet.phase("web-0"), Phase::Unknown);
    assert_eq!(fleet.model.node(&node("n1")).unwrap().last_seen, None);
    assert!(fleet.model.assignment_since(&node("n1"), Revision(5)).is_none(), "a snapshot is due");

    let before = fleet.hosts[&node("n1")].containers.clone();
    fleet.attach(&node("n1")).unwrap();
    assert_eq!(fleet.phase("web-0"), Phase::Running, "as the node said when it came back");
    assert_eq!(fleet.phase("web-1"), Phase::Unknown);
    fleet.sync(&node("n1"));
    assert_eq!(fleet.hosts[&node("n1")].containers, before, "nothing was touched");
}

#[test]
fn a_failing_store_changes_nothing() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    for command in [
        Command::ApplyWorkloads {
            specs: vec![spec("db", 3), spec("web", 5)],
            keep_replicas: std::collections::BTreeSet::new(),
            dry_run: false,
            force: false,
            planned: Vec::new(),
            by: String::new(),
        },
        Command::RemoveWorkload(workload("web")),
        Command::UpdateNode {
            node: node("n1"),
            change: NodeChange { draining: Some(true), ..NodeChange::default() },
        },
        Command::MintToken {
            id: TokenId("x".into()),
            digest: [0; 32],
            expires_at: Timestamp(u64::MAX),
        },
    ] {
        fleet.command_without_store(command.clone());
        fleet.check();
        fleet.command(command).unwrap();
        fleet.check();
    }
    fleet.settle();
}

#[test]
fn labels_are_checked() {
    let mut fleet = Fleet::of(1);
    for (key, value) in [("", "x"), ("node.name", "x"), ("a\n", "x"), ("a", "\u{1b}[31m")] {
        let set_labels = [(key.to_owned(), value.to_owned())].into();
        let refusal = fleet
            .update_node("n1", NodeChange { set_labels, ..NodeChange::default() })
            .unwrap_err();
        assert_eq!(refusal.class(), RefusalClass::Invalid);
        assert!(!refusal.to_string().contains('\n'));
    }
    let set_labels = (0..300).map(|n| (format!("l{n}"), String::new())).collect();
    assert!(fleet.update_node("n1", NodeChange { set_labels, ..NodeChange::default() }).is_err());
}

#[test]
fn an_instance_that_only_has_to_move_is_as_declared() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 4)).unwrap();
    fleet.settle();
    let updated = |fleet: &Fleet| fleet.model.workload(&workload("web")).unwrap().updated;
    assert_eq!(updated(&fleet), 4);
    // One has its turn to move, the other waits for its own.
    fleet.drain("n1");
    assert_eq!(updated(&fleet), 3);
    let mut web = spec("web", 4);
    web.placement.pool = Some("other".parse().unwrap());
    fleet.apply(web).unwrap();
    assert_eq!(updated(&fleet), 0, "none is where it was declared to be");
}

#[test]
fn a_drain_for_a_time_ends_by_itself_unless_somebody_says_otherwise() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let until = |fleet: &Fleet| fleet.model.node(&node("n1")).unwrap().node.until;
    let is_closed = |fleet: &Fleet| {
        let view = fleet.model.node(&node("n1")).unwrap();
        (view.node.draining, view.node.cordoned)
    };
    let drain = |fleet: &mut Fleet, seconds: Option<u64>| {
        let until = seconds.map(|seconds| Timestamp(fleet.now.0 + seconds * 1000));
        let change = NodeChange { draining: Some(true), until, ..NodeChange::default() };
        fleet.update_node("n1", change).unwrap();
    };
    drain(&mut fleet, Some(3600));
    fleet.settle();
    assert_eq!(
        (fleet.place("web-0"), fleet.place("web-1")),
        (Some("n2".into()), Some("n2".into()))
    );
    fleet.restart_controller();
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    fleet.pass(3599);
    assert_eq!(is_closed(&fleet), (true, true));
    fleet.attach(&node("n1")).unwrap();
    fleet.pass(1);
    assert_eq!((is_closed(&fleet), until(&fleet)), ((false, false), None));
    let told = fleet.model.events(Some("node/n1"), 1).remove(0);
    assert!(told.message.contains("the time for which it was drained is over"), "{told:?}");

    // The last word counts: another time, no time, or none of it.
    drain(&mut fleet, Some(10));
    drain(&mut fleet, Some(100));
    fleet.pass(50);
    assert_eq!(is_closed(&fleet), (true, true));
    drain(&mut fleet, None);
    fleet.pass(1000);
    assert_eq!((is_closed(&fleet), until(&fleet)), ((true, true), None));
    drain(&mut fleet, Some(10));
    fleet.update_node("n1", NodeChange { cordoned: Some(true), ..NodeChange::default() }).unwrap();
    fleet.pass(1000);
    assert_eq!(is_closed(&fleet), (true, true), "it was cordoned for good after that");
    drain(&mut fleet, Some(10));
    fleet.update_node("n1", NodeChange { cordoned: Some(false), ..NodeChange::default() }).unwrap();
    assert_eq!((is_closed(&fleet), until(&fleet)), ((false, false), None));
}
