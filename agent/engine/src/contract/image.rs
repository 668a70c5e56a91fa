//! The images of a node.

use super::{Harness, Program, inspected, started};
use crate::{Engine, Image};

/// The image of a reference, as the list has it.
async fn listed(engine: &dyn Engine, reference: &str) -> Option<Image> {
    let id = engine.find_image(reference).await.unwrap()?;
    engine.images().await.unwrap().into_iter().find(|image| image.id == id)
}

/// What is there goes by its names, what a container is made from says so, and what is not there is not found.
pub async fn images_are_listed_with_their_names_and_containers(harness: &dyn Harness) {
    let engine = harness.engine();
    let id = started(harness, "listed-0", Program::Serves { exit_code: 0 }).await;
    let reference = harness.template(Program::Serves { exit_code: 0 }).image;
    let image = listed(engine, &reference).await.expect("its image is there");
    assert!(image.names.contains(&reference), "{image:?}");
    assert!(image.size.0 > 0 && image.containers > 0, "{image:?}");
    assert_eq!(inspected(harness, &id).await.details.unwrap().image.id, Some(image.id));
    engine.remove(&id).await.unwrap();
    assert_eq!(engine.find_image(&harness.of_missing_image().image).await.unwrap(), None);
}
