//! Who this node is: the certificate and key it got when it joined, the CA it trusts, the cluster and
//! its controller. All of it is one file, `identity.json` in the data directory, so that a key and its
//! certificate cannot be of different ages.
//!
//! The key was made on this host and never leaves it; the file is readable by root alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dwell_core::clock::Timestamp;
use dwell_core::id::NodeName;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use dwell_daemon::durable;

const FILE_NAME: &str = "identity.json";

/// What makes this host a node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The node's name, as it is in the certificate.
    pub node: NodeName,
    /// The cluster it belongs to.
    pub cluster_id: String,
    /// `HOST:PORT` of the controller it joined.
    pub controller: String,
    /// The cluster's CA; two while that is rotated.
    pub ca_pem: String,
    /// The node's certificate.
    pub certificate_pem: String,
    /// Its private key.
    pub key_pem: String,
}

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// This host has not joined.
    #[error(
        "this host has not joined a cluster ({} does not exist); make a token with `dwell node token` and run \
         `dwell-agent join --controller HOST:PORT --token TOKEN`", path.display()
    )]
    Missing {
        /// Where it would be.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot access the identity {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "the identity {} is damaged ({problem}); join again with `dwell-agent join --force`", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Identity {
    /// Where the identity of a data directory is.
    #[must_use]
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE_NAME)
    }

    /// Reads the identity and checks that it can be used.
    ///
    /// # Errors
    /// [`IdentityError`]; [`IdentityError::Missing`] if this host has not joined.
    pub fn load(data_dir: &Path) -> Result<Self, IdentityError> {
        let path = Self::path(data_dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::Missing { path });
            }
            Err(source) => return Err(IdentityError::File { path, source }),
        };
        let checked = serde_json::from_slice::<Self>(&text)
            .map_err(|error| error.to_string())
            .and_then(|identity| identity.check().map(|()| identity));
        checked.map_err(|problem| IdentityError::Damaged { path, problem })
    }

    /// Stores the identity durably, in place of an older one. Blocks for the disk.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn store(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let path = Self::path(data_dir);
        let stored = serde_json::to_vec_pretty(self)
            .map_err(io::Error::other)
            .and_then(|text| durable::replace(&path, &text, 0o600));
        stored.map_err(|source| IdentityError::File { path, source })
    }

    /// Takes the identity away; one that is not there is fine.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn remove(data_dir: &Path) -> Result<(), IdentityError> {
        let path = Self::path(data_dir);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(IdentityError::File { path, source })
            }
            _ => Ok(()),
        }
    }

    /// The node's certificates, its own first.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        certificates(&self.certificate_pem)
    }

    /// The node's private key.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|error| format!("private key: {error}"))
    }

    /// From when until when the certificate is valid.
    ///
    /// # Errors
    /// What is wrong with the certificate.
    pub fn validity(&self) -> Result<Validity, String> {
        let certificates = self.certificates()?;
        let first = certificates.first().ok_or("no certificate")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(first)
            .map_err(|error| format!("certificate: {error}"))?;
        let at = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0) * 1000);
        let validity = parsed.validity();
        Ok(Validity {
            from: at(validity.not_before.timestamp()),
            until: at(validity.not_after.timestamp()),
        })
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        self.key()?;
        self.validity()?;
        if certificates(&self.ca_pem)?.is_empty() { Err("no CA".into()) } else { Ok(()) }
    }
}

impl std::fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} of {})", self.node, self.cluster_id)
    }
}

/// All certificates of a PEM text.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("certificate: {error}"))
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: Timestamp,
    /// Not after.
    pub until: Timestamp,
}

impl Validity {
    /// How long to wait with the renewal: until two thirds of the certificate's life are over.
    ///
    /// `now` is the wall clock's present, for which there is [`wall_clock`]: that is what whoever
    /// verifies the certificate will go by.
    #[must_use]
    pub fn renew_in(&self, now: Timestamp) -> Duration {
        let life = self.until.since(self.from);
        self.from.after(life * 2 / 3).since(now)
    }

    /// Whether it has run out.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now > self.until
    }
}

/// The wall clock's present, which steps when somebody sets it. Only for what is agreed on with others.
#[must_use]
pub fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(dwell_core::clock::millis(since_epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_at_two_thirds() {
        let validity = Validity { from: Timestamp(1_000), until: Timestamp(31_000) };
        for (now, wait) in [(0, 21_000), (1_000, 20_000), (20_999, 1), (21_000, 0), (90_000, 0)] {
            assert_eq!(validity.renew_in(Timestamp(now)), Duration::from_millis(wait), "{now}");
        }
        assert!(!validity.is_over(Timestamp(31_000)));
        assert!(validity.is_over(Timestamp(31_001)));
    }

    #[test]
    fn damaged_files_are_told_from_missing_ones() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Missing { .. })));
        for content in [
            "",
            "{",
            "{}",
            r#"{"node":"h1","cluster_id":"c","controller":"a:1",
            "ca_pem":"","certificate_pem":"","key_pem":""}"#,
        ] {
            fs::write(Identity::path(dir.path()), content).unwrap();
            let refused = Identity::load(dir.path()).unwrap_err();
            assert!(matches!(refused, IdentityError::Damaged { .. }), "{content}: {refused}");
        }
        Identity::remove(dir.path()).unwrap();
        Identity::remove(dir.path()).unwrap();
    }
}
