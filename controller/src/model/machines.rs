//! Machines: which image the root of one was born from, and roots that are made anew.
//!
//! A machine's root has what differs from the image that it was born from, so it is of use with that image alone. Unless its workload
//! declares otherwise, a machine keeps that image whatever its versions say, until somebody asks for its root to be made anew:
//!
//! ```text
//!   (none) ── held with an image ──▶ born from it ── somebody asks ──▶ (none), before: born from it ── held ──▶ born from another
//!                                        ▲                                       │
//!                                        └────────── did not hold ───────────────┘
//! ```
//!
//! That is a replacement by a container of another edition (`replacing.rs`), which begins with a root of its own: the one before is there
//! until the new one has held, and comes back with its container if it does not.

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::image::ImageDigest;
use dwell_core::workload::{OnImageChange, Template};
use serde::{Deserialize, Serialize};

use super::command::{Target, check_named};
use super::object::{Instance, Severity, Subject, Workload};
use super::versions::Form;
use super::{Model, Refusal};

/// What is known of the root of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// When somebody asked for it to be made anew last; zero if nobody has.
    #[serde(default, skip_serializing_if = "Timestamp::is_zero")]
    pub rebuilt: Timestamp,
    /// The image that it was born from, once the machine has held with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born_from: Option<BornFrom>,
}

/// An image that a root was born from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BornFrom {
    /// Its reference, as was declared.
    pub image: String,
    /// Which image that meant; `None` for one that is of no registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ImageDigest>,
}

impl Root {
    /// Whether nothing is known, as of what is no machine.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it stays in a new container of what a declaration says.
    pub(super) fn is_kept_by(&self, says: &Template) -> bool {
        let is_of = |born: &BornFrom| born.image == says.image;
        let stays = self.kept_image(says).is_some() || self.born_from.as_ref().is_some_and(is_of);
        says.machine.is_some() && stays
    }

    /// The image that a container is made from in place of what a version says.
    #[must_use]
    pub fn kept_image(&self, says: &Template) -> Option<&BornFrom> {
        let machine = says.machine.as_ref()?;
        let is_kept = machine.on_image_change == OnImageChange::Keep;
        self.born_from.as_ref().filter(|_| is_kept)
    }
}

impl Model {
    /// Which image an instance is made from as what a version says; `None` while nobody knows.
    pub(super) fn meant(&self, instance: &Instance, form: &Form) -> Option<ImageDigest> {
        match instance.root.kept_image(&form.template) {
            Some(born) => born.digest,
            None => self.image_digest(instance.name.workload(), form),
        }
    }

    /// What is known of the root of an instance that has held with what it is to be.
    pub(super) fn root_that_holds(&self, instance: &Instance) -> Root {
        let template = &instance.wanted.template;
        if template.machine.is_none() || instance.root.kept_image(template).is_some() {
            return instance.root.clone();
        }
        let seen = || self.tables.observed().get(&instance.name)?.status.image.digest;
        let digest = self.meant(instance, &instance.wanted).or_else(seen);
        let born_from = Some(BornFrom { image: template.image.clone(), digest });
        Root { born_from, ..instance.root }
    }

    /// That machines do not take the image that is declared, if so.
    pub(super) fn kept_image_note(&self, workload: &Workload) -> Option<String> {
        let says = &workload.spec.template;
        let keeps_another = |instance: &&Arc<Instance>| {
            instance.root.kept_image(says).is_some_and(|born| born.image != says.image)
        };
        let instances = self.tables.instances_of(&workload.spec.name);
        let names: Vec<String> =
            instances.filter(keeps_another).map(|one| one.name.to_string()).collect();
        let (first, rest) = names.split_first()?;
        let more = match rest.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "{first}{more} keeps the image that its root was born from; `dwell rebuild {first}` gives it a new root, from {}",
            says.image
        ))
    }

    /// Has the roots of chosen machines made anew, from the image that their workload declares now, all or none. One that is stopped has
    /// a new one when it is started.
    pub(super) fn rebuild_instances(
        &mut self,
        names: &BTreeSet<InstanceName>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        check_named(names.len())?;
        for name in names {
            for instance in self.targets(&Target::Instance(name.clone()))? {
                if instance.wanted.template.machine.is_none() {
                    return Err(Refusal::NotAMachine(name.clone()));
                }
                // Later than the one before, whatever became of the clock.
                let rebuilt = now.max(Timestamp(instance.root.rebuilt.0.saturating_add(1)));
                let before = instance.root_before.clone();
                let root_before = before.or_else(|| Some(Box::new(instance.root.clone())));
                let root = Root { rebuilt, born_from: None };
                self.remake(&Instance { root, root_before, ..Instance::clone(&instance) });
                let subject = Subject::Instance(name.clone());
                let message = format!(
                    "asked to begin with a new root, from image {}",
                    instance.wanted.template.image
                );
                self.event(now, Severity::Info, subject, "machine-rebuilt", message);
            }
        }
        Ok(())
    }
}
