//! The state of the core, and its turn: hear what happened, plan, say what to do.

mod calls;
mod doubts;
mod hear;
mod look;
mod publish;
mod pulse;
mod steps;
mod survey;
mod watches;

use dwell_core::container::ContainerId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_planner::{Desired, EngineState, Image, Journal, Leases, Observed, Step, Target, plan};

use self::calls::Calls;
use self::doubts::Doubts;
use self::publish::Published;
use self::pulse::Pulse;
use self::survey::{Lister, Survey};
use self::watches::Watches;
use crate::call::{Call, Input, Output};

/// What a core is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many calls that cost the engine processor time are made side by side, at least 1.
    pub calls_max: usize,
    /// How often everything is looked at although nothing was told.
    pub backstop: Duration,
}

/// Everything the agent decides about its node; see the crate's documentation.
pub struct Core {
    settings: Settings,
    desired: Option<Arc<Desired>>,
    observed: Observed,
    calls: Calls,
    doubts: Doubts,
    survey: Survey,
    lister: Lister,
    pulse: Pulse,
    /// Looks that wait for room.
    inspections: VecDeque<(InstanceName, ContainerId)>,
    /// Steps that were done and whose effect is being looked at.
    following: BTreeMap<InstanceName, Step>,
    /// Instances whose sandbox was being seen to when others disturbed it, too late perhaps to notice.
    disturbed: BTreeSet<InstanceName>,
    watches: Watches,
    published: Published,
    /// Whether the engine's events arrive.
    connected: bool,
    /// Whether everything was looked at since the start.
    looked: bool,
    started_at: Timestamp,
    backstop_at: Timestamp,
    /// When the plan wants to be made again.
    plan_at: Option<Timestamp>,
    outputs: Vec<Output>,
}

impl Core {
    /// The core of a node on whose disk these journals are.
    #[must_use]
    pub fn new(
        settings: Settings,
        journals: BTreeMap<InstanceName, Journal>,
        now: Timestamp,
    ) -> Self {
        let mut observed = Observed { leases: Leases::begin(now), ..Observed::default() };
        for (name, journal) in journals {
            observed.instances.entry(name).or_default().remember(journal);
        }
        Self {
            backstop_at: now.after(settings.backstop),
            settings,
            desired: None,
            observed,
            calls: Calls::default(),
            doubts: Doubts::default(),
            survey: Survey::default(),
            lister: Lister::default(),
            pulse: Pulse::default(),
            inspections: VecDeque::new(),
            following: BTreeMap::new(),
            disturbed: BTreeSet::new(),
            watches: Watches::default(),
            published: Published::default(),
            connected: false,
            looked: false,
            started_at: now,
            plan_at: None,
            outputs: Vec::new(),
        }
    }

    /// Takes in one thing that has happened, and says what is to be done.
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Vec<Output> {
        self.hear(input, now);
        self.advance(now)
    }

    /// What is known of the node.
    #[must_use]
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// When [`Core::advance`] is to be called even if nothing happens.
    #[must_use]
    pub fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        [
            Some(self.backstop_at),
            self.plan_at,
            self.calls.wake_at(now),
            self.doubts.wake_at(now),
            self.survey.wake_at(),
            self.sweep_at(),
            self.pulse.wake_at(&self.observed.engine),
            self.patience_ends_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what the time demands, plans, and says what is to be done.
    pub fn advance(&mut self, now: Timestamp) -> Vec<Output> {
        for id in self.calls.overdue(now) {
            self.give_up(id, now);
        }
        if self.backstop_at <= now {
            self.backstop_at = now.after(self.settings.backstop);
            self.look_at_all(now);
        }
        self.survey_if_due(now);
        self.sweep_if_due(now);
        self.beat(now);
        for name in self.doubts.due(now) {
            self.look_at(&name, now);
        }
        self.inspect_what_waits(now);
        self.plan_at = None;
        if let Some(desired) = self.desired.clone() {
            let plan = plan(&desired, &self.observed, now);
            self.plan_at = plan.wake_at;
            for (name, step) in plan.steps {
                self.take_step(name, step, &desired, now);
            }
            for image in plan.pulls {
                self.pull(image, false, now);
            }
            for image in plan.ahead {
                self.pull(image, true, now);
            }
            self.forget_what_is_over(&desired, now);
            self.watches.sync(&desired, &self.observed, &mut self.outputs);
            self.publish(&desired, now);
        }
        self.publish_engine();
        std::mem::take(&mut self.outputs)
    }

    /// Begins a call.
    fn call(&mut self, call: Call, limit: Option<Duration>, now: Timestamp) -> crate::CallId {
        let id = self.calls.begin(&call, limit, now);
        self.outputs.push(Output::Begin { id, call });
        id
    }

    fn pull(&mut self, image: String, unless_here: bool, now: Timestamp) {
        if matches!(self.observed.images.get(&image), Some(Image::Pulling { .. })) {
            // For an instance whose turn it is.
            return;
        }
        if !self.calls.has_room(calls::Load::Pull, self.settings.calls_max, now) {
            return;
        }
        tracing::info!(image, "pulling");
        let state = self.observed.images.remove(&image).unwrap_or(Image::Missing);
        self.observed.images.insert(image.clone(), state.pulling(now));
        let call = Call::Pull { image, unless_here };
        let limit = call.limit();
        self.call(call, limit, now);
    }

    /// What is not there and not desired is forgotten, but only after a complete look.
    fn forget_what_is_over(&mut self, desired: &Desired, now: Timestamp) {
        let is_wanted = |image: &String| {
            let mut images = desired.instances().values().flat_map(Target::images);
            images.any(|wanted| wanted == image)
        };
        self.observed
            .images
            .retain(|image, state| matches!(state, Image::Pulling { .. }) || is_wanted(image));
        self.observed.fetched.retain(|image, _| is_wanted(image));
        if self.observed.engine != EngineState::Ready {
            return;
        }
        let (doubts, following) = (&self.doubts, &mut self.following);
        let before = self.observed.instances.len();
        self.observed.instances.retain(|name, seen| {
            let stays = desired.get(name).is_some() || !seen.is_nothing() || doubts.concern(name);
            if !stays {
                following.remove(name);
            }
            stays
        });
        if self.observed.instances.len() < before {
            self.sweep_soon(now);
        }
    }
}

#[cfg(test)]
mod tests;
