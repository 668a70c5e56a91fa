//! Public keys: key sets, and certificates for people.
//!
//! Every key is read here before the model sees it: what is no public key, or too weak to be one, never gets in.

use std::time::Duration;

use dwell_core::clock::millis;
use dwell_core::instance::sanitize;
use dwell_core::quantity::Millis;
use dwell_proto::v1;
use ssh_key::public::KeyData;
use ssh_key::{HashAlg, PublicKey};
use tonic::Status;

use super::{Api, request};
use crate::access;
use crate::model::{AuthorizedKey, Command, KEYS_MAX, KeySet, Subject};
use crate::pki::UserCertificate;
use crate::status::into_status;

/// The longest line, in bytes: an RSA key of 16,384 bits with options.
const LINE_MAX: usize = 8 * 1024;
/// The shortest RSA key, in bits.
const RSA_BITS_MIN: u32 = 2048;
/// The longest comment that is shown, in bytes.
const COMMENT_MAX: usize = 128;
/// How long a person's certificate is valid if nobody says, and at most.
const USER_VALID: Duration = Duration::from_secs(8 * 3600);
pub(super) const USER_VALID_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// It begins this long before now, for nodes whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(300);
/// The most names that one certificate is for, and the longest of them, in bytes.
const PRINCIPALS_MAX: usize = 32;
const PRINCIPAL_MAX: usize = 64;

/// Why a text is not used as a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    /// The worst of mistakes, since it cannot be taken back.
    #[error("this is a private key; never send it to anybody; use the file that ends in .pub")]
    Private,
    /// Longer than any key.
    #[error("it is longer than {LINE_MAX} bytes; give one line of a .pub file")]
    TooLong,
    /// Nothing that could be read as a key.
    #[error("it is no public key; give a line as in ~/.ssh/id_ed25519.pub")]
    NotAKey,
    /// Something else that begins like one.
    #[error("it is a certificate; give the key it was made for, the .pub file without -cert")]
    Certificate,
    /// An algorithm that is broken, or a key that is too short.
    #[error(
        "the key is too weak (DSA, or RSA of less than {RSA_BITS_MIN} bits); make a new one with `ssh-keygen -t ed25519`"
    )]
    Weak,
}

/// Reads a line of `authorized_keys`, with options or without. What the options mean is checked where they are used.
pub(super) fn authorized_key(line: &str) -> Result<AuthorizedKey, KeyError> {
    let line = line.trim();
    let key = public_key(line).or_else(|error| match error {
        KeyError::NotAKey => public_key(behind_options(line)),
        error => Err(error),
    })?;
    Ok(AuthorizedKey {
        line: line.to_owned(),
        fingerprint: fingerprint(&key),
        comment: comment(&key),
    })
}

/// Reads a public key: its algorithm, its bytes, perhaps a comment.
fn public_key(text: &str) -> Result<PublicKey, KeyError> {
    if text.contains("PRIVATE KEY-----") || text.starts_with("PuTTY-User-Key-File") {
        return Err(KeyError::Private);
    }
    if text.len() > LINE_MAX {
        return Err(KeyError::TooLong);
    }
    if text.chars().any(|character| character.is_control() && character != '\t') {
        return Err(KeyError::NotAKey);
    }
    let (algorithm, rest) = word(text);
    let (bytes, comment) = word(rest);
    if algorithm.contains("-cert-v01@") {
        return Err(KeyError::Certificate);
    }
    let plain = format!("{algorithm} {bytes} {comment}");
    let key = PublicKey::from_openssh(plain.trim_end()).map_err(|_| KeyError::NotAKey)?;
    match key.key_data() {
        KeyData::Rsa(rsa) if rsa.key_size() < RSA_BITS_MIN => Err(KeyError::Weak),
        KeyData::Dsa(_) => Err(KeyError::Weak),
        KeyData::Ed25519(_)
        | KeyData::Ecdsa(_)
        | KeyData::Rsa(_)
        | KeyData::SkEd25519(_)
        | KeyData::SkEcdsaSha2NistP256(_) => Ok(key),
        _ => Err(KeyError::NotAKey),
    }
}

/// The first word, and what is behind it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_start())
}

/// What is behind the options: they end at the first blank outside of quotes.
fn behind_options(line: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    let end = line.find(|character| {
        match character {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => return true,
            _ => {}
        }
        escaped = character == '\\';
        false
    });
    end.map_or("", |end| &line[end..])
}

fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn comment(key: &PublicKey) -> String {
    sanitize(key.comment().as_str_lossy(), COMMENT_MAX)
}

impl Api {
    pub(super) async fn key_sets(
        &self,
        request: v1::ListKeySetsRequest,
    ) -> Result<v1::ListKeySetsResponse, Status> {
        let name = request::optional(&request.name)?;
        let (found, revision) = self
            .read(move |model| match name {
                Some(name) => model.key_set(&name).into_iter().collect(),
                None => model.key_sets(),
            })
            .await?;
        let wire = |set: &KeySet| v1::KeySet {
            name: set.name.to_string(),
            keys: set.keys.iter().map(|key| key.line.clone()).collect(),
        };
        let key_sets = found.iter().map(|set| wire(set)).collect();
        Ok(v1::ListKeySetsResponse { key_sets, revision: revision.0 })
    }

    pub(super) async fn change_key_set(
        &self,
        request: v1::UpdateKeySetRequest,
    ) -> Result<v1::UpdateKeySetResponse, Status> {
        let name = request::name(&request.name)?;
        if request.add.len() > KEYS_MAX || request.remove.len() > KEYS_MAX {
            return Err(Status::invalid_argument(format!("more than {KEYS_MAX} keys at once")));
        }
        let read = |(index, line): (usize, &String)| {
            authorized_key(line)
                .map_err(|error| Status::invalid_argument(format!("key {}: {error}", index + 1)))
        };
        let add = request.add.iter().enumerate().map(read).collect::<Result<_, _>>()?;
        // A whole line stands for its key, whatever its comment or its options are by now.
        let named = |text: &String| match authorized_key(text) {
            Ok(key) => key.fingerprint,
            Err(_) => text.trim().to_owned(),
        };
        let remove = request.remove.iter().map(named).collect();
        let done = self.command(Command::UpdateKeySet { name, add, remove }).await?;
        Ok(v1::UpdateKeySetResponse { revision: done.revision.0 })
    }

    /// Certifies a key, after that has been written down.
    pub(super) async fn certify(
        &self,
        request: v1::CertifyUserRequest,
    ) -> Result<v1::CertifyUserResponse, Status> {
        let key = public_key(request.public_key.trim())
            .map_err(|error| Status::invalid_argument(format!("public_key: {error}")))?;
        let principals = principals(request.principals)?;
        let valid = request::duration("valid_ms", request.valid_ms, USER_VALID, USER_VALID_MAX)?;
        let client = access::acting();
        let now = self.clock.wall();
        let (names, lasts) = (principals.join(", "), Millis(millis(valid)));
        let shown = format!("{} {}", fingerprint(&key), comment(&key));
        let message = format!("{client} had {} certified for {lasts} as {names}", shown.trim_end());
        let reason = "user-certified";
        self.command(Command::Note { subject: Subject::Cluster, reason, message }).await?;
        let certificate = UserCertificate {
            key_id: format!("{client}/{}", comment(&key)),
            principals,
            valid_after: dwell_core::clock::Timestamp(now.0.saturating_sub(millis(BACKDATED))),
            valid_before: now.after(valid),
        };
        let expires_at_ms = certificate.valid_before.0;
        let certificate = self.ssh.certify_user(&key, certificate).map_err(into_status)?;
        Ok(v1::CertifyUserResponse { certificate, expires_at_ms })
    }
}

fn principals(names: Vec<String>) -> Result<Vec<String>, Status> {
    if names.is_empty() || names.len() > PRINCIPALS_MAX {
        return Err(Status::invalid_argument(format!(
            "principals: give 1 to {PRINCIPALS_MAX} names to log in as"
        )));
    }
    let plain = |name: &String| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@+$".contains(&byte);
        (1..=PRINCIPAL_MAX).contains(&name.len()) && name.bytes().all(fits)
    };
    match names.iter().find(|name| !plain(name)) {
        None => Ok(names),
        Some(wrong) => Err(Status::invalid_argument(format!(
            "principals: {:?} is not a name to log in as; use 1 to {PRINCIPAL_MAX} letters, digits and any of ._-@+$",
            wrong.chars().take(PRINCIPAL_MAX).collect::<String>()
        ))),
    }
}

#[cfg(test)]
mod tests;
