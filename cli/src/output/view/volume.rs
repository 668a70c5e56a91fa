//! Volumes.

use dwell_proto::v1;
use serde::Serialize;

/// `dwell volume ls`.
#[derive(Debug, Serialize)]
pub(crate) struct VolumesView {
    pub(crate) volumes: Vec<VolumeView>,
}

/// Data of an instance, on a node.
#[derive(Debug, Serialize)]
pub(crate) struct VolumeView {
    pub(crate) instance: String,
    pub(crate) name: String,
    pub(crate) node: String,
    /// `kept`, `lost`, `stale`, `deleting` or `unknown`.
    pub(crate) state: &'static str,
    /// Whether its instance is on its node and mounts it.
    pub(crate) in_use: bool,
    /// The path at which the image asked for it; empty if a declaration did.
    pub(crate) image_path: String,
    /// Whether its node has said that it is there.
    pub(crate) seen: bool,
    #[serde(serialize_with = "crate::output::time::serialize")]
    pub(crate) created_at: u64,
    /// What to know of it; empty if it is in use and all is well.
    pub(crate) message: String,
}

impl VolumesView {
    /// In the order of instances, names and nodes.
    pub(crate) fn new(volumes: Vec<v1::Volume>) -> Self {
        Self { volumes: volumes.into_iter().map(Into::into).collect() }
    }
}

impl From<v1::Volume> for VolumeView {
    fn from(wire: v1::Volume) -> Self {
        use v1::volume::State;
        Self {
            state: match wire.state() {
                State::Kept => "kept",
                State::Lost => "lost",
                State::Stale => "stale",
                State::Copy => "copy",
                State::Deleting => "deleting",
                State::Unspecified => "unknown",
            },
            instance: wire.instance,
            name: wire.name,
            node: wire.node,
            in_use: wire.in_use,
            image_path: wire.image_path,
            seen: wire.seen,
            created_at: wire.created_at_ms,
            message: wire.message,
        }
    }
}
