//! Which contexts are revoked, for those who have to know before they may ask the owner anything, and for what has to end
//! with a context.
//!
//! Owned by the owner; everybody else reads, and notes what is used. An entry for each context that is known or was used, which
//! goes when it has expired.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dwell_core::access::ContextId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::model::{Change, Context, Key, Model, Record};

/// How often it is written down that a context is used.
const NOTED_EVERY: Duration = Duration::from_secs(3600);

/// All contexts, as of the last commit; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contexts(Arc<Mutex<HashMap<ContextId, Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    /// Cancelled when it is revoked.
    revoked: CancellationToken,
    noted_at: Option<Instant>,
}

impl Contexts {
    pub(super) fn of(model: &Model) -> Self {
        let contexts = Self::default();
        model.contexts().iter().for_each(|context| contexts.take(context));
        contexts
    }

    /// Is cancelled when the context is revoked, or has been.
    pub(crate) fn revoked(&self, id: ContextId) -> CancellationToken {
        self.all().entry(id).or_default().revoked.clone()
    }

    /// A context is used; whether that is to be written down.
    pub(crate) fn is_to_be_noted(&self, id: ContextId) -> bool {
        let mut all = self.all();
        let entry = all.entry(id).or_default();
        let now = Instant::now();
        let is_due = entry.noted_at.is_none_or(|noted| now - noted >= NOTED_EVERY);
        if is_due {
            entry.noted_at = Some(now);
        }
        is_due
    }

    /// What was to be noted could not be: the next use is.
    pub(crate) fn is_not_noted(&self, id: ContextId) {
        self.all().entry(id).or_default().noted_at = None;
    }

    /// Takes committed changes over.
    pub(super) fn publish(&self, changes: &[Change]) {
        for change in changes {
            match (&change.key, &change.new) {
                (Key::Context(_), Some(Record::Context(context))) => self.take(context),
                (Key::Context(id), _) => drop(self.all().remove(id)),
                _ => {}
            }
        }
    }

    fn take(&self, context: &Context) {
        let mut all = self.all();
        let entry = all.entry(context.id).or_default();
        if context.revoked_at.is_some() {
            entry.revoked.cancel();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ContextId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
