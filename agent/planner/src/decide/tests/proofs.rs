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
fn a_limit_below_what_is_used_is_refused_at_once_unless_it_is_forced() {
    let mut story = Story::running().after(MONITOR);
    story.assigned().generation = Generation(2);
    story.assigned().template.resources.cpu = Millicores(500);
    story.assigned().fallback = Some(Template::of_image("a"));
    assert_eq!(story.word(), "limit c1");
    let message = "it uses 9 MiB".to_owned();
    let failure = Failure { kind: FailureKind::Permanent, message: message.clone() };
    let step = story.step().unwrap();
    story.seen.failed(&step, failure, story.now);
    assert_eq!(story.word(), "roll back");
    let story = story.record();
    assert_eq!(
        (story.word().as_str(), story.outcome()),
        ("-", Outcome::RolledBack { reason: message })
    );

    let mut forced = Story::running().after(MONITOR);
    forced.assigned().generation = Generation(2);
    forced.assigned().template.resources.cpu = Millicores(500);
    forced.assigned().force_limits = true;
    assert_eq!(forced.word(), "limit c1 by force");
    // What somebody else has changed is set back to what it has held with.
    let mut drifted = Story::running();
    drifted.seen.containers[0].limits.share.cpu = Millicores(7);
    assert_eq!(drifted.word(), "limit c1 by force");
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
            story.seen.sandboxes.set(Slot::A, Sandbox::Ready);
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

/// Since a moment, by a probe that says why; `restart` is how long that may last.
fn ill(mut story: Story, since: Timestamp, restart: Option<Millis>) -> Story {
    let container = story.seen.containers.last_mut().unwrap();
    container.health = Checked::default();
    container.health.hear(Health::Unhealthy, "no answer within 5s".into(), since);
    let check = HealthCheck { restart, ..HealthCheck::new(Probe::Tcp { port: 80 }) };
    story.assigned().template.healthcheck = Some(check);
    story
}

const RESTART: Option<Millis> = Some(Millis::seconds(120));
const REASON: &str = "it was unhealthy for 2m: no answer within 5s";

#[test]
fn what_stays_unhealthy_is_restarted_where_that_is_declared() {
    let story = ill(Story::running().after(MONITOR), NOW.after(MONITOR), None);
    assert_eq!(story.word(), "-", "it is left alone");
    let since = story.now;
    let story = ill(story, since, RESTART);
    assert_eq!(story.word(), "-", "it may get well by itself");
    assert_eq!(story.plan().wake_at, Some(since.after(Duration::from_secs(120))));
    let story = story.after(Duration::from_secs(120));
    assert_eq!(story.word(), "give up c1");
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
    assert_eq!(story.status().restarts, 0, "it is counted when it is started again");

    // It may end with 0, and has failed all the same.
    let mut story = story.set("c1", exited(0));
    story.assigned().template.restart = RestartPolicy::OnFailure { max_retries: None };
    assert_eq!(story.word(), "start c1", "the first time at once");
    let end = story.status().ends.pop().unwrap();
    assert_eq!(end.given_up.as_deref(), Some(REASON));
    story.seen.succeeded(&Step::Start { container: ContainerId("c1".into()) });
    let mut story = story.set("c1", running_anew());
    story.seen.containers[0].health = Checked::default();
    let story = story.stored();
    assert_eq!(story.word(), "-");
    assert_eq!((story.status().restarts, story.seen.journal.crashes), (1, 1));
    assert!(story.seen.journal.given_up.is_empty());
}

#[test]
fn what_never_gets_well_is_restarted_after_growing_pauses_and_at_most_as_often_as_declared() {
    let again = |crashes| {
        let mut story = ill(Story::running(), NOW.after(Duration::from_secs(40)), RESTART);
        story.seen.journal.crashes = crashes;
        // It was never well, however long it ran.
        let story = story.stored().after(Duration::from_secs(160)).record();
        let mut story = story.set("c1", exited(143));
        story.seen.containers[0].since = story.now;
        story
    };
    let story = again(3);
    let status = story.status();
    assert_eq!(status.phase, Phase::Backoff);
    assert_eq!(status.message, format!("{REASON}; it is started again after a pause"));
    assert_eq!(story.after(Duration::from_millis(399)).word(), "-");
    assert_eq!(again(3).after(Duration::from_millis(400)).word(), "start c1");
    let mut story = again(3);
    story.assigned().template.restart = RestartPolicy::OnFailure { max_retries: Some(3) };
    assert_eq!((story.word().as_str(), story.status().phase), ("-", Phase::Failed));

    // One that had been well for a while fails for the first time again.
    let mut story = ill(Story::running(), NOW.after(Duration::from_secs(90)), RESTART);
    story.seen.journal.crashes = 3;
    let story = story.stored().after(Duration::from_secs(210)).record();
    assert_eq!(story.set("c1", exited(143)).word(), "start c1");
}

/// Its deadline is not put off by that.
#[test]
fn a_first_start_that_is_given_up_again_and_again_is_said_to_fail() {
    let mut story = ill(Story::of("a", 1).with("c1", "a", 1, running()), NOW, RESTART);
    story.assigned().update_deadline = Millis::seconds(200);
    let mut story = story.after(Duration::from_secs(120)).record().set("c1", exited(143));
    story.seen.succeeded(&Step::Start { container: ContainerId("c1".into()) });
    let mut story = story.set("c1", running_anew()).stored();
    story.seen.containers[0].since = story.now;
    let since = story.now;
    let story = ill(story, since, RESTART).after(Duration::from_secs(80));
    let reason = "health check: no answer within 5s".to_owned();
    assert_eq!(story.outcome(), Outcome::Failing { reason });
}

#[test]
fn a_version_that_would_be_restarted_for_it_is_rolled_back() {
    let mut story = ill(Story::updating(exited(143), running()), NOW, RESTART);
    story.assigned().update_deadline = Millis::seconds(600);
    let story = story.after(Duration::from_secs(119));
    assert_eq!(story.word(), "-");
    let story = story.after(Duration::from_secs(1));
    assert_eq!(story.word(), "roll back");
    assert_eq!(story.record().outcome(), Outcome::RolledBack { reason: REASON.into() });
}

/// An instance whose one container has both checks, with these verdicts.
fn with_readiness(story: Story, health: Health, readiness: Health) -> Story {
    let mut story = story.with_check(health);
    story.assigned().template.readiness = Some(HealthCheck::new(Probe::Tcp { port: 81 }));
    for container in &mut story.seen.containers {
        container.checked_mut(Check::Readiness).hear(readiness, "busy".into(), NOW);
    }
    story
}

#[test]
fn what_holds_is_healthy_and_ready() {
    let first = || Story::of("a", 1).with("c1", "a", 1, running()).after(MONITOR);
    for (health, readiness, word) in [
        (Health::Healthy, Health::Healthy, "commit"),
        (Health::Healthy, Health::None, "-"),
        (Health::Healthy, Health::Unhealthy, "-"),
        (Health::Unhealthy, Health::Healthy, "-"),
    ] {
        let story = with_readiness(first(), health, readiness);
        assert_eq!(story.word(), word, "{health} {readiness}");
        let status = story.status();
        assert_eq!(status.is_ready(), word == "commit");
    }
    let mut alone = with_readiness(first(), Health::None, Health::Healthy);
    alone.assigned().template.healthcheck = None;
    assert_eq!((alone.word().as_str(), alone.status().health), ("commit", Health::None));
}

#[test]
fn what_is_not_ready_is_rolled_back_on_trial_and_left_alone_later() {
    let trial =
        with_readiness(Story::updating(exited(143), running()), Health::Healthy, Health::Unhealthy);
    let reason = "it was not ready within 1m: busy".to_owned();
    let trial = trial.after(Duration::from_secs(60));
    assert_eq!(trial.record().outcome(), Outcome::RolledBack { reason });

    let mut story = with_readiness(Story::running(), Health::Healthy, Health::Unhealthy);
    let check = story.assigned().template.healthcheck.as_mut().unwrap();
    check.restart = RESTART;
    let story = story.after(Duration::from_secs(3600));
    assert!(story.plan().is_empty());
    let status = story.status();
    assert_eq!((status.health, status.readiness), (Health::Healthy, Health::Unhealthy));
    assert_eq!((status.message.as_str(), status.is_ready()), ("readiness: busy", false));
}
