//! One story per test: a container set, and the steps or waits that follow from it.

use std::time::Duration;

use dwell_core::fixtures;
use dwell_core::health::{Health, HealthCheck, Probe};
use dwell_core::id::Revision;
use dwell_core::image::{ContainerImage, ImageDigest};
use dwell_core::instance::{Assigned, InstanceStatus, Outcome, Phase};
use dwell_core::quantity::Millicores;
use dwell_core::workload::{ImagePolicy, Template};

use super::*;
use crate::journal::{Journal, Ruling, Verdict};
use crate::observed::{Desired, Image};
use crate::step::{Failure, FailureKind};
use crate::{Plan, plan, statuses};
use dwell_core::container::ContainerId;

const MONITOR: Duration = Duration::from_secs(10);
const NOW: Timestamp = Timestamp(1_000_000);

/// One desired instance on a node with a ready engine, and what a plan makes of it.
struct Story {
    assigned: Option<Assigned>,
    observed: Observed,
    seen: Seen,
    now: Timestamp,
}

impl Story {
    fn of(image: &str, generation: u64) -> Self {
        let assigned = fixtures::assigned("web-0", generation, Template::of_image(image));
        let assigned = Assigned { life: Revision(7), ..assigned };
        let observed = Observed { engine: EngineState::Ready, ..Observed::default() };
        let mut seen = Seen { sandbox: Sandbox::Ready, ..Seen::default() };
        seen.accept(&assigned, NOW);
        Self { assigned: Some(assigned), observed, seen, now: NOW }
    }

    /// An instance whose one container runs, and is known to hold.
    fn running() -> Self {
        Self::of("a", 1).with("c1", "a", 1, running()).held(1)
    }

    /// A generation was found to hold, and that is on disk.
    fn held(mut self, generation: u64) -> Self {
        let journal = self.seen.journal.ruling(Generation(generation), u64::MAX, Ruling::Committed);
        self.seen.remember(journal);
        self
    }

    /// An update from `a` to `b`, with the old container in one state and the new in another.
    fn updating(old: ContainerState, new: ContainerState) -> Self {
        Self::of("b", 2).with("c1", "a", 1, old).with("c2", "b", 2, new)
    }

    fn with(mut self, id: &str, image: &str, generation: u64, state: ContainerState) -> Self {
        self.seen.containers.push(Container {
            id: ContainerId(id.into()),
            generation: Generation(generation),
            fingerprint: Template::of_image(image).fingerprint(),
            limits: Template::of_image("").limits(),
            restarts_asked: 0,
            stop_grace: None,
            image: ContainerImage::default(),
            state,
            since: NOW,
            health: Health::None,
            complaint: String::new(),
            stale: false,
        });
        self
    }

    fn assigned(&mut self) -> &mut Assigned {
        self.assigned.as_mut().unwrap()
    }

    fn with_check(mut self, health: Health) -> Self {
        self.assigned().template.healthcheck = Some(HealthCheck::new(Probe::Tcp { port: 80 }));
        self.seen.containers.iter_mut().for_each(|container| container.health = health);
        self
    }

    fn after(mut self, time: Duration) -> Self {
        self.now = self.now.after(time);
        self
    }

    fn inputs(&self) -> (Desired, Observed) {
        let mut observed = self.observed.clone();
        observed.instances.insert("web-0".parse().unwrap(), self.seen.clone());
        (self.assigned.clone().into_iter().collect(), observed)
    }

    fn plan(&self) -> Plan {
        let (desired, observed) = self.inputs();
        plan(&desired, &observed, self.now)
    }

    fn status(&self) -> InstanceStatus {
        let (desired, observed) = self.inputs();
        statuses(&desired, &observed, self.now).remove(0)
    }

    /// What the status says was decided.
    fn outcome(&self) -> Outcome {
        self.status().verdict.unwrap().outcome
    }

    fn step(&self) -> Option<Step> {
        self.plan().steps.into_values().next()
    }

    /// Whether all that a journal has more than the stored one is how main processes ended.
    fn only_notes_ends(&self, journal: &Journal) -> bool {
        let stored = &self.seen.stored;
        // A blank journal is not written down for the sake of the life that it is of.
        let life = if stored.is_blank() { stored.life } else { journal.life };
        let same = Journal { ends: stored.ends.clone(), life, ..journal.clone() };
        journal.ends != stored.ends && same == *stored
    }

    /// The planned step in a word or two. That an end is noted aside is not what most of these stories are about:
    /// `every_end_of_a_main_process_is_remembered` is.
    fn word(&self) -> String {
        match self.step() {
            None => "-".into(),
            Some(Step::Record(journal)) if self.only_notes_ends(&journal) => "-".into(),
            Some(Step::Create { generation }) => format!("create g{generation}"),
            Some(Step::EnsureSandbox) => "sandbox".into(),
            Some(Step::RepairSandbox) => "repair sandbox".into(),
            Some(Step::Start { container }) => format!("start {container}"),
            Some(Step::Stop { container, .. }) => format!("stop {container}"),
            Some(Step::Remove { container }) => format!("remove {container}"),
            Some(Step::UpdateLimits { container, .. }) => format!("limit {container}"),
            Some(Step::RemoveSandbox) => "remove sandbox".into(),
            Some(Step::Forget) => "forget".into(),
            Some(Step::Record(journal)) => match journal
                .verdict
                .filter(|verdict| Some(verdict) != self.seen.stored.verdict.as_ref())
            {
                Some(Verdict { ruling: Ruling::Committed, .. }) => "commit".into(),
                Some(Verdict { ruling: Ruling::RolledBack { .. }, .. }) => "roll back".into(),
                None if journal.ordered_ends.is_empty() => "count".into(),
                None => {
                    let ended: Vec<_> =
                        journal.ordered_ends.keys().map(ToString::to_string).collect();
                    format!("order end of {}", ended.join(" "))
                }
            },
        }
    }

    /// Carries out the planned step as if it had succeeded, for steps that only change the journal.
    fn record(mut self) -> Self {
        let step = self.step().unwrap();
        assert!(matches!(step, Step::Record(_)), "{step:?}");
        self.seen.succeeded(&step);
        self
    }

    /// What is remembered is on disk.
    fn stored(mut self) -> Self {
        self.seen.remember(self.seen.journal.clone());
        self
    }

    fn set(mut self, id: &str, state: ContainerState) -> Self {
        let container = self.seen.containers.iter_mut().find(|one| one.id.0 == id).unwrap();
        container.state = state;
        self
    }
}

fn running() -> ContainerState {
    ContainerState::Running { started_at: Timestamp(5_000) }
}

fn running_anew() -> ContainerState {
    ContainerState::Running { started_at: Timestamp(6_000) }
}

/// The end of the run of [`running`].
fn exited(code: i32) -> ContainerState {
    ContainerState::Exited {
        started_at: Timestamp(5_000),
        ran_for: Duration::from_secs(1),
        code,
        out_of_memory: false,
    }
}

#[test]
fn a_new_instance_is_created_then_given_a_sandbox_then_started() {
    let mut story = Story::of("a", 1);
    story.seen.sandbox = Sandbox::Absent;
    assert_eq!(story.word(), "create g1");
    assert_eq!(story.status().phase, Phase::Preparing);
    let mut story = story.with("c1", "a", 1, ContainerState::Created);
    assert_eq!(story.word(), "sandbox");
    story.seen.sandbox = Sandbox::Ready;
    assert_eq!(story.word(), "start c1");
    let story = story.set("c1", running());
    assert_eq!(story.word(), "-");
    let status = story.status();
    assert_eq!((status.phase, status.started_at), (Phase::Running, Some(Timestamp(5_000))));
}

#[test]
fn nothing_is_planned_for_an_instance_with_a_step_under_way() {
    let mut story = Story::of("a", 1);
    story.seen.busy = Some(Step::Create { generation: Generation(1) });
    assert!(story.plan().is_empty());
}

#[test]
fn an_engine_that_is_away_is_said_to_be_and_left_alone() {
    let mut story = Story::running();
    story.assigned = None;
    story.observed.engine = EngineState::Away { reason: "docker does not answer".into() };
    assert!(story.plan().is_empty());
    let mut story = Story::running();
    story.observed.engine = EngineState::Away { reason: "docker does not answer".into() };
    let status = story.status();
    assert_eq!((status.phase, status.message.as_str()), (Phase::Unknown, "docker does not answer"));
}

#[test]
fn a_missing_image_is_pulled_once_and_a_failed_pull_waits() {
    let mut story = Story::of("a", 1);
    story.observed.images.insert("a".into(), Image::Missing);
    let plan = story.plan();
    assert!(plan.steps.is_empty() && plan.pulls.contains("a"));
    story.observed.images.insert("a".into(), Image::Missing.pulling(NOW));
    let plan = story.plan();
    assert!(plan.steps.is_empty() && plan.pulls.is_empty());
    let failure = Failure { kind: FailureKind::Permanent, message: "no such image".into() };
    story.observed.images.insert("a".into(), Image::Missing.pulling(NOW).failed(failure, NOW));
    let plan = story.plan();
    assert!(plan.pulls.is_empty());
    assert_eq!(plan.wake_at, Some(NOW.after(Duration::from_secs(10))));
    let status = story.status();
    assert_eq!(status.phase, Phase::Failed);
    assert!(status.message.contains("no such image"), "{}", status.message);
    assert!(story.after(Duration::from_secs(10)).plan().pulls.contains("a"));
}

#[test]
fn the_newest_image_is_asked_for_once_for_each_change_until_its_digest_is_known() {
    let mut story = Story::of("a", 1);
    story.assigned.as_mut().unwrap().template.image_policy = ImagePolicy::Newest;
    let before = story.plan();
    assert!(before.steps.is_empty() && before.pulls.contains("a"), "{before:?}");
    story.observed.fetched.insert("a".into(), Timestamp(NOW.0 - 1));
    assert!(story.plan().pulls.contains("a"), "that was for another change");
    story.observed.fetched.insert("a".into(), NOW);
    let after = story.plan();
    assert!(after.pulls.is_empty() && after.steps.len() == 1, "{after:?}");

    story.observed.fetched.clear();
    story.assigned.as_mut().unwrap().image_digest = Some(ImageDigest::new([1; 32]));
    assert!(story.plan().pulls.is_empty(), "it can mean only one image");
    let assigned = story.assigned.as_mut().unwrap();
    assigned.image_digest = None;
    assigned.template.image_policy = ImagePolicy::Missing;
    assert!(story.plan().pulls.is_empty(), "what is here is used");
}

#[test]
fn the_first_crash_restarts_at_once_and_further_ones_after_growing_pauses() {
    let mut story = Story::of("a", 1).with("c1", "a", 1, exited(1));
    assert_eq!(story.word(), "start c1");
    story.seen.succeeded(&Step::Start { container: ContainerId("c1".into()) });
    assert_eq!((story.seen.journal.restarts, story.seen.journal.crashes), (1, 1));
    let mut story = story.stored();
    assert_eq!(story.plan().wake_at, Some(NOW.after(Duration::from_millis(100))));
    let status = story.status();
    assert_eq!((status.phase, status.exit_code), (Phase::Backoff, Some(1)));
    story.seen.journal.crashes = 30;
    let story = story.stored();
    assert_eq!(story.plan().wake_at, Some(NOW.after(Duration::from_secs(60))));
    let calm = ContainerState::Exited {
        started_at: Timestamp(5_000),
        ran_for: pause::CALM,
        code: 1,
        out_of_memory: true,
    };
    assert_eq!(story.set("c1", calm).word(), "start c1");
}

#[test]
fn restart_policies() {
    let on_failure = |max_retries| RestartPolicy::OnFailure { max_retries };
    for (policy, code, crashes, word, phase) in [
        (RestartPolicy::Always, 0, 0, "start c1", Phase::Preparing),
        (on_failure(None), 0, 0, "commit", Phase::Stopped),
        (on_failure(None), 1, 0, "start c1", Phase::Preparing),
        (on_failure(Some(2)), 1, 1, "-", Phase::Backoff),
        (on_failure(Some(2)), 1, 2, "-", Phase::Failed),
        (RestartPolicy::Never, 1, 0, "-", Phase::Stopped),
    ] {
        let mut story = Story::of("a", 1).with("c1", "a", 1, exited(code));
        story.assigned().template.restart = policy;
        story.seen.journal.crashes = crashes;
        let story = story.stored();
        assert_eq!((story.word().as_str(), story.status().phase), (word, phase), "{policy:?}");
    }
}

#[test]
fn a_restart_that_is_asked_for_stops_and_starts_exactly_once() {
    let mut story = Story::running();
    story.assigned().restarts_asked = 2;
    story.assigned().template.restart = RestartPolicy::Never;
    assert_eq!(story.word(), "order end of c1");
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
    assert_eq!(story.status().phase, Phase::Stopping);
    let mut story = story.set("c1", exited(143));
    assert_eq!(story.word(), "start c1");
    story.seen.succeeded(&Step::Start { container: ContainerId("c1".into()) });
    let story = story.set("c1", running_anew());
    assert!(matches!(story.step(), Some(Step::Record(_))), "the counters are written at leisure");
    let story = story.stored();
    assert!(story.plan().is_empty());
    assert_eq!((story.status().restarts_done, story.status().restarts), (2, 0));
}

#[test]
fn a_restart_asked_for_before_the_container_was_made_is_not_due() {
    let mut story = Story::running();
    story.assigned().restarts_asked = 2;
    story.seen.containers[0].restarts_asked = 2;
    assert!(story.plan().is_empty());
}

#[test]
fn a_stopped_instance_keeps_container_and_sandbox_and_starts_again_whatever_its_policy() {
    let mut story = Story::running();
    story.assigned().run = RunState::Stopped;
    story.assigned().template.restart = RestartPolicy::Never;
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
    let mut story = story.set("c1", exited(0));
    assert!(story.plan().is_empty());
    assert_eq!(story.status().phase, Phase::Stopped);
    story.assigned().run = RunState::Running;
    assert_eq!(story.word(), "start c1");
}

#[test]
fn an_instance_that_had_ended_by_itself_can_be_stopped_and_started() {
    let mut story = Story::of("a", 1).with("c1", "a", 1, exited(0));
    story.assigned().template.restart = RestartPolicy::Never;
    story.assigned().run = RunState::Stopped;
    let mut story = story.record();
    assert!(story.plan().is_empty());
    story.assigned().run = RunState::Running;
    assert_eq!(story.word(), "start c1");
}

#[test]
fn limits_change_on_the_running_container() {
    let mut story = Story::running().after(MONITOR);
    story.assigned().generation = Generation(2);
    assert_eq!(story.word(), "commit", "a generation alone changes nothing");
    let mut story = story.record();
    assert!(story.plan().is_empty());
    assert_eq!(story.status().generation, Generation(2));
    story.assigned().template.resources.cpu = Millicores(500);
    assert_eq!(story.word(), "limit c1");
}

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
fn an_update_prepares_switches_and_commits() {
    let story = Story::of("b", 2).with("c1", "a", 1, running());
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
        story.seen.sandbox = Sandbox::Ready;
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
    story.seen.accepted = Generation(2);
    assert!(story.plan().is_empty());
}

#[test]
fn what_is_not_desired_goes_whole() {
    let mut story = Story::running();
    story.assigned = None;
    story.seen.remember(Journal { restarts_done: 1, ..Journal::default() });
    assert_eq!((story.word().as_str(), story.status().phase), ("stop c1", Phase::Stopping));
    let mut story = story.set("c1", exited(143));
    assert_eq!(story.word(), "remove c1");
    story.seen.containers.clear();
    assert_eq!(story.word(), "remove sandbox");
    story.seen.succeeded(&Step::RemoveSandbox);
    assert_eq!(story.word(), "forget");
    story.seen.succeeded(&Step::Forget);
    assert!(story.plan().is_empty());
}

/// What ended by itself is told, in its order and once, also of a container that is started again or removed.
#[test]
fn every_end_of_a_main_process_is_remembered() {
    let codes = |story: &Story| -> Vec<(u64, i32)> {
        story.status().ends.iter().map(|end| (end.number, end.code)).collect()
    };
    let mut story = Story::running().set("c1", exited(3));
    assert_eq!(codes(&story), [(1, 3)]);
    assert_eq!(codes(&story), [(1, 3)], "to look again changes nothing");
    let start = Step::Start { container: ContainerId("c1".into()) };
    story.seen.succeeded(&start);
    let mut story = story.set("c1", running_anew());
    assert_eq!(codes(&story), [(1, 3)]);
    let recorded = match story.step() {
        Some(Step::Record(journal)) => journal,
        other => panic!("it is written down: {other:?}"),
    };
    assert_eq!(recorded.ends.len(), 1);
    story.seen.succeeded(&Step::Record(recorded.clone()));

    // An end that was ordered is no news.
    let again = |code| ContainerState::Exited {
        started_at: Timestamp(6_000),
        ran_for: Duration::from_secs(1),
        code,
        out_of_memory: false,
    };
    let id = ContainerId("c1".into());
    let ordered = recorded.with_ordered_end(&id, Timestamp(6_000));
    let mut stopped = Story { seen: Seen { journal: ordered, ..story.seen.clone() }, ..story };
    stopped = stopped.set("c1", again(143));
    assert_eq!(codes(&stopped), [(1, 3)]);

    // What is removed is remembered, too, and there are never too many.
    stopped.seen.journal = recorded;
    stopped = stopped.set("c1", again(4));
    stopped.seen.succeeded(&Step::Remove { container: id });
    assert_eq!(stopped.seen.journal.ends.last().map(|end| (end.number, end.code)), Some((2, 4)));
}

/// The grace is the container's: it counts when the declaration is gone, also after a live change of it.
#[test]
fn the_grace_outlives_the_declaration() {
    let grace = |story: &Story| match story.plan().steps.into_values().next() {
        Some(Step::Stop { grace, .. }) => grace,
        other => panic!("not a stop: {other:?}"),
    };
    let mut story = Story::running();
    story.assigned().template.stop_grace = Millis::seconds(60);
    story.seen.containers[0].stop_grace = Some(Millis::seconds(60));
    assert!(story.plan().is_empty(), "it is written on the container already");
    story.assigned().template.stop_grace = Millis::seconds(90);
    let recorded = match story.plan().steps.into_values().next() {
        Some(Step::Record(journal)) => journal,
        other => panic!("a live change is written down: {other:?}"),
    };
    story.seen.succeeded(&Step::Record(recorded));
    assert!(story.plan().is_empty());
    story.assigned = None;
    assert_eq!(grace(&story), Millis::seconds(90));

    let mut story = Story::running();
    story.assigned = None;
    story.seen.containers[0].stop_grace = Some(Millis::seconds(60));
    assert_eq!(grace(&story), Millis::seconds(60));
    story.seen.containers[0].stop_grace = None;
    assert_eq!(grace(&story), Millis::seconds(10), "of a container of an earlier version");

    // Back to what is written on it, there is nothing left to remember.
    let mut story = Story::running();
    story.assigned().template.stop_grace = Millis::seconds(60);
    story.seen.containers[0].stop_grace = Some(Millis::seconds(60));
    story.seen.remember(Journal { stop_grace: Some(Millis::seconds(90)), ..Journal::default() });
    let blank = Journal { life: Revision(7), ..Journal::default() };
    assert_eq!(story.plan().steps.into_values().next(), Some(Step::Record(blank)));
}

#[test]
fn of_duplicates_exactly_one_stays_and_running_ones_stop_first() {
    let story = Story::of("a", 2)
        .with("c1", "a", 1, running())
        .with("c2", "a", 2, ContainerState::Created)
        .with("c3", "a", 1, running());
    assert_eq!(story.word(), "stop c1");
    let story = story.set("c1", exited(143));
    assert_eq!(story.word(), "stop c3");
    let story = story.set("c3", exited(143));
    assert_eq!(story.word(), "start c2");
    let story = story.set("c2", running());
    assert_eq!(story.word(), "remove c1");
}

#[test]
fn what_could_not_be_stopped_is_not_removed_instead() {
    let mut story =
        Story::of("a", 2).with("c2", "a", 2, ContainerState::Created).with("c1", "a", 1, running());
    let stop = story.step().unwrap();
    assert_eq!(story.word(), "stop c1");
    let failure = Failure { kind: FailureKind::Transient, message: "no reply".into() };
    story.seen.failed(&stop, failure, NOW);
    assert_eq!(story.word(), "-");
}

#[test]
fn a_container_that_cannot_be_started_is_made_anew_once() {
    let mut story = Story::of("a", 1).with("c1", "a", 1, ContainerState::Created);
    for id in ["c1", "c2"] {
        let start = Step::Start { container: ContainerId(id.into()) };
        for _ in 0..STARTS_MAX {
            assert_eq!(story.word(), format!("start {id}"));
            let failure = Failure { kind: FailureKind::Transient, message: "task exists".into() };
            story.seen.failed(&start, failure, story.now);
            story.seen.sandbox = Sandbox::Ready;
            story = story.after(Duration::from_secs(30));
        }
        if id == "c1" {
            assert_eq!(story.word(), "remove c1");
            story.seen.succeeded(&Step::Remove { container: ContainerId("c1".into()) });
            story.seen.containers.clear();
            assert_eq!(story.word(), "create g1");
            story = story.with("c2", "a", 1, ContainerState::Created);
        }
    }
    assert_eq!(story.word(), "start c2", "a new container did not help");
    story.seen.succeeded(&Step::Start { container: ContainerId("c2".into()) });
    assert!(!story.seen.gave_up_container);
}

#[test]
fn a_container_whose_start_is_refused_stays() {
    let mut story = Story::of("a", 1).with("c1", "a", 1, ContainerState::Created);
    let start = Step::Start { container: ContainerId("c1".into()) };
    for _ in 0..2 * STARTS_MAX {
        assert_eq!(story.word(), "start c1");
        let failure = Failure { kind: FailureKind::Permanent, message: "a link".into() };
        story.seen.failed(&start, failure, story.now);
        story.seen.sandbox = Sandbox::Ready;
        story = story.after(Duration::from_secs(300));
    }
}

#[test]
fn a_container_of_the_same_generation_but_another_template_makes_way() {
    let story = Story::of("b", 1).with("c1", "a", 1, running());
    assert_eq!(story.word(), "stop c1");
    assert_eq!(story.set("c1", exited(143)).word(), "remove c1");
}

#[test]
fn a_lost_sandbox_is_made_anew_and_the_container_started_into_it() {
    let mut story = Story::running();
    story.seen.sandbox = Sandbox::Doubtful;
    assert_eq!(story.word(), "repair sandbox", "no other is made beside the running container");
    let lost = Failure { kind: FailureKind::SandboxLost, message: "it is lost".into() };
    story.seen.failed(&Step::RepairSandbox, lost, story.now);
    assert_eq!(story.seen.sandbox, Sandbox::Absent);
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
    assert_eq!(story.set("c1", exited(143)).word(), "sandbox");
}

#[test]
fn a_failed_step_is_repeated_after_its_pause_and_another_step_is_not_held_back() {
    let mut story = Story::of("a", 1);
    let failure = Failure { kind: FailureKind::Transient, message: "disk full".into() };
    for pause_ms in [100, 200, 400] {
        story.seen.failed(&Step::Create { generation: Generation(1) }, failure.clone(), story.now);
        let plan = story.plan();
        assert_eq!(plan.wake_at, Some(story.now.after(Duration::from_millis(pause_ms))));
        story = story.after(Duration::from_millis(pause_ms));
        assert_eq!(story.word(), "create g1");
    }
    story.now = NOW;
    assert_eq!(story.word(), "-");
    assert!(story.status().message.contains("disk full"));
    story.assigned().generation = Generation(2);
    assert_eq!(story.word(), "create g2");
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
    let mut story = Story::of("b", 2).with("c1", "a", 1, running());
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
    let mut story = Story::of("b", 2).with("c1", "a", 1, running());
    let mut image = Image::Missing.pulling(NOW);
    let later = NOW.after(limit);
    image.progress("1 of 2 MiB".into(), later);
    story.observed.images.insert("b".into(), image);
    let story = story.after(limit);
    assert_eq!(story.word(), "-");
    let story = story.after(limit);
    assert_eq!(story.word(), "roll back");

    let failure = Failure { kind: FailureKind::Transient, message: "registry is away".into() };
    let mut story = Story::of("b", 2).with("c1", "a", 1, running());
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
    story.seen.sandbox = Sandbox::Ready;
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
        story.seen.sandbox = Sandbox::Ready;
        story = story.after(Duration::from_secs(8));
    }
    assert_eq!(story.word(), "remove c2");
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
    assert_eq!(story.word(), "limit c1");
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
