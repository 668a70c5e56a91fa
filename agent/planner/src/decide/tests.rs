//! One story per test: a container set, and the steps or waits that follow from it.

mod adopt;
mod beside;
mod carry;
mod custody;
mod ends;
mod fallback;
mod hooks;
mod leases;
mod proofs;
mod stores;
mod tasks;
mod updates;

use std::time::Duration;

use dwell_core::fixtures;
use dwell_core::health::{Health, HealthCheck, Probe};
use dwell_core::id::Revision;
use dwell_core::image::{ContainerImage, ImageDigest};
use dwell_core::instance::{Assigned, InstanceStatus, Outcome, Phase};
use dwell_core::quantity::Millicores;
use dwell_core::workload::{Enforced, ImagePolicy, Template};

use super::start::STARTS_MAX;
use super::*;
use crate::desired::Desired;
use crate::journal::{Held, Journal, Ruling, Verdict};
use crate::observed::{Check, Checked, Image, Sandboxes};
use crate::step::{Failure, FailureKind};
use crate::{Plan, plan, statuses};
use dwell_core::container::ContainerId;

const MONITOR: Duration = Duration::from_secs(10);
const NOW: Timestamp = Timestamp(1_000_000);

/// A step about a sandbox in words: of the usual one, to which the address leads, nothing is said.
fn place(step: &str, slot: Slot, reached: bool) -> String {
    let slot = if slot.is_usual() { String::new() } else { format!(" {slot}") };
    format!("{step}{slot}{}", if reached { "" } else { " aside" })
}

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
        let sandboxes = Sandboxes::only(Sandbox::Ready);
        let mut seen = Seen { sandboxes, ..Seen::default() };
        seen.accept(&assigned, NOW);
        Self { assigned: Some(assigned), observed, seen, now: NOW }
    }

    /// An instance whose one container runs, and is known to hold.
    fn running() -> Self {
        Self::of("a", 1).with("c1", "a", 1, running()).held(1)
    }

    /// A generation was found to hold, and that is on disk.
    fn held(mut self, generation: u64) -> Self {
        let generation = Generation(generation);
        let journal = self.seen.journal.ruling(generation, u64::MAX, Ruling::Committed);
        let mut containers = self.seen.containers.iter();
        let held = containers.find(|container| container.generation == generation).unwrap();
        self.seen.remember(journal.holding(held));
        self
    }

    /// An update from `a`, which has held, to `b`, with the old container in one state and the new in another.
    fn updating(old: ContainerState, new: ContainerState) -> Self {
        Self::of("b", 2).with("c1", "a", 1, old).held(1).with("c2", "b", 2, new)
    }

    fn with(mut self, id: &str, image: &str, generation: u64, state: ContainerState) -> Self {
        self.seen.containers.push(Container {
            id: ContainerId(id.into()),
            generation: Generation(generation),
            life: Revision(7),
            slot: Slot::A,
            address: None,
            fingerprint: Template::of_image(image).fingerprint(),
            limits: Template::of_image("").limits(),
            enforced: Enforced::ALL,
            restarts_asked: 0,
            stop_grace: None,
            image: ContainerImage::default(),
            state,
            since: NOW,
            health: Checked::default(),
            readiness: Checked::default(),
            stale: false,
        });
        self
    }

    fn assigned(&mut self) -> &mut Assigned {
        self.assigned.as_mut().unwrap()
    }

    fn with_check(mut self, health: Health) -> Self {
        self.assigned().template.healthcheck = Some(HealthCheck::new(Probe::Tcp { port: 80 }));
        self.seen.containers.iter_mut().for_each(|one| one.health.health = health);
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
            Some(Step::Create { generation, slot: Slot::A }) => format!("create g{generation}"),
            Some(Step::Create { generation, slot }) => format!("create g{generation} in {slot}"),
            Some(Step::EnsureSandbox { slot, reached }) => place("sandbox", slot, reached),
            Some(Step::RepairSandbox { slot, reached }) => place("repair sandbox", slot, reached),
            Some(Step::Carry { from, into, .. }) => format!("carry from {from} into {into}"),
            Some(Step::Start { container }) => format!("start {container}"),
            Some(Step::AfterStart { container, .. }) => format!("call after start of {container}"),
            Some(Step::Stop { container, before: Some(_), .. }) => {
                format!("call before and stop {container}")
            }
            Some(Step::Stop { container, .. }) => format!("stop {container}"),
            Some(Step::Remove { container }) => format!("remove {container}"),
            Some(Step::UpdateLimits { container, force: false, .. }) => {
                format!("limit {container}")
            }
            Some(Step::UpdateLimits { container, .. }) => format!("limit {container} by force"),
            Some(Step::RemoveSandbox { slot }) => place("remove sandbox", slot, true),
            Some(Step::Forget) => "forget".into(),
            Some(Step::StopForeign(_)) => "stop foreign".into(),
            Some(Step::KeepForeign(_)) => "keep foreign".into(),
            Some(Step::StartForeign(_)) => "start foreign".into(),
            Some(Step::Record(journal)) => match journal
                .verdict
                .filter(|verdict| Some(verdict) != self.seen.stored.verdict.as_ref())
            {
                Some(Verdict { ruling: Ruling::Committed, .. }) => "commit".into(),
                Some(Verdict { ruling: Ruling::RolledBack { .. }, .. }) => "roll back".into(),
                None if journal.given_up != self.seen.stored.given_up => {
                    let given_up: Vec<_> =
                        journal.given_up.keys().map(ToString::to_string).collect();
                    format!("give up {}", given_up.join(" "))
                }
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
    story.seen.sandboxes.set(Slot::A, Sandbox::Absent);
    assert_eq!(story.word(), "create g1");
    assert_eq!(story.status().phase, Phase::Preparing);
    let mut story = story.with("c1", "a", 1, ContainerState::Created);
    assert_eq!(story.word(), "sandbox");
    story.seen.sandboxes.set(Slot::A, Sandbox::Ready);
    assert_eq!(story.word(), "start c1");
    let story = story.set("c1", running());
    assert_eq!(story.word(), "-");
    let status = story.status();
    assert_eq!((status.phase, status.started_at), (Phase::Running, Some(Timestamp(5_000))));
}

#[test]
fn nothing_is_planned_for_an_instance_with_a_step_under_way() {
    let mut story = Story::of("a", 1);
    story.seen.busy = Some(Step::Create { generation: Generation(1), slot: Slot::A });
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
    assert_eq!(story.word(), "limit c1 by force", "of a generation that has held");
}

/// Or it would be set for ever, and nothing would ever hold.
#[test]
fn a_limit_that_cannot_be_enforced_is_not_missed() {
    let mut story = Story::running();
    let container = &mut story.seen.containers[0];
    (container.limits.pids, container.enforced.pids) = (0, false);
    let mut story = story.after(MONITOR);
    story.assigned().generation = Generation(2);
    story.assigned().template.pids = Some(100);
    assert_eq!(story.word(), "commit");
    let mut story = story.record();
    assert!(story.plan().is_empty());
    story.assigned().template.resources.cpu = Millicores(500);
    assert_eq!(story.word(), "limit c1 by force", "the others are set as ever");
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
            story.seen.sandboxes.set(Slot::A, Sandbox::Ready);
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
        story.seen.sandboxes.set(Slot::A, Sandbox::Ready);
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
    story.seen.sandboxes.set(Slot::A, Sandbox::Doubtful);
    assert_eq!(story.word(), "repair sandbox", "no other is made beside the running container");
    let lost = Failure { kind: FailureKind::SandboxLost, message: "it is lost".into() };
    story.seen.failed(&Step::RepairSandbox { slot: Slot::A, reached: true }, lost, story.now);
    assert!(story.seen.sandboxes.are_absent());
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
    assert_eq!(story.set("c1", exited(143)).word(), "sandbox");
}

#[test]
fn a_failed_step_is_repeated_after_its_pause_and_another_step_is_not_held_back() {
    let mut story = Story::of("a", 1);
    let failure = Failure { kind: FailureKind::Transient, message: "disk full".into() };
    for pause_ms in [100, 200, 400] {
        story.seen.failed(
            &Step::Create { generation: Generation(1), slot: Slot::A },
            failure.clone(),
            story.now,
        );
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
