//! What of a node's instances needs which image.
//!
//! An instance needs the image that its container is made from, the one that it is to be made from next, and the one that
//! it falls back to. Each counts by what its reference means on this node at the moment: by the engine's word and not by a
//! comparison of names.

use std::collections::BTreeMap;

use dwell_core::id::InstanceName;
use dwell_core::image::ImageDigest;
use dwell_core::session::{Assignment, Statuses};

/// What an instance needs an image for; the first is the most pressing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Its container is made from it.
    Runs,
    /// It is to be made from it.
    Next,
    /// It falls back to it.
    FallBack,
}

/// A need of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Whose.
    pub instance: InstanceName,
    /// What for.
    pub role: Role,
}

/// Which images are needed, and by what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses(BTreeMap<ImageDigest, BTreeMap<InstanceName, Role>>);

impl Uses {
    /// What needs an image; an instance that does so twice is told once.
    pub fn of(&self, image: ImageDigest) -> impl Iterator<Item = Use> {
        let all = self.0.get(&image).into_iter().flatten();
        all.map(|(instance, role)| Use { instance: instance.clone(), role: *role })
    }

    /// Whether anything needs an image.
    #[must_use]
    pub fn is_needed(&self, image: ImageDigest) -> bool {
        self.0.contains_key(&image)
    }

    /// Something needs an image.
    pub fn add(&mut self, image: ImageDigest, need: Use) {
        let role = self.0.entry(image).or_default().entry(need.instance).or_insert(need.role);
        *role = need.role.min(*role);
    }

    /// What containers of instances are made from.
    pub(super) fn add_running(&mut self, statuses: Option<&Statuses>) {
        for status in statuses.iter().flat_map(|all| all.instances.values()) {
            if let Some(image) = status.image.id {
                self.add(image, Use { instance: status.instance.clone(), role: Role::Runs });
            }
        }
    }
}

/// The references of an assignment, each with what needs what it means.
pub(super) fn references(assignment: &Assignment) -> BTreeMap<String, Vec<Use>> {
    let mut all: BTreeMap<String, Vec<Use>> = BTreeMap::new();
    for assigned in assignment.instances.values() {
        let need = |role| Use { instance: assigned.instance.clone(), role };
        all.entry(assigned.image().into_owned()).or_default().push(need(Role::Next));
        if let Some(ahead) = &assigned.image_ahead {
            all.entry(ahead.clone()).or_default().push(need(Role::Next));
        }
        if let Some(fallback) = assigned.fallback_image() {
            all.entry(fallback.into_owned()).or_default().push(need(Role::FallBack));
        }
    }
    all
}
