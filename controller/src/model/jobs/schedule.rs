//! Jobs whose work is done anew at the times of a schedule.
//!
//! Their instances begin *idle*: they have a name and no node, and nothing to do. What is due gives all of them a task; when they have
//! ended they stay as any other instance of a job, until the next one.
//!
//! ```text
//!   idle ──due──▶ begun ──▶ ended ──due──▶ begun …            the same instance, name and address
//! ```
//!
//! Up to which due time everything is decided is kept with the workload, and changes in the same command as what was decided. So no due
//! time is begun twice, whatever the clock does or the controller goes through; and none is lost that can still be begun in time.

use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::WorkloadName;
use dwell_core::instance::{Counted, RunState};
use dwell_core::job::{Overlap, RunOutcome, Schedule};
use dwell_core::quantity::Millis;
use dwell_core::workload::WorkloadSpec;
use serde::{Deserialize, Serialize};

use super::calendar::Calendar;
use super::{JobRun, Tally};
use crate::model::object::{Instance, Severity, Subject, Workload};
use crate::model::{Model, Refusal};

/// A clock that goes back further was wrong before: what it had come past by then is due again.
const CLOCK_STEP_MAX: Millis = Millis::seconds(24 * 3600);

/// How far a job is with its schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    /// What became of all due times up to this one is decided.
    #[serde(default)]
    pub passed: Timestamp,
    /// What is at work was begun for this due time, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Begun>,
    /// The due time that is begun when the present work has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Timestamp>,
    /// What became of the due times before, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<PastRun>,
}

/// A run that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// When it was due.
    pub due: Timestamp,
    /// When it was begun.
    pub at: Timestamp,
}

/// What became of a due time, or of work that somebody asked for in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRun {
    /// When it was due; `None` if somebody asked for the work to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// When it was begun; `None` if it was not, or is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_at: Option<Timestamp>,
    /// When it was over, or was decided not to be begun.
    pub ended_at: Timestamp,
    /// What became of it.
    pub outcome: RunOutcome,
    /// How many instances had completed.
    #[serde(default)]
    pub completed: u32,
    /// How many had failed.
    #[serde(default)]
    pub failed: u32,
    /// Why it was not begun or not ended, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Scheduled {
    pub(in crate::model) fn is_new(&self) -> bool {
        *self == Self::default()
    }

    fn remember(&mut self, run: PastRun, most: u32) {
        self.history.push(run);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        self.history.drain(..self.history.len().saturating_sub(most));
    }

    /// Remembers a due time whose work was not begun.
    fn leave_out(
        &mut self,
        due: Timestamp,
        outcome: RunOutcome,
        reason: String,
        now: Timestamp,
        most: u32,
    ) {
        let (completed, failed) = (0, 0);
        let due = Some(due);
        let run =
            PastRun { due, begun_at: None, ended_at: now, outcome, completed, failed, reason };
        self.remember(run, most);
    }

    /// Remembers that the present work is over, one way or another.
    fn close(&mut self, outcome: RunOutcome, tally: Tally, now: Timestamp, most: u32) {
        let begun = self.run.take();
        let run = PastRun {
            due: begun.map(|begun| begun.due),
            begun_at: begun.map(|begun| begun.at),
            ended_at: now,
            outcome,
            completed: tally.completed,
            failed: tally.failed,
            reason: String::new(),
        };
        self.remember(run, most);
    }
}

impl JobRun {
    /// As it is when its workload is declared so: another calendar counts from now on.
    pub(in crate::model) fn declared(
        mut self,
        old: Option<&WorkloadSpec>,
        new: &WorkloadSpec,
        now: Timestamp,
    ) -> Self {
        let Some(new) = schedule_of(new) else { return self };
        if !old.and_then(schedule_of).is_some_and(|old| old.is_due_when(new)) {
            self.scheduled.passed = now;
            self.scheduled.waiting = None;
        }
        self
    }

    /// As it is when all of it has ended.
    pub(super) fn closed(mut self, schedule: &Schedule, tally: Tally, now: Timestamp) -> Self {
        let outcome = if tally.failed == 0 { RunOutcome::Completed } else { RunOutcome::Failed };
        self.scheduled.close(outcome, tally, now, schedule.history);
        self
    }
}

fn schedule_of(spec: &WorkloadSpec) -> Option<&Schedule> {
    spec.job.as_ref()?.schedule.as_ref()
}

impl Model {
    /// Refuses a schedule that has no meaning, or that is taken away from a job.
    pub(in crate::model) fn check_schedule(
        old: Option<&Workload>,
        new: &WorkloadSpec,
    ) -> Result<(), Refusal> {
        let workload = new.name.clone();
        if let Some(schedule) = schedule_of(new) {
            let calendar = Calendar::of(schedule);
            return calendar.map(drop).map_err(|source| Refusal::Spec { workload, source });
        }
        match old.filter(|old| !old.removing && schedule_of(&old.spec).is_some()) {
            None => Ok(()),
            Some(_) => Err(Refusal::from(super::OfJob::KeepsSchedule { workload })),
        }
    }

    /// When a job is due next; `None` if it has no schedule, or does not run.
    pub(in crate::model) fn due_next(&self, workload: &Workload) -> Option<Timestamp> {
        let schedule = schedule_of(&workload.spec)?;
        let runs = workload.run == RunState::Running && !workload.removing;
        let calendar = Calendar::of(schedule).ok().filter(|_| runs)?;
        calendar.after(workload.job.scheduled.passed)
    }

    /// A moment as the place of a job's schedule calls it.
    pub(super) fn shown_there(workload: &Workload, moment: Timestamp) -> String {
        let calendar = schedule_of(&workload.spec).and_then(|schedule| Calendar::of(schedule).ok());
        calendar.map_or_else(|| moment.to_string(), |calendar| calendar.show(moment).to_string())
    }

    /// Time has passed: begins what is due of a job, or says why not.
    pub(super) fn tend_schedule(&mut self, name: &WorkloadName, now: Timestamp) {
        // Before any node was heard of nothing can begin; nor is it certain that the store is not an old one.
        if self.told.is_empty() {
            return;
        }
        let Some(workload) = self.tables.workloads().get(name).cloned() else { return };
        let Some(schedule) = schedule_of(&workload.spec) else { return };
        let scheduled = &workload.job.scheduled;
        if scheduled.passed > now.after(CLOCK_STEP_MAX.as_duration()) {
            return self.start_over(&workload, now);
        }
        let is_at_work = self.is_at_work(name);
        if let Some(due) = scheduled.waiting.filter(|_| !is_at_work) {
            return self.begin_run(&workload, schedule, due, scheduled.passed, now);
        }
        // Most looks end here.
        if self.due.get(name).is_some_and(|next| next.is_later(schedule, scheduled.passed, now)) {
            return;
        }
        let Ok(calendar) = Calendar::of(schedule) else { return };
        let passed = scheduled.passed;
        match calendar.last(passed, now) {
            Some(due) => self.decide(&workload, schedule, due, now),
            None => {
                let next = calendar.after(passed);
                let next = NextDue { schedule: schedule.clone(), passed, next };
                self.due.insert(name.clone(), next);
            }
        }
    }

    /// Decides about a due time that the clock has come past, and about those before it.
    fn decide(
        &mut self,
        workload: &Arc<Workload>,
        schedule: &Schedule,
        due: Timestamp,
        now: Timestamp,
    ) {
        let is_late = now.since(due) > schedule.catch_up.as_duration();
        let is_at_work = self.is_at_work(&workload.spec.name);
        let most = schedule.history;
        let mut next = Workload::clone(workload);
        next.job.scheduled.passed = due;
        let scheduled = &mut next.job.scheduled;
        if workload.run == RunState::Stopped {
            scheduled.waiting = None;
            return self.put_workload(next);
        }
        if is_late {
            let reason = format!("could not be begun within {}", schedule.catch_up);
            scheduled.leave_out(due, RunOutcome::Missed, reason.clone(), now, most);
            self.put_workload(next);
            return self.note_left_out(workload, "job-missed", due, &reason, now);
        }
        match (is_at_work, schedule.overlap) {
            (false, _) | (true, Overlap::Replace) => {
                self.begin_run(workload, schedule, due, due, now);
            }
            (true, Overlap::Skip) => {
                let reason = "earlier work was under way".to_owned();
                scheduled.leave_out(due, RunOutcome::Skipped, reason.clone(), now, most);
                self.put_workload(next);
                self.note_left_out(workload, "job-skipped", due, &reason, now);
            }
            (true, Overlap::Wait) => {
                let before = scheduled.waiting.replace(due);
                if let Some(before) = before {
                    let reason = "the next one was due before earlier work had ended".to_owned();
                    scheduled.leave_out(before, RunOutcome::Skipped, reason, now, most);
                }
                self.put_workload(next);
            }
        }
    }

    /// Has all instances of a job do their work, which was due at some time; all is decided up to `passed`.
    fn begin_run(
        &mut self,
        workload: &Arc<Workload>,
        schedule: &Schedule,
        due: Timestamp,
        passed: Timestamp,
        now: Timestamp,
    ) {
        let name = &workload.spec.name;
        let mut scheduled = workload.job.scheduled.clone();
        if self.is_at_work(name) {
            scheduled.close(RunOutcome::Replaced, self.tally(name), now, schedule.history);
        }
        (scheduled.passed, scheduled.waiting) = (passed, None);
        scheduled.run = Some(Begun { due, at: now });
        let instances: Vec<Arc<Instance>> =
            self.tables.instances_of(name).filter(|one| !one.removing).cloned().collect();
        if instances.is_empty() {
            let reason = "it has no instances".to_owned();
            scheduled.run = None;
            scheduled.leave_out(due, RunOutcome::Skipped, reason, now, schedule.history);
        }
        let job = JobRun { started_at: None, ended_at: None, scheduled };
        self.put_workload(Workload { job, ..Workload::clone(workload) });
        for instance in &instances {
            if instance.rests() { self.do_anew(instance) } else { self.remake(instance) }
        }
        let late = Millis(now.0.saturating_sub(due.0) / 1000 * 1000);
        let when = Self::shown_there(workload, due);
        let message = match late {
            Millis(0) => format!("was due at {when}: {} begin", Counted(instances.len())),
            late => format!("was due at {when}, {late} ago: {} begin", Counted(instances.len())),
        };
        self.event(now, Severity::Info, Subject::Workload(name.clone()), "job-begun", message);
    }

    fn note_left_out(
        &mut self,
        workload: &Workload,
        word: &'static str,
        due: Timestamp,
        reason: &str,
        now: Timestamp,
    ) {
        let when = Self::shown_there(workload, due);
        let message = format!("was due at {when}; its work is left out: {reason}");
        let subject = Subject::Workload(workload.spec.name.clone());
        self.event(now, Severity::Warning, subject, word, message);
    }

    /// The clock was wrong when due times were decided that have not come yet.
    fn start_over(&mut self, workload: &Workload, now: Timestamp) {
        let mut next = workload.clone();
        let passed = Self::shown_there(workload, next.job.scheduled.passed);
        next.job.scheduled.passed = now;
        next.job.scheduled.waiting = None;
        self.put_workload(next);
        let message = format!(
            "the controller's clock has shown {passed} before and has been set back: its schedule counts from now on"
        );
        let subject = Subject::Workload(workload.spec.name.clone());
        self.event(now, Severity::Warning, subject, "job-clock", message);
    }

    /// A restore is confirmed. Nobody knows which due times were begun since the backup, so none of them is begun again.
    pub(in crate::model) fn pass_due_times(&mut self, now: Timestamp) {
        let jobs: Vec<Arc<Workload>> = self.tables.workloads().values().cloned().collect();
        for workload in jobs {
            let Some(schedule) = schedule_of(&workload.spec) else { continue };
            let Ok(calendar) = Calendar::of(schedule) else { continue };
            let mut next = Workload::clone(&workload);
            let scheduled = &mut next.job.scheduled;
            let Some(due) = calendar.last(scheduled.passed, now).or(scheduled.waiting) else {
                continue;
            };
            let reason =
                "the controller was restored from a backup, and does not know whether it was begun";
            (scheduled.passed, scheduled.waiting) = (scheduled.passed.max(due), None);
            scheduled.leave_out(due, RunOutcome::Missed, reason.into(), now, schedule.history);
            self.put_workload(next);
            self.note_left_out(&workload, "job-missed", due, reason, now);
        }
    }

    /// Whether any instance of a job has something to do.
    fn is_at_work(&self, name: &WorkloadName) -> bool {
        let mut instances = self.tables.instances_of(name);
        instances.any(|instance| !instance.removing && !instance.rests())
    }
}

/// What was found to be due next; kept so that nobody looks into the calendar every second.
#[derive(Clone, Debug)]
pub(in crate::model) struct NextDue {
    schedule: Schedule,
    passed: Timestamp,
    next: Option<Timestamp>,
}

impl NextDue {
    /// Whether it holds for a schedule, and has not come yet.
    fn is_later(&self, schedule: &Schedule, passed: Timestamp, now: Timestamp) -> bool {
        self.passed == passed
            && self.schedule.is_due_when(schedule)
            && self.next.is_none_or(|next| now < next)
    }
}
