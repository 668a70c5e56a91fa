//! Instances that go from one node to another: drains, and nodes that do not suit any more.

use super::*;

#[test]
fn a_drain_moves_one_at_a_time_and_never_has_two() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 6)).unwrap();
    fleet.settle();
    fleet.drain("n1");
    let first = fleet.model.instance(&instance("web-0")).unwrap().instance;
    let leaving = first.leaving.clone().unwrap();
    assert_eq!(first.node, Some(node("n1")), "it may still be there");
    assert_eq!(leaving.to, Some(node("n2")));
    assert!(fleet.model.instance(&instance("web-3")).unwrap().instance.leaving.is_none());
    assert!(!fleet.assigned_to("n2").iter().any(|one| one.instance == first.name));
    let message = fleet.model.node(&node("n1")).unwrap().message;
    assert_eq!(
        message,
        "drains; 2 instances are still there; web-3: waits for web-0 to hold, which is moved off n1 (running)"
    );

    fleet.sync(&node("n1"));
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
    assert!(
        fleet.model.instance(&instance("web-0")).unwrap().instance.generation
            > first.generation.min(at(1))
    );
    fleet.settle();
    assert_eq!(fleet.model.node(&node("n1")).unwrap().message, "is drained");
    fleet.command(Command::RemoveNode { node: node("n1"), force: false }).unwrap();
}

#[test]
fn a_drain_leaves_what_fits_nowhere_and_what_has_volumes() {
    let mut fleet = Fleet::of(2);
    let mut big = spec("big", 2);
    big.template.resources.cpu = Millicores(3000);
    let mut data = spec("data", 1);
    data.placement.constraints = vec!["node.name==n1".parse().unwrap()];
    data.template.mounts.push(Mount {
        source: MountSource::Volume("data".parse().unwrap()),
        target: "/data".into(),
        read_only: false,
    });
    fleet.apply(big).unwrap();
    fleet.apply(data).unwrap();
    fleet.settle();
    fleet.drain("n1");
    fleet.settle();
    assert_eq!(fleet.place("big-0").unwrap(), "n1");
    assert_eq!(
        fleet.message("big-0"),
        "0 of 2 nodes fit: n2 has 1 of the 3 CPU asked for free, n1 is draining"
    );
    assert_eq!(fleet.message("data-0"), "its volumes are on this node, so it stays");
    let message = fleet.model.node(&node("n1")).unwrap().message;
    assert!(message.starts_with("drains; 2 instances are still there; big-0: 0 of 2"), "{message}");
    let staying = |fleet: &Fleet| {
        let view = fleet.model.node(&node("n1")).unwrap();
        (view.instances, view.staying)
    };
    assert_eq!(staying(&fleet), (2, 1), "big-0 may go one day, data-0 never will by itself");

    // Room elsewhere lets it go; the end of the drain lets the other be.
    fleet.command(Command::Scale { workload: workload("big"), replicas: 1 }).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("big-0").unwrap(), "n2");
    assert_eq!(staying(&fleet), (1, 1));
    assert_eq!(
        fleet.model.node(&node("n1")).unwrap().message,
        "drains; data-0 is still there: its volumes are on this node, so it stays"
    );
    let back = NodeChange { cordoned: Some(false), ..NodeChange::default() };
    fleet.update_node("n1", back).unwrap();
    assert_eq!(fleet.message("data-0"), "");
}

#[test]
fn a_target_that_is_cordoned_meanwhile_is_not_used() {
    let mut fleet = Fleet::of(3);
    fleet.apply(image(1, 1)).unwrap();
    fleet.settle();
    fleet.drain("n1");
    let cordon = NodeChange { cordoned: Some(true), ..NodeChange::default() };
    fleet.update_node("n2", cordon).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n3");
}

#[test]
fn a_label_that_is_lost_moves_what_needs_it() {
    let mut fleet = Fleet::of(2);
    for name in ["n1", "n2"] {
        let set_labels = [("disk".to_owned(), "ssd".to_owned())].into();
        fleet.update_node(name, NodeChange { set_labels, ..NodeChange::default() }).unwrap();
    }
    let mut web = image(1, 1);
    web.placement.constraints = vec!["disk==ssd".parse().unwrap()];
    fleet.apply(web).unwrap();
    fleet.settle();
    let remove_labels = vec!["disk".to_owned()];
    fleet.update_node("n1", NodeChange { remove_labels, ..NodeChange::default() }).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
}

#[test]
fn a_stopped_instance_moves_too() {
    let mut fleet = Fleet::of(2);
    fleet.apply(image(1, 1)).unwrap();
    fleet.settle();
    let target = Target::Instance(instance("web-0"));
    fleet.command(Command::SetRun { target, run: RunState::Stopped }).unwrap();
    fleet.settle();
    fleet.drain("n1");
    fleet.settle();
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
}

#[test]
fn what_outgrows_its_node_moves_or_stays_as_it_is() {
    let mut fleet = Fleet::of(2);
    let sized = |name: &str, cpu: u64| {
        let mut spec = spec(name, 1);
        spec.template.resources.cpu = Millicores(cpu);
        spec
    };
    fleet.apply(sized("a", 2000)).unwrap();
    fleet.apply(sized("b", 1500)).unwrap();
    fleet.apply(sized("c", 1500)).unwrap();
    fleet.settle();
    let places = |fleet: &Fleet| ["a-0", "b-0", "c-0"].map(|name| fleet.place(name).unwrap());
    assert_eq!(places(&fleet), ["n1", "n2", "n2"]);

    let plan = fleet.apply(sized("c", 2000)).unwrap();
    assert_eq!(plan.class(), ChangeClass::Live, "there is room for it");
    let plan = fleet.apply(sized("b", 2500)).unwrap();
    assert_eq!(plan.class(), ChangeClass::Move);
    fleet.settle();
    assert_eq!(places(&fleet), ["n1", "n2", "n2"]);
    assert_eq!(
        fleet.message("b-0"),
        "0 of 2 nodes fit: n1 has 2 of the 2500m CPU asked for free, n2 has 500m of the 2500m CPU asked for free"
    );
    let assigned = &fleet.assigned_to("n2")[0];
    assert_eq!(assigned.template.resources.cpu, Millicores(1500));

    fleet.command(Command::RemoveWorkload(workload("a"))).unwrap();
    fleet.settle();
    assert_eq!(fleet.place("b-0").unwrap(), "n1");
    let assigned = &fleet.assigned_to("n1")[0];
    assert_eq!(assigned.template.resources.cpu, Millicores(2500));
    assert_eq!(fleet.message("b-0"), "");
}

#[test]
fn a_drain_waits_for_what_it_moved_until_that_holds_and_says_so() {
    let mut fleet = Fleet::of(2);
    let mut web = image(1, 3);
    web.placement.constraints = vec!["disk==ssd".parse().unwrap()];
    let label = |node: &str, fleet: &mut Fleet| {
        let set_labels = [("disk".to_owned(), "ssd".to_owned())].into();
        fleet.update_node(node, NodeChange { set_labels, ..NodeChange::default() }).unwrap();
    };
    label("n1", &mut fleet);
    fleet.apply(web).unwrap();
    fleet.settle();
    label("n2", &mut fleet);
    fleet.drain("n1");
    fleet.sync(&node("n1"));
    assert_eq!(fleet.place("web-0").unwrap(), "n2");
    fleet.fetch(&node("n2"));
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n2")).unwrap().try_out(&instance("web-0"), now);
    fleet.report(&node("n2")).unwrap();
    let message = fleet.model.node(&node("n1")).unwrap().message;
    assert_eq!(
        message,
        "drains; 2 instances are still there; web-1: waits for web-0 to hold, which is moved off n1 (running)"
    );

    fleet.hosts.get_mut(&node("n2")).unwrap().ail(&instance("web-0"), now);
    fleet.report(&node("n2")).unwrap();
    fleet.settle();
    // It did well before it was moved: the others are not risked.
    let message = fleet.model.node(&node("n1")).unwrap().message;
    assert_eq!(
        message,
        "drains; 2 instances are still there; web-1: waits for web-0 to hold, which is moved off n1 (backing off: ended \
         with exit code 3)"
    );
    for name in ["web-1", "web-2"] {
        assert_eq!(fleet.place(name).unwrap(), "n1");
    }
    // A new version reaches the one that does not work, and when it holds with that the others follow.
    let mut next = image(2, 3);
    next.placement.constraints = vec!["disk==ssd".parse().unwrap()];
    fleet.apply(next).unwrap();
    assert_eq!(versions(&fleet), ["2", "1", "1"]);
    fleet.settle();
    assert_eq!(versions(&fleet), ["2", "2", "2"]);
    assert_eq!(fleet.model.node(&node("n1")).unwrap().message, "is drained");
}

/// What was declared while its node was away reaches an instance where it goes.
#[test]
fn an_instance_that_got_another_node_has_its_turn_there() {
    let mut fleet = Fleet::of(2);
    fleet.apply(image(1, 1)).unwrap();
    fleet.settle();
    let (lost, other) = match fleet.place("web-0").unwrap().as_str() {
        "n1" => (node("n1"), node("n2")),
        _ => (node("n2"), node("n1")),
    };
    fleet.pass(200);
    let session = fleet.hosts[&other].session.unwrap();
    fleet.command(Command::Heartbeat { node: other.clone(), session, capacity: None }).unwrap();
    fleet.apply(image(2, 1)).unwrap();
    fleet.hosts.get_mut(&lost).unwrap().containers.clear();
    fleet.command(Command::RemoveNode { node: lost, force: true }).unwrap();
    fleet.sync(&other);
    fleet.sync(&other);
    let web = fleet.model.instance(&instance("web-0")).unwrap().instance;
    assert_eq!((web.node.clone(), web.wanted.template.image.as_str()), (Some(other), "image:2"));
}
