//! Key sets: named lists of public keys that may log in to instances, wherever a workload does not say which count.
//!
//! All of them go to every node with its assignment, so their size is bounded together. Lines are read and checked
//! where they enter (the API); here they are texts with a fingerprint.

use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{KeySetName, WorkloadName};
use dwell_core::workload::Ssh;

use super::object::{AuthorizedKey, KeySet, Severity, Subject};
use super::record::{Key, Record};
use super::{Model, Refusal};

/// The most key sets.
pub const KEY_SETS_MAX: usize = 256;
/// The most keys of one set.
pub const KEYS_MAX: usize = 1_000;
/// The most bytes that the lines of all sets may have together.
pub const KEYS_BYTES_MAX: usize = 256 * 1024;
/// How many keys or workloads an event names.
const NAMED_MAX: usize = 5;

impl Model {
    /// One key set.
    #[must_use]
    pub fn key_set(&self, name: &KeySetName) -> Option<Arc<KeySet>> {
        self.tables.key_sets().get(name).cloned()
    }

    /// All key sets, by name.
    #[must_use]
    pub fn key_sets(&self) -> Vec<Arc<KeySet>> {
        self.tables.key_sets().values().cloned().collect()
    }

    /// Takes keys away from a set, then adds others; it is made if need be. A key that is there is not added again;
    /// its line becomes the new one, which may have another comment or other options.
    pub(super) fn update_key_set(
        &mut self,
        name: &KeySetName,
        add: Vec<AuthorizedKey>,
        remove: &[String],
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let old = self.key_set(name);
        if old.is_none() && add.is_empty() {
            return Err(Refusal::NoKeySet(name.clone()));
        }
        let mut keys = old.as_ref().map(|old| old.keys.clone()).unwrap_or_default();
        let mut removed = Vec::new();
        for wanted in remove {
            let before = removed.len();
            let is_wanted = |key: &mut AuthorizedKey| {
                key.fingerprint == *wanted || key.comment == *wanted || key.line == *wanted
            };
            removed.extend(keys.extract_if(.., is_wanted));
            if removed.len() == before {
                let wanted = wanted.chars().take(100).collect();
                return Err(Refusal::NoKey { set: name.clone(), wanted });
            }
        }
        let mut added = Vec::new();
        for key in add {
            if keys.contains(&key) {
                continue;
            }
            added.push(key.clone());
            match keys.iter_mut().find(|there| there.fingerprint == key.fingerprint) {
                Some(there) => *there = key,
                None => keys.push(key),
            }
        }
        if old.as_ref().is_some_and(|old| old.keys == keys) {
            return Ok(());
        }
        self.check_key_sets(name, &keys)?;
        self.put_with(|revision| {
            Record::KeySet(Arc::new(KeySet { name: name.clone(), keys, revision }))
        });
        let mut message = format!("key set {name}:");
        for (verb, keys) in [("added", added), ("removed", removed)] {
            if !keys.is_empty() {
                message = format!("{message} {verb} {};", listed(&keys, AuthorizedKey::shown));
            }
        }
        let message = message.trim_end_matches([';', ':']).to_owned();
        self.event(now, Severity::Info, Subject::Cluster, "key-set-changed", message);
        Ok(())
    }

    fn check_key_sets(&self, name: &KeySetName, keys: &[AuthorizedKey]) -> Result<(), Refusal> {
        let others = || self.tables.key_sets().values().filter(|set| set.name != *name);
        if others().count() >= KEY_SETS_MAX {
            return Err(Refusal::TooManyKeySets);
        }
        if keys.len() > KEYS_MAX {
            return Err(Refusal::TooManyKeys(name.clone()));
        }
        let others = others().flat_map(|set| &set.keys);
        let bytes: usize = others.chain(keys).map(|key| key.line.len()).sum();
        if bytes > KEYS_BYTES_MAX {
            return Err(Refusal::KeysTooLarge(bytes));
        }
        Ok(())
    }

    /// Takes a whole set away. Workloads may name it: whom it let in is meant to lose that at once, so
    /// they do not hold it; that they do is told.
    pub(super) fn remove_key_set(
        &mut self,
        name: &KeySetName,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.key_set(name).is_none() {
            return Err(Refusal::NoKeySet(name.clone()));
        }
        self.delete(Key::KeySet(name.clone()));
        let workloads = self.tables.workloads().values();
        let named: Vec<WorkloadName> = workloads
            .filter(|workload| match &workload.spec.template.ssh {
                Ssh::Dwell { key_sets: Some(sets), .. } => sets.contains(name),
                _ => false,
            })
            .map(|workload| workload.spec.name.clone())
            .collect();
        let (severity, message) = if named.is_empty() {
            (Severity::Info, format!("key set {name} is removed"))
        } else {
            let named = listed(&named, ToString::to_string);
            (Severity::Warning, format!("key set {name} is removed, although named by {named}"))
        };
        self.event(now, severity, Subject::Cluster, "key-set-removed", message);
        Ok(())
    }
}

impl AuthorizedKey {
    /// Fingerprint and comment, for people.
    fn shown(&self) -> String {
        format!("{} {}", self.fingerprint, self.comment).trim_end().to_owned()
    }
}

/// The first few of a list, for people.
fn listed<T>(all: &[T], show: impl Fn(&T) -> String) -> String {
    let first: Vec<String> = all.iter().take(NAMED_MAX).map(show).collect();
    let first = first.join(", ");
    match all.len().saturating_sub(NAMED_MAX) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
