//! Containers that dwell did not make.

use dwell_core::instance::{MESSAGE_MAX, sanitize};
use dwell_core::workload::WorkloadSpec;
use dwell_proto::v1;
use serde::Serialize;

use crate::failure::Failure;

/// `dwell adopt --container`.
#[derive(Debug, Serialize)]
pub(crate) struct AdoptionView {
    pub(crate) node: String,
    pub(crate) container: String,
    pub(crate) container_id: String,
    /// What is declared for it.
    pub(crate) workload: WorkloadSpec,
    /// The instance in its place.
    pub(crate) instance: String,
    /// The image that is made of its own files, on its node alone; empty if there are none to keep.
    pub(crate) image: String,
    /// How much that is.
    pub(crate) image_bytes: u64,
    pub(crate) volumes: Vec<AdoptedVolumeView>,
    /// What is different afterwards.
    pub(crate) changes: Vec<String>,
    /// Why it cannot be adopted; empty if it can.
    pub(crate) obstacles: Vec<String>,
}

/// A volume that is copied while the container is stopped.
#[derive(Debug, Serialize)]
pub(crate) struct AdoptedVolumeView {
    pub(crate) name: String,
    pub(crate) source: String,
    /// `null` if that is not known.
    pub(crate) bytes: Option<u64>,
}

impl AdoptionView {
    /// What the controller answered about a container of a node.
    ///
    /// # Errors
    /// If it is of another version.
    pub(crate) fn new(node: String, answer: v1::AdoptContainerResponse) -> Result<Self, Failure> {
        let newer = || {
            Failure::Other(
                "the controller answers what this command line does not know; update it".to_owned(),
            )
        };
        let container = answer.container.ok_or_else(newer)?;
        let workload = answer.workload.ok_or_else(newer)?;
        let workload = WorkloadSpec::try_from(workload).map_err(|_| newer())?;
        let plain = |all: Vec<String>| all.iter().map(|one| sanitize(one, MESSAGE_MAX)).collect();
        let volume = |one: v1::ForeignVolume| AdoptedVolumeView {
            name: sanitize(&one.name, MESSAGE_MAX),
            source: sanitize(&one.source, MESSAGE_MAX),
            bytes: one.bytes,
        };
        Ok(Self {
            node,
            container: sanitize(&container.name, MESSAGE_MAX),
            container_id: sanitize(&container.container_id, MESSAGE_MAX),
            instance: format!("{}-0", workload.name),
            workload,
            image: sanitize(&answer.image, MESSAGE_MAX),
            image_bytes: container.own_bytes.unwrap_or_default(),
            volumes: container.volumes.into_iter().map(volume).collect(),
            changes: plain(container.changes),
            obstacles: plain(container.obstacles),
        })
    }

    /// How much is copied, as far as it is known.
    pub(crate) fn bytes(&self) -> u64 {
        let volumes = self.volumes.iter().filter_map(|volume| volume.bytes);
        volumes.fold(self.image_bytes, u64::saturating_add)
    }
}
