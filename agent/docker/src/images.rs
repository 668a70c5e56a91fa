//! The images that a daemon has, whosever they are.

use std::collections::BTreeMap;

use bollard::Docker;
use bollard::models::ImageSummary;
use bollard::query_parameters::{ListContainersOptions, ListImagesOptions, RemoveImageOptions};
use dwell_core::clock::Timestamp;
use dwell_core::image::ImageDigest;
use dwell_core::quantity::Bytes;
use dwell_engine::{EngineError, Image};

use super::client::{QUICK, SLOW, limited, malformed, meaning, status};

/// All images, and how many containers are made from each.
pub(super) async fn list(docker: &Docker) -> Result<Vec<Image>, EngineError> {
    const OPERATION: &str = "list images";
    let options = ListImagesOptions { digests: true, ..ListImagesOptions::default() };
    // It adds up the sizes of all layers.
    let images = limited(SLOW, docker.list_images(Some(options))).await;
    let images = images.map_err(|error| meaning(error, OPERATION, ""))?;
    let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
    let containers = limited(QUICK, docker.list_containers(Some(options))).await;
    let containers = containers.map_err(|error| meaning(error, OPERATION, ""))?;
    let mut made: BTreeMap<String, u32> = BTreeMap::new();
    for image in containers.into_iter().filter_map(|container| container.image_id) {
        *made.entry(image).or_default() += 1;
    }
    let read = |summary: ImageSummary| {
        let containers = made.get(&summary.id).copied().unwrap_or(0);
        image(summary, containers).ok_or_else(|| malformed(OPERATION, "an image without an id"))
    };
    images.into_iter().map(read).collect()
}

pub(super) fn image(summary: ImageSummary, containers: u32) -> Option<Image> {
    let names = summary.repo_tags.into_iter().chain(summary.repo_digests);
    let seconds = u64::try_from(summary.created).unwrap_or(0);
    Some(Image {
        id: summary.id.parse().ok()?,
        // What has no name is called so.
        names: names.filter(|name| !name.contains("<none>")).collect(),
        size: Bytes(u64::try_from(summary.size).unwrap_or(0)),
        created_at: Timestamp(seconds.saturating_mul(1000)),
        containers,
    })
}

/// The image that a container would be made from.
pub(super) async fn find(
    docker: &Docker,
    reference: &str,
) -> Result<Option<ImageDigest>, EngineError> {
    const OPERATION: &str = "inspect an image";
    match limited(QUICK, docker.inspect_image(reference)).await {
        Ok(seen) => {
            let id = seen.id.and_then(|id| id.parse().ok());
            id.map(Some).ok_or_else(|| malformed(OPERATION, "an image without an id"))
        }
        // A reference that makes no sense means nothing.
        Err(error) if matches!(status(&error), Some(400 | 404)) => Ok(None),
        Err(error) => Err(meaning(error, OPERATION, reference)),
    }
}

/// Never by force: what a container is made from stays.
pub(super) async fn remove(docker: &Docker, name: &str) -> Result<(), EngineError> {
    let removed = limited(SLOW, docker.remove_image(name, None::<RemoveImageOptions>, None)).await;
    match removed {
        Ok(_) => Ok(()),
        Err(error) if status(&error) == Some(404) => Ok(()),
        Err(error) => Err(meaning(error, "remove an image", name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_goes_by_its_tags_and_digests_and_can_be_without_any() {
        let read = |tags: &str, digests: &str| {
            let text = format!(
                r#"{{"Id":"sha256:{}","ParentId":"","RepoTags":{tags},"RepoDigests":{digests},"Created":1700000000,
                    "Size":7,"SharedSize":-1,"Labels":null,"Containers":-1}}"#,
                "0a".repeat(32)
            );
            image(serde_json::from_str(&text).unwrap(), 2).unwrap()
        };
        let named = read(r#"["a:1","b:<none>"]"#, r#"["a@sha256:00"]"#);
        assert_eq!(named.names, ["a:1", "a@sha256:00"].map(str::to_owned).into());
        assert_eq!((named.size, named.created_at), (Bytes(7), Timestamp(1_700_000_000_000)));
        assert_eq!((named.id, named.containers), (ImageDigest::new([10; 32]), 2));
        for none in [r#"["<none>:<none>"]"#, "[]", "null"] {
            assert!(read(none, r#"["<none>@<none>"]"#).names.is_empty(), "{none}");
        }
    }
}
