//! Containers that come to light again: an engine was switched to another store of its own and back, or its disk is an
//! older one.

use super::*;

impl Story {
    /// A container of a generation held that cannot be seen any more.
    fn held_elsewhere(self, image: &str, generation: u64) -> Self {
        let mut story = self.with("elsewhere", image, generation, running()).held(generation);
        story.seen.containers.pop();
        story
    }
}

/// `b` has held at generation 2, `c` is on its way at 3; what is there is a container from before.
fn brought_back() -> Story {
    let mut story = Story::of("c", 3).with("c1", "a", 1, exited(137)).held_elsewhere("b", 2);
    story.assigned().fallback = Some(Template::of_image("b"));
    story
}

#[test]
fn a_container_from_before_the_one_that_held_does_not_serve_while_the_next_is_prepared() {
    let mut story = brought_back();
    story.observed.images.insert("c".into(), Image::Missing.pulling(NOW));
    assert_eq!(story.word(), "remove c1", "rather nothing serves than something older");
    story.seen.containers.clear();
    assert_eq!(story.word(), "-");
    story.observed.images.clear();
    assert_eq!(story.word(), "create g3");
}

#[test]
fn a_container_from_before_the_one_that_held_is_not_gone_back_to() {
    let story = brought_back().with("c3", "c", 3, exited(3));
    assert_eq!(story.word(), "roll back");
    let story = story.record();
    assert_eq!(story.word(), "create g2", "the fallback is what held last");
    let story = story.with("c2", "b", 2, ContainerState::Created);
    assert_eq!(story.word(), "start c2");
}

#[test]
fn a_container_from_before_the_one_that_held_makes_way_also_where_it_runs_or_says_the_same() {
    // A live change made it generation 2, in which another container held.
    let story = Story::of("a", 2).with("c1", "a", 1, running()).held_elsewhere("a", 2);
    assert_eq!(story.word(), "stop c1");
    let story = story.set("c1", exited(137));
    assert_eq!(story.word(), "create g2");
    let story = story.with("c2", "a", 2, ContainerState::Created);
    assert_eq!(story.word(), "start c2");
}

#[test]
fn the_old_container_serves_on_while_the_new_one_has_not_held() {
    let mut story = Story::of("b", 2).with("c1", "a", 1, exited(137)).held(1);
    story.observed.images.insert("b".into(), Image::Missing.pulling(NOW));
    assert_eq!(story.word(), "start c1", "the new one in the other store was on trial");
}

#[test]
fn a_container_made_anew_after_a_live_change_is_the_newest_once_it_has_held() {
    let mut story = Story::of("a", 2).held_elsewhere("a", 1);
    let journal = story.seen.journal.ruling(Generation(2), u64::MAX, Ruling::Committed);
    story.seen.remember(journal);
    let story = story.with("c2", "a", 2, running()).after(MONITOR);
    assert_eq!(story.outcome(), Outcome::Held, "the generation held before");
    let Some(Step::Record(journal)) = story.step() else { panic!("{:?}", story.step()) };
    assert_eq!(journal.proven, Generation(2));
    let mut story = story.record();
    assert!(story.plan().is_empty());
    story.seen.containers[0].generation = Generation(1);
    assert_eq!(story.word(), "stop c2");
}

#[test]
fn a_container_of_an_earlier_life_of_the_instance_has_no_part_whatever_its_generation() {
    for generation in [1, 5] {
        let mut story = Story::of("a", 1).with("c1", "a", generation, exited(137));
        story.seen.containers[0].life = Revision(6);
        let word = story.word();
        let expected = if generation == 1 { "remove c1" } else { "create g1" };
        assert_eq!(word, expected, "generation {generation}");
        story.seen.containers[0].life = Revision::default();
        let word = story.word();
        let expected = if generation == 1 { "start c1" } else { "-" };
        assert_eq!(word, expected, "one of an earlier version of dwell does not say");
    }
}

/// A controller that was restored counts on from an earlier generation: what is made for that has to stay.
#[test]
fn what_is_made_now_is_never_out_of_date() {
    let mut story = Story::of("b", 3).held_elsewhere("a", 5);
    story.assigned().fallback = Some(Template::of_image("a"));
    assert_eq!(story.word(), "create g3");
    let story = story.with("c3", "b", 3, exited(3));
    assert_eq!(story.word(), "roll back");
    let story = story.record();
    assert_eq!(story.word(), "create g2");
    let story = story.with("c2", "a", 2, ContainerState::Created);
    assert_eq!(story.word(), "start c2");
}
