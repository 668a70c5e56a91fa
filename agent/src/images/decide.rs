//! Which image goes next, if any: a pure function of what there is.
//!
//! ```text
//!   images, what this agent fetched, what is needed, how full the disk is ──▶ next() ──▶ one removal, or none
//! ```
//!
//! One at a time, because only the disk itself knows how much a removal frees: images share layers.
//!
//! Invariants:
//! - nothing that an instance runs, is to run or falls back to, and nothing that any container is made from;
//! - only what this agent fetched, and only the names under which it did: a name that somebody else gave stays, and the
//!   image with it;
//! - the same input gives the same answer, and a removal that was carried out is not asked for again.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use dwell_core::clock::millis;
use dwell_core::image::{ImageDigest, came_with, digest_of};
use dwell_core::quantity::{Bytes, Millis};
use dwell_engine::Image;

use super::ledger::{Fetched, Own, Via};
use super::uses::Uses;
use crate::config::{self, Keep};

/// How long what was fetched stays however full the disk is: whoever fetched it is about to use it.
const FRESH: Duration = Duration::from_secs(600);

/// How full the disk of the images is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes in use.
    pub used: u64,
    /// All bytes but those that are kept for root, as `df` counts.
    pub size: u64,
}

impl Disk {
    /// How full it is.
    #[must_use]
    pub fn percent(self) -> u8 {
        let percent = u128::from(self.used) * 100 / u128::from(self.size.max(1));
        u8::try_from(percent.min(100)).unwrap_or(100)
    }
}

/// All that is decided by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    /// All images.
    pub(super) images: &'a [Image],
    /// What this agent fetched of them.
    pub(super) own: &'a Own,
    /// What needs them.
    pub(super) uses: &'a Uses,
    /// Images that could not be removed a moment ago.
    pub(super) stuck: &'a BTreeSet<ImageDigest>,
}

/// Something to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The image.
    pub image: ImageDigest,
    /// The names to take from it. None if it has none: it is removed by its id.
    pub names: Vec<String>,
    /// Whether nothing is left of it then.
    pub whole: bool,
    /// With layers that it shares with others.
    pub size: Bytes,
    /// Why.
    pub why: Why,
}

/// Why an image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing has needed it for so long.
    Age(Duration),
    /// The disk is so full, in percent.
    Pressure(u8),
    /// Somebody asked for that.
    Asked,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Age(unused) => {
                let whole = Millis(millis(*unused) / 1000 * 1000);
                write!(f, "nothing has needed it for {whole}")
            }
            Self::Pressure(percent) => {
                write!(f, "the disk of the images is {percent} % full, and nothing needs it")
            }
            Self::Asked => f.write_str("somebody asked for that, and nothing needs it"),
        }
    }
}

/// What somebody who asks for a removal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What this agent fetched.
    Own,
    /// Whatever nothing needs, whosever it is.
    All,
}

/// Whether room is to be made: from `high` on, until it is below `low`.
#[must_use]
pub(super) fn is_pressed(disk: Disk, policy: &config::Images, was_pressed: bool) -> bool {
    let percent = disk.percent();
    percent >= policy.high.0 || (was_pressed && percent >= policy.low.0)
}

/// What goes next: what is too old, and, if the disk is too full, what was not needed for longest. What was pushed cannot be
/// pulled again, so of that nothing goes before all else has.
#[must_use]
pub(super) fn next(
    seen: Seen<'_>,
    policy: &config::Images,
    pressed: Option<Disk>,
) -> Option<Removal> {
    let mut candidates: Vec<(&Fetched, Removal)> = seen
        .images
        .iter()
        .filter_map(|image| {
            let fetched = seen.own.get(&image.id)?;
            let age = fetched.unused.as_duration();
            let too_old = matches!(policy.keep, Keep::For(keep) if age >= keep);
            let why = match pressed {
                _ if too_old => Why::Age(age),
                Some(disk) if age >= FRESH => Why::Pressure(disk.percent()),
                _ => return None,
            };
            Some((fetched, removal(seen, image, Scope::Own, why)?))
        })
        .collect();
    candidates.sort_by_key(|(fetched, removal)| {
        let too_old = matches!(removal.why, Why::Age(_));
        (!too_old, fetched.via == Via::Push, u64::MAX - fetched.unused.0, removal.image)
    });
    candidates.into_iter().map(|(_, removal)| removal).next()
}

/// All that nothing needs, the largest first.
#[must_use]
pub(super) fn unneeded(seen: Seen<'_>, scope: Scope) -> Vec<Removal> {
    let all = seen.images.iter();
    let mut all: Vec<Removal> =
        all.filter_map(|image| removal(seen, image, scope, Why::Asked)).collect();
    all.sort_by_key(|removal| (u64::MAX - removal.size.0, removal.image));
    all
}

/// What of an image can go.
fn removal(seen: Seen<'_>, image: &Image, scope: Scope, why: Why) -> Option<Removal> {
    let is_needed = image.containers > 0 || seen.uses.is_needed(image.id);
    if is_needed || seen.stuck.contains(&image.id) {
        return None;
    }
    let names: Vec<String> = match scope {
        Scope::All => image.names.iter().cloned().collect(),
        Scope::Own => own_names(image, seen.own.get(&image.id)?),
    };
    let whole = names.len() == image.names.len();
    let is_something = !names.is_empty() || whole;
    let (image, size) = (image.id, image.size);
    is_something.then_some(Removal { image, names, whole, size, why })
}

/// The names that came with what was fetched. Digests stay as long as a tag does that somebody else gave.
fn own_names(image: &Image, fetched: &Fetched) -> Vec<String> {
    let came = |name: &&String| fetched.names.iter().any(|fetched| came_with(name, fetched));
    let is_tag = |name: &String| digest_of(name).is_none();
    let has_others = image.names.iter().any(|name| is_tag(name) && !came(&name));
    let own = image.names.iter().filter(came);
    own.filter(|name| !has_others || is_tag(name)).cloned().collect()
}

#[cfg(test)]
mod tests;
