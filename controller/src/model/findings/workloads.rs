//! Findings about workloads and their instances.

use std::collections::BTreeMap;
use std::sync::Arc;

use dwell_core::health::Health;
use dwell_core::id::{InstanceName, NodeName};
use dwell_core::instance::{Counted, InstanceStatus, Outcome, Phase, RunState};
use dwell_core::job::TaskOutcome;
use dwell_core::workload::ToldFromInside;

use super::{FindingKind, FleetFinding, FleetStatus, Gravity};
use crate::model::Model;
use crate::model::object::{Instance, Subject, UpdateState, Waiting, WaitingCause, Workload};
use crate::model::versions::{Pause, VersionState};
use crate::model::view::phase_word;
use crate::model::volumes::VolumeState;

/// How many instances a finding about several names.
const NAMED_MAX: usize = 3;

/// How an instance is.
enum Standing {
    /// As declared: it runs and does well, or has done its work.
    Well,
    /// It does not run, as somebody asked.
    Stopped,
    /// Nobody knows: its node has the finding.
    Unknown(NodeName),
    /// Not as declared.
    Found(FindingKind, String, String),
}

/// What ails instances of one workload alike.
struct Alike {
    names: Vec<InstanceName>,
    count: usize,
    message: String,
    next: String,
}

impl Model {
    /// Finds what is to be found about a workload; returns how many instances it has.
    pub(super) fn find_of_workload(
        &self,
        workload: &Arc<Workload>,
        status: &mut FleetStatus,
    ) -> usize {
        let mut alike: BTreeMap<FindingKind, Alike> = BTreeMap::new();
        let (mut present, mut leaving, mut well, mut stopped, mut updated) = (0, 0, 0, 0, 0);
        let mut rolls = false;
        let (mut failed, mut let_go) = (0, 0);
        let mut holds_up = None;
        for instance in self.tables.instances_of(&workload.spec.name) {
            let standing = self.standing(workload, instance);
            if let Some(far) = self.volume_move_in_words(instance) {
                let next = format!("dwell explain {}", instance.name);
                let subject = Subject::Instance(instance.name.clone());
                let kind = FindingKind::VolumesMoving;
                status.find(FleetFinding::new(subject, kind, far, next));
            }
            if instance.is_let_go() {
                let_go += 1;
            } else if instance.removing {
                leaving += 1;
            } else {
                present += 1;
                let is_updated = self.is_as_declared(workload, instance);
                updated += usize::from(is_updated);
                // One that moves is a finding by itself.
                let has_failed = self.failed_with_newest(instance).is_some();
                failed += usize::from(has_failed);
                rolls |= !is_updated
                    && instance.leaving.is_none()
                    && (!has_failed || instance.update != UpdateState::Current);
            }
            match &standing {
                Standing::Well if instance.removing => {}
                Standing::Well => well += 1,
                Standing::Stopped => stopped += 1,
                Standing::Unknown(_) => {}
                Standing::Found(kind, message, next) => {
                    let alike = alike.entry(*kind).or_insert_with(|| Alike {
                        names: Vec::new(),
                        count: 0,
                        message: message.clone(),
                        next: next.clone(),
                    });
                    alike.count += 1;
                    if alike.names.len() < NAMED_MAX {
                        alike.names.push(instance.name.clone());
                    }
                }
            }
            if holds_up.is_none() && instance.update != UpdateState::Current {
                holds_up = self.holds_up(instance, &standing);
            }
        }
        let is_ruled_out = matches!(workload.paused, Some(Pause::BadVersion(_)));
        if !workload.removing {
            let is_well = well + stopped == present && updated == present && !is_ruled_out;
            status.counts.workloads += 1;
            status.counts.workloads_as_declared += usize::from(is_well && leaving == 0);
            status.counts.instances += present;
            status.counts.instances_well += well;
            status.counts.instances_stopped += stopped;
        }
        let holds_up = holds_up.unwrap_or((Gravity::Progress, String::new()));
        let so_far = if rolls { Some((updated, present)) } else { None };
        status.found.extend(self.find_of_rollout(workload, so_far, failed, holds_up));
        if workload.removing {
            let message = match let_go {
                0 => format!("is being removed; {} left", Counted(leaving)),
                _ => format!(
                    "is being removed; {} left, and {} let go, with the last of which it goes",
                    Counted(leaving),
                    Counted(let_go)
                ),
            };
            let next = format!("dwell ps {}", workload.spec.name);
            let subject = Subject::Workload(workload.spec.name.clone());
            let kind = FindingKind::WorkloadRemoving;
            status.find(FleetFinding::new(subject, kind, message, next));
            alike.remove(&FindingKind::InstanceRemoving);
        }
        for (kind, alike) in alike {
            status.find(alike.into_finding(kind, workload));
        }
        present + leaving
    }

    /// How far a rollout is: how many instances of how many are as declared, if there is one that goes on, and what it
    /// waits for.
    fn find_of_rollout(
        &self,
        workload: &Workload,
        so_far: Option<(usize, usize)>,
        failed: usize,
        (gravity, why): (Gravity, String),
    ) -> Option<FleetFinding> {
        let name = &workload.spec.name;
        let newest = self.newest(name)?;
        let (newest, state) = (newest.form.number, newest.state.clone());
        let subject = Subject::Workload(name.clone());
        let (kind, message, next) = match &workload.paused {
            _ if workload.removing => return None,
            Some(Pause::BadVersion(message)) => {
                let can_go_back = workload.good.is_some_and(|good| good != newest);
                let verb = if can_go_back { "rollback" } else { "history" };
                (FindingKind::RolloutFailed, message.clone(), format!("dwell {verb} {name}"))
            }
            Some(asked @ Pause::Asked { .. }) => {
                let (updated, present) = so_far?;
                let left = Counted(present - updated);
                let message = format!("{asked}; {left} not as declared with version {newest}");
                (FindingKind::RolloutPaused, message, format!("dwell resume {name}"))
            }
            Some(canary @ Pause::Canary { .. }) => {
                let (updated, present) = so_far?;
                let holds = match self.canaries_hold(workload) {
                    Some(true) => "all of them hold with it",
                    Some(false) | None => "not all of them hold with it yet",
                };
                let message = format!("{updated} of {}: {canary}; {holds}", Counted(present));
                (FindingKind::RolloutPaused, message, format!("dwell promote {name}"))
            }
            None if state == VersionState::Incomplete && so_far.is_none() => {
                let can_go_back = workload.good.is_some_and(|good| good != newest);
                let verb = if can_go_back { "rollback" } else { "history" };
                let message = self.failures_in_words(workload)?;
                (FindingKind::RolloutFailed, message, format!("dwell {verb} {name}"))
            }
            None => {
                let (updated, present) = so_far?;
                let failed = match failed {
                    0 => String::new(),
                    count => format!(", {count} failed with version {newest}"),
                };
                let so_far = format!("{updated} of {} as declared{failed}", Counted(present));
                let kind = match gravity {
                    Gravity::Progress => FindingKind::RollingOut,
                    Gravity::Problem | Gravity::Warning => FindingKind::RolloutStuck,
                };
                let why = self.fetching_in_words(workload).unwrap_or(why);
                let message = if why.is_empty() { so_far } else { format!("{so_far}; {why}") };
                (kind, message, format!("dwell ps {name}"))
            }
        };
        let reasons: &[&str] = match kind {
            FindingKind::RolloutFailed | FindingKind::RolloutPaused => {
                &["rollout-paused", "rollout-incomplete"]
            }
            _ => &["workload-changed", "workload-created"],
        };
        let since = self.newest_event(&subject, reasons).map(|event| event.at);
        Some(FleetFinding { since, ..FleetFinding::new(subject, kind, message, next) })
    }

    /// What the rollout waits for, if it is this instance, and whether that passes by itself.
    fn holds_up(&self, instance: &Instance, standing: &Standing) -> Option<(Gravity, String)> {
        let name = &instance.name;
        if let Some(waiting) = self.tables.waiting().get(name) {
            let why = self.why(waiting);
            return Some((Gravity::Warning, format!("waits for {name}: {why}")));
        }
        Some(match standing {
            Standing::Unknown(node) if !self.is_ready(node) => {
                (Gravity::Warning, format!("waits for {name}: {node} is not heard of"))
            }
            Standing::Unknown(node) => {
                (Gravity::Warning, format!("waits for {name}: {node} cannot look at it"))
            }
            Standing::Found(kind, message, _) if instance.update == UpdateState::Updating => {
                (kind.gravity(), format!("waits for {name}: {message}"))
            }
            Standing::Well if instance.update == UpdateState::Updating => {
                (Gravity::Progress, format!("waits until {name} has held"))
            }
            _ => return None,
        })
    }

    fn standing(&self, workload: &Workload, instance: &Instance) -> Standing {
        let name = &instance.name;
        if let Some(rivals) = self.rivals.get(name) {
            let nodes: Vec<&str> = rivals.keys().map(NodeName::as_str).collect();
            let message = format!("{} has it too, and is told to stop it", nodes.join(", "));
            return Standing::Found(FindingKind::InstanceTwice, message, "dwell audit".to_owned());
        }
        if let Some(ended) = instance.ended() {
            return match ended.outcome {
                TaskOutcome::Completed => Standing::Well,
                TaskOutcome::Failed => {
                    let (message, next) = (ended.reason.clone(), format!("dwell logs {name}"));
                    Standing::Found(FindingKind::InstanceFailed, message, next)
                }
            };
        }
        if instance.is_idle() {
            return Standing::Well;
        }
        let Some(node) = &instance.node else { return self.without_node(instance) };
        if !self.is_ready(node) {
            return Standing::Unknown(node.clone());
        }
        let see = format!("dwell ps {}", workload.spec.name);
        let progress = |kind, message: String| Standing::Found(kind, message, see.clone());
        if instance.is_let_go() {
            let next = format!("dwell adopt {name}");
            return Standing::Found(
                FindingKind::InstanceLetGo,
                self.let_go_in_words(instance),
                next,
            );
        }
        if instance.removing {
            return progress(FindingKind::InstanceRemoving, "is being removed".to_owned());
        }
        let Some(seen) = self.tables.observed().get(name).map(|observed| &observed.status) else {
            let message = format!("waits for {node} to take it up");
            return match instance.run {
                RunState::Stopped => Standing::Stopped,
                RunState::Running => progress(FindingKind::InstanceStarting, message),
            };
        };
        match (instance.run, seen.phase) {
            (_, Phase::Unknown) => Standing::Unknown(node.clone()),
            (RunState::Stopped, Phase::Stopped | Phase::Failed | Phase::Pending) => {
                Standing::Stopped
            }
            (RunState::Stopped, _) => {
                progress(FindingKind::InstanceStopping, "is being stopped".to_owned())
            }
            (RunState::Running, _) => self.running(instance, node, seen, &see),
        }
    }

    /// One without a node.
    fn without_node(&self, instance: &Instance) -> Standing {
        if instance.run == RunState::Stopped {
            return Standing::Stopped;
        }
        let waiting = self.tables.waiting().get(&instance.name);
        let why = waiting.map(|waiting| self.why(waiting)).filter(|why| !why.is_empty());
        let (Some(waiting), Some(why)) = (waiting, why) else {
            let next = format!("dwell ps {}", instance.name.workload());
            let message = "waits for a node".to_owned();
            return Standing::Found(FindingKind::InstanceStarting, message, next);
        };
        let passes = matches!(
            waiting.cause,
            WaitingCause::Volume { state: VolumeState::Deleting { .. }, .. }
                | WaitingCause::Turn { .. }
        );
        let kind =
            if passes { FindingKind::InstanceStarting } else { FindingKind::InstancePending };
        Standing::Found(kind, why, next_of_waiting(waiting))
    }

    /// One that should run, and of which its node tells.
    fn running(
        &self,
        instance: &Instance,
        node: &NodeName,
        seen: &InstanceStatus,
        see: &str,
    ) -> Standing {
        let name = &instance.name;
        let logs = || format!("dwell logs {name}");
        let progress = |kind, message: String| Standing::Found(kind, message, see.to_owned());
        let problem = |kind, message: String| Standing::Found(kind, message, logs());
        let told = |otherwise: &str| match seen.message.as_str() {
            "" => otherwise.to_owned(),
            message => message.to_owned(),
        };
        if let Some(Outcome::Failing { reason }) = seen.verdict_on(instance.generation) {
            return problem(FindingKind::InstanceFailing, format!("does not work: {reason}"));
        }
        match (seen.phase, seen.health) {
            (Phase::Backoff, _) => problem(FindingKind::InstanceBackoff, told("backs off")),
            (Phase::Failed, _) => problem(FindingKind::InstanceFailed, told("failed")),
            (Phase::Stopped, _) if seen.exit_code.is_none_or(|code| code == 0) => Standing::Well,
            (Phase::Stopped, _) if was_shut_down(instance, seen) => Standing::Well,
            (Phase::Stopped, _) => problem(FindingKind::InstanceEnded, told("ended")),
            (Phase::Running, Health::Unhealthy) => {
                problem(FindingKind::InstanceUnhealthy, told("its health check fails"))
            }
            (Phase::Running, _) if seen.readiness == Health::Unhealthy => {
                problem(FindingKind::InstanceUnready, told("its readiness check fails"))
            }
            _ if let Some(to) = instance.leaving.as_ref().and_then(|one| one.to.as_ref()) => {
                progress(FindingKind::InstanceMoving, format!("moves from {node} to {to}"))
            }
            _ if let Some(heading) = self.heading_in_words(instance) => {
                progress(FindingKind::InstanceMoving, heading)
            }
            (Phase::Running, Health::Starting) => {
                let message = told("its health check has not passed yet");
                progress(FindingKind::InstanceStarting, message)
            }
            (Phase::Running, _) if seen.readiness == Health::Starting => {
                progress(FindingKind::InstanceStarting, told("is not ready yet"))
            }
            (Phase::Running, _) => match self.tables.waiting().get(name) {
                // A node that drains has the finding.
                Some(waiting) if !self.is_draining(node) => {
                    let next = format!("dwell node inspect {node}");
                    Standing::Found(FindingKind::InstanceHeldBack, self.why(waiting), next)
                }
                _ => Standing::Well,
            },
            (phase, _) => progress(FindingKind::InstanceStarting, told(phase_word(phase))),
        }
    }

    fn is_draining(&self, node: &NodeName) -> bool {
        self.tables.nodes().get(node).is_some_and(|node| node.draining)
    }
}

/// Whether it is off because somebody inside wanted that.
fn was_shut_down(instance: &Instance, seen: &InstanceStatus) -> bool {
    let told = |code| instance.wanted.template.told_from_inside(code);
    seen.exit_code.and_then(told) == Some(ToldFromInside::ShutDown)
}

/// What to do for an instance that has no place.
fn next_of_waiting(waiting: &Waiting) -> String {
    let name = &waiting.instance;
    match &waiting.cause {
        WaitingCause::Volume { .. }
        | WaitingCause::VolumeMissing { .. }
        | WaitingCause::VolumeInDoubt { .. }
        | WaitingCause::VolumesApart { .. } => {
            format!("dwell volume ls {name}")
        }
        WaitingCause::VolumeAt { node, .. } => format!("dwell node inspect {node}"),
        WaitingCause::Address(_) => format!("dwell inspect {} --manifest", name.workload()),
        WaitingCause::Turn { .. } => format!("dwell ps {}", name.workload()),
        WaitingCause::Unplaced(_)
        | WaitingCause::Pinned
        | WaitingCause::NoSecondShare(_)
        | WaitingCause::CarriesNothing
        | WaitingCause::Lacks(_)
        | WaitingCause::NoRoom => "dwell node ls".to_owned(),
    }
}

impl Alike {
    fn into_finding(self, kind: FindingKind, workload: &Workload) -> FleetFinding {
        let Self { names, count, message, next } = self;
        match (names.as_slice(), count) {
            ([one], _) => FleetFinding::new(Subject::Instance(one.clone()), kind, message, next),
            (names, count) => {
                let named = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let more = match count - names.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let subject = Subject::Workload(workload.spec.name.clone());
                let message = format!("{named}{more}: {message}");
                FleetFinding::new(subject, kind, message, next)
            }
        }
    }
}
