//! What a node says, and when.

use dwell_core::clock::Timestamp;
use dwell_core::health::Health;
use dwell_core::id::{Generation, Incarnation};
use dwell_core::image::ContainerImage;
use dwell_core::instance::{Assigned, Phase};
use dwell_core::session::NodeNetwork;

use super::*;

const LIFE: Incarnation = Incarnation(7);

fn at(revision: u64) -> Position {
    Position { incarnation: LIFE, revision: Revision(revision) }
}

fn assignment(revision: u64) -> AssignmentChange {
    let network = NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap());
    AssignmentChange::Snapshot(Assignment {
        incarnation: LIFE,
        revision: Revision(revision),
        ..Assignment::empty(network)
    })
}

fn running(name: &str) -> InstanceStatus {
    InstanceStatus {
        instance: name.parse().unwrap(),
        generation: Generation(1),
        phase: Phase::Running,
        health: Health::None,
        readiness: Health::None,
        container_id: String::new(),
        address: None,
        image: ContainerImage::default(),
        started_at: None,
        restarts: 0,
        exit_code: None,
        ends: Vec::new(),
        hook_failed: None,
        restarts_done: 0,
        message: String::new(),
        observed_at: Timestamp(1),
        verdict: None,
        task: None,
        image_ahead: None,
        let_go: None,
    }
}

fn seen(revision: u64, names: &[&str]) -> Statuses {
    let all = names.iter().map(|name| running(name));
    let instances = all.map(|one| (one.instance.clone(), one)).collect();
    Statuses { revision: Revision(revision), instances, complete: true }
}

/// An assignment of a revision is on the disk.
fn store(holding: &mut Holding, revision: u64) {
    let AssignmentChange::Snapshot(all) = assignment(revision) else { unreachable!() };
    holding.stored(Arc::new(all));
}

/// A node that got the assignment of revision 5 over this stream and has it on disk.
fn settled() -> (Holding, Stream) {
    let (mut holding, mut stream) = (Holding::default(), Stream::default());
    holding.merge(assignment(5)).unwrap();
    stream.received(at(5));
    store(&mut holding, 5);
    assert_eq!(stream.acknowledge(&holding), Some(Acknowledge { stored: at(5) }));
    (holding, stream)
}

/// The disk is full, not the agent ended: it acts on an assignment that it cannot keep.
#[test]
fn gone_is_bound_to_the_assignment_that_is_on_disk() {
    let (mut holding, mut stream) = settled();
    let first = stream.report(&holding, Some(&seen(5, &["web-0"]))).unwrap();
    assert_eq!((first.complete, first.seen_under), (true, at(5)));

    holding.merge(assignment(9)).unwrap();
    stream.received(at(9));
    let gone = stream.report(&holding, Some(&seen(9, &[]))).unwrap();
    assert_eq!(gone.gone, ["web-0".parse().unwrap()]);
    assert_eq!(gone.seen_under, at(5), "a crash would bring the assignment of revision 5 back");
    assert_eq!(stream.acknowledge(&holding), None);

    store(&mut holding, 9);
    assert_eq!(stream.acknowledge(&holding), Some(Acknowledge { stored: at(9) }));
    let again = stream.report(&holding, Some(&seen(9, &[]))).unwrap();
    assert_eq!(again.seen_under, at(9));
    assert_eq!(stream.report(&holding, Some(&seen(9, &[]))), None);
}

#[test]
fn what_was_stored_before_this_stream_is_not_acknowledged_on_it() {
    let (holding, _) = settled();
    let mut stream = Stream::default();
    assert_eq!(stream.acknowledge(&holding), None);
    stream.received(Position { incarnation: Incarnation(8), revision: Revision(9) });
    assert_eq!(stream.acknowledge(&holding), None, "it is of another history");
}

#[test]
fn a_restarted_agent_claims_what_it_finds_on_disk() {
    let found = Holding::default().merge(assignment(5)).unwrap();
    let holding = Holding::found(Some(found));
    assert_eq!((holding.position(), holding.claims().len()), (at(5), 0));
    let report = Stream::default().report(&holding, Some(&seen(5, &["web-0"]))).unwrap();
    assert_eq!((report.seen_under, report.complete), (at(5), true));
    assert_eq!(Stream::default().report(&holding, None), None, "it has not looked yet");
}

#[test]
fn nothing_is_complete_or_gone_before_everything_was_looked_at() {
    let (holding, mut stream) = settled();
    let partly = Statuses { complete: false, ..seen(5, &["web-0"]) };
    let first = stream.report(&holding, Some(&partly)).unwrap();
    assert_eq!((first.complete, first.seen_under.revision), (false, Revision(0)));
    let less = Statuses { complete: false, ..seen(5, &[]) };
    assert_eq!(stream.report(&holding, Some(&less)), None, "not seen is not gone");
    let whole = stream.report(&holding, Some(&seen(5, &["web-1"]))).unwrap();
    assert_eq!((whole.complete, whole.seen_under), (true, at(5)));
    assert!(stream.has_reported(at(5)) && !stream.has_reported(at(6)));
}

#[test]
fn an_answer_counts_from_when_its_heartbeat_was_sent() {
    let (mut holding, mut stream) = settled();
    assert_eq!(stream.beat(&holding, Timestamp(1)), 0, "nothing is lent to it");
    let AssignmentChange::Snapshot(mut all) = assignment(6) else { unreachable!() };
    let template = dwell_core::workload::Template::of_image("web");
    let lease = Some(dwell_core::workload::Lease(dwell_core::quantity::Millis::seconds(12)));
    let one = Assigned { lease, ..dwell_core::fixtures::assigned("web-0", 1, template) };
    all.instances.insert(one.instance.clone(), one);
    holding.merge(AssignmentChange::Snapshot(all)).unwrap();
    assert_eq!([2, 3, 4].map(|at| stream.beat(&holding, Timestamp(at))), [1, 2, 3]);
    assert_eq!(stream.answered(2), Some(Timestamp(3)));
    assert_eq!(stream.answered(1), None, "a later one was answered");
    assert_eq!(stream.answered(3), Some(Timestamp(4)));
    assert_eq!(stream.answered(3), None);
    assert_eq!(stream.answered(99), None);
}

/// The disk is full, and has an earlier assignment than the one in memory.
#[test]
fn what_a_crash_would_bring_back_is_claimed() {
    let with = |revision, names: &[&str]| {
        let AssignmentChange::Snapshot(mut all) = assignment(revision) else { unreachable!() };
        for name in names {
            let template = dwell_core::workload::Template::of_image("web");
            let one = dwell_core::fixtures::assigned(name, revision, template);
            all.instances.insert(one.instance.clone(), one);
        }
        all
    };
    let mut holding = Holding::found(Some(Arc::new(with(5, &["old-0", "web-0"]))));
    for later in [with(6, &["mid-0", "web-0"]), with(7, &["web-0"])] {
        holding.merge(AssignmentChange::Snapshot(later)).unwrap();
        holding.store();
    }
    let claims = |holding: &Holding| {
        let claims = holding.claims().into_iter();
        claims.map(|one| format!("{}@{}", one.instance, one.generation)).collect::<Vec<_>>()
    };
    assert_eq!(claims(&holding), ["mid-0@6", "old-0@5", "web-0@7"]);
    holding.stored(Arc::new(with(6, &["mid-0", "web-0"])));
    assert_eq!(claims(&holding), ["mid-0@6", "web-0@7"]);
    holding.stored(Arc::new(with(7, &["web-0"])));
    assert_eq!(claims(&holding), ["web-0@7"]);
}
