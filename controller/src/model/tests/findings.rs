//! What of the fleet is not as declared: each finding, and that what follows from one has none of its own.

use dwell_core::clock::Timestamp;
use dwell_core::health::Health;
use dwell_core::instance::{InstanceStatus, Phase, RunState};
use dwell_core::node::{Capacity, DiskPressure, Room};
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::workload::{Mount, MountSource, Portion, Resources, UpdatePolicy, WorkloadSpec};

use super::fleet::{Fleet, instance, node, settings, spec, workload};
use crate::model::findings::{FINDINGS_MAX, PIECE_INSTANCES};
use crate::model::{
    Command, FindingKind, FleetFinding, FleetStatus, Gravity, NodeChange, Subject, Surroundings,
    Target,
};

const DAY: u64 = 24 * 3600;

impl Fleet {
    pub(super) fn status(&self) -> FleetStatus {
        let around = Surroundings { now: self.now, ..Surroundings::default() };
        self.model.fleet_status(&around)
    }

    /// Kind and subject of all that is found, the worst first.
    fn found(&self) -> Vec<(&'static str, String)> {
        let found = self.status().found;
        found.iter().map(|one| (one.kind.as_str(), one.subject.to_string())).collect()
    }

    /// The only finding.
    fn only(&self) -> FleetFinding {
        let found = self.status().found;
        assert_eq!(found.len(), 1, "{found:#?}");
        found.into_iter().next().unwrap()
    }

    fn heartbeat(&mut self, name: &str, capacity: Option<Capacity>) {
        let session = self.hosts[&node(name)].session.unwrap();
        self.command(Command::Heartbeat { node: node(name), session, capacity }).unwrap();
    }

    /// Time passes, and only these nodes are heard of.
    fn pass_with(&mut self, seconds: u64, alive: &[&str]) {
        for _ in 0..seconds.div_ceil(10) {
            alive.iter().for_each(|name| self.heartbeat(name, None));
            self.pass(10);
        }
        alive.iter().for_each(|name| self.heartbeat(name, None));
    }

    /// What a host says of one of its instances.
    fn say(&mut self, name: &str, change: impl FnOnce(&mut InstanceStatus)) {
        let at = node(&self.place(name).unwrap());
        let now = self.now;
        let status = self.hosts.get_mut(&at).unwrap().containers.get_mut(&instance(name)).unwrap();
        status.observed_at = Timestamp(now.0 + 1);
        change(status);
        self.report(&at).unwrap();
    }
}

fn asking(name: &str, replicas: u32, cpu: u64) -> WorkloadSpec {
    let mut spec = spec(name, replicas);
    spec.template.resources = Resources { cpu: Millicores(cpu), memory: Bytes(0) };
    spec
}

#[test]
fn nothing_is_found_where_all_is_as_declared() {
    let mut fleet = Fleet::of(3);
    fleet.apply(spec("web", 4)).unwrap();
    fleet.apply(spec("job", 2)).unwrap();
    fleet.settle();
    let target = Target::Workload(workload("job"));
    fleet.command(Command::SetRun { target, run: RunState::Stopped }).unwrap();
    fleet.settle();
    let status = fleet.status();
    assert_eq!(status.found, []);
    let counts = status.counts;
    assert_eq!((counts.nodes, counts.nodes_ready), (3, 3));
    assert_eq!((counts.workloads, counts.workloads_as_declared), (2, 2));
    assert_eq!((counts.instances, counts.instances_well, counts.instances_stopped), (6, 4, 2));
}

#[test]
fn a_volume_without_an_instance_is_no_trouble() {
    let mut fleet = Fleet::of(1);
    let mut db = spec("db", 1);
    let source = MountSource::Volume("data".parse().unwrap());
    db.template.mounts.push(Mount { source, target: "/data".into(), read_only: false });
    fleet.apply(db).unwrap();
    fleet.settle();
    fleet.command(Command::Scale { workload: workload("db"), replicas: 0 }).unwrap();
    fleet.settle();
    assert_eq!(fleet.found(), []);
}

#[test]
fn what_starts_is_on_its_way() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 5)).unwrap();
    let found = fleet.only();
    assert_eq!(
        (found.kind, found.kind.gravity()),
        (FindingKind::InstanceStarting, Gravity::Progress)
    );
    assert_eq!(found.subject, Subject::Workload(workload("web")));
    assert_eq!(found.message, "web-0, web-1, web-2 and 2 more: waits for n1 to take it up");
    fleet.settle();
    fleet.command(Command::RemoveWorkload(workload("web"))).unwrap();
    let found = fleet.only();
    assert_eq!(found.kind, FindingKind::WorkloadRemoving);
    assert_eq!(found.message, "is being removed; 5 instances left");
}

#[test]
fn a_silent_node_is_one_finding_with_all_its_instances() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 6)).unwrap();
    fleet.settle();
    let fell_silent = fleet.now;
    fleet.pass_with(20, &["n1"]);
    let found = fleet.only();
    assert_eq!((found.kind, found.since), (FindingKind::NodeSilent, Some(fell_silent)));
    fleet.pass_with(120, &["n1"]);
    let found = fleet.only();
    assert_eq!(found.kind, FindingKind::NodeDown);
    assert_eq!(
        found.message,
        "has not been heard of for long; its 3 instances are unknown and may well be running. Only if its host is \
         switched off or destroyed: `dwell node rm --force n2`"
    );
    assert_eq!(found.next, "on n2: systemctl status dwell-agent");
    assert_eq!(fleet.status().counts.instances_well, 3);
    // A restart of the controller knows of it from the diary.
    fleet.restart_controller();
    fleet.attach(&node("n1")).unwrap();
    fleet.sync(&node("n1"));
    fleet.pass_with(10, &["n1"]);
    let found = fleet.only();
    assert_eq!(found.subject, Subject::Node(node("n2")));
    let since = found.since.expect("the diary has it");
    assert!(since > fell_silent && since < Timestamp(fell_silent.0 + 30_000));
    // One without instances is less of a trouble.
    let mut fleet = Fleet::of(1);
    fleet.pass(200);
    assert_eq!(fleet.only().kind, FindingKind::NodeSilent);
}

#[test]
fn an_update_that_waits_for_a_silent_node_says_so() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    fleet.pass_with(20, &["n1"]);
    let mut next = spec("web", 2);
    next.template.image = "image:2".into();
    fleet.apply(next).unwrap();
    for _ in 0..3 {
        fleet.sync(&node("n1"));
    }
    let kinds: Vec<_> = fleet.found().iter().map(|one| one.0).collect();
    assert_eq!(kinds, ["node-silent", "rollout-stuck"]);
    let stuck = fleet.status().found.remove(1);
    let silent = if fleet.place("web-0").as_deref() == Some("n2") { "web-0" } else { "web-1" };
    assert_eq!(
        stuck.message,
        format!("1 of 2 instances as declared; waits for {silent}: n2 is not heard of")
    );
    // One that goes on by itself is no more than progress.
    fleet.attach(&node("n2")).unwrap();
    let found = fleet.found();
    assert_eq!(found[0], ("rolling-out", "workload/web".to_owned()), "{found:?}");
    fleet.settle();
    assert_eq!(fleet.found(), []);
}

#[test]
fn a_version_that_did_not_hold_is_a_problem_and_a_pause_a_warning() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    let mut bad = spec("web", 2);
    bad.template.image = "image:bad".into();
    fleet.apply(bad).unwrap();
    fleet.fetch(&node("n1"));
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n1")).unwrap().fail(&instance("web-0"), now);
    fleet.report(&node("n1")).unwrap();
    fleet.settle();
    let found = fleet.only();
    assert_eq!(found.kind, FindingKind::RolloutFailed);
    assert_eq!((found.next.as_str(), found.since), ("dwell rollback web", Some(now)));
    assert!(found.message.contains("does not answer"), "{}", found.message);
    assert_eq!(fleet.status().counts.workloads_as_declared, 0);

    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 2)).unwrap();
    fleet.settle();
    fleet.command(Command::Pause { workload: workload("web"), by: "ann".into() }).unwrap();
    assert_eq!(fleet.found(), [], "nothing waits for it");
    let mut next = spec("web", 2);
    next.template.image = "image:2".into();
    fleet.apply(next).unwrap();
    let found = fleet.only();
    assert_eq!((found.kind, found.next.as_str()), (FindingKind::RolloutPaused, "dwell resume web"));
    assert_eq!(
        found.message,
        "rollout paused by ann; `dwell resume` goes on; 2 instances not as declared with version 2"
    );
}

#[test]
fn instances_without_a_place_are_found_with_the_reason() {
    let mut fleet = Fleet::of(2);
    fleet.apply(asking("big", 3, 3000)).unwrap();
    fleet.settle();
    let found = fleet.only();
    assert_eq!(found.kind, FindingKind::InstancePending);
    assert_eq!(found.subject, Subject::Instance(instance("big-2")));
    assert!(found.message.starts_with("0 of 2 nodes fit: n1 has 1 of the 3 CPU"), "{found:?}");
    assert_eq!(found.next, "dwell node ls");
}

#[test]
fn what_ails_instances_is_found_by_what_it_is() {
    type Ailing = fn(&mut InstanceStatus);
    let ail: [(FindingKind, Ailing); 8] = [
        (FindingKind::InstanceBackoff, |status| status.phase = Phase::Backoff),
        (FindingKind::InstanceFailed, |status| status.phase = Phase::Failed),
        (FindingKind::InstanceUnhealthy, |status| status.health = Health::Unhealthy),
        (FindingKind::InstanceStarting, |status| status.health = Health::Starting),
        (FindingKind::InstanceUnready, |status| status.readiness = Health::Unhealthy),
        (FindingKind::InstanceStarting, |status| status.readiness = Health::Starting),
        (FindingKind::InstanceEnded, |status| {
            (status.phase, status.exit_code) = (Phase::Stopped, Some(3));
        }),
        (FindingKind::NodeInDoubt, |status| status.phase = Phase::Unknown),
    ];
    for (kind, change) in ail {
        let mut fleet = Fleet::of(1);
        fleet.apply(spec("web", 2)).unwrap();
        fleet.settle();
        fleet.say("web-1", change);
        let found = fleet.only();
        assert_eq!(found.kind, kind);
        match kind {
            FindingKind::NodeInDoubt => assert_eq!(found.next, "dwell doctor n1"),
            FindingKind::InstanceStarting => assert_eq!(found.next, "dwell ps web"),
            _ => assert_eq!(found.next, "dwell logs web-1"),
        }
    }
    // One that has done its work is well.
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("job", 1)).unwrap();
    fleet.settle();
    fleet.say("job-0", |status| (status.phase, status.exit_code) = (Phase::Stopped, Some(0)));
    assert_eq!(fleet.found(), []);
    // One that does not work, with nothing to put up again.
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    fleet.fetch(&node("n1"));
    let now = fleet.now;
    fleet.hosts.get_mut(&node("n1")).unwrap().ail(&instance("web-0"), now);
    fleet.report(&node("n1")).unwrap();
    let found = fleet.status().found.remove(0);
    assert_eq!(found.kind, FindingKind::InstanceFailing);
    assert_eq!(found.message, "does not work: ended with exit code 3");
}

#[test]
fn nodes_are_found_with_what_they_lack() {
    let mut fleet = Fleet::of(1);
    let full = DiskPressure { path: "/data".into(), lacks: Room::Bytes, percent: 99, left: 1 };
    let capacity = Fleet::capacity();
    fleet.pass(5);
    fleet.heartbeat("n1", Some(Capacity { disk_pressures: vec![full], ..capacity.clone() }));
    let found = fleet.only();
    assert_eq!((found.kind, found.since), (FindingKind::NodeDiskPressure, Some(fleet.now)));
    assert_eq!(found.next, "dwell image prune --node n1");
    fleet.heartbeat("n1", Some(Capacity { memory_pressed: true, ..capacity.clone() }));
    assert_eq!(fleet.only().kind, FindingKind::NodeMemoryPressure);
    let engines = [("docker".to_owned(), Default::default())].into();
    fleet.heartbeat("n1", Some(Capacity { engines, ..capacity.clone() }));
    let found = fleet.only();
    assert_eq!((found.kind, found.next.as_str()), (FindingKind::NodeNoEngine, "dwell doctor n1"));
    fleet.heartbeat("n1", Some(capacity));
    let session = fleet.hosts[&node("n1")].session.unwrap();
    let reason = "too large".to_owned();
    fleet.command(Command::NoteUnserved { node: node("n1"), session, reason }).unwrap();
    assert_eq!(fleet.only().kind, FindingKind::NodeUnserved);
}

#[test]
fn a_node_that_stays_cordoned_is_found_after_a_day() {
    let mut fleet = Fleet::of(2);
    let change = NodeChange { cordoned: Some(true), ..NodeChange::default() };
    let update = Command::UpdateNode { node: node("n1"), change };
    fleet.command_for("ann", update).unwrap();
    let since = fleet.now;
    assert_eq!(fleet.found(), []);
    fleet.now = Timestamp(fleet.now.0 + DAY * 1000);
    fleet.pass_with(1, &["n1", "n2"]);
    let found = fleet.only();
    assert_eq!((found.kind, found.since), (FindingKind::NodeCordoned, Some(since)));
    assert_eq!(found.message, "takes no new instances (ann asked for it)");
    assert_eq!(found.next, "dwell node uncordon n1");
}

#[test]
fn a_drain_is_on_its_way_until_something_cannot_leave() {
    let mut fleet = Fleet::of(2);
    let mut web = asking("web", 2, 3000);
    web.update = UpdatePolicy { parallelism: Portion::Count(1), ..UpdatePolicy::default() };
    fleet.apply(web).unwrap();
    fleet.settle();
    fleet.drain("n1");
    let found = fleet.only();
    assert_eq!(found.kind, FindingKind::DrainStuck);
    assert!(found.message.contains("0 of 2 nodes fit: n2 has 1 of the 3 CPU"), "{found:?}");
    assert!(fleet.status().counts.instances_well == 2, "they run all the while");
    fleet.join("n3").unwrap();
    fleet.attach(&node("n3")).unwrap();
    let kinds: Vec<_> = fleet.found().iter().map(|one| one.0).collect();
    assert_eq!(kinds, ["node-draining", "instance-moving"]);
    fleet.settle();
    assert_eq!(fleet.found(), []);
}

#[test]
fn what_the_controller_itself_is_in_is_told() {
    let fleet = Fleet::of(1);
    let soon = |days: u64| Timestamp(fleet.now.0 + days * DAY * 1000);
    let found = |authorities: Vec<(u32, Timestamp)>, store_fails: Option<&str>| {
        let store_fails = store_fails.map(ToOwned::to_owned);
        let around = Surroundings { now: fleet.now, authorities, store_fails };
        let status = fleet.model.fleet_status(&around);
        status.found.iter().map(|one| one.kind.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(found(vec![(1, soon(61))], None), [""; 0]);
    assert_eq!(found(vec![(1, soon(59))], None), ["authority-expiring"]);
    assert_eq!(found(vec![(1, fleet.now)], None), ["authority-expired"]);
    assert_eq!(found(vec![(1, soon(1)), (2, soon(900))], None), ["authority-rotating"]);
    assert_eq!(found(vec![(1, soon(900))], Some("the disk is full")), ["store-failing"]);
}

#[test]
fn a_context_that_is_used_and_ends_is_found_unless_there_is_another() {
    use dwell_core::access::{Client, ContextId, Issuer, Role};
    let mut fleet = Fleet::of(1);
    let began = fleet.now;
    let client = |id: u64, days: u64| Client {
        name: "ann".parse().unwrap(),
        role: Role::Developer,
        context: ContextId(id),
        expires_at: Timestamp(began.0 + days * DAY * 1000),
        issuer: Issuer::default(),
    };
    fleet.command(Command::IssueContext(client(1, 30))).unwrap();
    fleet.command(Command::IssueContext(client(2, 29))).unwrap();
    fleet.now = Timestamp(began.0 + 22 * DAY * 1000);
    fleet.command(Command::NoteContext(client(1, 30))).unwrap();
    fleet.pass_with(1, &["n1"]);
    assert_eq!(fleet.found(), []);
    fleet.now = Timestamp(began.0 + 24 * DAY * 1000);
    fleet.pass_with(1, &["n1"]);
    let found = fleet.only();
    assert_eq!(found.kind, FindingKind::ContextExpiring);
    assert_eq!(found.until, Some(client(1, 30).expires_at), "the other was never used");
    assert!(found.next.ends_with("dwell context issue ann --role developer"), "{found:?}");
    fleet.command(Command::IssueContext(client(3, 90))).unwrap();
    assert_eq!(fleet.found(), []);
}

#[test]
fn an_unconfirmed_restore_is_a_problem() {
    let mut fleet = Fleet::new(settings());
    fleet.begin(1, None);
    fleet.begin(2, Some("the mark is newer".to_owned()));
    let found = fleet.only();
    assert_eq!(found.kind, FindingKind::RestoreUnconfirmed);
    assert_eq!(found.next, "dwell restore status");
    assert!(found.message.contains("the mark is newer"), "{}", found.message);
}

#[test]
fn what_is_found_is_bounded_and_the_worst_of_it() {
    let mut fleet = Fleet::of(1);
    let wanted = FINDINGS_MAX * 2 + 50;
    for index in 0..wanted {
        fleet
            .command(Command::ApplyWorkloads {
                specs: vec![spec(&format!("w{index}"), 1)],
                keep_replicas: Default::default(),
                dry_run: false,
                force: false,
                planned: Vec::new(),
                by: String::new(),
            })
            .unwrap();
    }
    fleet.apply(asking("zz", 1, 100_000)).unwrap();
    let status = fleet.status();
    assert_eq!(status.found.len(), FINDINGS_MAX);
    assert_eq!(status.found.first().unwrap().kind, FindingKind::InstancePending);
    assert!(status.left_out > 0);
    assert_eq!(status.found.len() + status.left_out, wanted + 1);
}

#[test]
fn many_instances_are_looked_at_in_pieces() {
    let mut fleet = Fleet::of(1);
    let of = u32::try_from(PIECE_INSTANCES).unwrap() - 1;
    for name in ["a", "b"] {
        let change = Command::ApplyWorkloads {
            specs: vec![spec(name, of)],
            keep_replicas: Default::default(),
            dry_run: false,
            force: false,
            planned: Vec::new(),
            by: String::new(),
        };
        let applied = fleet.model.apply(change, fleet.now).unwrap();
        fleet.model.publish(applied.changes);
    }
    let (piece, next) = fleet.model.status_of_workloads(None);
    assert_eq!((piece.counts.workloads, next.as_ref()), (1, Some(&workload("a"))));
    let (piece, next) = fleet.model.status_of_workloads(next.as_ref());
    assert_eq!((piece.counts.workloads, next), (1, None));
    assert_eq!(fleet.status().counts.instances, PIECE_INSTANCES * 2 - 2);
}
