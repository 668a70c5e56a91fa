//! What the core tells of processes.

use std::collections::BTreeMap;

use dwell_core::clock::Timestamp;
use dwell_core::container::ContainerId;
use dwell_core::sandbox::SandboxId;

/// What was seen of every instance of which something is on the node, or is to be, by its sandboxes; of one that has
/// none, the usual one is named.
pub type Sights = BTreeMap<SandboxId, Sighted>;

/// What SSH needs to know of a sandbox of an instance and no status tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighted {
    /// Whether it is there; `None` while nobody is sure.
    pub sandbox: Option<bool>,
    /// Whether the image of what runs in it brings an SSH server; `None` while there is no container to tell it by.
    pub own_ssh: Option<bool>,
    /// The run that is under way.
    pub run: Option<Run>,
}

/// One run of a container: from a start of its main process to the end of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Of which container.
    pub container: ContainerId,
    /// When it was started, by the engine's clock: this tells it from other runs of the container.
    pub started_at: Timestamp,
    /// The main process in the host's namespace, if the engine says.
    pub pid: Option<u32>,
}
