//! Instances that are put in the place of a container that dwell did not make.

use dwell_core::foreign::{Adoption, ForeignRestart};
use dwell_core::instance::RunState;
use dwell_core::quantity::Millis;

use super::*;
use crate::journal::Progress;

fn adoption() -> Adoption {
    Adoption {
        container: ContainerId("f1".into()),
        name: "shop".into(),
        grace: Millis::seconds(10),
        restart: ForeignRestart::Always,
        image: None,
        volumes: std::collections::BTreeMap::new(),
    }
}

impl Story {
    fn adopting() -> Self {
        let mut story = Self::of("a", 1);
        story.assigned().adopts = Some(adoption());
        story
    }

    /// Does what is planned, and says in words what that was.
    fn next(mut self) -> (Self, String) {
        let (word, step) = (self.word(), self.step());
        if let Some(step) = step {
            self.seen.succeeded(&step);
        }
        (self, word)
    }

    fn failed(mut self, kind: FailureKind) -> Self {
        let step = self.step().unwrap();
        let failure = Failure { kind, message: "no room".into() };
        self.seen.failed(&step, failure, self.now);
        self
    }

    /// One whose container is taken, and its files kept.
    fn kept() -> Self {
        Self::adopting().next().0.next().0.next().0
    }

    fn progress(&self) -> Option<&Progress> {
        self.seen.stored.taken_over.as_ref().map(|taken| &taken.progress)
    }
}

#[test]
fn it_is_noted_then_stopped_then_kept_then_made() {
    let (story, word) = Story::adopting().next();
    assert_eq!((word.as_str(), story.progress()), ("count", Some(&Progress::Taking)));
    let (story, word) = story.next();
    assert_eq!(word, "stop foreign");
    assert_eq!(story.status().message, "the files of container shop are copied");
    let (story, word) = story.next();
    assert_eq!(word, "keep foreign");
    assert_eq!(story.word(), "create g1");
    assert_eq!(story.status().verdict.unwrap().outcome, Outcome::Open);
}

#[test]
fn it_holds_or_is_put_back() {
    let story = Story::kept().with("c1", "a", 1, running());
    assert_eq!(story.word(), "-", "it has to hold first");
    let (held, word) = story.after(MONITOR).next();
    assert_eq!((word.as_str(), held.progress()), ("commit", Some(&Progress::Held)));
    assert_eq!(held.word(), "-");
    assert_eq!(held.outcome(), Outcome::Held);

    let ended = Story::kept().with("c1", "a", 1, exited(3)).after(Duration::from_secs(1));
    let mut ended = ended;
    ended.seen.containers[0].since = ended.now;
    let (story, word) = ended.next();
    assert_eq!(word, "roll back");
    let (mut story, word) = story.next();
    assert_eq!(word, "remove c1");
    story.seen.containers.clear();
    let (story, word) = story.next();
    assert_eq!(word, "start foreign");
    let (story, _) = story.next();
    assert!(matches!(story.progress(), Some(Progress::Returned { .. })), "{:?}", story.progress());
    let (story, word) = story.next();
    assert_eq!((word.as_str(), story.word().as_str()), ("remove sandbox", "-"));
    assert_eq!(story.status().phase, Phase::Failed);
    assert!(matches!(story.outcome(), Outcome::RolledBack { .. }));
}

#[test]
fn what_cannot_be_kept_is_tried_again_and_given_up_in_time() {
    let story = Story::adopting().next().0.next().0;
    let permanent = story.failed(FailureKind::Permanent);
    assert_eq!(permanent.word(), "roll back");
    let story = Story::adopting().next().0.next().0.failed(FailureKind::Transient);
    assert_eq!(story.word(), "stop foreign", "somebody may have started it again");
    let (story, _) = story.next();
    assert_eq!(story.word(), "-", "after a pause");
    assert_eq!(story.after(Duration::from_secs(61)).word(), "roll back");
}

#[test]
fn what_is_not_wanted_any_more_is_put_back_wherever_it_was() {
    for kept in [false, true] {
        let mut story = if kept { Story::kept() } else { Story::adopting().next().0 };
        story.assigned = None;
        let (story, word) = story.next();
        assert_eq!(word, "start foreign", "{kept}");
        let (story, _) = story.next();
        assert!(matches!(story.progress(), Some(Progress::Returned { .. })));
        let (story, word) = story.next();
        assert_eq!(word, "remove sandbox");
        assert_eq!(story.word(), "forget");
    }
    let mut stopped = Story::kept();
    stopped.assigned().run = RunState::Stopped;
    assert_eq!(stopped.word(), "roll back");
    let mut other = Story::kept();
    other.assigned().life = Revision(9);
    let assigned = other.assigned().clone();
    other.seen.accept(&assigned, NOW);
    assert_eq!(other.word(), "start foreign", "it was another instance's");
}

#[test]
fn what_is_not_to_run_takes_nothing() {
    let mut story = Story::adopting();
    story.assigned().run = RunState::Stopped;
    assert_eq!(story.word(), "-");
}
