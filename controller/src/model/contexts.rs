//! Contexts: what people and programs were given to use the API with, and which of that is not good any more.
//!
//! ```text
//!   issued ──first use──▶ used (to the hour) ──┬── revoked ──┐
//!      (one that no list had: from here on)    │             ▼
//!                                              └── expires ──┴──▶ (none)
//! ```
//!
//! A context proves itself by its certificate; what is kept here says who has one, and takes it back. A record goes when the
//! certificate has expired, since that is refused by itself.

use std::sync::Arc;

use dwell_core::access::{Client, ContextId, Issuer, Role};
use dwell_core::clock::Timestamp;
use dwell_core::id::{ClientName, Revision};
use serde::{Deserialize, Serialize};

use super::object::{Severity, Subject};
use super::record::{Key, Record};
use super::{Model, Refusal};

/// The most contexts that have not expired.
pub const CONTEXTS_MAX: usize = 10_000;
/// Who uses the unix socket, in events.
const LOCAL: &str = "local";

/// A context, without what is secret in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Which one.
    pub id: ContextId,
    /// Whom it was made for.
    pub name: ClientName,
    /// What it may do.
    pub role: Role,
    /// When it was made; `None` if a version did that kept no list.
    pub issued_at: Option<Timestamp>,
    /// On whose request.
    pub issued_by: String,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// Which of the cluster's authorities signed it.
    #[serde(default)]
    pub issuer: Issuer,
    /// When it was used last, to the hour.
    pub used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// On whose request.
    pub revoked_by: String,
    /// Of its last change.
    pub revision: Revision,
}

impl Context {
    pub(super) fn of(client: Client) -> Self {
        let Client { name, role, context: id, expires_at, issuer } = client;
        Self {
            id,
            name,
            role,
            issued_at: None,
            issued_by: String::new(),
            expires_at,
            issuer,
            used_at: None,
            revoked_at: None,
            revoked_by: String::new(),
            revision: Revision(0),
        }
    }
}

impl Model {
    /// All contexts that have not expired, by name.
    #[must_use]
    pub fn contexts(&self) -> Vec<Arc<Context>> {
        let mut all: Vec<_> = self.tables.contexts().values().cloned().collect();
        all.sort_by(|one, other| {
            (&one.name, one.issued_at, one.id).cmp(&(&other.name, other.issued_at, other.id))
        });
        all
    }

    pub(super) fn issue_context(&mut self, client: Client, now: Timestamp) -> Result<(), Refusal> {
        if client.name.as_str() == LOCAL {
            return Err(Refusal::ContextName(client.name));
        }
        if self.tables.contexts().len() >= CONTEXTS_MAX {
            return Err(Refusal::TooManyContexts);
        }
        let message = format!(
            "context {} was made for {}, who may do what a {} may",
            client.context, client.name, client.role
        );
        let (issued_at, issued_by) = (Some(now), self.by.clone());
        self.put_context(Context { issued_at, issued_by, ..Context::of(client) });
        self.event(now, Severity::Info, Subject::Cluster, "context-issued", message);
        Ok(())
    }

    /// One that no list has is listed from now on, so that it can be revoked.
    pub(super) fn note_context(&mut self, client: Client, now: Timestamp) -> Result<(), Refusal> {
        let context = match self.tables.contexts().get(&client.context) {
            Some(known) => Context::clone(known),
            None if client.expires_at <= now => return Ok(()),
            None if self.tables.contexts().len() >= CONTEXTS_MAX => {
                return Err(Refusal::TooManyContexts);
            }
            None => Context::of(client),
        };
        self.put_context(Context { used_at: Some(now), ..context });
        Ok(())
    }

    /// What becomes worthless by that.
    pub(super) fn revoke_context(
        &mut self,
        which: &str,
        now: Timestamp,
    ) -> Result<Vec<Arc<Context>>, Refusal> {
        let id = which.parse::<ContextId>().ok();
        let all = self.tables.contexts();
        let one = id.and_then(|id| all.get(&id));
        let meant: Vec<Arc<Context>> = match one {
            Some(one) => vec![Arc::clone(one)],
            None => {
                all.values().filter(|context| context.name.as_str() == which).cloned().collect()
            }
        };
        let good: Vec<_> =
            meant.into_iter().filter(|context| context.revoked_at.is_none()).collect();
        if good.is_empty() {
            return Err(Refusal::NoContext(which.chars().take(80).collect()));
        }
        for context in &good {
            let (revoked_at, revoked_by) = (Some(now), self.by.clone());
            self.put_context(Context { revoked_at, revoked_by, ..Context::clone(context) });
            let message = format!("context {} of {} is revoked", context.id, context.name);
            self.event(now, Severity::Info, Subject::Cluster, "context-revoked", message);
        }
        let now_revoked =
            good.iter().filter_map(|one| self.tables.contexts().get(&one.id).cloned());
        Ok(now_revoked.collect())
    }

    pub(super) fn expire_contexts(&mut self, now: Timestamp) {
        let all = self.tables.contexts().values();
        let expired: Vec<ContextId> =
            all.filter(|context| context.expires_at <= now).map(|context| context.id).collect();
        for id in expired {
            self.delete(Key::Context(id));
        }
    }

    fn put_context(&mut self, context: Context) {
        self.put_with(|revision| Record::Context(Arc::new(Context { revision, ..context })));
    }
}
