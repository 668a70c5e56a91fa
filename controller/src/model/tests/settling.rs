//! How much is done when instances fit nowhere: work is counted, not time.

use std::collections::BTreeSet;

use dwell_core::clock::Timestamp;
use dwell_core::id::{Position, Revision};
use dwell_core::instance::{InstanceStatus, Phase};
use dwell_core::node::Capacity;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::session::{Hello, StatusReport};
use dwell_core::workload::WorkloadSpec;

use super::fleet::{arrived, instance, node, settings_of, spec, workload};
use crate::model::settle::Work;
use crate::model::{
    Command, Join, Model, NodeChange, Refusal, Reply, SessionId, TokenId, UpdateState,
};

const NODES: usize = 1_000;
const REPLICAS: u32 = 2_000;

/// A model with many nodes; without the checks of a `Fleet`, which look at everything every time.
struct Large {
    model: Model,
    now: Timestamp,
}

impl Large {
    fn new() -> Self {
        let mut large =
            Self { model: Model::new(settings_of("10.0.0.0/8", 24)), now: Timestamp(1_000_000) };
        for number in 0..NODES {
            large.join(number);
        }
        large
    }

    /// A large fleet in which all of `typ` runs.
    fn running() -> Self {
        let mut large = Self::new();
        large.apply(declared(None)).unwrap();
        for number in 0..NODES {
            large.report(number);
        }
        assert_eq!(large.model.workload(&workload("typ")).unwrap().ready, REPLICAS);
        large
    }

    fn command(&mut self, command: Command) -> Result<Reply, Refusal> {
        let applied = self.model.apply(command, self.now)?;
        self.model.publish(applied.changes);
        Ok(applied.reply)
    }

    fn apply(&mut self, spec: WorkloadSpec) -> Result<Reply, Refusal> {
        self.command(Command::ApplyWorkloads {
            specs: vec![spec],
            keep_replicas: BTreeSet::new(),
            dry_run: false,
            force: false,
            planned: Vec::new(),
            by: String::new(),
        })
    }

    fn join(&mut self, number: usize) {
        let (id, digest) = (TokenId(format!("t{number}")), [0; 32]);
        let expires_at = Timestamp(u64::MAX);
        self.command(Command::MintToken { id: id.clone(), digest, expires_at }).unwrap();
        let name = node(&format!("n{number}"));
        let address = std::net::Ipv4Addr::from(0xc0a8_0000 + u32::try_from(number).unwrap());
        self.command(Command::RedeemToken(Join {
            token: id,
            digest,
            name: name.clone(),
            address,
            enrolment: String::new(),
            routes_only: false,
            host_mark: None,
        }))
        .unwrap();
        let capacity = Capacity {
            cpu: Millicores(8_000),
            memory: Bytes::mebi(16_000),
            arch: "x86_64".into(),
            ..Capacity::default()
        };
        let session = SessionId(number as u64);
        let status = StatusReport { complete: true, ..StatusReport::default() };
        let hello = Box::new(Hello { capacity, status, ..Hello::of(address) });
        self.command(Command::AttachNode { node: name, enrolment: String::new(), session, hello })
            .unwrap();
    }

    /// A node says that it does what it was told.
    fn report(&mut self, number: usize) {
        let name = node(&format!("n{number}"));
        let revision = self.model.revision();
        let here = self
            .model
            .instances(&crate::model::InstanceFilter { workload: None, node: Some(name.clone()) });
        let statuses = here.iter().map(|view| InstanceStatus {
            generation: view.instance.generation,
            phase: Phase::Running,
            restarts_done: view.instance.restarts_asked,
            observed_at: self.now,
            message: String::new(),
            ..view.status.clone()
        });
        let report = StatusReport {
            seen_under: at(revision),
            complete: true,
            instances: statuses.collect(),
            ..StatusReport::default()
        };
        let session = SessionId(number as u64);
        let (node, stored) = (name.clone(), report.seen_under);
        self.command(Command::Acknowledge { node, session, stored }).unwrap();
        self.command(Command::NodeStatus { node: name, session, report }).unwrap();
    }

    /// What a command costs.
    fn cost(&mut self, command: Command) -> Work {
        let before = self.model.work;
        self.command(command).unwrap();
        Work {
            solves: self.model.work.solves - before.solves,
            looks: self.model.work.looks - before.looks,
        }
    }

    fn label(&mut self, number: usize, value: &str) -> Work {
        let set_labels = [("disk".to_owned(), value.to_owned())].into();
        let change = NodeChange { set_labels, ..NodeChange::default() };
        self.cost(Command::UpdateNode { node: node(&format!("n{number}")), change })
    }

    fn message(&self, name: &str) -> String {
        self.model.instance(&instance(name)).unwrap().status.message
    }
}

fn declared(constraint: Option<&str>) -> WorkloadSpec {
    let mut spec = spec("typ", REPLICAS);
    spec.template.resources.memory = Bytes::mebi(16);
    spec.placement.constraints.extend(constraint.map(|text| text.parse().unwrap()));
    spec
}

fn at(revision: Revision) -> Position {
    Position { revision, ..Position::default() }
}

fn at_most(work: Work, solves: u64, looks: u64) {
    assert!(work.solves <= solves && work.looks <= looks, "{work:?}");
}

#[test]
fn a_typing_error_in_a_constraint_is_solved_once() {
    let mut large = Large::running();
    let wrong = declared(Some("disk==sdd"));
    let plan = Command::ApplyWorkloads {
        specs: vec![wrong.clone()],
        keep_replicas: BTreeSet::new(),
        dry_run: true,
        force: false,
        planned: Vec::new(),
        by: String::new(),
    };
    let all = u64::from(REPLICAS);
    // A plan asks what the apply will ask.
    at_most(large.cost(plan.clone()), 1, 2 * all);
    let apply = Command::ApplyWorkloads {
        specs: vec![wrong],
        keep_replicas: BTreeSet::new(),
        dry_run: false,
        force: false,
        planned: Vec::new(),
        by: String::new(),
    };
    at_most(large.cost(apply), 1, 2 * all);
    let reason = large.message("typ-7");
    assert!(reason.starts_with("0 of 1000 nodes fit: n0 lacks disk==sdd"), "{reason}");

    // Afterwards it costs nothing, whatever else is done.
    at_most(large.cost(plan), 0, 0);
    let run = Command::ApplyWorkloads {
        specs: vec![spec("other", 1)],
        keep_replicas: BTreeSet::new(),
        dry_run: false,
        force: false,
        planned: Vec::new(),
        by: String::new(),
    };
    at_most(large.cost(run), 1, 2);
    assert!(large.model.instance(&instance("other-0")).unwrap().instance.node.is_some());
    at_most(large.label(3, "ssd"), 0, 10);
    at_most(large.cost(Command::Tick), 1, 0);
    at_most(large.cost(Command::Tick), 1, 0);
    at_most(large.cost(Command::Tick), 0, 0);

    // What could change it does: a node that fits takes one after the other.
    at_most(large.label(5, "sdd"), 2, 8);
    let moving = |large: &Large| {
        let views = large.model.instances(&crate::model::InstanceFilter::default());
        let moves = views.iter().filter(|view| view.instance.update == UpdateState::Updating);
        moves.map(|view| view.instance.name.to_string()).collect::<Vec<_>>()
    };
    arrived(&large.model).into_iter().for_each(|noted| drop(large.command(noted).unwrap()));
    assert_eq!(moving(&large), ["typ-0"]);
    let name = large.model.instance(&instance("typ-0")).unwrap().instance.node.clone().unwrap();
    let number: usize = name.as_str()[1..].parse().unwrap();
    let report = StatusReport {
        seen_under: at(large.model.revision()),
        gone: vec![instance("typ-0")],
        ..StatusReport::default()
    };
    let session = SessionId(number as u64);
    let (node, stored) = (name.clone(), report.seen_under);
    large.command(Command::Acknowledge { node, session, stored }).unwrap();
    large.command(Command::NodeStatus { node: name, session, report }).unwrap();
    large.report(5);
    arrived(&large.model).into_iter().for_each(|noted| drop(large.command(noted).unwrap()));
    assert_eq!(moving(&large), ["typ-1"], "the next one gets its turn");
}

#[test]
fn a_drain_without_room_is_solved_once() {
    let mut large = Large::running();
    for number in 1..NODES {
        let change = NodeChange { cordoned: Some(true), ..NodeChange::default() };
        large.command(Command::UpdateNode { node: node(&format!("n{number}")), change }).unwrap();
    }
    let drain = NodeChange { draining: Some(true), ..NodeChange::default() };
    at_most(large.cost(Command::UpdateNode { node: node("n0"), change: drain }), 1, 4);
    let view = large.model.node(&node("n0")).unwrap();
    assert!(view.message.contains("0 of 1000 nodes fit: n1 is cordoned"), "{}", view.message);
    let uncordon = NodeChange { cordoned: Some(false), ..NodeChange::default() };
    at_most(large.cost(Command::UpdateNode { node: node("n9"), change: uncordon }), 1, 12);
    assert!(!large.model.node(&node("n0")).unwrap().message.contains("nodes fit"));
}

#[test]
fn thousands_that_fit_nowhere_cost_nothing_after_a_start() {
    let mut large = Large::new();
    let all = u64::from(REPLICAS);
    let apply = Command::ApplyWorkloads {
        specs: vec![declared(Some("disk==sdd"))],
        keep_replicas: BTreeSet::new(),
        dry_run: false,
        force: false,
        planned: Vec::new(),
        by: String::new(),
    };
    at_most(large.cost(apply), 1, 2 * all);
    let mut records: Vec<_> = large
        .model
        .tables
        .workloads()
        .values()
        .cloned()
        .map(crate::model::Record::Workload)
        .collect();
    records.extend(large.model.tables.nodes().values().cloned().map(crate::model::Record::Node));
    let instances = large.model.tables.instances().values().cloned();
    records.extend(instances.map(crate::model::Record::Instance));
    let settings = large.model.settings().clone();
    large.model = Model::restore(settings, records, large.now);
    at_most(large.cost(Command::Tick), 2, 2 * all);
    let mut total = Work::default();
    for number in 0..NODES {
        let capacity =
            Capacity { cpu: Millicores(8_000), memory: Bytes::mebi(16_000), ..Capacity::default() };
        let attach = Command::AttachNode {
            node: node(&format!("n{number}")),
            enrolment: String::new(),
            session: SessionId(number as u64),
            hello: Box::new(Hello {
                capacity,
                status: StatusReport { complete: true, ..StatusReport::default() },
                ..Hello::of(std::net::Ipv4Addr::from(0xc0a8_0000 + u32::try_from(number).unwrap()))
            }),
        };
        let work = large.cost(attach);
        total.solves += work.solves;
        total.looks += work.looks;
    }
    at_most(total, 0, 0);
    assert!(large.model.revision() > Revision(0));
}

#[test]
fn a_drain_asks_once_for_all_its_workloads() {
    let mut large = Large::new();
    let only = NodeChange { cordoned: Some(true), ..NodeChange::default() };
    for number in 1..NODES {
        let change = only.clone();
        large.command(Command::UpdateNode { node: node(&format!("n{number}")), change }).unwrap();
    }
    for number in 0..100 {
        large.apply(spec(&format!("w{number}"), 1)).unwrap();
    }
    for number in 1..NODES {
        let change = NodeChange { cordoned: Some(false), ..NodeChange::default() };
        large.command(Command::UpdateNode { node: node(&format!("n{number}")), change }).unwrap();
    }
    let drain = NodeChange { draining: Some(true), ..NodeChange::default() };
    at_most(large.cost(Command::UpdateNode { node: node("n0"), change: drain }), 1, 200);
    let there = large
        .model
        .instances(&crate::model::InstanceFilter { workload: None, node: Some(node("n0")) });
    assert!(there.len() == 100 && there.iter().all(|view| view.instance.heading.is_some()));
}

/// A disk that is full is a state: it begins and ends with an event, each once, and nothing is placed there meanwhile.
#[test]
fn a_full_disk_begins_and_ends_and_takes_nothing_new_meanwhile() {
    use super::fleet::Fleet;
    use dwell_core::node::{DiskPressure, Room};
    let pressed = |path: &str, lacks, percent, left| Capacity {
        disk_pressures: vec![DiskPressure { path: path.to_owned(), lacks, percent, left }],
        ..Fleet::capacity()
    };
    let docker = |percent, left| pressed("/var/lib/docker", Room::Bytes, percent, left);
    let mut fleet = Fleet::of(1);
    let heartbeat = |fleet: &mut Fleet, capacity: Capacity| {
        let session = fleet.hosts[&node("n1")].session.unwrap();
        let capacity = Some(capacity);
        fleet.command(Command::Heartbeat { node: node("n1"), session, capacity }).unwrap();
    };
    let told = |fleet: &Fleet| -> Vec<(String, String)> {
        let events = fleet.model.events(Some("node/n1"), 100);
        let events = events.iter().filter(|event| event.reason.starts_with("node-pressure"));
        events.map(|event| (event.reason.clone(), event.message.clone())).collect()
    };
    heartbeat(&mut fleet, Fleet::capacity());
    assert_eq!(told(&fleet), []);
    heartbeat(&mut fleet, docker(97, 300 << 20));
    let full = "takes nothing new: disk-pressure: /var/lib/docker 97 % full, 300Mi left";
    assert_eq!(fleet.model.node(&node("n1")).unwrap().message, full);
    fleet.apply(spec("web", 1)).unwrap();
    let waits = fleet.model.instance(&instance("web-0")).unwrap().status.message;
    assert_eq!(waits, "0 of 1 nodes fit: n1 has a full disk");
    // Other numbers are no other state; another disk is.
    heartbeat(&mut fleet, docker(99, 20 << 20));
    heartbeat(&mut fleet, pressed("/var/lib/dwell", Room::Files, 99, 7));
    heartbeat(&mut fleet, Fleet::capacity());
    heartbeat(&mut fleet, Fleet::capacity());
    assert_eq!(fleet.place("web-0").unwrap(), "n1");
    let mut told = told(&fleet);
    told.sort();
    let files =
        "takes nothing new: disk-pressure: /var/lib/dwell has 99 % of its inodes in use, 7 left";
    let over = "has room and memory again, and takes new instances";
    let expected =
        [("node-pressure", full), ("node-pressure", files), ("node-pressure-over", over)];
    assert_eq!(told, expected.map(|(reason, message)| (reason.to_owned(), message.to_owned())));
}

/// Hosts that are there, but cannot take anything new, and say so.
#[test]
fn nothing_is_placed_where_it_could_not_start() {
    use super::fleet::Fleet;
    use dwell_core::node::EngineInfo;
    let ready = |ready: bool, message: &str| {
        let info = EngineInfo { ready, message: message.into(), ..EngineInfo::default() };
        Capacity { engines: [("docker".to_owned(), info)].into(), ..Fleet::capacity() }
    };
    let full =
        Capacity { disk: Bytes::mebi(100_000), disk_free: Bytes::mebi(500), ..ready(true, "") };
    let pressed = Capacity { memory_pressed: true, ..ready(true, "") };
    let mut fleet = Fleet::of(3);
    let heartbeat = |fleet: &mut Fleet, name: &str, capacity: Capacity| {
        let session = fleet.hosts[&node(name)].session.unwrap();
        let capacity = Some(capacity);
        fleet.command(Command::Heartbeat { node: node(name), session, capacity }).unwrap();
    };
    heartbeat(&mut fleet, "n1", ready(false, "connection refused"));
    heartbeat(&mut fleet, "n2", full);
    heartbeat(&mut fleet, "n3", pressed);
    fleet.apply(spec("web", 1)).unwrap();
    let message = fleet.model.instance(&instance("web-0")).unwrap().status.message;
    assert_eq!(
        message,
        "0 of 3 nodes fit: n1 has no engine that answers, n2 has a full disk, n3 is short of memory"
    );
    let said = |fleet: &Fleet, name: &str| fleet.model.node(&node(name)).unwrap().message;
    assert_eq!(said(&fleet, "n1"), "takes nothing new: docker: connection refused");
    assert!(
        said(&fleet, "n2")
            .starts_with("takes nothing new: disk-pressure: 500Mi of 100000Mi are free")
    );
    assert!(said(&fleet, "n3").starts_with("takes nothing new: memory-pressure: what runs there"));

    heartbeat(&mut fleet, "n1", ready(true, ""));
    assert_eq!(fleet.place("web-0").unwrap(), "n1", "placed once the engine is back");
    assert_eq!(said(&fleet, "n1"), "");
}

#[test]
fn what_is_kept_for_the_host_is_not_given_away() {
    use super::fleet::Fleet;
    use dwell_core::workload::Resources;
    let mut fleet = Fleet::of(1);
    let session = fleet.hosts[&node("n1")].session.unwrap();
    let reserved = Resources { cpu: Millicores(500), memory: Bytes::mebi(96) };
    let capacity = Some(Capacity { reserved, ..Fleet::capacity() });
    fleet.command(Command::Heartbeat { node: node("n1"), session, capacity }).unwrap();
    let mut large = spec("large", 1);
    large.template.resources.memory = Bytes::mebi(4001);
    fleet.apply(large.clone()).unwrap();
    let message = fleet.model.instance(&instance("large-0")).unwrap().status.message;
    assert!(message.contains("n1 has 4000Mi of the 4001Mi memory asked for free"), "{message}");
    large.template.resources.memory = Bytes::mebi(4000);
    fleet.apply(large).unwrap();
    assert_eq!(fleet.place("large-0").unwrap(), "n1");
}

/// However long a list is, the model is looked at for one page at a time.
#[test]
fn pages_add_up_to_the_list() {
    use crate::model::InstanceFilter;
    let mut large = Large::new();
    large.apply(spec("a", 5)).unwrap();
    large.apply(spec("typ", 12)).unwrap();
    large.apply(spec("z", 0)).unwrap();
    let some_node = large.model.instance(&instance("typ-3")).unwrap().instance.node.clone();
    for filter in [
        InstanceFilter::default(),
        InstanceFilter { workload: Some(workload("typ")), node: None },
        InstanceFilter { workload: None, node: some_node.clone() },
        InstanceFilter { workload: Some(workload("typ")), node: some_node },
        InstanceFilter { workload: Some(workload("none")), node: None },
    ] {
        let whole = large.model.instances(&filter);
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = large.model.instances_page(&filter, after.as_ref(), 5);
            assert!(page.items.len() <= 5);
            found.extend(page.items.into_iter().map(|view| view.instance.name.clone()));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let whole: Vec<_> = whole.into_iter().map(|view| view.instance.name.clone()).collect();
        assert_eq!(found, whole, "{filter:?}");
    }
    let elsewhere = InstanceFilter { workload: Some(workload("a")), node: None };
    let page = large.model.instances_page(&elsewhere, Some(&instance("typ-3")), 5);
    assert!(page.items.is_empty() && page.next.is_none());
    let first = large.model.workloads_page(None, 9, 5);
    assert_eq!(first.items.len(), 1, "no more once they have many instances");
    let rest = large.model.workloads_page(first.next.as_ref(), 9, 100);
    assert_eq!((rest.items.len(), rest.next), (2, None));
}
