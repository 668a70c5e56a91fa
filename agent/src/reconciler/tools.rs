//! Making the calls that the core asks for: to the engine, the network and the disk.

use dwell_core::container::ContainerId;
use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dwell_agent_core::{Call, CallFailure, Cause, Input, Listed, Outcome};
use dwell_core::clock::Clock;
use dwell_core::foreign::Adoption;
use dwell_core::id::InstanceName;
use dwell_core::instance::Assigned;
use dwell_core::registry::RegistryLogins;
use dwell_core::sandbox::SandboxId;
use dwell_core::workload::Limits;
use dwell_planner::{Failure, FailureKind, Journal, Step};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::journals::Journals;
use super::last_words;
use crate::hooks::{self, Called};
use crate::host_network::Prepared;
use crate::images::Ledger;
use crate::isolation::Settled;
use crate::tunnel::volumes::{Copies, CopyError};
use dwell_daemon::Causes;
use dwell_engine::death::Processes;
use dwell_engine::{EngineError, PullProgress, SharedEngine, Usage, VolumeCopy};
use dwell_network::{Network, NetworkError, Sandbox};

/// How often the progress of a pull is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How long a step waits for isolation; usually it comes with the assignment.
const ISOLATION_LIMIT: Duration = Duration::from_secs(1);

/// How long a step waits for the host's part of the network: longer than for the lock of iptables.
const HOST_LIMIT: Duration = Duration::from_secs(15);

/// What steps are carried out with.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) engine: SharedEngine,
    pub(super) network: Arc<dyn Network>,
    pub(super) processes: Arc<dyn Processes>,
    pub(super) settled: Vec<Settled>,
    pub(super) prepared: Option<watch::Receiver<Prepared>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) journals: Journals,
    pub(super) ledger: Option<Ledger>,
    pub(super) copies: Copies,
}

/// Why a step was not done, or not known to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Less memory would kill it, and fewer processes make it fail.
    #[error(
        "it uses {uses}, more than the new limit of {limit}; have it use less, choose a higher limit, or set this one all \
         the same with --force"
    )]
    InUse { uses: String, limit: String },
    /// It could be reached by everybody.
    #[error("cannot isolate it yet; the agent's log on its node says what is in the way")]
    NotIsolated,
    #[error(
        "cannot write the journal of an instance; free some space in the agent's data directory"
    )]
    Journal(#[source] io::Error),
    #[error("cannot read the journals of the instances")]
    JournalsUnread(#[source] io::Error),
    #[error("the volume {volume} of container {name} could not be copied")]
    Copy {
        volume: String,
        name: String,
        #[source]
        error: CopyError,
    },
    /// Both would write to what each takes for its own.
    #[error("container {name}, in whose place it is put, runs again; stop it with `docker stop`")]
    ForeignRuns { name: String },
    /// Its container does not run, or the engine does not answer.
    #[error("cannot call its hook after_start: its container cannot be asked")]
    NotCalled,
    /// The desired state has changed between plan and step.
    #[error("it is no longer desired")]
    Overtaken,
}

/// Whether a container that uses this can live within limits; 0 is no limit.
fn within(usage: Usage, limits: Limits) -> Result<(), StepError> {
    let memory = Some(limits.share.memory).filter(|memory| memory.0 != 0);
    if let (Some(used), Some(limit)) = (usage.memory, memory)
        && used > limit
    {
        let uses = format!("{} MiB of memory", used.0.div_ceil(1 << 20));
        return Err(StepError::InUse { uses, limit: limit.to_string() });
    }
    let pids = Some(limits.pids).filter(|pids| *pids != 0);
    if let (Some(used), Some(limit)) = (usage.pids, pids)
        && used > limit
    {
        let uses = format!("{used} processes and threads");
        return Err(StepError::InUse { uses, limit: limit.to_string() });
    }
    Ok(())
}

impl StepError {
    /// What it means for trying again, and who failed.
    fn failure(&self) -> CallFailure {
        let kind = match self {
            Self::Engine(EngineError::ImageMissing { .. }) => FailureKind::ImageMissing,
            Self::Engine(error) if error.is_permanent() => FailureKind::Permanent,
            Self::InUse { .. } | Self::ForeignRuns { .. } => FailureKind::Permanent,
            Self::Copy { error, .. } if error.is_permanent() => FailureKind::Permanent,
            Self::Network(NetworkError::AddressTaken { .. }) => FailureKind::Permanent,
            Self::Network(NetworkError::SandboxLost { .. }) => FailureKind::SandboxLost,
            _ => FailureKind::Transient,
        };
        let cause = match self {
            Self::Engine(EngineError::Unavailable { .. }) => Cause::NoAnswer,
            Self::Engine(_) | Self::NotCalled => Cause::Engine,
            _ => Cause::Other,
        };
        CallFailure { failure: Failure { kind, message: Causes(self).to_string() }, cause }
    }
}

impl Tools {
    /// Makes a call. What a pull tells meanwhile goes to `news`.
    pub(super) async fn make(&self, call: Call, news: mpsc::Sender<Input>) -> Outcome {
        let done = match call {
            Call::Ping => self.engine.ping().await.map(|()| Outcome::Done).map_err(Into::into),
            Call::List => self.list().await.map_err(Into::into),
            Call::Sandboxes => self
                .network
                .sandboxes()
                .await
                .map_err(Into::into)
                .map(|all| Outcome::Sandboxes(all.into_iter().collect())),
            Call::Sweep => self.sweep().await,
            Call::Inspect { container, .. } => match self.engine.inspect(&container).await {
                Ok(found) => Ok(Outcome::Found(Box::new(found))),
                Err(EngineError::NotFound { .. }) => Ok(Outcome::Gone),
                Err(error) => Err(error.into()),
            },
            Call::EndUnlisted { instance } => self
                .engine
                .end_unlisted(&instance)
                .await
                .map(|()| Outcome::Done)
                .map_err(Into::into),
            Call::Pull { image, unless_here } => self
                .pull(&image, unless_here, news)
                .await
                .map(|()| Outcome::Done)
                .map_err(Into::into),
            Call::Step { instance, step: Step::Record(journal), failed: Some(failed), .. } => {
                self.record_failure(&instance, &journal, &failed).await
            }
            Call::Step { instance, step, assigned, remains, failed: _ } => {
                self.carry_out(&instance, &step, assigned.as_deref(), &remains).await
            }
        };
        done.unwrap_or_else(|error: StepError| Outcome::Failed(error.failure()))
    }

    async fn list(&self) -> Result<Outcome, EngineError> {
        let listed = self.engine.list().await?.into_iter();
        let listed = listed.map(|one| Listed { id: one.id, instance: one.instance });
        Ok(Outcome::Listed(listed.collect()))
    }

    async fn sweep(&self) -> Result<Outcome, StepError> {
        self.engine.sweep().await?;
        let read = self.journals.read_anew().await;
        read.map(Outcome::Journals).map_err(StepError::JournalsUnread)
    }

    /// Fetches an image and tells how far that has come.
    async fn pull(
        &self,
        image: &str,
        unless_here: bool,
        news: mpsc::Sender<Input>,
    ) -> Result<(), EngineError> {
        if unless_here && self.engine.find_image(image).await?.is_some() {
            return Ok(());
        }
        let (progress, mut seen) = watch::channel(PullProgress::default());
        let telling = async {
            while seen.changed().await.is_ok() {
                let text = describe(*seen.borrow_and_update());
                let told = Input::Progress { image: image.to_owned(), text };
                if news.send(told).await.is_err() {
                    break;
                }
                tokio::time::sleep(PROGRESS_EVERY).await;
            }
            std::future::pending::<()>().await;
        };
        let pulling = async {
            // The node was told what its instances need.
            let logins = RegistryLogins::new();
            match &self.ledger {
                Some(ledger) => ledger.pull(image, &logins, &progress).await,
                None => self.engine.pull(image, &logins, &progress).await,
            }
        };
        // Cancel-safe: telling has nothing to lose.
        tokio::select! {
            outcome = pulling => outcome,
            () = telling => Ok(()),
        }
    }

    /// Carries out a step of the instance that `assigned` describes, if it is desired.
    async fn carry_out(
        &self,
        name: &InstanceName,
        step: &Step,
        assigned: Option<&Assigned>,
        remains: &BTreeSet<ContainerId>,
    ) -> Result<Outcome, StepError> {
        let engine = &self.engine;
        match step {
            Step::Create { generation, slot } => {
                let assigned = assigned.and_then(|assigned| assigned.of_generation(*generation));
                let assigned = assigned.ok_or(StepError::Overtaken)?;
                return Ok(Outcome::Created(engine.create_in(*slot, &assigned).await?));
            }
            Step::EnsureSandbox { slot, reached } | Step::RepairSandbox { slot, reached } => {
                let assigned = assigned.ok_or(StepError::Overtaken)?;
                self.await_isolation(assigned.address).await?;
                self.await_host().await;
                let sandbox = Sandbox {
                    instance: name.clone(),
                    slot: *slot,
                    reached: *reached,
                    address: assigned.address,
                    mac: assigned.mac,
                };
                if matches!(step, Step::RepairSandbox { .. }) {
                    self.network.repair_sandbox(&sandbox).await?;
                } else {
                    self.network.ensure_sandbox(&sandbox).await?;
                }
            }
            Step::Carry { from, into, paths } => {
                let assigned = assigned.ok_or(StepError::Overtaken)?;
                // What is left of the old one may still write.
                engine.make_ready(into, assigned, remains).await?;
                let carried = engine.carry(from, into, paths).await?;
                tracing::info!(instance = %name, %from, %into, size = %carried.size, missing = ?carried.missing, "files carried over");
            }
            Step::Start { container } => {
                let assigned = assigned.ok_or(StepError::Overtaken)?;
                if let Some(adoption) = &assigned.adopts {
                    self.check_rests(adoption).await?;
                }
                engine.make_ready(container, assigned, remains).await?;
                engine.start(container).await?;
            }
            Step::StopForeign(adoption) => {
                engine.stop_foreign(&adoption.container, adoption.grace.as_duration()).await?;
            }
            Step::KeepForeign(adoption) => {
                let assigned = assigned.ok_or(StepError::Overtaken)?;
                self.keep(assigned, adoption).await?;
            }
            Step::StartForeign(adoption) => self.put_back(name, adoption).await?,
            Step::AfterStart { container, call } => {
                match hooks::after_start(&**engine, container, call).await {
                    Called::Succeeded => {}
                    Called::Failed(reason) => {
                        let reason = format!("its hook after_start failed: {reason}");
                        return Ok(Outcome::HookFailed(reason));
                    }
                    Called::Unknown => return Err(StepError::NotCalled),
                }
            }
            Step::Stop { container, grace, before } => {
                let called = match before {
                    Some(call) => hooks::before_stop(&**engine, container, call).await,
                    None => Called::Succeeded,
                };
                engine.stop(container, grace.as_duration()).await?;
                if let Called::Failed(reason) = called {
                    let reason = format!(
                        "its hook before_stop failed: {reason}; it was stopped all the same"
                    );
                    return Ok(Outcome::HookFailed(reason));
                }
            }
            Step::Remove { container } => engine.remove(container).await?,
            Step::UpdateLimits { container, limits, force } => {
                if !force {
                    within(engine.usage(container).await?, *limits)?;
                }
                engine.update_limits(container, *limits).await?;
            }
            Step::RemoveSandbox { slot } => {
                let sandbox = SandboxId { instance: name.clone(), slot: *slot };
                self.network.remove_sandbox(&sandbox).await?;
            }
            Step::Record(journal) => {
                self.journals.write(name, journal).await.map_err(StepError::Journal)?;
            }
            Step::Forget => self.journals.remove(name).await.map_err(StepError::Journal)?,
        }
        Ok(Outcome::Done)
    }

    /// Keeps the files of a container for the instance that takes its place: its own as an image, its volumes as the instance's.
    async fn keep(&self, assigned: &Assigned, adoption: &Adoption) -> Result<(), StepError> {
        let engine = &self.engine;
        engine.keep_foreign(&adoption.container, adoption.image.as_deref()).await?;
        for (volume, source) in &adoption.volumes {
            let from = engine.foreign_volume(source).await?;
            let copy = VolumeCopy {
                instance: assigned.instance.clone(),
                name: volume.clone(),
                image_path: None,
                of_move: assigned.life.0,
            };
            let Some(error) = self.copies.copy_here(engine, from, &copy).await?.err() else {
                continue;
            };
            let (volume, name) = (source.clone(), adoption.name.clone());
            return Err(StepError::Copy { volume, name, error });
        }
        Ok(())
    }

    /// Makes sure that the container does not run in whose place an instance is put.
    async fn check_rests(&self, adoption: &Adoption) -> Result<(), StepError> {
        match self.engine.foreign(adoption.container.as_str()).await {
            Ok(_) => Err(StepError::ForeignRuns { name: adoption.name.clone() }),
            Err(EngineError::NotRunning { .. } | EngineError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts a container again that was to be replaced. One that somebody has removed cannot be, and need not.
    async fn put_back(
        &self,
        instance: &InstanceName,
        adoption: &Adoption,
    ) -> Result<(), StepError> {
        let Adoption { container, grace, restart, .. } = adoption;
        match self.engine.start_foreign(container, grace.as_duration(), *restart).await {
            Ok(()) => Ok(()),
            Err(EngineError::NotFound { .. }) => {
                tracing::warn!(%instance, %container, "the container that is to run again is gone");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes down that a container did not hold, with what it printed last, if that can be had.
    async fn record_failure(
        &self,
        name: &InstanceName,
        journal: &Journal,
        failed: &ContainerId,
    ) -> Result<Outcome, StepError> {
        let journal = match last_words::of(&self.engine, failed).await {
            Some(words) => journal.with_last_words(&words),
            None => journal.clone(),
        };
        self.journals.write(name, &journal).await.map_err(StepError::Journal)?;
        Ok(Outcome::Recorded(Box::new(journal)))
    }

    /// Waits until the host forwards for sandboxes. One that cannot be prepared wholly is used as it is.
    async fn await_host(&self) {
        let Some(mut prepared) = self.prepared.clone() else { return };
        let whole = prepared.wait_for(|prepared| *prepared == Prepared::Whole);
        timeout(HOST_LIMIT, whole).await.ok();
    }

    /// Waits until an instance can be reached by those only who may.
    async fn await_isolation(&self, address: Ipv4Addr) -> Result<(), StepError> {
        let all = async {
            for mut settled in self.settled.clone() {
                settled.wait_for(|settled| settled.contains(&address)).await?;
            }
            Ok::<(), watch::error::RecvError>(())
        };
        match timeout(ISOLATION_LIMIT, all).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(StepError::NotIsolated),
        }
    }
}

fn describe(progress: PullProgress) -> String {
    const MEBI: u64 = 1 << 20;
    format!(
        "{} of {} MiB, {} of {} layers",
        progress.bytes_done / MEBI,
        progress.bytes / MEBI,
        progress.layers_done,
        progress.layers
    )
}
