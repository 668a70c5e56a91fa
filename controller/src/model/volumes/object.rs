//! A volume as the model has it, and as people see it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NameError, NodeName, Revision, VolumeName};
use serde::{Deserialize, Serialize};

/// Data of an instance, on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Whose data it is, under which name, and where.
    #[serde(flatten)]
    pub key: VolumeKey,
    /// What becomes of it.
    pub state: VolumeState,
    /// The path at which the image asked for it, if no declaration did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_path: Option<String>,
    /// Whether its node has ever said that it is there.
    #[serde(default)]
    pub seen: bool,
    /// When the controller first knew of it.
    pub created_at: Timestamp,
    /// Of its last change.
    pub revision: Revision,
}

/// Names a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeKey {
    /// The instance whose data it is. There need be no such instance now.
    pub instance: InstanceName,
    /// Its name, unique within the instance.
    pub name: VolumeName,
    /// The node that has it.
    pub node: NodeName,
}

impl FromStr for VolumeKey {
    type Err = NameError;

    /// What [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (instance, rest) = text.split_once('/').unwrap_or((text, ""));
        let (name, node) = rest.split_once('@').unwrap_or((rest, ""));
        Ok(Self { instance: instance.parse()?, name: name.parse()?, node: node.parse()? })
    }
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.instance, self.name, self.node)
    }
}

/// What becomes of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// It is the instance's data.
    Kept,
    /// Its node was removed by force, or had it and does not have it any more. The instance waits, rather than start with
    /// nothing.
    Lost,
    /// Another volume of the same name, on another node, has taken its place, or may be the newer one.
    Stale,
    /// It is copied from another node, and is no volume yet.
    Copy,
    /// Its node is to delete it.
    Deleting {
        /// The revision from which on the node is told so.
        since: Revision,
    },
}

/// A volume and what it is to its instance now.
#[derive(Clone, Debug)]
pub struct VolumeView {
    /// The volume.
    pub volume: Arc<Volume>,
    /// Whether its instance is on its node and mounts it, or is to.
    pub in_use: bool,
    /// What people should know of it; empty if it is in use and all is well.
    pub message: String,
}

impl Volume {
    /// Whether its node has had it, so that an empty one would take the place of data.
    pub(in crate::model) fn has_been_there(&self) -> bool {
        match self.state {
            VolumeState::Kept => self.seen,
            VolumeState::Lost => true,
            VolumeState::Stale | VolumeState::Copy | VolumeState::Deleting { .. } => false,
        }
    }

    /// Whether there may be data in it that only an operator gives up.
    pub(super) fn may_have_data(&self) -> bool {
        self.has_been_there() || self.state == VolumeState::Stale
    }

    /// Whether an instance that mounts `declared` is tied to it. What the image asked for ties it as
    /// well: only the node could tell whether today's image still does.
    pub(super) fn concerns(&self, declared: &BTreeSet<&VolumeName>) -> bool {
        self.image_path.is_some() || declared.contains(&self.key.name)
    }
}
