//! Workloads, their instances, plans and events.

use dwell_core::change::ChangeClass;
use dwell_core::health::Health;
use dwell_core::id::InstanceName;
use dwell_core::instance::{Phase, RunState};
use dwell_core::job::RunOutcome;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::workload::{Template, WorkloadSpec};
use dwell_proto::v1;
use serde::Serialize;

/// `dwell ps`.
#[derive(Debug, Serialize)]
pub(crate) struct PsView {
    pub(crate) workloads: Vec<WorkloadView>,
    pub(crate) instances: Vec<InstanceView>,
}

/// `dwell inspect WORKLOAD`.
#[derive(Debug, Serialize)]
pub(crate) struct InspectView {
    pub(crate) workload: WorkloadView,
    /// As the controller has it; `null` if this command line is too old for it.
    pub(crate) spec: Option<WorkloadSpec>,
    pub(crate) instances: Vec<InstanceView>,
}

/// A workload.
#[derive(Debug, Serialize)]
pub(crate) struct WorkloadView {
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) revision: u64,
    pub(crate) replicas: u32,
    /// Instances that run and pass every check that they have.
    pub(crate) ready: u32,
    /// Instances that are what was declared last, and hold with it.
    pub(crate) updated: u32,
    /// The newest version, and what became of it.
    pub(crate) version: u64,
    pub(crate) version_state: &'static str,
    /// The version that is fallen back to; 0 if there is none.
    pub(crate) good_version: u64,
    /// Whether no further instance is given the newest version.
    pub(crate) paused: bool,
    /// Whether it is to run.
    pub(crate) run: RunState,
    pub(crate) removing: bool,
    pub(crate) image: String,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) created_at: u64,
    /// What it waits for; empty if all is as declared.
    pub(crate) message: String,
    /// How many instances failed with the newest version and went back.
    pub(crate) failed: u32,
    /// How far it is, if it is a job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<JobView>,
}

/// How far a job is.
#[derive(Debug, Serialize)]
pub(crate) struct JobView {
    /// Instances that have done their work, that have failed, and that are at work.
    pub(crate) completed: u32,
    pub(crate) failed: u32,
    pub(crate) at_work: u32,
    /// When the first instance was seen to have started.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) started_at: Option<u64>,
    /// When the last one ended, if all have.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) ended_at: Option<u64>,
    /// Instances that have nothing to do before it is due.
    pub(crate) idle: u32,
    /// When it is due next, if it has a schedule and is not stopped.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) next_due: Option<u64>,
    /// When the work was due that is under way, if its schedule began it.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) due: Option<u64>,
    /// The due time whose work begins when that has ended.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) waiting_due: Option<u64>,
    /// What became of earlier due times, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) runs: Vec<PastRunView>,
}

/// What became of a due time, or of work that somebody asked for in between.
#[derive(Debug, Serialize)]
pub(crate) struct PastRunView {
    /// When it was due; `null` if somebody asked for it.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) due: Option<u64>,
    /// When it was begun; `null` if it was not, or is not known.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) begun_at: Option<u64>,
    /// When it was over, or was decided not to be begun.
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) ended_at: u64,
    /// `completed`, `failed`, `replaced`, `skipped` or `missed`.
    pub(crate) outcome: RunOutcome,
    /// Instances that had completed, and that had failed.
    pub(crate) completed: u32,
    pub(crate) failed: u32,
    /// Why it was not begun; empty if it was.
    pub(crate) reason: String,
}

/// What an instance of a job has to complete.
#[derive(Debug, Serialize)]
pub(crate) struct TaskView {
    /// Which work: the generation at which it was given to the instance.
    pub(crate) number: u64,
    /// How often it has failed.
    pub(crate) failed: u32,
    /// `completed` or `failed`; `null` while it goes on.
    pub(crate) outcome: Option<&'static str>,
    /// With what it ended; `null` if it goes on, was stopped, or never ran.
    pub(crate) exit_code: Option<i32>,
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) ended_at: Option<u64>,
    /// How long its last run took.
    pub(crate) ran_for_ms: Option<u64>,
    /// Why it failed; empty if it has not.
    pub(crate) reason: String,
}

impl From<v1::JobState> for JobView {
    fn from(wire: v1::JobState) -> Self {
        Self {
            completed: wire.completed,
            failed: wire.failed,
            at_work: wire.at_work,
            started_at: wire.started_at_ms,
            ended_at: wire.ended_at_ms,
            idle: wire.idle,
            next_due: wire.next_due_ms,
            due: wire.due_ms,
            waiting_due: wire.waiting_due_ms,
            runs: wire.runs.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::PastRun> for PastRunView {
    fn from(wire: v1::PastRun) -> Self {
        Self {
            outcome: wire.outcome().into(),
            due: wire.due_ms,
            begun_at: wire.begun_at_ms,
            ended_at: wire.ended_at_ms,
            completed: wire.completed,
            failed: wire.failed,
            reason: wire.reason,
        }
    }
}

impl From<v1::TaskState> for TaskView {
    fn from(wire: v1::TaskState) -> Self {
        use v1::task_end::Outcome;
        let end = wire.end.as_ref();
        Self {
            number: wire.number,
            failed: wire.failed,
            outcome: end.map(|end| match end.outcome() {
                Outcome::Completed => "completed",
                Outcome::Failed | Outcome::Unspecified => "failed",
            }),
            exit_code: end.and_then(|end| end.code),
            ended_at: end.map(|end| end.at_ms),
            ran_for_ms: end.map(|end| end.ran_for_ms),
            reason: wire.reason,
        }
    }
}

/// Limits of one instance's own; what is absent is as its workload declares, 0 is no limit.
#[derive(Debug, Serialize)]
pub(crate) struct OwnSizeView {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<Millicores>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Bytes>,
}

impl std::fmt::Display for OwnSizeView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cpu = self.cpu.map(|cpu| format!("cpu {cpu}"));
        let memory = self.memory.map(|memory| format!("memory {memory}"));
        f.write_str(&cpu.into_iter().chain(memory).collect::<Vec<_>>().join(", "))
    }
}

/// An instance and what its node saw of it last.
#[derive(Debug, Serialize)]
pub(crate) struct InstanceView {
    pub(crate) name: String,
    pub(crate) workload: String,
    pub(crate) ordinal: u32,
    /// Empty while it is not placed.
    pub(crate) node: String,
    pub(crate) moving_to: String,
    pub(crate) address: String,
    /// Which follows from `address`; absent where the cluster has no IPv6 prefix.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) ipv6_address: String,
    pub(crate) mac: String,
    /// Whether it is to run.
    pub(crate) run: RunState,
    pub(crate) removing: bool,
    /// Whether dwell has let go of its container, or is about to; absent if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) let_go: bool,
    /// The generation it is to be of.
    pub(crate) generation: u64,
    /// The generation of its container.
    pub(crate) observed_generation: u64,
    /// The version that it is to be.
    pub(crate) version: u64,
    /// The version that it last held with; 0 if it never has.
    pub(crate) serving_version: u64,
    pub(crate) phase: Phase,
    pub(crate) health: Health,
    /// What its readiness check says; `none` without one.
    pub(crate) readiness: Health,
    pub(crate) container_id: String,
    /// What its container was made from: the digest by which its registry knows the image, empty if it is not known to be
    /// of one, and the engine's own id of the image.
    pub(crate) image_digest: String,
    pub(crate) image_id: String,
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) started_at: Option<u64>,
    pub(crate) restarts: u64,
    pub(crate) exit_code: Option<i32>,
    /// The generation whose update failed and was rolled back, if the last one did.
    pub(crate) failed_generation: Option<u64>,
    pub(crate) message: String,
    /// What it has to complete, if it is of a job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<TaskView>,
    /// Limits that somebody has set for it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) own_size: Option<OwnSizeView>,
    /// When its node saw all this, by the node's clock.
    #[serde(serialize_with = "crate::output::time::serialize_known")]
    pub(crate) observed_at: Option<u64>,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) created_at: u64,
}

/// `dwell history`.
#[derive(Debug, Serialize)]
pub(crate) struct HistoryView {
    pub(crate) workload: String,
    /// The newest first.
    pub(crate) versions: Vec<VersionView>,
}

/// One numbered form of a workload's declaration.
#[derive(Debug, Serialize)]
pub(crate) struct VersionView {
    pub(crate) number: u64,
    /// `rolling-out`, `good` or `ruled-out`.
    pub(crate) state: &'static str,
    /// Whether instances are brought to it.
    pub(crate) is_newest: bool,
    /// Whether it is what is fallen back to.
    pub(crate) is_fallback: bool,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) at: u64,
    /// Who declared it; empty if that is not known.
    pub(crate) by: String,
    /// Why it was ruled out.
    pub(crate) reason: String,
    pub(crate) image: String,
    /// The digest of the image that this means; empty while nobody knows.
    pub(crate) image_digest: String,
    /// The fields in which it differs from the version before it, if that is remembered.
    pub(crate) changed_fields: Vec<String>,
    /// Instances that are to be it.
    pub(crate) wanted: u32,
    /// Instances that held with it last.
    pub(crate) serving: u32,
    /// All that it says; `null` if this command line is too old for it.
    pub(crate) template: Option<Template>,
}

impl HistoryView {
    pub(crate) fn new(workload: String, versions: Vec<v1::Version>) -> Self {
        let versions = versions.into_iter().enumerate();
        let versions = versions.map(|(place, wire)| VersionView {
            number: wire.number,
            state: version_state(wire.state()),
            is_newest: place == 0,
            is_fallback: wire.good,
            at: wire.at_ms,
            by: wire.by,
            reason: wire.reason,
            image: wire
                .template
                .as_ref()
                .map(|template| template.image.clone())
                .unwrap_or_default(),
            image_digest: wire.image_digest,
            changed_fields: wire.changed_fields,
            wanted: wire.wanted,
            serving: wire.serving,
            template: wire.template.and_then(|template| template.try_into().ok()),
        });
        Self { workload, versions: versions.collect() }
    }
}

fn version_state(state: v1::VersionState) -> &'static str {
    match state {
        v1::VersionState::RollingOut => "rolling-out",
        v1::VersionState::Good => "good",
        v1::VersionState::RuledOut => "ruled-out",
        v1::VersionState::Incomplete => "incomplete",
        v1::VersionState::Unspecified => "unknown",
    }
}

impl PsView {
    /// Everything in the order of names.
    pub(crate) fn new(workloads: Vec<v1::Workload>, instances: Vec<v1::Instance>) -> Self {
        let mut workloads: Vec<WorkloadView> = workloads.into_iter().map(Into::into).collect();
        workloads.sort_by(|a, b| a.name.cmp(&b.name));
        let mut instances: Vec<InstanceView> = instances.into_iter().map(Into::into).collect();
        instances.sort_by(|a, b| (&a.workload, a.ordinal).cmp(&(&b.workload, b.ordinal)));
        Self { workloads, instances }
    }
}

impl From<v1::Workload> for WorkloadView {
    fn from(wire: v1::Workload) -> Self {
        let run = wire.run().into();
        let version_state = version_state(wire.version_state());
        let spec = wire.spec.unwrap_or_default();
        Self {
            name: spec.name,
            generation: wire.generation,
            revision: wire.revision,
            replicas: spec.replicas,
            ready: wire.ready,
            updated: wire.updated,
            version: wire.version,
            version_state,
            good_version: wire.good_version,
            paused: wire.paused,
            run,
            removing: wire.removing,
            image: spec.template.unwrap_or_default().image,
            created_at: wire.created_at_ms,
            message: wire.message,
            failed: wire.failed,
            job: wire.job.map(Into::into),
        }
    }
}

impl From<v1::Instance> for InstanceView {
    fn from(wire: v1::Instance) -> Self {
        let run = wire.run().into();
        // Nothing heard is not the same as "unknown" for one that no node has yet.
        let status = wire.status.unwrap_or_else(|| v1::InstanceStatus {
            phase: v1::Phase::Pending.into(),
            ..Default::default()
        });
        let name: Option<InstanceName> = wire.name.parse().ok();
        Self {
            ordinal: name.map_or(wire.ordinal, |name| name.ordinal()),
            name: wire.name,
            workload: wire.workload,
            node: wire.node,
            moving_to: wire.moving_to,
            address: wire.address,
            ipv6_address: wire.ipv6_address,
            mac: wire.mac,
            run,
            removing: wire.removing,
            let_go: wire.let_go,
            generation: wire.generation,
            observed_generation: status.generation,
            version: wire.version,
            serving_version: wire.serving_version,
            phase: status.phase().into(),
            health: status.health().into(),
            readiness: status.readiness().into(),
            container_id: status.container_id,
            image_digest: status.image_digest,
            image_id: status.image_id,
            started_at: status.started_at_ms,
            restarts: status.restarts,
            exit_code: status.exit_code,
            failed_generation: status.failed_generation,
            message: status.message,
            task: wire.task.map(Into::into),
            own_size: wire.own_size.map(|own| OwnSizeView {
                cpu: own.cpu_millicores.map(Millicores),
                memory: own.memory_bytes.map(Bytes),
            }),
            observed_at: Some(status.observed_at_ms).filter(|&at| at > 0),
            created_at: wire.created_at_ms,
        }
    }
}

/// `dwell plan` and `dwell apply`.
#[derive(Debug, Serialize)]
pub(crate) struct PlansView {
    pub(crate) workloads: Vec<PlanView>,
    /// The model's revision after the change.
    pub(crate) revision: u64,
}

/// What a declaration changes of one workload.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PlanView {
    pub(crate) name: String,
    /// `create`, `update` or `unchanged`.
    pub(crate) action: &'static str,
    pub(crate) generation: u64,
    /// The hardest class of change among its instances.
    pub(crate) change: ChangeClass,
    pub(crate) changed_fields: Vec<String>,
    /// Names of instances that are made, changed and removed.
    pub(crate) created: Vec<String>,
    pub(crate) changed: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) downtime: String,
    /// What is lost by it, one sentence each.
    pub(crate) losses: Vec<String>,
    /// What else is worth knowing before it is done.
    pub(crate) notes: Vec<String>,
    /// What happens to each instance; of very many, to the first.
    pub(crate) instances: Vec<InstancePlanView>,
    /// Tells this plan from others.
    pub(crate) digest: String,
}

/// What a declaration does to an instance.
#[derive(Debug, Default, Serialize)]
pub(crate) struct InstancePlanView {
    pub(crate) name: String,
    /// `create`, `live`, `in-place`, `move` or `remove`.
    pub(crate) change: String,
    /// Why.
    pub(crate) reason: String,
    /// Where it is; empty if nowhere.
    pub(crate) node: String,
    /// Where it will be; empty if it goes, or has no place.
    pub(crate) to: String,
    /// Why it does not come about now; empty if it does.
    pub(crate) waits: String,
    /// What is lost with it; empty if nothing is.
    pub(crate) loses: String,
    /// How long it will be down: the median of the last changes like it, the longest, and how many there were.
    pub(crate) downtime_ms: Option<u64>,
    pub(crate) downtime_longest_ms: Option<u64>,
    pub(crate) downtime_changes: u32,
}

impl From<v1::InstancePlan> for InstancePlanView {
    fn from(wire: v1::InstancePlan) -> Self {
        let known = |value: u64| Some(value).filter(|_| wire.downtime_changes > 0);
        Self {
            downtime_ms: known(wire.downtime_ms),
            downtime_longest_ms: known(wire.downtime_longest_ms),
            downtime_changes: wire.downtime_changes,
            name: wire.instance,
            change: wire.action,
            reason: wire.reason,
            node: wire.node,
            to: wire.to,
            waits: wire.waits,
            loses: wire.loses,
        }
    }
}

impl From<v1::ApplyResponse> for PlansView {
    fn from(wire: v1::ApplyResponse) -> Self {
        Self {
            workloads: wire.plans.into_iter().map(Into::into).collect(),
            revision: wire.revision,
        }
    }
}

impl From<v1::WorkloadPlan> for PlanView {
    fn from(wire: v1::WorkloadPlan) -> Self {
        use v1::workload_plan::Action;
        Self {
            action: match wire.action() {
                Action::Unspecified | Action::Unchanged => "unchanged",
                Action::Create => "create",
                Action::Update => "update",
            },
            change: wire.change().into(),
            name: wire.workload,
            generation: wire.generation,
            changed_fields: wire.changed_fields,
            created: wire.created,
            changed: wire.changed,
            removed: wire.removed,
            downtime: wire.downtime,
            losses: wire.losses,
            notes: wire.notes,
            instances: wire.instances.into_iter().map(Into::into).collect(),
            digest: wire.digest,
        }
    }
}

/// `dwell events`.
#[derive(Debug, Serialize)]
pub(crate) struct EventsView {
    pub(crate) events: Vec<EventView>,
}

/// Something that happened.
#[derive(Debug, Serialize)]
pub(crate) struct EventView {
    pub(crate) revision: u64,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) at: u64,
    /// `info` or `warning`.
    pub(crate) severity: &'static str,
    /// `workload/NAME`, `instance/NAME`, `node/NAME` or `cluster`.
    pub(crate) subject: String,
    /// A stable word.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// On whose request; empty if on nobody's.
    pub(crate) by: String,
}

impl From<v1::Event> for EventView {
    fn from(wire: v1::Event) -> Self {
        Self {
            severity: match wire.severity() {
                v1::Severity::Warning => "warning",
                v1::Severity::Info | v1::Severity::Unspecified => "info",
            },
            revision: wire.revision,
            at: wire.at_ms,
            subject: wire.subject,
            reason: wire.reason,
            message: wire.message,
            by: wire.by,
        }
    }
}
