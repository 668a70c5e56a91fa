//! Who a connection is, from the first key it shows to its end; what the agent is told of it.

use std::net::SocketAddr;

use dwell_core::clock::{Clock, SystemClock, millis};
use dwell_core::id::InstanceName;
use dwell_core::ssh::{SshEvent, SshEventKind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::clean;
use crate::events::Reporter;
use crate::front::Admission;
use crate::permit::Permit;

/// Longest login name in an event, in characters.
const MAX_LOGIN: usize = 64;

/// A connection's log-in. Dropped, it reports that the connection was closed or was refused.
pub(super) struct LogIn {
    reporter: Reporter,
    instance: InstanceName,
    client: SocketAddr,
    admission: Admission,
    /// Cancelled when somebody is logged in.
    done: CancellationToken,
    /// The name it was last tried with.
    name: String,
    /// The key that was last shown.
    key: String,
    permit: Option<Permit>,
    /// What to tell a client whose key is good, and whose account is not there.
    refusal: Option<String>,
    since: Option<Instant>,
}

impl LogIn {
    pub(super) fn new(
        reporter: Reporter,
        instance: InstanceName,
        client: SocketAddr,
        admission: Admission,
    ) -> Self {
        Self {
            reporter,
            instance,
            client,
            admission,
            done: CancellationToken::new(),
            name: String::new(),
            key: String::new(),
            permit: None,
            refusal: None,
            since: None,
        }
    }

    /// Cancelled once somebody is logged in.
    pub(super) fn flag(&self) -> CancellationToken {
        self.done.clone()
    }

    /// A key was shown; unless one is accepted, the log-in counts as refused.
    pub(super) fn tried(&mut self, name: &str, key: String) {
        name.clone_into(&mut self.name);
        self.key = key;
        self.admission.refused();
    }

    /// A key was proven that may log in.
    pub(super) fn accepted(&mut self, name: &str, permit: Permit) {
        name.clone_into(&mut self.name);
        self.key.clone_from(&permit.key);
        self.permit = Some(permit);
    }

    /// The key is good, and there is no such account. `word` tells the client so.
    pub(super) fn has_no_account(&mut self, word: String) {
        self.refusal = Some(word);
    }

    /// What to tell a client that is disconnected for want of an account.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// The client is told so.
    pub(super) fn open(&mut self) {
        self.since = Some(Instant::now());
        self.admission.logged_in();
        self.done.cancel();
        self.report(SshEventKind::Opened);
    }

    /// Who it logged in as.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What it may do; nothing before it is logged in.
    pub(super) fn permit(&self) -> Option<&Permit> {
        self.permit.as_ref()
    }

    fn report(&self, what: SshEventKind) {
        self.reporter.report(SshEvent {
            at: SystemClock::new().now(),
            instance: self.instance.clone(),
            from: self.client,
            login: clean(&self.name, MAX_LOGIN),
            key: self.key.clone(),
            what,
        });
    }
}

impl Drop for LogIn {
    fn drop(&mut self) {
        match self.since {
            Some(since) => {
                self.report(SshEventKind::Closed { duration_ms: millis(since.elapsed()) });
            }
            None if !self.key.is_empty() => self.report(SshEventKind::Refused { count: 1 }),
            None => {}
        }
    }
}
