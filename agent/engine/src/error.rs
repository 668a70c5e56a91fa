//! What can go wrong with an engine, by what it means to the one who asked.

use std::time::Duration;

use dwell_core::id::{InstanceName, VolumeName};

/// Why an engine did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// There is no such container, or it is not of this cluster.
    #[error("container {id} does not exist")]
    NotFound {
        /// The one asked for.
        id: String,
    },
    /// A container of this instance and generation is there already; list to find it.
    #[error("container {name} exists already")]
    AlreadyExists {
        /// Its name.
        name: String,
    },
    /// It can only be done while the container runs.
    #[error("container {id} is not running")]
    NotRunning {
        /// The one asked for.
        id: String,
    },
    /// The image has to be pulled first.
    #[error("image {image} is not on this node")]
    ImageMissing {
        /// As the specification has it.
        image: String,
    },
    /// The image could not be fetched.
    #[error("pull of image {image} {access} failed: {reason}{}", then(next.as_deref()))]
    PullFailed {
        /// As the specification has it.
        image: String,
        /// From where and as whom, such as `from ghcr.io without credentials`.
        access: String,
        /// In the words of the engine or the registry.
        reason: String,
        /// What an operator can do about it, if that is known.
        next: Option<String>,
        /// Whether trying again without a change is pointless: there is no such image, or no right to it.
        permanent: bool,
    },
    /// A volume that the instance had is not there; none is made in its place.
    #[error(
        "its volume {volume} is not on this node any more; bring it back, or give the data up with `dwell volume rm {instance} {volume}`"
    )]
    VolumeMissing {
        /// Whose.
        instance: InstanceName,
        /// Its name.
        volume: VolumeName,
    },
    /// The request makes no sense to the engine; trying again without a change is pointless.
    #[error("{engine} refused to {operation}: {reason}")]
    Refused {
        /// Which engine.
        engine: &'static str,
        /// What it was to do.
        operation: &'static str,
        /// In its words.
        reason: String,
    },
    /// The engine does not answer, or went away while it was asked. What was asked may have been done.
    #[error("{engine} does not answer ({reason}); is it running?")]
    Unavailable {
        /// Which engine.
        engine: &'static str,
        /// What was seen.
        reason: String,
    },
    /// The engine does not know the runtime that puts a container into its sandbox.
    #[error("{engine} does not know the runtime {runtime:?}; {fix}")]
    RuntimeMissing {
        /// Which engine.
        engine: &'static str,
        /// The runtime.
        runtime: String,
        /// What makes it known.
        fix: &'static str,
    },
    /// It failed in a way that may pass.
    #[error("{engine} failed to {operation}: {reason}")]
    Other {
        /// Which engine.
        engine: &'static str,
        /// What it was to do.
        operation: &'static str,
        /// In its words.
        reason: String,
    },
}

/// The next step, for the end of a message.
fn then(next: Option<&str>) -> String {
    next.map(|next| format!("; {next}")).unwrap_or_default()
}

impl EngineError {
    /// Whether trying again without a change of anything is pointless.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::PullFailed { permanent: true, .. })
    }

    /// An engine that took longer than it was given.
    #[must_use]
    pub fn timed_out(engine: &'static str, limit: Duration) -> Self {
        Self::Unavailable { engine, reason: format!("no reply within {} ms", limit.as_millis()) }
    }
}
