//! Workloads, and what changes them.

use dwell_core::change::ChangeClass;
use dwell_core::instance::RunState;
use dwell_core::job::Job;
use dwell_core::workload::{
    OnFailure, OnLost, OnMove, Placement, Portion, Template, UpdateOrder, UpdatePolicy,
    WorkloadSpec,
};

use super::{FromWireError, duration, parse, parse_optional, required, text_or_empty};
use crate::v1;

impl From<&WorkloadSpec> for v1::WorkloadSpec {
    fn from(spec: &WorkloadSpec) -> Self {
        Self {
            name: spec.name.to_string(),
            replicas: spec.replicas,
            template: Some((&spec.template).into()),
            addresses: spec.addresses.iter().map(ToString::to_string).collect(),
            pool: text_or_empty(spec.placement.pool.as_ref()),
            constraints: spec.placement.constraints.iter().map(ToString::to_string).collect(),
            one_per_node: spec.placement.one_per_node,
            update: Some((&spec.update).into()),
            labels: spec.labels.clone().into_iter().collect(),
            replace_lost_after_ms: spec.on_lost.replaced_after().map(|after| after.0),
            run: spec.run.map(|run| v1::RunState::from(run).into()),
            job: spec.job.as_ref().map(Into::into),
            new_address_on_move: spec.on_move == OnMove::NewAddress,
        }
    }
}

impl TryFrom<v1::WorkloadSpec> for WorkloadSpec {
    type Error = FromWireError;

    fn try_from(wire: v1::WorkloadSpec) -> Result<Self, FromWireError> {
        let constraints = wire.constraints.iter().map(|text| parse("constraints", text));
        let run = wire.run.map(|_| wire.run().into());
        let addresses = wire.addresses.iter().map(|text| parse("addresses", text));
        Ok(Self {
            name: parse("name", &wire.name)?,
            replicas: wire.replicas,
            template: Template::try_from(required("template", wire.template)?)?,
            addresses: addresses.collect::<Result<_, _>>()?,
            placement: Placement {
                pool: parse_optional("pool", &wire.pool)?,
                constraints: constraints.collect::<Result<_, _>>()?,
                one_per_node: wire.one_per_node,
            },
            update: wire.update.map(UpdatePolicy::try_from).transpose()?.unwrap_or_default(),
            on_lost: match wire.replace_lost_after_ms {
                None => OnLost::Keep,
                Some(ms) => OnLost::ReplaceAfter(duration("replace_lost_after_ms", ms)?),
            },
            on_move: if wire.new_address_on_move {
                OnMove::NewAddress
            } else {
                OnMove::KeepAddress
            },
            labels: wire.labels.into_iter().collect(),
            run,
            job: wire.job.map(Job::try_from).transpose()?,
        })
    }
}

/// As a number, or as a share.
fn amounts(portion: Portion) -> (u32, u32) {
    match portion {
        Portion::Count(count) => (count, 0),
        Portion::Percent(percent) => (0, percent.into()),
    }
}

fn portion(field: &'static str, count: u32, percent: u32) -> Result<Portion, FromWireError> {
    match (count, percent) {
        (count, 0) => Ok(Portion::Count(count)),
        (0, percent @ 1..=100) => u8::try_from(percent)
            .map(Portion::Percent)
            .map_err(|error| FromWireError::new(field, error.to_string())),
        _ => Err(FromWireError::new(
            field,
            format!("{percent} with a number of {count}; give one of them, a share up to 100"),
        )),
    }
}

impl From<&UpdatePolicy> for v1::UpdatePolicy {
    fn from(update: &UpdatePolicy) -> Self {
        let (parallelism, parallelism_percent) = amounts(update.parallelism);
        let (canary, canary_percent) = amounts(update.canary);
        let (max_failures, max_failures_percent) = amounts(update.max_failures);
        Self {
            parallelism,
            parallelism_percent,
            canary,
            canary_percent,
            max_failures,
            max_failures_percent,
            deadline_ms: update.deadline.0,
            monitor_ms: Some(update.monitor.0),
            on_failure: match update.on_failure {
                OnFailure::Pause => v1::OnFailure::Pause,
                OnFailure::Rollback => v1::OnFailure::Rollback,
                OnFailure::Continue => v1::OnFailure::Continue,
            }
            .into(),
            order: match update.order {
                UpdateOrder::StopFirst => v1::UpdateOrder::StopFirst,
                UpdateOrder::StartFirst => v1::UpdateOrder::StartFirst,
            }
            .into(),
        }
    }
}

impl TryFrom<v1::UpdatePolicy> for UpdatePolicy {
    type Error = FromWireError;

    fn try_from(wire: v1::UpdatePolicy) -> Result<Self, FromWireError> {
        let on_failure = match wire.on_failure() {
            v1::OnFailure::Unspecified | v1::OnFailure::Pause => OnFailure::Pause,
            v1::OnFailure::Rollback => OnFailure::Rollback,
            v1::OnFailure::Continue => OnFailure::Continue,
        };
        let order = match wire.order() {
            v1::UpdateOrder::Unspecified | v1::UpdateOrder::StopFirst => UpdateOrder::StopFirst,
            v1::UpdateOrder::StartFirst => UpdateOrder::StartFirst,
        };
        Ok(Self {
            on_failure,
            order,
            parallelism: portion(
                "update.parallelism_percent",
                wire.parallelism,
                wire.parallelism_percent,
            )?,
            canary: portion("update.canary_percent", wire.canary, wire.canary_percent)?,
            max_failures: portion(
                "update.max_failures_percent",
                wire.max_failures,
                wire.max_failures_percent,
            )?,
            deadline: duration("update.deadline_ms", wire.deadline_ms)?,
            monitor: wire
                .monitor_ms
                .map(|ms| duration("update.monitor_ms", ms))
                .transpose()?
                .unwrap_or_else(UpdatePolicy::default_monitor),
        })
    }
}

impl From<RunState> for v1::RunState {
    fn from(run: RunState) -> Self {
        match run {
            RunState::Running => Self::Running,
            RunState::Stopped => Self::Stopped,
        }
    }
}

impl From<v1::RunState> for RunState {
    fn from(wire: v1::RunState) -> Self {
        match wire {
            v1::RunState::Unspecified | v1::RunState::Running => Self::Running,
            v1::RunState::Stopped => Self::Stopped,
        }
    }
}

impl From<ChangeClass> for v1::ChangeClass {
    fn from(class: ChangeClass) -> Self {
        match class {
            ChangeClass::None => Self::None,
            ChangeClass::Live => Self::Live,
            ChangeClass::InPlace => Self::InPlace,
            ChangeClass::Move => Self::Move,
        }
    }
}

impl From<v1::ChangeClass> for ChangeClass {
    fn from(wire: v1::ChangeClass) -> Self {
        match wire {
            v1::ChangeClass::Unspecified | v1::ChangeClass::None => Self::None,
            v1::ChangeClass::Live => Self::Live,
            v1::ChangeClass::InPlace => Self::InPlace,
            v1::ChangeClass::Move => Self::Move,
        }
    }
}
