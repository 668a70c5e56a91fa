//! What tests ask of the fake engine beside what [`Engine`](super::Engine) has.

use std::path::PathBuf;
use std::time::Duration;

use dwell_core::clock::{Clock, Timestamp};
use dwell_core::id::InstanceName;
use dwell_core::image::ImageDigest;
use dwell_core::workload::Enforced;
use tokio::time::Instant;

use super::behaviour::{Command, Program};
use super::state::{Fault, ImageState, State};
use super::{Container, ContainerId, EngineError, FakeEngine, Operation};
use crate::Usage;

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What.
    pub operation: Operation,
    /// The container's id, for `create` the instance, for `pull` the image; empty without one.
    pub subject: String,
    /// When it began.
    pub at: Timestamp,
}

/// A clock that goes as tokio's does, so that it stands still and leaps with it in tests.
pub struct TokioClock {
    started: Instant,
}

impl TokioClock {
    /// A clock that begins at a fixed time.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000).after(self.started.elapsed())
    }
}

impl FakeEngine {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.shared.state());
        self.shared.announce();
        done
    }

    /// Leaves a file of a container that is gone.
    pub fn leave_file(&self, path: impl Into<PathBuf>) {
        self.change(|state| state.leftovers.insert(path.into()));
    }

    /// From now on each container that runs uses this.
    pub fn use_up(&self, usage: Usage) {
        self.change(|state| state.usage = usage);
    }

    /// From now on it can hold containers to these limits only.
    pub fn enforce_only(&self, enforced: Enforced) {
        self.change(|state| state.enforced = enforced);
    }

    /// How much time a container was given when it was stopped last.
    #[must_use]
    pub fn grace_of(&self, id: &ContainerId) -> Option<Duration> {
        self.shared.state().graces.get(id).copied()
    }

    /// The next `count` calls of `operation` fail without effect.
    pub fn fail_next(&self, operation: Operation, count: usize, error: EngineError) {
        self.add_faults(operation, count, Fault::Before(error));
    }

    /// The next `count` calls of `operation` take effect and fail all the same, as one whose answer
    /// was lost.
    pub fn fail_after_next(&self, operation: Operation, count: usize, error: EngineError) {
        self.add_faults(operation, count, Fault::After(error));
    }

    fn add_faults(&self, operation: Operation, count: usize, fault: Fault) {
        self.change(|state| {
            let faults = state.faults.entry(operation).or_default();
            faults.extend(std::iter::repeat_n(fault, count));
        });
    }

    /// Calls of `operation` do not return, until [`FakeEngine::release`] or [`FakeEngine::down`].
    pub fn stall(&self, operation: Operation) {
        self.change(|state| state.stalled.insert(operation));
    }

    /// Ends what [`FakeEngine::stall`] began.
    pub fn release(&self, operation: Operation) {
        self.change(|state| state.stalled.remove(&operation));
    }

    /// Calls of `operation` that begin from now on take so long.
    pub fn set_latency(&self, operation: Operation, latency: Duration) {
        self.change(|state| state.latencies.insert(operation, latency));
    }

    /// The engine goes away; its containers run on. Streams of events end, calls fail.
    pub fn down(&self) {
        self.change(|state| {
            state.down = true;
            state.cut_events();
        });
    }

    /// The engine is back.
    pub fn up(&self) {
        self.change(|state| state.down = false);
    }

    /// The engine is restarted with another store: it shows the containers of that one, until it is switched back. The
    /// others end, unless it keeps them alive.
    pub fn switch_store(&self, keeps_alive: bool) {
        self.down();
        let now = self.shared.now();
        self.change(|state| {
            let all: Vec<ContainerId> = state.containers.keys().cloned().collect();
            for id in all.into_iter().filter(|_| !keeps_alive) {
                state.end(&id, 137, now);
            }
            std::mem::swap(&mut state.containers, &mut state.hidden);
        });
        self.up();
    }

    /// The main process of a container ends. Whether there was one.
    pub fn crash(&self, id: &ContainerId, exit_code: i32) -> bool {
        let now = self.shared.now();
        self.change(|state| state.end(id, exit_code, now))
    }

    /// The main process of a container ends, and the engine never learns of it.
    pub fn crash_unseen(&self, id: &ContainerId) {
        self.change(|state| state.end_unseen(id));
    }

    /// A process of a container is left that the engine knows nothing of.
    pub fn leave_process(&self, id: &ContainerId) {
        self.change(|state| state.leave(id));
    }

    /// Calls about one container (for `create`, one instance; for `pull`, one image) do not return, until
    /// [`FakeEngine::release_subject`].
    pub fn stall_subject(&self, operation: Operation, subject: &str) {
        self.change(|state| state.stalled_subjects.insert((operation, subject.to_owned())));
    }

    /// Ends what [`FakeEngine::stall_subject`] began.
    pub fn release_subject(&self, operation: Operation, subject: &str) {
        self.change(|state| state.stalled_subjects.remove(&(operation, subject.to_owned())));
    }

    /// How many main processes run, whatever the engine takes for running.
    pub fn processes(&self) -> usize {
        self.shared.state().processes.len()
    }

    /// The next `count` calls of `operation` take effect, and their answers are lost: they do not return.
    pub fn lose_answers(&self, operation: Operation, count: usize) {
        self.add_faults(operation, count, Fault::NoAnswer);
    }

    /// Somebody removes a container by hand.
    pub fn vanish(&self, id: &ContainerId) {
        let now = self.shared.now();
        self.change(|state| state.remove(id, now));
    }

    /// Processes of this image end as soon as they were started; `None` heals it.
    pub fn ends_at_once(&self, image: &str, exit_code: Option<i32>) {
        self.set_program(image, Program { ends: exit_code, ..Program::default() });
    }

    /// How the main process of this image behaves from its next start on.
    pub fn set_program(&self, image: &str, program: Program) {
        self.change(|state| state.programs.insert(image.to_owned(), program));
    }

    /// How a command of these words behaves from now on.
    pub fn set_command(&self, words: &[String], command: Command) {
        self.change(|state| state.commands.insert(words.to_vec(), command));
    }

    /// Somebody makes a container with the cluster's label.
    pub fn add_stranger(&self, id: &str) {
        self.change(|state| state.strangers.insert(id.to_owned()));
    }

    /// An image has to be pulled before it can be used.
    pub fn forget_image(&self, image: &str) {
        self.change(|state| state.images.insert(image.to_owned(), ImageState::Missing));
    }

    /// Which image a reference means from now on; what was made before is of what it meant then.
    pub fn move_tag(&self, image: &str, digest: ImageDigest) {
        self.change(|state| state.digests.insert(image.to_owned(), digest));
    }

    /// An image is missing and cannot be pulled, until [`FakeEngine::forget_image`] heals that.
    pub fn break_image(&self, image: &str, permanent: bool) {
        let broken = ImageState::Broken { permanent };
        self.change(|state| state.images.insert(image.to_owned(), broken));
    }

    /// The exit code of the commands that are run in containers from now on; 0 at first.
    pub fn set_exec_exit_code(&self, exit_code: i32) {
        self.change(|state| state.exec_exits = exit_code);
    }

    /// Whether the commands that are run in containers from now on never end.
    pub fn set_exec_hangs(&self, hangs: bool) {
        self.change(|state| state.exec_hangs = hangs);
    }

    /// How many commands were hung up.
    #[must_use]
    pub fn hang_ups(&self) -> u64 {
        self.shared.state().hang_ups
    }

    /// How many commands were killed with all that they started.
    #[must_use]
    pub fn kills(&self) -> u64 {
        self.shared.state().kills
    }

    /// A container writes something.
    pub fn print(&self, id: &ContainerId, text: &str) {
        let now = self.shared.now();
        self.change(|state| {
            if let Ok(container) = state.container_mut(id) {
                container.print(text, now);
            }
        });
    }

    /// The next `count` events are told to nobody.
    pub fn lose_events(&self, count: u32) {
        self.change(|state| state.events_to_lose = count);
    }

    /// The next `count` events are told twice.
    pub fn repeat_events(&self, count: u32) {
        self.change(|state| state.events_to_repeat = count);
    }

    /// All containers, without a call.
    #[must_use]
    pub fn containers(&self) -> Vec<Container> {
        self.shared.state().seen()
    }

    /// How many containers of an instance run, without a call.
    #[must_use]
    pub fn running(&self, instance: &InstanceName) -> usize {
        self.shared.state().running(|seen| seen.instance == *instance)
    }

    /// How often a container was started while another one of its instance was running: 0, unless
    /// somebody is wrong.
    #[must_use]
    pub fn overlaps(&self) -> u64 {
        self.shared.state().overlaps
    }

    /// How often `operation` was called, whatever came of it.
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        self.shared.state().counts.get(&operation).copied().unwrap_or(0)
    }

    /// The calls so far, the oldest first; a long run loses the oldest.
    #[must_use]
    pub fn journal(&self) -> Vec<Call> {
        self.shared.state().journal.iter().cloned().collect()
    }
}
