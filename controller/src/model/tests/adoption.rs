//! Hosts that joined after a backup.

use super::fleet::{Fleet, Snapshot, address, node, spec};
use crate::model::{Command, NodeChange, Refusal, Superseded};

/// A fleet of one node in a history of its own, and its backup; then n2 has joined, and web-1 runs there.
fn fleet_and_backup() -> (Fleet, Snapshot) {
    let mut fleet = Fleet::of(0);
    fleet.begin(7, None);
    fleet.join("n1").unwrap();
    fleet.attach(&node("n1")).unwrap();
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let backup = fleet.backup();
    for name in ["n2", "n3"] {
        fleet.join(name).unwrap();
        fleet.attach(&node(name)).unwrap();
    }
    fleet.settle();
    fleet.drain("n1");
    fleet.settle();
    (fleet, backup)
}

/// A host that is not known attaches.
fn return_of(fleet: &mut Fleet, name: &str, from: &str) -> Result<(), Refusal> {
    let hello = Box::new(fleet.hosts[&node(name)].hello(address(from)));
    let enrolment = format!("the key of {name}");
    fleet.command(Command::AdoptNode { node: node(name), enrolment, hello })?;
    fleet.attach(&node(name))?;
    fleet.fetch(&node(name));
    Ok(())
}

#[test]
fn a_host_that_joined_after_the_backup_is_a_node_again_and_keeps_what_it_runs() {
    let (mut fleet, backup) = fleet_and_backup();
    let places = |fleet: &Fleet| ["web-0", "web-1"].map(|name| fleet.place(name).unwrap());
    let before = places(&fleet);
    assert!(!before.contains(&"n1".to_owned()), "{before:?}");
    let blocks = |fleet: &Fleet| {
        let nodes = ["n2", "n3"].map(|name| fleet.model.node(&node(name)).unwrap().node.block);
        nodes.map(Option::unwrap)
    };
    let had = blocks(&fleet);

    fleet.restore(backup);
    fleet.begin(99, Some("the mark says so".to_owned()));
    fleet.attach(&node("n1")).unwrap();
    // The blocks do not depend on who comes first.
    return_of(&mut fleet, "n3", "192.168.0.3").unwrap();
    assert!(fleet.model.restore_view().missing.is_empty());
    return_of(&mut fleet, "n2", "192.168.0.2").unwrap();
    assert_eq!(blocks(&fleet), had);
    assert_eq!(places(&fleet), before, "the store follows the newer claims");
    let view = fleet.model.restore_view();
    assert_eq!(view.adopted, [node("n2"), node("n3")]);
    let enrolment = fleet.model.node(&node("n2")).unwrap().node.enrolment.clone();
    assert_eq!(enrolment, "the key of n2");
    let told = fleet.model.events(Some("node/n2"), 10);
    assert!(told.iter().any(|event| event.reason == "node-adopted"), "{told:?}");
    let running =
        |fleet: &Fleet| fleet.hosts.values().map(|host| host.containers.len()).collect::<Vec<_>>();
    let containers = running(&fleet);
    for name in ["n1", "n2", "n3"] {
        fleet.sync(&node(name));
    }
    assert_eq!(running(&fleet), containers, "nothing is taken away before somebody has decided");

    fleet.command(Command::ConfirmRestore { force: false }).unwrap();
    let told = fleet.model.events(Some("cluster"), 1).pop().unwrap();
    assert!(told.message.contains("n2, n3"), "{}", told.message);
    assert!(fleet.model.restore_view().adopted.is_empty());
    fleet.settle();
    fleet.check();
    assert_eq!(places(&fleet), before);
}

#[test]
fn what_an_adopted_node_runs_and_nobody_knows_ends_with_the_confirmation() {
    let (mut fleet, backup) = fleet_and_backup();
    fleet.apply(spec("ghost", 1)).unwrap();
    fleet.settle();
    let home = fleet.place("ghost-0").unwrap();
    fleet.restore(backup);
    fleet.begin(99, Some("the mark says so".to_owned()));
    fleet.attach(&node("n1")).unwrap();
    return_of(&mut fleet, "n2", "192.168.0.2").unwrap();
    return_of(&mut fleet, "n3", "192.168.0.3").unwrap();
    let unknown = fleet.model.restore_view().unknown;
    let found: Vec<_> = unknown.iter().map(|(node, claim)| (node, &claim.instance)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].0.as_str(), found[0].1.to_string()),
        (home.as_str(), "ghost-0".to_owned())
    );
    fleet.command(Command::ConfirmRestore { force: false }).unwrap();
    fleet.settle();
    fleet.check();
    assert_eq!(fleet.place("ghost-0"), None);
}

#[test]
fn a_host_that_is_not_known_is_a_node_only_if_that_proves_a_restore() {
    let (mut fleet, backup) = fleet_and_backup();
    fleet.restore(backup);
    fleet.begin(99, None);
    assert!(!fleet.model.is_unconfirmed());
    // It holds nothing, and so proves nothing.
    let hello = Box::new(super::fleet::Host::default().hello(address("192.168.0.9")));
    let adopt = |node, hello| Command::AdoptNode { node, enrolment: String::new(), hello };
    let refused = fleet.command(adopt(node("n9"), hello.clone())).unwrap_err();
    assert_eq!(refused, Refusal::NotANode(node("n9")));
    // It holds what the store could not have given it.
    return_of(&mut fleet, "n2", "192.168.0.2").unwrap();
    assert!(fleet.model.is_unconfirmed());
    assert_eq!(fleet.model.restore_view().adopted, [node("n2")]);
    // One that holds nothing may be a copy, and loses nothing by joining again.
    let refused = fleet.command(adopt(node("n9"), hello)).unwrap_err();
    assert_eq!(refused, Refusal::NotANode(node("n9")));
    // Nobody has an address that is another's.
    let hello = Box::new(fleet.hosts[&node("n3")].hello(address("192.168.0.2")));
    let taken = fleet.command(adopt(node("n3"), hello)).unwrap_err();
    let holder = node("n2");
    assert_eq!(taken, Refusal::NodeAddressTaken { address: address("192.168.0.2"), holder });
}

/// Or a node that has got another address since the backup is cut off until then.
#[test]
fn an_address_can_be_put_right_while_a_restore_is_unconfirmed() {
    let (mut fleet, backup) = fleet_and_backup();
    let known = fleet.model.node(&node("n1")).unwrap().node.address;
    let say = |address| NodeChange { address: Some(address), ..NodeChange::default() };
    fleet.update_node("n1", say(address("192.168.0.77"))).unwrap();
    fleet.restore(backup);
    fleet.begin(99, Some("the mark says so".to_owned()));
    return_of(&mut fleet, "n2", "192.168.0.2").unwrap();
    let at = |fleet: &Fleet| fleet.model.assignment(&node("n2")).network.peers[&node("n1")].address;
    assert_eq!(at(&fleet), known);

    fleet.update_node("n1", say(address("192.168.0.77"))).unwrap();
    assert_eq!(at(&fleet), address("192.168.0.77"));
    assert!(fleet.model.is_unconfirmed());
    for change in [
        NodeChange { draining: Some(true), ..say(address("192.168.0.78")) },
        NodeChange { pool: Some(None), ..NodeChange::default() },
        NodeChange { remove_labels: vec!["rack".to_owned()], ..NodeChange::default() },
    ] {
        let refused = fleet.update_node("n1", change).unwrap_err();
        assert_eq!(refused, Refusal::RestoreUnconfirmed);
    }
    fleet.check();
}

/// While it is not decided which of two machines a node is, it has not been heard of.
#[test]
fn an_admission_while_a_restore_is_unconfirmed_is_done_and_has_the_node_speak_again() {
    let (mut fleet, backup) = fleet_and_backup();
    fleet.restore(backup);
    fleet.begin(99, Some("the mark says so".to_owned()));
    for (run, session) in [(1, 501), (2, 502), (1, 503)] {
        let hello = fleet.hosts[&node("n1")].hello(address("192.168.0.1"));
        let hello = Box::new(dwell_core::session::Hello { run, ..hello });
        let session = crate::model::SessionId(session);
        let enrolment = fleet.model.node(&node("n1")).unwrap().node.enrolment.clone();
        drop(fleet.command(Command::AttachNode { node: node("n1"), enrolment, session, hello }));
    }
    assert!(fleet.model.node(&node("n1")).unwrap().node.contested);
    let refused = fleet.command(Command::ConfirmRestore { force: false }).unwrap_err();
    assert_eq!(refused, Refusal::NodesNotHeard { count: 1, example: node("n1") });
    let admit = NodeChange { admit: true, ..NodeChange::default() };
    fleet.update_node("n1", admit).unwrap();
    assert_eq!(fleet.model.restore_view().missing, [node("n1")]);
    fleet.attach(&node("n1")).unwrap();
    assert!(fleet.model.restore_view().missing.is_empty());
    fleet.command(Command::ConfirmRestore { force: false }).unwrap();
}

/// A host that took a name over after the backup is not the one that the backup knows by that name.
#[test]
fn a_host_whose_name_is_anothers_in_the_backup_is_listed_where_it_was_seen_last() {
    let (mut fleet, backup) = fleet_and_backup();
    fleet.restore(backup);
    fleet.begin(99, Some("the mark says so".to_owned()));
    let listed = |fleet: &Fleet| fleet.model.restore_view().superseded;
    assert_eq!(listed(&fleet), []);
    for (from, instances) in [("192.168.0.8", 0), ("192.168.0.9", 2)] {
        let back = Command::NoteDismissed {
            node: node("n1"),
            enrolment: "the key of another host".into(),
            address: address(from),
            instances,
        };
        fleet.command(back).unwrap();
    }
    let host = Superseded { node: node("n1"), address: address("192.168.0.9"), instances: 2 };
    assert_eq!(listed(&fleet), [host]);
    fleet.command(Command::ConfirmRestore { force: true }).unwrap();
    fleet.check();
}
