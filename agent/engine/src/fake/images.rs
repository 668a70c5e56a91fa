//! The images of the fake engine: all that were ever named, as if somebody had loaded them, until they are removed.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use dwell_core::clock::Timestamp;
use dwell_core::image::{ImageDigest, digest_of};
use dwell_core::quantity::Bytes;

use super::Image;
use super::state::State;

/// An image that was named.
#[derive(Default)]
pub(super) struct HeldImage {
    names: BTreeSet<String>,
}

impl State {
    /// The image of a reference is there from now on, and goes by it.
    pub(super) fn hold_image(&mut self, reference: &str) -> ImageDigest {
        let id = self.means(reference);
        for held in self.held.values_mut() {
            held.names.remove(reference);
        }
        self.held.entry(id).or_default().names.insert(reference.to_owned());
        id
    }

    pub(super) fn find_image(&self, reference: &str) -> Option<ImageDigest> {
        let name = reference.split_once('@').map_or(reference, |(name, _)| name);
        (!self.images.contains_key(name)).then(|| self.means(reference))
    }

    pub(super) fn images_held(&self) -> Vec<Image> {
        let count = |id: &ImageDigest| {
            let made = |one: &&super::state::FakeContainer| one.details.image.id == Some(*id);
            u32::try_from(self.containers.values().filter(made).count()).unwrap_or(u32::MAX)
        };
        let image = |(id, held): (&ImageDigest, &HeldImage)| Image {
            id: *id,
            names: held.names.clone(),
            size: Bytes::mebi(1),
            created_at: Timestamp(0),
            containers: count(id),
        };
        self.held.iter().map(image).collect()
    }

    /// Which image a reference means: one of its own, if nobody says otherwise.
    fn means(&self, reference: &str) -> ImageDigest {
        let told = digest_of(reference).or_else(|| self.digests.get(reference).copied());
        told.unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            reference.hash(&mut hasher);
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&hasher.finish().to_be_bytes());
            ImageDigest::new(bytes)
        })
    }
}
