//! Lines of OpenSSH's `authorized_keys`: a public key, and in front of it what its owner may do.
//!
//! Pure. Invariant: a line never gives more than it says. An option that we do not know, or that we cannot enforce,
//! makes the whole line invalid, whatever stands beside it; so does a key that is too weak.
//!
//! Honoured as in `sshd(8)`: `restrict`, `[no-]pty`, `[no-]port-forwarding`, `[no-]agent-forwarding`,
//! `command=`, `from=`, `expiry-time=` (UTC without a `Z` too), `permitopen=`, `permitlisten=`,
//! `cert-authority`, `principals=`; of `internal-sftp` as a command, `-R` and `-d`. `login=` is our own: the names to
//! log in as. Without effect, because dwell has nothing of the sort:
//! `[no-]x11-forwarding`, `[no-]user-rc`, `no-touch-required`, and `environment=`, as with sshd's default.

mod forced;
mod options;

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, PublicKey};

pub use self::forced::Forced;
pub(crate) use self::forced::INTERNAL_SFTP;
use crate::pattern::{AddressList, Target};

/// Longest line, in bytes: an RSA key of 16,384 bits with generous options.
pub const MAX_LINE: usize = 16 * 1024;
/// Smallest RSA key, in bits.
const MIN_RSA_BITS: u32 = 2048;

/// Why a line is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Longer than [`MAX_LINE`].
    #[error("is longer than {MAX_LINE} bytes")]
    TooLong,
    /// No key where one is to be.
    #[error("holds no public key of a supported type")]
    Key,
    /// RSA with less than 2048 bits, or DSA.
    #[error("holds a weak key; make a new one: ssh-keygen -t ed25519")]
    Weak,
    /// Quotes, commas.
    #[error("has malformed options")]
    Syntax,
    /// An option that we do not know.
    #[error("has the option `{0}`, which dwell does not enforce, and is therefore not used")]
    Unknown(String),
    /// An option's value.
    #[error("has an invalid value for `{0}`")]
    Value(&'static str),
}

/// A key, or an authority if `options` say so, and what it is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizedKey {
    /// The key.
    pub key: PublicKey,
    /// What was said in front of it.
    pub options: KeyOptions,
}

/// What a line's options say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOptions {
    /// The key is an authority: who shows a certificate of its may log in, nobody by the key itself.
    pub authority: bool,
    /// For an authority: one of these has to be among the certificate's principals, instead of the login name.
    pub principals: Option<Vec<String>>,
    /// May ask for a terminal.
    pub terminal: bool,
    /// May forward ports.
    pub forwarding: bool,
    /// May forward its agent.
    pub agent: bool,
    /// Runs instead of whatever was asked for.
    pub command: Option<Forced>,
    /// The names that may be logged in as; absent: any.
    pub login: Option<Vec<String>>,
    /// From where.
    pub from: Option<AddressList>,
    /// Until when, in seconds since 1970.
    pub expires: Option<u64>,
    /// Where forwarded connections may go; absent: anywhere.
    pub open: Option<Vec<Target>>,
    /// Where forwarded ports may be listened on; absent: anywhere.
    pub listen: Option<Vec<Target>>,
}

impl KeyOptions {
    /// Whether `login` may be logged in as.
    pub fn names(&self, login: &str) -> bool {
        self.login.as_ref().is_none_or(|names| names.iter().any(|name| name == login))
    }

    /// Whether the line counts for a client at `from`, at the time `now`.
    pub fn applies(&self, from: IpAddr, now: SystemTime) -> bool {
        let in_time = self
            .expires
            .is_none_or(|expires| now < SystemTime::UNIX_EPOCH + Duration::from_secs(expires));
        in_time && self.from.as_ref().is_none_or(|list| list.matches(from))
    }
}

/// Reads one line; an empty one or a comment is nothing.
///
/// # Errors
/// [`LineError`], whose text continues a sentence that begins with which line it is.
pub fn parse_line(line: &str) -> Result<Option<AuthorizedKey>, LineError> {
    let line = line.trim();
    if line.len() > MAX_LINE {
        return Err(LineError::TooLong);
    }
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let begins_with_key = line
        .split_whitespace()
        .next()
        .is_some_and(|word| !matches!(Algorithm::new(word), Err(_) | Ok(Algorithm::Other(_))));
    let (options, key) = match begins_with_key {
        true => (KeyOptions::default(), line),
        false => options::parse(line)?,
    };
    let key = PublicKey::from_openssh(key).map_err(|_| LineError::Key)?;
    check_key(key.key_data())?;
    Ok(Some(AuthorizedKey { key, options }))
}

/// Whether a key is of a kind that may prove anything here.
///
/// # Errors
/// [`LineError::Weak`] and [`LineError::Key`].
pub fn check_key(key: &KeyData) -> Result<(), LineError> {
    match key.algorithm() {
        _ if key.is_certificate() => Err(LineError::Key),
        Algorithm::Ed25519
        | Algorithm::Ecdsa { .. }
        | Algorithm::SkEd25519
        | Algorithm::SkEcdsaSha2NistP256 => Ok(()),
        Algorithm::Rsa { .. } if key.rsa().is_some_and(|rsa| rsa.key_size() >= MIN_RSA_BITS) => {
            Ok(())
        }
        Algorithm::Rsa { .. } | Algorithm::Dsa => Err(LineError::Weak),
        _ => Err(LineError::Key),
    }
}

#[cfg(test)]
mod tests;
