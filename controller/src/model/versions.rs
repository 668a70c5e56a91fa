//! The versions of a workload's declaration, and which of them an instance is to be.
//!
//! ```text
//!   declared ─▶ rolling out ─┬─ every instance has held with it ────────▶ good
//!                            ├─ more failed with it than may ───────────▶ ruled out; the rollout pauses
//!                            └─ some failed, no more than may ──────────▶ incomplete
//! ```
//!
//! What a version says never changes. To go back to one, or to try one anew, is to declare a new version that says the
//! same. An instance refers to what it is to be ([`Instance::wanted`]), to the version it last held with
//! ([`Instance::serving`]) and, until it has held with what it is to be, to what is put up again if it does not
//! ([`Instance::fallback`]) or, where nobody has heard whether anything held, to what its node may put up by itself
//! ([`Instance::unseen`]).
//!
//! Invariants:
//! - an instance that has held with a version is never given another one that was ruled out; what it held with itself it
//!   keeps, also if others did not hold with that;
//! - an instance that failed with a version is not given that version again ([`failures`]);
//! - only what every instance holds with is good;
//! - while the newest version is ruled out its rollout is paused, so whatever makes or moves an instance uses what that
//!   instance held with, else what is good;
//! - room is kept for what may have to be put up again, until it is not needed any more;
//! - once it is known which image a version's reference means, that does not change.

mod ahead;
mod asked;
mod canary;
mod failures;
mod found;
mod stored;
mod stuck;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{Revision, VersionNumber, WorkloadName};
use dwell_core::image::ImageDigest;
use dwell_core::instance::Phase;
use dwell_core::workload::{Resources, Template, WorkloadSpec};
use serde::{Deserialize, Serialize};

use super::Model;
use super::object::{Instance, Severity, Subject, Workload};
use super::record::{Key, Record};

pub use failures::FailedWith;
pub(super) use stored::by_number;

/// How many versions of a workload are remembered, besides those that its instances refer to.
pub(super) const VERSIONS_MAX: usize = 20;

/// One numbered form of a workload's declaration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Whose.
    pub workload: WorkloadName,
    /// What it says.
    #[serde(with = "stored::whole")]
    pub form: Arc<Form>,
    /// When it was declared.
    pub at: Timestamp,
    /// Who declared it; empty if that is not known.
    #[serde(default)]
    pub by: String,
    /// What became of it.
    pub state: VersionState,
    /// It may be given to all instances, and not only to those that try it out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub promoted: bool,
    /// Which image its reference means: the one with which the first instance of it ran. `None` while none has, and for
    /// an image that is of no registry. All further containers of the version are made from that image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<ImageDigest>,
    /// Every node that is to have its image before anything is stopped for it has it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fetched: bool,
    /// Whether its limits are set although an instance uses more than they allow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// How many times an instance has failed with it, those that are gone since among them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Of its declaration; 0 if that is not known.
    #[serde(default)]
    pub declared: Revision,
    /// Of its last change.
    pub revision: Revision,
}

/// What a version says; never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// Its number.
    pub number: VersionNumber,
    /// What instances of it are.
    pub template: Template,
}

/// What became of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VersionState {
    /// Not all instances have held with it, and no more have failed to than may.
    RollingOut,
    /// All instances have held with it: it is what others fall back to.
    Good,
    /// Every instance was given it, and some failed with it, but no more than may: they are what they held with before, and
    /// are not given it again. It is not what others fall back to.
    Incomplete,
    /// More instances than may did not hold with it.
    RuledOut {
        /// Which one and why, for people.
        reason: String,
    },
}

/// Why no instance is given the newest version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Pause {
    /// The newest version was ruled out, which the text explains. The next declaration takes it up again.
    BadVersion(String),
    /// Somebody asked for it, and has to end it.
    Asked {
        /// Who; empty if that is not known.
        by: String,
    },
    /// As many instances as were declared try the newest version out, and somebody has to promote it to the others.
    Canary {
        /// Which version that is.
        canary: VersionNumber,
    },
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadVersion(message) => f.write_str(message),
            Self::Asked { by } if by.is_empty() => {
                f.write_str("rollout paused; `dwell resume` goes on")
            }
            Self::Asked { by } => write!(f, "rollout paused by {by}; `dwell resume` goes on"),
            Self::Canary { canary } => write!(
                f,
                "version {canary} is tried out by the canaries; `dwell promote` gives it to the others, `dwell abort` takes it back"
            ),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// One version, with what follows from the rest of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionView {
    /// What it is.
    pub version: Arc<Version>,
    /// Whether it is the newest: what instances are brought to.
    pub newest: bool,
    /// Whether it is what is fallen back to.
    pub good: bool,
    /// The fields in which it differs from the version before it, if that is remembered.
    pub changed_fields: Vec<&'static str>,
    /// How many instances are to be it.
    pub wanted: usize,
    /// How many instances held with it last.
    pub serving: usize,
}

impl Instance {
    /// Whether it has held with what it is to be.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.serving == Some(self.wanted.number)
    }

    /// All that a container of it may be made from.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let back = self.fallback.iter().chain(&self.unseen);
        std::iter::once(&self.wanted).chain(back).map(|form| &form.template)
    }

    /// The room that it may need: enough for what it is to be, and for what may have to be put up again.
    pub(super) fn room(&self) -> Resources {
        let forms = std::iter::once(&self.wanted).chain(&self.fallback).chain(&self.unseen);
        let shares = forms.map(|form| self.own_size.over(form.template.resources));
        shares.fold(Resources::default(), Resources::max)
    }

    /// The same, with the second share.
    #[must_use]
    pub fn promised(&self) -> Resources {
        self.share().plus(self.second_share.unwrap_or_default())
    }

    /// The same instance, as it is when it is to be another version. What it is now is worth putting up again if it has
    /// held with that or, where nothing is known to hold, has at least run.
    fn given(&self, form: &Arc<Form>, became: Became) -> Self {
        let (wanted, holds) = (Arc::clone(form), self.holds());
        let renamed = |serving: bool| if serving { Some(form.number) } else { self.serving };
        if self.is_same(&self.wanted.template, &form.template) {
            return Self { wanted, serving: renamed(holds), ..self.clone() };
        }
        let now = || Some(Arc::clone(&self.wanted));
        let before = if holds { None } else { self.fallback.clone() };
        let before = before.or_else(|| now().filter(|_| holds || became == Became::Running));
        if let Some(before) =
            before.as_ref().filter(|before| self.is_same(&before.template, &form.template))
        {
            let serving = renamed(self.serving == Some(before.number));
            return Self { wanted, serving, fallback: None, unseen: None, ..self.clone() };
        }
        // A node that misses some of what it is told has held with the first of them, if with any.
        let unseen = match became {
            Became::Unseen => self.unseen.clone().or_else(now),
            Became::Running | Became::NotRunning => self.unseen.clone(),
        };
        let unseen = unseen
            .filter(|unseen| before.is_none() && !self.is_same(&unseen.template, &form.template));
        Self { wanted, fallback: before, unseen, ..self.clone() }
    }
}

/// What became of an instance as it is, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Became {
    /// It runs, or did.
    Running,
    /// It does not run, or not yet; or it has no node.
    NotRunning,
    /// Its node has not said.
    Unseen,
}

impl Model {
    /// What a workload's instances are brought to.
    pub(super) fn newest(&self, workload: &WorkloadName) -> Option<Arc<Version>> {
        let versions = self.tables.versions().get(workload)?;
        versions.last_key_value().map(|(_, version)| Arc::clone(version))
    }

    fn version(&self, workload: &WorkloadName, number: VersionNumber) -> Option<Arc<Version>> {
        self.tables.versions().get(workload)?.get(&number).cloned()
    }

    pub(super) fn good_form(&self, workload: &Workload) -> Option<Arc<Form>> {
        let good = self.version(&workload.spec.name, workload.good?)?;
        Some(Arc::clone(&good.form))
    }

    /// What a new instance is to be: the newest version, or the good one while the rollout is paused or the newest is only
    /// tried out.
    pub(super) fn form_for_new(&self, workload: &Workload) -> Option<Arc<Form>> {
        let is_held_back = workload.paused.is_some() || self.canaries(workload).is_some();
        let good = if is_held_back { self.good_form(workload) } else { None };
        good.or_else(|| Some(Arc::clone(&self.newest(&workload.spec.name)?.form)))
    }

    /// An instance as it is when it is to be another version.
    pub(super) fn given(&self, instance: &Instance, form: &Arc<Form>) -> Instance {
        let has_run = instance.told.is_some_and(|told| told.phase == Phase::Running);
        let seen = self.tables.observed().get(&instance.name);
        let is_seen = seen.is_some_and(|seen| seen.status.generation == instance.generation);
        let became = match instance.node {
            Some(_) if !is_seen && self.is_tried_in_vain(instance) => Became::NotRunning,
            Some(_) if !is_seen => Became::Unseen,
            // Without a node nothing is seen of it; it ran as it was then, or as what it was taken back to.
            None if seen.is_some() && !is_seen => Became::NotRunning,
            _ if has_run => Became::Running,
            _ => Became::NotRunning,
        };
        instance.given(form, became)
    }

    /// What is put up again if an instance does not hold with what it is to be.
    pub(super) fn fallback(&self, workload: &Workload, instance: &Instance) -> Option<Arc<Form>> {
        if instance.holds() || workload.spec.job.is_some() {
            return None;
        }
        let good = || self.good_form(workload);
        let fallback = instance.fallback.clone().or_else(good)?;
        let differs = !instance.is_same(&fallback.template, &instance.wanted.template);
        differs.then_some(fallback)
    }

    /// Whether an instance is to be what was ruled out, for want of anything to go back to.
    pub(super) fn is_tried_in_vain(&self, instance: &Instance) -> bool {
        let wanted = self.version(instance.name.workload(), instance.wanted.number);
        let is_ruled_out =
            |version: Arc<Version>| matches!(version.state, VersionState::RuledOut { .. });
        !instance.holds() && wanted.is_some_and(is_ruled_out)
    }

    /// A workload says something else from now on.
    pub(super) fn declare_version(&mut self, spec: &WorkloadSpec, by: &str, now: Timestamp) {
        let name = &spec.name;
        // To go back to what is good, nothing has to be tried out; nor where nothing is left of what was there.
        let workload = self.tables.workloads().get(name);
        let promoted = workload.is_some_and(|workload| {
            let good = self.good_form(workload);
            workload.removing || good.is_some_and(|good| good.template == spec.template)
        });
        let last = self.newest(name).map_or(VersionNumber(0), |newest| newest.form.number);
        let form = Form { number: last.next(), template: spec.template.clone() };
        // Instances that serve what it says are only renumbered, so it means the same image.
        let versions = self.tables.versions().get(name).into_iter().flat_map(BTreeMap::values);
        let mut alike = versions.rev().filter(|before| before.form.template == spec.template);
        let image_digest = alike.find_map(|before| before.image_digest);
        let version = Version {
            workload: name.clone(),
            form: Arc::new(form),
            at: now,
            by: by.to_owned(),
            state: VersionState::RollingOut,
            promoted,
            image_digest,
            fetched: false,
            forced: false,
            failures: 0,
            declared: Revision(0),
            revision: Revision(0),
        };
        self.put_with(|revision| {
            Record::Version(Arc::new(Version { declared: revision, revision, ..version }))
        });
        self.forget_old_versions(name);
    }

    /// Limits of the version that is rolled out are set although an instance uses more than they allow.
    pub(super) fn force_limits(&mut self, name: &WorkloadName) {
        let newest = self.newest(name).filter(|one| one.state == VersionState::RollingOut);
        if let Some(newest) = newest.filter(|newest| !newest.forced) {
            self.put_version(Version { forced: true, ..Version::clone(&newest) });
        }
    }

    /// Whether an instance's limits are set although it uses more than they allow.
    pub(super) fn is_forced(&self, instance: &Instance) -> bool {
        let version = self.version(instance.name.workload(), instance.wanted.number);
        version.is_some_and(|version| version.forced)
    }

    /// Which image a form's reference means.
    pub(super) fn image_digest(&self, workload: &WorkloadName, form: &Form) -> Option<ImageDigest> {
        self.version(workload, form.number)?.image_digest
    }

    /// An instance runs with an image of a registry: what it is to be means that image from now on, unless it means
    /// one already. Returns the image that it means.
    pub(super) fn pin(
        &mut self,
        instance: &Instance,
        seen: ImageDigest,
        now: Timestamp,
    ) -> ImageDigest {
        let (name, number) = (instance.name.workload(), instance.wanted.number);
        let Some(version) = self.version(name, number) else { return seen };
        if let Some(pinned) = version.image_digest {
            return pinned;
        }
        self.put_version(Version { image_digest: Some(seen), ..Version::clone(&version) });
        let image = &version.form.template.image;
        let message =
            format!("version {number} means {seen} by {image}, as {} runs it", instance.name);
        self.event(now, Severity::Info, Subject::Workload(name.clone()), "version-pinned", message);
        seen
    }

    pub(super) fn put_version(&mut self, version: Version) {
        self.put_with(|revision| Record::Version(Arc::new(Version { revision, ..version })));
    }

    fn forget_old_versions(&mut self, name: &WorkloadName) {
        let Some(versions) = self.tables.versions().get(name) else { return };
        let Some(surplus) = versions.len().checked_sub(VERSIONS_MAX).filter(|&count| count > 0)
        else {
            return;
        };
        let mut needed: BTreeSet<VersionNumber> = BTreeSet::new();
        needed.extend(self.tables.workloads().get(name).and_then(|workload| workload.good));
        for instance in self.tables.instances_of(name) {
            needed.insert(instance.wanted.number);
            let back = instance.fallback.iter().chain(&instance.unseen);
            needed.extend(back.map(|form| form.number));
        }
        let oldest = versions.keys().take(surplus).filter(|number| !needed.contains(number));
        for number in oldest.copied().collect::<Vec<_>>() {
            self.delete(Key::Version(name.clone(), number));
        }
    }

    /// The last instance of a workload is gone.
    pub(super) fn forget_versions(&mut self, name: &WorkloadName) {
        let versions = self.tables.versions().get(name);
        let numbers: Vec<VersionNumber> =
            versions.into_iter().flat_map(BTreeMap::keys).copied().collect();
        for number in numbers {
            self.delete(Key::Version(name.clone(), number));
        }
    }

    /// An instance has held with what it is to be.
    pub(super) fn note_held(&mut self, instance: &Instance) -> Instance {
        let serving = Some(instance.wanted.number);
        let (fallback, unseen, edition_before, own_size_before) = (None, None, None, None);
        let failed = self.still_failed(instance);
        let held = Instance {
            root: self.root_that_holds(instance),
            root_before: None,
            serving,
            fallback,
            unseen,
            edition_before,
            own_size_before,
            failed,
            ..instance.clone()
        };
        self.put_instance(held.clone());
        held
    }
}
