//! Removes, now and then, what this agent fetched and nothing has needed for long, and more of it when the disk is full.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::{Clock, Timestamp};
use dwell_daemon::Causes;
use dwell_daemon::paths::PathLooks;
use tokio::time::sleep;

use super::decide::{self, Disk, Removal};
use super::{Images, ImagesError, Look, disk};
use crate::config::Keep;

/// How often the disk is looked at.
const DISK_EVERY: Duration = Duration::from_secs(60);
/// How often images are looked at, at most and at least; in between, a quarter of the time that they stay.
const LOOK_EVERY: Duration = Duration::from_secs(600);
const LOOK_EVERY_LEAST: Duration = Duration::from_secs(5);
/// How many images are removed in a row.
const REMOVALS_MAX: usize = 200;

/// Does that.
pub struct ImageKeeper {
    images: Images,
    clock: Arc<dyn Clock>,
    paths: PathLooks,
    /// Where the engine has its images, once it has said so.
    data_root: Option<PathBuf>,
    /// When images were looked at last.
    looked_at: Option<Timestamp>,
    /// Whether room is being made.
    pressed: bool,
    /// Whether it was told that there is no more to remove.
    told: bool,
}

impl ImageKeeper {
    /// A keeper of the images.
    #[must_use]
    pub fn new(images: Images, clock: Arc<dyn Clock>) -> Self {
        let paths = PathLooks::default();
        let (data_root, looked_at) = (None, None);
        Self { images, clock, paths, data_root, looked_at, pressed: false, told: false }
    }

    /// Works until the task is dropped.
    pub async fn run(mut self) {
        let every = match self.images.policy.keep {
            Keep::For(keep) => (keep / 4).clamp(LOOK_EVERY_LEAST, LOOK_EVERY),
            Keep::Forever => LOOK_EVERY,
        };
        loop {
            sleep(every.min(DISK_EVERY)).await;
            let disk = self.disk().await;
            let was_pressed = self.pressed;
            self.pressed =
                disk.is_some_and(|disk| decide::is_pressed(disk, &self.images.policy, was_pressed));
            let now = self.clock.now();
            let is_due = self.looked_at.is_none_or(|at| now.since(at) >= every);
            if !is_due && !self.pressed {
                continue;
            }
            match self.look(disk, every).await {
                Ok(()) | Err(ImagesError::Unsure | ImagesError::Busy) => {}
                Err(error) => {
                    tracing::warn!(error = %Causes(&error), "cannot see to the images of this node; trying again");
                }
            }
        }
    }

    async fn disk(&mut self) -> Option<Disk> {
        if self.data_root.is_none() {
            self.data_root = self.images.engine.info().await.ok()?.data_root;
        }
        disk::of(self.data_root.as_deref()?, &self.paths).await
    }

    /// Looks at all images once, and removes what is to go.
    async fn look(&mut self, mut disk: Option<Disk>, every: Duration) -> Result<(), ImagesError> {
        let images = self.images.clone();
        // Somebody puts an image here, or removes some: the next time.
        let Ok(_turn) = images.turn.try_lock() else { return Err(ImagesError::Busy) };
        let mut look = images.look().await?;
        let now = self.clock.now();
        // Whatever kept this from looking, nobody watched for longer than it should have taken.
        let watched = self.looked_at.map_or(Duration::ZERO, |at| now.since(at)).min(2 * every);
        self.looked_at = Some(now);
        images.ledger.look(&look.images, &look.own, &look.uses, watched).await;
        look.own = images.ledger.own();
        let mut stuck = BTreeSet::new();
        for _ in 0..REMOVALS_MAX {
            let pressed = disk.filter(|_| self.pressed);
            let Some(removal) = decide::next(look.seen(&stuck), &images.policy, pressed) else {
                break;
            };
            images.refresh(&mut look).await?;
            if look.uses.is_needed(removal.image) {
                continue;
            }
            if let Err(error) = images.carry_out(&removal).await {
                let image = removal.image;
                tracing::warn!(%image, error = %Causes(&error), "cannot remove an image");
                stuck.insert(image);
                continue;
            }
            forget(&mut look, &removal);
            disk = self.disk().await;
            self.pressed = disk.is_some_and(|disk| decide::is_pressed(disk, &images.policy, true));
        }
        self.tell(disk, &look, &stuck);
        Ok(())
    }

    /// Says once that the disk is full of what cannot be removed here.
    fn tell(
        &mut self,
        disk: Option<Disk>,
        look: &Look,
        stuck: &BTreeSet<dwell_core::image::ImageDigest>,
    ) {
        let full = disk.filter(|disk| disk.percent() >= self.images.policy.high.0);
        let Some(full) =
            full.filter(|_| decide::next(look.seen(stuck), &self.images.policy, disk).is_none())
        else {
            self.told = false;
            return;
        };
        if !std::mem::replace(&mut self.told, true) {
            let others = decide::unneeded(look.seen(stuck), decide::Scope::All).len();
            tracing::warn!(
                percent = full.percent(),
                others,
                "the disk of the images is full, and nothing is left to remove of what this agent fetched; \
                 `dwell image prune --all` removes images of others that nothing needs"
            );
        }
    }
}

/// What was removed is not there any more.
fn forget(look: &mut Look, removal: &Removal) {
    if removal.whole {
        look.images.retain(|image| image.id != removal.image);
    } else if let Some(image) = look.images.iter_mut().find(|image| image.id == removal.image) {
        image.names.retain(|name| !removal.names.contains(name));
    }
}
