//! The states that `dwell wait` waits for, whoever brings them about.

use clap::ValueEnum;
use dwell_core::instance::{Phase, RunState};
use dwell_proto::v1;

use super::{Progress, Seen, declared, gave_up, job, settled, with_message};
use crate::names::Subject;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// All that was declared runs, with good health: as `apply --wait`; of a job, it has completed
    Healthy,
    /// The main processes run, whatever their health and version
    Running,
    /// No main process runs
    Stopped,
    /// The main processes have ended well, and are not started again
    Completed,
    /// It does not exist any more
    Gone,
    /// Of a node: it is heard of
    Ready,
    /// Of a node: no instance is left on it
    Drained,
}

/// A workload or an instance that is to be in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// What.
    pub(crate) subject: Subject,
    /// Which state.
    pub(crate) state: State,
    /// The generation that a workload was of when the waiting began.
    pub(crate) generation: u64,
    /// When it was made, which tells it from a later one of the same name.
    pub(crate) created_at_ms: u64,
}

impl Awaited {
    pub(super) fn workload(&self) -> Option<&str> {
        match &self.subject {
            Subject::Workload(name) => Some(name),
            Subject::Instance(name) => name.rsplit_once('-').map(|(workload, _)| workload),
        }
    }

    pub(super) fn progress(&self, seen: &Seen) -> Progress {
        match (&self.subject, self.state) {
            (Subject::Workload(name), State::Gone) => self.workload_gone(name, seen),
            (Subject::Instance(name), State::Gone) => match seen.instances.get(name) {
                Some(one) if one.created_at_ms == self.created_at_ms => {
                    still_there(name, one.removing)
                }
                _ => Progress::Done,
            },
            (Subject::Workload(name), state) => self.all_of(name, state, seen),
            (Subject::Instance(name), state) => match seen.instances.get(name) {
                None => Progress::Failed(format!("{name} is gone")),
                Some(instance) => one(instance, state, seen),
            },
        }
    }

    fn workload_gone(&self, name: &str, seen: &Seen) -> Progress {
        let workload = seen.workloads.get(name);
        match workload.filter(|one| one.created_at_ms == self.created_at_ms) {
            Some(workload) => still_there(name, workload.removing),
            None => Progress::Done,
        }
    }

    fn all_of(&self, name: &str, state: State, seen: &Seen) -> Progress {
        let Some(workload) = seen.workloads.get(name).filter(|one| !one.removing) else {
            return Progress::Failed(format!("{name} was removed"));
        };
        if matches!(state, State::Healthy | State::Completed)
            && let Some(progress) = job::whole(workload, self.generation, seen)
        {
            return progress;
        }
        if state == State::Healthy {
            return match workload.run().into() {
                RunState::Stopped => Progress::Failed(stopped(name)),
                RunState::Running => declared(name, self.generation, seen),
            };
        }
        let replicas = workload.spec.as_ref().map_or(0, |spec| spec.replicas);
        let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
        let updated = usize::try_from(workload.updated).unwrap_or(0);
        if state == State::Completed && updated < replicas && !workload.paused {
            let what = format!("{name}: {updated} of {replicas} as declared");
            return Progress::Waiting(with_message(what, &workload.message));
        }
        let (mut done, mut first) = (0, None);
        for instance in seen.instances_of(name).filter(|instance| !instance.removing) {
            match one(instance, state, seen) {
                Progress::Done => done += 1,
                failed @ Progress::Failed(_) => return failed,
                Progress::Waiting(what) => first = first.or(Some(what)),
            }
        }
        if done == replicas && first.is_none() {
            return Progress::Done;
        }
        let what = first.unwrap_or_default();
        Progress::Waiting(with_message(
            format!("{name}: {done} of {replicas} {}", word(state)),
            &what,
        ))
    }

    /// What has been reached.
    pub(super) fn reached(&self, seen: &Seen) -> String {
        match (&self.subject, self.state) {
            (Subject::Workload(name), State::Healthy) => seen.in_short(name),
            (Subject::Instance(name), State::Healthy) if seen.is_of_job(name) => {
                format!("{name}: {}", word(State::Completed))
            }
            (subject, State::Gone) => format!("{} is gone", subject.name()),
            (subject, state) => format!("{}: {}", subject.name(), word(state)),
        }
    }
}

/// How far one instance is.
fn one(instance: &v1::Instance, state: State, seen: &Seen) -> Progress {
    let name = &instance.name;
    if matches!(state, State::Healthy | State::Completed)
        && let Some(progress) = job::one(instance)
    {
        return progress;
    }
    let Some(status) = &instance.status else {
        return Progress::Waiting(format!("{name}: not taken up yet"));
    };
    let phase = Phase::from(status.phase());
    let is_current = status.generation >= instance.generation;
    let is_stopped = RunState::from(instance.run()) == RunState::Stopped;
    let waits = || Progress::Waiting(with_message(format!("{name}: {phase}"), &status.message));
    match (state, phase) {
        (State::Stopped, Phase::Stopped | Phase::Failed | Phase::Completed) => Progress::Done,
        (State::Stopped, Phase::Pending) if is_stopped => Progress::Done,
        (State::Stopped, _) => waits(),
        (State::Completed, _) if !seen.may_rest(&instance.workload) => Progress::Failed(format!(
            "{name} is started again whenever it ends, so it never completes; see `restart` in its declaration"
        )),
        // What ended before is no completion of what was declared since.
        (State::Completed, Phase::Stopped) if !is_stopped && is_current => match status.exit_code {
            Some(0) => Progress::Done,
            Some(code) => Progress::Failed(format!("{name} ended with exit code {code}")),
            None => waits(),
        },
        (_, _) if is_stopped => Progress::Failed(stopped(name)),
        (_, Phase::Failed) => {
            Progress::Failed(with_message(format!("{name} failed"), &status.message))
        }
        (State::Completed, _) => waits(),
        (State::Healthy, _) => match gave_up(status, instance.generation) {
            Some(why) => Progress::Failed(format!("{name}: {why}")),
            None => settled(instance, seen),
        },
        (_, Phase::Running) => Progress::Done,
        (_, Phase::Completed) => {
            Progress::Failed(format!("{name} has completed and does not run again"))
        }
        (_, Phase::Stopped) if status.exit_code.is_some() => {
            Progress::Failed(format!("{name} has ended and is not started again"))
        }
        (_, _) => waits(),
    }
}

pub(super) fn stopped(name: &str) -> String {
    format!("{name} is stopped; `dwell start {name}` starts it")
}

fn still_there(name: &str, removing: bool) -> Progress {
    let how = if removing { "being removed" } else { "there, and nobody has removed it" };
    Progress::Waiting(format!("{name}: {how}"))
}

fn word(state: State) -> &'static str {
    match state {
        State::Healthy => "healthy",
        State::Running => "running",
        State::Stopped => "stopped",
        State::Completed => "completed",
        State::Gone => "gone",
        State::Ready => "ready",
        State::Drained => "drained",
    }
}

#[cfg(test)]
mod tests;
