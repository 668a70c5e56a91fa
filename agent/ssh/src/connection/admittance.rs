//! Log-ins, judged: by the keys and authorities that count, by those of the account itself where these do, and by whether
//! the container has the account.
//!
//! ```text
//!   no key or authority lets it in                 -> refused, as any stranger is
//!   one does, and the container has the account    -> in
//!   one does, and the container has no such account-> in, to be told so and disconnected: before, the protocol has
//!                                                     no place for a word, since `russh` sends its banner ahead of
//!                                                     the first name
//!   one does, and no container can be asked        -> in; each session says then what is wrong
//! ```
//!
//! Looking into the container takes a few milliseconds. Only this client waits for it, which has no channels yet.

use std::sync::Arc;
use std::time::SystemTime;

use dwell_core::ssh::{CONTAINERS_USER, DEFAULT_USER};
use russh::keys::Certificate;
use russh::keys::ssh_key::public::KeyData;
use russh::server::Auth;
use tracing::debug;

use super::Connection;
use crate::auth::{self, Asking, Keys, clean};
use crate::authorized_keys::AuthorizedKey;
use crate::enter::Failure;
use crate::permit::Permit;
use crate::state::{self, Served, Trust};

/// The longest name in a word to the client, in characters.
const MAX_NAME: usize = 32;

/// What a client proves that it has.
#[derive(Clone, Copy)]
pub(super) enum Credential<'a> {
    Key(&'a KeyData),
    Certificate(&'a Certificate),
}

impl Credential<'_> {
    fn permit(self, keys: Keys<'_>, asking: Asking<'_>) -> Option<Permit> {
        match self {
            Self::Key(key) => auth::with_key(keys, key, asking),
            Self::Certificate(certificate) => auth::with_certificate(keys, certificate, asking),
        }
    }

    /// For log and events.
    fn described(self) -> String {
        match self {
            Self::Key(key) => auth::describe(key, ""),
            Self::Certificate(certificate) => {
                auth::describe(certificate.public_key(), certificate.key_id())
            }
        }
    }
}

/// What is known of the instance at the moment of a log-in.
pub(super) struct Known {
    served: Arc<Served>,
    trust: Arc<Trust>,
}

impl Known {
    pub(super) fn keys(&self) -> Keys<'_> {
        Keys {
            trust: &self.trust,
            own: &self.served.keys,
            sets: self.served.key_sets.as_deref(),
            users: self.served.users.as_deref(),
        }
    }
}

impl Connection {
    /// What is known now; nothing if the instance is no longer served, which lets nobody in any more.
    pub(super) fn known(&self) -> Option<Known> {
        self.instance.has_changed().ok()?;
        let (served, trust) = (self.instance.borrow().clone(), self.front.trust.borrow().clone());
        Some(Known { served, trust })
    }

    /// Whether a key, offered alone, might let somebody in under a name. `russh` does not say whether a certificate comes
    /// with it; so where there is an authority, an unknown key might have one.
    pub(super) async fn is_promising(&self, login: &str, key: &KeyData) -> bool {
        let Some(known) = self.known() else { return false };
        let credential = Credential::Key(key);
        if known.keys().any_authority() || self.permit(&known, login, credential).is_some() {
            return true;
        }
        if !known.served.account_keys {
            return false;
        }
        let Account::There(own) = self.look_up(&known, login).await else { return false };
        own.iter().any(|line| line.options.authority)
            || self.permit_of_account(&known, login, &own, credential).is_some()
    }

    /// Decides about a log-in with a credential that is proven, notes what was decided, and tells `russh`.
    pub(super) async fn conclude(&mut self, login: &str, credential: Credential<'_>) -> Auth {
        let Some(known) = self.known() else { return Auth::reject() };
        let account = known.served.account(login);
        let mut permit = self.permit(&known, login, credential);
        let looked = if permit.is_some() || known.served.account_keys {
            self.look_up(&known, login).await
        } else {
            Account::Unknown
        };
        if let (None, Account::There(own)) = (&permit, &looked) {
            permit = self.permit_of_account(&known, login, own, credential);
        }
        let Some(permit) = permit else {
            self.login.tried(account, credential.described());
            return Auth::reject();
        };
        match looked {
            Account::There(_) | Account::Unknown => self.login.accepted(account, permit),
            Account::Absent(there) => {
                let good = |name: &str| self.permit(&known, name, credential).is_some();
                let names: Vec<_> = there.into_iter().filter(|name| good(name)).collect();
                let word = no_account(&known, account, &names, good(CONTAINERS_USER));
                self.login.tried(account, permit.key);
                self.login.has_no_account(word);
            }
        }
        Auth::Accept
    }

    /// What a credential is good for under a name, by the keys and authorities that count.
    fn permit(&self, known: &Known, login: &str, credential: Credential<'_>) -> Option<Permit> {
        credential.permit(known.keys(), self.asking(known, login))
    }

    /// The same by the lines of the account itself.
    fn permit_of_account(
        &self,
        known: &Known,
        login: &str,
        own: &[AuthorizedKey],
        credential: Credential<'_>,
    ) -> Option<Permit> {
        let trust = Trust::default();
        let keys = Keys { trust: &trust, own, sets: Some(&[]), ..known.keys() };
        let asking = self.asking(known, login);
        let mut permit = credential.permit(keys, asking)?;
        permit.key += &format!(" (by {}'s authorized_keys)", clean(asking.login, MAX_NAME));
        Some(permit)
    }

    fn asking<'a>(&self, known: &'a Known, login: &'a str) -> Asking<'a> {
        Asking {
            login: known.served.account(login),
            by_default: login == DEFAULT_USER,
            from: self.client.ip(),
            now: SystemTime::now(),
        }
    }

    /// Looks in the container for whom somebody wants to be.
    async fn look_up(&self, known: &Known, login: &str) -> Account {
        let Some(container) = &known.served.container else { return Account::Unknown };
        let (instance, login) = (&known.served.instance, known.served.account(login));
        let keys = known.served.account_keys;
        let looked = self.front.enter.account(container, instance, login, keys).await;
        match looked.map_err(|error| error.failure) {
            Ok(text) => {
                let (keys, faults) = state::parse(text.lines());
                for fault in faults {
                    debug!(%instance, login, "a key of an account {fault}");
                }
                Account::There(keys)
            }
            Err(Failure::NoUser { known, .. }) => Account::Absent(known),
            Err(failure) => {
                debug!(%instance, login, %failure, "cannot look an account up");
                Account::Unknown
            }
        }
    }
}

/// What the container has under a name.
enum Account {
    /// An account, and whom it lets in itself, if the instance leaves that to accounts.
    There(Vec<AuthorizedKey>),
    /// None; some of those that it has.
    Absent(Vec<String>),
    /// There is nothing to ask, or no answer.
    Unknown,
}

/// What somebody is told whom the container does not know: who they could be, of those that there are.
fn no_account(known: &Known, account: &str, names: &[String], is_own: bool) -> String {
    let (instance, zone) = (&known.served.instance, &known.trust.zone);
    let host = if zone.is_empty() { instance.to_string() } else { format!("{instance}.{zone}") };
    let lacks = format!("{instance} has no user {:?}", clean(account, MAX_NAME));
    let own = "its own user: ssh";
    match (names, is_own) {
        ([], false) => format!("{lacks}, and this key or certificate is good for none that it has"),
        ([], true) => format!("{lacks}; {own} {CONTAINERS_USER}@{host}"),
        ([first, ..], false) => format!("{lacks}; it has {}: ssh {first}@{host}", names.join(", ")),
        ([first, ..], true) => format!(
            "{lacks}; it has {}: ssh {first}@{host}; {own} {CONTAINERS_USER}@{host}",
            names.join(", ")
        ),
    }
}
