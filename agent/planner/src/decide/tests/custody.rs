//! Instances that are let go, and taken back.

use dwell_core::instance::{Custody, RunState};

use super::*;

impl Story {
    fn custody(mut self, custody: Custody) -> Self {
        let generation = self.assigned().generation.next();
        let assigned = self.assigned();
        assigned.custody = custody;
        assigned.generation = generation;
        let assigned = assigned.clone();
        self.seen.accept(&assigned, NOW);
        self
    }

    /// One whose container was let go at generation 2.
    fn let_go() -> Self {
        let story = Self::running().custody(Custody::LetGo(Generation(2)));
        assert_eq!(story.status().let_go, None, "it is not on disk");
        let story = story.record();
        assert_eq!(story.status().let_go, Some(Generation(2)));
        story
    }

    fn let_go_on_disk(&self) -> Option<Generation> {
        self.seen.stored.let_go
    }
}

#[test]
fn what_is_let_go_is_written_down_and_left_alone_whatever_is_desired() {
    let story = Story::let_go();
    assert!(story.plan().is_empty());
    assert_eq!(story.status().phase, Phase::Running);
    type Change = fn(&mut Assigned);
    let changes: [(&str, Change); 6] = [
        ("another image", |one| one.template.image = "b".into()),
        ("a restart", |one| one.restarts_asked = 9),
        ("a stop", |one| one.run = RunState::Stopped),
        ("other limits", |one| one.template.resources.cpu = Millicores(700)),
        ("a controller that knows of nothing", |one| one.custody = Custody::Usual),
        ("another life of the instance", |one| {
            one.custody = Custody::Usual;
            one.life = Revision(8);
        }),
    ];
    for (what, change) in changes {
        let mut story = Story::let_go();
        change(story.assigned());
        story.assigned().generation = Generation(9);
        let assigned = story.assigned().clone();
        let fingerprint = assigned.fingerprint();
        story.assigned = Some(assigned.clone());
        story.seen.accept(&assigned, NOW);
        assert_eq!(story.word(), "-", "{what} ({fingerprint:?})");
        assert_eq!(story.status().let_go, Some(Generation(2)), "{what}");
        let ended = story.set("c1", exited(1)).after(Duration::from_secs(600));
        assert_eq!(ended.word(), "-", "{what}, when it has ended");
        assert_eq!(ended.status().phase, Phase::Stopped);
    }
}

#[test]
fn an_assignment_without_it_does_not_take_it_away_until_its_container_is_gone() {
    let mut story = Story::let_go();
    story.assigned = None;
    assert_eq!(story.word(), "-");
    assert_eq!(
        (story.status().phase, story.status().let_go),
        (Phase::Running, Some(Generation(2)))
    );
    let mut story = story.set("c1", exited(0));
    assert_eq!(story.word(), "-");
    story.seen.containers.clear();
    assert_eq!(story.word(), "remove sandbox");
    story.seen.sandboxes.set(Slot::A, Sandbox::Absent);
    assert_eq!(story.word(), "forget");
}

#[test]
fn with_an_assignment_nothing_goes_although_its_container_is_gone() {
    let mut story = Story::let_go();
    story.seen.containers.clear();
    assert_eq!(story.word(), "-", "another store of the engine may have it");
    assert_eq!(story.status().container_id, "");
    assert_eq!(story.status().phase, Phase::Stopped);
}

#[test]
fn only_what_runs_and_stays_is_let_go() {
    let let_go = Custody::LetGo(Generation(2));
    let crashed = Story::running().set("c1", exited(1)).custody(let_go);
    let crashed = crashed.after(Duration::from_secs(600));
    assert_eq!(crashed.word(), "start c1", "a crash is mended first");
    let mut restarting = Story::running();
    restarting.assigned().restarts_asked = 1;
    let restarting = restarting.record().custody(let_go);
    assert_eq!(restarting.word(), "stop c1", "a restart is brought to its end first");
    let restarting = restarting.set("c1", exited(0));
    assert_eq!(restarting.word(), "start c1");
    let restarted = restarting.set("c1", running_anew());
    assert_eq!(restarted.step().map(|step| matches!(step, Step::Record(_))), Some(true));
    assert_eq!(restarted.record().let_go_on_disk(), Some(Generation(2)));
    let two = Story::updating(running(), running()).custody(Custody::LetGo(Generation(3)));
    assert_ne!(two.word(), "-", "an update is brought to its end first");
}

#[test]
fn what_is_taken_back_goes_on_and_is_looked_after_again() {
    let story = Story::let_go().custody(Custody::Adopted(Generation(3)));
    assert_eq!(story.status().let_go, None);
    let story = story.record();
    assert_eq!(story.let_go_on_disk(), None);
    // That it holds at this generation, too, is all that is left to write down.
    let story = story.after(MONITOR);
    assert_eq!(story.word(), "commit");
    let story = story.record();
    assert!(story.plan().is_empty(), "{:?}", story.plan());
    let ended = story.set("c1", exited(1)).after(Duration::from_secs(600));
    assert_eq!(ended.word(), "start c1");
}

#[test]
fn an_old_order_to_take_it_back_does_not_count_against_a_newer_one_to_let_go() {
    let story = Story::let_go().custody(Custody::Adopted(Generation(1)));
    assert_eq!(story.word(), "-");
    let again = Story::let_go().custody(Custody::LetGo(Generation(3)));
    assert_eq!(again.record().let_go_on_disk(), Some(Generation(3)));
}

#[test]
fn what_was_never_let_go_is_not_written_down_for_being_taken_back() {
    let story = Story::running().custody(Custody::Adopted(Generation(2)));
    assert_eq!(story.after(MONITOR).word(), "commit");
}

#[test]
fn its_sandbox_is_looked_to_but_not_made_again() {
    let mut story = Story::let_go();
    story.seen.sandboxes.doubt(Slot::A);
    assert_eq!(story.word(), "repair sandbox");
    assert_eq!(story.status().let_go, Some(Generation(2)));
    story.seen.sandboxes.set(Slot::A, Sandbox::Absent);
    assert_eq!(story.word(), "-");
}
