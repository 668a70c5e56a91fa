//! The images of a node.

use std::io;

use dwell_core::workload::Template;
use futures_util::{StreamExt, stream};
use tokio_util::bytes::Bytes;

use super::{Harness, Program, inspected, started};
use crate::{ArchiveStream, Engine, EngineError, Image, fake};

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
    let image = listed(engine, &reference).await.unwrap();
    assert!(image.names.contains(&reference), "{image:?}");
    assert!(image.size.0 > 0 && image.containers > 0, "{image:?}");
    assert_eq!(inspected(harness, &id).await.details.unwrap().image.id, Some(image.id));
    engine.remove(&id).await.unwrap();
    assert_eq!(engine.find_image(&harness.of_missing_image().image).await.unwrap(), None);
}

/// An archive in pieces, which ends well, or not.
fn pieces(archive: &[u8], ends_well: bool) -> ArchiveStream {
    let mut pieces: Vec<io::Result<Bytes>> =
        archive.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    if !ends_well {
        pieces.push(Err(io::ErrorKind::UnexpectedEof.into()));
    }
    stream::iter(pieces).boxed()
}

/// An image comes under the name in its archive, is good for a container, and goes with its last name.
pub async fn a_loaded_image_goes_with_its_last_name(harness: &dyn Harness) {
    const NAME: &str = "dwell-loaded:1";
    let engine = harness.engine();
    let archive = harness.archive(NAME).await;
    assert_eq!(engine.find_image(NAME).await.unwrap(), None);
    for _ in 0..2 {
        engine.load_images(pieces(&archive, true)).await.unwrap();
        let image = listed(engine, NAME).await.unwrap();
        assert_eq!((&image.names, image.containers), (&[NAME.to_owned()].into(), 0));
    }
    for _ in 0..2 {
        engine.remove_image(NAME).await.unwrap();
        assert_eq!(engine.find_image(NAME).await.unwrap(), None);
    }
    assert!(engine.images().await.unwrap().iter().all(|image| !image.names.contains(NAME)));
}

/// What is cut off at any place, or ends with an error, was never there.
pub async fn half_an_archive_leaves_nothing(harness: &dyn Harness) {
    const NAME: &str = "dwell-half:1";
    let engine = harness.engine();
    let archive = harness.archive(NAME).await;
    let before = engine.images().await.unwrap().len();
    for (length, ends_well) in [(archive.len() / 2, true), (archive.len() / 2, false), (0, false)] {
        let cut = pieces(&archive[..length], ends_well);
        engine.load_images(cut).await.unwrap_err();
        assert_eq!(engine.find_image(NAME).await.unwrap(), None, "{length} {ends_well}");
    }
    assert!(engine.images().await.unwrap().len() <= before);
}

/// The image of a container stays, whatever is asked.
pub async fn what_a_container_is_made_from_is_not_removed(harness: &dyn Harness) {
    const NAME: &str = "dwell-used:1";
    let engine = harness.engine();
    engine.load_images(pieces(&harness.archive(NAME).await, true)).await.unwrap();
    let mut template = Template::of_image(NAME);
    template.command = vec!["/program".to_owned()];
    let used = fake::assigned("used-0", 1, template);
    harness.make_sandbox(&used.instance).await;
    let id = engine.create(&used).await.unwrap();
    let refused = engine.remove_image(NAME).await.unwrap_err();
    assert!(matches!(refused, EngineError::Other { .. }), "{refused}");
    assert_eq!(listed(engine, NAME).await.unwrap().containers, 1);
    engine.remove(&id).await.unwrap();
    engine.remove_image(NAME).await.unwrap();
}
