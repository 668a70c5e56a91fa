//! When something has held: a first start, a restart, a change of limits.

use super::*;

#[test]
fn a_container_whose_limits_cannot_be_set_does_not_hold_with_them() {
    let mut story = Story::running().after(MONITOR);
    story.assigned().generation = Generation(2);
    story.assigned().template.resources.cpu = Millicores(500);
    let step = story.step().unwrap();
    let failure = Failure { kind: FailureKind::Transient, message: "device busy".into() };
    story.seen.failed(&step, failure.clone(), story.now);
    assert_eq!((story.word().as_str(), story.outcome()), ("-", Outcome::Open));
    let mut story = story.after(Duration::from_secs(60));
    story.seen.failed(&step, failure, story.now);
    let reason = "device busy (attempt 2)".to_owned();
    assert_eq!(story.outcome(), Outcome::Failing { reason });
}

#[test]
fn a_first_start_holds_after_the_monitor_time_or_when_a_probe_passes() {
    let story = Story::of("a", 1).with("c1", "a", 1, running());
    assert_eq!(story.plan().wake_at, Some(NOW.after(MONITOR)));
    assert_eq!(story.outcome(), Outcome::Open);
    let story = story.after(MONITOR);
    assert_eq!(story.word(), "commit");
    let story = story.record();
    assert!(story.plan().is_empty());
    assert_eq!(story.outcome(), Outcome::Held);

    let with_check = |health| Story::of("a", 1).with("c1", "a", 1, running()).with_check(health);
    assert_eq!(with_check(Health::Healthy).word(), "commit");
    let story = with_check(Health::Unhealthy).after(MONITOR);
    assert_eq!((story.word().as_str(), story.outcome()), ("-", Outcome::Open));
}

#[test]
fn what_held_and_crashes_later_still_held() {
    let story = Story::running().set("c1", exited(1));
    assert_eq!((story.word().as_str(), story.outcome()), ("start c1", Outcome::Held));
}

#[test]
fn a_first_start_that_never_holds_is_said_to_fail_and_tried_on() {
    let mut story = Story::of("a", 1).with("c1", "a", 1, exited(3));
    story.seen.journal.crashes = 30;
    let story = story.stored();
    assert_eq!(story.outcome(), Outcome::Open, "it has its deadline to get up");
    assert_eq!(story.plan().wake_at, Some(NOW.after(Duration::from_secs(60))));
    let story = story.after(Duration::from_secs(59));
    assert_eq!(story.outcome(), Outcome::Open);
    let mut story = story.after(Duration::from_secs(1));
    story.seen.containers[0].since = story.now;
    let reason = "ended with exit code 3; it is started again after a pause".to_owned();
    assert_eq!(story.outcome(), Outcome::Failing { reason });

    let mut story = Story::of("a", 1).with("c1", "a", 1, exited(3));
    story.assigned().template.restart = RestartPolicy::Never;
    assert!(matches!(story.outcome(), Outcome::Failing { .. }), "nothing more will come");
}

#[test]
fn a_restart_that_is_asked_for_has_to_hold_as_well() {
    let mut story = Story::of("a", 1).with("c1", "a", 1, running());
    let journal = story.seen.journal.ruling(Generation(1), 0, Ruling::Committed);
    story.seen.remember(journal);
    story.assigned().restarts_asked = 1;
    let story = story.record().set("c1", exited(143)).set("c1", running_anew());
    assert_eq!(story.outcome(), Outcome::Open);
    let story = story.stored().after(MONITOR);
    assert_eq!(story.word(), "commit");
    assert_eq!(story.record().outcome(), Outcome::Held);
}

#[test]
fn a_journal_of_an_earlier_life_says_nothing() {
    let before = Journal {
        life: Revision(3),
        restarts_done: 5,
        restarts: 4,
        crashes: 9,
        ..Journal::default()
    };
    for accepted_first in [true, false] {
        let mut story = Story::of("a", 1).with("c1", "a", 1, running());
        let assigned = story.assigned().clone();
        if accepted_first {
            story.seen.remember(before.clone());
        } else {
            story.seen = Seen { containers: story.seen.containers, ..Seen::default() };
            story.seen.sandbox = Sandbox::Ready;
            story.seen.remember(before.clone());
            story.seen.accept(&assigned, NOW);
        }
        let status = story.status();
        assert_eq!((status.restarts, status.restarts_done), (0, 0));
        assert_eq!(story.word(), "count", "what is on disk is of another life");
        story.assigned().restarts_asked = 1;
        assert_eq!(story.word(), "order end of c1", "a restart of this life is due");
    }
    let mut seen = Seen { accepted: Generation(9), life: Revision(3), ..Seen::default() };
    seen.accept(&Story::of("a", 1).assigned().clone(), NOW);
    assert_eq!(seen.accepted, Generation(1), "generations of another life are not later ones");
}

#[test]
fn a_journal_of_an_older_agent_is_read() {
    let text = r#"{"verdict":{"generation":2,"ruling":"committed"},"ordered_ends":{"c1":5000},
        "restarts_done":1,"restarts":2,"crashes":0,"last_exit_code":3}"#;
    let journal: Journal = serde_json::from_str(text).unwrap();
    assert_eq!((journal.life, journal.restarts_done), (Revision(0), 1));
    assert!(journal.holds(Generation(2), 0));
    let mut seen = Seen::default();
    seen.remember(journal);
    seen.accept(&Story::of("a", 2).assigned().clone(), NOW);
    assert_eq!((seen.journal.life, seen.journal.restarts), (Revision(7), 2));
}

#[test]
fn what_stays_unhealthy_is_restarted_where_that_is_declared() {
    let mut story = Story::running().with_check(Health::Unhealthy).after(MONITOR);
    let since = story.now;
    story.seen.containers[0].unhealthy_since = Some(since);
    assert_eq!(story.word(), "-", "it is left alone");
    let after = Some(Millis::seconds(120));
    story.assigned().template.healthcheck.as_mut().unwrap().restart = after;
    assert_eq!(story.word(), "-", "it may get well by itself");
    assert_eq!(story.plan().wake_at, Some(since.after(Duration::from_secs(120))));
    let story = story.after(Duration::from_secs(120));
    assert_eq!(story.word(), "order end of c1");
    let story = story.record();
    assert_eq!((story.word().as_str(), story.seen.journal.restarts), ("stop c1", 1));
    let story = story.set("c1", exited(143));
    assert_eq!(story.word(), "start c1");
    let mut story = story.set("c1", running_anew());
    story.seen.containers[0].unhealthy_since = None;
    assert_eq!(story.word(), "-");
}
