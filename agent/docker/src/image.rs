//! What Docker has under a reference: which image that is, and what a container needs to know of it.

use bollard::Docker;
use dwell_core::image::{ImageDigest, digest_of, pinned, repository};

use super::client::{QUICK, limited, meaning, status};
use dwell_engine::EngineError;

/// An image that is on the node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The reference to make a container from. It names the image's digest if the image is of a registry, so that the
    /// container is of these bytes, and says so, also if the tag moves at this moment.
    pub(super) reference: String,
    /// The paths that it declares as volumes. Docker would give each an anonymous volume, which goes with the container.
    pub(super) volumes: Vec<String>,
    /// The digests of its layers, the lowest first.
    pub(super) layers: Vec<String>,
    /// What it runs: its entry point, and the command after that.
    pub(super) runs: (Vec<String>, Vec<String>),
}

/// Looks for the image of a reference.
pub(super) async fn find(docker: &Docker, reference: &str) -> Result<Found, EngineError> {
    match limited(QUICK, docker.inspect_image(reference)).await {
        Ok(seen) => {
            let digest = known_as(reference, seen.repo_digests.as_deref().unwrap_or_default());
            let config = seen.config.unwrap_or_default();
            Ok(Found {
                reference: pinned(reference, digest).into_owned(),
                volumes: config.volumes.unwrap_or_default(),
                layers: seen.root_fs.and_then(|root| root.layers).unwrap_or_default(),
                runs: (config.entrypoint.unwrap_or_default(), config.cmd.unwrap_or_default()),
            })
        }
        Err(error) if status(&error) == Some(404) => {
            Err(EngineError::ImageMissing { image: reference.to_owned() })
        }
        Err(error) => Err(meaning(error, "inspect an image", reference)),
    }
}

/// Under which digest the repository of a reference has an image. A repository can have one image under several; any
/// of them is right, and it is always the same one.
fn known_as(reference: &str, repo_digests: &[String]) -> Option<ImageDigest> {
    let of_it = repo_digests.iter().filter(|known| repository(known) == repository(reference));
    of_it.filter_map(|known| digest_of(known)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_references_own_repository() {
        let (one, other) = (ImageDigest::new([1; 32]), ImageDigest::new([2; 32]));
        let known = [format!("mirror:5000/a@{other}"), format!("a@{one}")];
        assert_eq!(known_as("docker.io/library/a:1", &known), Some(one));
        assert_eq!(known_as("mirror:5000/a:1", &known), Some(other));
        assert_eq!(known_as("b:1", &known), None);
        let several = [format!("a@{other}"), format!("a@{one}")];
        assert_eq!(known_as("a", &several), Some(one));
        assert_eq!(known_as("a", &[]), None, "it was made here");
    }
}
