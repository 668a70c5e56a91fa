//! The directory: what is in it, when it is shown, and how little a change says.

use std::time::{Duration, Instant};

use dwell_core::directory::DirectoryChange;
use dwell_core::health::Health;
use dwell_core::id::Revision;
use dwell_core::session::StatusReport;
use dwell_core::workload::{Protocol, ServicePort};

use super::fleet::{Fleet, address, instance, node, spec, workload};
use super::reads::{large, quickly};
use crate::model::{Command, SessionId};

/// What brings a node up to date.
fn since(fleet: &Fleet, held: Revision) -> DirectoryChange {
    fleet.model.directory_since(held).unwrap_or_else(|| fleet.model.directory())
}

fn ready(change: &DirectoryChange) -> Vec<String> {
    let ready = change.instances.iter().filter(|(_, entry)| entry.ready);
    ready.map(|(name, _)| name.to_string()).collect()
}

#[test]
fn it_has_addresses_ports_labels_and_who_is_ready() {
    let mut fleet = Fleet::of(2);
    let mut web = spec("web", 2);
    web.template.expose = vec![ServicePort { port: 80, protocol: Protocol::Tcp }];
    web.labels = [("tier".into(), "front".into())].into();
    fleet.apply(web.clone()).unwrap();
    let all = since(&fleet, Revision(0));
    assert_eq!(all.base, None);
    assert_eq!(all.workloads[&workload("web")].ports, web.template.expose);
    assert_eq!(all.workloads[&workload("web")].labels, web.labels);
    assert_eq!(all.instances[&instance("web-1")].address, address("10.80.1.1"));
    assert!(ready(&all).is_empty(), "nothing runs yet");
    fleet.settle();
    assert_eq!(ready(&since(&fleet, all.revision)), ["web-0", "web-1"]);

    let held = fleet.model.revision();
    web.replicas = 1;
    web.template.expose.clear();
    fleet.apply(web).unwrap();
    fleet.settle();
    let change = since(&fleet, held);
    assert_eq!((change.base, change.removed_instances), (Some(held), vec![instance("web-1")]));
    assert!(change.workloads[&workload("web")].ports.is_empty());
    let held = change.revision;
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    fleet.settle();
    assert_eq!(since(&fleet, held).removed_workloads, [workload("web")]);
}

#[test]
fn what_says_nothing_new_is_no_change() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.settle();
    let shown = fleet.model.directory_revision();
    fleet.pass(1);
    let now = fleet.now;
    let host = fleet.hosts.get_mut(&node("n1")).unwrap();
    let status = host.containers.get_mut(&instance("web-0")).unwrap();
    (status.restarts, status.message, status.observed_at) = (7, "busy".into(), now);
    fleet.report(&node("n1")).unwrap();
    fleet.command(Command::Restart(super::super::Target::Instance(instance("web-0")))).unwrap();
    assert_eq!(fleet.model.directory_revision(), shown);

    let status = fleet.hosts.get_mut(&node("n1")).unwrap().containers.get_mut(&instance("web-0"));
    let status = status.unwrap();
    (status.health, status.observed_at) = (Health::Unhealthy, now);
    fleet.report(&node("n1")).unwrap();
    let change = since(&fleet, shown.unwrap());
    assert!(fleet.model.directory_revision() > shown);
    assert_eq!((change.instances.len(), ready(&change).len()), (1, 0));
}

#[test]
fn what_is_on_a_node_that_is_not_heard_of_is_not_ready() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let held = fleet.model.revision();
    fleet.pass(14);
    fleet.sync(&node("n2"));
    fleet.pass(10);
    let change = since(&fleet, held);
    assert_eq!(change.instances.keys().collect::<Vec<_>>(), [&instance("web-0")]);
    assert!(ready(&change).is_empty());
    fleet.attach(&node("n1")).unwrap();
    assert_eq!(ready(&since(&fleet, change.revision)), ["web-0"]);
}

#[test]
fn a_restarted_controller_says_nothing_until_it_knows() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let held = fleet.model.revision();
    fleet.restart_controller();
    assert_eq!(fleet.model.directory_revision(), None);
    fleet.attach(&node("n1")).unwrap();
    assert_eq!(fleet.model.directory_revision(), None, "n2 has not said what it runs");
    fleet.attach(&node("n2")).unwrap();
    assert!(fleet.model.directory_revision().is_some());
    let all = since(&fleet, held);
    assert_eq!((all.base, ready(&all)), (None, vec!["web-0".to_owned(), "web-1".to_owned()]));

    // A node that stays away is not waited for.
    fleet.restart_controller();
    fleet.attach(&node("n1")).unwrap();
    fleet.pass(14);
    fleet.sync(&node("n1"));
    assert_eq!(fleet.model.directory_revision(), None);
    fleet.pass(1);
    assert!(fleet.model.directory_revision().is_some());
    assert_eq!(ready(&since(&fleet, held)), ["web-0"]);
}

#[test]
fn a_revision_that_is_not_known_gets_everything() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    let held = fleet.model.revision();
    assert_eq!(since(&fleet, held.next()).base, None, "of a future that never was");
    for index in 0..=crate::model::directory::LOG_MAX {
        let mut changed = spec("web", 1);
        changed.labels = [("index".into(), index.to_string())].into();
        let command = Command::ApplyWorkloads {
            specs: vec![changed],
            keep_replicas: std::collections::BTreeSet::new(),
            dry_run: false,
            force: false,
            planned: Vec::new(),
            by: String::new(),
        };
        quickly(&mut fleet.model, command, fleet.now);
    }
    assert_eq!(since(&fleet, held).base, None);
}

/// Not a benchmark, like its sibling in `reads.rs`.
#[test]
fn changes_are_cheap_in_a_large_fleet() {
    let (mut fleet, sessions) = large(100, 20_000);
    let begun = Instant::now();
    let all = since(&fleet, Revision(0));
    let whole = begun.elapsed();
    assert_eq!(all.instances.len(), 20_000);
    let name = node(&fleet.place("w3-7").unwrap());
    let index: usize = name.as_str()[1..].parse().unwrap();
    let session: SessionId = sessions[index];
    let assigned = fleet.model.assignment(&name).instances;
    let one = &assigned[&instance("w3-7")];
    let report = StatusReport {
        instances: vec![super::fleet::running(one, fleet.now)],
        ..Default::default()
    };
    quickly(&mut fleet.model, Command::NodeStatus { node: name, session, report }, fleet.now);
    let begun = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(ready(&since(&fleet, all.revision)), ["w3-7"]);
    }
    let changes = begun.elapsed();
    println!("the whole {whole:?}, 1000 changes {changes:?}");
    assert!(changes < Duration::from_millis(200), "{changes:?}");
}
