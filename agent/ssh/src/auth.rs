//! Who may log in: the decision alone, a pure function of keys, certificate, login name, address and time.
//!
//! ```text
//!   key           the first line with this key that applies here and now      -> its options
//!   certificate   the cluster's user CA, with the login name as principal     -> the certificate's permissions
//!                 a line with `cert-authority` that applies here and now      -> both together, the stricter of each
//! ```
//!
//! A name is the container's user of that name and nobody else; [`CONTAINERS_USER`] is a name like any other, that of the
//! container's own user. A certificate, and a key for certain names, is good for these names alone. Where the instance
//! names the users that may log in, no key and no certificate makes anybody another one. Whoever chose no name is
//! whom the instance says ([`DEFAULT_USER`]), and needs a key or certificate that is good for that one, or for
//! those who chose none.
//!
//! [`CONTAINERS_USER`]: dwell_core::ssh::CONTAINERS_USER
//!
//! That the client holds the private key, and the authority's signature on the certificate, are verified by `russh`
//! before; everything else about a certificate is verified here, its time included.

mod certificate;

use std::net::IpAddr;
use std::time::SystemTime;

use dwell_core::id::KeySetName;
use dwell_core::ssh::DEFAULT_USER;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, HashAlg};

use crate::authorized_keys::AuthorizedKey;
use crate::permit::Permit;
use crate::state::Trust;

/// Everything that a decision depends on besides the key.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Who the client wants to be: a name of the container, or the container's own user.
    pub login: &'a str,
    /// The client chose no name, and the instance says that it is this one then.
    pub by_default: bool,
    /// The client's address.
    pub from: IpAddr,
    /// Now.
    pub now: SystemTime,
}

impl Asking<'_> {
    /// Whether names are good for this log-in, of which `are_among` tells whether one is among them.
    pub(crate) fn is_of(self, are_among: impl Fn(&str) -> bool) -> bool {
        are_among(self.login) || self.by_default && are_among(DEFAULT_USER)
    }
}

/// The keys that count at one instance.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Those of every instance.
    pub trust: &'a Trust,
    /// Its own.
    pub own: &'a [AuthorizedKey],
    /// Which key sets; absent: all.
    pub sets: Option<&'a [KeySetName]>,
    /// The names that may be logged in as, by any of them; absent: any.
    pub users: Option<&'a [String]>,
}

impl<'a> Keys<'a> {
    /// Lines with this key, or of this authority, its own first.
    fn lines(self, key: &'a KeyData, authority: bool) -> impl Iterator<Item = &'a AuthorizedKey> {
        let counts = move |name: &KeySetName| self.sets.is_none_or(|sets| sets.contains(name));
        let sets = self.trust.sets.iter().filter(move |(name, _)| counts(name));
        let lines = self.own.iter().chain(sets.flat_map(|(_, lines)| lines));
        lines.filter(move |line| line.options.authority == authority && line.key.key_data() == key)
    }

    /// Whether the instance takes log-ins as this name.
    fn admits(self, login: &str) -> bool {
        self.users.is_none_or(|users| users.iter().any(|user| user == login))
    }

    /// Whether any authority counts here, so that an unknown key may come with a certificate.
    pub fn any_authority(self) -> bool {
        let named = |name: &KeySetName| self.sets.is_none_or(|sets| sets.contains(name));
        !self.trust.user_authorities.is_empty()
            || self.own.iter().any(|line| line.options.authority)
            || self
                .trust
                .sets
                .iter()
                .any(|(name, lines)| named(name) && lines.iter().any(|line| line.options.authority))
    }
}

/// What a log-in with a plain key may do; nothing if it may not log in.
pub fn with_key(keys: Keys<'_>, key: &KeyData, asking: Asking<'_>) -> Option<Permit> {
    if !keys.admits(asking.login) {
        return None;
    }
    let mut lines = keys.lines(key, false);
    let line = lines.find(|line| {
        line.options.applies(asking.from, asking.now)
            && asking.is_of(|name| line.options.names(name))
    })?;
    let whose = describe(key, line.key.comment().as_str_lossy());
    Some(Permit::new(whose, &line.options))
}

/// What a log-in with a certificate may do; nothing if it may not log in.
pub fn with_certificate(
    keys: Keys<'_>,
    certificate: &Certificate,
    asking: Asking<'_>,
) -> Option<Permit> {
    if !keys.admits(asking.login) {
        return None;
    }
    let claims = certificate::read(certificate, asking)?;
    let authority = certificate.signature_key();
    let whose = describe(certificate.public_key(), certificate.key_id());
    let names_login =
        asking.is_of(|name| claims.principals.iter().any(|principal| principal == name));
    if keys.trust.user_authorities.contains(authority) && names_login {
        return claims.permit(whose, None);
    }
    let line = keys.lines(authority, true).find(|line| {
        let principal = match &line.options.principals {
            Some(names) => names.iter().any(|name| claims.principals.contains(name)),
            None => names_login,
        };
        principal
            && asking.is_of(|name| line.options.names(name))
            && line.options.applies(asking.from, asking.now)
    })?;
    claims.permit(whose, Some(&line.options))
}

/// A key for log and events: its fingerprint, and what its owner calls it, cleaned and cut.
pub fn describe(key: &KeyData, called: &str) -> String {
    let fingerprint = key.fingerprint(HashAlg::Sha256);
    match clean(called, 128) {
        called if called.is_empty() => fingerprint.to_string(),
        called => format!("{fingerprint} {called}"),
    }
}

/// `text` of somebody else's without control characters, and no longer than `limit` characters.
pub fn clean(text: &str, limit: usize) -> String {
    text.chars().filter(|character| !character.is_control()).take(limit).collect()
}

#[cfg(test)]
mod tests;
