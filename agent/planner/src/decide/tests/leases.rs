//! What is lent to the node, and what is not any more.

use dwell_core::session::Lent;
use dwell_core::workload::Lease;

use super::*;

const LEASE: Duration = Duration::from_secs(12);

/// Of an instance that is lent to the node from [`NOW`] on.
fn lent(story: Story) -> Story {
    let mut story = leased(story);
    let lent = Lent { heartbeat: 1, only_renewed: false };
    let assigned = story.assigned().clone();
    story.observed.leases.hear(lent, story.now, [&assigned], story.now);
    story
}

/// Of one that the agent has heard nothing of since its start at [`NOW`].
fn leased(mut story: Story) -> Story {
    story.assigned().lease = Some(Lease(Millis(12_000)));
    story.observed.leases = crate::Leases::begin(NOW);
    story
}

#[test]
fn what_is_not_lent_any_more_is_stopped_and_started_when_it_is_again() {
    let story = lent(Story::running());
    assert_eq!(story.word(), "-");
    assert_eq!(story.plan().wake_at, Some(NOW.after(LEASE)));
    let story = story.after(LEASE);
    let story = story.record();
    assert_eq!(story.word(), "stop c1");
    let story = story.set("c1", exited(0));
    assert!(story.plan().is_empty());
    let status = story.status();
    assert_eq!(status.phase, Phase::Preparing);
    assert_eq!(status.generation, Generation(1));
    assert!(status.message.contains("it starts when it does"), "{}", status.message);
    assert_eq!(lent(story).word(), "start c1");
}

#[test]
fn what_is_not_lent_is_not_started() {
    let story = leased(Story::of("a", 1).with("c1", "a", 1, ContainerState::Created));
    assert!(story.plan().is_empty());
    assert_eq!(lent(story).word(), "start c1");
    let crashed = leased(Story::running().set("c1", exited(1))).stored();
    assert_eq!(crashed.word(), "-", "an agent that has just started has heard nothing yet");
    assert_eq!(lent(crashed).word(), "start c1");
}

#[test]
fn what_runs_when_the_agent_starts_runs_on_for_one_lease() {
    let story = leased(Story::running());
    assert_eq!(story.word(), "-");
    assert_eq!(story.plan().wake_at, Some(NOW.after(LEASE)));
    assert_eq!(story.after(LEASE).word(), "order end of c1");
}

#[test]
fn what_has_done_its_work_does_not_do_it_again_for_having_been_lent_anew() {
    let mut story = Story::running();
    story.assigned().template.restart = RestartPolicy::Never;
    let story = lent(story.set("c1", exited(0))).stored();
    assert_eq!(story.word(), "-");
    let story = story.after(LEASE);
    assert_eq!(story.word(), "-");
    assert_eq!(lent(story).word(), "-");
}
