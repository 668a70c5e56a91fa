//! What people are told of jobs.

use dwell_core::health::Health;
use dwell_core::instance::{Counted, InstanceStatus, Phase};
use dwell_core::job::{Schedule, TaskOutcome};

use super::{Ended, Tally};
use crate::model::Model;
use crate::model::object::{Instance, Workload};
use crate::model::view::unseen;

impl Model {
    /// What is known of an instance that has ended; that stays true, whatever becomes of its node.
    pub(in crate::model) fn after_end(&self, instance: &Instance, ended: &Ended) -> InstanceStatus {
        let observed = self.tables.observed().get(&instance.name);
        let seen = observed.map(|observed| observed.status.clone());
        let (phase, exit_code) = match ended.outcome {
            TaskOutcome::Completed => (Phase::Completed, ended.code),
            TaskOutcome::Failed => (Phase::Failed, ended.code),
        };
        let running =
            seen.as_ref().filter(|seen| matches!(seen.phase, Phase::Running | Phase::Stopping));
        let message = match running {
            Some(_) => format!("{}; it is being stopped", ended.reason),
            None => ended.reason.clone(),
        };
        let status = seen.unwrap_or_else(|| unseen(instance, phase, String::new()));
        let (health, readiness) = (Health::None, Health::None);
        InstanceStatus { phase, health, readiness, exit_code, message, started_at: None, ..status }
    }

    /// How far a job is and by which rules, for people.
    pub(in crate::model) fn job_in_words(&self, workload: &Workload) -> Option<String> {
        let job = workload.spec.job.as_ref()?;
        let Tally { at_work, completed, failed, .. } = self.tally(&workload.spec.name);
        let all = workload.spec.replicas;
        let mut words = vec![format!("{completed} of {all} completed"), format!("{failed} failed")];
        words.push(match job.parallelism {
            Some(most) => format!("{at_work} at work, {most} at once at most"),
            None => format!("{at_work} at work"),
        });
        words.extend(job.deadline.map(|time| format!("{time} for all from the first start on")));
        words.extend(self.schedule_in_words(workload));
        words.extend(job.ttl.map(|time| format!("removed {time} after the end")));
        Some(words.join("; "))
    }

    /// What became of the work of an instance of a job, for people.
    pub(in crate::model) fn task_in_words(
        workload: &Workload,
        instance: &Instance,
    ) -> Option<String> {
        let task = instance.task.as_ref()?;
        let attempts = workload.spec.template.restart.attempts();
        let of = attempts.map(|most| format!(" of {most} attempts")).unwrap_or_default();
        if task.idle {
            return Some("has nothing to do until its job is due".to_owned());
        }
        Some(match &task.end {
            None => format!("is to run to completion; {}{of} failed so far", task.failures()),
            Some(ended) if ended.outcome == TaskOutcome::Completed => format!(
                "has completed after {} and does not run again; {}{of} failed before",
                ended.ran_for,
                task.failures()
            ),
            Some(ended) => format!("{} and is not tried again", ended.reason),
        })
    }

    /// By which rules a job is done anew, and when next.
    fn schedule_in_words(&self, workload: &Workload) -> Vec<String> {
        let Some(schedule) = workload.spec.job.as_ref().and_then(|job| job.schedule.as_ref())
        else {
            return Vec::new();
        };
        let Schedule { cron, time_zone, overlap, catch_up, .. } = schedule;
        let shown = |moment| Self::shown_there(workload, moment);
        let mut words = vec![format!(
            "due at {cron:?} of {time_zone}, up to {catch_up} late; overlap: {overlap}"
        )];
        words.extend(
            workload
                .job
                .scheduled
                .run
                .map(|run| format!("at work since it was due at {}", shown(run.due))),
        );
        words.extend(
            workload
                .job
                .scheduled
                .waiting
                .map(|due| format!("the work due at {} waits for that", shown(due))),
        );
        words.push(match self.due_next(workload) {
            Some(next) => format!("due next at {}", shown(next)),
            None => "not due while it is stopped".to_owned(),
        });
        words
    }

    /// Why an instance has nothing to do yet.
    pub(in crate::model) fn idle_in_words(&self, instance: &Instance) -> String {
        let workload = self.tables.workloads().get(instance.name.workload());
        let next = workload.and_then(|workload| Some((workload, self.due_next(workload)?)));
        match next {
            Some((workload, next)) => {
                format!("waits until it is due, at {}", Self::shown_there(workload, next))
            }
            None => "its job is stopped, and so never due".to_owned(),
        }
    }

    /// What a change of a job does not reach, for people.
    pub(in crate::model) fn job_note(&self, workload: &Workload) -> Option<String> {
        let name = &workload.spec.name;
        workload.spec.job.as_ref()?;
        let mut ended =
            self.tables.instances_of(name).filter(|one| one.has_ended() && !one.removing);
        let first = ended.next()?;
        let (count, which) = match ended.count() {
            0 => (Counted(1), "stays as it is and does not run again"),
            more => (Counted(more + 1), "stay as they are and do not run again"),
        };
        Some(format!(
            "{count} that ended {which}; `dwell replace {}` has its work done anew, as declared now",
            first.name
        ))
    }
}
