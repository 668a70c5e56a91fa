//! What one instance is to be.

use std::borrow::Cow;

use dwell_core::id::Generation;
use dwell_core::instance::Assigned;
use dwell_core::workload::{Fingerprint, ImagePolicy, Template};

use crate::journal::{Journal, Ruling};

/// An instance that is to be, and what its container is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What it is to be.
    pub assigned: Assigned,
    /// Its fingerprint, worked out once.
    pub fingerprint: Fingerprint,
    /// The same of its fallback, if that is another container.
    pub fallback: Option<Fingerprint>,
    /// The reference that its container is made from.
    image: String,
    /// The same of its fallback.
    fallback_image: Option<String>,
}

impl Target {
    /// The references of all images that it may be made from, now or in its next turn.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let all = std::iter::once(self.image.as_str()).chain(self.fallback_image.as_deref());
        all.chain(self.assigned.image_ahead.as_deref())
    }

    /// Whether the registry is to be asked what its image, or its fallback's, is, also if the node has one.
    pub(crate) fn asks_for_newest(&self, is_fallback: bool) -> bool {
        let fallback = self.assigned.fallback.as_ref().filter(|_| is_fallback);
        let template = fallback.unwrap_or(&self.assigned.template);
        // What names a digest means one image for good.
        template.image_policy == ImagePolicy::Newest && !self.image(is_fallback).contains('@')
    }

    /// The reference of its image or, to be its fallback, of that.
    pub(crate) fn image(&self, is_fallback: bool) -> &str {
        self.fallback_image.as_deref().filter(|_| is_fallback).unwrap_or(&self.image)
    }

    /// What the instance is to be now, and the generation that its container is made for: the fallback once the
    /// assigned generation was ruled out.
    pub(crate) fn aim(&self, journal: &Journal) -> (Generation, &Template) {
        let assigned = &self.assigned;
        let is_ruled_out =
            matches!(journal.ruling_on(assigned.generation), Some(Ruling::RolledBack { .. }));
        match &assigned.fallback {
            Some(fallback) if is_ruled_out => (assigned.fallback_generation(), fallback),
            _ => (assigned.generation, &assigned.template),
        }
    }

    pub(crate) fn of(assigned: Assigned) -> Self {
        let fingerprint = assigned.fingerprint();
        let fallback = assigned.fallback_fingerprint().filter(|fallback| *fallback != fingerprint);
        let image = assigned.image().into_owned();
        let fallback_image = assigned.fallback_image().map(Cow::into_owned);
        Self { assigned, fingerprint, fallback, image, fallback_image }
    }
}
