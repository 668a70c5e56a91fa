//! When is something done? Decided from what is known of the fleet; pure.

mod job;
mod node;
mod state;
mod trial;

use std::collections::BTreeMap;

use dwell_core::instance::{Counted, Phase, RunState};
use dwell_core::workload::RestartPolicy;
use dwell_proto::v1::{self, watch_response::Change};

use crate::names::Subject;

use trial::{gave_up, has_held, some_may_fail};

pub(crate) use state::{Awaited, State};

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
    /// One instance is gone; its workload goes on.
    InstanceGone {
        /// The instance.
        instance: String,
    },
    /// An instance runs, or is stopped, as it was asked to.
    Settled {
        /// The instance.
        instance: String,
    },
    /// An instance holds on the node to which it was sent.
    Moved {
        /// The instance.
        instance: String,
        /// The node.
        to: String,
    },
    /// An instance was restarted and runs again.
    Restarted {
        /// The instance.
        instance: String,
        /// `restarts_done` before it was asked for.
        before: u64,
    },
    /// An instance has another container, and is as it is to be.
    Replaced {
        /// The instance.
        instance: String,
        /// Its container before that was asked for.
        before: String,
    },
    /// An instance is let go, and that is on its node's disk.
    LetGo {
        /// The instance.
        instance: String,
    },
    /// No instance is left on a node.
    Drained {
        /// The node.
        node: String,
    },
    /// A node has rebooted and takes instances again.
    Rebooted {
        /// The node.
        node: String,
        /// Which reboot.
        run: u64,
    },
    /// A node is heard of.
    Ready {
        /// The node.
        node: String,
    },
    /// A workload or an instance is in a state, whoever brings that about.
    In(Awaited),
}

impl Goal {
    /// The workload that it is about, if it is about one.
    pub(super) fn workload(&self) -> Option<&str> {
        match self {
            Self::Declared { workload, .. } | Self::Gone { workload } => Some(workload),
            Self::In(awaited) => awaited.workload(),
            _ => None,
        }
    }

    /// The node that it is about, if it is about one.
    pub(super) fn node(&self) -> Option<&str> {
        match self {
            Self::Drained { node } | Self::Rebooted { node, .. } | Self::Ready { node } => {
                Some(node)
            }
            _ => None,
        }
    }
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

    /// Without those that were let go: they are their workload's no more.
    fn instances_of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a v1::Instance> {
        let is_its = move |one: &&v1::Instance| one.workload == workload && !one.let_go;
        self.instances.values().filter(is_its)
    }

    /// How a workload is that is as declared: `web: 3 of 3 healthy at 10.80.0.2, 10.80.1.2, 10.80.2.2`.
    fn in_short(&self, name: &str) -> String {
        /// The most addresses that are named.
        const ADDRESSES_MAX: usize = 4;
        let workload = self.workloads.get(name);
        let spec = workload.and_then(|workload| workload.spec.as_ref());
        let replicas = spec.map_or(0, |spec| spec.replicas);
        if replicas == 0 {
            return format!("{name}: no instances, as declared");
        }
        if workload.is_some_and(|workload| workload.run() == v1::RunState::Stopped) {
            return format!("{name}: {replicas} of {replicas} stopped");
        }
        if spec.is_some_and(|spec| spec.job.is_some()) {
            return format!("{name}: {replicas} of {replicas} completed");
        }
        let template = spec.and_then(|spec| spec.template.as_ref());
        let word = match template.map(|one| (one.healthcheck.is_some(), one.readiness.is_some())) {
            Some((_, true)) => "ready",
            Some((true, false)) => "healthy",
            _ => "running",
        };
        let mut instances: Vec<_> = self.instances_of(name).collect();
        instances.sort_by_key(|instance| instance.ordinal);
        let addresses: Vec<&str> = instances
            .iter()
            .map(|instance| instance.address.as_str())
            .filter(|address| !address.is_empty())
            .collect();
        let shown = addresses.iter().take(ADDRESSES_MAX).copied().collect::<Vec<_>>().join(", ");
        let more = match addresses.len().saturating_sub(ADDRESSES_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let finished = instances.iter().any(|instance| {
            instance.status.as_ref().is_some_and(|status| status.phase() == v1::Phase::Stopped)
        });
        let word = if finished { "done" } else { word };
        format!("{name}: {replicas} of {replicas} {word} at {shown}{more}")
    }

    /// Whether an instance is of a job.
    fn is_of_job(&self, instance: &str) -> bool {
        self.instances.get(instance).is_some_and(|instance| instance.task.is_some())
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
            Self::InstanceGone { instance } => match seen.instances.get(instance) {
                None => Progress::Done,
                Some(found) if found.removing => {
                    Progress::Waiting(format!("{instance}: being removed"))
                }
                Some(_) => Progress::Failed(format!("{instance} was made again")),
            },
            Self::Settled { instance } => match seen.instances.get(instance) {
                Some(instance) => settled(instance, seen),
                None => Progress::Failed(format!("{instance} is gone")),
            },
            Self::Moved { instance, to } => match seen.instances.get(instance) {
                Some(instance) => moved(instance, to, seen),
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
            Self::Replaced { instance, before } => match seen.instances.get(instance) {
                Some(instance) => replaced(instance, before, seen),
                None => Progress::Failed(format!("{instance} is gone")),
            },
            Self::LetGo { instance } => let_go(instance, seen.instances.get(instance)),
            Self::In(awaited) => awaited.progress(seen),
            Self::Ready { node } => match seen.nodes.get(node) {
                None => Progress::Failed(format!("{node} was removed")),
                Some(node) if node.state() == v1::NodeState::Ready => Progress::Done,
                Some(node) => Progress::Waiting(with_message(
                    format!("{}: not heard of", node.name),
                    &node.message,
                )),
            },
            Self::Drained { node } => node::drained(seen.nodes.get(node)),
            Self::Rebooted { node, run } => node::rebooted(node, *run, seen.nodes.get(node)),
        }
    }
}

/// An instance of a job that has failed, if one is waited for: what it printed last says why.
pub(super) fn failed<'a>(goals: &'a [Goal], seen: &'a Seen) -> Option<&'a str> {
    goals.iter().find_map(|goal| match goal {
        Goal::In(Awaited { subject: Subject::Instance(name), .. }) => {
            job::failed(seen.instances.get(name).into_iter())
        }
        goal => job::failed(seen.instances_of(goal.workload()?)),
    })
}

/// What has been reached, a sentence for each goal; restarts are counted together.
pub(super) fn reached(goals: &[Goal], seen: &Seen) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut restarted = Vec::new();
    for goal in goals {
        match goal {
            Goal::Declared { workload, .. } => {
                let tried = seen.workloads.get(workload);
                let tried = tried.filter(|found| found.canary() == v1::Canary::Holds);
                sentences.push(match tried {
                    Some(found) => format!("{workload}: {}", found.message),
                    None => seen.in_short(workload),
                });
            }
            Goal::Gone { workload } => sentences.push(format!("{workload} is gone")),
            Goal::InstanceGone { instance } => sentences.push(format!("{instance} is gone")),
            Goal::Settled { instance }
            | Goal::Moved { instance, .. }
            | Goal::Replaced { instance, .. } => {
                sentences.push(match seen.instances.get(instance) {
                    Some(found) if found.run() == v1::RunState::Stopped => {
                        format!("{instance} is stopped")
                    }
                    Some(found) => format!("{instance} runs at {}", found.address),
                    None => format!("{instance} is gone"),
                });
            }
            Goal::Restarted { instance, .. } => restarted.push(instance.as_str()),
            Goal::LetGo { instance } => {
                sentences.push(format!("{instance} is let go, and goes on without dwell"));
            }
            Goal::Drained { node } => sentences.push(format!("{node} is drained")),
            Goal::Rebooted { node, .. } => {
                sentences.push(format!("{node} has rebooted and is back"));
            }
            Goal::Ready { node } => sentences.push(format!("{node} is ready")),
            Goal::In(awaited) => sentences.push(awaited.reached(seen)),
        }
    }
    match restarted[..] {
        [] => {}
        [one] => sentences.push(format!("{one} has restarted")),
        _ => sentences.push(format!("{} instances have restarted", restarted.len())),
    }
    sentences
}

fn declared(name: &str, generation: u64, seen: &Seen) -> Progress {
    let Some(workload) = seen.workloads.get(name).filter(|workload| !workload.removing) else {
        return Progress::Failed(format!("{name} was removed"));
    };
    if let Some(progress) = job::whole(workload, generation, seen) {
        return progress;
    }
    // The first version has nothing that could be gone back to.
    if generation > 1 && workload.generation > generation && !workload.rolled_back.is_empty() {
        return Progress::Failed(with_message(name.to_owned(), &workload.rolled_back));
    }
    let replicas = workload.spec.as_ref().map_or(0, |spec| spec.replicas);
    let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
    let some_may_fail = some_may_fail(workload);
    let (mut done, mut given_up) = (0, 0);
    let mut first = None;
    let mut count = 0;
    for instance in seen.instances_of(name) {
        count += 1;
        let status = instance.status.as_ref();
        let has_failed = workload.version > 0 && instance.failed_version == workload.version;
        let why = status.and_then(|status| gave_up(status, generation));
        if let Some(why) = why.filter(|_| !some_may_fail) {
            return Progress::Failed(format!("{}: {why}", instance.name));
        }
        match settled(instance, seen) {
            Progress::Done if !instance.removing => done += 1,
            Progress::Done => {
                first = first.or_else(|| Some(format!("{}: being removed", instance.name)));
            }
            failed @ Progress::Failed(_) if !some_may_fail => return failed,
            Progress::Failed(_) | Progress::Waiting(_) if has_failed => given_up += 1,
            Progress::Failed(what) | Progress::Waiting(what) => first = first.or(Some(what)),
        }
    }
    let is_over = workload.version_state() == v1::VersionState::Incomplete;
    if is_over
        && workload.generation >= generation
        && done + given_up == replicas
        && count == replicas
    {
        return Progress::Failed(format!(
            "{}; apply it again to try it anew there, or go back with `dwell rollback {name}`",
            with_message(name.to_owned(), &workload.failures)
        ));
    }
    // While the rollout is paused, what was declared before is what instances are to be. Who waits for what was declared
    // now, waits in vain.
    let updated = usize::try_from(workload.updated).unwrap_or(0);
    match workload.canary() {
        // That some try it out is what was declared; the rest is for whoever promotes it.
        v1::Canary::Holds if generation > 0 => return Progress::Done,
        v1::Canary::Trying if generation > 0 => {
            let what = first.unwrap_or_else(|| workload.message.clone());
            return Progress::Waiting(with_message(name.to_owned(), &what));
        }
        _ => {}
    }
    if workload.paused && generation > 0 && updated < replicas {
        return Progress::Failed(with_message(name.to_owned(), &workload.message));
    }
    // One that the rollout has not reached yet is well, but not as declared.
    let done = if workload.paused { done } else { done.min(updated) };
    if workload.generation >= generation && done == replicas && count == replicas {
        return Progress::Done;
    }
    let what = first.unwrap_or_else(|| workload.message.clone());
    Progress::Waiting(with_message(format!("{name}: {done} of {replicas} done"), &what))
}

fn let_go(name: &str, found: Option<&v1::Instance>) -> Progress {
    let Some(instance) = found.filter(|instance| instance.let_go) else {
        return Progress::Failed(format!("{name} was taken back, or is gone"));
    };
    match instance.status.as_ref().filter(|status| status.let_go > 0) {
        Some(_) => Progress::Done,
        None => Progress::Waiting(format!("{name}: its node has yet to write it down")),
    }
}

fn gone(name: &str, seen: &Seen) -> Progress {
    let left = seen.instances_of(name).count();
    let let_go = seen.instances.values().filter(|one| one.workload == name && one.let_go);
    let let_go = u32::try_from(let_go.count()).unwrap_or(u32::MAX);
    let shown = instances(u32::try_from(left).unwrap_or(u32::MAX));
    match seen.workloads.get(name) {
        None if left == 0 => Progress::Done,
        Some(workload) if !workload.removing => {
            Progress::Failed(format!("{name} was declared again"))
        }
        Some(_) if left == 0 && let_go > 0 => {
            Progress::Failed(format!("{name}: {} let go and left alone", instances(let_go)))
        }
        Some(_) | None => Progress::Waiting(format!("{name}: {shown} left")),
    }
}

/// Whether an instance holds on the node to which it was sent.
fn moved(instance: &v1::Instance, to: &str, seen: &Seen) -> Progress {
    let name = &instance.name;
    if !instance.volumes_moving_to.is_empty() || !instance.moving_to.is_empty() {
        let message = instance.status.as_ref().map_or("", |status| &status.message);
        return Progress::Waiting(with_message(format!("{name}: moving"), message));
    }
    if !instance.node.is_empty() && instance.node != to {
        return Progress::Failed(format!(
            "{name} has not moved to {to}; `dwell events --about instance/{name}` says why"
        ));
    }
    settled(instance, seen)
}

/// Whether an instance is as it is to be: what its node reports is of its generation, and it runs with
/// good health, or is stopped.
fn settled(instance: &v1::Instance, seen: &Seen) -> Progress {
    let name = &instance.name;
    if let Some(ended @ (Progress::Done | Progress::Failed(_))) = job::one(instance) {
        return ended;
    }
    let Some(status) = &instance.status else {
        return Progress::Waiting(format!("{name}: not taken up yet"));
    };
    let phase = Phase::from(status.phase());
    let current = status.generation >= instance.generation;
    let held = has_held(status, instance.generation);
    let good = |health| dwell_core::health::Health::from(health).is_good();
    let healthy = good(status.health());
    let ready = healthy && good(status.readiness());
    let finished = status.exit_code == Some(0) && seen.may_rest(&instance.workload);
    match (RunState::from(instance.run()), phase) {
        (RunState::Running, Phase::Running) if current && ready && held => Progress::Done,
        (RunState::Running, Phase::Running) if current && ready => Progress::Waiting(with_message(
            format!("{name}: running, has to hold"),
            &status.message,
        )),
        (RunState::Running, Phase::Running) if current => {
            let word = if healthy { "ready" } else { "healthy" };
            Progress::Waiting(with_message(format!("{name}: not {word} yet"), &status.message))
        }
        // It has done its work, and its restart policy does not start it again.
        (RunState::Running, Phase::Stopped) if current && finished => Progress::Done,
        (RunState::Running, Phase::Stopped) if current && seen.may_rest(&instance.workload) => {
            match status.exit_code {
                Some(code) => Progress::Failed(format!(
                    "{name} ended with exit code {code}, and is not started again"
                )),
                None => {
                    Progress::Waiting(with_message(format!("{name}: {phase}"), &status.message))
                }
            }
        }
        (RunState::Stopped, Phase::Stopped | Phase::Failed | Phase::Pending) => Progress::Done,
        // Before the first generation there was nothing whose failure it could be: it failed without a container,
        // as with a mount that is not allowed.
        (RunState::Running, Phase::Failed) if current || instance.generation <= 1 => {
            Progress::Failed(with_message(format!("{name} failed"), &status.message))
        }
        _ => Progress::Waiting(with_message(format!("{name}: {phase}"), &status.message)),
    }
}

/// Whether an instance has another container; one that is stopped has it at its next start.
fn replaced(instance: &v1::Instance, before: &str, seen: &Seen) -> Progress {
    let container = instance.status.as_ref().map(|status| status.container_id.as_str());
    let is_stopped = RunState::from(instance.run()) == RunState::Stopped;
    match settled(instance, seen) {
        Progress::Done if container == Some(before) && !is_stopped => Progress::Failed(format!(
            "{name} was not replaced: its new container did not hold, and the one before was put back; `dwell explain {name}` has \
             the reason, `dwell logs --previous {name}` what the new one printed",
            name = instance.name
        )),
        progress => progress,
    }
}

/// A number of instances in words.
fn instances(count: u32) -> Counted {
    Counted(usize::try_from(count).unwrap_or(usize::MAX))
}

fn with_message(what: String, message: &str) -> String {
    let message = dwell_core::instance::sanitize(message, 300);
    if message.is_empty() { what } else { format!("{what}; {message}") }
}

#[cfg(test)]
mod tests;
