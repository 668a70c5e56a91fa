//! Steps: when one begins, and what is known after it.

use dwell_core::clock::Timestamp;
use dwell_core::container::ContainerId;
use dwell_core::id::{Generation, InstanceName};
use dwell_core::image::ContainerImage;
use dwell_core::instance::Assigned;
use dwell_core::sandbox::Slot;
use dwell_core::workload::{Enforced, Limits};
use dwell_planner::{Checked, ContainerState, Desired, Failure, FailureKind, Image, Step};

use super::Core;
use super::calls::load;
use crate::call::{Call, CallFailure, Cause, Outcome};
use dwell_core::container::{self, Container};

impl Core {
    /// Begins a step, if there is room. One that finds none is planned again when another one ends or is late.
    pub(super) fn take_step(
        &mut self,
        name: InstanceName,
        step: Step,
        desired: &Desired,
        now: Timestamp,
    ) {
        if !self.calls.has_room(load(&step), self.settings.calls_max, now) {
            return;
        }
        tracing::debug!(instance = %name, ?step, "step begins");
        let seen = self.observed.instances.entry(name.clone()).or_default();
        seen.busy = Some(step.clone());
        let remains = match &step {
            Step::Start { container } => self.watches.remains(seen, container),
            Step::Carry { into, .. } => self.watches.not_clean(seen, into),
            _ => Default::default(),
        };
        let target = desired.get(&name);
        let failed = match (&step, target) {
            (Step::Record(journal), Some(target)) => seen
                .newly_ruled_out(target, journal)
                .map(|container| Box::new(container.id.clone())),
            _ => None,
        };
        self.note_change(&name);
        let assigned = target.map(|target| Box::new(target.assigned.clone()));
        let call = Call::Step { instance: name, step, assigned, remains, failed };
        let limit = call.limit();
        self.call(call, limit, now);
    }

    /// A step of an instance begins or ends: looks at it that are under way may be out of date.
    fn note_change(&mut self, name: &InstanceName) {
        self.survey.overtake(name);
        if let Some(look) = self.doubts.look(name) {
            look.overtaken = true;
        }
    }

    /// A step has ended.
    pub(super) fn conclude(
        &mut self,
        name: &InstanceName,
        step: &Step,
        outcome: Outcome,
        now: Timestamp,
    ) {
        self.note_change(name);
        match outcome {
            Outcome::Failed(failed) => self.step_failed(name, step, failed, now),
            Outcome::Recorded(journal) => self.step_done(name, &Step::Record(journal), None, now),
            Outcome::HookFailed(reason) => {
                tracing::warn!(instance = %name, reason, "a hook failed");
                let seen = self.observed.instances.entry(name.clone()).or_default();
                seen.hook_failed(step, &reason, now);
                if matches!(step, Step::Stop { .. }) {
                    self.step_done(name, step, None, now);
                }
            }
            Outcome::Done
            | Outcome::Created(_)
            | Outcome::Listed(_)
            | Outcome::Sandboxes(_)
            | Outcome::Journals(_)
            | Outcome::Found(_)
            | Outcome::Gone => {
                tracing::debug!(instance = %name, ?step, "step done");
                let made = match outcome {
                    Outcome::Created(id) => Some(id),
                    _ => None,
                };
                self.step_done(name, step, made, now);
            }
        }
    }

    fn step_done(
        &mut self,
        name: &InstanceName,
        step: &Step,
        made: Option<ContainerId>,
        now: Timestamp,
    ) {
        let seen = self.observed.instances.entry(name.clone()).or_default();
        // Whether these did what the engine says is seen by looking.
        if let Step::Start { container } | Step::Stop { container, .. } = step {
            seen.busy = None;
            self.following.insert(name.clone(), step.clone());
            let container = container.clone();
            return self.doubt(name, Some(&container), now);
        }
        seen.succeeded(step);
        match step {
            Step::Create { generation, slot } => {
                if let (Some(id), Some(assigned)) = (made, self.assigned(name, *generation)) {
                    let container = self::made(id.clone(), *slot, &assigned, now);
                    let seen = self.observed.instances.entry(name.clone()).or_default();
                    seen.containers.push(container);
                    self.watches.made(&id);
                    // One that replaces another is looked at before it is started: its image may bring an SSH
                    // server, and then port 22 has to be free.
                    if seen.containers.len() > 1 {
                        self.doubt(name, Some(&id), now);
                    }
                } else {
                    self.doubt(name, None, now);
                }
            }
            Step::Remove { container } => seen.containers.retain(|one| one.id != *container),
            Step::UpdateLimits { container, limits, .. } => {
                set_limits(seen, container, *limits, now);
            }
            Step::EnsureSandbox { .. } | Step::RepairSandbox { .. } => {
                if self.disturbed.remove(name) {
                    Slot::ALL.into_iter().for_each(|slot| seen.sandboxes.doubt(slot));
                }
            }
            Step::Carry { .. }
            | Step::Start { .. }
            | Step::AfterStart { .. }
            | Step::Stop { .. }
            | Step::StopForeign(_)
            | Step::KeepForeign(_)
            | Step::StartForeign(_)
            | Step::RemoveSandbox { .. }
            | Step::Record(_)
            | Step::Forget => {}
        }
    }

    fn step_failed(
        &mut self,
        name: &InstanceName,
        step: &Step,
        failed: CallFailure,
        now: Timestamp,
    ) {
        let CallFailure { failure, cause } = failed;
        tracing::warn!(instance = %name, ?step, error = failure.message, "step failed");
        let is_image_missing = failure.kind == FailureKind::ImageMissing;
        if is_image_missing
            && let Step::Create { generation, .. } = step
            && let Some(assigned) = self.assigned(name, *generation)
        {
            self.observed.images.entry(assigned.image().into_owned()).or_insert(Image::Missing);
        }
        let seen = self.observed.instances.entry(name.clone()).or_default();
        seen.failed(step, failure, now);
        if cause == Cause::NoAnswer {
            self.pulse.suspect();
        }
        if cause != Cause::Other && !is_image_missing {
            self.doubt(name, None, now);
        }
    }

    /// A stop whose process has ended before the engine said so.
    pub(super) fn stop_is_over(&mut self, name: &InstanceName, now: Timestamp) {
        self.note_change(name);
        tracing::info!(instance = %name, "its process has ended; the engine has yet to say so");
        self.observed.instances.entry(name.clone()).or_default().busy = None;
        self.doubt(name, None, now);
    }

    /// The container of a start or stop was looked at: it has changed, or the engine only says so.
    pub(super) fn confirm(
        &mut self,
        name: &InstanceName,
        step: &Step,
        found: &[Container],
        now: Timestamp,
    ) {
        let (Step::Start { container } | Step::Stop { container, .. }) = step else { return };
        let seen = self.observed.instances.entry(name.clone()).or_default();
        let before = seen.container(container);
        let after = found.iter().find(|one| one.id == *container);
        let is_same = before.zip(after).is_some_and(|(before, after)| {
            let details = after.details.unwrap_or_default();
            let was_running = before.is_running() || before.stale;
            let is_running = after.state == container::ContainerState::Running;
            was_running == is_running && before.run() == details.started_at
        });
        if is_same {
            let message = match step {
                Step::Start { .. } => {
                    "the engine says that it started its container, but it did not run"
                }
                _ => "the engine says that it stopped its container, but takes it for running",
            };
            let failure = Failure { kind: FailureKind::Transient, message: message.to_owned() };
            seen.failed(step, failure, now);
        } else {
            seen.succeeded(step);
        }
    }

    /// What a container of a generation is made from.
    fn assigned(&self, name: &InstanceName, generation: Generation) -> Option<Assigned> {
        let assigned = &self.desired.as_ref()?.get(name)?.assigned;
        Some(assigned.of_generation(generation)?.into_owned())
    }
}

/// A container as it is right after it was made.
fn made(
    id: ContainerId,
    slot: Slot,
    assigned: &Assigned,
    now: Timestamp,
) -> dwell_planner::Container {
    dwell_planner::Container {
        id,
        generation: assigned.generation,
        life: assigned.life,
        slot,
        address: Some(assigned.address),
        fingerprint: assigned.fingerprint(),
        limits: assigned.template.limits(),
        // What cannot be is not known before it is looked at.
        enforced: Enforced::ALL,
        restarts_asked: assigned.restarts_asked,
        stop_grace: Some(assigned.template.stop_grace),
        image: ContainerImage::default(),
        state: ContainerState::Created,
        stale: false,
        since: now,
        health: Checked::default(),
        readiness: Checked::default(),
    }
}

/// A container with other limits has to show anew that it holds.
fn set_limits(
    seen: &mut dwell_planner::Seen,
    container: &ContainerId,
    limits: Limits,
    now: Timestamp,
) {
    for one in seen.containers.iter_mut().filter(|one| one.id == *container) {
        one.limits = one.enforced.of(limits);
        one.since = now;
    }
}
