//! The container engine of a host, and what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dwell_core::clock::Timestamp;
use dwell_core::container::{Container, ContainerId, ContainerState, Details};
use dwell_core::health::Health;
use dwell_core::id::{Generation, InstanceName, Revision};
use dwell_core::image::ContainerImage;
use dwell_core::quantity::Millis;
use dwell_core::sandbox::Slot;
use dwell_core::workload::{Enforced, Fingerprint, Limits};

use crate::schedule::Ms;

/// Whether the engine answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Up,
    /// Its daemon is not there; containers run on.
    Down,
    /// It takes calls and does not answer.
    Hung,
}

/// A container engine.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    pub(crate) mode: Mode,
    pub(crate) containers: BTreeMap<ContainerId, Real>,
    pub(crate) images: BTreeSet<String>,
    /// What is in its other store.
    hidden: (BTreeMap<ContainerId, Real>, BTreeSet<String>),
    /// In percent: how many calls fail.
    pub(crate) failing: u32,
    /// In percent: how many answers get lost.
    pub(crate) losing: u32,
    /// How long a call may take beyond the usual.
    pub(crate) slow_max: Ms,
    pub(super) made: u64,
}

/// A container that has held, by the journal of its instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    life: Revision,
    generation: Generation,
    number: u64,
}

/// A container as it really is.
#[derive(Clone, Debug)]
pub(crate) struct Real {
    /// Counts what its engine has made.
    pub(super) number: u64,
    pub(crate) instance: InstanceName,
    pub(crate) generation: Generation,
    pub(crate) life: Revision,
    /// The task that it was made for.
    pub(crate) task: Option<Generation>,
    pub(crate) slot: Slot,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) limits: Limits,
    pub(crate) restarts_asked: u64,
    pub(crate) image: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) has_volume: bool,
    /// As the engine believes.
    pub(crate) state: ContainerState,
    pub(crate) started_at: Option<Timestamp>,
    pub(super) finished_at: Option<Timestamp>,
    pub(super) exit_code: Option<i32>,
    pub(crate) health: Health,
    /// Counts its starts.
    pub(crate) run: u64,
    /// Its main process has ended, and the engine has missed it.
    pub(crate) missed_death: bool,
    /// The engine takes it for ended, and its main process runs on.
    pub(crate) lost_process: bool,
    /// What it was promised for its end.
    pub(crate) grace: Millis,
    /// A store has brought it back, and it was not started since: nobody can have known of it.
    pub(crate) came_back: bool,
    /// It is somebody else's, with labels like those of dwell of which one is malformed.
    pub(crate) foreign: bool,
}

impl Engine {
    /// From now on it shows what is in its other store. What runs of this one runs on.
    pub(crate) fn switch_store(&mut self) {
        std::mem::swap(&mut self.containers, &mut self.hidden.0);
        std::mem::swap(&mut self.images, &mut self.hidden.1);
        self.containers.values_mut().for_each(|real| real.came_back = true);
    }

    /// A container of either store, as the kernel knows its process.
    pub(crate) fn real(&self, id: &ContainerId) -> Option<&Real> {
        self.containers.get(id).or_else(|| self.hidden.0.get(id))
    }

    /// See [`Engine::real`].
    pub(crate) fn real_mut(&mut self, id: &ContainerId) -> Option<&mut Real> {
        self.containers.get_mut(id).or_else(|| self.hidden.0.get_mut(id))
    }

    /// The containers of the other store.
    pub(crate) fn hidden(&self) -> impl Iterator<Item = (&ContainerId, &Real)> {
        self.hidden.0.iter().filter(|(_, real)| !real.foreign)
    }

    /// Carries files over from one container into another one, of which only is known that there are some.
    ///
    /// # Errors
    /// One of them is not what it has to be.
    pub(crate) fn carry(&self, from: &ContainerId, into: &ContainerId) -> Result<(), &'static str> {
        let old = self.containers.get(from).ok_or("no such container")?;
        if old.state == ContainerState::Running || old.lost_process {
            return Err("the old container runs");
        }
        let new = self.containers.get(into).ok_or("no such container")?;
        if new.state != ContainerState::Created {
            return Err("the new container was started");
        }
        Ok(())
    }

    /// It is the engine of a host that starts from a copy of another one's disk.
    pub(crate) fn copy(&mut self, original: &Self) {
        self.containers = original.containers.clone();
        self.images = original.images.clone();
        self.made = original.made;
        self.containers.values_mut().for_each(|real| real.lost_process = false);
        for real in
            self.containers.values_mut().filter(|real| real.state == ContainerState::Running)
        {
            (real.state, real.exit_code, real.missed_death) = (ContainerState::Exited, None, false);
            real.finished_at = real.started_at;
        }
    }
}

impl Real {
    pub(crate) fn is_running(&self) -> bool {
        self.state == ContainerState::Running && !self.missed_death
    }

    /// This, as what has held.
    pub(super) fn held(&self) -> Held {
        Held { life: self.life, generation: self.generation, number: self.number }
    }

    /// Whether it was made for less, and before, than what has held.
    pub(crate) fn is_older_than(&self, held: Held) -> bool {
        self.life == held.life && self.generation < held.generation && self.number < held.number
    }

    /// As the engine tells it to one who looks closely.
    pub(super) fn seen(&self, id: &ContainerId) -> Container {
        let runs = self.state == ContainerState::Running;
        Container {
            id: id.clone(),
            instance: self.instance.clone(),
            generation: self.generation,
            life: self.life,
            slot: self.slot,
            address: Some(self.address),
            fingerprint: self.fingerprint.clone(),
            state: self.state,
            restarts_asked: self.restarts_asked,
            details: Some(Details {
                pid: runs.then(|| u32::try_from(self.run).unwrap_or(u32::MAX)),
                started_at: self.started_at,
                finished_at: self.finished_at,
                exit_code: self.exit_code,
                out_of_memory: false,
                limits: self.limits,
                enforced: Enforced::ALL,
                stop_grace: Some(self.grace),
                own_ssh: false,
                image: ContainerImage::default(),
            }),
        }
    }
}

/// How the program in an image behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temper {
    /// It runs and is healthy after a while.
    Good,
    /// It ends after this time.
    Ends(Ms),
    /// It does its work for about this time, and ends well.
    Works(Ms),
    /// It runs and is never healthy.
    Sick,
    /// It cannot be started.
    Broken,
    /// It cannot be fetched.
    Absent,
}

impl Temper {
    pub(crate) fn of(image: &str) -> Self {
        match image.split(':').next() {
            Some("ends-soon") => Self::Ends(500),
            Some("ends-late") => Self::Ends(3_000),
            Some("works") => Self::Works(500),
            Some("sick") => Self::Sick,
            Some("broken") => Self::Broken,
            Some("absent") => Self::Absent,
            _ => Self::Good,
        }
    }
}

/// The names of images that do not work.
pub(crate) const BAD: [&str; 5] = ["ends-soon", "ends-late", "sick", "broken", "absent"];
