//! Who may log in: the decision alone, a pure function of keys, certificate, login name, address and time.
//!
//! ```text
//!   key           the first line with this key that applies here and now      -> its options
//!   certificate   the cluster's user CA, with the login name as principal     -> the certificate's permissions
//!                 a line with `cert-authority` that applies here and now      -> both together, the stricter of each
//! ```
//!
//! A name is the container's user of that name. Who has a key that is bound to no names may also be the container's
//! own user under any other; who has a certificate or a key for certain names only if [`CONTAINERS_USER`] is among them.
//! Where the instance names the users that may log in, no key and no certificate makes anybody another one.
//!
//! That the client holds the private key, and the authority's signature on the certificate, are verified by `russh`
//! before; everything else about a certificate is verified here, its time included.

mod certificate;

use std::net::IpAddr;
use std::time::SystemTime;

use dwell_core::id::KeySetName;
use dwell_core::ssh::CONTAINERS_USER;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, HashAlg};

use crate::authorized_keys::AuthorizedKey;
use crate::permit::Permit;
use crate::state::Trust;

/// Everything that a decision depends on besides the key.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The login name.
    pub login: &'a str,
    /// The client's address.
    pub from: IpAddr,
    /// Now.
    pub now: SystemTime,
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

    /// The same of what somebody may do: whoever may be the container's own user may only if the instance says so, too.
    fn bound(self, mut permit: Permit) -> Permit {
        permit.containers_user &= self.admits(CONTAINERS_USER);
        permit
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
        line.options.applies(asking.from, asking.now) && line.options.names(asking.login)
    })?;
    let whose = describe(key, line.key.comment().as_str_lossy());
    let containers_user = line.options.names(CONTAINERS_USER);
    Some(keys.bound(Permit::new(whose, &line.options, containers_user)))
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
    let names_login = claims.principals.iter().any(|principal| principal == asking.login);
    if keys.trust.user_authorities.contains(authority) && names_login {
        return claims.permit(whose, None).map(|permit| keys.bound(permit));
    }
    let line = keys.lines(authority, true).find(|line| {
        let principal = match &line.options.principals {
            Some(names) => names.iter().any(|name| claims.principals.contains(name)),
            None => names_login,
        };
        principal
            && line.options.names(asking.login)
            && line.options.applies(asking.from, asking.now)
    })?;
    claims.permit(whose, Some(&line.options)).map(|permit| keys.bound(permit))
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
