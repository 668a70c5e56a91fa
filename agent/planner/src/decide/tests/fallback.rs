//! What an instance goes back to, and what is remembered of versions that failed.

use super::*;

impl Story {
    /// It came here, or lost its old container, while its version is on trial; `a` is known to work.
    fn on_trial(state: ContainerState) -> Self {
        let mut story = Self::of("b", 5).with("c5", "b", 5, state);
        story.assigned().fallback = Some(Template::of_image("a"));
        story
    }
}

#[test]
fn without_an_old_container_a_version_that_ends_gives_way_to_the_fallback() {
    let story = Story::on_trial(exited(3));
    assert_eq!(story.word(), "roll back");
    let story = story.record();
    assert_eq!(story.word(), "create g4");
    let story = story.with("c4", "a", 4, ContainerState::Created);
    assert_eq!(story.word(), "start c4");
    let story = story.set("c4", running_anew());
    assert_eq!(story.word(), "remove c5", "what failed goes when the fallback serves");
    let status = story.status();
    assert_eq!((status.phase, status.generation), (Phase::Running, Generation(4)));
    assert!(matches!(story.outcome(), Outcome::RolledBack { .. }));
}

#[test]
fn a_fallback_whose_container_is_removed_by_hand_is_made_again() {
    let mut story = Story::of("b", 2).with("c1", "a", 1, running());
    story.assigned().fallback = Some(Template::of_image("a"));
    let rolled_back = Ruling::RolledBack { reason: "it did not hold".into() };
    story.seen.remember(story.seen.journal.ruling(Generation(2), 0, rolled_back));
    assert_eq!(story.word(), "-");
    story.seen.containers.clear();
    assert_eq!(story.word(), "create g1", "never the version that was ruled out");
    story.observed.images.insert("a".into(), Image::Missing);
    assert!(story.plan().pulls.contains("a"), "it is the fallback's image that is needed");
}

#[test]
fn a_version_on_trial_without_an_old_container_holds_like_any_other() {
    let story = Story::on_trial(running());
    assert_eq!(story.plan().wake_at, Some(NOW.after(MONITOR)));
    let story = story.after(MONITOR);
    assert_eq!(story.word(), "commit");
    let story = story.record();
    assert_eq!((story.word().as_str(), story.outcome()), ("-", Outcome::Held));
}

#[test]
fn a_rolled_back_container_gets_the_limits_of_the_fallback() {
    let mut story = Story::of("b", 2).with("c1", "a", 1, running());
    let mut fallback = Template::of_image("a");
    fallback.resources.cpu = Millicores(500);
    story.assigned().fallback = Some(fallback);
    let rolled_back = Ruling::RolledBack { reason: "it did not hold".into() };
    story.seen.remember(story.seen.journal.ruling(Generation(2), 0, rolled_back));
    assert_eq!(story.word(), "limit c1 by force", "it has held with them");
}

#[test]
fn what_is_assigned_anew_after_a_roll_back_adopts_the_container_that_serves() {
    let mut story = Story::of("a", 3).with("c1", "a", 1, running()).with("c2", "b", 2, exited(3));
    let rolled_back = Ruling::RolledBack { reason: "it did not hold".into() };
    story.seen.remember(story.seen.journal.ruling(Generation(2), 0, rolled_back));
    assert_eq!(story.word(), "remove c2");
    story.seen.containers.pop();
    let story = story.after(MONITOR);
    assert_eq!(story.word(), "commit", "without touching what runs");
}

/// On a full disk a ruling and a note of an end fail by turns.
#[test]
fn a_journal_that_cannot_be_written_is_tried_again_after_a_pause_whatever_it_says() {
    let mut story = Story::on_trial(exited(3));
    let failure = Failure { kind: FailureKind::Transient, message: "no space left".into() };
    for _ in 0..3 {
        let step = story.step().unwrap();
        assert!(matches!(step, Step::Record(_)), "{step:?}");
        story.seen.failed(&step, failure.clone(), story.now);
        assert_eq!(story.step(), None, "nothing is tried before the pause is over");
        story.now = story.plan().wake_at.unwrap();
    }
    let (_, trouble) = story.seen.trouble.as_ref().unwrap();
    assert_eq!(trouble.attempts, 3);
}

#[test]
fn a_trial_that_a_host_or_an_engine_cut_short_is_made_again_and_rules_nothing_out() {
    let mut story = Story::updating(exited(137), exited(137));
    story.observed.ready_since = NOW;
    assert_eq!(story.word(), "start c2");
    let mut story = story.set("c2", exited(1)).after(MONITOR);
    story.seen.containers.iter_mut().for_each(|container| container.since = story.now);
    assert_eq!(story.word(), "roll back", "this time it ended by itself");
}

#[test]
fn what_failed_once_and_is_assigned_anew_is_tried_anew() {
    let mut story = Story::updating(running(), exited(137)).after(MONITOR);
    let rolled_back = Ruling::RolledBack { reason: "it ended".into() };
    story.seen.remember(story.seen.journal.ruling(Generation(2), 0, rolled_back));
    assert_eq!(story.word(), "remove c2");
    story.assigned().generation = Generation(3);
    let (assigned, now) = (story.assigned().clone(), story.now);
    story.seen.accept(&assigned, now);
    assert_eq!(story.word(), "order end of c1", "that it ended before says nothing");
    let story = story.record().set("c1", exited(143));
    assert_eq!(story.word(), "start c2");
    let mut story = story.set("c2", exited(1)).after(MONITOR);
    story.seen.containers.iter_mut().for_each(|container| container.since = story.now);
    assert_eq!(story.word(), "roll back", "it ended again");
}

#[test]
fn a_fallback_is_made_from_the_image_that_held() {
    let (new, old) = (ImageDigest::new([1; 32]), ImageDigest::new([2; 32]));
    let mut story = Story::of("b", 2);
    story.assigned().image_digest = Some(new);
    story.assigned().fallback = Some(Template::of_image("a"));
    story.assigned().fallback_image_digest = Some(old);
    story.observed.images.insert(format!("b@{new}"), Image::Missing);
    story.observed.images.insert(format!("a@{old}"), Image::Missing);
    assert_eq!(story.plan().pulls.into_iter().collect::<Vec<_>>(), [format!("b@{new}")]);
    let reason = "does not answer".to_owned();
    let ruling = Ruling::RolledBack { reason };
    story.seen.remember(story.seen.journal.ruling(Generation(2), u64::MAX, ruling));
    assert_eq!(story.plan().pulls.into_iter().collect::<Vec<_>>(), [format!("a@{old}")]);
    let assigned = story.assigned().of_generation(Generation(1)).unwrap().into_owned();
    assert_eq!(assigned.image(), format!("a@{old}"));
}

#[test]
fn what_failed_stays_until_what_takes_its_place_is_made() {
    let mut story = Story::on_trial(exited(3)).record();
    story.observed.images.insert("a".into(), Image::Missing.pulling(NOW));
    assert_eq!(story.word(), "-", "the image of the fallback is being fetched");
    story.observed.images.clear();
    assert_eq!(story.word(), "create g4");
}
