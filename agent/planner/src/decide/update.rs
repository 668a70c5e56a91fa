//! The replacement of a container by a new one, with a way back.
//!
//! ```text
//!   old       new        what is done
//!   serves    -          make the new one; the old one goes on ── cannot be made in time ─▶ rolled back
//!   serves    created    note that the old one's end is ordered, then stop it
//!   ended     created    carry files over, if any   ── they cannot be in time ─▶ rolled back
//!   ended     filled     start the new one          ── cannot be started in time ─▶ rolled back
//!   ended     running    call its hook after the start, wait until it holds ── the hook fails, it ends, is unhealthy for too long,
//!                                                      or does not hold in time ─▶ rolled back
//!   ended     holds      committed: the old one is removed
//! ```
//!
//! Where the node was given a second share for it, the new container is started beside the old one, which goes on until
//! the new one holds: then that is noted, the address leads to the new one, and the old one is stopped. One that does not hold is
//! stopped, and the old one has never ceased to serve.
//!
//! ```text
//!   old       new        what is done
//!   serves    created    make the second sandbox, start the new one in it
//!   serves    running    call its hook after the start, wait until it holds ── it does not ─▶ rolled back
//!   serves    holds      committed: the address leads to the new one, the old one is stopped and removed, with its sandbox
//! ```
//!
//! A container with a health check holds when a probe has passed; until then failing probes mean "not yet". One
//! without has to run for the monitor time. "In time" is the update's deadline, which counts from the first failure, the
//! last progress of a pull, or the start of the container, and anew when the engine was away in between.
//!
//! An instance that has no old container here, because it comes from another node or somebody removed it, is tried in
//! the same way: if the new one does not hold, the old one is made anew from the assignment's fallback.
//!
//! Where an update stands is read off the containers; only the verdict is written down. Before it, a
//! crash of anything leads back into this table; after it, `roles.rs` sees a steady instance whose
//! other container is to go.

use super::roles::Roles;
use super::{AfterStart, Instance, Next, Proof, Wait};
use crate::observed::{Container, ContainerState, Image, Sandbox};
use crate::step::Step;
use dwell_core::health::Health;

impl<'a> Instance<'a> {
    pub(super) fn update(
        self,
        old: Option<&'a Container>,
        new: Option<&'a Container>,
        roles: &Roles<'a>,
    ) -> Next<'a> {
        let Some(new) = new else {
            return self.prepare(old, roles);
        };
        let is_beside = self.is_beside(old, new);
        let running = [old, Some(new)].into_iter().flatten().filter(|one| one.is_running());
        // First the one that is reached.
        let mut seen_to = running.filter_map(|one| {
            let is_reached = one.id != new.id || !is_beside;
            self.see_to_sandbox(one, is_reached)
        });
        if let Some(next) = seen_to.next() {
            return next;
        }
        match new.state {
            ContainerState::Created => self.switch(old, new),
            ContainerState::Exited { .. } if self.has_ordered_end(new) => self.switch(old, new),
            ContainerState::Exited { .. } if self.has_done_its_work(new) => self.commit(new),
            ContainerState::Exited { .. } if self.says_nothing_of_the_trial(new) => {
                self.switch(old, new)
            }
            ContainerState::Exited { code, out_of_memory, .. } => {
                let why = if out_of_memory { ": it used more memory than its limit" } else { "" };
                self.roll_back(format!("its main process ended with exit code {code}{why}"))
            }
            ContainerState::Running { .. } if self.is_to_end(new) => self.end(new),
            ContainerState::Running { .. } => match old.filter(|old| old.is_running()) {
                Some(old) if !is_beside => self.end(old),
                _ => self.judge(new),
            },
            ContainerState::Dead => self.attempt(Step::Remove { container: new.id.clone() }),
        }
    }

    /// Whether a main process ended before its generation was on trial: it was found ended when the engine came back, so
    /// the host, the engine or the agent went down meanwhile; or it ended in the trial of an earlier generation that says
    /// the same. What is assigned anew is tried anew.
    fn says_nothing_of_the_trial(self, container: &Container) -> bool {
        container.since <= self.node.observed.ready_since || container.since < self.seen.accepted_at
    }

    /// While the new container cannot be made, the old one is kept alive.
    fn prepare(self, old: Option<&'a Container>, roles: &Roles<'a>) -> Next<'a> {
        let create = self.create(roles);
        if let Some(reason) = self.cannot_be_made(&create).filter(|_| self.has_way_back(old)) {
            return self.roll_back(reason);
        }
        let Some(old) = old else { return create };
        match (create, self.serve(old, false)) {
            (Next::Step(create), _) => Next::Step(create),
            (_, Next::Step(step)) => Next::Step(step),
            (Next::Wait(create), Next::Wait(serve)) => Next::Wait(create.or_sooner(serve)),
            (create, _) => create,
        }
    }

    /// Why there is no point in waiting any longer for the new container to be made.
    fn cannot_be_made(self, create: &Next<'_>) -> Option<String> {
        match create {
            Next::Wait(Wait::Image(image)) => match self.node.observed.images.get(*image) {
                Some(Image::Failed(trouble)) if self.is_hopeless(trouble) => {
                    Some(format!("image {image} could not be pulled: {}", trouble.failure.message))
                }
                Some(Image::Pulling { since, .. }) => {
                    let limit = self.target.assigned.update_deadline;
                    let since = (*since).max(self.node.observed.ready_since);
                    (self.node.now >= since.after(limit.as_duration()))
                        .then(|| format!("the pull of image {image} got no further for {limit}"))
                }
                _ => None,
            },
            Next::Wait(Wait::Retry(trouble)) if self.is_hopeless(trouble) => {
                Some(format!("its container could not be made: {}", trouble.failure.message))
            }
            _ => None,
        }
    }

    /// `before` is the container that still serves, or did.
    fn switch(self, before: Option<&'a Container>, new: &'a Container) -> Next<'a> {
        let is_beside = self.is_beside(before, new);
        if let Some(old) = before.filter(|old| old.is_running() && !is_beside) {
            return self.end(old);
        }
        let sandbox = self.seen.sandboxes.of(new.slot);
        if sandbox != if is_beside { Sandbox::Beside } else { Sandbox::Ready } {
            return self.attempt(Step::EnsureSandbox { slot: new.slot, reached: !is_beside });
        }
        if let Some(carry) = self.carry_into(before, new) {
            return match self.hopeless_trouble(&carry).filter(|_| self.has_way_back(before)) {
                Some(reason) => {
                    self.roll_back(format!("its files could not be carried over: {reason}"))
                }
                None => self.attempt(carry),
            };
        }
        let start = Step::Start { container: new.id.clone() };
        if let Some(reason) = self.hopeless_trouble(&start).filter(|_| self.has_way_back(before)) {
            return self.roll_back(format!("it could not be started: {reason}"));
        }
        if self.is_past_starting(new) {
            return self.attempt(Step::Remove { container: new.id.clone() });
        }
        self.attempt(start)
    }

    /// Why there is no point in trying a step any longer.
    fn hopeless_trouble(self, step: &Step) -> Option<&'a str> {
        let (failed, trouble) = self.seen.trouble.as_ref()?;
        (failed == step && self.is_hopeless(trouble)).then_some(trouble.failure.message.as_str())
    }

    /// Decides whether the new container works. That its probes fail means "not yet" until the time is up, or until it
    /// would be restarted for it: that is as bad as an end by itself.
    fn judge(self, new: &Container) -> Next<'a> {
        match self.after_start(new) {
            AfterStart::Call(call) => return self.call(new, call),
            AfterStart::Failed(reason) => return self.roll_back(reason),
            AfterStart::Nothing => {}
        }
        let limit = self.target.assigned.update_deadline;
        match (self.holds(new), self.illness(new)) {
            (Proof::Holds, _) => self.commit(new),
            (Proof::Open { .. }, Some(illness)) if illness.until <= self.node.now => {
                self.roll_back(illness.reason)
            }
            (Proof::Open { until }, illness) if self.node.now < until => {
                let until = illness.map_or(until, |illness| illness.until.min(until));
                Next::Wait(Wait::Trial { until })
            }
            (Proof::Open { .. }, _) => {
                let (word, checked) = match new.health.health {
                    Health::Healthy => ("ready", &new.readiness),
                    _ if self.target.assigned.template.healthcheck.is_none() => {
                        ("ready", &new.readiness)
                    }
                    _ => ("healthy", &new.health),
                };
                let reason = format!("it was not {word} within {limit}");
                self.roll_back(match checked.complaint.as_str() {
                    "" => reason,
                    complaint => format!("{reason}: {complaint}"),
                })
            }
        }
    }

    /// Stops a container that may have to come back.
    pub(super) fn end(self, container: &'a Container) -> Next<'a> {
        if self.is_to_end(container) { self.stop(container) } else { self.order_end(container) }
    }

    /// Whether there is something to put up again. Without it the new one is tried on, and the old one goes on where it can.
    pub(super) fn has_way_back(self, old: Option<&Container>) -> bool {
        self.target.fallback.is_some()
            || self.seen.journal.is_taking(self.target.assigned.life)
            || old.is_some_and(|old| self.seen.journal.has_held(old))
    }
}
