//! A container that dwell did not make, and in whose place the instance is put: how far that is.
//!
//! ```text
//!   (nothing) ── Record ──▶ Taking ─┬─ the instance holds ──────────▶ Held
//!                                   └─ it does not, or is not wanted ─▶ GivenUp ── the container runs again ──▶ Returned
//! ```
//!
//! It is on disk that the container is taken before anything is done to it, and that it is given up before it is started again. From
//! Held and Returned on nothing more is done to it, whatever is desired; each is for good in this life of the instance.

use dwell_core::foreign::Adoption;
use dwell_core::id::Revision;
use serde::{Deserialize, Serialize};

use super::Ruling;

/// What is remembered of a container that the instance is put in the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// All that has to be known to do it, and to undo it.
    pub adoption: Adoption,
    /// The life of the instance for which it was ordered.
    pub life: Revision,
    /// How far it is.
    pub progress: Progress,
}

/// See [`TakenOver`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// The container is stopped, or is about to be, and the instance takes its place.
    Taking,
    /// The instance has held in its place.
    Held,
    /// The container is to run again.
    GivenUp {
        /// Why, for people.
        reason: String,
    },
    /// The container runs again, or is gone.
    Returned {
        /// Why, for people.
        reason: String,
    },
}

impl TakenOver {
    /// Whether its container has been taken, and neither of the two has stayed yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.progress, Progress::Taking | Progress::GivenUp { .. })
    }

    /// The same, after a ruling on the instance.
    pub(super) fn ruled(self, ruling: &Ruling) -> Self {
        let progress = match (&self.progress, ruling) {
            (Progress::Taking, Ruling::Committed) => Progress::Held,
            (Progress::Taking, Ruling::RolledBack { reason }) => {
                Progress::GivenUp { reason: reason.clone() }
            }
            (progress, _) => progress.clone(),
        };
        Self { progress, ..self }
    }
}
