//! What must hold of what Docker and its helpers say, for any bytes: see `fuzz/`.

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, CreateImageInfo, EventMessage, ImageSummary,
};
use dwell_core::workload::Enforced;
use serde_json::from_slice;

use crate::{credentials, daemon_json, images, pull, reply};

/// Panics if what is given breaks the parser.
pub type Holds = fn(&[u8]);

/// By their names.
pub const TARGETS: &[(&str, Holds)] = &[
    ("credential_helper", credentials::helper::fuzz),
    ("daemon_json", daemon_json::fuzz),
    ("docker_replies", docker_replies),
    ("pull_progress", pull_progress),
];

/// What is made of Docker's words for containers, events and images.
fn docker_replies(bytes: &[u8]) {
    if let Ok(entry) = from_slice::<ContainerSummary>(bytes) {
        drop(reply::listed(entry));
    }
    if let Ok(inspected) = from_slice::<ContainerInspectResponse>(bytes) {
        drop(reply::inspected(inspected, Enforced::ALL));
    }
    if let Ok(message) = from_slice::<EventMessage>(bytes) {
        drop(reply::event(message));
    }
    if let Ok(summary) = from_slice::<ImageSummary>(bytes) {
        drop(images::image(summary, 1));
    }
}

/// Line after line, how far a pull is.
fn pull_progress(bytes: &[u8]) {
    let mut layers = pull::Layers::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(reply) = from_slice::<CreateImageInfo>(line) {
            layers.take_in(&reply);
            let progress = layers.progress();
            assert!(progress.layers_done <= progress.layers);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_holds() {
        dwell_daemon::corpus::replay(super::TARGETS);
    }
}
