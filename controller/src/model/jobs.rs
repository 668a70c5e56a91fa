//! Workloads that run to completion.
//!
//! Each instance of a job has a task ([`InstanceTask`]). Its node runs it as often as it may, and tells how that ended once that is on
//! its disk; it is kept with the instance, durable, in the same command. From then on nothing starts the instance: the node is told
//! that it does not run, no rollout and no drain reaches it, and its share is free. It keeps its node, for its container's output,
//! until its job is removed or the node is drained.
//!
//! What a node tells counts for the very task that it was given: the same life of the instance, the same number. So an end that
//! comes late says nothing of work that was asked for since.
//!
//! How many are at work at once is decided where instances are placed: what has to wait has no node, and says why.

mod calendar;
mod object;
mod schedule;
mod words;

use std::sync::Arc;

use dwell_core::change::ChangeClass;
use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName, WorkloadName};
use dwell_core::instance::{Counted, InstanceStatus, Phase, REASON_MAX, sanitize};
use dwell_core::job::{TaskOutcome, TaskReport, failed_in_words};
use dwell_core::quantity::Millis;
use dwell_core::workload::WorkloadSpec;

use super::object::{Instance, Leaving, Severity, Subject, UpdateState, WaitingCause, Workload};
use super::record::{Key, Record};
use super::refusal::OfJob;
use super::{Model, Refusal};

pub use object::{Ended, InstanceTask, JobRun};
pub(super) use schedule::NextDue;
pub use schedule::{Begun, PastRun, Scheduled};

/// How the instances of a job are, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that have a node and something left to do.
    pub at_work: u32,
    /// Those that have done their work.
    pub completed: u32,
    /// Those that have failed.
    pub failed: u32,
    /// Those that have nothing to do before their job is due.
    pub idle: u32,
}

impl Tally {
    /// Whether there is nothing to count.
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Counts an instance, or takes it out.
    pub(super) fn count(&mut self, instance: &Instance, more: bool) {
        let counted = match instance.ended().map(|ended| ended.outcome) {
            // One that goes is at work for as long as something of it may run.
            None if instance.node.is_some() => &mut self.at_work,
            _ if instance.removing => return,
            None if instance.is_idle() => &mut self.idle,
            None => return,
            Some(TaskOutcome::Completed) => &mut self.completed,
            Some(TaskOutcome::Failed) => &mut self.failed,
        };
        *counted = if more { counted.saturating_add(1) } else { counted.saturating_sub(1) };
    }
}

impl Model {
    /// How the instances of a workload are, if it is a job.
    pub(super) fn tally(&self, name: &WorkloadName) -> Tally {
        self.tables.index().tallies.get(name).copied().unwrap_or_default()
    }

    /// Takes in what a node has on its disk about the task of an instance. Returns the instance as it is then.
    pub(super) fn note_task(
        &mut self,
        instance: &Arc<Instance>,
        status: &InstanceStatus,
        now: Timestamp,
    ) -> Arc<Instance> {
        let Some(task) = &instance.task else { return Arc::clone(instance) };
        if self.volatile_only || instance.removing {
            return Arc::clone(instance);
        }
        let is_of_it = |told: &TaskReport| told.life == instance.life && told.number == task.number;
        let told = status.task.filter(is_of_it);
        if status.phase == Phase::Running || told.is_some() {
            self.note_job_started(instance.name.workload(), now);
        }
        let Some(told) = told.filter(|_| task.end.is_none()) else { return Arc::clone(instance) };
        let mut task = InstanceTask { failed: told.failed, ..task.clone() };
        task.end = told.end.map(|end| {
            let reason = match end.outcome {
                TaskOutcome::Completed => String::new(),
                TaskOutcome::Failed => failed_in_words(task.failures(), end.code),
            };
            Ended::told(end, sanitize(&reason, REASON_MAX))
        });
        let next = Instance { task: Some(task), ..Instance::clone(instance) };
        if next.has_ended() {
            self.end_task(next, now);
        } else {
            self.put_instance(next);
        }
        let name = &instance.name;
        self.tables.instances().get(name).cloned().unwrap_or_else(|| Arc::clone(instance))
    }

    /// An instance has ended: nothing more is to reach it, and its room is others'.
    fn end_task(&mut self, instance: Instance, now: Timestamp) {
        let name = instance.name.clone();
        let update = UpdateState::Current;
        self.put_instance(Instance { update, edition_before: None, ..instance });
        self.delete(Key::Waiting(name.clone()));
        self.down.remove(&name);
        // Another one may take its turn.
        self.agenda.unplaced = true;
        self.let_go_if_drained(&name);
        self.settle_job(name.workload(), now);
    }

    /// The first instance of a job was seen to have started.
    fn note_job_started(&mut self, name: &WorkloadName, now: Timestamp) {
        let Some(workload) = self.tables.workloads().get(name).cloned() else { return };
        if workload.job.started_at.is_none() {
            let job = JobRun { started_at: Some(now), ..workload.job.clone() };
            self.put_workload(Workload { job, ..Workload::clone(&workload) });
        }
    }

    /// Notes that a job has come to its end, or that it has something to do again.
    pub(super) fn settle_job(&mut self, name: &WorkloadName, now: Timestamp) {
        let Some(workload) = self.tables.workloads().get(name).cloned() else { return };
        if workload.spec.job.is_none() || workload.removing {
            return;
        }
        let Tally { completed, failed, idle, .. } = self.tally(name);
        let living =
            self.tables.index().living.get(name).map_or(0, std::collections::BTreeSet::len);
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let living = living.saturating_sub(count(idle));
        let has_ended = living > 0 && count(completed.saturating_add(failed)) == living;
        if has_ended == workload.job.ended_at.is_some() {
            return;
        }
        let mut job = JobRun { ended_at: has_ended.then_some(now), ..workload.job.clone() };
        if let Some(schedule) = workload.spec.job.as_ref().and_then(|job| job.schedule.as_ref())
            && has_ended
        {
            job = job.closed(schedule, self.tally(name), now);
        }
        self.put_workload(Workload { job, ..Workload::clone(&workload) });
        if !has_ended {
            return;
        }
        let all = Counted(living);
        let (severity, reason, message) = match failed {
            0 => (Severity::Info, "job-completed", format!("has completed: {all}")),
            failed => {
                (Severity::Warning, "job-failed", format!("has failed: {failed} of {all} failed"))
            }
        };
        self.event(now, severity, Subject::Workload(name.clone()), reason, message);
    }

    /// Time has passed: ends jobs whose deadline is over, and removes those that were kept for long enough.
    pub(super) fn tend_jobs(&mut self, now: Timestamp) {
        let jobs: Vec<Arc<Workload>> = self
            .tables
            .workloads()
            .values()
            .filter(|workload| workload.spec.job.is_some() && !workload.removing)
            .cloned()
            .collect();
        if self.is_unconfirmed() {
            return;
        }
        let workloads = self.tables.workloads();
        self.due.retain(|name, _| workloads.contains_key(name));
        for workload in jobs {
            let name = &workload.spec.name;
            self.settle_job(name, now);
            self.tend_schedule(name, now);
            let Some(workload) = self.tables.workloads().get(name).cloned() else { continue };
            let Some(job) = &workload.spec.job else { continue };
            let is_over = |since: Option<Timestamp>, time: Option<Millis>| {
                since.zip(time).filter(|(since, time)| now.since(*since) >= time.as_duration())
            };
            if let Some((_, ttl)) = is_over(workload.job.ended_at, job.ttl) {
                self.expire_job(name, ttl, now);
            } else if workload.job.ended_at.is_none()
                && let Some((_, deadline)) = is_over(workload.job.started_at, job.deadline)
            {
                self.end_in_time(name, deadline, now);
            }
        }
    }

    fn expire_job(&mut self, name: &WorkloadName, ttl: Millis, now: Timestamp) {
        let message = format!("ended {ttl} ago, which is its job.ttl: it is removed");
        self.event(now, Severity::Info, Subject::Workload(name.clone()), "job-expired", message);
        // It is there, so this cannot be refused.
        drop(self.remove_workload(name, now));
    }

    /// What of a job has not ended by its deadline has failed.
    fn end_in_time(&mut self, name: &WorkloadName, deadline: Millis, now: Timestamp) {
        let reason = format!("the job's deadline of {deadline} was over before it had ended");
        let left: Vec<Arc<Instance>> = self
            .tables
            .instances_of(name)
            .filter(|instance| !instance.removing && !instance.rests())
            .cloned()
            .collect();
        let message =
            format!("its deadline of {deadline} is over; {} failed by that", Counted(left.len()));
        self.event(
            now,
            Severity::Warning,
            Subject::Workload(name.clone()),
            "job-deadline",
            message,
        );
        for instance in left {
            let Some(task) = instance.task.clone() else { continue };
            let end = Some(Ended {
                outcome: TaskOutcome::Failed,
                code: None,
                at: now,
                ran_for: Millis(0),
                reason: reason.clone(),
            });
            let task = Some(InstanceTask { end, ..task });
            self.end_task(Instance { task, ..Instance::clone(&instance) }, now);
        }
    }

    /// Whether an instance without a node has to wait until others of its job have ended. `asked` are those of it for which a node is
    /// being looked for.
    pub(super) fn waits_for_turn(
        &mut self,
        workload: &Workload,
        name: &InstanceName,
        asked: usize,
    ) -> bool {
        let most = workload.spec.job.as_ref().and_then(|job| job.parallelism);
        let Some(most) = most else { return false };
        let at_work = self.tally(&workload.spec.name).at_work;
        let busy = usize::try_from(at_work).unwrap_or(usize::MAX).saturating_add(asked);
        if busy < usize::try_from(most).unwrap_or(usize::MAX) {
            return false;
        }
        self.wait(name, WaitingCause::Turn { at_once: most });
        true
    }

    /// Looks again at as many of those that wait for their turn as may have it.
    pub(super) fn give_turns(&mut self) {
        let waiting: Vec<WorkloadName> = self.tables.index().turns.keys().cloned().collect();
        for name in waiting {
            let workload = self.tables.workloads().get(&name);
            let job = workload.and_then(|workload| workload.spec.job.as_ref());
            let most = job.map_or(u32::MAX, |job| job.parallelism.unwrap_or(u32::MAX));
            let free = most.saturating_sub(self.tally(&name).at_work);
            let free = usize::try_from(free).unwrap_or(usize::MAX);
            let turns = self.tables.index().turns.get(&name).into_iter().flatten();
            let next: Vec<InstanceName> = turns.take(free).cloned().collect();
            for one in next {
                self.delete(Key::Waiting(one));
            }
        }
    }

    /// An instance that has ended holds up no drain: its node lets go of what is left of it.
    fn let_go_if_drained(&mut self, name: &InstanceName) {
        let Some(instance) = self.tables.instances().get(name).cloned() else { return };
        let Some(node) = instance.assigned_to().filter(|_| instance.rests()) else { return };
        if self.tables.nodes().get(node).is_some_and(|node| node.draining) {
            self.let_go(Instance::clone(&instance));
        }
    }

    /// The same of all that is on a node.
    pub(super) fn let_ended_go(&mut self, node: &NodeName) {
        for name in self.instances_on(node) {
            self.let_go_if_drained(&name);
        }
    }

    /// Has the node of an instance let go of it.
    fn let_go(&mut self, instance: Instance) {
        self.put_with(|revision| {
            let leaving = Some(Leaving { since: revision, to: None });
            Record::Instance(Arc::new(Instance { leaving, revision, ..instance }))
        });
    }

    /// Has the work of an instance that has ended done anew, as what is declared now: on whichever node has room for it.
    pub(super) fn do_anew(&mut self, instance: &Instance) {
        let Some(workload) = self.tables.workloads().get(instance.name.workload()).cloned() else {
            return;
        };
        let wanted = self.form_for_new(&workload).unwrap_or_else(|| Arc::clone(&instance.wanted));
        let generation = self.next_generation(instance);
        let next = Instance {
            serving: instance.serving.filter(|&serving| serving == wanted.number),
            wanted,
            generation,
            run: workload.run,
            update: UpdateState::Current,
            ..instance.clone()
        };
        let next = next.with_new_task(true);
        match (&next.node, &next.leaving) {
            (Some(_), None) => self.let_go(next),
            _ => self.put_instance(next),
        }
    }

    /// Refuses what makes no sense of an instance that has ended.
    pub(super) fn check_not_ended(instance: &Instance) -> Result<(), Refusal> {
        match instance.ended() {
            None if instance.is_idle() => {
                Err(Refusal::from(OfJob::NotDue { instance: instance.name.clone() }))
            }
            None => Ok(()),
            Some(ended) => Err(Refusal::from(OfJob::HasEnded {
                instance: instance.name.clone(),
                how: match ended.outcome {
                    TaskOutcome::Completed => "has completed",
                    TaskOutcome::Failed => "has failed",
                },
            })),
        }
    }

    /// Refuses to make a job of what runs on, or the other way.
    pub(super) fn check_kind(old: Option<&Workload>, new: &WorkloadSpec) -> Result<(), Refusal> {
        let is_other =
            |old: &&Workload| !old.removing && old.spec.job.is_some() != new.job.is_some();
        match old.filter(is_other) {
            None => Ok(()),
            Some(_) => {
                let (workload, is_job) = (new.name.clone(), new.job.is_none());
                Err(Refusal::from(OfJob::OtherKind { workload, is_job }))
            }
        }
    }
}

impl Instance {
    /// As it is when it has been given another version: where that makes another container, the work is begun anew.
    pub(super) fn with_version_of(self, before: &Self) -> Self {
        let class = ChangeClass::between(&before.wanted.template, &self.wanted.template);
        let is_begun_anew = class > ChangeClass::Live;
        self.with_new_task(is_begun_anew)
    }
}
