//! The images of this node: which there are, and what needs them.
//!
//! Nothing of this is reported by itself: whoever wants to know asks, through a [tunnel](crate::tunnel).

mod uses;

use std::sync::Arc;

use dwell_core::session::{Assignment, Statuses};
use dwell_engine::{EngineError, Image, SharedEngine};
use tokio::sync::watch;

pub use self::uses::{Role, Use, Uses};

/// What is asked for images and what needs them. Clones ask the same.
#[derive(Clone)]
pub struct Images {
    /// Has them.
    pub engine: SharedEngine,
    /// What the node is to run, and what that falls back to.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// What runs.
    pub statuses: watch::Receiver<Option<Arc<Statuses>>>,
}

impl Images {
    /// All images, the largest first, and what of this node needs each.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn list(&self) -> Result<(Vec<Image>, Uses), EngineError> {
        let mut images = self.engine.images().await?;
        images.sort_by(|a, b| (b.size, &a.names, a.id).cmp(&(a.size, &b.names, b.id)));
        Ok((images, self.uses().await?))
    }

    /// What of this node needs which image.
    async fn uses(&self) -> Result<Uses, EngineError> {
        let assignment = self.assignment.borrow().clone();
        let statuses = self.statuses.borrow().clone();
        let mut uses = Uses::default();
        uses.add_running(statuses.as_deref());
        let Some(assignment) = assignment else { return Ok(uses) };
        for (reference, needs) in uses::references(&assignment) {
            if let Some(image) = self.engine.find_image(&reference).await? {
                needs.into_iter().for_each(|need| uses.add(image, need));
            }
        }
        Ok(uses)
    }
}
