//! Fetching images, and how far that has come.

use std::collections::HashMap;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use dwell_core::instance::sanitize;
use futures_util::StreamExt;
use tokio::sync::watch;

use super::client::{QUICK, SLOW, limited, meaning, status};
use dwell_engine::{EngineError, PullProgress};

/// How many layers are counted; an image can have 127.
const LAYERS_MAX: usize = 1_000;

/// Fetches an image. If that fails, one that is there is good enough: somebody may have loaded it by
/// hand, where no registry is to be had.
pub(super) async fn pull(
    docker: &Docker,
    image: &str,
    progress: &watch::Sender<PullProgress>,
) -> Result<(), EngineError> {
    let Err(failure) = fetch(docker, image, progress).await else { return Ok(()) };
    match limited(QUICK, docker.inspect_image(image)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(failure),
    }
}

/// A daemon that says nothing for [`SLOW`] counts as failing.
async fn fetch(
    docker: &Docker,
    image: &str,
    progress: &watch::Sender<PullProgress>,
) -> Result<(), EngineError> {
    let options =
        CreateImageOptions { from_image: Some(with_tag(image)), ..CreateImageOptions::default() };
    let mut replies = docker.create_image(Some(options), None, None);
    let mut layers = Layers::default();
    loop {
        let reply = limited(SLOW, async { replies.next().await.transpose() }).await;
        match reply.map_err(|error| failure(image, error))? {
            Some(reply) => {
                layers.take_in(&reply);
                progress.send_replace(layers.progress());
            }
            None => return Ok(()),
        }
    }
}

fn failure(image: &str, error: Error) -> EngineError {
    // 404 is also what Docker says for a private image without the right to it.
    let permanent = matches!(status(&error), Some(400 | 401 | 403 | 404));
    let failed = |reason: &str| EngineError::PullFailed {
        image: image.to_owned(),
        reason: sanitize(reason, 512),
        permanent,
    };
    match error {
        Error::DockerResponseServerError { message, .. } => failed(&message),
        Error::DockerStreamError { error } => failed(&error),
        error => meaning(error, "pull an image", ""),
    }
}

/// Docker takes a name alone for all tags of it.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// The layers of an image that is being fetched: bytes there and to come, and whether it is complete.
#[derive(Default)]
struct Layers(HashMap<String, (u64, u64, bool)>);

impl Layers {
    fn take_in(&mut self, reply: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&reply.id, &reply.status) else { return };
        // The first reply has the tag for an id; only these words are about layers.
        let complete = matches!(status.as_str(), "Pull complete" | "Already exists");
        let downloading = status == "Downloading";
        if !(complete || downloading || status == "Pulling fs layer") {
            return;
        }
        if self.0.len() >= LAYERS_MAX && !self.0.contains_key(id) {
            return;
        }
        let layer = self.0.entry(id.clone()).or_default();
        if let Some(detail) = reply.progress_detail.as_ref().filter(|_| downloading) {
            let bytes = |count: Option<i64>| u64::try_from(count.unwrap_or(0)).unwrap_or(0);
            (layer.0, layer.1) = (bytes(detail.current), bytes(detail.total));
        }
        if complete {
            (layer.0, layer.2) = (layer.1, true);
        }
    }

    fn progress(&self) -> PullProgress {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        PullProgress {
            layers_done: count(self.0.values().filter(|layer| layer.2).count()),
            layers: count(self.0.len()),
            bytes_done: self.0.values().map(|layer| layer.0).sum(),
            bytes: self.0.values().map(|layer| layer.1).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_means_its_latest() {
        for (image, asked) in [
            ("debian", "debian:latest"),
            ("debian:12", "debian:12"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("a@sha256:00", "a@sha256:00"),
        ] {
            assert_eq!(with_tag(image), asked);
        }
    }

    #[test]
    fn progress_counts_layers_and_bytes() {
        let mut layers = Layers::default();
        for reply in [
            r#"{"status":"Pulling from library/debian","id":"12"}"#,
            r#"{"status":"Pulling fs layer","id":"a"}"#,
            r#"{"status":"Already exists","id":"b"}"#,
            r#"{"status":"Downloading","id":"a","progressDetail":{"current":5,"total":10}}"#,
            r#"{"status":"Extracting","id":"a","progressDetail":{"current":1,"total":10}}"#,
        ] {
            layers.take_in(&serde_json::from_str(reply).unwrap());
        }
        let half = PullProgress { layers_done: 1, layers: 2, bytes_done: 5, bytes: 10 };
        assert_eq!(layers.progress(), half);
        layers.take_in(&serde_json::from_str(r#"{"status":"Pull complete","id":"a"}"#).unwrap());
        assert_eq!(layers.progress(), PullProgress { layers_done: 2, bytes_done: 10, ..half });
    }

    #[test]
    fn which_failures_are_permanent() {
        let reply = |status_code| Error::DockerResponseServerError {
            status_code,
            message: "no".to_owned(),
        };
        assert!(failure("a", reply(404)).is_permanent());
        assert!(!failure("a", reply(500)).is_permanent());
        assert!(!failure("a", Error::DockerStreamError { error: "eof".to_owned() }).is_permanent());
    }
}
