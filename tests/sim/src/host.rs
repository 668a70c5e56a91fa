//! A host: its power, clocks, disk, network namespaces, engine and link, none of which can be relied on.

mod engine;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_agent_core::{CallId, Listed, Watch};
use dwell_core::clock::Timestamp;
use dwell_core::container::{Container, ContainerId, ContainerState};
use dwell_core::directory::Directory;
use dwell_core::health::Health;
use dwell_core::host_mark::HostMark;
use dwell_core::id::{Generation, InstanceName, NodeName, Position, Revision, VolumeName};
use dwell_core::instance::Assigned;
use dwell_core::sandbox::{SandboxId, Slot};
use dwell_core::session::{Assignment, SeenVolume};
use dwell_core::workload::Lease;
use dwell_planner::{Failure, FailureKind, Journal, Ruling, Standing, Step, Verdict};

pub(crate) use self::engine::{BAD, Engine, Held, Mode, Real, Temper};
use crate::agent::Agent;
use crate::schedule::Ms;

/// The wall clock of everybody whose clock is right, at the beginning of the simulation.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;

/// A clock that shows the time of day, and may be wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wall {
    /// How far it is ahead, in milliseconds.
    pub(crate) ahead: i64,
}

impl Wall {
    pub(crate) fn now(self, now: Ms) -> Timestamp {
        Timestamp((EPOCH_MS + now).saturating_add_signed(self.ahead))
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Host {
    /// The name it joined under.
    pub(crate) name: NodeName,
    pub(crate) address: Ipv4Addr,
    /// Names the machine, and no copy of it.
    pub(crate) machine: String,
    /// Stands for the key it joined with.
    pub(crate) enrolment: String,
    pub(crate) on: bool,
    pub(crate) wall: Wall,
    pub(crate) disk: Disk,
    /// Volumes by instance; what is in them is a number that grows with every write.
    pub(crate) volumes: BTreeMap<InstanceName, u64>,
    /// Copies of other hosts' volumes: the move that each is for, and what is in it.
    pub(crate) copies: BTreeMap<InstanceName, (Revision, u64)>,
    /// Volumes that were copies, and the move that each was for.
    pub(crate) moved_in: BTreeMap<InstanceName, Revision>,
    /// Which volumes and copies were told last, and of which assignment.
    pub(crate) told_volumes: Option<(Position, Vec<SeenVolume>)>,
    /// Whatever is started here ends soon.
    pub(crate) spoiled: bool,
    pub(crate) sandboxes: BTreeSet<SandboxId>,
    /// To which of its sandboxes the address of each instance leads.
    pub(crate) led: BTreeMap<InstanceName, Slot>,
    /// Until when the kernel lets instances with leases be reached: whatever the agent does.
    pub(crate) doors: BTreeMap<InstanceName, Ms>,
    pub(crate) engine: Engine,
    /// The container of each instance that has held here last.
    pub(crate) held: BTreeMap<InstanceName, Held>,
    /// What its journals say to be let go.
    pub(crate) let_go: BTreeMap<InstanceName, LetGo>,
    pub(crate) agent: Option<Agent>,
    /// The runs that the agent watches: until they end.
    pub(crate) watches: BTreeMap<ContainerId, Watch>,
    /// The newest assignment that is not yet on disk.
    pub(crate) to_store: Option<Arc<Assignment>>,
    pub(crate) storing: bool,
    /// Counts the starts of the agent; what belongs to an earlier one is not heard.
    pub(crate) life: u64,
    /// The first of them since the host was started.
    pub(crate) first_life: u64,
    /// The wall clock when the agent started. From then on it counts by itself.
    pub(crate) agent_wall: Wall,
    pub(crate) stream: Option<u64>,
    pub(crate) link: Link,
    /// How often the agent failed to reach the controller, for its pauses.
    pub(crate) failed_connects: u32,
    /// An operator has said that this host is dead, and its node was removed.
    pub(crate) vouched_dead: bool,
    /// What it starts is on the operators' account: they vouched wrongly for its death.
    pub(crate) excused: bool,
    /// Operators have taken it out of service for good.
    pub(crate) retired: bool,
    /// It started from a copy of another host's disk, and operators have not decided that it is the node. What is on the
    /// disk is the other host's.
    pub(crate) copy: bool,
}

/// What survives the agent, and the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// The machine that it is of, once the controller has taken that in.
    pub(crate) mark: Option<HostMark>,
    pub(crate) assignment: Option<Arc<Assignment>>,
    pub(crate) journals: BTreeMap<InstanceName, Journal>,
    pub(crate) directory: Directory,
    pub(crate) full: bool,
}

impl Disk {
    /// Whether it is of a machine, as far as is known.
    pub(crate) fn is_of(&self, mark: &HostMark) -> bool {
        self.mark.as_ref().is_none_or(|kept| kept == mark)
    }

    /// The controller has taken the machine in: what another one was told to run is forgotten.
    pub(crate) fn claim(&mut self, mark: HostMark) {
        if !self.is_of(&mark) {
            self.assignment = None;
        }
        self.mark = Some(mark);
    }

    /// The host joins anew: what an earlier cluster wanted of it is none of its business.
    pub(crate) fn leave(&mut self) {
        (self.assignment, self.directory) = (None, Directory::default());
    }
}

/// The way between a host and the controller.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    /// Nothing reaches the controller.
    pub(crate) up_cut: bool,
    /// Nothing reaches the host.
    pub(crate) down_cut: bool,
    /// How long a message may take beyond the usual.
    pub(crate) delay_max: Ms,
    /// What the host says arrives twice.
    pub(crate) repeats: bool,
}

/// An instance that is let go on a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LetGo {
    /// At which generation.
    pub(crate) at: Generation,
    /// By which call of which life of the agent that was written down.
    pub(crate) since: Asked,
}

/// Which call of which life of an agent: later ones are greater.
pub(crate) type Asked = (u64, CallId);

/// Who starts and ends, for the world to keep books.
#[derive(Debug)]
pub(crate) enum Deed {
    Nothing,
    Made(ContainerId),
    Started(ContainerId),
    Ended(ContainerId),
}

impl Host {
    pub(crate) fn new(name: NodeName, number: u8, enrolment: String) -> Self {
        Self {
            name,
            machine: format!("m{number}"),
            address: Ipv4Addr::new(192, 168, 0, number),
            enrolment,
            on: true,
            wall: Wall::default(),
            disk: Disk::default(),
            volumes: BTreeMap::new(),
            copies: BTreeMap::new(),
            moved_in: BTreeMap::new(),
            told_volumes: None,
            spoiled: false,
            sandboxes: BTreeSet::new(),
            led: BTreeMap::new(),
            doors: BTreeMap::new(),
            engine: Engine::default(),
            held: BTreeMap::new(),
            let_go: BTreeMap::new(),
            agent: None,
            watches: BTreeMap::new(),
            to_store: None,
            storing: false,
            life: 0,
            first_life: 0,
            agent_wall: Wall::default(),
            stream: None,
            link: Link::default(),
            failed_connects: 0,
            vouched_dead: false,
            excused: false,
            retired: false,
            copy: false,
        }
    }

    /// The agent sets until when instances are reached; `agent_now` is the present by its clock.
    pub(crate) fn fence(
        &mut self,
        all: Vec<(InstanceName, Standing, Option<Lease>)>,
        agent_now: Timestamp,
        now: Ms,
    ) {
        for (name, standing, lease) in all {
            let until = |until: Timestamp| now + until.0.saturating_sub(agent_now.0);
            match standing {
                Standing::Free => drop(self.doors.remove(&name)),
                Standing::Lent { until: at } => drop(self.doors.insert(name, until(at))),
                Standing::Over => drop(self.doors.insert(name, now)),
                // As an earlier run of the agent has left it, and not for longer than the lease.
                Standing::Left { .. } => {
                    let most = now + lease.map_or(0, |lease| lease.0.0);
                    let door = self.doors.entry(name).or_insert(now);
                    *door = (*door).min(most);
                }
            }
        }
    }

    /// Whether nothing of an instance is reached here: its lease is over.
    pub(crate) fn is_shut(&self, name: &InstanceName, now: Ms) -> bool {
        self.doors.get(name).is_some_and(|until| *until <= now)
    }

    /// The machine, as the controller knows it.
    pub(crate) fn mark(&self) -> HostMark {
        HostMark::new(&self.name, &self.machine)
    }

    /// The volumes, if there is an engine to ask.
    pub(crate) fn seen_volumes(&self) -> Option<Vec<SeenVolume>> {
        let seen = |instance: &InstanceName, is_copy| SeenVolume {
            instance: instance.clone(),
            name: volume_name(),
            image_path: None,
            is_copy,
        };
        let volumes = self.volumes.keys().map(|name| seen(name, false));
        let all = volumes.chain(self.copies.keys().map(|name| seen(name, true)));
        (self.engine.mode == Mode::Up).then(|| all.collect())
    }

    /// Whether a container has the volume of an instance, also one that the engine does not show now.
    pub(crate) fn mounts_volume(&self, name: &InstanceName) -> bool {
        let (shown, hidden) = (self.engine.containers.values(), self.engine.hidden());
        let mut all = shown.chain(hidden.map(|(_, real)| real));
        all.any(|real| !real.foreign && real.has_volume && real.instance == *name)
    }

    /// The volumes that are to be deleted by an order on the disk, and that nothing mounts.
    pub(crate) fn volumes_to_delete(&self) -> Vec<InstanceName> {
        let durable = self.disk.assignment.as_deref();
        let held = self.agent.as_ref().and_then(|agent| agent.held());
        let Some((durable, held)) = durable.zip(held).filter(|_| self.engine.mode == Mode::Up)
        else {
            return Vec::new();
        };
        if durable.position() != held.position() {
            return Vec::new();
        }
        let mounts = |assigned: &Assigned| {
            assigned.templates().any(|template| template.volumes().next().is_some())
        };
        let is_mounted = |name: &InstanceName| {
            let mut own = self.engine.containers.values().filter(|real| !real.foreign);
            own.any(|real| real.has_volume && real.instance == *name)
                || held.instances.get(name).is_some_and(mounts)
        };
        let ordered = held.volumes_to_delete.iter().map(|(name, _)| name);
        let ordered = ordered
            .filter(|name| self.volumes.contains_key(*name) || self.copies.contains_key(*name));
        ordered.filter(|name| !is_mounted(name)).cloned().collect()
    }

    /// A container, if there is one.
    pub(crate) fn inspect(&self, id: &ContainerId) -> Option<Container> {
        self.engine.containers.get(id).filter(|real| !real.foreign).map(|real| real.seen(id))
    }

    /// All containers.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let all = self.engine.containers.iter().filter(|(_, real)| !real.foreign);
        all.map(|(id, real)| Listed { id: id.clone(), instance: real.instance.clone() }).collect()
    }

    /// Whether a step gives a main process less time to end than it was promised.
    pub(crate) fn cuts_short(&self, step: &Step) -> Option<String> {
        let Step::Stop { container, grace, .. } = step else { return None };
        let real = self.engine.containers.get(container)?;
        let what =
            || format!("{} gets {grace} to end, and was promised {}", real.instance, real.grace);
        (*grace < real.grace && real.is_running()).then(what)
    }

    /// Whether a step does something to a container that is somebody else's.
    pub(crate) fn touches_foreign(
        &self,
        step: &Step,
        remains: &BTreeSet<ContainerId>,
    ) -> Option<String> {
        let own = match step {
            Step::Carry { into: container, .. }
            | Step::Start { container }
            | Step::AfterStart { container, .. }
            | Step::Stop { container, .. }
            | Step::Remove { container }
            | Step::UpdateLimits { container, .. } => Some(container),
            _ => None,
        };
        let mut touched = own.into_iter().chain(remains);
        let is_foreign =
            |id: &&ContainerId| self.engine.containers.get(id).is_some_and(|real| real.foreign);
        touched.find(is_foreign).map(|id| format!("{id} is somebody else's, and got {step:?}"))
    }

    /// Does a step.
    ///
    /// # Errors
    /// It cannot be done.
    pub(crate) fn carry_out(
        &mut self,
        name: &InstanceName,
        step: &Step,
        assigned: Option<&Assigned>,
        now: Ms,
    ) -> Result<Deed, Failure> {
        match step {
            Step::EnsureSandbox { slot, reached } => {
                self.sandboxes.insert(SandboxId { instance: name.clone(), slot: *slot });
                self.lead(name, *slot, *reached);
                // An address belongs to the sandbox, whichever container is started in it.
                let address = assigned.map(|assigned| assigned.address);
                let own = self.engine.containers.values_mut();
                for real in own.filter(|real| !real.foreign && real.instance == *name) {
                    real.address = address.unwrap_or(real.address);
                }
            }
            Step::RepairSandbox { slot, reached } => {
                let sandbox = SandboxId { instance: name.clone(), slot: *slot };
                if !self.sandboxes.contains(&sandbox) {
                    let message = "its sandbox is lost".to_owned();
                    return Err(Failure { kind: FailureKind::SandboxLost, message });
                }
                self.lead(name, *slot, *reached);
            }
            Step::RemoveSandbox { slot } => {
                self.sandboxes.remove(&SandboxId { instance: name.clone(), slot: *slot });
                if !self.has_sandbox(name) {
                    self.doors.remove(name);
                }
            }
            Step::Record(_) | Step::Forget if self.disk.full => {
                return Err(transient("no space left on the device"));
            }
            Step::Record(journal) => {
                let before = self.disk.journals.insert(name.clone(), Journal::clone(journal));
                if before.and_then(|before| before.verdict) != journal.verdict {
                    self.note_held(name, journal);
                }
            }
            Step::Forget => {
                self.disk.journals.remove(name);
                self.held.remove(name);
            }
            Step::Create { generation, slot } => {
                return self.create(name, *generation, *slot, assigned);
            }
            // No instance of the simulated fleet is put in the place of a container that dwell did not make.
            Step::StopForeign(_) | Step::KeepForeign(_) | Step::StartForeign(_) => {}
            Step::Carry { from, into, .. } => self.engine.carry(from, into).map_err(transient)?,
            Step::Start { container } => return self.start(container, now),
            Step::AfterStart { .. } => {}
            Step::Stop { container, .. } => {
                if !self.engine.containers.contains_key(container) {
                    return Err(transient("no such container"));
                }
                return Ok(self.end(container, 143, now));
            }
            Step::Remove { container } => {
                if let Some(real) = self.engine.containers.get(container)
                    && real.is_running()
                {
                    return Err(transient("the container runs"));
                }
                self.engine.containers.remove(container);
            }
            Step::UpdateLimits { container, limits, .. } => {
                let real = self.engine.containers.get_mut(container);
                real.ok_or_else(|| transient("no such container"))?.limits = *limits;
            }
        }
        Ok(Deed::Nothing)
    }

    fn lead(&mut self, name: &InstanceName, slot: Slot, reached: bool) {
        if reached {
            self.led.insert(name.clone(), slot);
        }
    }

    /// Whether there is a sandbox of an instance.
    pub(crate) fn has_sandbox(&self, name: &InstanceName) -> bool {
        self.sandboxes.iter().any(|sandbox| sandbox.instance == *name)
    }

    /// Whether the address of an instance leads to a container.
    pub(crate) fn is_led_to(&self, id: &ContainerId) -> bool {
        let real = self.engine.real(id);
        real.is_none_or(|real| self.led.get(&real.instance) == Some(&real.slot))
    }

    fn create(
        &mut self,
        name: &InstanceName,
        generation: Generation,
        slot: Slot,
        assigned: Option<&Assigned>,
    ) -> Result<Deed, Failure> {
        let Some(assigned) = assigned.and_then(|one| one.of_generation(generation)) else {
            return Err(transient("overtaken"));
        };
        let is_taken =
            |real: &Real| !real.foreign && real.instance == *name && real.generation == generation;
        if self.engine.containers.values().any(is_taken) {
            return Err(transient("the name is taken"));
        }
        if !self.engine.images.contains(&assigned.template.image) {
            let message = "no such image here".to_owned();
            return Err(Failure { kind: FailureKind::ImageMissing, message });
        }
        let has_volume = assigned.template.volumes().next().is_some();
        let is_kept = has_volume && assigned.kept_volumes.contains(&volume_name());
        if is_kept && !self.volumes.contains_key(name) {
            return Err(transient("its volume is not here any more"));
        }
        let real = Real {
            number: 0,
            instance: name.clone(),
            generation,
            life: assigned.life,
            task: assigned.task.map(|task| task.number),
            slot,
            fingerprint: assigned.fingerprint(),
            limits: assigned.template.limits(),
            restarts_asked: assigned.restarts_asked,
            image: assigned.template.image.clone(),
            address: assigned.address,
            has_volume,
            state: ContainerState::Created,
            started_at: None,
            finished_at: None,
            exit_code: None,
            health: Health::Starting,
            run: 0,
            missed_death: false,
            lost_process: false,
            grace: assigned.template.stop_grace,
            came_back: false,
            foreign: false,
        };
        Ok(Deed::Made(self.keep(real)))
    }

    fn keep(&mut self, real: Real) -> ContainerId {
        self.engine.made += 1;
        let real = Real { number: self.engine.made, ..real };
        let id = ContainerId(format!("{}-c{:04}", self.name, self.engine.made));
        self.engine.containers.insert(id.clone(), real);
        id
    }

    /// Somebody runs a container of their own, with the labels of this one, of which one is malformed.
    pub(crate) fn run_foreign(&mut self, model: &ContainerId) -> Option<ContainerId> {
        let real = self.engine.containers.get(model)?;
        let state = ContainerState::Running;
        let (missed_death, lost_process) = (false, false);
        let foreign = Real { foreign: true, state, missed_death, lost_process, ..real.clone() };
        Some(self.keep(foreign))
    }

    /// Operators take everything of dwell off the host but its volumes.
    pub(crate) fn clean(&mut self) {
        self.engine.containers.retain(|_, real| real.foreign);
        self.sandboxes.clear();
        self.led.clear();
        self.disk = Disk { full: self.disk.full, ..Disk::default() };
        self.held.clear();
        self.let_go.clear();
    }

    /// A journal says for the first time that a generation has held: so has the container that runs.
    fn note_held(&mut self, name: &InstanceName, journal: &Journal) {
        let Some(Verdict { ruling: Ruling::Committed, generation, .. }) = journal.verdict else {
            return;
        };
        let mut own = self.engine.containers.values();
        let is_meant = |real: &&Real| {
            !real.foreign
                && real.instance == *name
                && real.is_running()
                && real.generation <= generation
        };
        if let Some(real) = own.find(is_meant) {
            self.held.insert(name.clone(), real.held());
        }
    }

    fn start(&mut self, id: &ContainerId, now: Ms) -> Result<Deed, Failure> {
        let started_at = self.wall.now(now);
        let Some(real) = self.engine.containers.get_mut(id) else {
            return Err(transient("no such container"));
        };
        if real.state == ContainerState::Running {
            // It runs, as far as the engine knows.
            return Ok(Deed::Nothing);
        }
        let sandbox = SandboxId { instance: real.instance.clone(), slot: real.slot };
        if !self.sandboxes.contains(&sandbox) {
            return Err(transient("no sandbox"));
        }
        if Temper::of(&real.image) == Temper::Broken {
            let message = "no such command".to_owned();
            return Err(Failure { kind: FailureKind::Permanent, message });
        }
        real.state = ContainerState::Running;
        (real.started_at, real.finished_at, real.exit_code) = (Some(started_at), None, None);
        real.health = Health::Starting;
        real.came_back = false;
        real.run += 1;
        Ok(Deed::Started(id.clone()))
    }

    /// The engine takes a container that runs for one that has ended. Returns its instance.
    pub(crate) fn lose_process(&mut self, id: &ContainerId, now: Ms) -> Option<InstanceName> {
        let now = self.wall.now(now);
        let real = self.engine.containers.get_mut(id);
        let real = real.filter(|real| real.is_running() && !real.foreign)?;
        (real.state, real.lost_process) = (ContainerState::Exited, true);
        (real.finished_at, real.exit_code) = (Some(now), None);
        Some(real.instance.clone())
    }

    /// The main process of a container ends.
    pub(crate) fn end(&mut self, id: &ContainerId, code: i32, now: Ms) -> Deed {
        let now = self.wall.now(now);
        let Some(real) = self.engine.real_mut(id) else { return Deed::Nothing };
        if std::mem::take(&mut real.lost_process) {
            return Deed::Ended(id.clone());
        }
        if real.state != ContainerState::Running {
            return Deed::Nothing;
        }
        real.state = ContainerState::Exited;
        (real.finished_at, real.exit_code) = (Some(now), Some(code));
        match std::mem::take(&mut real.missed_death) {
            true => Deed::Nothing,
            false => Deed::Ended(id.clone()),
        }
    }
}

/// The name that every volume has here.
#[expect(clippy::panic, reason = "a constant that is a name")]
pub(crate) fn volume_name() -> VolumeName {
    VolumeName::new("data").unwrap_or_else(|error| panic!("{error}"))
}

/// A failure that may pass.
pub(crate) fn transient(message: &str) -> Failure {
    Failure { kind: FailureKind::Transient, message: message.to_owned() }
}
