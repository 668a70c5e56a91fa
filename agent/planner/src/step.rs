//! The steps of a plan, and how they fail.

use std::net::Ipv4Addr;

use dwell_core::foreign::Adoption;
use dwell_core::hook::Hook;
use dwell_core::id::Generation;
use dwell_core::quantity::Millis;
use dwell_core::sandbox::Slot;
use dwell_core::workload::Limits;
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use dwell_core::container::ContainerId;

/// One thing to do for one instance. Every step is idempotent: after a crash in the middle it is
/// planned again, or what it did is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the container of this generation, without starting it.
    Create {
        /// The generation of the desired state, or of its fallback.
        generation: Generation,
        /// In which of the instance's sandboxes it is to run.
        slot: Slot,
    },
    /// Make a sandbox, or check and repair it, for a container that is to be started.
    EnsureSandbox {
        /// Which.
        slot: Slot,
        /// Whether the instance's address leads there from now on. It does not to the one of a container that is tried
        /// beside the one that serves.
        reached: bool,
    },
    /// Check and repair the sandbox that a container runs in. Another one is never made in its place: if it is lost,
    /// the step fails with [`FailureKind::SandboxLost`].
    RepairSandbox {
        /// Which.
        slot: Slot,
        /// As above.
        reached: bool,
    },
    /// Copy files of a container that has ended into one that was never started, in place of what is there.
    Carry {
        /// From which.
        from: ContainerId,
        /// Into which.
        into: ContainerId,
        /// Which, as absolute paths inside; what is not there is left out.
        paths: Vec<String>,
    },
    /// Start a container in the instance's sandbox.
    Start {
        /// Which.
        container: ContainerId,
    },
    /// Call the hook of a container whose main process was started.
    AfterStart {
        /// Which.
        container: ContainerId,
        /// The hook.
        call: HookCall,
    },
    /// Ask the main process to end, and kill it after the grace.
    Stop {
        /// Which container's.
        container: ContainerId,
        /// How long it may take.
        grace: Millis,
        /// What is called before. Whatever comes of it, the main process is asked to end.
        before: Option<HookCall>,
    },
    /// Stop the container that dwell did not make and in whose place the instance is put, and have nobody start it again.
    StopForeign(Box<Adoption>),
    /// Keep what such a container has in its own file system and in its volumes, for the instance. It has to be stopped.
    KeepForeign(Box<Adoption>),
    /// Start such a container again, as it was. One that is gone is fine.
    StartForeign(Box<Adoption>),
    /// Remove a container that does not run.
    Remove {
        /// Which.
        container: ContainerId,
    },
    /// Set the limits of a container while it runs.
    UpdateLimits {
        /// Which.
        container: ContainerId,
        /// The limits.
        limits: Limits,
        /// Although it uses more than they allow.
        force: bool,
    },
    /// Take a sandbox away.
    RemoveSandbox {
        /// Which.
        slot: Slot,
    },
    /// Make this the instance's journal; it has to be durable before the next step.
    Record(Box<Journal>),
    /// Remove the instance's journal: nothing of the instance is left.
    Forget,
}

/// A hook, and where it is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCall {
    /// The address of the instance.
    pub address: Ipv4Addr,
    /// The sandbox that is meant, of those with this address.
    #[serde(default, skip_serializing_if = "Slot::is_usual")]
    pub slot: Slot,
    /// The hook.
    pub hook: Hook,
}

impl Step {
    /// Whether what makes one of two steps fail makes the other fail too. Whatever is to be written into a journal, it is
    /// the disk that takes it or not; other steps are about different things if they differ at all.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let is_journal = |step: &Self| matches!(step, Self::Record(_) | Self::Forget);
        self == other || (is_journal(self) && is_journal(other))
    }
}

/// How a step or a pull failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What this means for trying again.
    pub kind: FailureKind,
    /// The reason, for people.
    pub message: String,
}

/// What a failure means for trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// It may pass: tried again soon, then with growing pauses.
    Transient,
    /// Only somebody can mend it: tried again seldom.
    Permanent,
    /// The image is not on the node: fetched, then tried again.
    ImageMissing,
    /// The sandbox of a running container is lost: the container is started again in another one.
    SandboxLost,
}
