//! Images that come by an archive, as `docker load` takes them.
//!
//! With Docker's own store, an archive need not have a layer that the daemon has already under the same layers: it looks for each layer by
//! its chain, and opens the file of one that it does not find. With containerd's store it reads everything.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{ImportImageOptions, ListImagesOptions};
use dwell_core::image::ImageDigest;
use dwell_core::instance::sanitize;
use dwell_engine::{ArchiveStream, EngineError};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::client::{NAME, QUICK, SLOW, limited, meaning};

const OPERATION: &str = "load images";
/// How long a load may take. Whoever sends the archive has limits of their own for that part.
const LOAD_LIMIT: Duration = Duration::from_secs(6 * 3600);
/// How many images are looked at for layers, and how many at a time.
const IMAGES_MAX: usize = 2_000;
const LOOKS_MAX: usize = 8;
/// The longest text of the daemon's that is passed on, in bytes.
const REASON_MAX: usize = 512;

/// Loads the images of an archive.
pub(super) async fn load(docker: &Docker, archive: ArchiveStream) -> Result<(), EngineError> {
    // The daemon says nothing before it has read everything.
    let docker = docker.clone().with_timeout(LOAD_LIMIT);
    let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
    let mut replies = docker.import_image_stream(options, archive, None);
    let loading = async {
        while replies.try_next().await?.is_some() {}
        Ok(())
    };
    limited(LOAD_LIMIT, loading).await.map_err(|error| match error {
        Error::DockerStreamError { error } => {
            let reason = sanitize(&error, REASON_MAX);
            EngineError::Other { engine: NAME, operation: OPERATION, reason }
        }
        error => meaning(error, OPERATION, ""),
    })
}

/// How many of these layers the daemon has, one on the other, so that an archive can do without.
pub(super) async fn spared_layers(
    docker: &Docker,
    layers: &[ImageDigest],
) -> Result<usize, EngineError> {
    let info = limited(QUICK, docker.info()).await;
    let info = info.map_err(|error| meaning(error, OPERATION, ""))?;
    if is_containerds(info.driver_status.as_deref().unwrap_or_default()) {
        return Ok(0);
    }
    let images = limited(SLOW, docker.list_images(None::<ListImagesOptions>)).await;
    let images = images.map_err(|error| meaning(error, OPERATION, ""))?;
    let looks = images.into_iter().take(IMAGES_MAX).map(|image| async move {
        // One that is gone by now has none.
        let seen = limited(QUICK, docker.inspect_image(&image.id)).await.ok();
        seen.and_then(|seen| seen.root_fs?.layers).unwrap_or_default()
    });
    let mut looks = stream::iter(looks).buffer_unordered(LOOKS_MAX);
    let mut most = 0;
    while let Some(has) = looks.next().await {
        most = most.max(common(&has, layers));
    }
    Ok(most)
}

/// Whether images are kept by containerd.
fn is_containerds(driver_status: &[Vec<String>]) -> bool {
    let mut words = driver_status.iter().flatten();
    words.any(|word| word.starts_with("io.containerd.snapshotter"))
}

/// How many layers two images have in common, from the lowest on.
fn common(has: &[String], layers: &[ImageDigest]) -> usize {
    let same = |(has, layer): &(&String, &ImageDigest)| has.parse() == Ok(**layer);
    has.iter().zip(layers).take_while(same).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_in_common_are_those_below_the_first_difference() {
        let layer = |n: u8| ImageDigest::new([n; 32]);
        let has = |all: &[u8]| all.iter().map(|&n| layer(n).to_string()).collect::<Vec<_>>();
        let wanted = [layer(1), layer(2), layer(3)];
        for (held, common_with) in
            [(&[][..], 0), (&[1], 1), (&[1, 2, 3, 4], 3), (&[1, 3, 3], 1), (&[2, 3], 0)]
        {
            assert_eq!(common(&has(held), &wanted), common_with, "{held:?}");
        }
    }

    #[test]
    fn who_keeps_images_is_told_by_the_driver() {
        let status = |words: &[&str]| vec![words.iter().map(|&word| word.to_owned()).collect()];
        assert!(is_containerds(&status(&["driver-type", "io.containerd.snapshotter.v1"])));
        assert!(!is_containerds(&status(&["Backing Filesystem", "extfs"])));
    }
}
