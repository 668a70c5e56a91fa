//! Carrying out one step, and what can be said about it afterwards.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::{Clock, Timestamp};
use dwell_core::health::Health;
use dwell_core::id::InstanceName;
use dwell_core::instance::Assigned;
use dwell_core::workload::Resources;
use dwell_planner::{ContainerId, ContainerState, Failure, FailureKind, Step};
use tokio::time::timeout;

use super::journals::Journals;
use crate::engine::{Container, EngineError, SharedEngine};
use crate::isolation::Settled;
use dwell_daemon::Causes;
use dwell_network::{Network, NetworkError, Sandbox};

/// How long a step waits for isolation; usually it comes with the assignment.
const ISOLATION_LIMIT: Duration = Duration::from_secs(1);

/// What steps are carried out with.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) engine: SharedEngine,
    pub(super) network: Arc<dyn Network>,
    pub(super) settled: Option<Settled>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) journals: Journals,
}

/// What a step that was done has changed in the engine.
#[derive(Debug)]
pub(super) enum Effect {
    /// Nothing.
    Nothing,
    /// A container was made. It is as it was asked for: no need to look.
    Made(dwell_planner::Container),
    /// A container has changed; this is how it was seen after.
    Changed(Container),
    /// A container has other limits.
    Limited(ContainerId, Resources),
    /// A container is gone.
    Gone(ContainerId),
}

/// Why a step was not done, or not known to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// It could be reached by everybody.
    #[error("cannot isolate it yet; the agent's log on its node says what is in the way")]
    NotIsolated,
    #[error(
        "cannot write the journal of an instance; free some space in the agent's data directory"
    )]
    Journal(#[source] io::Error),
    /// The desired state has changed between plan and step.
    #[error("it is no longer desired")]
    Overtaken,
    /// A task has panicked.
    #[error("the step was cut short; this is a defect of dwell-agent")]
    CutShort,
}

impl StepError {
    /// What it means for trying again.
    pub(super) fn failure(&self) -> Failure {
        let kind = match self {
            Self::Engine(EngineError::ImageMissing { .. }) => FailureKind::ImageMissing,
            Self::Engine(error) if error.is_permanent() => FailureKind::Permanent,
            Self::Network(NetworkError::AddressTaken { .. }) => FailureKind::Permanent,
            Self::Network(NetworkError::SandboxLost { .. }) => FailureKind::SandboxLost,
            _ => FailureKind::Transient,
        };
        Failure { kind, message: Causes(self).to_string() }
    }
}

/// A container as it is right after it was made.
fn made(id: ContainerId, assigned: &Assigned, now: Timestamp) -> dwell_planner::Container {
    dwell_planner::Container {
        id,
        generation: assigned.generation,
        fingerprint: assigned.template.fingerprint(),
        resources: assigned.template.resources,
        restarts_asked: assigned.restarts_asked,
        stop_grace: Some(assigned.template.stop_grace),
        state: ContainerState::Created,
        since: now,
        health: Health::None,
        complaint: String::new(),
    }
}

impl Tools {
    /// Carries out a step of the instance that `assigned` describes, if it is desired.
    pub(super) async fn carry_out(
        &self,
        name: &InstanceName,
        step: &Step,
        assigned: Option<&Assigned>,
    ) -> Result<Effect, StepError> {
        let engine = &self.engine;
        let effect = match step {
            Step::Create { .. } => {
                let assigned = assigned.ok_or(StepError::Overtaken)?;
                let id = engine.create(assigned).await?;
                Effect::Made(made(id, assigned, self.clock.now()))
            }
            Step::EnsureSandbox | Step::RepairSandbox => {
                let assigned = assigned.ok_or(StepError::Overtaken)?;
                self.await_isolation(assigned.address).await?;
                let sandbox = Sandbox {
                    instance: name.clone(),
                    address: assigned.address,
                    mac: assigned.mac,
                };
                if *step == Step::RepairSandbox {
                    self.network.repair_sandbox(&sandbox).await?;
                } else {
                    self.network.ensure_sandbox(&sandbox).await?;
                }
                Effect::Nothing
            }
            Step::Start { container } => {
                engine.start(container).await?;
                Effect::Changed(engine.inspect(container).await?)
            }
            Step::Stop { container, grace } => {
                engine.stop(container, grace.as_duration()).await?;
                Effect::Changed(engine.inspect(container).await?)
            }
            Step::Remove { container } => {
                engine.remove(container).await?;
                Effect::Gone(container.clone())
            }
            Step::UpdateLimits { container, resources } => {
                engine.update_limits(container, *resources).await?;
                Effect::Limited(container.clone(), *resources)
            }
            Step::RemoveSandbox => {
                self.network.remove_sandbox(name).await?;
                Effect::Nothing
            }
            Step::Record(journal) => {
                self.journals.write(name, journal).await.map_err(StepError::Journal)?;
                Effect::Nothing
            }
            Step::Forget => {
                self.journals.remove(name).await.map_err(StepError::Journal)?;
                Effect::Nothing
            }
        };
        Ok(effect)
    }

    /// Waits until an instance can be reached by those only who may.
    async fn await_isolation(&self, address: Ipv4Addr) -> Result<(), StepError> {
        let Some(mut settled) = self.settled.clone() else { return Ok(()) };
        let settled = settled.wait_for(|settled| settled.contains(&address));
        match timeout(ISOLATION_LIMIT, settled).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(StepError::NotIsolated),
        }
    }
}
