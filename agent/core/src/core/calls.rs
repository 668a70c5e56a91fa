//! The calls that are under way: how many, for how long, and when one is given up.

use dwell_core::container::ContainerId;
use std::collections::BTreeMap;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_planner::Step;

use crate::call::{Call, CallId};

/// How many calls of a kind may be late beside those that are not.
const LATE_MAX: usize = 64;

/// What a call is for; what its end is matched with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Ping,
    List,
    Sandboxes,
    Sweep,
    Inspect { instance: InstanceName, container: ContainerId },
    EndUnlisted { instance: InstanceName },
    Pull { image: String },
    Step { instance: InstanceName, step: Step },
}

impl Task {
    fn of(call: &Call) -> Self {
        match call {
            Call::Ping => Self::Ping,
            Call::List => Self::List,
            Call::Sandboxes => Self::Sandboxes,
            Call::Sweep => Self::Sweep,
            Call::Inspect { instance, container } => {
                Self::Inspect { instance: instance.clone(), container: container.clone() }
            }
            Call::EndUnlisted { instance } => Self::EndUnlisted { instance: instance.clone() },
            Call::Pull { image, .. } => Self::Pull { image: image.clone() },
            Call::Step { instance, step, .. } => {
                Self::Step { instance: instance.clone(), step: step.clone() }
            }
        }
    }

    /// Whether the engine is asked.
    pub(super) fn is_engines(&self) -> bool {
        match self {
            Self::Ping | Self::List | Self::Inspect { .. } | Self::Pull { .. } => true,
            // What becomes of these says nothing about the engine.
            Self::Sandboxes | Self::Sweep | Self::EndUnlisted { .. } => false,
            Self::Step { step, .. } => load(step) != Load::Light,
        }
    }

    pub(super) fn load(&self) -> Load {
        match self {
            Self::Ping | Self::List | Self::Sandboxes | Self::Sweep | Self::EndUnlisted { .. } => {
                Load::Light
            }
            Self::Inspect { .. } => Load::Look,
            Self::Pull { .. } => Load::Pull,
            Self::Step { step, .. } => load(step),
        }
    }
}

/// What a call costs, and with which others it shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// The engine's processor time.
    Heavy,
    /// A look at a container.
    Look,
    /// Waiting for a main process to end, for a hook, or for files that are copied, which costs the engine little.
    Stop,
    /// The host's way to the world.
    Pull,
    /// Next to nothing.
    Light,
}

pub(super) fn load(step: &Step) -> Load {
    match step {
        Step::Create { .. }
        | Step::Carry { .. }
        | Step::Start { .. }
        | Step::Remove { .. }
        | Step::UpdateLimits { .. } => Load::Heavy,
        Step::Stop { .. }
        | Step::AfterStart { .. }
        | Step::StopForeign(_)
        | Step::KeepForeign(_)
        | Step::StartForeign(_) => Load::Stop,
        Step::EnsureSandbox { .. }
        | Step::RepairSandbox { .. }
        | Step::RemoveSandbox { .. }
        | Step::Record(_)
        | Step::Forget => Load::Light,
    }
}

impl Load {
    /// How many may be under way at once, and after how long one is late and counts no more: it waits for
    /// something else than its turn.
    fn bound(self, heavy_max: usize) -> Option<(usize, Duration)> {
        match self {
            Self::Heavy => Some((heavy_max.max(1), Duration::from_secs(10))),
            Self::Look => Some((8, Duration::from_secs(2))),
            Self::Stop => Some((64, Duration::from_secs(10))),
            Self::Pull => Some((3, Duration::from_secs(300))),
            Self::Light => None,
        }
    }
}

struct Running {
    task: Task,
    begun_at: Timestamp,
    give_up_at: Option<Timestamp>,
}

/// The calls that are under way.
#[derive(Default)]
pub(super) struct Calls {
    next: u64,
    running: BTreeMap<CallId, Running>,
}

impl Calls {
    /// Notes the begin of a call that is given up after `limit`.
    pub(super) fn begin(&mut self, call: &Call, limit: Option<Duration>, now: Timestamp) -> CallId {
        let id = CallId(self.next);
        self.next += 1;
        let give_up_at = limit.map(|limit| now.after(limit));
        self.running.insert(id, Running { task: Task::of(call), begun_at: now, give_up_at });
        id
    }

    /// What a call was for that has ended, unless it was given up before.
    pub(super) fn end(&mut self, id: CallId) -> Option<Task> {
        self.running.remove(&id).map(|running| running.task)
    }

    /// The calls whose time is up.
    pub(super) fn overdue(&self, now: Timestamp) -> Vec<CallId> {
        let is_overdue =
            |running: &Running| running.give_up_at.is_some_and(|give_up_at| give_up_at <= now);
        self.matching(is_overdue)
    }

    /// The calls whose task is such.
    pub(super) fn of(&self, is_such: impl Fn(&Task) -> bool) -> Vec<CallId> {
        self.matching(|running| is_such(&running.task))
    }

    fn matching(&self, is_such: impl Fn(&Running) -> bool) -> Vec<CallId> {
        self.running.iter().filter(|(_, one)| is_such(one)).map(|(id, _)| *id).collect()
    }

    /// Gives up the step of an instance sooner: at `at`.
    pub(super) fn hasten(&mut self, name: &InstanceName, at: Timestamp) {
        for running in self.running.values_mut() {
            if matches!(&running.task, Task::Step { instance, .. } if instance == name) {
                let give_up_at = running.give_up_at.map_or(at, |give_up_at| give_up_at.min(at));
                running.give_up_at = Some(give_up_at);
            }
        }
    }

    /// Whether another call of this load may begin. One that may not is tried again when a call ends or is late.
    pub(super) fn has_room(&self, load: Load, heavy_max: usize, now: Timestamp) -> bool {
        let Some((most, late_after)) = load.bound(heavy_max) else { return true };
        let all = || self.running.values().filter(|running| running.task.load() == load);
        all().filter(|running| now < running.begun_at.after(late_after)).count() < most
            && all().count() < most + LATE_MAX
    }

    /// When to look again: a call is given up then, or makes room by being late.
    pub(super) fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let late_at = |running: &Running| {
            let (_, late_after) = running.task.load().bound(1)?;
            Some(running.begun_at.after(late_after)).filter(|late_at| now < *late_at)
        };
        self.running
            .values()
            .flat_map(|running| [running.give_up_at, late_at(running)])
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(name: &str) -> Call {
        Call::Step {
            instance: name.parse().unwrap(),
            step: Step::Start { container: ContainerId(name.to_owned()) },
            assigned: None,
            remains: std::collections::BTreeSet::default(),
            failed: None,
        }
    }

    #[test]
    fn calls_that_hang_make_room_for_others_and_are_given_up() {
        let mut calls = Calls::default();
        let at = |seconds: u64| Timestamp(1_000 * seconds);
        for n in 0..2 {
            let call = start(&format!("web-{n}"));
            calls.begin(&call, call.limit(), at(0));
        }
        assert!(!calls.has_room(Load::Heavy, 2, at(9)));
        assert!(calls.has_room(Load::Look, 2, at(9)));
        assert_eq!(calls.wake_at(at(0)), Some(at(10)));
        assert!(calls.has_room(Load::Heavy, 2, at(10)));
        for n in 2..200 {
            if calls.has_room(Load::Heavy, 2, at(10 * n)) {
                calls.begin(&start(&format!("web-{n}")), None, at(10 * n));
            }
        }
        assert_eq!(calls.of(|_| true).len(), 2 + LATE_MAX, "late calls have a bound as well");
        assert_eq!(calls.overdue(at(130)).len(), 2);
        calls.hasten(&"web-7".parse().unwrap(), at(99));
        assert_eq!(calls.overdue(at(99)).len(), 1);
    }
}
