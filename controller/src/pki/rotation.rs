//! A new authority in the old one's place, while everything runs.
//!
//! ```text
//!   one authority ──rotate──▶ two: both are trusted, the newest signs ──finish──▶ one: the other is worth nothing
//! ```
//!
//! During a rotation whatever dwell verifies itself, certificates of nodes and of people for TLS and for SSH, is signed by the
//! newest. What others have to know already, the controller's own certificate and the certificates of instances' host keys,
//! is signed by the oldest until the end.
//!
//! Until its first rotation a cluster's authority is in the files `ca.pem`, `ca.key`, `ssh-host-ca` and `ssh-user-ca`, as
//! it always was; from then on all that count are in one file, `authorities.json`, which is replaced as a whole: a crash
//! leaves the state before or the one after. When the first authority is retired its keys go from the disk. `ca.pem` stays,
//! so that an earlier version of the controller refuses to start, where it would make the CA of another cluster.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::PoisonError;

use dwell_core::access::Issuer;
use dwell_core::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::authority::{file, read, write};
use super::{Authority, PkiError, SshAuthority, signer};

/// The file with all authorities that count.
pub(super) const STORED: &str = "authorities.json";
/// What this version writes, and the newest that it reads.
const FORMAT: u32 = 1;
/// Those of the first authority's files that hold keys.
const KEYS_OF_FIRST: [&str; 3] = ["ca.key", "ssh-host-ca", "ssh-user-ca"];

/// Why a rotation does not begin or end.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// One goes on.
    #[error(
        "a rotation to authority {0} goes on already; see `dwell ca status`, and end it with `dwell ca finish`"
    )]
    GoesOn(Issuer),
    /// None goes on.
    #[error("no rotation goes on; `dwell ca rotate` begins one")]
    None,
    /// The files.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// What is in the file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    format: u32,
    /// The oldest first: one or two.
    pub(super) authorities: Vec<StoredAuthority>,
}

/// An authority, with its keys.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredAuthority {
    pub(super) number: Issuer,
    pub(super) made_at: Timestamp,
    pub(super) made_by: String,
    pub(super) ca_pem: String,
    pub(super) ca_key: String,
    /// In OpenSSH's format.
    pub(super) ssh_host_ca: String,
    pub(super) ssh_user_ca: String,
}

impl Stored {
    /// What a directory has; `None` before the first rotation.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, PkiError> {
        let path = directory.join(STORED);
        if !path.try_exists().map_err(|reason| file(&path, reason))? {
            return Ok(None);
        }
        let wrong = |problem: String| PkiError::Authority { path: path.clone(), problem };
        let stored: Self =
            serde_json::from_str(&read(&path)?).map_err(|error| wrong(error.to_string()))?;
        if stored.format != FORMAT {
            return Err(wrong(format!("it has the format {}, not {FORMAT}", stored.format)));
        }
        let numbers: Vec<Issuer> = stored.authorities.iter().map(|one| one.number).collect();
        if !matches!(numbers[..], [_]) && !matches!(numbers[..], [one, other] if one < other) {
            return Err(wrong("it has not one authority, or two in order".to_owned()));
        }
        stored.forget_first(directory)?;
        Ok(Some(stored))
    }

    fn write(&self, directory: &Path) -> Result<(), PkiError> {
        let path = directory.join(STORED);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| file(&path, io::Error::other(error)))?;
        write(&path, 0o600, &text)
    }

    /// Takes the keys of the first authority from the disk, if that is retired.
    fn forget_first(&self, directory: &Path) -> Result<(), PkiError> {
        if self.authorities.iter().any(|one| one.number == Issuer::default()) {
            return Ok(());
        }
        for name in KEYS_OF_FIRST {
            let path = directory.join(name);
            match fs::remove_file(&path) {
                Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
                    return Err(file(&path, reason));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What counts at the moment.
    fn of(authority: &Authority, ssh: &SshAuthority) -> Result<Self, PkiError> {
        let trusted = authority.trusted();
        let mut authorities = Vec::new();
        for one in trusted.all() {
            let (ssh_host_ca, ssh_user_ca) = ssh.keys_of(one.number)?;
            authorities.push(StoredAuthority {
                number: one.number,
                made_at: one.made_at,
                made_by: one.made_by.clone(),
                ca_pem: one.certificate_pem.clone(),
                ca_key: one.key_pem.clone(),
                ssh_host_ca,
                ssh_user_ca,
            });
        }
        Ok(Self { format: FORMAT, authorities })
    }

    /// Keeps it, and goes by it from then on. If it cannot be kept nothing has changed.
    fn bring_about(&self, authority: &Authority, ssh: &SshAuthority) -> Result<(), PkiError> {
        let (trusted, keys) = (authority.prepare(self)?, ssh.prepare(self)?);
        self.write(&authority.directory)?;
        // SSH first: whoever is told of the new authorities looks at both.
        ssh.install(keys);
        authority.install(&trusted);
        Ok(())
    }
}

/// Makes the next authority, which signs from now on. Blocks for the disk.
///
/// # Errors
/// [`RotationError`]; nothing has changed then.
pub fn rotate(
    authority: &Authority,
    ssh: &SshAuthority,
    by: &str,
    now: Timestamp,
) -> Result<Issuer, RotationError> {
    let _turn = authority.turn.lock().unwrap_or_else(PoisonError::into_inner);
    let trusted = authority.trusted();
    let newest = trusted.newest_number();
    if trusted.is_rotating() {
        return Err(RotationError::GoesOn(newest));
    }
    let number = Issuer(newest.0.saturating_add(1));
    let (ca_pem, ca_key) = signer::make(Some(authority.cluster_id()), number)?;
    let (ssh_host_ca, ssh_user_ca) = SshAuthority::make(authority.cluster_id(), number)?;
    let mut stored = Stored::of(authority, ssh)?;
    stored.authorities.push(StoredAuthority {
        number,
        made_at: now,
        made_by: by.to_owned(),
        ca_pem,
        ca_key,
        ssh_host_ca,
        ssh_user_ca,
    });
    stored.bring_about(authority, ssh)?;
    Ok(number)
}

/// Retires the earlier authority: what it signed is worth nothing from now on. Blocks for the disk.
///
/// # Errors
/// [`RotationError`]; nothing has changed then.
pub fn finish(authority: &Authority, ssh: &SshAuthority) -> Result<Issuer, RotationError> {
    let _turn = authority.turn.lock().unwrap_or_else(PoisonError::into_inner);
    let trusted = authority.trusted();
    if !trusted.is_rotating() {
        return Err(RotationError::None);
    }
    let newest = trusted.newest_number();
    let mut stored = Stored::of(authority, ssh)?;
    stored.authorities.retain(|one| one.number == newest);
    stored.bring_about(authority, ssh)?;
    if let Err(error) = stored.forget_first(&authority.directory) {
        tracing::warn!(%error, "the keys of the retired authority are still on the disk; they go at the next start");
    }
    Ok(newest)
}

#[cfg(test)]
mod tests;
