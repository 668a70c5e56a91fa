//! Instances: what a node is to run, and what it saw.

use std::net::Ipv4Addr;

use dwell_core::clock::Timestamp;
use dwell_core::foreign::Adoption;
use dwell_core::health::Health;
use dwell_core::id::{Generation, Revision};
use dwell_core::image::{ContainerImage, ImageDigest};
use dwell_core::instance::{
    AheadState, Assigned, Custody, ENDS_MAX, HookFailed, IMAGE_MAX, ImageAhead, InstanceStatus,
    MESSAGE_MAX, Outcome, Phase, ProcessEnd, REASON_MAX, Verdict, sanitize,
};
use dwell_core::quantity::Millis;
use dwell_core::workload::{Lease, Template, UpdatePolicy};

use super::{FromWireError, duration, parse, required};
use crate::v1;

/// The longest container id an engine may have, in bytes.
const CONTAINER_ID_MAX: usize = 256;

impl From<&Assigned> for v1::AssignedInstance {
    fn from(assigned: &Assigned) -> Self {
        Self {
            template: Some((&assigned.template).into()),
            fallback: assigned.fallback.as_ref().map(Into::into),
            ..Self::without_templates(assigned)
        }
    }
}

impl v1::AssignedInstance {
    /// All but the templates, which are sent otherwise.
    pub(super) fn without_templates(assigned: &Assigned) -> Self {
        Self {
            instance: assigned.instance.to_string(),
            address: assigned.address.to_string(),
            mac: assigned.mac.to_string(),
            generation: assigned.generation.0,
            run: v1::RunState::from(assigned.run).into(),
            restarts_asked: assigned.restarts_asked,
            beside: assigned.beside,
            update_deadline_ms: assigned.update_deadline.0,
            template: None,
            host_key: assigned.host_key.as_ref().map(Into::into),
            template_digest: prost::bytes::Bytes::new(),
            monitor_ms: Some(assigned.monitor.0),
            life: assigned.life.0,
            edition: assigned.edition.0,
            rebuilt_at_ms: assigned.rebuilt.0,
            fallback: None,
            fallback_digest: prost::bytes::Bytes::new(),
            image_digest: text(assigned.image_digest),
            fallback_image_digest: text(assigned.fallback_image_digest),
            image_ahead: assigned.image_ahead.clone().unwrap_or_default(),
            force_limits: assigned.force_limits,
            lease_ms: assigned.lease.map(|lease| lease.0.0),
            task: assigned.task.map(Into::into),
            let_go: match assigned.custody {
                Custody::LetGo(at) => at.0,
                Custody::Usual | Custody::Adopted(_) => 0,
            },
            adopted: match assigned.custody {
                Custody::Adopted(at) => at.0,
                Custody::Usual | Custody::LetGo(_) => 0,
            },
            kept_volumes: assigned.kept_volumes.iter().map(ToString::to_string).collect(),
            adopts: assigned.adopts.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::AssignedInstance> for Assigned {
    type Error = FromWireError;

    fn try_from(wire: v1::AssignedInstance) -> Result<Self, FromWireError> {
        Ok(Self {
            instance: parse("instance", &wire.instance)?,
            address: parse("address", &wire.address)?,
            mac: parse("mac", &wire.mac)?,
            generation: Generation(wire.generation),
            run: wire.run().into(),
            restarts_asked: wire.restarts_asked,
            beside: wire.beside,
            update_deadline: duration("update_deadline_ms", wire.update_deadline_ms)?,
            template: Template::try_from(required("template", wire.template)?)?,
            image_digest: digest("image_digest", &wire.image_digest)?,
            fallback: wire.fallback.map(Template::try_from).transpose()?,
            fallback_image_digest: digest("fallback_image_digest", &wire.fallback_image_digest)?,
            host_key: wire.host_key.map(Into::into),
            monitor: wire
                .monitor_ms
                .map(|ms| duration("monitor_ms", ms))
                .transpose()?
                .unwrap_or_else(UpdatePolicy::default_monitor),
            life: Revision(wire.life),
            image_ahead: Some(wire.image_ahead).filter(|image| !image.is_empty()),
            force_limits: wire.force_limits,
            lease: wire.lease_ms.map(|ms| duration("lease_ms", ms).map(Lease)).transpose()?,
            edition: Generation(wire.edition),
            rebuilt: Timestamp(wire.rebuilt_at_ms),
            custody: match (wire.let_go, wire.adopted) {
                (0, 0) => Custody::Usual,
                (0, adopted) => Custody::Adopted(Generation(adopted)),
                (let_go, _) => Custody::LetGo(Generation(let_go)),
            },
            task: wire.task.map(Into::into),
            kept_volumes: wire
                .kept_volumes
                .iter()
                .map(|name| parse("kept_volumes", name))
                .collect::<Result<_, _>>()?,
            adopts: wire.adopts.map(Adoption::try_from).transpose()?,
        })
    }
}

fn text(digest: Option<ImageDigest>) -> String {
    digest.map(|digest| digest.to_string()).unwrap_or_default()
}

/// Without what it is pinned to an instance would be what nobody decided, so one that makes no sense is refused.
fn digest(field: &'static str, text: &str) -> Result<Option<ImageDigest>, FromWireError> {
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

impl From<&InstanceStatus> for v1::InstanceStatus {
    fn from(status: &InstanceStatus) -> Self {
        Self {
            instance: status.instance.to_string(),
            generation: status.generation.0,
            phase: v1::Phase::from(status.phase).into(),
            health: v1::Health::from(status.health).into(),
            readiness: v1::Health::from(status.readiness).into(),
            container_id: status.container_id.clone(),
            image_digest: text(status.image.digest),
            image_id: text(status.image.id),
            started_at_ms: status.started_at.map(|at| at.0),
            restarts: status.restarts,
            exit_code: status.exit_code,
            ends: status.ends.iter().map(Into::into).collect(),
            given_up: status.ends.iter().filter_map(given_up).collect(),
            hook_failed: status.hook_failed.as_ref().map(|failed| {
                Box::new(v1::HookFailed { at_ms: failed.at.0, reason: failed.reason.clone() })
            }),
            restarts_done: status.restarts_done,
            message: status.message.clone(),
            observed_at_ms: status.observed_at.0,
            failed_generation: status.verdict.as_ref().and_then(|verdict| {
                matches!(verdict.outcome, Outcome::RolledBack { .. })
                    .then_some(verdict.generation.0)
            }),
            verdict: status.verdict.as_ref().map(Into::into),
            task: status.task.map(|task| Box::new(task.into())),
            image_ahead: status.image_ahead.as_ref().map(|ahead| Box::new(ahead.into())),
            address: status.address.map_or(0, Ipv4Addr::to_bits),
            let_go: status.let_go.map_or(0, |at| at.0),
        }
    }
}

impl TryFrom<v1::InstanceStatus> for InstanceStatus {
    type Error = FromWireError;

    /// Messages are cut and cleaned, since they end up on terminals and in logs.
    fn try_from(wire: v1::InstanceStatus) -> Result<Self, FromWireError> {
        let message = sanitize(&wire.message, MESSAGE_MAX);
        // A node of an older version tells of a roll-back only, with the reason in its message.
        let rolled_back = |generation| Verdict {
            generation: Generation(generation),
            outcome: Outcome::RolledBack { reason: message.clone() },
        };
        let verdict = wire.verdict.clone().map(Verdict::from);
        Ok(Self {
            instance: parse("status.instance", &wire.instance)?,
            generation: Generation(wire.generation),
            phase: wire.phase().into(),
            health: wire.health().into(),
            readiness: wire.readiness().into(),
            container_id: sanitize(&wire.container_id, CONTAINER_ID_MAX),
            // What is of another kind is as good as unknown.
            image: ContainerImage {
                digest: wire.image_digest.parse().ok(),
                id: wire.image_id.parse().ok(),
            },
            started_at: wire.started_at_ms.map(Timestamp),
            restarts: wire.restarts,
            exit_code: wire.exit_code,
            ends: ends(&wire),
            hook_failed: wire.hook_failed.as_ref().map(|failed| HookFailed {
                at: Timestamp(failed.at_ms),
                reason: sanitize(&failed.reason, REASON_MAX),
            }),
            restarts_done: wire.restarts_done,
            verdict: verdict.or_else(|| wire.failed_generation.map(rolled_back)),
            message,
            observed_at: Timestamp(wire.observed_at_ms),
            task: wire.task.map(|task| (*task).into()),
            image_ahead: wire.image_ahead.map(|ahead| (*ahead).into()),
            address: Some(Ipv4Addr::from_bits(wire.address)).filter(|it| !it.is_unspecified()),
            let_go: Some(Generation(wire.let_go)).filter(|at| !at.is_zero()),
        })
    }
}

impl From<&ImageAhead> for v1::ImageAhead {
    fn from(ahead: &ImageAhead) -> Self {
        use v1::image_ahead::State;
        let (state, text) = match &ahead.state {
            AheadState::Fetching(progress) => (State::Fetching, progress.as_str()),
            AheadState::Here => (State::Here, ""),
            AheadState::Failed(reason) => (State::Failed, reason.as_str()),
        };
        Self { image: ahead.image.clone(), state: state.into(), text: text.to_owned() }
    }
}

impl From<v1::ImageAhead> for ImageAhead {
    /// Texts are cut and cleaned like messages.
    fn from(wire: v1::ImageAhead) -> Self {
        use v1::image_ahead::State;
        let text = sanitize(&wire.text, REASON_MAX);
        let state = match wire.state() {
            State::Unspecified | State::Fetching => AheadState::Fetching(text),
            State::Here => AheadState::Here,
            State::Failed => AheadState::Failed(text),
        };
        Self { image: sanitize(&wire.image, IMAGE_MAX), state }
    }
}

fn given_up(end: &ProcessEnd) -> Option<v1::GivenUp> {
    let reason = end.given_up.clone()?;
    Some(v1::GivenUp { number: end.number, reason })
}

/// The newest ends, each with the reason if its node brought it about.
fn ends(wire: &v1::InstanceStatus) -> Vec<ProcessEnd> {
    let newest = wire.ends.iter().rev().take(ENDS_MAX).rev();
    let reason = |end: &v1::ProcessEnd| {
        let given_up = wire.given_up.iter().take(ENDS_MAX).find(|one| one.number == end.number)?;
        Some(sanitize(&given_up.reason, REASON_MAX))
    };
    newest.map(|end| ProcessEnd { given_up: reason(end), ..end.into() }).collect()
}

impl From<&Verdict> for v1::Verdict {
    fn from(verdict: &Verdict) -> Self {
        use v1::verdict::Outcome as Wire;
        let (outcome, reason) = match &verdict.outcome {
            Outcome::Open => (Wire::Open, ""),
            Outcome::Held => (Wire::Held, ""),
            Outcome::RolledBack { reason } => (Wire::RolledBack, reason.as_str()),
            Outcome::Failing { reason } => (Wire::Failing, reason.as_str()),
        };
        Self {
            generation: verdict.generation.0,
            outcome: outcome.into(),
            reason: reason.to_owned(),
        }
    }
}

impl From<&ProcessEnd> for v1::ProcessEnd {
    fn from(end: &ProcessEnd) -> Self {
        Self {
            number: end.number,
            at_ms: end.at.0,
            ran_for_ms: end.ran_for.0,
            code: end.code,
            out_of_memory: end.out_of_memory,
        }
    }
}

impl From<v1::Verdict> for Verdict {
    /// Reasons are cut and cleaned like messages.
    fn from(wire: v1::Verdict) -> Self {
        use v1::verdict::Outcome as Wire;
        let reason = sanitize(&wire.reason, MESSAGE_MAX);
        let outcome = match wire.outcome() {
            Wire::Unspecified | Wire::Open => Outcome::Open,
            Wire::Held => Outcome::Held,
            Wire::RolledBack => Outcome::RolledBack { reason },
            Wire::Failing => Outcome::Failing { reason },
        };
        Self { generation: Generation(wire.generation), outcome }
    }
}

impl From<&v1::ProcessEnd> for ProcessEnd {
    fn from(wire: &v1::ProcessEnd) -> Self {
        Self {
            number: wire.number,
            at: Timestamp(wire.at_ms),
            ran_for: Millis(wire.ran_for_ms),
            code: wire.code,
            out_of_memory: wire.out_of_memory,
            given_up: None,
        }
    }
}

impl From<Phase> for v1::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Pending => Self::Pending,
            Phase::Preparing => Self::Preparing,
            Phase::Running => Self::Running,
            Phase::Stopping => Self::Stopping,
            Phase::Stopped => Self::Stopped,
            Phase::Backoff => Self::Backoff,
            Phase::Failed => Self::Failed,
            Phase::Completed => Self::Completed,
            Phase::Unknown => Self::Unknown,
        }
    }
}

impl From<v1::Phase> for Phase {
    fn from(wire: v1::Phase) -> Self {
        match wire {
            v1::Phase::Pending => Self::Pending,
            v1::Phase::Preparing => Self::Preparing,
            v1::Phase::Running => Self::Running,
            v1::Phase::Stopping => Self::Stopping,
            v1::Phase::Stopped => Self::Stopped,
            v1::Phase::Backoff => Self::Backoff,
            v1::Phase::Failed => Self::Failed,
            v1::Phase::Completed => Self::Completed,
            v1::Phase::Unspecified | v1::Phase::Unknown => Self::Unknown,
        }
    }
}

impl From<Health> for v1::Health {
    fn from(health: Health) -> Self {
        match health {
            Health::None => Self::Unspecified,
            Health::Starting => Self::Starting,
            Health::Healthy => Self::Healthy,
            Health::Unhealthy => Self::Unhealthy,
        }
    }
}

impl From<v1::Health> for Health {
    fn from(wire: v1::Health) -> Self {
        match wire {
            v1::Health::Unspecified => Self::None,
            v1::Health::Starting => Self::Starting,
            v1::Health::Healthy => Self::Healthy,
            v1::Health::Unhealthy => Self::Unhealthy,
        }
    }
}
