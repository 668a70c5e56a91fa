//! The images of the fake engine: all that were ever named, as if somebody had loaded them, until they are removed.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};

use dwell_core::clock::Timestamp;
use dwell_core::image::{ImageDigest, digest_of};
use dwell_core::quantity::Bytes;

use super::state::{FakeContainer, ImageState, State};
use super::{EngineError, FakeEngine, Image, NAME};

/// How an archive begins, as every tar: with a header, which says so. The name and a line break follow.
const HEADER: [u8; 512] = {
    let mut header = [0; 512];
    header.split_at_mut(257).1.split_at_mut(5).0.copy_from_slice(b"ustar");
    header
};

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
            let made = |one: &&FakeContainer| one.details.image.id == Some(*id);
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

    /// Takes a name from an image, or the whole image by its id.
    pub(super) fn remove_image(&mut self, name: &str) -> Result<(), EngineError> {
        let id = name.parse().ok();
        let is_meant = |(of, held): &(&ImageDigest, &mut HeldImage)| {
            id == Some(**of) || held.names.contains(name)
        };
        let Some((&id, held)) = self.held.iter_mut().find(is_meant) else { return Ok(()) };
        let gone: Vec<String> = match held.names.len() {
            _ if held.names.contains(name) => vec![name.to_owned()],
            _ => held.names.iter().cloned().collect(),
        };
        let is_last = gone.len() == held.names.len();
        if is_last && self.containers.values().any(|one| one.details.image.id == Some(id)) {
            return Err(EngineError::Other {
                engine: NAME,
                operation: "remove an image",
                reason: "a container is made from it".to_owned(),
            });
        }
        for name in gone {
            held.names.remove(&name);
            let plain = name.split_once('@').map_or(name.as_str(), |(plain, _)| plain);
            self.images.insert(plain.to_owned(), ImageState::Missing);
            self.fetched.retain(|digest| digest_of(&name) != Some(*digest));
        }
        if is_last {
            self.held.remove(&id);
        }
        Ok(())
    }

    pub(super) fn spared_layers(&self, layers: &[ImageDigest]) -> usize {
        layers.iter().take_while(|layer| self.layers.contains(layer)).count()
    }

    /// Takes in a whole archive.
    pub(super) fn load_image(&mut self, archive: &[u8]) -> Result<(), EngineError> {
        let text = std::str::from_utf8(archive.strip_prefix(&HEADER).unwrap_or_default())
            .map_err(|error| unreadable(&error))?;
        let name = text.strip_suffix('\n');
        let name = name.ok_or_else(|| unreadable(&"it is cut off"))?;
        self.images.remove(name);
        self.hold_image(name);
        Ok(())
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

pub(super) fn unreadable(why: &impl Display) -> EngineError {
    let reason = format!("cannot read the archive: {why}");
    EngineError::Other { engine: NAME, operation: "load images", reason }
}

impl FakeEngine {
    /// An archive of an image of that name, as this engine takes it.
    #[must_use]
    pub fn archive(name: &str) -> Vec<u8> {
        [&HEADER, name.as_bytes(), b"\n"].concat()
    }

    /// These layers are there from now on.
    pub fn hold_layers(&self, layers: impl IntoIterator<Item = ImageDigest>) {
        self.shared.state().layers.extend(layers);
    }
}
