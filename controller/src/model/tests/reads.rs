//! Watching, deltas, events; and that single commands stay cheap in a large fleet.

use std::sync::Arc;

use dwell_core::id::Revision;

use super::fleet::{Fleet, instance, node, settings, spec, workload};
use crate::model::{
    Change, Command, Instance, InstanceFilter, Key, Model, NodeChange, Record, RecordError,
    SessionId, Settings,
};

#[test]
fn a_watch_resumes_from_a_revision() {
    let mut fleet = Fleet::of(1);
    let from = fleet.model.revision();
    fleet.apply(spec("web", 1)).unwrap();
    let changes = fleet.model.changes_since(from, usize::MAX).unwrap();
    // A version is shown as its workload.
    let shown = |change: &Change| change.key.shown_as() == Some(Key::Workload(workload("web")));
    assert!(changes.iter().any(shown));
    assert!(changes.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    let first = fleet.model.changes_since(from, 1).unwrap();
    assert_eq!(first, changes[..1]);
    let rest = fleet.model.changes_since(first[0].revision, usize::MAX).unwrap();
    assert_eq!(rest, changes[1..]);
    assert!(fleet.model.changes_since(fleet.model.revision(), 9).unwrap().is_empty());
}

#[test]
fn one_large_command_leaves_no_watcher_behind() {
    let mut fleet = Fleet::new(Settings { watch_max: 60, ..settings() });
    fleet.join("n1").unwrap();
    fleet.attach(&node("n1")).unwrap();
    let from = fleet.model.revision();
    // Each instance is made, placed and told of: two mentions, not three.
    fleet.apply(spec("web", 25)).unwrap();
    let changes = fleet.model.changes_since(from, usize::MAX).unwrap();
    let instances = changes.iter().filter(|change| matches!(change.key, Key::Instance(_)));
    assert_eq!(instances.count(), 25);
    let placed: Vec<&Change> = changes
        .iter()
        .filter(|change| matches!(&change.new, Some(Record::Instance(one)) if one.node.is_some()))
        .collect();
    assert_eq!(placed.len(), 25, "the last mention is the one that is kept");
}

#[test]
fn all_watchers_share_what_is_shown_of_a_workload() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 3)).unwrap();
    let made = |fleet: &Fleet| fleet.model.views.lock().unwrap().made;
    let shown = |fleet: &Fleet| fleet.model.workload(&workload("web")).unwrap();
    let before = made(&fleet);
    for _ in 0..10 {
        assert_eq!((shown(&fleet).instances, shown(&fleet).ready), (3, 0));
    }
    assert_eq!(made(&fleet), before + 1);
    fleet.settle();
    assert_eq!(shown(&fleet).ready, 3);

    // What is taken back is not shown, although its revision is.
    let scale = Command::Scale { workload: workload("web"), replicas: 5 };
    let applied = fleet.model.apply(scale, fleet.now).unwrap();
    assert_eq!(shown(&fleet).instances, 5);
    fleet.model.revert(applied.changes);
    assert_eq!(shown(&fleet).instances, 3);
}

#[test]
fn a_watch_too_far_back_is_told_so() {
    let mut fleet = Fleet::new(Settings { watch_max: 10, ..settings() });
    for index in 0..20 {
        fleet.apply(spec(&format!("w{index}"), 1)).unwrap();
    }
    let compacted = fleet.model.changes_since(Revision(1), 9).unwrap_err();
    assert_eq!(fleet.model.changes_since(compacted.floor, 99).unwrap().len(), 10);
    fleet.restart_controller();
    let gone = fleet.model.changes_since(compacted.floor, 9).unwrap_err();
    assert!(gone.to_string().ends_with("list again and watch from there"), "{gone}");
}

#[test]
fn what_is_not_committed_is_not_seen() {
    let mut fleet = Fleet::of(1);
    let from = fleet.model.revision();
    let specs = vec![spec("web", 1)];
    let applied = fleet
        .model
        .apply(
            Command::ApplyWorkloads {
                specs,
                keep_replicas: std::collections::BTreeSet::new(),
                dry_run: false,
                force: false,
                planned: Vec::new(),
                by: String::new(),
            },
            fleet.now,
        )
        .unwrap();
    assert!(fleet.model.changes_since(from, 9).unwrap().is_empty());
    let touched = fleet.model.publish(applied.changes);
    assert_eq!(touched.nodes, [node("n1")].into());
    assert!(!touched.everyone, "an instance at home is no news for the others");
    assert!(!fleet.model.changes_since(from, 9).unwrap().is_empty());
}

#[test]
fn a_delta_has_only_what_changed() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("web", 4)).unwrap();
    fleet.settle();
    let base = fleet.model.revision();
    let mut changed = spec("web", 4);
    changed.template.command = vec!["serve".into()];
    fleet.apply(changed).unwrap();
    let delta = fleet.model.assignment_since(&node("n1"), base).unwrap();
    assert_eq!(delta.changed.len(), 1);
    assert!(delta.removed.is_empty() && delta.network_delta.is_empty());
    assert!(fleet.model.assignment_since(&node("n2"), base).unwrap().is_empty());

    fleet.command(Command::Scale { workload: workload("web"), replicas: 3 }).unwrap();
    let delta = fleet.model.assignment_since(&node("n2"), base).unwrap();
    assert_eq!(delta.removed, [instance("web-3")]);

    fleet.join("n3").unwrap();
    let delta = fleet.model.assignment_since(&node("n2"), base).unwrap();
    assert_eq!(delta.network_delta.peers.len(), 1, "only the new one");
    let none = fleet.model.assignment_since(&node("n2"), fleet.model.revision()).unwrap();
    assert!(none.is_empty());
    let future = fleet.model.revision().next();
    assert!(fleet.model.assignment_since(&node("n2"), future).is_none());
}

#[test]
fn a_node_too_far_behind_gets_everything() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    let base = fleet.model.revision();
    for _ in 0..1_100 {
        let target = crate::model::Target::Instance(instance("web-0"));
        fleet.command(Command::Restart(target)).unwrap();
    }
    assert!(fleet.model.assignment_since(&node("n1"), base).is_none());
    fleet.sync(&node("n1"));
}

#[test]
fn events_are_bounded_and_found_by_subject() {
    let mut fleet = Fleet::of(1);
    for index in 0..60 {
        fleet.apply(spec(&format!("w{index}"), 0)).unwrap();
    }
    let events = fleet.model.events(None, 1_000);
    assert_eq!(events.len(), 50);
    assert!(events.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    let about = fleet.model.events(Some("workload/w59"), 10);
    assert_eq!(about.len(), 1);
    assert_eq!(about[0].reason, "workload-created");
}

#[test]
fn instances_are_listed_by_workload_and_node() {
    let mut fleet = Fleet::of(2);
    fleet.apply(spec("a", 2)).unwrap();
    fleet.apply(spec("a-0", 2)).unwrap();
    let list = |workload: Option<&str>, name: Option<&str>| -> Vec<String> {
        let filter =
            InstanceFilter { workload: workload.map(super::fleet::workload), node: name.map(node) };
        let views = fleet.model.instances(&filter);
        views.iter().map(|view| view.instance.name.to_string()).collect()
    };
    assert_eq!(list(Some("a"), None), ["a-0", "a-1"]);
    assert_eq!(list(None, Some("n1")), ["a-0", "a-0-0"]);
    assert_eq!(list(Some("a-0"), Some("n2")), ["a-0-1"]);
    assert_eq!(list(None, None).len(), 4);
}

#[test]
fn records_survive_the_store_and_strange_ones_are_refused() {
    let mut fleet = Fleet::of(1);
    fleet.apply(spec("web", 1)).unwrap();
    let record = Record::Instance(Arc::clone(&fleet.model.tables.instances()[&instance("web-0")]));
    let json = record.encode().unwrap();
    let Ok(Record::Instance(read)) = Record::decode("instance", &json) else { panic!("{json:?}") };
    // What its version says is stored once, with the version.
    let Record::Instance(stored) = record else { unreachable!() };
    assert_eq!(read.wanted.number, stored.wanted.number);
    assert_eq!(Instance { wanted: Arc::clone(&stored.wanted), ..Instance::clone(&read) }, *stored);
    for (table, json) in [("instance", &b"{}"[..]), ("instance", b"\xff"), ("node", &json)] {
        assert!(matches!(Record::decode(table, json), Err(RecordError::Json { .. })));
    }
    assert!(matches!(Record::decode("volcano", b"{}"), Err(RecordError::UnknownTable(_))));
    let link = Record::Link(Arc::clone(&fleet.model.tables.links()[&node("n1")]));
    assert!(matches!(link.encode(), Err(RecordError::Volatile)));
}

/// A fleet of `nodes` with `instances`, without the checks that look at everything.
pub(super) fn large(nodes: u32, instances: u32) -> (Fleet, Vec<SessionId>) {
    let mut settings = super::fleet::settings_of("10.0.0.0/8", 24);
    settings.events_max = 10_000;
    let mut fleet = Fleet::new(settings);
    let mut sessions = Vec::new();
    for index in 0..nodes {
        let session = SessionId(u64::from(index) + 1);
        fleet.join_quickly(index, session);
        sessions.push(session);
    }
    for index in 0..instances.div_ceil(1_000) {
        let specs = vec![spec(&format!("w{index}"), 1_000)];
        quickly(
            &mut fleet.model,
            Command::ApplyWorkloads {
                specs,
                keep_replicas: std::collections::BTreeSet::new(),
                dry_run: false,
                force: false,
                planned: Vec::new(),
                by: String::new(),
            },
            fleet.now,
        );
    }
    (fleet, sessions)
}

/// Does a command without the checks that look at everything. Returns how many changes it made, and how many instances
/// it looked at for a place or a turn.
pub(super) fn quickly(
    model: &mut Model,
    command: Command,
    now: dwell_core::clock::Timestamp,
) -> (usize, u64) {
    let before = model.work.looks;
    let applied = model.apply(command, now).unwrap();
    let changes = applied.changes.len();
    model.publish(applied.changes);
    (changes, model.work.looks - before)
}

#[test]
fn single_commands_stay_cheap_in_a_large_fleet() {
    let (mut fleet, sessions) = large(1_000, 20_000);
    let now = fleet.now;
    for (index, &session) in sessions.iter().enumerate() {
        let node = node(&format!("n{index}"));
        let beat = Command::Heartbeat { node, session, capacity: None };
        assert_eq!(quickly(&mut fleet.model, beat, now), (0, 0));
    }
    let there = |fleet: &Fleet, name: &str| {
        let there = fleet.model.tables.index().occupancy.get(&node(name));
        there.map_or(0, |there| there.instances.len())
    };
    let drained = there(&fleet, "n3");
    assert!((1..100).contains(&drained), "{drained}");
    let change = NodeChange { draining: Some(true), ..NodeChange::default() };
    let target = crate::model::Target::Instance(instance("w7-500"));
    let cases = [
        (Command::Restart(target), 3, 3),
        (Command::Tick, 3, 3),
        (Command::Scale { workload: workload("w7"), replicas: 1_001 }, 10, 3),
        (
            Command::UpdateNode { node: node("n3"), change },
            6 * drained,
            3 * u64::try_from(drained).unwrap(),
        ),
    ];
    for (command, changes_max, looks_max) in cases {
        let told = format!("{command:?}");
        let (changes, looks) = quickly(&mut fleet.model, command, now);
        assert!(changes <= changes_max && looks <= looks_max, "{told}: {changes}, {looks}");
    }
}
