//! One story per test: an instance of a job, and what follows from the ends of its main process.

use dwell_core::job::{Task, TaskOutcome};

use super::*;

fn of_job(attempts: u32) -> Story {
    let mut story = Story::of("a", 3);
    story.assigned().task = Some(Task { number: Generation(3), failed_before: 0 });
    story.assigned().template.restart = RestartPolicy::of_attempts(attempts);
    story
}

fn told(story: &Story) -> Option<(u32, Option<(TaskOutcome, i32)>)> {
    let task = story.status().task?;
    Some((task.failed, task.end.map(|end| (end.outcome, end.code))))
}

fn exited_anew(code: i32) -> ContainerState {
    ContainerState::Exited {
        started_at: Timestamp(6_000),
        ran_for: Duration::from_secs(1),
        code,
        out_of_memory: false,
    }
}

#[test]
fn what_is_done_is_told_once_it_is_on_disk_and_does_not_run_again() {
    let story = of_job(6).with("c1", "a", 3, exited(0));
    assert_eq!(story.word(), "commit", "that it is done is written down at once");
    assert_eq!(told(&story), None, "what is not on disk is not told");
    assert_ne!(story.status().phase, Phase::Completed);
    let mut story = story.record();
    assert_eq!(told(&story), Some((0, Some((TaskOutcome::Completed, 0)))));
    assert_eq!(story.outcome(), Outcome::Held, "it has shown that it works");
    let status = story.status();
    assert_eq!((status.phase, status.exit_code), (Phase::Completed, Some(0)));
    assert!(story.plan().is_empty(), "{:?}", story.plan());

    // Whoever removes its container, or asks for a restart.
    story.assigned().restarts_asked = 4;
    story.observed.images.insert("a".into(), Image::Missing);
    assert!(story.plan().is_empty());
    story.seen.containers.clear();
    assert!(story.plan().is_empty(), "{:?}", story.plan());
    assert_eq!((story.status().phase, story.status().exit_code), (Phase::Completed, Some(0)));
    story.assigned().run = RunState::Stopped;
    assert!(story.plan().is_empty(), "{:?}", story.plan());

    // Another agent finds it in the journal.
    let stored = story.seen.stored.clone();
    let text = serde_json::to_string(&stored).unwrap();
    assert_eq!(serde_json::from_str::<Journal>(&text).unwrap(), stored);
    let mut anew = of_job(6);
    anew.seen.remember(stored);
    assert!(anew.plan().is_empty(), "{:?}", anew.plan());
}

#[test]
fn what_somebody_else_starts_again_is_stopped() {
    let story = of_job(1).with("c1", "a", 3, exited(0)).record().set("c1", running_anew());
    assert_eq!(story.word(), "order end of c1");
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
    let story = story.set("c1", exited_anew(0));
    assert_eq!(story.word(), "-");
    assert_eq!(told(&story), Some((0, Some((TaskOutcome::Completed, 0)))));
}

#[test]
fn failures_are_counted_before_the_next_attempt_and_bounded() {
    let mut story = of_job(2).with("c1", "a", 3, exited(3));
    assert_eq!(story.word(), "count");
    story = story.record();
    assert_eq!(told(&story), Some((1, None)));
    assert_eq!(story.plan().wake_at, Some(story.now.after(Duration::from_millis(1_600))));
    assert_eq!(story.status().phase, Phase::Backoff);
    let mut story = story.after(Duration::from_secs(2));
    assert_eq!(story.word(), "start c1");
    story.seen.succeeded(&Step::Start { container: ContainerId("c1".into()) });

    // However long it runs, it is the same task.
    let long = ContainerState::Exited {
        started_at: Timestamp(6_000),
        ran_for: Duration::from_secs(3600),
        code: 4,
        out_of_memory: false,
    };
    let story = story.set("c1", long).record();
    assert_eq!(told(&story), Some((2, Some((TaskOutcome::Failed, 4)))));
    let status = story.status();
    assert_eq!(status.phase, Phase::Failed);
    assert_eq!(status.message, "failed at each of its 2 attempts, last with exit code 4");
    assert!(story.stored().plan().is_empty());
}

#[test]
fn a_crash_of_the_agent_gives_no_further_attempt() {
    let story = of_job(2).with("c1", "a", 3, exited(3)).record();
    // A new agent knows what is on disk, and sees the same container.
    let mut anew = of_job(2).with("c1", "a", 3, exited(3));
    anew.seen.remember(story.seen.stored.clone());
    assert_eq!(anew.plan().steps.len(), 0, "it is counted already");
    let story = anew.set("c1", exited_anew(0)).record();
    assert_eq!(told(&story), Some((1, Some((TaskOutcome::Completed, 0)))));
}

#[test]
fn an_end_whose_record_may_be_on_disk_is_not_forgotten_with_its_container() {
    let mut story = of_job(2).with("c1", "a", 3, exited(0));
    let step = story.step().unwrap();
    let failure = Failure { kind: FailureKind::Transient, message: "no reply".into() };
    story.seen.failed(&step, failure, story.now);
    assert_eq!(told(&story), None, "nobody knows whether the disk has it");
    // Somebody removes the only other thing that knew.
    story.seen.containers.clear();
    let story = story.after(Duration::from_secs(60));
    assert_eq!(story.word(), "commit", "the work is not done twice");
    let story = story.record();
    assert_eq!(told(&story), Some((0, Some((TaskOutcome::Completed, 0)))));
    assert!(story.plan().is_empty(), "{:?}", story.plan());
}

#[test]
fn attempts_on_other_nodes_count() {
    let mut story = of_job(3);
    story.assigned().task = Some(Task { number: Generation(3), failed_before: 2 });
    let story = story.with("c1", "a", 3, exited(9)).record();
    assert_eq!(told(&story), Some((1, Some((TaskOutcome::Failed, 9)))));
    assert!(story.status().message.starts_with("failed at each of its 3 attempts"));
    let mut unlimited = of_job(1);
    unlimited.assigned().template.restart = RestartPolicy::OnFailure { max_retries: None };
    let story = unlimited.with("c1", "a", 3, exited(9)).record();
    assert_eq!(told(&story), Some((1, None)));
    let once = of_job(1).with("c1", "a", 3, exited(9)).record();
    assert!(once.status().message.starts_with("failed at its only attempt"));
}

#[test]
fn what_is_ordered_to_end_is_neither_done_nor_failed() {
    let mut story = of_job(1).with("c1", "a", 3, running()).held(3);
    story.assigned().run = RunState::Stopped;
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
    let mut story = story.set("c1", exited(0));
    assert_eq!(told(&story), None);
    assert_eq!(story.status().phase, Phase::Stopped);
    story.assigned().run = RunState::Running;
    assert_eq!(story.word(), "start c1");

    // What has ended by itself just before it is told to is counted all the same.
    let mut story = of_job(1).with("c1", "a", 3, exited(0));
    story.assigned().run = RunState::Stopped;
    let story = story.record();
    assert_eq!(told(&story), Some((0, Some((TaskOutcome::Completed, 0)))));
}

#[test]
fn an_earlier_task_says_nothing_of_the_present_one() {
    let done = of_job(1).with("c1", "a", 3, exited(0)).record();
    let mut story = done;
    // It is to be done anew, whatever it is made from.
    story.assigned().generation = Generation(5);
    story.assigned().task = Some(Task { number: Generation(5), failed_before: 0 });
    let assigned = story.assigned.clone().unwrap();
    story.seen.accept(&assigned, story.now);
    assert_eq!(told(&story), None);
    assert_eq!(story.word(), "create g5");
    let story = story.with("c2", "a", 5, ContainerState::Created);
    assert_eq!(story.word(), "start c2");
    let story = story.set("c2", exited_anew(0)).record();
    assert_eq!(told(&story), Some((0, Some((TaskOutcome::Completed, 0)))));
    assert_eq!(story.status().task.unwrap().number, Generation(5));
    assert_eq!(story.word(), "remove c1");

    // Another life of the instance has a task of its own, with the same number.
    let mut story = of_job(1).with("c1", "a", 3, exited(0)).record();
    story.assigned().life = Revision(8);
    let assigned = story.assigned.clone().unwrap();
    story.seen.accept(&assigned, story.now);
    assert_eq!(told(&story), None);
    assert_eq!(story.word(), "remove c1", "it is in the way of the one to be made");
}

#[test]
fn a_move_goes_on_with_the_same_task() {
    let mut story = of_job(2).with("c1", "a", 3, exited(0)).record();
    story.assigned().generation = Generation(4);
    let assigned = story.assigned.clone().unwrap();
    story.seen.accept(&assigned, story.now);
    assert!(story.plan().is_empty(), "{:?}", story.plan());
    assert_eq!(told(&story), Some((0, Some((TaskOutcome::Completed, 0)))));
    // What leaves says so as long as anything of it is here.
    story.assigned = None;
    assert_eq!(told(&story), Some((0, Some((TaskOutcome::Completed, 0)))));
    assert_eq!(story.word(), "remove c1");
}

#[test]
fn a_job_is_never_put_back() {
    let mut story = of_job(2).with("c0", "b", 1, running()).held(1);
    assert_eq!(story.word(), "stop c0", "what does other work goes");
    story = story.set("c0", exited(143));
    assert_eq!(story.word(), "create g3");
    story.seen.sandboxes.set(Slot::A, Sandbox::Ready);
    let story = story.with("c1", "a", 3, exited_anew(7)).record();
    assert_eq!(told(&story), Some((1, None)));
}

#[test]
fn what_is_given_up_has_failed_whatever_its_exit_code() {
    let mut story = of_job(1).with("c1", "a", 3, running()).held(3);
    let container = story.seen.containers[0].clone();
    let all = std::slice::from_ref(&container);
    let journal = story.seen.journal.giving_up(&container, "it hangs", false, all);
    story.seen.remember(journal);
    assert_eq!(story.word(), "stop c1");
    let story = story.set("c1", exited(0)).record();
    assert_eq!(told(&story), Some((1, Some((TaskOutcome::Failed, 0)))));
    let (desired, observed) = story.inputs();
    assert_eq!(statuses(&desired, &observed, story.now).len(), 1);
}
