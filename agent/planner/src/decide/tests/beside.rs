//! A new container that is tried beside the one that serves.

use super::*;

impl Story {
    /// An update from `a`, which has held and runs, to `b`, for which the node has a second share.
    fn beside() -> Self {
        let mut story = Self::of("b", 2).with("c1", "a", 1, running()).held(1);
        story.assigned().beside = true;
        story
    }

    /// The new container, in the second sandbox.
    fn with_new(mut self, state: ContainerState) -> Self {
        self = self.with("c2", "b", 2, state);
        self.seen.containers.last_mut().unwrap().slot = Slot::B;
        self
    }

    /// With both sandboxes made, and the address led to the first.
    fn with_two(mut self) -> Self {
        self.seen.sandboxes.set(Slot::B, Sandbox::Beside);
        self
    }

    fn done(&mut self) {
        let step = self.step().unwrap();
        self.seen.succeeded(&step);
    }
}

#[test]
fn a_new_container_is_made_and_started_beside_the_one_that_serves() {
    assert_eq!(Story::beside().word(), "create g2 in b");
    let mut story = Story::beside().with_new(ContainerState::Created);
    assert_eq!(story.word(), "sandbox b aside");
    story.done();
    assert_eq!(story.word(), "start c2");
    // Without a second share it waits until the old one has ended, in whichever sandbox it was made for.
    story.assigned().beside = false;
    assert_eq!(story.word(), "order end of c1");
}

#[test]
fn the_address_leads_to_the_new_one_when_it_holds_and_before_the_old_one_ends() {
    let mut story = Story::beside().with_new(running()).with_two().with_check(Health::Starting);
    assert_eq!((story.word().as_str(), story.outcome()), ("-", Outcome::Open));
    let status = story.status();
    assert_eq!((status.generation, status.container_id.as_str()), (Generation(1), "c1"));
    story = story.with_check(Health::Healthy);
    assert_eq!(story.word(), "commit");
    story.done();
    assert_eq!(story.word(), "repair sandbox b");
    // Its second share is used until the old one has ended.
    assert_eq!((story.outcome(), story.status().generation), (Outcome::Open, Generation(2)));
    story.done();
    assert_eq!(story.seen.sandboxes.of(Slot::A), Sandbox::Beside);
    assert_eq!(story.word(), "stop c1");
    story.seen.containers[0].state = exited(143);
    assert_eq!((story.word().as_str(), story.outcome()), ("remove c1", Outcome::Held));
    story.seen.containers.remove(0);
    assert_eq!(story.word(), "remove sandbox");
    story.done();
    assert_eq!(story.word(), "-");
    // The next one goes back to the first.
    story.assigned().template.image = "c".into();
    story.assigned().generation = Generation(3);
    assert_eq!(story.word(), "create g3");
}

#[test]
fn one_that_does_not_hold_is_stopped_and_the_old_one_never_was() {
    let mut story = Story::beside().with_new(exited(3)).with_two();
    assert_eq!(story.word(), "roll back");
    story = Story::beside().with_new(running()).with_two().with_check(Health::Starting);
    story = story.after(Duration::from_secs(61));
    assert_eq!(story.word(), "roll back");
    story.done();
    assert_eq!(story.word(), "stop c2");
    assert!(matches!(story.outcome(), Outcome::Open), "it uses the second share");
    story.seen.containers[1].state = exited(143);
    assert!(matches!(story.outcome(), Outcome::RolledBack { .. }));
    assert_eq!(story.word(), "remove c2");
    story.seen.containers.remove(1);
    assert_eq!(story.word(), "remove sandbox b");
    story.done();
    assert_eq!((story.word().as_str(), story.status().container_id.as_str()), ("-", "c1"));
}

#[test]
fn if_the_old_one_ends_meanwhile_the_new_one_takes_its_place_at_once() {
    let mut story = Story::beside().with_new(running()).with_two().with_check(Health::Starting);
    story.seen.containers[0].state = exited(1);
    assert_eq!(story.word(), "repair sandbox b");
    story.done();
    assert_eq!((story.word().as_str(), story.status().container_id.as_str()), ("-", "c2"));
}

#[test]
fn an_agent_that_starts_reads_off_what_is_there_where_the_address_leads() {
    let mut story = Story::beside().with_new(running());
    story.seen.sandboxes.set(Slot::A, Sandbox::Doubtful);
    story.seen.sandboxes.set(Slot::B, Sandbox::Doubtful);
    assert_eq!(story.word(), "repair sandbox");
    story.done();
    assert_eq!(story.word(), "repair sandbox b aside");
    story.done();
    assert_eq!(story.word(), "-");
    // The verdict was written down, and whether the address was led anywhere is not known.
    let mut story = story.held(2);
    story.seen.sandboxes.set(Slot::A, Sandbox::Doubtful);
    story.seen.sandboxes.set(Slot::B, Sandbox::Doubtful);
    assert_eq!(story.word(), "repair sandbox b");
    story.done();
    assert_eq!(story.word(), "stop c1");
}

#[test]
fn a_sandbox_that_is_lost_holds_up_nothing() {
    // That of the old one: it has to end, as in any update.
    let mut story = Story::beside().with_new(running()).with_two();
    story.seen.sandboxes.set(Slot::A, Sandbox::Absent);
    assert_eq!(story.word(), "order end of c1");
    // That of the new one, which has held.
    let mut story = Story::beside().with_new(running()).with_two().held(2);
    story.seen.sandboxes.set(Slot::B, Sandbox::Absent);
    assert_eq!(story.word(), "stop c1");
}

#[test]
fn what_is_not_to_run_any_more_ends_with_its_trial() {
    let mut story = Story::beside().with_new(running()).with_two();
    story.assigned().run = RunState::Stopped;
    assert_eq!(story.word(), "stop c2");
    story.assigned = None;
    let words =
        ["stop c1", "stop c2", "remove c1", "remove c2", "remove sandbox", "remove sandbox b"];
    for (at, word) in words.into_iter().enumerate() {
        assert_eq!(story.word(), word);
        match at {
            0 | 1 => story.seen.containers[at].state = exited(143),
            2 | 3 => drop(story.seen.containers.remove(0)),
            _ => story.done(),
        }
    }
    assert_eq!(story.word(), "forget");
}
