//! Jobs: which work was given to which instance, what really came of it, and what the controller has acknowledged.
//!
//! A container belongs to the task that its node was told when it was made.

use std::collections::BTreeSet;

use dwell_controller::model::{Change, Instance, InstanceFilter, Record};
use dwell_core::id::{Generation, InstanceName, Revision};
use dwell_core::job::TaskOutcome;

use super::World;
use crate::host::Real;
use crate::truth::Violation;

/// One piece of work: whose, in which life, and its number.
type Task = (InstanceName, Revision, Generation);

/// The books about jobs.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    /// Those of which a main process ended with 0, by itself.
    done: BTreeSet<Task>,
    /// Those that the controller has acknowledged to have ended.
    ended: BTreeSet<Task>,
}

impl Jobs {
    /// Nobody knows what came after a backup.
    pub(super) fn forget_ends(&mut self) {
        self.ended.clear();
    }

    /// Whether a main process has done a task; or a later one, which a restored controller has forgotten.
    fn is_done(&self, (name, life, number): &Task) -> bool {
        let last = (name.clone(), *life, Generation(u64::MAX));
        self.done.range((name.clone(), *life, *number)..=last).next().is_some()
    }

    /// Takes in how an instance is.
    fn note(&mut self, instance: &Instance) {
        let Some(task) = &instance.task else { return };
        if task.end.is_some() {
            self.ended.insert((instance.name.clone(), instance.life, task.number));
        }
    }
}

/// The task that a container has a part in.
fn task_of(real: &Real) -> Option<Task> {
    Some((real.instance.clone(), real.life, real.task?))
}

impl World {
    /// What a commit says of tasks has to be true, and stays so.
    pub(super) fn note_tasks(&mut self, changes: &[Change]) {
        for change in changes {
            let Some(Record::Instance(new)) = &change.new else { continue };
            self.jobs.note(new);
            let Some(task) = &new.task else { continue };
            let key = (new.name.clone(), new.life, task.number);
            let completed = task.end.as_ref().map(|end| end.outcome);
            let what = match completed {
                Some(TaskOutcome::Completed) if !self.jobs.is_done(&key) => {
                    format!(
                        "{} counts as completed with task {}, which nobody did",
                        new.name, task.number
                    )
                }
                None if self.jobs.ended.contains(&key) => {
                    format!(
                        "{} had ended with task {}, and has it to do again",
                        new.name, task.number
                    )
                }
                _ => continue,
            };
            self.violate(Violation { rule: "completions", what });
        }
    }

    /// A controller starts: of what was acknowledged, it knows the end.
    pub(super) fn recall_tasks(&mut self) {
        let Some(model) = &self.controller.model else { return };
        let known = model.instances(&InstanceFilter::default());
        let lost = known.iter().find(|view| {
            let is = &view.instance;
            let number = is.task.as_ref().filter(|task| task.end.is_none()).map(|task| task.number);
            number
                .is_some_and(|number| self.jobs.ended.contains(&(is.name.clone(), is.life, number)))
        });
        let what =
            lost.map(|view| format!("{} had ended, and that is forgotten", view.instance.name));
        for view in &known {
            self.jobs.note(&view.instance);
        }
        if let Some(what) = what {
            self.violate(Violation { rule: "completions", what });
        }
    }

    /// A main process starts: not for a task that has ended.
    pub(super) fn check_task(&mut self, host: usize, real: &Real) {
        let one = &self.hosts[host];
        if one.excused || one.copy || one.vouched_dead {
            return;
        }
        let Some(task) = task_of(real).filter(|task| self.jobs.ended.contains(task)) else {
            return;
        };
        let (name, _, number) = task;
        let what =
            format!("{name} is started on host {host}, although its task {number} has ended");
        self.violate(Violation { rule: "completions", what });
    }

    /// A main process has ended by itself.
    pub(super) fn note_done(&mut self, host: usize, real: &Real, code: i32) {
        let task = task_of(real).filter(|_| code == 0);
        if let Some(task) = task {
            self.note(|| format!("host {host}: {} has done its task {}", task.0, task.2));
            self.jobs.done.insert(task);
        }
    }

    /// Whether an instance has nothing left to do.
    pub(super) fn has_ended(&self, name: &InstanceName) -> bool {
        let model = self.controller.model.as_ref();
        model.and_then(|model| model.instance(name)).is_some_and(|view| view.instance.has_ended())
    }
}
