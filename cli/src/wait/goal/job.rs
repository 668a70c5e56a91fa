//! When a job is done: once each of its instances has completed. One that has failed is reason enough to stop waiting.

use dwell_core::instance::RunState;
use dwell_proto::v1::{self, task_end::Outcome};

use super::{Progress, Seen, with_message};

/// How far a job is; `None` if the workload is none.
pub(super) fn whole(workload: &v1::Workload, generation: u64, seen: &Seen) -> Option<Progress> {
    let spec = workload.spec.as_ref()?;
    spec.job.as_ref()?;
    let name = &spec.name;
    let replicas = usize::try_from(spec.replicas).unwrap_or(usize::MAX);
    let (mut completed, mut first) = (0, None);
    for instance in seen.instances_of(name).filter(|instance| !instance.removing) {
        match one(instance) {
            Some(Progress::Done) => completed += 1,
            Some(Progress::Waiting(what)) => first = first.or(Some(what)),
            failed @ Some(Progress::Failed(_)) => return failed,
            None => {}
        }
    }
    if workload.generation >= generation && completed == replicas {
        return Some(Progress::Done);
    }
    if RunState::from(workload.run()) == RunState::Stopped {
        return Some(Progress::Failed(super::state::stopped(name)));
    }
    let what = first.unwrap_or_default();
    let so_far = format!("{name}: {completed} of {replicas} completed");
    Some(Progress::Waiting(with_message(so_far, &what)))
}

/// How far an instance of a job is; `None` if it is of none.
pub(super) fn one(instance: &v1::Instance) -> Option<Progress> {
    let task = instance.task.as_ref()?;
    let name = &instance.name;
    // It has nothing to do: what is waited for is the work under way.
    if task.idle {
        return Some(Progress::Done);
    }
    Some(match task.end.as_ref().map(v1::TaskEnd::outcome) {
        Some(Outcome::Completed) => Progress::Done,
        Some(Outcome::Failed | Outcome::Unspecified) => {
            Progress::Failed(format!("{name} {}", task.reason))
        }
        None => {
            let status = instance.status.as_ref();
            let phase = status.map(|status| dwell_core::instance::Phase::from(status.phase()));
            let phase = phase.map_or_else(|| "not taken up yet".to_owned(), |one| one.to_string());
            let message = status.map(|status| status.message.as_str()).unwrap_or_default();
            Progress::Waiting(with_message(format!("{name}: {phase}"), message))
        }
    })
}

/// The first of these instances that has failed.
pub(super) fn failed<'a>(mut instances: impl Iterator<Item = &'a v1::Instance>) -> Option<&'a str> {
    let has_failed = |instance: &&v1::Instance| {
        let end = instance.task.as_ref().and_then(|task| task.end.as_ref());
        // One without an exit code was stopped, or never ran: what it printed explains nothing.
        end.is_some_and(|end| end.outcome() != Outcome::Completed && end.code.is_some())
    };
    instances.find(has_failed).map(|instance| instance.name.as_str())
}

#[cfg(test)]
mod tests;
