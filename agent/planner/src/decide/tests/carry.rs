//! Files that go from one container to the next.

use super::*;

fn paths() -> Vec<String> {
    vec!["/etc/app/id".to_owned()]
}

fn ended_anew(code: i32) -> ContainerState {
    ContainerState::Exited {
        started_at: Timestamp(6_000),
        ran_for: Duration::from_secs(1),
        code,
        out_of_memory: false,
    }
}

impl Story {
    /// With files to carry over, by the template and the fallback.
    fn carrying(mut self) -> Self {
        let assigned = self.assigned();
        assigned.template.carry = paths();
        assigned.fallback.iter_mut().for_each(|fallback| fallback.carry = paths());
        self
    }

    /// The planned step has succeeded; what it changed of a container is still to be seen.
    fn does(&mut self, word: &str) {
        assert_eq!(self.word(), word);
        let step = self.step().unwrap();
        self.seen.succeeded(&step);
    }

    fn fails(&mut self, kind: FailureKind) {
        let step = self.step().unwrap();
        self.seen.failed(&step, Failure { kind, message: "too big".into() }, self.now);
    }
}

#[test]
fn files_are_carried_over_after_the_old_one_has_ended_and_before_the_new_one_starts() {
    let story = Story::updating(running(), ContainerState::Created).carrying();
    assert_eq!(story.word(), "order end of c1");
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
    let mut story = story.set("c1", exited(143));
    let step = Step::Carry {
        from: ContainerId("c1".into()),
        into: ContainerId("c2".into()),
        paths: paths(),
    };
    assert_eq!(story.step(), Some(step));
    story.does("carry from c1 into c2");
    assert_eq!(story.word(), "start c2");
    // An agent that does not remember it does it again.
    story.seen.carried = None;
    assert_eq!(story.word(), "carry from c1 into c2");
    // What runs, or has run, has files of its own.
    let story = story.set("c2", running_anew());
    assert_eq!(story.word(), "-");
    let story = story.after(MONITOR).record();
    assert_eq!(story.word(), "remove c1");
}

#[test]
fn what_has_changed_since_is_carried_over_again() {
    let mut story = Story::updating(running(), ContainerState::Created).carrying().record();
    story = story.set("c1", exited(143));
    story.does("carry from c1 into c2");
    // Somebody started the old one once more.
    story = story.set("c1", ended_anew(0));
    assert_eq!(story.word(), "carry from c1 into c2");
    story.does("carry from c1 into c2");
    story.assigned().template.carry.push("/more".to_owned());
    assert_eq!(story.word(), "carry from c1 into c2");
    story.assigned().template.carry.clear();
    assert_eq!(story.word(), "start c2");
}

#[test]
fn what_cannot_be_carried_over_fails_the_update_and_the_old_one_is_put_back() {
    for (kind, age_s, word) in [
        (FailureKind::Permanent, 0, "roll back"),
        (FailureKind::Transient, 0, "-"),
        (FailureKind::Transient, 1, "carry from c1 into c2"),
        (FailureKind::Transient, 60, "roll back"),
    ] {
        let mut story = Story::updating(exited(143), ContainerState::Created).carrying();
        story.fails(kind);
        let story = story.after(Duration::from_secs(age_s));
        assert_eq!(story.word(), word, "{kind:?} after {age_s} s");
    }
    let mut story = Story::updating(exited(143), ContainerState::Created).carrying();
    story.fails(FailureKind::Permanent);
    let story = story.record();
    let reason = "its files could not be carried over: too big".to_owned();
    assert_eq!(story.outcome(), Outcome::RolledBack { reason });
    assert_eq!(story.word(), "start c1", "it has what it had");
    assert_eq!(story.set("c1", running_anew()).word(), "remove c2");
}

#[test]
fn without_a_way_back_it_is_tried_again_and_nothing_that_has_the_files_goes() {
    let mut story = Story::of("b", 2).with("c1", "a", 1, exited(143));
    story = story.with("c2", "b", 2, ContainerState::Created).carrying();
    story.seen.remember(story.seen.journal.ordering_end(&story.seen.containers[0], &[]));
    story.fails(FailureKind::Permanent);
    assert_eq!(story.word(), "-");
    assert_eq!(story.status().phase, Phase::Failed);
    assert!(story.status().message.contains("too big"));
    // To have less carried over is a way out.
    story.assigned().template.carry.clear();
    assert_eq!(story.word(), "start c2");
}

#[test]
fn a_fallback_that_is_made_anew_has_the_files_of_what_ran_last() {
    let mut story = Story::of("b", 5).with("c5", "b", 5, exited(3));
    story.assigned().fallback = Some(Template::of_image("a"));
    let story = story.carrying();
    assert_eq!(story.word(), "roll back");
    let story = story.record();
    assert_eq!(story.word(), "create g4");
    let mut story = story.with("c4", "a", 4, ContainerState::Created);
    story.fails(FailureKind::Transient);
    assert_eq!(story.word(), "-", "what has the files is not removed");
    story = story.after(Duration::from_secs(1));
    story.does("carry from c5 into c4");
    assert_eq!(story.word(), "start c4");
    assert_eq!(story.set("c4", running_anew()).word(), "remove c5");
}

#[test]
fn what_alone_has_the_files_is_not_made_anew_for_a_start_that_fails() {
    let start = Step::Start { container: ContainerId("c1".into()) };
    let failing = |mut story: Story| {
        for _ in 0..STARTS_MAX {
            let failure = Failure { kind: FailureKind::Transient, message: "stuck".into() };
            story.seen.failed(&start, failure, story.now);
        }
        story.seen.sandboxes.set(Slot::A, Sandbox::Ready);
        story.after(Duration::from_secs(300))
    };
    let story = || Story::of("a", 1).with("c1", "a", 1, exited(1));
    assert_eq!(failing(story()).word(), "remove c1");
    assert_eq!(failing(story().carrying()).word(), "start c1");
    let created = Story::of("a", 1).with("c1", "a", 1, ContainerState::Created).carrying();
    assert_eq!(failing(created).word(), "remove c1", "there is nothing in it");
}

#[test]
fn nothing_is_tried_beside_what_its_files_come_from() {
    let mut story = Story::of("b", 2).with("c1", "a", 1, running()).held(1).carrying();
    story.assigned().beside = true;
    assert_eq!(story.word(), "create g2");
    let mut story = story.with("c2", "b", 2, ContainerState::Created);
    story.seen.containers[1].slot = Slot::B;
    assert_eq!(story.word(), "order end of c1");
    // One that runs there already goes on.
    story.seen.sandboxes.set(Slot::B, Sandbox::Beside);
    assert_eq!(story.set("c2", running_anew()).word(), "-");
}

#[test]
fn what_is_out_of_date_is_not_carried_over() {
    let story = Story::of("c", 3).with("c2", "b", 2, running()).held(2);
    let mut story = story.with("c1", "a", 1, exited(0)).carrying();
    story.seen.containers.remove(0);
    story = story.with("c3", "c", 3, ContainerState::Created);
    assert_ne!(story.word(), "carry from c1 into c3");
}
