//! Decides what a node does next: desired and observed state in, the next steps out.
//!
//! [`plan`] is a pure function. The agent's reconciler calls it whenever anything has changed, carries
//! out the steps, tells [`Seen::succeeded`] or [`Seen::failed`] what came of each, and asks again. At
//! most one step of an instance is under way at any time; instances do not depend on each other. What
//! is reported about the instances ([`statuses`]) comes from the same decision as the steps.
//!
//! An instance is a chain of small steps, each of them idempotent:
//!
//! ```text
//!   new:        Create ─▶ EnsureSandbox ─▶ Start ─▶ AfterStart ─▶ Record(it holds)
//!               (with a hook before the stop: Record(what it is) ─▶ Start)
//!   restart:    Record(end ordered) ─▶ Stop ─▶ Start ─▶ AfterStart
//!   update:     Create new ─▶ Record(end ordered) ─▶ Stop old ─▶ Start new ─┬▶ Record(committed)   ─▶ Remove old
//!                 (the old one serves)                                      └▶ Record(rolled back) ─▶ Stop new
//!                                                                                 ─▶ Start old ─▶ Remove new
//!               (with files to carry over: Stop old ─▶ Carry from old into new ─▶ Start new)
//!   update,     Create new ─▶ EnsureSandbox(second) ─▶ Start new ─┬▶ Record(committed) ─▶ RepairSandbox(the address leads to it)
//!   start-first:  (the old one serves)                              │                       ─▶ Stop old ─▶ Remove old ─▶ RemoveSandbox
//!                                                                   └▶ Record(rolled back) ─▶ Stop new ─▶ Remove new ─▶ RemoveSandbox
//!   in place of  Record(it is taken) ─▶ StopForeign ─▶ KeepForeign ─▶ Create … Start ─┬▶ Record(it holds)
//!   a container   (dwell did not make it)                                              └▶ Record(given up) ─▶ Stop ─▶ Remove
//!                                                                                             ─▶ StartForeign ─▶ Record(returned)
//!   not wanted: Stop ─▶ Remove ─▶ RemoveSandbox ─▶ Forget
//! ```
//!
//! Invariants, which `simulation.rs` checks under faults:
//! - a container is started only when no other container of its instance runs, or, if a second share of the node was given
//!   out for that, beside the one that serves and in a sandbox to which the address does not lead;
//! - a container with files to carry over is not started before it has them, and what has them is not removed before;
//! - a container runs in one sandbox for as long as it exists, and no two of an instance run in one;
//! - an update ends in exactly the old or exactly the new container, whatever crashes on the way;
//! - once a container has held, none that was made for an earlier generation serves again;
//! - a container that dwell did not make and in whose place an instance is put never runs beside it, and in the end one of the two runs;
//! - what is in sync is not touched, and a plan at the fixpoint is empty;
//! - the same input gives the same plan.
//!
//! Where to start: [`Desired`] and [`Observed`] are the input, [`Journal`] is what has to outlive the
//! agent, `decide.rs` holds the rules.

mod ahead;
mod decide;
mod desired;
mod journal;
mod lease;
mod observed;
mod pause;
pub mod session;
#[cfg(test)]
mod simulation;
mod status;
mod step;
mod target;

use std::collections::{BTreeMap, BTreeSet};

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;

pub use desired::Desired;
pub use journal::{GivenUp, Held, Journal, Progress, Ruling, TakenOver, TaskRecord, Verdict};
pub use lease::{Leases, Standing};
pub use observed::{
    Carried, Check, Checked, Container, ContainerState, EngineState, FailedHook, Image, Observed,
    Sandbox, Sandboxes, Seen, Taken, Trouble,
};
pub use status::statuses;
pub use step::{Failure, FailureKind, HookCall, Step};
pub use target::Target;

use decide::{Next, Node, decide};

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The next step of each instance that has one.
    pub steps: BTreeMap<InstanceName, Step>,
    /// Images to fetch. This is not a step of an instance: several may wait for the same image, and
    /// an instance goes on serving with its old container meanwhile.
    pub pulls: BTreeSet<String>,
    /// Images to fetch unless they are here, for instances whose turn has yet to come.
    pub ahead: BTreeSet<String>,
    /// When to plan again even if nothing happens: a pause ends, or an update's time is up.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    /// Whether nothing is to be done, now or later.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
            && self.pulls.is_empty()
            && self.ahead.is_empty()
            && self.wake_at.is_none()
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Decides the next step of every instance.
///
/// To be called only once a complete `desired` has arrived: what is not in it is taken away.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, now: Timestamp) -> Plan {
    let node = Node::new(observed, now);
    let mut plan = Plan::default();
    for (name, target, seen) in observed.with_targets(desired) {
        if target.is_none() && desired.keeps_unknown() {
            continue;
        }
        let decision = decide(target, seen, node);
        let lease_ends = target.and_then(|target| node.lease_ends(target, seen));
        lease_ends.into_iter().for_each(|at| plan.wake(at));
        if let Some(image) = decision.image {
            plan_pull(&mut plan, image, observed, now);
        }
        if let Some(target) = target.filter(|_| observed.engine == EngineState::Ready) {
            plan_ahead(&mut plan, target, observed, now);
        }
        if seen.busy.is_some() || seen.in_doubt {
            continue;
        }
        decision.deadline.filter(|at| now < *at).into_iter().for_each(|at| plan.wake(at));
        match (decision.next, decision.aside) {
            (Next::Step(step), _) | (_, Some(Next::Step(step))) => {
                plan.steps.insert(name.clone(), step);
            }
            (Next::Wait(wait), _) | (Next::Rest(_), Some(Next::Wait(wait))) => {
                wait.until().into_iter().for_each(|until| plan.wake(until));
            }
            (Next::Rest(_), _) => {}
        }
    }
    plan
}

/// An image that is to be here before an instance's turn.
fn plan_ahead(plan: &mut Plan, target: &Target, observed: &Observed, now: Timestamp) {
    let Some(image) = target.assigned.image_ahead.as_deref() else { return };
    if let Some(until) = ahead::until(target, image, observed).filter(|until| now < *until) {
        plan.wake(until);
    }
    match observed.images.get(image) {
        Some(Image::Failed(trouble)) if now < trouble.retry_at => plan.wake(trouble.retry_at),
        Some(Image::Pulling { .. }) => {}
        None if observed.fetched.contains_key(image) => {}
        Some(Image::Missing | Image::Failed(_)) | None => {
            plan.ahead.insert(image.to_owned());
        }
    }
}

fn plan_pull(plan: &mut Plan, image: &str, observed: &Observed, now: Timestamp) {
    match observed.images.get(image) {
        Some(Image::Failed(trouble)) if now < trouble.retry_at => plan.wake(trouble.retry_at),
        // One that is here is to be asked for anew.
        Some(Image::Missing | Image::Failed(_)) | None => {
            plan.pulls.insert(image.to_owned());
        }
        Some(Image::Pulling { .. }) => {}
    }
}
