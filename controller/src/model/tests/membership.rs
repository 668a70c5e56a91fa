//! Who is a node and who is not.

use dwell_core::host_mark::HostMark;
use dwell_core::session::{Hello, StatusReport};
use dwell_core::workload::{Mount, MountSource};

use super::fleet::{Fleet, address, instance, node, spec};
use crate::model::{Command, NodeChange, Record, Refusal, Reply, SessionId};

/// A run of n1's agent attaches, from a host at this address.
fn run(fleet: &mut Fleet, run: u64, session: u64, from: &str) -> Result<(), Refusal> {
    let status = StatusReport { complete: true, ..StatusReport::default() };
    let hello = Hello { run, status, capacity: Fleet::capacity(), ..Hello::of(address(from)) };
    let (node, session) = (node("n1"), SessionId(session));
    let enrolment = fleet.enrolment(&node);
    fleet
        .command(Command::AttachNode { node, enrolment, session, hello: Box::new(hello) })
        .map(drop)
}

#[test]
fn a_stream_that_was_begun_under_an_earlier_enrolment_is_not_the_nodes() {
    let mut fleet = Fleet::of(1);
    let hello =
        Box::new(Hello { capacity: Fleet::capacity(), ..Hello::of(address("192.168.0.1")) });
    let attach = |enrolment: &str, session| Command::AttachNode {
        node: node("n1"),
        enrolment: enrolment.to_owned(),
        session: SessionId(session),
        hello: hello.clone(),
    };
    let refused = fleet.command(attach("the one before", 700)).unwrap_err();
    assert_eq!(refused, Refusal::SessionSuperseded(node("n1")));
    let own = fleet.enrolment(&node("n1"));
    fleet.command(attach(&own, 701)).unwrap();
}

fn reasons(fleet: &Fleet, subject: &str) -> Vec<String> {
    fleet.model.events(Some(subject), 10).iter().map(|event| event.reason.clone()).collect()
}

#[test]
fn two_hosts_with_one_identity_are_noticed_and_refused_until_an_operator_decides() {
    let mut fleet = Fleet::of(1);
    run(&mut fleet, 1, 101, "192.168.0.1").unwrap();
    // An agent that was restarted is not a second host.
    run(&mut fleet, 2, 102, "192.168.0.1").unwrap();
    fleet.model.check_session(&node("n1"), SessionId(102)).unwrap();

    // The copy takes the stream, and the first one comes back for it.
    run(&mut fleet, 3, 103, "192.168.0.1").unwrap();
    run(&mut fleet, 2, 104, "192.168.0.1").unwrap();
    let contested = Refusal::NodeContested(node("n1"));
    for session in [103, 104] {
        let spoken = fleet.model.check_session(&node("n1"), SessionId(session));
        assert_eq!(spoken, Err(contested.clone()));
    }
    assert_eq!(run(&mut fleet, 3, 105, "192.168.0.1"), Err(contested.clone()));
    assert!(reasons(&fleet, "node/n1").contains(&"node-contested".to_owned()));
    let message = fleet.model.node(&node("n1")).unwrap().message;
    assert!(message.contains("dwell node admit n1"), "{message}");
    fleet.restart_controller();
    assert_eq!(run(&mut fleet, 3, 106, "192.168.0.1"), Err(contested));

    let admit = NodeChange { admit: true, ..NodeChange::default() };
    fleet.update_node("n1", admit).unwrap();
    run(&mut fleet, 2, 107, "192.168.0.1").unwrap();
    fleet.model.check_session(&node("n1"), SessionId(107)).unwrap();
}

#[test]
fn a_node_cannot_attach_with_an_address_that_it_could_not_join_with() {
    let mut fleet = Fleet::of(2);
    for wrong in
        ["0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "169.254.1.1", "10.80.0.1"]
    {
        let refused = run(&mut fleet, 0, 201, wrong).unwrap_err();
        let expected = Refusal::NodeAddress { node: node("n1"), address: address(wrong) };
        assert_eq!(refused, expected);
    }
    let taken = run(&mut fleet, 0, 202, "192.168.0.2").unwrap_err();
    let holder = node("n2");
    assert_eq!(taken, Refusal::NodeAddressTaken { address: address("192.168.0.2"), holder });
}

/// Or a stolen node could have any host's traffic sent to it, and cut instances off from any host.
#[test]
fn what_a_node_says_of_its_address_changes_nothing_until_an_operator_says_so() {
    let mut fleet = Fleet::of(2);
    let at = |fleet: &Fleet| fleet.model.node(&node("n1")).unwrap().node.address;
    let told = |fleet: &Fleet, reason: &str| {
        let events = fleet.model.events(Some("node/n1"), 20);
        events.iter().filter(|event| event.reason == reason).count()
    };
    let peer = |fleet: &Fleet| {
        let network = fleet.model.assignment(&node("n2")).network;
        network.peers[&node("n1")].address
    };
    for session in [203, 204] {
        run(&mut fleet, 0, session, "192.168.0.77").unwrap();
        assert_eq!((at(&fleet), peer(&fleet)), (address("192.168.0.1"), address("192.168.0.1")));
    }
    assert_eq!(told(&fleet, "node-claims-address"), 1, "once");
    let message = fleet.model.node(&node("n1")).unwrap().message;
    assert!(message.contains("dwell node address n1 192.168.0.77"), "{message}");

    let say = |address_of: &str| NodeChange {
        address: Some(address(address_of)),
        ..NodeChange::default()
    };
    let holder = node("n2");
    let taken = Refusal::NodeAddressTaken { address: address("192.168.0.2"), holder };
    assert_eq!(fleet.update_node("n1", say("192.168.0.2")).unwrap_err(), taken);
    fleet.update_node("n1", say("192.168.0.77")).unwrap();
    assert_eq!((at(&fleet), peer(&fleet)), (address("192.168.0.77"), address("192.168.0.77")));
    assert_eq!(told(&fleet, "node-readdressed"), 1);
    assert_eq!(fleet.model.node(&node("n1")).unwrap().message, "");
    run(&mut fleet, 0, 205, "192.168.0.77").unwrap();
    assert_eq!(told(&fleet, "node-claims-address"), 1);
    fleet.check();
}

#[test]
fn a_claim_that_could_not_be_written_down_is_told_once_it_can() {
    let mut fleet = Fleet::of(1);
    let told = |fleet: &Fleet| {
        let reasons = reasons(fleet, "node/n1");
        reasons.iter().filter(|reason| *reason == "node-claims-address").count()
    };
    let hello = Hello { capacity: Fleet::capacity(), ..Hello::of(address("192.168.0.77")) };
    let attach = Command::AttachNode {
        node: node("n1"),
        enrolment: fleet.enrolment(&node("n1")),
        session: SessionId(210),
        hello: Box::new(hello),
    };
    let applied = fleet.model.apply_volatile(attach, fleet.now).unwrap();
    assert!(applied.is_some(), "it is taken in all the same");
    let message = fleet.model.node(&node("n1")).unwrap().message;
    assert!(message.contains("192.168.0.77"), "{message}");
    assert_eq!(told(&fleet), 0);

    // The store can be written again, and the node is made to speak again; also if the store fails once more first.
    fleet.command_without_store(Command::Tick);
    assert!(fleet.model.check_session(&node("n1"), SessionId(210)).is_ok());
    fleet.command(Command::Tick).unwrap();
    assert!(fleet.model.check_session(&node("n1"), SessionId(210)).is_err());
    for session in [211, 212] {
        run(&mut fleet, 0, session, "192.168.0.77").unwrap();
        assert_eq!(told(&fleet), 1);
    }
}

#[test]
fn a_node_that_lies_is_put_out_by_force() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let (name, session) = (node("n1"), fleet.hosts[&node("n1")].session.unwrap());
    fleet.command(Command::RemoveNode { node: name.clone(), force: true }).unwrap();
    assert!(fleet.model.check_session(&name, session).is_err(), "its stream ends at once");
    assert_eq!(fleet.model.left_on_removed(&name), 1);
    assert!(fleet.model.assignment(&name).instances.is_empty());
    // What it says on its old stream is not heard, and its name is not free.
    let report = fleet.hosts[&name].look();
    assert!(fleet.deliver(&name, report).is_err());
    assert_eq!(fleet.join("n1").unwrap_err(), Refusal::NameInUse(name.clone()));

    // It says that it runs on, and nothing is placed elsewhere; then somebody vouches for it.
    fleet.attach(&name).unwrap();
    assert_eq!(fleet.model.left_on_removed(&name), 1);
    fleet.hosts.remove(&name);
    fleet.command(Command::RemoveNode { node: name.clone(), force: true }).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
    assert_eq!(fleet.model.left_on_removed(&name), 0);
    fleet.check();
    let again = fleet.command(Command::RemoveNode { node: name.clone(), force: true });
    assert_eq!(again.unwrap_err(), Refusal::NoNode(name));
}

#[test]
fn a_removed_node_that_obeys_frees_its_instances_by_itself() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let name = node("n1");
    fleet.command(Command::RemoveNode { node: name.clone(), force: true }).unwrap();
    assert_eq!(fleet.place("web-0").unwrap(), "n1", "it may be running there");
    fleet.attach(&name).unwrap();
    fleet.settle();
    assert!(fleet.hosts[&name].containers.is_empty());
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
    assert_eq!(fleet.model.node(&name).unwrap().node.block, None);
    fleet.check();
}

/// Its update cannot end: its volume stayed with the removed node.
#[test]
fn an_instance_that_lost_its_node_amid_an_update_gives_its_turn_to_others() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    fleet.join("n2").unwrap();
    fleet.attach(&node("n2")).unwrap();
    let mut with_volume = spec("web", 2);
    let source = MountSource::Volume("data".parse().unwrap());
    with_volume.template.mounts = vec![Mount { source, target: "/data".into(), read_only: false }];
    fleet.apply(with_volume.clone()).unwrap();
    fleet.command(Command::RemoveNode { node: node("n1"), force: true }).unwrap();
    fleet.attach(&node("n1")).unwrap();
    fleet.settle();
    let second = &fleet.model.tables.instances()[&instance("web-1")];
    assert_eq!(second.wanted.template, with_volume.template);
    fleet.check();
}

#[test]
fn a_host_whose_name_is_anothers_is_told_to_run_nothing_and_that_is_told_once() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    for _ in 0..3 {
        fleet
            .command(Command::NoteDismissed {
                node: node("n1"),
                enrolment: "old".into(),
                address: address("192.168.0.9"),
                instances: 2,
            })
            .unwrap();
    }
    let told = reasons(&fleet, "node/n1");
    assert_eq!(told.iter().filter(|reason| *reason == "old-host-returned").count(), 1);
    let nothing = fleet.model.dismissal();
    assert!(nothing.instances.is_empty() && nothing.network.peers.is_empty());
    assert!(!nothing.unconfirmed && nothing.ssh_trust.key_sets.is_empty());
}

#[test]
fn an_instance_that_two_nodes_have_is_shown_with_an_event_until_it_is_over() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let copy = fleet.hosts[&node("n1")].containers[&instance("web-0")].clone();
    let mut report = fleet.hosts[&node("n2")].look();
    report.instances.push(copy);
    for _ in 0..3 {
        fleet.deliver(&node("n2"), report.clone()).unwrap();
    }
    let told = reasons(&fleet, "instance/web-0");
    assert_eq!(told.iter().filter(|reason| *reason == "instance-claimed-twice").count(), 1);
    assert!(fleet.message("web-0").contains("n2 has it too"), "{}", fleet.message("web-0"));
    fleet.sync(&node("n2"));
    assert_eq!(fleet.message("web-0"), "");
}

/// The disk of the node is full: it acts on an assignment that it cannot keep, and says so truly.
#[test]
fn an_instance_is_vacated_by_the_acknowledged_revision_alone() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    fleet.drain("n1");
    fleet.fetch(&node("n1"));
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n1")).unwrap().converge(now);
    let report = fleet.hosts[&node("n1")].look();
    fleet.deliver(&node("n1"), report).unwrap();
    assert_eq!(fleet.place("web-0").unwrap(), "n1", "a report is not an acknowledgement");
    fleet.acknowledge(&node("n1")).unwrap();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
}

#[test]
fn two_hosts_of_a_removed_node_are_both_told_to_run_nothing() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    run(&mut fleet, 1, 101, "192.168.0.1").unwrap();
    fleet.command(Command::RemoveNode { node: node("n1"), force: true }).unwrap();
    run(&mut fleet, 2, 102, "192.168.0.1").unwrap();
    run(&mut fleet, 1, 103, "192.168.0.1").unwrap();
    let admit = || NodeChange { admit: true, ..NodeChange::default() };
    let contested = Refusal::NodeContested(node("n1"));
    assert_eq!(run(&mut fleet, 2, 104, "192.168.0.1"), Err(contested), "web-0 may run on either");
    fleet.update_node("n1", admit()).unwrap();

    fleet.command(Command::RemoveNode { node: node("n1"), force: true }).unwrap();
    for (round, agent) in [1, 2, 1, 2].into_iter().enumerate() {
        run(&mut fleet, agent, 200 + round as u64, "192.168.0.1").unwrap();
        assert!(fleet.assigned_to("n1").is_empty());
    }
}

/// A stream of n1 begins from this machine, with nothing on it.
fn from_machine(
    fleet: &mut Fleet,
    machine: Option<&str>,
    session: u64,
    from: &str,
) -> Result<Reply, Refusal> {
    let status = StatusReport { complete: true, ..StatusReport::default() };
    let host_mark = machine.map(|machine| HostMark::new(&node("n1"), machine));
    let capacity = Fleet::capacity();
    let hello = Hello { run: session, status, capacity, host_mark, ..Hello::of(address(from)) };
    let (node, session) = (node("n1"), SessionId(session));
    let enrolment = fleet.enrolment(&node);
    fleet.command(Command::AttachNode { node, enrolment, session, hello: Box::new(hello) })
}

fn elsewhere(from: &str) -> Refusal {
    Refusal::NodeElsewhere { node: node("n1"), address: address(from) }
}

fn mark_of(fleet: &Fleet) -> Option<HostMark> {
    fleet.model.node(&node("n1")).unwrap().node.host_mark.clone()
}

/// The original is switched off and leaves; its copy says that nothing is there.
#[test]
fn a_copy_of_a_host_frees_nothing_while_the_original_is_away() {
    let mut fleet = Fleet::of(1);
    fleet.hosts.get_mut(&node("n1")).unwrap().host_mark = Some(HostMark::new(&node("n1"), "m1"));
    fleet.attach(&node("n1")).unwrap();
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    fleet.join("n2").unwrap();
    fleet.attach(&node("n2")).unwrap();
    let original = fleet.hosts[&node("n1")].session.unwrap();
    fleet.command(Command::DetachNode { node: node("n1"), session: original }).unwrap();
    let drain = NodeChange { draining: Some(true), ..NodeChange::default() };
    fleet.update_node("n1", drain).unwrap();

    let copy = from_machine(&mut fleet, Some("m2"), 301, "192.168.0.77");
    assert_eq!(copy, Ok(Reply::Unserved(elsewhere("192.168.0.77"))));
    assert!(fleet.model.check_session(&node("n1"), SessionId(301)).is_err());
    // It is noted once for each address.
    let again = from_machine(&mut fleet, Some("m2"), 302, "192.168.0.77");
    assert_eq!(again, Err(elsewhere("192.168.0.77")));
    fleet.restart_controller();
    let again = from_machine(&mut fleet, Some("m2"), 303, "192.168.0.77");
    assert_eq!(again, Err(elsewhere("192.168.0.77")));
    assert_eq!(fleet.place("web-0").unwrap(), "n1");
    let view = fleet.model.node(&node("n1")).unwrap();
    assert_eq!(view.node.address, address("192.168.0.1"));
    assert!(view.message.contains("dwell node admit n1"), "{}", view.message);
    let told = reasons(&fleet, "node/n1");
    assert_eq!(told.iter().filter(|reason| *reason == "node-elsewhere").count(), 1, "{told:?}");

    // The original comes back, is served, and only what it says counts.
    for name in ["n1", "n2"] {
        fleet.attach(&node(name)).unwrap();
    }
    assert_eq!(fleet.place("web-0").unwrap(), "n1");
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
    fleet.check();
}

#[test]
fn after_an_operator_has_decided_the_next_of_the_two_machines_is_the_node() {
    let mut fleet = Fleet::of(1);
    from_machine(&mut fleet, Some("m1"), 301, "192.168.0.1").unwrap();
    from_machine(&mut fleet, Some("m2"), 302, "192.168.0.2").unwrap();
    fleet.model.check_session(&node("n1"), SessionId(301)).unwrap();
    let admit = NodeChange { admit: true, ..NodeChange::default() };
    fleet.update_node("n1", admit).unwrap();
    // What the first one says does not count any more until it has attached again.
    assert!(fleet.model.check_session(&node("n1"), SessionId(301)).is_err());
    assert_eq!(from_machine(&mut fleet, Some("m2"), 303, "192.168.0.2"), Ok(Reply::Done));
    assert_eq!(fleet.model.node(&node("n1")).unwrap().node.address, address("192.168.0.2"));
    let first = from_machine(&mut fleet, Some("m1"), 304, "192.168.0.1");
    assert_eq!(first, Ok(Reply::Unserved(elsewhere("192.168.0.1"))));
    let told = reasons(&fleet, "node/n1");
    for reason in ["node-admitted", "node-readdressed"] {
        assert!(told.iter().any(|other| other == reason), "{reason}: {told:?}");
    }
}

#[test]
fn agents_that_do_not_tell_their_machine_are_served_as_before() {
    let mut fleet = Fleet::of(1);
    from_machine(&mut fleet, None, 301, "192.168.0.1").unwrap();
    assert_eq!(mark_of(&fleet), None);
    // After an upgrade the mark is adopted, and a downgrade is not another machine.
    for machine in [Some("m1"), None, Some("m1")] {
        let attached = from_machine(&mut fleet, machine, 302, "192.168.0.1");
        assert_eq!(attached, Ok(Reply::Done), "{machine:?}");
        assert_eq!(mark_of(&fleet), Some(HostMark::new(&node("n1"), "m1")));
    }
}

#[test]
fn a_node_of_an_old_store_has_no_mark_and_adopts_the_first_that_it_sees() {
    let mut fleet = Fleet::of(1);
    let mut stored = serde_json::to_value(&*fleet.model.node(&node("n1")).unwrap().node).unwrap();
    let fields = stored.as_object_mut().unwrap();
    for new in ["host_mark", "elsewhere"] {
        assert!(fields.remove(new).is_some(), "{new}");
    }
    let old = serde_json::to_vec(&stored).unwrap();
    let Ok(Record::Node(read)) = Record::decode("node", &old) else { panic!("{stored}") };
    assert_eq!((read.host_mark.clone(), read.elsewhere.clone()), (None, None));
    from_machine(&mut fleet, Some("m1"), 301, "192.168.0.1").unwrap();
    fleet.restart_controller();
    assert_eq!(mark_of(&fleet), Some(HostMark::new(&node("n1"), "m1")));
}

#[test]
fn a_removed_node_that_still_runs_something_is_not_freed_by_a_copy() {
    let mut fleet = Fleet::of(2);
    fleet.hosts.get_mut(&node("n1")).unwrap().host_mark = Some(HostMark::new(&node("n1"), "m1"));
    fleet.attach(&node("n1")).unwrap();
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    fleet.command(Command::RemoveNode { node: node("n1"), force: true }).unwrap();
    assert_eq!(fleet.model.left_on_removed(&node("n1")), 1);
    assert!(matches!(
        from_machine(&mut fleet, Some("m2"), 301, "192.168.0.77"),
        Ok(Reply::Unserved(_))
    ));
    assert_eq!(fleet.model.left_on_removed(&node("n1")), 1);
}

/// An operator has switched the second machine off and admitted the node; the first one is still away.
#[test]
fn an_admission_lets_no_third_machine_in() {
    let mut fleet = Fleet::of(1);
    from_machine(&mut fleet, Some("m1"), 301, "192.168.0.1").unwrap();
    from_machine(&mut fleet, Some("m2"), 302, "192.168.0.2").unwrap();
    let admit = NodeChange { admit: true, ..NodeChange::default() };
    fleet.update_node("n1", admit.clone()).unwrap();
    let third = from_machine(&mut fleet, Some("m3"), 303, "192.168.0.3");
    assert_eq!(third, Ok(Reply::Unserved(elsewhere("192.168.0.3"))));
    assert_eq!(from_machine(&mut fleet, Some("m1"), 304, "192.168.0.1"), Ok(Reply::Done));
    // The first one has attached, and with that the decision is over.
    fleet.update_node("n1", admit).unwrap();
    assert_eq!(from_machine(&mut fleet, Some("m1"), 305, "192.168.0.1"), Ok(Reply::Done));
    assert!(from_machine(&mut fleet, Some("m3"), 306, "192.168.0.3").is_ok());
    assert_eq!(mark_of(&fleet), Some(HostMark::new(&node("n1"), "m1")));
}
