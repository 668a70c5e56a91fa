//! Containers as an engine tells of them, whichever engine it is.

use std::fmt;
use std::net::Ipv4Addr;

use crate::clock::Timestamp;
use crate::id::{Generation, InstanceName, Revision};
use crate::image::ContainerImage;
use crate::quantity::Millis;
use crate::sandbox::{SandboxId, Slot};
use crate::workload::{Enforced, Fingerprint, Limits};
use serde::{Deserialize, Serialize};

/// The engine's name for a container.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(pub String);

impl ContainerId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    /// The first twelve characters, as Docker shows them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.get(..12).unwrap_or(&self.0))
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A container of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name with the engine.
    pub id: ContainerId,
    /// The instance it is of.
    pub instance: InstanceName,
    /// The generation it was made for. A live change raises the instance's, not the container's.
    pub generation: Generation,
    /// The life of its instance that it was made in; 0 if that is not written on it.
    pub life: Revision,
    /// In which of its instance's sandboxes it runs.
    pub slot: Slot,
    /// The address that it was made for; `None` if that is not written on it.
    pub address: Option<Ipv4Addr>,
    /// What it was made from.
    pub fingerprint: Fingerprint,
    /// Whether its main process runs.
    pub state: ContainerState,
    /// How often a restart of its instance had been asked for when it was made.
    pub restarts_asked: u64,
    /// What a closer look tells beyond that; a list leaves it out.
    pub details: Option<Details>,
}

impl Container {
    /// In which sandbox it runs.
    #[must_use]
    pub fn sandbox(&self) -> SandboxId {
        SandboxId { instance: self.instance.clone(), slot: self.slot }
    }
}

/// What only a closer look at a container tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The id of its main process in the host's namespace, while it runs.
    pub pid: Option<u32>,
    /// When its main process was last started, if ever: with the container's id, this names one run.
    pub started_at: Option<Timestamp>,
    /// When its main process last ended, if it does not run.
    pub finished_at: Option<Timestamp>,
    /// How its main process ended, if it was ever started and does not run.
    pub exit_code: Option<i32>,
    /// Whether the OOM killer killed one of its processes in that run.
    pub out_of_memory: bool,
    /// Its limits now.
    pub limits: Limits,
    /// Which limits its engine can hold it to.
    pub enforced: Enforced,
    /// How long its main process may take to end, as was declared when it was made, if that is written on it.
    pub stop_grace: Option<Millis>,
    /// Whether it brings an SSH server of its own, as far as that can be told from outside.
    pub own_ssh: bool,
    /// What it was made from.
    pub image: ContainerImage,
}

/// Where a container is in its life, as the engine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made and never started.
    Created,
    /// Its main process runs (or was frozen by somebody).
    Running,
    /// Its main process has ended.
    Exited,
    /// The engine is removing it, or failed to: only removing it again makes sense.
    Dead,
}

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// To which.
    pub id: ContainerId,
    /// The instance it is of.
    pub instance: InstanceName,
    /// When, by the engine's clock.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
}

/// What happened to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Its main process was started.
    Started,
    /// Its main process ended.
    Died {
        /// With what, if the engine says.
        exit_code: Option<i32>,
    },
    /// The OOM killer killed one of its processes.
    OutOfMemory,
    /// It was removed.
    Removed,
    /// Something else that may have changed what a look says: created, renamed, frozen, updated.
    Changed,
}
