//! The images of this node: which there are, what needs them, what this agent fetched, and what becomes of those that nothing
//! needs any more.
//!
//! ```text
//!   pulls of instances ──▶ ledger ◀── look, now and then ──▶ decide ──▶ remove
//!   what is asked for (tunnels) ──────────────────────────────┘
//! ```
//!
//! Nothing of this is reported by itself: whoever wants to know asks, through a [tunnel](crate::tunnel). An image is removed only
//! if it is known what the node is to run; by itself the agent removes only what it fetched.
//!
//! One removes at a time, and nothing is removed while an image is put here by hand: its layers may be those of others.

mod decide;
mod disk;
mod keep;
mod ledger;
mod push;
mod uses;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::image::{ImageDigest, came_with};
use dwell_core::session::{Assignment, Statuses};
use dwell_engine::{EngineError, Image, SharedEngine};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::timeout;

pub use self::decide::{Disk, Removal, Scope, Why};
pub use self::keep::ImageKeeper;
pub use self::ledger::{Fetched, Ledger, Own, Via};
pub use self::push::{Offered, Part, Push, Wanted};
pub use self::uses::{Role, Use, Uses};
use crate::config;

/// How long a removal that somebody asked for waits for others.
const TURN_LIMIT: Duration = Duration::from_secs(10);
/// How many of those that need an image are named to whoever wants to remove it.
const NAMED_MAX: usize = 5;

/// What is asked for images and what needs them. Clones ask the same.
#[derive(Clone)]
pub struct Images {
    /// Has them.
    pub engine: SharedEngine,
    /// What this agent fetched of them.
    pub ledger: Ledger,
    /// What the node is to run, and what that falls back to.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// What runs.
    pub statuses: watch::Receiver<Option<Arc<Statuses>>>,
    /// How long images stay that nothing needs.
    pub policy: config::Images,
    /// Whose turn it is to remove images, or to put some here by hand.
    turn: Arc<Mutex<()>>,
}

/// Why nothing is done about images.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// As the engine says.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// There is no such image.
    #[error("image {0} is not on this node; `dwell image ls` says which are")]
    NotHere(String),
    /// Something needs it.
    #[error("image {image} is needed by {by}; it can be removed when nothing needs it any more")]
    Needed {
        /// As it was asked for.
        image: String,
        /// What needs it, for people.
        by: String,
    },
    /// The controller has not said yet what is to run, or has forgotten some of it.
    #[error(
        "this node does not know for sure what it is to run, and so not what it needs; try again when it has heard from a \
         controller whose state is confirmed"
    )]
    Unsure,
    /// What is pushed makes no sense, or is too much.
    #[error("what is pushed cannot be taken: {0}")]
    Offer(String),
    /// The disk with the engine's data is too full for it.
    #[error(
        "there is no room: what is pushed needs up to {need} MiB on the disk with the engine's data while it is unpacked, and \
         {free} MiB are free; `dwell image prune` makes room"
    )]
    NoRoom {
        /// In MiB.
        need: u64,
        /// In MiB.
        free: u64,
    },
    /// Others remove images or put some here.
    #[error("images of this node are being pushed or removed; try again when that is done")]
    Busy,
}

/// What there is at one moment.
struct Look {
    images: Vec<Image>,
    own: Own,
    uses: Uses,
    /// By which `uses` was found out.
    assignment: Arc<Assignment>,
}

impl Look {
    fn seen<'a>(&'a self, stuck: &'a BTreeSet<ImageDigest>) -> decide::Seen<'a> {
        decide::Seen { images: &self.images, own: &self.own, uses: &self.uses, stuck }
    }
}

impl Images {
    /// The images of an engine.
    #[must_use]
    pub fn new(
        engine: SharedEngine,
        ledger: Ledger,
        policy: config::Images,
        assignment: watch::Receiver<Option<Arc<Assignment>>>,
        statuses: watch::Receiver<Option<Arc<Statuses>>>,
    ) -> Self {
        Self { engine, ledger, assignment, statuses, policy, turn: Arc::default() }
    }

    /// All images, the largest first, what this agent fetched of them, and what of this node needs each.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn list(&self) -> Result<(Vec<Image>, Own, Uses), EngineError> {
        let mut images = self.engine.images().await?;
        images.sort_by(|a, b| (b.size, &a.names, a.id).cmp(&(a.size, &b.names, b.id)));
        let assignment = self.assignment.borrow().clone();
        Ok((images, self.ledger.own(), self.uses(assignment.as_deref()).await?))
    }

    /// Removes an image by one of its names, or by its id with all its names.
    ///
    /// # Errors
    /// [`ImagesError`]; nothing is removed then.
    pub async fn remove(&self, image: &str) -> Result<Removal, ImagesError> {
        let _turn = self.turn().await?;
        let look = self.look().await?;
        let not_here = || ImagesError::NotHere(image.to_owned());
        let id = self.engine.find_image(image).await?.ok_or_else(not_here)?;
        let found = look.images.iter().find(|one| one.id == id).ok_or_else(not_here)?;
        let by: Vec<String> = look.uses.of(id).map(|one| one.instance.to_string()).collect();
        let needed = |by| Err(ImagesError::Needed { image: image.to_owned(), by });
        match (by.len(), found.containers) {
            (0, 0) => {}
            (0, 1) => return needed("a container that is not dwell's".to_owned()),
            (0, some) => return needed(format!("{some} containers that are not dwell's")),
            (..=NAMED_MAX, _) => return needed(by.join(", ")),
            (more, _) => {
                let named = by[..NAMED_MAX].join(", ");
                return needed(format!("{named} and {} more", more - NAMED_MAX));
            }
        }
        let named: Vec<String> =
            found.names.iter().filter(|name| came_with(name, image)).cloned().collect();
        let names = if named.is_empty() { found.names.iter().cloned().collect() } else { named };
        let whole = names.len() == found.names.len();
        let removal = Removal { image: id, names, whole, size: found.size, why: Why::Asked };
        self.carry_out(&removal).await?;
        Ok(removal)
    }

    /// Removes what nothing needs, or only says what that is. Beside it, what could not be removed, and why.
    ///
    /// # Errors
    /// [`ImagesError`]; nothing is removed then.
    pub async fn prune(
        &self,
        scope: Scope,
        dry_run: bool,
    ) -> Result<(Vec<Removal>, Vec<(Removal, EngineError)>), ImagesError> {
        let _turn = self.turn().await?;
        let mut look = self.look().await?;
        let nothing = BTreeSet::new();
        let planned = decide::unneeded(look.seen(&nothing), scope);
        if dry_run {
            return Ok((planned, Vec::new()));
        }
        let (mut removed, mut failed) = (Vec::new(), Vec::new());
        for removal in planned {
            self.refresh(&mut look).await?;
            if look.uses.is_needed(removal.image) {
                continue;
            }
            match self.carry_out(&removal).await {
                Ok(()) => removed.push(removal),
                Err(error) => failed.push((removal, error)),
            }
        }
        Ok((removed, failed))
    }

    /// Waits for one's turn to remove images.
    async fn turn(&self) -> Result<MutexGuard<'_, ()>, ImagesError> {
        timeout(TURN_LIMIT, self.turn.lock()).await.map_err(|_| ImagesError::Busy)
    }

    /// What there is now, if it is known what the node is to run.
    async fn look(&self) -> Result<Look, ImagesError> {
        let assignment = self.assignment().ok_or(ImagesError::Unsure)?;
        if self.statuses.borrow().is_none() {
            return Err(ImagesError::Unsure);
        }
        let own = self.ledger.own();
        let images = self.engine.images().await?;
        let uses = self.uses(Some(&assignment)).await?;
        Ok(Look { images, own, uses, assignment })
    }

    /// Finds out anew what is needed, if the node is to run something else by now.
    async fn refresh(&self, look: &mut Look) -> Result<(), ImagesError> {
        let now = self.assignment().ok_or(ImagesError::Unsure)?;
        if !Arc::ptr_eq(&now, &look.assignment) {
            look.uses = self.uses(Some(&now)).await?;
            look.assignment = now;
        }
        Ok(())
    }

    /// What the node is to run, unless some of it may have been forgotten.
    fn assignment(&self) -> Option<Arc<Assignment>> {
        self.assignment.borrow().clone().filter(|held| !held.unconfirmed)
    }

    /// What of this node needs which image.
    async fn uses(&self, assignment: Option<&Assignment>) -> Result<Uses, EngineError> {
        let statuses = self.statuses.borrow().clone();
        let mut uses = Uses::default();
        uses.add_running(statuses.as_deref());
        let Some(assignment) = assignment else { return Ok(uses) };
        for (reference, needs) in uses::references(assignment) {
            if let Some(image) = self.engine.find_image(&reference).await? {
                needs.into_iter().for_each(|need| uses.add(image, need));
            }
        }
        Ok(uses)
    }

    async fn carry_out(&self, removal: &Removal) -> Result<(), EngineError> {
        let Removal { image, names, whole, why, .. } = removal;
        for name in names {
            self.engine.remove_image(name).await?;
        }
        if names.is_empty() {
            self.engine.remove_image(&image.to_string()).await?;
        }
        tracing::info!(%image, names = names.join(" "), whole, why = why.to_string(), "removed an image");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
