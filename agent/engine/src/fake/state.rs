//! What the fake engine has, and what it was told to do wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dwell_core::clock::{Clock, Timestamp};
use dwell_core::id::{InstanceName, VolumeName};
use dwell_core::image::{ContainerImage, ImageDigest, digest_of};
use dwell_core::instance::Assigned;
use dwell_core::quantity::Bytes;
use dwell_core::sandbox::Slot;
use dwell_core::session::SeenVolume;
use dwell_core::workload::Enforced;
use tokio::sync::{broadcast, watch};

use super::behaviour::{Command, Program};
use super::foreign::Foreigners;
use super::images::HeldImage;
use super::volumes::Directory;
use super::{
    Container, ContainerId, ContainerState, EngineError, Event, EventKind, Events, NAME, Operation,
    VolumeCopy,
};
use crate::fake::control::Call;
use crate::{Details, Usage};

/// How many events a reader can be behind before it is cut off.
const EVENTS_MAX: usize = 4_096;
/// How many calls are written down; the oldest are forgotten.
const JOURNAL_MAX: usize = 100_000;

/// The engine that all clones share.
pub(super) struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Counts the changes, for those who wait for one.
    version: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::new(State::default()), version: watch::Sender::default() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Take it before looking at the state, so that no change is missed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(super) fn announce(&self) {
        self.version.send_modify(|version| *version = version.wrapping_add(1));
    }
}

/// A container, and what only a fake knows of it.
pub(super) struct FakeContainer {
    /// As a list shows it.
    pub(super) seen: Container,
    pub(super) details: Details,
    pub(super) image: String,
    /// The lines that it wrote, and when.
    pub(super) output: Vec<(Timestamp, Vec<u8>)>,
    /// The volumes that it has.
    pub(super) volumes: Vec<VolumeName>,
    /// Whether its process has an input.
    pub(super) reads: bool,
    /// The files that were written in it, by their paths.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

impl FakeContainer {
    pub(super) fn print(&mut self, text: &str, at: Timestamp) {
        let lines = text.split_inclusive('\n').map(|line| (at, line.as_bytes().to_vec()));
        self.output.extend(lines);
    }
}

/// Why an image cannot be used at once.
#[derive(Clone, Copy)]
pub(super) enum ImageState {
    Missing,
    Broken { permanent: bool },
}

/// When a call is to fail.
#[derive(Clone)]
pub(super) enum Fault {
    Before(EngineError),
    After(EngineError),
    /// It takes effect, and never returns.
    NoAnswer,
}

/// What is answered to a call that took effect.
pub(super) enum Answer {
    /// What it did.
    True,
    /// That it failed.
    Failure(EngineError),
    /// Nothing, ever.
    Lost,
}

pub(super) struct State {
    pub(super) down: bool,
    /// What each container that runs uses.
    pub(super) usage: Usage,
    /// The limits that it can hold containers to.
    pub(super) enforced: Enforced,
    pub(super) containers: BTreeMap<ContainerId, FakeContainer>,
    /// Those in its other store, which it does not show.
    pub(super) hidden: BTreeMap<ContainerId, FakeContainer>,
    /// The main processes that run, whatever the engine takes for running.
    pub(super) processes: BTreeSet<u32>,
    /// Containers of which a process is left that the engine knows nothing of.
    pub(super) left: BTreeSet<ContainerId>,
    /// For ids of containers and processes.
    next: u32,
    /// Images that are not simply there.
    pub(super) images: BTreeMap<String, ImageState>,
    /// Which image a reference means on this node, where that is known.
    pub(super) digests: BTreeMap<String, ImageDigest>,
    /// Images that were fetched by their digest.
    pub(super) fetched: BTreeSet<ImageDigest>,
    /// The images that were named so far and not removed.
    pub(super) held: BTreeMap<ImageDigest, HeldImage>,
    /// Layers that are there.
    pub(super) layers: BTreeSet<ImageDigest>,
    /// How the main process of an image behaves, if not as usual.
    pub(super) programs: BTreeMap<String, Program>,
    /// How a command behaves, by its words, if not as usual.
    pub(super) commands: BTreeMap<Vec<String>, Command>,
    /// Containers of others with the cluster's label.
    pub(super) strangers: BTreeSet<String>,
    /// What was printed by the containers that are gone.
    pub(super) previous: BTreeMap<InstanceName, Vec<u8>>,
    /// Files of containers that are gone.
    pub(super) leftovers: BTreeSet<PathBuf>,
    /// Containers that dwell did not make.
    pub(super) foreigners: Foreigners,
    /// Volumes outlive their containers.
    pub(super) volumes: Vec<SeenVolume>,
    /// Copies that are still to become volumes.
    pub(super) copies: Vec<VolumeCopy>,
    /// The moves that volumes came with.
    pub(super) adopted: Vec<VolumeCopy>,
    /// Where the data of volumes is, once somebody has asked.
    pub(super) directory: Option<Directory>,
    /// With how much time each container was stopped last.
    pub(super) graces: BTreeMap<ContainerId, Duration>,
    pub(super) exec_exits: i32,
    pub(super) exec_hangs: bool,
    pub(super) hang_ups: u64,
    pub(super) kills: u64,
    pub(super) faults: BTreeMap<Operation, VecDeque<Fault>>,
    pub(super) stalled: BTreeSet<Operation>,
    /// Calls about these do not return.
    pub(super) stalled_subjects: BTreeSet<(Operation, String)>,
    pub(super) latencies: BTreeMap<Operation, Duration>,
    pub(super) events: Events,
    pub(super) events_to_lose: u32,
    pub(super) events_to_repeat: u32,
    pub(super) journal: VecDeque<Call>,
    pub(super) counts: BTreeMap<Operation, u64>,
    pub(super) overlaps: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            down: false,
            usage: Usage { memory: Some(Bytes::mebi(1)), pids: Some(1) },
            enforced: Enforced::ALL,
            containers: BTreeMap::new(),
            hidden: BTreeMap::new(),
            processes: BTreeSet::new(),
            left: BTreeSet::new(),
            next: 0,
            images: BTreeMap::new(),
            digests: BTreeMap::new(),
            fetched: BTreeSet::new(),
            held: BTreeMap::new(),
            layers: BTreeSet::new(),
            programs: BTreeMap::new(),
            commands: BTreeMap::new(),
            strangers: BTreeSet::new(),
            previous: BTreeMap::new(),
            leftovers: BTreeSet::new(),
            foreigners: Foreigners::new(),
            volumes: Vec::new(),
            copies: Vec::new(),
            adopted: Vec::new(),
            directory: None,
            graces: BTreeMap::new(),
            exec_exits: 0,
            exec_hangs: false,
            hang_ups: 0,
            kills: 0,
            faults: BTreeMap::new(),
            stalled: BTreeSet::new(),
            stalled_subjects: BTreeSet::new(),
            latencies: BTreeMap::new(),
            events: broadcast::Sender::new(EVENTS_MAX),
            events_to_lose: 0,
            events_to_repeat: 0,
            journal: VecDeque::new(),
            counts: BTreeMap::new(),
            overlaps: 0,
        }
    }
}

pub(super) fn unavailable() -> EngineError {
    EngineError::Unavailable { engine: NAME, reason: "it was told to be down".to_owned() }
}

impl State {
    /// Writes a call down and says how long it takes.
    pub(super) fn note(
        &mut self,
        operation: Operation,
        subject: &str,
        at: Timestamp,
    ) -> Option<Duration> {
        *self.counts.entry(operation).or_default() += 1;
        if self.journal.len() >= JOURNAL_MAX {
            self.journal.pop_front();
        }
        self.journal.push_back(Call { operation, subject: subject.to_owned(), at });
        self.latencies.get(&operation).copied()
    }

    /// Whether a call may go on: `None` while it is stalled, else with an error to fail with later.
    pub(super) fn pass(
        &mut self,
        operation: Operation,
        subject: &str,
    ) -> Option<Result<Answer, EngineError>> {
        if self.down {
            return Some(Err(unavailable()));
        }
        let is_stalled = self.stalled_subjects.contains(&(operation, subject.to_owned()));
        if is_stalled || self.stalled.contains(&operation) {
            return None;
        }
        Some(match self.faults.get_mut(&operation).and_then(VecDeque::pop_front) {
            Some(Fault::Before(error)) => Err(error),
            Some(Fault::After(error)) => Ok(Answer::Failure(error)),
            Some(Fault::NoAnswer) => Ok(Answer::Lost),
            None => Ok(Answer::True),
        })
    }

    pub(super) fn check_up(&self) -> Result<(), EngineError> {
        if self.down { Err(unavailable()) } else { Ok(()) }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(super) fn seen(&self) -> Vec<Container> {
        self.containers.values().map(|container| container.seen.clone()).collect()
    }

    /// A container as a closer look shows it.
    pub(super) fn inspect(&self, id: &ContainerId) -> Result<Container, EngineError> {
        let container = self.container(id)?;
        Ok(Container { details: Some(container.details), ..container.seen.clone() })
    }

    pub(super) fn container(&self, id: &ContainerId) -> Result<&FakeContainer, EngineError> {
        self.containers.get(id).ok_or_else(|| EngineError::NotFound { id: id.to_string() })
    }

    pub(super) fn container_mut(
        &mut self,
        id: &ContainerId,
    ) -> Result<&mut FakeContainer, EngineError> {
        self.containers.get_mut(id).ok_or_else(|| EngineError::NotFound { id: id.to_string() })
    }

    pub(super) fn create(
        &mut self,
        slot: Slot,
        assigned: &Assigned,
        now: Timestamp,
    ) -> Result<ContainerId, EngineError> {
        let (instance, generation) = (&assigned.instance, assigned.generation);
        let image = &assigned.template.image;
        let here = self.digests.get(image).copied();
        let digest = digest_of(&assigned.image()).or(here);
        let is_here = digest == here || digest.is_some_and(|asked| self.fetched.contains(&asked));
        if self.images.contains_key(image) || !is_here {
            return Err(EngineError::ImageMissing { image: assigned.image().into_owned() });
        }
        let same = |other: &FakeContainer| {
            other.seen.instance == *instance && other.seen.generation == generation
        };
        if self.containers.values().any(same) {
            return Err(EngineError::AlreadyExists { name: format!("{instance}.g{generation}") });
        }
        let volumes: Vec<VolumeName> = assigned.template.volumes().cloned().collect();
        let is_there = |name: &VolumeName| {
            self.volumes.iter().any(|one| one.instance == *instance && one.name == *name)
        };
        let mut kept = volumes.iter().filter(|name| assigned.kept_volumes.contains(*name));
        if let Some(volume) = kept.find(|name| !is_there(name)).cloned() {
            return Err(EngineError::VolumeMissing { instance: instance.clone(), volume });
        }
        for name in &volumes {
            let volume = SeenVolume {
                instance: instance.clone(),
                name: name.clone(),
                image_path: None,
                is_copy: false,
            };
            if !self.volumes.contains(&volume) {
                self.volumes.push(volume);
            }
        }
        let id = ContainerId(format!("fake{:08}", self.number()));
        let seen = Container {
            id: id.clone(),
            instance: instance.clone(),
            generation,
            life: assigned.life,
            slot,
            address: Some(assigned.address),
            fingerprint: assigned.fingerprint(),
            state: ContainerState::Created,
            restarts_asked: assigned.restarts_asked,
            details: None,
        };
        let image_id = self.hold_image(&assigned.image());
        let details = Details {
            limits: self.enforced.of(assigned.template.limits()),
            enforced: self.enforced,
            stop_grace: Some(assigned.template.stop_grace),
            own_ssh: assigned.template.command == ["sshd"],
            image: ContainerImage { digest, id: Some(image_id) },
            ..Details::default()
        };
        let container = FakeContainer {
            seen,
            details,
            image: image.clone(),
            output: Vec::new(),
            volumes,
            reads: assigned.template.stdin,
            files: BTreeMap::new(),
        };
        self.containers.insert(id.clone(), container);
        self.tell(&id, EventKind::Changed, now);
        Ok(id)
    }

    pub(super) fn start(&mut self, id: &ContainerId, now: Timestamp) -> Result<(), EngineError> {
        let pid = self.number();
        let container = self.container_mut(id)?;
        if container.seen.state == ContainerState::Running {
            return Ok(());
        }
        container.seen.state = ContainerState::Running;
        container.details = Details {
            pid: Some(pid),
            started_at: Some(now),
            limits: container.details.limits,
            enforced: container.details.enforced,
            stop_grace: container.details.stop_grace,
            own_ssh: container.details.own_ssh,
            image: container.details.image,
            ..Details::default()
        };
        self.processes.insert(pid);
        let program = self.program_of(id)?;
        let container = self.container_mut(id)?;
        container.print(&program.prints, now);
        let instance = container.seen.instance.clone();
        let is_left = |other: &FakeContainer| {
            other.seen.instance == instance && self.left.contains(&other.seen.id)
        };
        let runs_hidden = |other: &FakeContainer| {
            other.seen.instance == instance && other.seen.state == ContainerState::Running
        };
        let is_left =
            self.containers.values().any(is_left) || self.hidden.values().any(runs_hidden);
        if is_left || self.running(|other| other.instance == instance) > 1 {
            self.overlaps += 1;
        }
        self.tell(id, EventKind::Started, now);
        if let Some(exit_code) = program.ends {
            self.end(id, exit_code, now);
        }
        Ok(())
    }

    fn program_of(&self, id: &ContainerId) -> Result<Program, EngineError> {
        let image = &self.container(id)?.image;
        Ok(self.programs.get(image).cloned().unwrap_or_default())
    }

    /// Asks the main process of a container to end; whether it runs on.
    pub(super) fn ask_to_end(
        &mut self,
        id: &ContainerId,
        grace: Duration,
        now: Timestamp,
    ) -> Result<bool, EngineError> {
        let program = self.program_of(id)?;
        self.graces.insert(id.clone(), grace);
        if let Some(exit_code) = program.ends_when_asked {
            self.end(id, exit_code, now);
        }
        Ok(self.container(id)?.seen.state == ContainerState::Running)
    }

    /// Deletes a volume that no container has.
    pub(super) fn remove_volume(
        &mut self,
        instance: &InstanceName,
        name: &VolumeName,
    ) -> Result<(), EngineError> {
        let has = |other: &FakeContainer| {
            other.seen.instance == *instance && other.volumes.contains(name)
        };
        if self.containers.values().any(has) {
            return Err(EngineError::Other {
                engine: NAME,
                operation: "remove a volume",
                reason: "a container has it".to_owned(),
            });
        }
        self.volumes.retain(|one| one.instance != *instance || one.name != *name);
        self.forget_data(instance, name);
        Ok(())
    }

    /// How many containers run of those that are meant.
    pub(super) fn running(&self, meant: impl Fn(&Container) -> bool) -> usize {
        let all = self.containers.values().map(|container| &container.seen);
        all.filter(|seen| seen.state == ContainerState::Running && meant(seen)).count()
    }

    /// Ends the process of a container without the engine noticing.
    pub(super) fn end_unseen(&mut self, id: &ContainerId) {
        let pid = self.containers.get(id).and_then(|container| container.details.pid);
        if let Some(pid) = pid {
            self.processes.remove(&pid);
        }
    }

    /// The process of a container runs on without the engine knowing, until it is ended.
    pub(super) fn leave(&mut self, id: &ContainerId) {
        self.left.insert(id.clone());
    }

    /// Ends what is left of a container.
    pub(super) fn end_leftover(&mut self, id: &ContainerId, _now: Timestamp) {
        self.left.remove(id);
    }

    /// Ends what runs of an instance in the other store.
    pub(super) fn end_hidden(&mut self, instance: &InstanceName) {
        for one in self.hidden.values_mut().filter(|one| one.seen.instance == *instance) {
            if let Some(pid) = one.details.pid.take() {
                self.processes.remove(&pid);
            }
            one.seen.state = ContainerState::Exited;
        }
    }

    /// Ends the process of a container, if there is one.
    pub(super) fn end(&mut self, id: &ContainerId, exit_code: i32, now: Timestamp) -> bool {
        let Some(container) = self.containers.get_mut(id) else { return false };
        if container.seen.state != ContainerState::Running {
            return false;
        }
        container.seen.state = ContainerState::Exited;
        if let Some(pid) = container.details.pid.take() {
            self.processes.remove(&pid);
        }
        container.details.finished_at = Some(now);
        container.details.exit_code = Some(exit_code);
        self.tell(id, EventKind::Died { exit_code: Some(exit_code) }, now);
        true
    }

    pub(super) fn remove(&mut self, id: &ContainerId, now: Timestamp) {
        self.end(id, 137, now);
        self.tell(id, EventKind::Removed, now);
        if let Some(gone) = self.containers.remove(id)
            && !gone.output.is_empty()
        {
            let printed: Vec<_> = gone.output.into_iter().map(|(_, line)| line).collect();
            self.previous.insert(gone.seen.instance, printed.concat());
        }
    }

    /// Tells those who listen what happened to a container that is still there.
    pub(super) fn tell(&mut self, id: &ContainerId, kind: EventKind, at: Timestamp) {
        let Some(container) = self.containers.get(id) else { return };
        if self.events_to_lose > 0 {
            self.events_to_lose -= 1;
            return;
        }
        let times = if self.events_to_repeat > 0 { 2 } else { 1 };
        self.events_to_repeat = self.events_to_repeat.saturating_sub(1);
        let event = Event { id: id.clone(), instance: container.seen.instance.clone(), at, kind };
        for _ in 0..times {
            // Fails if nobody listens.
            drop(self.events.send(event.clone()));
        }
    }

    /// Begins a new stream of events, which ends the one before for all who listen.
    pub(super) fn cut_events(&mut self) {
        self.events = broadcast::Sender::new(EVENTS_MAX);
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}
