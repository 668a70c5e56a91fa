//! What ends, what is to go, and what is told and kept of it.

use super::*;

#[test]
fn what_is_not_desired_goes_whole() {
    let mut story = Story::running();
    story.assigned = None;
    story.seen.remember(Journal { restarts_done: 1, ..Journal::default() });
    assert_eq!((story.word().as_str(), story.status().phase), ("stop c1", Phase::Stopping));
    // It may be moving, or be removed: the node does not know which.
    assert_eq!(story.status().message, "leaves this node");
    let mut story = story.set("c1", exited(143));
    assert_eq!(story.word(), "remove c1");
    story.seen.containers.clear();
    assert_eq!(story.word(), "remove sandbox");
    story.seen.succeeded(&Step::RemoveSandbox { slot: Slot::A });
    assert_eq!(story.word(), "forget");
    story.seen.succeeded(&Step::Forget);
    assert!(story.plan().is_empty());
}

/// What ended by itself is told, in its order and once, also of a container that is started again or removed.
#[test]
fn every_end_of_a_main_process_is_remembered() {
    let codes = |story: &Story| -> Vec<(u64, i32)> {
        story.status().ends.iter().map(|end| (end.number, end.code)).collect()
    };
    let mut story = Story::running().set("c1", exited(3));
    assert_eq!(codes(&story), [(1, 3)]);
    assert_eq!(codes(&story), [(1, 3)], "to look again changes nothing");
    let start = Step::Start { container: ContainerId("c1".into()) };
    story.seen.succeeded(&start);
    let mut story = story.set("c1", running_anew());
    assert_eq!(codes(&story), [(1, 3)]);
    let recorded = match story.step() {
        Some(Step::Record(journal)) => journal,
        other => panic!("it is written down: {other:?}"),
    };
    assert_eq!(recorded.ends.len(), 1);
    story.seen.succeeded(&Step::Record(recorded.clone()));

    // An end that was ordered is no news.
    let again = |code| ContainerState::Exited {
        started_at: Timestamp(6_000),
        ran_for: Duration::from_secs(1),
        code,
        out_of_memory: false,
    };
    let id = ContainerId("c1".into());
    let ordered = recorded.with_ordered_end(&id, Timestamp(6_000));
    let mut stopped = Story { seen: Seen { journal: ordered, ..story.seen.clone() }, ..story };
    stopped = stopped.set("c1", again(143));
    assert_eq!(codes(&stopped), [(1, 3)]);

    // What is removed is remembered, too, and there are never too many.
    stopped.seen.journal = *recorded;
    stopped = stopped.set("c1", again(4));
    stopped.seen.succeeded(&Step::Remove { container: id });
    assert_eq!(stopped.seen.journal.ends.last().map(|end| (end.number, end.code)), Some((2, 4)));
}

/// Whoever hears of them tells news by their numbers.
#[test]
fn ends_have_the_same_numbers_however_the_engine_lists_its_containers() {
    let mut story = Story::running().set("c1", exited(3));
    let mut later = story.seen.containers[0].clone();
    later.id = ContainerId("c2".into());
    later.state = ContainerState::Exited {
        started_at: Timestamp(90_000),
        ran_for: Duration::from_secs(1),
        code: 4,
        out_of_memory: false,
    };
    story.seen.containers.insert(0, later);
    let codes = |story: &Story| -> Vec<(u64, i32)> {
        story.status().ends.iter().map(|end| (end.number, end.code)).collect()
    };
    assert_eq!(codes(&story), [(1, 3), (2, 4)]);
    story.seen.containers.reverse();
    assert_eq!(codes(&story), [(1, 3), (2, 4)]);
}

/// The grace is the container's: it counts when the declaration is gone, also after a live change of it.
#[test]
fn the_grace_outlives_the_declaration() {
    let grace = |story: &Story| match story.plan().steps.into_values().next() {
        Some(Step::Stop { grace, .. }) => grace,
        other => panic!("not a stop: {other:?}"),
    };
    let mut story = Story::running();
    story.assigned().template.stop_grace = Millis::seconds(60);
    story.seen.containers[0].stop_grace = Some(Millis::seconds(60));
    assert!(story.plan().is_empty(), "it is written on the container already");
    story.assigned().template.stop_grace = Millis::seconds(90);
    let recorded = match story.plan().steps.into_values().next() {
        Some(Step::Record(journal)) => journal,
        other => panic!("a live change is written down: {other:?}"),
    };
    story.seen.succeeded(&Step::Record(recorded));
    assert!(story.plan().is_empty());
    story.assigned = None;
    assert_eq!(grace(&story), Millis::seconds(90));

    let mut story = Story::running();
    story.assigned = None;
    story.seen.containers[0].stop_grace = Some(Millis::seconds(60));
    assert_eq!(grace(&story), Millis::seconds(60));
    story.seen.containers[0].stop_grace = None;
    assert_eq!(grace(&story), Millis::seconds(10), "of a container of an earlier version");

    // Back to what is written on it, there is nothing left to remember.
    let mut story = Story::running();
    story.assigned().template.stop_grace = Millis::seconds(60);
    story.seen.containers[0].stop_grace = Some(Millis::seconds(60));
    story.seen.remember(Journal { stop_grace: Some(Millis::seconds(90)), ..Journal::default() });
    let blank = Journal { life: Revision(7), ..Journal::default() };
    assert_eq!(story.plan().steps.into_values().next(), Some(Step::Record(Box::new(blank))));
}

#[test]
fn of_duplicates_exactly_one_stays_and_running_ones_stop_first() {
    let story = Story::of("a", 2)
        .with("c1", "a", 1, running())
        .with("c2", "a", 2, ContainerState::Created)
        .with("c3", "a", 1, running());
    assert_eq!(story.word(), "stop c1");
    let story = story.set("c1", exited(143));
    assert_eq!(story.word(), "stop c3");
    let story = story.set("c3", exited(143));
    assert_eq!(story.word(), "start c2");
    let story = story.set("c2", running());
    assert_eq!(story.word(), "remove c1");
}

#[test]
fn what_could_not_be_stopped_is_not_removed_instead() {
    let mut story =
        Story::of("a", 2).with("c2", "a", 2, ContainerState::Created).with("c1", "a", 1, running());
    let stop = story.step().unwrap();
    assert_eq!(story.word(), "stop c1");
    let failure = Failure { kind: FailureKind::Transient, message: "no reply".into() };
    story.seen.failed(&stop, failure, NOW);
    assert_eq!(story.word(), "-");
}
