//! Instances of which something was told that does not fit what is known: they have to be looked at.
//!
//! ```text
//!            raise            begin               end
//!   (none) ────────▶ open ───────────▶ looking ─────────▶ (none)
//!                     ▲                  │ raised again meanwhile
//!                     └──────────────────┘ end
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dwell_core::clock::Timestamp;
use dwell_core::container::ContainerId;
use dwell_core::id::InstanceName;

use dwell_core::container::Container;

/// The first time that a look at one container may take; it doubles while looks fail.
const LOOK_LIMIT_MIN: Duration = Duration::from_secs(10);
/// The most it may take: the engine's answer is waited for nearly all the time, so that it is not missed when it
/// comes, and few questions pile up there.
const LOOK_LIMIT_MAX: Duration = Duration::from_secs(120);
/// The pause between two such looks.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Containers, beside the known ones of the instance.
    pub(super) containers: BTreeSet<ContainerId>,
    /// Whether there may be containers that nobody named.
    pub(super) list: bool,
    /// Not to be looked at before.
    pub(super) not_before: Timestamp,
}

/// A look at an instance that is under way.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Containers that have yet to be seen.
    pub(super) pending: BTreeSet<ContainerId>,
    /// What was seen of the others.
    pub(super) found: Vec<Container>,
    /// Why one could not be seen.
    pub(super) failure: Option<String>,
    /// Whether a step of the instance began or ended meanwhile, so that the look may be out of date.
    pub(super) overtaken: bool,
}

/// The open doubts, and the looks under way.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    open: BTreeMap<InstanceName, Doubt>,
    looking: BTreeMap<InstanceName, Look>,
    /// How often in a row an instance could not be looked at.
    failures: BTreeMap<InstanceName, u32>,
}

impl Doubts {
    /// Something has happened to a container of an instance, or to whichever. Of several times to look at it, the
    /// first counts.
    pub(super) fn raise(
        &mut self,
        name: &InstanceName,
        container: Option<&ContainerId>,
        not_before: Timestamp,
    ) {
        let is_new = !self.open.contains_key(name);
        let doubt = self.open.entry(name.clone()).or_default();
        doubt.containers.extend(container.cloned());
        doubt.list |= container.is_none();
        doubt.not_before = if is_new { not_before } else { doubt.not_before.min(not_before) };
    }

    /// Whether an instance is to be looked at, or is just now.
    pub(super) fn concern(&self, name: &InstanceName) -> bool {
        self.open.contains_key(name) || self.looking.contains_key(name)
    }

    /// Whether an instance is to be looked at once more.
    pub(super) fn is_open(&self, name: &InstanceName) -> bool {
        self.open.contains_key(name)
    }

    /// The instances that are to be looked at now.
    pub(super) fn due(&self, now: Timestamp) -> Vec<InstanceName> {
        let is_due = |name: &InstanceName, doubt: &Doubt| {
            doubt.not_before <= now && !self.looking.contains_key(name)
        };
        let due = self.open.iter().filter(|(name, doubt)| is_due(name, doubt));
        due.map(|(name, _)| name.clone()).collect()
    }

    /// When the next one is due.
    pub(super) fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.open.values().map(|doubt| doubt.not_before).filter(|at| now < *at).min()
    }

    /// Begins a look at an instance, and says what to look at.
    pub(super) fn begin(&mut self, name: &InstanceName) -> Option<Doubt> {
        if self.looking.contains_key(name) {
            return None;
        }
        let doubt = self.open.remove(name)?;
        self.looking.insert(name.clone(), Look::default());
        Some(doubt)
    }

    /// A look at everything begins: what is open now is part of it.
    pub(super) fn take_open(&mut self) -> BTreeMap<InstanceName, Doubt> {
        std::mem::take(&mut self.open)
    }

    /// Begins a look at an instance as a part of a look at everything.
    pub(super) fn begin_anyway(&mut self, name: &InstanceName) {
        self.looking.insert(name.clone(), Look::default());
    }

    /// The look at an instance, if one is under way.
    pub(super) fn look(&mut self, name: &InstanceName) -> Option<&mut Look> {
        self.looking.get_mut(name)
    }

    /// Somebody has looked, or has given up.
    pub(super) fn end(&mut self, name: &InstanceName) -> Option<Look> {
        self.looking.remove(name)
    }

    /// Gives up all looks.
    pub(super) fn end_all(&mut self) {
        self.looking.clear();
    }

    /// An instance could not be looked at: it is looked at again. Whether that is news.
    pub(super) fn failed(&mut self, name: &InstanceName, now: Timestamp) -> bool {
        self.raise(name, None, now.after(LOOK_PAUSE));
        let failures = self.failures.entry(name.clone()).or_default();
        *failures = failures.saturating_add(1);
        *failures == 1
    }

    /// An instance was looked at. Whether that is news.
    pub(super) fn succeeded(&mut self, name: &InstanceName) -> bool {
        self.failures.remove(name).is_some()
    }

    /// How long a look at a container of an instance may take.
    pub(super) fn limit(&self, name: &InstanceName) -> Duration {
        let failures = self.failures.get(name).copied().unwrap_or(0).min(8);
        LOOK_LIMIT_MIN.saturating_mul(1 << failures).min(LOOK_LIMIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_that_is_raised_while_somebody_looks_is_not_lost() {
        let name: InstanceName = "web-0".parse().unwrap();
        let id = ContainerId("c1".into());
        let (now, later) = (Timestamp(1), Timestamp(9));
        let mut doubts = Doubts::default();
        assert_eq!(doubts.begin(&name), None);
        doubts.raise(&name, Some(&id), now);
        let first = Doubt { containers: [id].into(), list: false, not_before: now };
        assert_eq!(doubts.begin(&name), Some(first));
        doubts.raise(&name, None, later);
        assert_eq!(doubts.begin(&name), None);
        doubts.end(&name);
        assert!(doubts.concern(&name) && doubts.due(now).is_empty());
        assert_eq!(doubts.wake_at(now), Some(later));
        doubts.raise(&name, None, now);
        assert_eq!(doubts.due(now), std::slice::from_ref(&name));
        assert_eq!(
            doubts.begin(&name),
            Some(Doubt { list: true, not_before: now, ..Doubt::default() })
        );
        doubts.end(&name);
        assert!(!doubts.concern(&name));
    }
}
