//! Images that come from somebody's machine, by an archive: what of it is wanted, and taking it in.
//!
//! ```text
//!   offer ─▶ Push::begin: one's turn, limits, what is here? ─┬─ all of it: nothing travels
//!                                                            └─ wanted ─▶ archive ─▶ load ─▶ noted as ours
//! ```
//!
//! One archive at a time, and meanwhile nothing is removed: layers that were said to be here stay here.
//! An archive that does not end as it should is never taken for a whole one.

mod archive;

use std::sync::Arc;

use dwell_core::image::ImageDigest;
use dwell_core::quantity::Bytes;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::timeout;
use tokio_util::bytes::Bytes as Piece;

use self::archive::Problem;
use super::{Images, ImagesError, TURN_LIMIT, Via, disk};
use dwell_daemon::paths::PathLooks;

/// How large an archive may be.
pub(super) const ARCHIVE_MAX: Bytes = Bytes(256 << 30);
/// How much of an archive may be other than layers: configurations, lists, headers.
const BESIDE_LAYERS: u64 = 64 << 20;
/// How many images an archive may have, how many names each, and how many layers.
pub(super) const IMAGES_MAX: usize = 32;
/// See [`IMAGES_MAX`].
pub(super) const NAMES_MAX: usize = 64;
/// See [`IMAGES_MAX`].
pub(super) const LAYERS_MAX: usize = 1_000;

/// An image of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The digest of its configuration.
    pub id: ImageDigest,
    /// `NAME:TAG`.
    pub names: Vec<String>,
    /// Digests and sizes, from the lowest layer on.
    pub layers: Vec<(ImageDigest, u64)>,
}

/// What is to come of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: all of it is here.
    Nothing,
    /// All but so many of the first layers of each image.
    Archive(Vec<usize>),
}

/// Images that are being put here. While there is one, nothing is removed and nothing else is pushed.
pub struct Push {
    images: Images,
    names: Vec<String>,
    /// What is to come.
    pub wanted: Wanted,
    /// How large the archive may be.
    most: u64,
    _turn: OwnedMutexGuard<()>,
}

/// A part of an archive.
#[derive(Debug)]
pub enum Part {
    /// A piece.
    Data(Piece),
    /// That was all.
    End,
}

impl Push {
    /// Begins, when it is its turn.
    ///
    /// # Errors
    /// [`ImagesError`] if the offer makes no sense or there is no room.
    pub async fn begin(
        images: &Images,
        offer: &[Offered],
        whole: bool,
    ) -> Result<Self, ImagesError> {
        check(offer)?;
        let turn = timeout(TURN_LIMIT, Arc::clone(&images.turn).lock_owned()).await;
        let turn = turn.map_err(|_| ImagesError::Busy)?;
        let names = offer.iter().flat_map(|image| &image.names).cloned().collect();
        let mut is_here = !whole;
        let (mut held, mut bytes) = (Vec::new(), 0_u64);
        for image in offer {
            for name in &image.names {
                is_here &= images.engine.find_image(name).await? == Some(image.id);
            }
            let layers: Vec<ImageDigest> = image.layers.iter().map(|layer| layer.0).collect();
            let spared = if whole { 0 } else { images.engine.spared_layers(&layers).await? };
            let sizes = image.layers.iter().skip(spared).map(|layer| layer.1);
            bytes = sizes.fold(bytes, u64::saturating_add);
            held.push(spared);
        }
        let wanted = if is_here { Wanted::Nothing } else { Wanted::Archive(held) };
        if !is_here {
            images.check_room(bytes).await?;
        }
        let most = bytes.saturating_add(BESIDE_LAYERS);
        Ok(Self { images: images.clone(), names, wanted, most, _turn: turn })
    }

    /// Takes the archive in. Dropped before it is done, or without [`Part::End`], it has taken in nothing.
    ///
    /// # Errors
    /// [`ImagesError`].
    pub async fn load(self, parts: mpsc::Receiver<Part>) -> Result<(), ImagesError> {
        let engine = &self.images.engine;
        let problem = Problem::default();
        let loading =
            engine.load_images(archive::passed_on(parts, self.most, Arc::clone(&problem)));
        let loaded = self.images.ledger.fetch(&self.names, Via::Push, loading).await;
        loaded.map_err(|error| match problem.get() {
            // The engine only knows that it was told no more.
            Some(problem) => ImagesError::Offer((*problem).to_owned()),
            None => error.into(),
        })?;
        for name in &self.names {
            if engine.find_image(name).await?.is_none() {
                return Err(ImagesError::Offer(format!("the archive has no image {name}")));
            }
        }
        tracing::info!(names = self.names.join(" "), "took in images that were pushed");
        Ok(())
    }
}

impl Images {
    /// Whether there is room for an archive: the engine unpacks it first, and then each layer.
    async fn check_room(&self, bytes: u64) -> Result<(), ImagesError> {
        if bytes > ARCHIVE_MAX.0 {
            return Err(ImagesError::Offer(format!(
                "it has {} MiB; at most {} MiB are taken",
                bytes >> 20,
                ARCHIVE_MAX.0 >> 20
            )));
        }
        let Some(root) = self.engine.info().await?.data_root else { return Ok(()) };
        let Some(disk) = disk::of(&root, &PathLooks::default()).await else { return Ok(()) };
        let (need, free) = (bytes.saturating_mul(2), disk.size.saturating_sub(disk.used));
        if need > free {
            return Err(ImagesError::NoRoom { need: need >> 20, free: free >> 20 });
        }
        Ok(())
    }
}

fn check(offer: &[Offered]) -> Result<(), ImagesError> {
    let refuse = |problem: String| Err(ImagesError::Offer(problem));
    if offer.is_empty() || offer.len() > IMAGES_MAX {
        return refuse(format!("it has {} images; 1 to {IMAGES_MAX} are taken", offer.len()));
    }
    for Offered { id, names, layers } in offer {
        if names.is_empty() || names.len() > NAMES_MAX {
            return refuse(format!("{id} has {} names; 1 to {NAMES_MAX} are taken", names.len()));
        }
        if layers.len() > LAYERS_MAX {
            return refuse(format!("{id} has more than {LAYERS_MAX} layers"));
        }
        if let Some(name) = names.iter().find(|name| name.contains('@') || name.len() > 512) {
            return refuse(format!("{name:?} is not NAME:TAG"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
