//! How the core learns: from what is told, and from the ends of its calls.

use dwell_core::container::ContainerId;
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::sandbox::Slot;
use dwell_planner::{Failure, FailureKind, Image, Step};

use super::Core;
use super::calls::Task;
use super::look::end_by_kernel;
use crate::call::{CallFailure, CallId, Cause, Input, Outcome, Output};
use dwell_core::container::{Event, EventKind};

/// How long the engine may take to say that a stop is done once the process has ended.
const STOP_LAG: Duration = Duration::from_secs(1);
/// When to look after the kernel has told of an end: the engine's own word usually comes sooner.
const ENDED_PAUSE: Duration = Duration::from_millis(60);

impl Core {
    /// Takes in one thing that has happened; [`Core::advance`] says what is to be done about it.
    pub fn hear(&mut self, input: Input, now: Timestamp) {
        match input {
            Input::Desired(desired) => {
                for (name, target) in desired.instances() {
                    let seen = self.observed.instances.entry(name.clone()).or_default();
                    seen.accept(&target.assigned, now);
                }
                let mut taken_back = Vec::new();
                if let Some(before) = &self.desired {
                    self.observed.retry_pulls(before, &desired, now);
                    let seen = self.observed.instances.iter();
                    let let_go = seen.filter(|(name, seen)| seen.is_let_go(before.get(name)));
                    let is_over = let_go.filter(|(name, seen)| !seen.is_let_go(desired.get(name)));
                    taken_back.extend(is_over.map(|(name, _)| name.clone()));
                }
                self.desired = Some(desired);
                // Something of it may run that the engine does not know: that was let be until now.
                for name in taken_back {
                    self.doubt(&name, None, now);
                }
                self.give_up_keeping(now);
            }
            Input::Leases(leases) => self.observed.leases = leases,
            Input::Connected => {
                self.connected = true;
                self.pulse.hear(now);
                self.look_at_all(now);
            }
            Input::Lost { reason } => {
                self.connected = false;
                self.lose_engine(reason, now);
            }
            Input::Event(event) => {
                self.pulse.hear(now);
                self.hear_of_container(&event, now);
            }
            Input::Ended { instance, container, started_at } => {
                self.hear_of_end(&instance, &container, started_at, now);
            }
            Input::Health { instance, container, started_at, check, health, complaint } => {
                let seen = self.observed.instances.get_mut(&instance);
                let same_run = |one: &&mut dwell_planner::Container| {
                    one.id == container && one.run() == Some(started_at)
                };
                let containers = seen.into_iter().flat_map(|seen| &mut seen.containers);
                for container in containers.filter(same_run) {
                    tracing::info!(%instance, ?check, %health, complaint, "a check says something else");
                    container.checked_mut(check).hear(health, complaint.clone(), now);
                }
            }
            Input::Progress { image, text } => {
                if let Some(state) = self.observed.images.get_mut(&image) {
                    state.progress(text, now);
                }
            }
            Input::SandboxesDisturbed => self.doubt_sandboxes(),
            Input::Recheck => {
                self.doubt_sandboxes();
                self.look_at_all(now);
            }
            Input::Done { id, outcome } => {
                if let Some(task) = self.calls.end(id) {
                    self.done(id, task, outcome, now);
                }
            }
        }
    }

    /// Sandboxes that were right have to be looked at again; one that still is costs little.
    fn doubt_sandboxes(&mut self) {
        for (name, seen) in &mut self.observed.instances {
            let looks =
                matches!(seen.busy, Some(Step::EnsureSandbox { .. } | Step::RepairSandbox { .. }));
            if looks {
                self.disturbed.insert(name.clone());
            } else {
                Slot::ALL.into_iter().for_each(|slot| seen.sandboxes.doubt(slot));
            }
        }
    }

    /// Leaves out what the engine tells of the core's own steps: what is seen after them says more.
    fn hear_of_container(&mut self, event: &Event, now: Timestamp) {
        let seen = self.observed.instances.get(&event.instance);
        let known = seen.and_then(|seen| seen.container(&event.id));
        let step = seen
            .and_then(|seen| seen.busy.as_ref())
            .or_else(|| self.following.get(&event.instance));
        let by_step = match (&event.kind, step) {
            (EventKind::Started, Some(Step::Start { container }))
            | (EventKind::Died { .. }, Some(Step::Stop { container, .. }))
            | (EventKind::Died { .. } | EventKind::Removed, Some(Step::Remove { container })) => {
                *container == event.id
            }
            // Whatever else is done to an instance, somebody may change its containers meanwhile.
            (EventKind::Changed, Some(Step::Create { .. })) => true,
            _ => false,
        };
        let is_running = known.is_some_and(dwell_planner::Container::is_running);
        let is_known = match event.kind {
            EventKind::Started => is_running,
            // A start under way may just have been followed by an end.
            EventKind::Died { .. } => known.is_some() && !is_running && step.is_none(),
            EventKind::Removed => known.is_none(),
            EventKind::Changed => known.is_some_and(|known| known.run().is_none()),
            // What it did to the main process is told as well.
            EventKind::OutOfMemory => true,
        };
        if !by_step && !is_known {
            self.doubt(&event.instance, Some(&event.id), now);
        }
    }

    /// The kernel says that a run is over. The engine, which learns it later, is asked how it ended; a stop that
    /// waited for it is over. While anything else is done to the instance, the engine is not asked, for however long that
    /// takes: until then the run counts as ended by the kernel's word.
    fn hear_of_end(
        &mut self,
        name: &InstanceName,
        container: &ContainerId,
        started_at: Timestamp,
        now: Timestamp,
    ) {
        let Some(seen) = self.observed.instances.get_mut(name) else { return };
        let mut containers = seen.containers.iter_mut();
        let is_under_way = |one: &&mut dwell_planner::Container| {
            one.id == *container && one.is_running() && one.run() == Some(started_at)
        };
        let Some(ended) = containers.find(is_under_way) else { return };
        self.watches.end(container, started_at, now);
        match &seen.busy {
            Some(Step::Stop { container: stopped, .. }) if stopped == container => {
                return self.calls.hasten(name, now.after(STOP_LAG));
            }
            Some(_) => {
                let before = ended.clone();
                end_by_kernel(ended, Some(&before), now, now);
            }
            None => {}
        }
        self.doubt(name, Some(container), now.after(ENDED_PAUSE));
    }

    /// The files of a container are not copied any longer for an instance that is not to take its place any more.
    fn give_up_keeping(&mut self, now: Timestamp) {
        let desired = self.desired.as_deref();
        for (name, seen) in &self.observed.instances {
            let Some(Step::KeepForeign(_)) = seen.busy else { continue };
            let order = seen.journal.taken_over.as_ref().map(|taken| taken.life);
            let target = desired.and_then(|desired| desired.get(name));
            if target.map(|target| target.assigned.life) != order {
                self.calls.hasten(name, now);
            }
        }
    }

    /// A call takes too long.
    pub(super) fn give_up(&mut self, id: CallId, now: Timestamp) {
        let Some(task) = self.calls.end(id) else { return };
        self.outputs.push(Output::Abandon { id });
        let failed = CallFailure {
            failure: Failure {
                kind: FailureKind::Transient,
                message: format!("{} got no answer in time", describe(&task)),
            },
            cause: match &task {
                task if task.is_engines() => Cause::NoAnswer,
                _ => Cause::Other,
            },
        };
        match task {
            Task::Ping => self.missed_ping(&failed, now),
            // The process is gone, which is what was wanted: what the engine thinks of it is seen by looking.
            Task::Step { instance, step: Step::Stop { container, .. } }
                if self.watches.has_ended(&container) =>
            {
                self.stop_is_over(&instance, now);
            }
            task => self.done(id, task, Outcome::Failed(failed), now),
        }
    }

    /// A call has ended.
    fn done(&mut self, id: CallId, task: Task, outcome: Outcome, now: Timestamp) {
        let is_answer =
            !matches!(&outcome, Outcome::Failed(failed) if failed.cause == Cause::NoAnswer);
        if task.is_engines() && is_answer {
            self.pulse.hear(now);
        }
        match task {
            Task::Ping => self.pinged(failure_of(outcome).map_or(Ok(()), Err), now),
            Task::List => {
                let listed = match outcome {
                    Outcome::Listed(listed) => Ok(listed),
                    other => Err(failure_of(other).unwrap_or_else(misfit)),
                };
                self.listed(id, listed, now);
            }
            Task::Sandboxes => {
                let listed = match outcome {
                    Outcome::Sandboxes(listed) => Ok(listed),
                    other => Err(failure_of(other).unwrap_or_else(misfit)),
                };
                self.sandboxes_listed(listed, now);
            }
            Task::Sweep => self.swept(outcome, now),
            Task::Inspect { instance, container } => {
                let found = match outcome {
                    Outcome::Found(found) => Ok(Some(*found)),
                    Outcome::Gone => Ok(None),
                    other => Err(failure_of(other).unwrap_or_else(misfit)),
                };
                self.inspected(&instance, &container, found, now);
            }
            Task::EndUnlisted { instance } => {
                self.unlisted_ended(&instance, failure_of(outcome), now);
            }
            Task::Pull { image } => self.pulled(&image, failure_of(outcome), now),
            Task::Step { instance, step } => self.conclude(&instance, &step, outcome, now),
        }
    }

    fn pulled(&mut self, image: &str, failed: Option<CallFailure>, now: Timestamp) {
        let state = self.observed.images.remove(image).unwrap_or(Image::Missing);
        let Some(failed) = failed else {
            tracing::info!(image, "pulled");
            self.observed.fetched.insert(image.to_owned(), now);
            return;
        };
        tracing::warn!(image, error = failed.failure.message, "pull failed");
        self.observed.images.insert(image.to_owned(), state.failed(failed.failure, now));
    }
}

fn failure_of(outcome: Outcome) -> Option<CallFailure> {
    match outcome {
        Outcome::Failed(failed) => Some(failed),
        _ => None,
    }
}

/// A shell that answers another question than it was asked.
fn misfit() -> CallFailure {
    let message = "the answer does not fit the question; this is a defect of dwell-agent";
    CallFailure {
        failure: Failure { kind: FailureKind::Transient, message: message.to_owned() },
        cause: Cause::Other,
    }
}

fn describe(task: &Task) -> &'static str {
    match task {
        Task::Ping => "a ping of the engine",
        Task::List => "a list of the engine's containers",
        Task::Sandboxes => "a list of the sandboxes",
        Task::Sweep => "the removal of what is left of containers",
        Task::Inspect { .. } => "a look at a container",
        Task::EndUnlisted { .. } => "the end of what the engine does not know",
        Task::Pull { .. } => "a pull of an image",
        Task::Step { step, .. } => match step {
            Step::StopForeign(_) => "the stop of the container in whose place it is put",
            Step::KeepForeign(_) => {
                "the copy of the files of the container in whose place it is put"
            }
            Step::StartForeign(_) => "the start of the container that it did not replace",
            Step::Create { .. } => "making a container",
            Step::EnsureSandbox { .. } => "making its sandbox",
            Step::RepairSandbox { .. } => "a look at its sandbox",
            Step::Carry { .. } => "carrying files over into its container",
            Step::Start { .. } => "the start of its container",
            Step::AfterStart { .. } => "its hook after_start",
            Step::Stop { .. } => "the stop of its container",
            Step::Remove { .. } => "the removal of its container",
            Step::UpdateLimits { .. } => "setting its limits",
            Step::RemoveSandbox { .. } => "the removal of its sandbox",
            Step::Record(_) => "writing its journal",
            Step::Forget => "removing its journal",
        },
    }
}
