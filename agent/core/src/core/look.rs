//! Looking at the containers of one instance, and what is made of what was seen.
//!
//! A look that fails or takes too long says something about that instance alone: it is unknown until it could be
//! looked at. What the kernel said of a process counts more than what the engine says of it: between the end of
//! a process and the engine's own note of it the look is repeated, and if the engine never notes it, the
//! container counts as ended all the same.

use dwell_core::container::ContainerId;
use std::collections::BTreeSet;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_planner::{Checked, ContainerState, EngineState};

use super::Core;
use super::calls::{Load, Task};
use super::doubts::Look;
use crate::call::{Call, CallFailure, Cause};
use dwell_core::container::{self, Container};

/// The first pause between two looks at a container whose process has ended without the engine having noted it;
/// it doubles.
const LAG_PAUSE: Duration = Duration::from_millis(60);
/// How long the engine may take to note it.
const LAG_MAX: Duration = Duration::from_secs(3);

impl Core {
    /// Something about an instance may be wrong: nothing is done to it until it was looked at.
    pub(super) fn doubt(
        &mut self,
        name: &InstanceName,
        container: Option<&ContainerId>,
        not_before: Timestamp,
    ) {
        self.observed.instances.entry(name.clone()).or_default().in_doubt = true;
        self.doubts.raise(name, container, not_before);
    }

    /// Looks at an instance that is in doubt, unless a step of it is under way: the look would be out
    /// of date.
    pub(super) fn look_at(&mut self, name: &InstanceName, now: Timestamp) {
        let seen = self.observed.instances.entry(name.clone()).or_default();
        // Without the engine there is nothing to see, and all is looked at when it is back.
        if seen.busy.is_some() || self.observed.engine != EngineState::Ready {
            return;
        }
        let known: Vec<ContainerId> = seen.containers.iter().map(|one| one.id.clone()).collect();
        let Some(doubt) = self.doubts.begin(name) else { return };
        let ids: BTreeSet<ContainerId> = doubt.containers.into_iter().chain(known).collect();
        if doubt.list {
            if let Some(look) = self.doubts.look(name) {
                look.pending = ids;
            }
            self.list_for(name, now);
        } else {
            self.inspect(name, ids, now);
        }
        self.inspect_what_waits(now);
    }

    /// Looks at these containers as a part of the look at their instance that is under way. Without any, that look
    /// is over.
    pub(super) fn inspect(
        &mut self,
        name: &InstanceName,
        ids: BTreeSet<ContainerId>,
        now: Timestamp,
    ) {
        let Some(look) = self.doubts.look(name) else { return };
        if ids.is_empty() {
            return self.looked_at(name, now);
        }
        look.pending.clone_from(&ids);
        self.inspections.extend(ids.into_iter().map(|id| (name.clone(), id)));
    }

    pub(super) fn inspect_what_waits(&mut self, now: Timestamp) {
        while self.calls.has_room(Load::Look, self.settings.calls_max, now) {
            let Some((instance, container)) = self.inspections.pop_front() else { return };
            let limit = self.doubts.limit(&instance);
            self.call(Call::Inspect { instance, container }, Some(limit), now);
        }
    }

    /// A look at one container has ended.
    pub(super) fn inspected(
        &mut self,
        name: &InstanceName,
        id: &ContainerId,
        found: Result<Option<Container>, CallFailure>,
        now: Timestamp,
    ) {
        if found.as_ref().is_err_and(|failed| failed.cause == Cause::NoAnswer) {
            self.pulse.suspect();
        }
        let Some(look) = self.doubts.look(name) else { return };
        look.pending.remove(id);
        match found {
            Ok(found) => look.found.extend(found),
            Err(failed) => {
                let text = format!("container {id}: {}", failed.failure.message);
                look.failure.get_or_insert(text);
            }
        }
        if look.pending.is_empty() {
            self.looked_at(name, now);
        }
        self.inspect_what_waits(now);
    }

    /// All containers of an instance were looked at, or one could not be.
    pub(super) fn looked_at(&mut self, name: &InstanceName, now: Timestamp) {
        let Some(Look { found, failure, overtaken, .. }) = self.doubts.end(name) else { return };
        if let Some(reason) = failure {
            if self.doubts.failed(name, now) {
                tracing::warn!(
                    instance = %name, reason,
                    "the engine cannot describe a container; its instance is left alone, others go on"
                );
            }
            let seen = self.observed.instances.entry(name.clone()).or_default();
            seen.in_doubt = true;
            seen.unseen = Some(reason);
        } else if overtaken {
            self.doubt(name, None, now);
        } else {
            if let Some(step) = self.following.remove(name) {
                self.confirm(name, &step, &found, now);
            }
            let lags = self.replace(name, &found, now);
            if let Some((container, at)) = lags {
                self.doubt(name, Some(&container), at);
            }
            let is_looked_at = self.doubts.is_open(name);
            let seen = self.observed.instances.entry(name.clone()).or_default();
            let rests = !seen.containers.iter().any(dwell_planner::Container::is_running);
            // What was let go is touched by nobody, also where the engine has lost sight of it.
            let target = self.desired.as_ref().and_then(|desired| desired.get(name));
            let is_let_go = seen.is_let_go(target);
            if rests && !is_let_go && !self.watches.is_settled(name) {
                self.end_unlisted(name, now);
            } else {
                self.all_is_seen(name, is_looked_at);
            }
        }
        self.tick_off(name, now);
    }

    /// Nothing runs of an instance by the engine's words. It may have lost sight of something: until that was made sure of,
    /// the instance is in doubt.
    fn end_unlisted(&mut self, name: &InstanceName, now: Timestamp) {
        self.observed.instances.entry(name.clone()).or_default().in_doubt = true;
        let task = Task::EndUnlisted { instance: name.clone() };
        if self.calls.of(|other| *other == task).is_empty() {
            let call = Call::EndUnlisted { instance: name.clone() };
            let limit = call.limit();
            self.call(call, limit, now);
        }
    }

    /// Nothing runs of an instance but what the engine lists, unless that failed.
    pub(super) fn unlisted_ended(
        &mut self,
        name: &InstanceName,
        failed: Option<CallFailure>,
        now: Timestamp,
    ) {
        let is_looked_at = self.doubts.concern(name);
        let seen = self.observed.instances.entry(name.clone()).or_default();
        if let Some(failed) = failed {
            let reason = failed.failure.message;
            if self.doubts.failed(name, now) {
                tracing::warn!(instance = %name, reason, "what the engine does not know may run; the instance is left alone");
            }
            seen.unseen = Some(reason);
        } else {
            self.watches.settle(name);
            self.all_is_seen(name, is_looked_at);
        }
    }

    /// Everything of an instance is known, unless somebody looks at it once more.
    fn all_is_seen(&mut self, name: &InstanceName, is_looked_at: bool) {
        if self.doubts.succeeded(name) {
            tracing::info!(instance = %name, "the instance can be seen whole again");
        }
        let seen = self.observed.instances.entry(name.clone()).or_default();
        seen.unseen = None;
        seen.in_doubt &= is_looked_at;
    }

    /// Replaces what is known of an instance's containers by what was seen. Returns the container that is to be
    /// looked at once more, and when, if the engine has yet to note the end of its process.
    fn replace(
        &mut self,
        name: &InstanceName,
        found: &[Container],
        now: Timestamp,
    ) -> Option<(ContainerId, Timestamp)> {
        let seen = self.observed.instances.entry(name.clone()).or_default();
        let before = std::mem::take(&mut seen.containers);
        let gone = before.iter().filter(|one| found.iter().all(|other| other.id != one.id));
        self.watches.miss(name, gone.map(|one| one.id.clone()));
        let mut lags = None;
        for container in found {
            let known = before.iter().find(|before| before.id == container.id);
            self.watches.attend(container);
            let (mut now_seen, is_over) =
                (look_of(container, known, now), self.watches.ended(container));
            if let Some(ended_at) = is_over {
                let lag = now.since(ended_at);
                if lag < LAG_MAX {
                    let pause = LAG_PAUSE.max(lag).min(LAG_MAX.saturating_sub(lag));
                    lags = Some((container.id.clone(), now.after(pause)));
                } else {
                    if !known.is_some_and(|known| known.stale) {
                        tracing::warn!(
                            instance = %name, container = %container.id,
                            "its process has ended, but the engine takes it for running; it counts as ended"
                        );
                    }
                    end_by_kernel(&mut now_seen, known, ended_at, now);
                }
            }
            seen.containers.push(now_seen);
        }
        lags
    }
}

/// A container as the planner wants to know it, seen at `now`. What is known of it and has not changed
/// is kept.
fn look_of(
    container: &Container,
    before: Option<&dwell_planner::Container>,
    now: Timestamp,
) -> dwell_planner::Container {
    let details = container.details.unwrap_or_default();
    let started_at = details.started_at.unwrap_or_default();
    let state = match container.state {
        container::ContainerState::Created => ContainerState::Created,
        container::ContainerState::Running => ContainerState::Running { started_at },
        container::ContainerState::Exited => ContainerState::Exited {
            started_at,
            ran_for: details.finished_at.unwrap_or(started_at).since(started_at),
            code: details.exit_code.unwrap_or(-1),
            out_of_memory: details.out_of_memory,
        },
        container::ContainerState::Dead => ContainerState::Dead,
    };
    let same = before.filter(|before| before.state == state);
    dwell_planner::Container {
        id: container.id.clone(),
        generation: container.generation,
        life: container.life,
        slot: container.slot,
        address: container.address,
        fingerprint: container.fingerprint.clone(),
        limits: details.limits,
        enforced: details.enforced,
        restarts_asked: container.restarts_asked,
        stop_grace: details.stop_grace,
        image: details.image,
        state,
        stale: false,
        since: same.map_or(now, |before| before.since),
        health: same.map(|before| before.health.clone()).unwrap_or_default(),
        readiness: same.map(|before| before.readiness.clone()).unwrap_or_default(),
    }
}

/// Makes a container that the engine takes for running one that has ended.
pub(super) fn end_by_kernel(
    container: &mut dwell_planner::Container,
    before: Option<&dwell_planner::Container>,
    ended_at: Timestamp,
    now: Timestamp,
) {
    let Some(started_at) = container.run() else { return };
    // How long it ran is told by the agent's own clock: the engine's may be another's.
    let before = before.filter(|before| before.run() == Some(started_at));
    let (ran_for, since) = match before.map(|before| (before.state, before.since)) {
        Some((ContainerState::Exited { ran_for, .. }, since)) => (ran_for, since),
        Some((_, since)) => (ended_at.since(since), now),
        None => (Duration::ZERO, now),
    };
    container.state =
        ContainerState::Exited { started_at, ran_for, code: -1, out_of_memory: false };
    container.stale = true;
    container.since = since;
    container.health = Checked::default();
    container.readiness = Checked::default();
}
