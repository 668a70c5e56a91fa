//! The steps of a plan, and how they fail.

use dwell_core::id::Generation;
use dwell_core::quantity::Millis;
use dwell_core::workload::Limits;

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
    },
    /// Make the sandbox, or check and repair it, for a container that is to be started.
    EnsureSandbox,
    /// Check and repair the sandbox that a container runs in. Another one is never made beside it: if it is lost,
    /// the step fails with [`FailureKind::SandboxLost`].
    RepairSandbox,
    /// Start a container in the instance's sandbox.
    Start {
        /// Which.
        container: ContainerId,
    },
    /// Ask the main process to end, and kill it after the grace.
    Stop {
        /// Which container's.
        container: ContainerId,
        /// How long it may take.
        grace: Millis,
    },
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
    },
    /// Take the sandbox away.
    RemoveSandbox,
    /// Make this the instance's journal; it has to be durable before the next step.
    Record(Journal),
    /// Remove the instance's journal: nothing of the instance is left.
    Forget,
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
