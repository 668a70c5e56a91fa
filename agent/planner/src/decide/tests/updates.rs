//! From an old container to a new one, and back.

use super::*;

#[test]
fn an_update_prepares_switches_and_commits() {
    let story = Story::of("b", 2).with("c1", "a", 1, running()).held(1);
    assert_eq!(story.word(), "create g2");
    assert_eq!((story.status().phase, story.status().generation), (Phase::Running, Generation(1)));
    let story = story.with("c2", "b", 2, ContainerState::Created);
    assert_eq!(story.word(), "order end of c1");
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
    let story = story.set("c1", exited(143));
    assert_eq!(story.word(), "start c2");
    let story = story.set("c2", running_anew());
    assert_eq!(story.plan().wake_at, Some(NOW.after(MONITOR)));
    let story = story.after(MONITOR);
    assert_eq!(story.word(), "commit");
    let mut story = story.record();
    assert_eq!(story.word(), "remove c1");
    story.seen.containers.remove(0);
    assert!(story.plan().is_empty());
    assert_eq!(
        (story.status().generation, story.status().verdict_on(Generation(2))),
        (Generation(2), Some(&Outcome::Held))
    );
}

#[test]
fn another_edition_is_an_update_to_the_same_with_a_way_back() {
    let mut story = Story::running();
    (story.assigned().generation, story.assigned().edition) = (Generation(2), Generation(2));
    assert_eq!(story.word(), "create g2");
    let mut story = story.with("c2", "a", 2, ContainerState::Created);
    let anew = story.assigned().fingerprint();
    story.seen.containers[1].fingerprint = anew;
    assert_eq!(story.word(), "order end of c1");
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
    let story = story.set("c1", exited(143));
    assert_eq!(story.word(), "start c2");
    let story = story.set("c2", exited(1));
    assert_eq!(story.word(), "roll back");
    let story = story.record();
    assert_eq!(story.word(), "start c1");
    // The controller hears of it, before the new one is gone.
    let mut story = story;
    (story.assigned().generation, story.assigned().edition) = (Generation(3), Generation(0));
    assert_eq!(story.word(), "start c1");
    let mut story = story.set("c1", running_anew()).after(MONITOR);
    assert_eq!(story.word(), "remove c2");
    story.seen.containers.pop();
    assert_eq!(story.word(), "commit");
    assert_eq!(story.record().outcome(), Outcome::Held);
}

#[test]
fn what_makes_an_update_commit_wait_or_roll_back() {
    let late = Duration::from_secs(60);
    for (new, health, age, word) in [
        (running_anew(), Health::Healthy, Duration::ZERO, "commit"),
        (running_anew(), Health::Starting, Duration::ZERO, "-"),
        (running_anew(), Health::None, Duration::ZERO, "-"),
        (running_anew(), Health::Starting, late, "roll back"),
        (running_anew(), Health::Unhealthy, Duration::ZERO, "-"),
        (running_anew(), Health::Unhealthy, late, "roll back"),
        (exited(1), Health::Starting, Duration::ZERO, "roll back"),
    ] {
        let story = Story::updating(exited(143), new).with_check(health).after(age);
        assert_eq!(story.word(), word, "{new:?} {health:?} {age:?}");
    }
}

#[test]
fn an_update_that_cannot_be_started_is_rolled_back() {
    let start = Step::Start { container: ContainerId("c2".into()) };
    for (kind, age_s, word) in [
        (FailureKind::Permanent, 0, "roll back"),
        (FailureKind::Transient, 0, "-"),
        (FailureKind::Transient, 1, "start c2"),
        (FailureKind::Transient, 60, "roll back"),
    ] {
        let mut story = Story::updating(exited(143), ContainerState::Created);
        story.seen.failed(&start, Failure { kind, message: "no such command".into() }, NOW);
        story.seen.sandboxes.set(Slot::A, Sandbox::Ready);
        let story = story.after(Duration::from_secs(age_s));
        assert_eq!(story.word(), word, "{kind:?} after {age_s} s");
    }
}

#[test]
fn a_roll_back_ends_in_exactly_the_old_container() {
    let mut story =
        Story::updating(running(), ContainerState::Created).with_check(Health::Unhealthy);
    story.assigned().template.restart = RestartPolicy::Never;
    let story = story.record().set("c1", exited(143)).set("c2", running_anew());
    assert_eq!(story.word(), "-", "probes that fail mean not yet");
    let story = story.after(Duration::from_secs(60));
    assert_eq!(story.word(), "roll back");
    let story = story.record();
    assert_eq!(story.word(), "stop c2");
    let story = story.set(
        "c2",
        ContainerState::Exited {
            started_at: Timestamp(6_000),
            ran_for: Duration::from_secs(1),
            code: 143,
            out_of_memory: false,
        },
    );
    assert_eq!(story.word(), "start c1");
    let story = story.set("c1", running_anew());
    assert_eq!(story.word(), "remove c2");
    let mut story = story;
    story.seen.containers.remove(1);
    assert!(story.plan().is_empty());
    let status = story.status();
    let reason = "it was not healthy within 1m".to_owned();
    assert_eq!(status.verdict_on(Generation(2)), Some(&Outcome::RolledBack { reason }));
    assert_eq!((status.generation, status.phase), (Generation(1), Phase::Running));
    assert!(status.message.contains("not healthy within 1m"), "{}", status.message);
    story.assigned().generation = Generation(3);
    assert_eq!(story.word(), "create g3", "a further change is tried again");
}

#[test]
fn an_update_under_way_is_undone_by_the_next_one() {
    // Generation 2 was on trial when 3 arrived: 1 is the one known to work.
    let story = Story::updating(exited(143), running_anew()).with("c3", "c", 3, running());
    let mut story = story;
    story.assigned().template = Template::of_image("c");
    story.assigned().generation = Generation(3);
    story.seen.containers.pop();
    assert_eq!(story.word(), "stop c2");
    let mut story = story.set("c2", exited(143));
    assert_eq!(story.word(), "create g3");
    story.observed.images.insert("c".into(), Image::Missing);
    assert_eq!(story.word(), "start c1", "while the image is fetched, the old one serves");
}

#[test]
fn an_old_generation_is_left_alone() {
    let mut story = Story::of("b", 1).with("c1", "a", 2, running());
    assert!(story.plan().is_empty());
    assert!(story.status().message.contains("older than generation 2"));
    story.seen.containers.clear();
    story.seen.accepted = Generation(3);
    assert!(story.plan().is_empty());
    assert_eq!(story.status().generation, Generation(3), "a restored controller counts on from it");
    // Whichever container stands for it.
    let story = Story::of("b", 1).with("c1", "a", 0, running()).with("c2", "c", 2, exited(0));
    assert_eq!(story.status().generation, Generation(2));
}

#[test]
fn a_job_that_ends_well_has_done_its_work_also_during_an_update() {
    for policy in [RestartPolicy::Never, RestartPolicy::OnFailure { max_retries: None }] {
        let mut story = Story::updating(exited(143), exited(0));
        story.assigned().template.restart = policy;
        assert_eq!(story.word(), "commit", "{policy:?}");
        let mut story = Story::of("a", 1).with("c1", "a", 1, exited(0));
        story.assigned().template.restart = policy;
        assert_eq!(story.word(), "commit", "{policy:?}");
        let story = story.record();
        assert_eq!((story.word().as_str(), story.outcome()), ("-", Outcome::Held), "{policy:?}");
        assert_eq!(story.status().phase, Phase::Stopped);
    }
    assert_eq!(
        Story::updating(exited(143), exited(0)).word(),
        "roll back",
        "a service has to stay"
    );
}

#[test]
fn an_image_that_does_not_exist_ends_the_update_and_the_old_container_serves() {
    let mut story = Story::of("b", 2).with("c1", "a", 1, running()).held(1);
    let gone = Failure { kind: FailureKind::Permanent, message: "no such image".into() };
    let failed = Image::Missing.pulling(NOW).failed(gone, NOW);
    story.observed.images.insert("b".into(), failed);
    assert_eq!(story.word(), "roll back");
    let story = story.record();
    assert_eq!(story.word(), "-");
    let reason = "image b could not be pulled: no such image".to_owned();
    assert_eq!(story.outcome(), Outcome::RolledBack { reason });
    assert_eq!(story.status().phase, Phase::Running);
}

#[test]
fn the_deadline_counts_from_the_last_progress_of_a_pull() {
    let limit = Duration::from_secs(60);
    let mut story = Story::of("b", 2).with("c1", "a", 1, running()).held(1);
    let mut image = Image::Missing.pulling(NOW);
    let later = NOW.after(limit);
    image.progress("1 of 2 MiB".into(), later);
    story.observed.images.insert("b".into(), image);
    let story = story.after(limit);
    assert_eq!(story.word(), "-");
    let story = story.after(limit);
    assert_eq!(story.word(), "roll back");

    let failure = Failure { kind: FailureKind::Transient, message: "registry is away".into() };
    let mut story = Story::of("b", 2).with("c1", "a", 1, running()).held(1);
    let failed = Image::Missing.pulling(NOW).failed(failure, NOW);
    story.observed.images.insert("b".into(), failed);
    assert_eq!(story.word(), "-");
    assert_eq!(story.after(limit).word(), "roll back");
}

#[test]
fn no_deadline_counts_the_time_without_an_engine() {
    let limit = Duration::from_secs(60);
    let start = Step::Start { container: ContainerId("c2".into()) };
    let failure = Failure { kind: FailureKind::Transient, message: "no answer".into() };
    let mut story = Story::updating(exited(143), ContainerState::Created);
    story.seen.failed(&start, failure, NOW);
    story.seen.sandboxes.set(Slot::A, Sandbox::Ready);
    let mut story = story.after(limit);
    story.observed.ready_since = story.now;
    assert_eq!(story.word(), "start c2", "the engine is back only now");
    assert_eq!(story.after(limit).word(), "roll back");

    let story = Story::updating(exited(143), running_anew()).with_check(Health::Starting);
    let mut story = story.after(limit);
    story.observed.ready_since = story.now;
    assert_eq!(story.word(), "-");
    assert_eq!(story.after(limit).word(), "roll back");
}

#[test]
fn a_new_container_that_cannot_be_started_is_made_anew_during_an_update_too() {
    let start = Step::Start { container: ContainerId("c2".into()) };
    let mut story = Story::updating(exited(143), ContainerState::Created);
    for _ in 0..STARTS_MAX {
        assert_eq!(story.word(), "start c2");
        let failure = Failure { kind: FailureKind::Transient, message: "file exists".into() };
        story.seen.failed(&start, failure, story.now);
        story.seen.sandboxes.set(Slot::A, Sandbox::Ready);
        story = story.after(Duration::from_secs(8));
    }
    assert_eq!(story.word(), "remove c2");
}

#[test]
fn what_never_held_serves_until_there_is_something_better_and_is_not_gone_back_to() {
    // The first version has not shown yet that it works when the next one comes.
    let story = Story::of("b", 2).with("c1", "a", 1, running());
    assert_eq!(story.word(), "create g2", "it goes on while the next one is made");
    let mut story = story;
    let gone = Failure { kind: FailureKind::Permanent, message: "no such image".into() };
    story.observed.images.insert("b".into(), Image::Missing.pulling(NOW).failed(gone, NOW));
    assert_eq!(story.word(), "-", "and while that cannot be made");
    assert_eq!(story.status().phase, Phase::Running);
    let story = story.after(Duration::from_secs(60));
    assert!(matches!(story.outcome(), Outcome::Failing { .. }), "{:?}", story.outcome());
    let mut story = story;
    story.observed.images.clear();
    let story = story.with("c2", "b", 2, ContainerState::Created).record();
    assert_eq!(story.word(), "stop c1");
    let story = story.set("c1", exited(143));
    assert_eq!(story.word(), "start c2");
    let story = story.set("c2", exited(1));
    assert_eq!(story.word(), "start c2", "again, as one without a way back");
}

#[test]
fn what_the_assignment_names_is_gone_back_to_rather_than_what_never_held() {
    let mut story = Story::of("b", 3).with("c1", "a", 2, exited(143));
    story.assigned().fallback = Some(Template::of_image("good"));
    let story = story.with("c2", "b", 3, running_anew()).set("c2", exited(1));
    assert_eq!(story.word(), "roll back");
    let mut story = story.record();
    assert_eq!(story.word(), "remove c1", "which has the name of the fallback");
    story.seen.containers.remove(0);
    assert_eq!(story.word(), "create g2", "the fallback, whose generation is the one before");
}

#[test]
fn a_journal_of_an_older_agent_says_it_of_whatever_it_left() {
    let mut story = Story::of("c", 3).with("c1", "a", 1, exited(143)).with("c2", "c", 3, exited(1));
    let rolled_back = Ruling::RolledBack { reason: "it ended".into() };
    let journal = story.seen.journal.ruling(Generation(2), 0, rolled_back);
    story.seen.remember(Journal { held: Held::Unknown, ..journal });
    assert_eq!(story.word(), "roll back");
}
