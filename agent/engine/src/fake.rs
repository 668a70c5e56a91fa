//! An engine in memory, for tests and simulations: it behaves as [`Engine`] says, and misbehaves on
//! request.
//!
//! Deterministic: no threads, no wall clock, no randomness. Time passes only where a latency was set,
//! and then it is tokio's, which tests can pause. A stopped process takes no time to end,
//! unless it was told otherwise.
//!
//! | what to ask for | how |
//! |---|---|
//! | calls that fail, without or after having taken effect | [`FakeEngine::fail_next`], [`FakeEngine::fail_after_next`] |
//! | calls that take time, or do not return | [`FakeEngine::set_latency`], [`FakeEngine::stall`], [`FakeEngine::stall_subject`] |
//! | calls that take effect and whose answer is lost | [`FakeEngine::lose_answers`] |
//! | processes that end or are left without the engine knowing | [`FakeEngine::crash_unseen`], [`FakeEngine::leave_process`] |
//! | an engine that is gone, its containers running on | [`FakeEngine::down`], [`FakeEngine::up`] |
//! | processes that end, containers that vanish | [`FakeEngine::crash`], [`FakeEngine::ends_at_once`], [`FakeEngine::vanish`] |
//! | processes and commands that behave otherwise | [`FakeEngine::set_program`], [`FakeEngine::set_command`] |
//! | files in containers | [`FakeEngine::write_file`], [`FakeEngine::read_file`] |
//! | containers that dwell did not make | [`FakeEngine::add_foreign`], [`FakeEngine::foreign_state`] |
//! | images that are missing or cannot be pulled | [`FakeEngine::forget_image`], [`FakeEngine::break_image`] |
//! | images that come by an archive, and layers that need not | [`FakeEngine::archive`], [`FakeEngine::hold_layers`] |
//! | events that do not come, or come twice | [`FakeEngine::lose_events`], [`FakeEngine::repeat_events`] |
//!
//! What it was asked is counted ([`FakeEngine::count`]) and written down ([`FakeEngine::journal`]), and
//! whether ever two containers of one instance ran at once ([`FakeEngine::overlaps`]).

pub mod behaviour;
mod carry;
pub mod control;
pub mod foreign;
mod images;
mod session;
mod state;
mod volumes;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dwell_core::clock::Clock;
use dwell_core::foreign::{Foreign, ForeignRestart};
use dwell_core::id::{InstanceName, VolumeName};
use dwell_core::image::{ImageDigest, digest_of};
use dwell_core::instance::Assigned;
use dwell_core::node::EngineInfo;
use dwell_core::registry::RegistryLogins;
use dwell_core::sandbox::Slot;
use dwell_core::session::SeenVolume;
use dwell_core::workload::Limits;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::BroadcastStream;

use self::state::{Answer, ImageState, Shared, State};
use super::{
    ArchiveStream, Carried, Container, ContainerId, ContainerState, CopyPlace, Engine, EngineError,
    EngineReport, Event, EventKind, ExecRequest, ExecSession, Image, LogOptions, OutputStream,
    PullProgress, VolumeCopy,
};
use crate::Usage;
use crate::death::{DeathError, Processes};
pub use dwell_core::fixtures::assigned;

/// How errors name this engine.
const NAME: &str = "fake";

/// The calls of [`Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Operation {
    Info,
    Ping,
    List,
    Inspect,
    Create,
    MakeReady,
    EndUnlisted,
    Carry,
    Start,
    Stop,
    Wait,
    Remove,
    Leftovers,
    Sweep,
    Volumes,
    VolumeData,
    BeginCopy,
    AdoptCopy,
    RemoveVolume,
    Foreign,
    StopForeign,
    KeepForeign,
    ForeignVolume,
    StartForeign,
    Usage,
    UpdateLimits,
    Pull,
    Images,
    FindImage,
    RemoveImage,
    SparedLayers,
    LoadImages,
    Events,
    Logs,
    Exec,
}

/// An engine in memory. Clones are the same engine.
#[derive(Clone)]
pub struct FakeEngine {
    shared: Arc<Shared>,
}

impl FakeEngine {
    /// An engine that is up and has every image and no container.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { shared: Arc::new(Shared::new(clock)) }
    }

    /// What every call begins with: it is written down, takes its time, and may fail. Returns
    /// what is to be answered after the effect.
    async fn begin(&self, operation: Operation, subject: &str) -> Result<Answer, EngineError> {
        let mut changes = self.shared.changes();
        let latency = self.shared.state().note(operation, subject, self.shared.now());
        if let Some(latency) = latency {
            tokio::time::sleep(latency).await;
        }
        loop {
            if let Some(verdict) = self.shared.state().pass(operation, subject) {
                return verdict;
            }
            // The sender lives as long as this engine.
            drop(changes.changed().await);
        }
    }

    /// A call that only looks, or changes something in one go.
    async fn call<T>(
        &self,
        operation: Operation,
        subject: &str,
        effect: impl FnOnce(&mut State) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let answer = self.begin(operation, subject).await?;
        let done = effect(&mut self.shared.state());
        self.shared.announce();
        answer.give(done).await
    }

    /// Waits until a container is not running, or the engine is gone.
    async fn ended(&self, id: &ContainerId) -> Result<i32, EngineError> {
        let mut changes = self.shared.changes();
        loop {
            {
                let state = self.shared.state();
                state.check_up()?;
                let container = state.container(id)?;
                if container.seen.state != ContainerState::Running {
                    return Ok(container.details.exit_code.unwrap_or(0));
                }
            }
            drop(changes.changed().await);
        }
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn info(&self) -> Result<EngineReport, EngineError> {
        self.call(Operation::Info, "", |state| {
            let info = EngineInfo { version: "1".to_owned(), ready: true, ..EngineInfo::default() };
            Ok(EngineReport { info, enforced: state.enforced, ..EngineReport::default() })
        })
        .await
    }

    async fn ping(&self) -> Result<(), EngineError> {
        self.call(Operation::Ping, "", |_| Ok(())).await
    }

    async fn list(&self) -> Result<Vec<Container>, EngineError> {
        self.call(Operation::List, "", |state| Ok(state.seen())).await
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Container, EngineError> {
        self.call(Operation::Inspect, id.as_str(), |state| state.inspect(id)).await
    }

    async fn create_in(&self, slot: Slot, assigned: &Assigned) -> Result<ContainerId, EngineError> {
        let now = self.shared.now();
        let subject = assigned.instance.to_string();
        self.call(Operation::Create, &subject, |state| state.create(slot, assigned, now)).await
    }

    async fn make_ready(
        &self,
        id: &ContainerId,
        _assigned: &Assigned,
        remains: &BTreeSet<ContainerId>,
    ) -> Result<(), EngineError> {
        let now = self.shared.now();
        self.call(Operation::MakeReady, id.as_str(), |state| {
            state.container(id)?;
            remains.iter().for_each(|one| state.end_leftover(one, now));
            Ok(())
        })
        .await
    }

    async fn end_unlisted(&self, instance: &InstanceName) -> Result<(), EngineError> {
        self.call(Operation::EndUnlisted, &instance.to_string(), |state| {
            state.end_hidden(instance);
            Ok(())
        })
        .await
    }

    async fn carry(
        &self,
        from: &ContainerId,
        into: &ContainerId,
        paths: &[String],
    ) -> Result<Carried, EngineError> {
        self.call(Operation::Carry, into.as_str(), |state| state.carry(from, into, paths)).await
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let now = self.shared.now();
        self.call(Operation::Start, id.as_str(), |state| state.start(id, now)).await
    }

    async fn tell_runtime(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.shared.state().container(id).map(drop)
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let answer = self.begin(Operation::Stop, id.as_str()).await?;
        let asked = self.shared.state().ask_to_end(id, grace, self.shared.now());
        self.shared.announce();
        if asked == Ok(true) {
            tokio::time::sleep(grace).await;
            self.shared.state().end(id, 137, self.shared.now());
            self.shared.announce();
        }
        answer.give(asked.map(drop)).await
    }

    async fn wait(&self, id: &ContainerId) -> Result<i32, EngineError> {
        let answer = self.begin(Operation::Wait, id.as_str()).await?;
        let code = self.ended(id).await;
        answer.give(code).await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        let now = self.shared.now();
        self.call(Operation::Remove, id.as_str(), |state| {
            state.remove(id, now);
            Ok(())
        })
        .await
    }

    fn strangers(&self) -> BTreeSet<String> {
        self.shared.state().strangers.clone()
    }

    async fn leftovers(&self) -> Result<BTreeSet<PathBuf>, EngineError> {
        self.call(Operation::Leftovers, "", |state| Ok(state.leftovers.clone())).await
    }

    async fn sweep(&self) -> Result<(), EngineError> {
        self.call(Operation::Sweep, "", |state| {
            state.leftovers.clear();
            Ok(())
        })
        .await
    }

    async fn volumes(&self) -> Result<Vec<SeenVolume>, EngineError> {
        self.call(Operation::Volumes, "", |state| Ok(state.seen_volumes())).await
    }

    async fn volume_data(
        &self,
        instance: &InstanceName,
        name: &VolumeName,
    ) -> Result<PathBuf, EngineError> {
        self.call(Operation::VolumeData, name.as_str(), |state| state.volume_data(instance, name))
            .await
    }

    async fn begin_copy(&self, copy: &VolumeCopy) -> Result<CopyPlace, EngineError> {
        self.call(Operation::BeginCopy, copy.name.as_str(), |state| state.begin_copy(copy)).await
    }

    async fn adopt_copy(&self, copy: &VolumeCopy) -> Result<(), EngineError> {
        self.call(Operation::AdoptCopy, copy.name.as_str(), |state| state.adopt_copy(copy)).await
    }

    async fn remove_volume(
        &self,
        instance: &InstanceName,
        name: &VolumeName,
    ) -> Result<(), EngineError> {
        self.call(Operation::RemoveVolume, name.as_str(), |state| {
            state.remove_volume(instance, name)
        })
        .await
    }

    async fn foreign(&self, name: &str) -> Result<Foreign, EngineError> {
        self.call(Operation::Foreign, name, |state| state.foreign(name)).await
    }

    async fn stop_foreign(&self, id: &ContainerId, _grace: Duration) -> Result<(), EngineError> {
        self.call(Operation::StopForeign, id.as_str(), |state| state.stop_foreign(id)).await
    }

    async fn keep_foreign(&self, id: &ContainerId, image: Option<&str>) -> Result<(), EngineError> {
        self.call(Operation::KeepForeign, id.as_str(), |state| state.keep_foreign(id, image)).await
    }

    async fn foreign_volume(&self, volume: &str) -> Result<PathBuf, EngineError> {
        self.call(Operation::ForeignVolume, volume, |state| state.foreign_volume(volume)).await
    }

    async fn start_foreign(
        &self,
        id: &ContainerId,
        _grace: Duration,
        restart: ForeignRestart,
    ) -> Result<(), EngineError> {
        self.call(Operation::StartForeign, id.as_str(), |state| state.start_foreign(id, restart))
            .await
    }

    async fn usage(&self, id: &ContainerId) -> Result<Usage, EngineError> {
        self.call(Operation::Usage, id.as_str(), |state| {
            let runs = state.container_mut(id)?.seen.state == ContainerState::Running;
            let counts = state.enforced;
            Ok(Usage {
                memory: state.usage.memory.filter(|_| runs && counts.memory),
                pids: state.usage.pids.filter(|_| runs && counts.pids),
            })
        })
        .await
    }

    async fn update_limits(&self, id: &ContainerId, limits: Limits) -> Result<(), EngineError> {
        let now = self.shared.now();
        self.call(Operation::UpdateLimits, id.as_str(), |state| {
            let enforced = state.enforced;
            state.container_mut(id)?.details.limits = enforced.of(limits);
            state.tell(id, EventKind::Changed, now);
            Ok(())
        })
        .await
    }

    async fn pull(
        &self,
        image: &str,
        _logins: &RegistryLogins,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), EngineError> {
        self.call(Operation::Pull, image, |state| match state.images.get(image) {
            Some(&ImageState::Broken { permanent }) => Err(EngineError::PullFailed {
                image: image.to_owned(),
                access: "from nowhere".to_owned(),
                reason: "it was told to fail".to_owned(),
                next: None,
                permanent,
            }),
            _ => {
                state.images.remove(image);
                state.fetched.extend(digest_of(image));
                state.hold_image(image);
                progress.send_replace(PullProgress {
                    layers_done: 1,
                    layers: 1,
                    bytes_done: 1,
                    bytes: 1,
                });
                Ok(())
            }
        })
        .await
    }

    async fn images(&self) -> Result<Vec<Image>, EngineError> {
        self.call(Operation::Images, "", |state| Ok(state.images_held())).await
    }

    async fn find_image(&self, reference: &str) -> Result<Option<ImageDigest>, EngineError> {
        self.call(Operation::FindImage, reference, |state| Ok(state.find_image(reference))).await
    }

    async fn remove_image(&self, name: &str) -> Result<(), EngineError> {
        self.call(Operation::RemoveImage, name, |state| state.remove_image(name)).await
    }

    async fn spared_layers(&self, layers: &[ImageDigest]) -> Result<usize, EngineError> {
        self.call(Operation::SparedLayers, "", |state| Ok(state.spared_layers(layers))).await
    }

    async fn load_images(&self, mut archive: ArchiveStream) -> Result<(), EngineError> {
        let answer = self.begin(Operation::LoadImages, "").await?;
        let mut text = Vec::new();
        while let Some(piece) = archive.next().await {
            text.extend_from_slice(&piece.map_err(|error| images::unreadable(&error))?);
        }
        let done = self.shared.state().load_image(&text);
        self.shared.announce();
        answer.give(done).await
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<Event, EngineError>>, EngineError> {
        // From the moment of the call on, also while it takes its time.
        let receiver = self.shared.state().subscribe();
        let answer = self.begin(Operation::Events, "").await?;
        let stream = BroadcastStream::new(receiver).map(|event| {
            // A reader that is too slow is cut off, as by a real engine.
            event.map_err(|_| state::unavailable())
        });
        answer.give(Ok(stream.boxed())).await
    }

    async fn logs(
        &self,
        id: &ContainerId,
        options: &LogOptions,
    ) -> Result<OutputStream, EngineError> {
        let answer = self.begin(Operation::Logs, id.as_str()).await?;
        self.shared.state().container(id)?;
        let output = session::logs(Arc::clone(&self.shared), id.clone(), options);
        answer.give(Ok(output)).await
    }

    async fn previous_output(
        &self,
        instance: &InstanceName,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.shared.state().previous.get(instance).cloned())
    }

    async fn exec(
        &self,
        id: &ContainerId,
        request: &ExecRequest,
    ) -> Result<ExecSession, EngineError> {
        self.call(Operation::Exec, id.as_str(), |state| match state.container(id)?.seen.state {
            ContainerState::Running => Ok(()),
            _ => Err(EngineError::NotRunning { id: id.to_string() }),
        })
        .await?;
        Ok(session::exec(Arc::clone(&self.shared), request))
    }

    async fn attach(&self, id: &ContainerId) -> Result<ExecSession, EngineError> {
        self.call(Operation::Exec, id.as_str(), |state| match state.container(id)?.seen.state {
            ContainerState::Created => Err(EngineError::NotRunning { id: id.to_string() }),
            _ => Ok(()),
        })
        .await?;
        Ok(session::attach(Arc::clone(&self.shared), id.clone()))
    }
}

impl Processes for FakeEngine {
    fn watch(&self, pid: u32, id: &ContainerId) -> Result<BoxFuture<'static, ()>, DeathError> {
        let gone = || DeathError::Gone { pid, container: id.clone() };
        if !self.shared.state().processes.contains(&pid) {
            return Err(gone());
        }
        let shared = Arc::clone(&self.shared);
        Ok(Box::pin(async move {
            let mut changes = shared.changes();
            while shared.state().processes.contains(&pid) {
                // The sender lives as long as this engine.
                drop(changes.changed().await);
            }
        }))
    }
}

impl Answer {
    /// Answers a call that did `done`.
    async fn give<T>(self, done: Result<T, EngineError>) -> Result<T, EngineError> {
        match self {
            Self::True => done,
            Self::Failure(failure) => Err(failure),
            Self::Lost => std::future::pending().await,
        }
    }
}

type Events = broadcast::Sender<Event>;

#[cfg(test)]
mod tests;
