//! When is something done? Decided from what is known of the fleet; pure.

use std::collections::BTreeMap;

use dwell_core::instance::{Phase, RunState};
use dwell_core::workload::RestartPolicy;
use dwell_proto::v1::{self, watch_response::Change};

/// What to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// All instances of a workload are as declared at this generation or a later one.
    Declared {
        /// The workload.
        workload: String,
        /// The generation that was answered.
        generation: u64,
    },
    /// A workload and its instances are gone.
    Gone {
        /// The workload.
        workload: String,
    },
    /// An instance runs, or is stopped, as it was asked to.
    Settled {
        /// The instance.
        instance: String,
    },
    /// An instance was restarted and runs again.
    Restarted {
        /// The instance.
        instance: String,
        /// `restarts_done` before it was asked for.
        before: u64,
    },
    /// No instance is left on a node.
    Drained {
        /// The node.
        node: String,
    },
}

/// How far a goal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    /// What it waits for, for people.
    Waiting(String),
    /// It will not be reached without somebody's doing, and why.
    Failed(String),
}

/// What is known of the fleet.
#[derive(Debug, Default)]
pub(super) struct Seen {
    workloads: BTreeMap<String, v1::Workload>,
    instances: BTreeMap<String, v1::Instance>,
    nodes: BTreeMap<String, v1::Node>,
}

impl Seen {
    pub(super) fn new(
        workloads: Vec<v1::Workload>,
        instances: Vec<v1::Instance>,
        nodes: Vec<v1::Node>,
    ) -> Self {
        let mut seen = Self::default();
        workloads.into_iter().map(Change::Workload).for_each(|change| seen.take_change(change));
        instances.into_iter().map(Change::Instance).for_each(|change| seen.take_change(change));
        nodes.into_iter().map(Change::Node).for_each(|change| seen.take_change(change));
        seen
    }

    /// Takes in a change.
    pub(super) fn take(&mut self, response: v1::WatchResponse) {
        if let Some(change) = response.change {
            self.take_change(change);
        }
    }

    fn take_change(&mut self, change: Change) {
        match change {
            Change::Workload(workload) => {
                let name = workload.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
                self.workloads.insert(name, workload);
            }
            Change::Instance(instance) => {
                self.instances.insert(instance.name.clone(), instance);
            }
            Change::Node(node) => {
                self.nodes.insert(node.name.clone(), node);
            }
            Change::Deleted(deleted) => match deleted.kind() {
                v1::Kind::Workload => drop(self.workloads.remove(&deleted.name)),
                v1::Kind::Instance => drop(self.instances.remove(&deleted.name)),
                v1::Kind::Node => drop(self.nodes.remove(&deleted.name)),
                v1::Kind::Event | v1::Kind::Unspecified => {}
            },
            Change::Event(_) | Change::Bookmark(_) => {}
        }
    }

    fn instances_of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a v1::Instance> {
        self.instances.values().filter(move |instance| instance.workload == workload)
    }

    /// Whether a workload's instances stay ended when their main process has ended well.
    fn may_rest(&self, workload: &str) -> bool {
        let spec = self.workloads.get(workload).and_then(|workload| workload.spec.as_ref());
        let restart = spec.and_then(|spec| spec.template.as_ref()?.restart.as_ref());
        restart.is_some_and(|restart| !matches!((*restart).into(), RestartPolicy::Always))
    }
}

/// How far all goals are together: the first failure, else the first that is not done.
pub(super) fn progress(goals: &[Goal], seen: &Seen) -> Progress {
    let mut waiting = Progress::Done;
    for goal in goals {
        match goal.progress(seen) {
            Progress::Done => {}
            failed @ Progress::Failed(_) => return failed,
            Progress::Waiting(what) => {
                if waiting == Progress::Done {
                    waiting = Progress::Waiting(what);
                }
            }
        }
    }
    waiting
}

impl Goal {
    fn progress(&self, seen: &Seen) -> Progress {
        match self {
            Self::Declared { workload, generation } => declared(workload, *generation, seen),
            Self::Gone { workload } => gone(workload, seen),
            Self::Settled { instance } => match seen.instances.get(instance) {
                Some(instance) => settled(instance, seen),
                None => Progress::Failed(format!("{instance} is gone")),
            },
            Self::Restarted { instance, before } => match seen.instances.get(instance) {
                Some(instance) => {
                    let done = instance.status.as_ref().map_or(0, |status| status.restarts_done);
                    if done > *before {
                        settled(instance, seen)
                    } else {
                        Progress::Waiting(format!("{}: restarting", instance.name))
                    }
                }
                None => Progress::Failed(format!("{instance} is gone")),
            },
            Self::Drained { node } => match seen.nodes.get(node) {
                None => Progress::Done,
                Some(node) if node.instances == 0 => Progress::Done,
                Some(node) if !node.draining => {
                    Progress::Failed(format!("{} is not being drained any more", node.name))
                }
                Some(node) => Progress::Waiting(with_message(
                    format!("{}: {} instances left", node.name, node.instances),
                    &node.message,
                )),
            },
        }
    }
}

fn declared(name: &str, generation: u64, seen: &Seen) -> Progress {
    let Some(workload) = seen.workloads.get(name).filter(|workload| !workload.removing) else {
        return Progress::Failed(format!("{name} was removed"));
    };
    let replicas = workload.spec.as_ref().map_or(0, |spec| spec.replicas);
    let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
    let mut done = 0;
    let mut first = None;
    let mut count = 0;
    for instance in seen.instances_of(name) {
        count += 1;
        let status = instance.status.as_ref();
        let rolled_back = status.and_then(|status| status.failed_generation);
        if rolled_back.is_some_and(|failed| failed >= generation) {
            let why = status.map_or("", |status| status.message.as_str());
            return Progress::Failed(with_message(
                format!("{}: the update failed and the old container was put back", instance.name),
                why,
            ));
        }
        match settled(instance, seen) {
            Progress::Done if !instance.removing => done += 1,
            Progress::Done => {
                first = first.or_else(|| Some(format!("{}: being removed", instance.name)));
            }
            failed @ Progress::Failed(_) => return failed,
            Progress::Waiting(what) => first = first.or(Some(what)),
        }
    }
    // One that the rollout has not reached yet is well, but not as declared.
    let done = done.min(usize::try_from(workload.updated).unwrap_or(0));
    if workload.generation >= generation && done == replicas && count == replicas {
        return Progress::Done;
    }
    let what = first.unwrap_or_else(|| workload.message.clone());
    Progress::Waiting(with_message(format!("{name}: {done} of {replicas} done"), &what))
}

fn gone(name: &str, seen: &Seen) -> Progress {
    let left = seen.instances_of(name).count();
    match seen.workloads.get(name) {
        None if left == 0 => Progress::Done,
        Some(workload) if !workload.removing => {
            Progress::Failed(format!("{name} was declared again"))
        }
        Some(_) | None => Progress::Waiting(format!("{name}: {left} instances left")),
    }
}

/// Whether an instance is as it is to be: what its node reports is of its generation, and it runs with
/// good health, or is stopped.
fn settled(instance: &v1::Instance, seen: &Seen) -> Progress {
    let name = &instance.name;
    let Some(status) = &instance.status else {
        return Progress::Waiting(format!("{name}: not taken up yet"));
    };
    let phase = Phase::from(status.phase());
    let current = status.generation >= instance.generation;
    let healthy = dwell_core::health::Health::from(status.health()).is_good();
    let finished = status.exit_code == Some(0) && seen.may_rest(&instance.workload);
    match (RunState::from(instance.run()), phase) {
        (RunState::Running, Phase::Running) if current && healthy => Progress::Done,
        (RunState::Running, Phase::Running) if current => {
            Progress::Waiting(with_message(format!("{name}: not healthy yet"), &status.message))
        }
        // It has done its work, and its policy lets it rest.
        (RunState::Running, Phase::Stopped) if current && finished => Progress::Done,
        (RunState::Stopped, Phase::Stopped | Phase::Failed | Phase::Pending) => Progress::Done,
        (RunState::Running, Phase::Failed) if current => {
            Progress::Failed(with_message(format!("{name} failed"), &status.message))
        }
        _ => Progress::Waiting(with_message(format!("{name}: {phase}"), &status.message)),
    }
}

fn with_message(what: String, message: &str) -> String {
    let message = dwell_core::instance::sanitize(message, 300);
    if message.is_empty() { what } else { format!("{what}; {message}") }
}

#[cfg(test)]
mod tests;
