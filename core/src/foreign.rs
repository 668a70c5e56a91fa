//! Containers that dwell did not make: what they are in its words, and the order to put an instance in the place of one.
//!
//! ```text
//!   Foreign: what a node found ──▶ an operator has seen it ──▶ Adoption: what the node is to do, and to undo if need be
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::ContainerId;
use crate::id::VolumeName;
use crate::quantity::{Bytes, Millis};
use crate::workload::Template;

/// Where images are kept that are made of the files of containers: no registry has that name, so that none is ever asked.
pub const ADOPTED_IMAGES: &str = "localhost/dwell-adopted";

/// The most volumes a container may have that is adopted.
pub const VOLUMES_MAX: usize = 64;

/// The most sentences of a kind that are told of a container.
pub const SENTENCES_MAX: usize = 100;

/// A running container that dwell did not make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The engine's id of it.
    pub id: ContainerId,
    /// Its name with the engine.
    pub name: String,
    /// What an instance in its place is to be. The image is the one that the container was made from; empty if no name leads
    /// to that.
    pub template: Template,
    /// How much it has written into its own file system, if that has to be kept as an image for nothing to be lost; `None`
    /// if the container's image has all of it.
    pub own_files: Option<Bytes>,
    /// The volumes that are copied; in the template they are mounted under these names.
    pub volumes: Vec<ForeignVolume>,
    /// What the engine does when it ends.
    pub restart: ForeignRestart,
    /// What is different afterwards: whole sentences, each with what it means. At most [`SENTENCES_MAX`].
    pub changes: Vec<String>,
    /// Why it cannot be adopted: whole sentences; none if it can. At most [`SENTENCES_MAX`].
    pub obstacles: Vec<String>,
}

/// A volume of a container that dwell did not make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignVolume {
    /// What it is called as the instance's.
    pub name: VolumeName,
    /// What the engine calls it.
    pub source: String,
    /// What it takes on the disk, if that is known.
    pub size: Option<Bytes>,
}

/// What an engine does when a container that is not dwell's ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForeignRestart {
    /// Nothing.
    #[default]
    No,
    /// It starts it again.
    Always,
    /// The same, unless somebody has stopped it.
    UnlessStopped,
    /// It starts it again unless it ended with exit code 0; so often in a row, or however often.
    OnFailure(Option<u32>),
}

/// The order to put an instance in the place of a container that dwell did not make: all that its node has to know to do it, and to
/// undo it.
///
/// ```text
///   the container is stopped, and its files are kept ─▶ the instance runs ─┬─ it holds ────────▶ the container stays stopped
///                                                                          └─ it does not hold ─▶ the container runs again
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// The engine's id of the container.
    pub container: ContainerId,
    /// Its name with the engine, for people.
    pub name: String,
    /// How long its main process may take to end.
    pub grace: Millis,
    /// What the engine did when it ended, and does again if the container is put back.
    #[serde(default)]
    pub restart: ForeignRestart,
    /// The name of the image that is made of its own files; `None` if it has none that its image does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The engine's name of each volume that is copied, by what it is called as the instance's. At most [`VOLUMES_MAX`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<VolumeName, String>,
}
