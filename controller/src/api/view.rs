//! From the model's views to messages.

use dwell_core::id::{LABEL_MAX, NodeName};
use dwell_core::instance::RunState;
use dwell_core::workload::WorkloadSpec;
use dwell_proto::{MESSAGE_MAX_BYTES, v1};

use crate::model::{
    DECLARED_MAX, Event, Instance, InstanceAction, InstancePlan, InstanceTask, InstanceView, Moved,
    NodeView, Obstacle, PastRun, PlanAction, Reboot, RebootState, RestoreView, RouteView, Severity,
    Tally, VersionState, VersionView, VolumeState, VolumeView, WorkloadPlan, WorkloadView,
};

fn text<T: ToString>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

// What a declaration touches fits into its answer, with the tag and the length of each name, and as much again.
const _: () = assert!(DECLARED_MAX as usize * (LABEL_MAX + 2) * 2 < MESSAGE_MAX_BYTES);

/// How many instances of an answer are told of one by one.
const INSTANCES_TOLD_MAX: usize = 2_000;

/// All plans of an answer.
pub(super) fn plans(plans: &[WorkloadPlan]) -> Vec<v1::WorkloadPlan> {
    let mut left = INSTANCES_TOLD_MAX;
    let told = plans.iter().map(|one| {
        let instances: Vec<v1::InstancePlan> =
            one.instances.iter().take(left).map(instance_plan).collect();
        left -= instances.len();
        v1::WorkloadPlan { instances, ..plan(one) }
    });
    told.collect()
}

fn instance_plan(plan: &InstancePlan) -> v1::InstancePlan {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    v1::InstancePlan {
        instance: plan.instance.to_string(),
        action: plan.action.to_string(),
        reason: plan.reason.clone(),
        node: text(plan.node.as_ref()),
        to: text(plan.to.as_ref()),
        waits: plan.waits.clone(),
        loses: plan.loses().to_owned(),
        downtime_ms: plan.downtime.map_or(0, |expected| expected.usual.0),
        downtime_longest_ms: plan.downtime.map_or(0, |expected| expected.longest.0),
        downtime_changes: plan.downtime.map_or(0, |expected| count(expected.changes)),
    }
}

fn plan(plan: &WorkloadPlan) -> v1::WorkloadPlan {
    let action = match plan.action {
        PlanAction::Unchanged => v1::workload_plan::Action::Unchanged,
        PlanAction::Create => v1::workload_plan::Action::Create,
        PlanAction::Update => v1::workload_plan::Action::Update,
    };
    let (mut created, mut changed, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for planned in &plan.instances {
        let list = match planned.action {
            InstanceAction::Create => &mut created,
            InstanceAction::Change(_) | InstanceAction::Run(_) => &mut changed,
            InstanceAction::Remove => &mut removed,
        };
        list.push(planned.instance.to_string());
    }
    v1::WorkloadPlan {
        workload: plan.workload.to_string(),
        action: action.into(),
        generation: plan.generation.0,
        change: v1::ChangeClass::from(plan.class()).into(),
        changed_fields: plan.changed_fields.iter().map(ToString::to_string).collect(),
        created,
        changed,
        removed,
        downtime: plan.downtime.clone(),
        losses: plan.losses.clone(),
        notes: plan.notes.clone(),
        instances: Vec::new(),
        digest: plan.digest.clone(),
    }
}

pub(super) fn moved(moved: &Moved) -> v1::InstanceMove {
    v1::InstanceMove {
        instance: moved.instance.to_string(),
        from: moved.from.to_string(),
        to: moved.to.to_string(),
    }
}

pub(super) fn workload(view: &WorkloadView) -> v1::Workload {
    let workload = &view.workload;
    let run = Some(workload.run).filter(|run| *run == RunState::Stopped);
    v1::Workload {
        spec: Some((&WorkloadSpec { run, ..workload.spec.clone() }).into()),
        generation: workload.generation.0,
        revision: workload.revision.0,
        run: v1::RunState::from(workload.run).into(),
        removing: workload.removing,
        created_at_ms: workload.created_at.0,
        ready: view.ready,
        updated: view.updated,
        message: view.message.clone(),
        version: view.newest.as_ref().map_or(0, |newest| newest.form.number.0),
        version_state: view.newest.as_ref().map_or(0, |newest| state(&newest.state).into()),
        good_version: workload.good.map_or(0, |good| good.0),
        paused: workload.paused.is_some(),
        canary: match view.canaries_hold {
            None => v1::Canary::Unspecified,
            Some(false) => v1::Canary::Trying,
            Some(true) => v1::Canary::Holds,
        }
        .into(),
        job: view.tally.map(|tally| job(view, tally)),
        failed: view.failed,
        failures: view.failures.clone(),
        rolled_back: view.rolled_back.clone(),
    }
}

fn job(view: &WorkloadView, tally: Tally) -> v1::JobState {
    let run = &view.workload.job;
    let scheduled = &run.scheduled;
    v1::JobState {
        completed: tally.completed,
        failed: tally.failed,
        at_work: tally.at_work,
        started_at_ms: run.started_at.map(|at| at.0),
        ended_at_ms: run.ended_at.map(|at| at.0),
        next_due_ms: view.next_due.map(|at| at.0),
        due_ms: scheduled.run.map(|run| run.due.0),
        begun_at_ms: scheduled.run.map(|run| run.at.0),
        waiting_due_ms: scheduled.waiting.map(|at| at.0),
        runs: scheduled.history.iter().map(past_run).collect(),
        idle: tally.idle,
    }
}

fn past_run(run: &PastRun) -> v1::PastRun {
    v1::PastRun {
        due_ms: run.due.map(|at| at.0),
        begun_at_ms: run.begun_at.map(|at| at.0),
        ended_at_ms: run.ended_at.0,
        outcome: v1::past_run::Outcome::from(run.outcome).into(),
        completed: run.completed,
        failed: run.failed,
        reason: run.reason.clone(),
    }
}

fn task(task: &InstanceTask) -> v1::TaskState {
    let end = task.end.as_ref();
    v1::TaskState {
        number: task.number.0,
        failed: task.failures(),
        end: end.map(|end| v1::TaskEnd {
            outcome: v1::task_end::Outcome::from(end.outcome).into(),
            code: end.code,
            at_ms: end.at.0,
            ran_for_ms: end.ran_for.0,
        }),
        reason: end.map(|end| end.reason.clone()).unwrap_or_default(),
        idle: task.idle,
    }
}

fn state(state: &VersionState) -> v1::VersionState {
    match state {
        VersionState::RollingOut => v1::VersionState::RollingOut,
        VersionState::Good => v1::VersionState::Good,
        VersionState::RuledOut { .. } => v1::VersionState::RuledOut,
        VersionState::Incomplete => v1::VersionState::Incomplete,
    }
}

pub(super) fn version(view: &VersionView) -> v1::Version {
    let version = &view.version;
    v1::Version {
        number: version.form.number.0,
        template: Some((&version.form.template).into()),
        at_ms: version.at.0,
        by: version.by.clone(),
        state: state(&version.state).into(),
        reason: match &version.state {
            VersionState::RuledOut { reason } => reason.clone(),
            VersionState::RollingOut | VersionState::Good | VersionState::Incomplete => {
                match version.failures {
                    0 => String::new(),
                    1 => "1 instance did not hold with it".to_owned(),
                    count => format!("{count} instances did not hold with it"),
                }
            }
        },
        changed_fields: view.changed_fields.iter().map(ToString::to_string).collect(),
        wanted: u32::try_from(view.wanted).unwrap_or(u32::MAX),
        serving: u32::try_from(view.serving).unwrap_or(u32::MAX),
        good: view.good,
        image_digest: text(version.image_digest.as_ref()),
    }
}

pub(super) fn instance(view: &InstanceView) -> v1::Instance {
    let instance = &view.instance;
    v1::Instance {
        name: instance.name.to_string(),
        workload: instance.name.workload().to_string(),
        ordinal: instance.name.ordinal(),
        node: text(instance.node.as_ref()),
        address: text(instance.identity.map(|identity| identity.address).as_ref()),
        mac: text(instance.identity.map(|identity| identity.mac).as_ref()),
        generation: instance.generation.0,
        revision: view.revision.0,
        run: v1::RunState::from(instance.run).into(),
        removing: instance.removing && !instance.is_let_go(),
        let_go: instance.is_let_go(),
        created_at_ms: instance.created_at.0,
        status: Some((&view.status).into()),
        moving_to: text(moving_to(instance)),
        volumes_moving_to: text(instance.volume_move.as_deref().map(|moving| &moving.to)),
        version: instance.wanted.number.0,
        serving_version: instance.serving.map_or(0, |number| number.0),
        failed_version: instance.failed.as_ref().map_or(0, |failed| failed.version.0),
        failed_reason: instance
            .failed
            .as_ref()
            .map(|failed| failed.reason.clone())
            .unwrap_or_default(),
        ipv6_address: text(view.ipv6.as_ref()),
        task: instance.task.as_ref().map(task),
        own_size: (!instance.own_size.is_none()).then(|| v1::OwnSize {
            cpu_millicores: instance.own_size.cpu.map(|cpu| cpu.0),
            memory_bytes: instance.own_size.memory.map(|memory| memory.0),
        }),
    }
}

pub(super) fn node(view: &NodeView) -> v1::Node {
    let node = &view.node;
    v1::Node {
        name: node.name.to_string(),
        address: node.address.to_string(),
        block: text(node.block.as_ref()),
        more_blocks: node.more_blocks.iter().map(ToString::to_string).collect(),
        retired_blocks: node.retired_blocks.iter().map(ToString::to_string).collect(),
        pool: text(node.pool.as_ref()),
        labels: node.labels.clone().into_iter().collect(),
        state: v1::NodeState::from(view.state).into(),
        cordoned: node.cordoned,
        draining: node.draining,
        drained_until_ms: node.until.map(|until| until.0),
        capacity: view.capacity.as_deref().map(Into::into),
        allocated: Some((&view.allocated).into()),
        instances: u32::try_from(view.instances).unwrap_or(u32::MAX),
        staying: u32::try_from(view.staying).unwrap_or(u32::MAX),
        own: u32::try_from(view.own).unwrap_or(u32::MAX),
        revision: view.revision.0,
        joined_at_ms: node.created_at.0,
        last_seen_ms: view.last_seen.map(|at| at.0),
        message: view.message.clone(),
        drain_deadline_ms: node.drain.as_ref().and_then(|drain| Some(drain.deadline?.0)),
        drain_given_up_ms: node.given_up().map(|given_up| given_up.at.0),
        obstacles: view.obstacles.iter().map(obstacle).collect(),
        reboot: node.reboot.as_ref().map(|reboot| self::reboot(&node.name, reboot)),
    }
}

fn reboot(node: &NodeName, reboot: &Reboot) -> v1::Reboot {
    use v1::reboot::State;
    let state = match reboot.state {
        RebootState::Waiting => State::Waiting,
        RebootState::Draining => State::Draining,
        RebootState::Rebooting { .. } => State::Rebooting,
        RebootState::Done => State::Done,
        RebootState::Failed(_) => State::Failed,
        RebootState::Cancelled(_) => State::Cancelled,
    };
    v1::Reboot {
        run: reboot.run.0,
        state: state.into(),
        since_ms: reboot.since.0,
        message: reboot.message(node),
    }
}

fn obstacle(obstacle: &Obstacle) -> v1::DrainObstacle {
    v1::DrainObstacle {
        instance: obstacle.instance.to_string(),
        reason: obstacle.reason.clone(),
        next: obstacle.next.clone(),
    }
}

pub(super) fn volume(view: &VolumeView) -> v1::Volume {
    use v1::volume::State;
    let volume = &view.volume;
    let state = match volume.state {
        VolumeState::Kept => State::Kept,
        VolumeState::Lost => State::Lost,
        VolumeState::Stale => State::Stale,
        VolumeState::Copy => State::Copy,
        VolumeState::Deleting { .. } => State::Deleting,
    };
    v1::Volume {
        instance: volume.key.instance.to_string(),
        name: volume.key.name.to_string(),
        node: volume.key.node.to_string(),
        state: state.into(),
        in_use: view.in_use,
        image_path: volume.image_path.clone().unwrap_or_default(),
        seen: volume.seen,
        created_at_ms: volume.created_at.0,
        message: view.message.clone(),
    }
}

pub(super) fn route(route: &RouteView) -> v1::Route {
    v1::Route {
        prefix: route.prefix.to_string(),
        node: route.node.to_string(),
        via: route.via.to_string(),
        instance: text(route.instance.as_ref()),
    }
}

pub(super) fn event(event: &Event) -> v1::Event {
    let severity = match event.severity {
        Severity::Info => v1::Severity::Info,
        Severity::Warning => v1::Severity::Warning,
    };
    v1::Event {
        revision: event.revision.0,
        at_ms: event.at.0,
        severity: severity.into(),
        subject: event.subject.to_string(),
        reason: event.reason.clone(),
        message: event.message.clone(),
        by: event.by.clone(),
    }
}

pub(super) fn restore(found: &RestoreView) -> v1::GetRestoreResponse {
    let names = |names: &[NodeName]| names.iter().map(ToString::to_string).collect();
    let unknown = found.unknown.iter().map(|(node, claim)| v1::UnknownInstance {
        instance: claim.instance.to_string(),
        node: node.to_string(),
        generation: claim.generation.0,
        address: claim.address.to_string(),
    });
    let superseded = found.superseded.iter().map(|host| v1::SupersededHost {
        node: host.node.to_string(),
        address: host.address.to_string(),
        instances: u32::try_from(host.instances).unwrap_or(u32::MAX),
    });
    let restored = found.restored.as_ref();
    v1::GetRestoreResponse {
        incarnation: found.incarnation.to_string(),
        term: found.term.0,
        unconfirmed: restored.is_some(),
        noticed_at_ms: restored.map_or(0, |restored| restored.at.0),
        reason: restored.map(|restored| restored.reason.clone()).unwrap_or_default(),
        heard: names(&found.heard),
        missing: names(&found.missing),
        adopted: names(&found.adopted),
        superseded: superseded.collect(),
        unknown: unknown.collect(),
    }
}

/// Where an instance is on its way to, or goes as soon as it may leave.
fn moving_to(instance: &Instance) -> Option<&NodeName> {
    let leads_to = instance.leaving.as_ref().and_then(|leaving| leaving.to.as_ref());
    leads_to.or_else(|| instance.heading.as_deref().map(|heading| &heading.to))
}
