//! Instances of jobs: they run until their work is done, and no longer.
//!
//! ```text
//!   runs ── ends with 0 ─▶ Record(completed) ─▶ rests for good, whatever becomes of its container
//!    ▲──── fails ────────▶ Record(counted) ─▶ pause ─▶ Start
//!                             └─ attempts are spent ─▶ Record(failed) ─▶ rests for good
//! ```
//!
//! What was ordered to end (a stop, a drain, the shutdown of the host) is neither done nor failed: it is begun anew. A container
//! that was made before its task was given has no part in it.

use dwell_core::id::Generation;
use dwell_core::job::{TaskEnd, TaskOutcome};

use super::roles::Roles;
use super::{Instance, Next, Rest, Wait};
use crate::journal::Journal;
use crate::observed::{Container, Seen};
use crate::pause;
use crate::step::Step;
use crate::target::Target;

impl Target {
    /// How its task ended, if it has.
    pub(crate) fn task_end(&self, journal: &Journal) -> Option<TaskEnd> {
        journal.of_task(self.assigned.task?).end
    }

    /// The least generation that a container of it may be made for: that of its task.
    pub(crate) fn least_generation(&self) -> Generation {
        self.assigned.task.map_or(Generation(0), |task| task.number)
    }
}

impl<'a> Instance<'a> {
    /// How its task ended, if it has.
    pub(super) fn task_end(self) -> Option<TaskEnd> {
        self.target.task_end(&self.seen.journal)
    }

    /// How often it has failed at its task here.
    pub(super) fn failures(self) -> u32 {
        let task = self.target.assigned.task;
        task.map_or(0, |task| self.seen.journal.of_task(task).failed)
    }

    /// Counts the last run of its container, whatever else is to be done. What was counted and is not known to be on disk comes
    /// before that.
    pub(super) fn count_run(self, roles: &Roles<'a>) -> Option<Next<'a>> {
        let task = self.target.assigned.task?;
        let Seen { journal, stored, .. } = self.seen;
        let counted = journal.task.filter(|record| record.number == task.number);
        if counted.is_some() && (journal.life, journal.task) != (stored.life, stored.task) {
            return Some(self.attempt(Step::Record(Box::new(journal.clone()))));
        }
        let Roles::Steady { keeper: Some(keeper), .. } = roles else { return None };
        let policy = self.target.assigned.template.restart;
        let counted = self.seen.journal.counting(task, policy, keeper)?;
        let ended = counted.of_task(task).end;
        let is_done = ended.is_some_and(|end| end.outcome == TaskOutcome::Completed);
        let counted = counted.with_ends(&self.seen.containers);
        let counted = if is_done { self.holding(&counted, keeper) } else { counted };
        Some(self.attempt(Step::Record(Box::new(counted))))
    }

    /// One whose task has ended does not run. Somebody else may have started its container.
    pub(super) fn rest_for_good(self, end: TaskEnd, roles: &Roles<'a>) -> Next<'a> {
        let keeper = match roles {
            Roles::Steady { keeper, .. } => *keeper,
            Roles::Update { new, .. } => *new,
        };
        match keeper.filter(|keeper| keeper.is_running()) {
            Some(running) if self.has_ordered_end(running) => self.stop(running),
            Some(running) => self.order_end(running),
            None => Next::Rest(Rest::Done(end)),
        }
    }

    /// What is done about a main process that has failed at its task.
    pub(super) fn try_again(self, container: &'a Container) -> Next<'a> {
        let until = container.since.after(pause::after_attempt(self.failures()));
        if self.node.now < until {
            return Next::Wait(Wait::Crash { until });
        }
        self.start(container)
    }

    /// Whether it is of a job.
    pub(super) fn has_task(self) -> bool {
        self.target.assigned.task.is_some()
    }
}
