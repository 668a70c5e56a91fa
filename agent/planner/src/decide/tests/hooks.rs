//! When hooks are called, and what is done when they fail.

use std::net::Ipv4Addr;

use dwell_core::hook::{Hook, HookAction, Hooks};
use dwell_core::instance::HookFailed;
use dwell_core::quantity::Millis;

use super::*;
use crate::step::HookCall;

fn hook(command: &str) -> Hook {
    let action = HookAction::Exec { command: vec![command.into()] };
    Hook { action, timeout: Millis::seconds(20) }
}

fn hooks(after_start: &str, before_stop: &str) -> Hooks {
    let some = |command: &str| Some(command).filter(|one| !one.is_empty()).map(hook);
    Hooks { after_start: some(after_start), before_stop: some(before_stop) }
}

/// A template of an image, with hooks.
fn hooked(image: &str, hooks: Hooks) -> Template {
    Template { hooks, ..Template::of_image(image) }
}

/// The same with another template; its containers are made from it.
fn made_from(mut story: Story, template: &Template) -> Story {
    story.assigned().template = template.clone();
    let all = &mut story.seen.containers;
    all.iter_mut().for_each(|container| container.fingerprint = template.fingerprint());
    story
}

fn container() -> ContainerId {
    ContainerId("c1".into())
}

#[test]
fn the_hook_after_a_start_is_called_once_in_each_run_and_before_the_run_counts() {
    let template = hooked("a", hooks("warm", ""));
    let story = Story::of("a", 1).with("c1", "a", 1, running());
    let mut story = made_from(story, &template).after(MONITOR);
    assert_eq!(story.word(), "call after start of c1");
    let status = story.status();
    assert_eq!((status.phase, status.readiness), (Phase::Running, Health::Starting));
    assert_eq!((status.is_ready(), status.message.contains("after_start")), (false, true));
    let step = story.step().unwrap();
    story.seen.succeeded(&step);
    assert_eq!(story.word(), "commit");
    let story = story.record();
    assert_eq!((story.word().as_str(), story.status().is_ready()), ("-", true));

    // An agent that starts knows from the disk that it was called, and calls it in another run.
    let stored = story.seen.stored.clone();
    let mut anew = Story { seen: Seen { journal: stored, ..story.seen.clone() }, ..story };
    assert_eq!(anew.word(), "-");
    anew = anew.set("c1", running_anew());
    assert_eq!(anew.word(), "call after start of c1", "whoever started it");
}

#[test]
fn a_start_whose_hook_fails_has_failed() {
    let template = hooked("a", hooks("warm", ""));
    let mut story = made_from(Story::of("a", 1).with("c1", "a", 1, running()), &template);
    let step = story.step().unwrap();
    let reason = "its hook after_start failed: \"warm\" ended with 1: no cache";
    story.seen.hook_failed(&step, reason, story.now);
    assert_eq!(story.word(), "give up c1");
    let mut story = story.record();
    assert_eq!(story.word(), "stop c1");
    story = story.set("c1", exited(0));
    let status = story.status();
    assert_eq!(status.ends.last().unwrap().given_up.as_deref(), Some(reason));
    assert_eq!(story.word(), "start c1");
    story.seen.succeeded(&Step::Start { container: container() });
    let story = story.set("c1", running_anew());
    assert_eq!(story.seen.journal.crashes, 1, "it goes on with growing pauses");
    assert_eq!(story.word(), "call after start of c1");
}

#[test]
fn a_version_whose_hook_fails_is_rolled_back_at_once() {
    let template = hooked("b", hooks("warm", ""));
    let mut story = Story::updating(exited(143), running());
    story.assigned().template = template.clone();
    story.seen.containers[1].fingerprint = template.fingerprint();
    let step = story.step().unwrap();
    assert!(matches!(step, Step::AfterStart { .. }), "{step:?}");
    story.seen.hook_failed(&step, "its hook after_start failed", story.now);
    let reason = "its hook after_start failed".to_owned();
    assert_eq!(story.record().outcome(), Outcome::RolledBack { reason });
}

#[test]
fn every_ordered_stop_calls_the_hook_before_it_and_what_comes_of_it_holds_nothing_up() {
    let template = hooked("a", hooks("", "bye"));
    let story = Story::of("a", 1).with("c1", "a", 1, running()).held(1);
    let mut story = made_from(story, &template);
    story.seen.journal.held = Held::As(template.fingerprint());
    let story = story.after(MONITOR).record();

    let mut stopped = Story { seen: story.seen.clone(), assigned: story.assigned.clone(), ..story };
    stopped.assigned().run = RunState::Stopped;
    let mut stopped = stopped.record();
    assert_eq!(stopped.word(), "call before and stop c1");
    let step = stopped.step().unwrap();
    stopped.seen.hook_failed(&step, "no", stopped.now);
    stopped.seen.succeeded(&step);
    let failed = HookFailed { at: stopped.now, reason: "no".into() };
    let stopped = stopped.set("c1", exited(143));
    assert_eq!(stopped.status().hook_failed, Some(failed));
    assert_eq!(stopped.status().phase, Phase::Stopped);
}

#[test]
fn the_hook_before_a_stop_is_known_when_the_declaration_is_gone_or_another() {
    let template = hooked("a", hooks("", "bye"));
    let story = Story::of("a", 1).with("c1", "a", 1, running()).held(1);
    let mut story = made_from(story, &template).after(MONITOR).record();
    let call = HookCall { address: story.assigned().address, slot: Slot::A, hook: hook("bye") };
    assert_eq!(story.seen.stored.before_stop.get(&container()), Some(&call));
    assert_ne!(call.address, Ipv4Addr::UNSPECIFIED);
    // It moves, or is removed.
    let assigned = story.assigned.take();
    assert_eq!(story.word(), "call before and stop c1");

    // Another version has another hook: that is for its own containers.
    story.assigned = assigned;
    story.assigned().template = hooked("b", hooks("", "goodbye"));
    story.assigned().generation = Generation(2);
    let story = story.with("c2", "b", 2, ContainerState::Created);
    let journal = match story.step() {
        Some(Step::Record(journal)) => journal,
        other => panic!("the end of the old one is ordered: {other:?}"),
    };
    assert_eq!(journal.before_stop.get(&container()), Some(&call));
}

#[test]
fn the_hook_before_a_stop_is_known_before_the_start() {
    let template = hooked("a", hooks("", "bye"));
    let story = Story::of("a", 1).with("c1", "a", 1, ContainerState::Created);
    let story = made_from(story, &template);
    assert!(matches!(story.step(), Some(Step::Record(_))), "{:?}", story.step());
    let mut story = story.record();
    assert_eq!(story.word(), "start c1");
    // It is removed as soon as it runs.
    let step = story.step().unwrap();
    story.seen.succeeded(&step);
    story.assigned = None;
    assert_eq!(story.set("c1", running()).word(), "call before and stop c1");
}

#[test]
fn what_is_not_lent_any_more_is_stopped_without_ado() {
    let template = hooked("a", hooks("", "bye"));
    let story = Story::of("a", 1).with("c1", "a", 1, running()).held(1);
    let mut story = made_from(story, &template).after(MONITOR).record();
    story.assigned().lease = Some(dwell_core::workload::Lease(Millis::seconds(12)));
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
}
