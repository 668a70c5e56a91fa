//! SSH: the two CAs, and the host keys of instances.
//!
//! Until the cluster's authority is [rotated](super::rotation) for the first time, three files beside the TLS CA, each made when it is not there, each for the controller's user only:
//!
//! | file | what | if it is replaced |
//! |---|---|---|
//! | `ssh-host-ca` | signs host keys | `@cert-authority` lines have to be renewed |
//! | `ssh-user-ca` | signs people's keys | certificates that are out are worth nothing |
//! | `ssh-host-keys` | the secret that host keys are derived from | every instance has another key |
//!
//! From then on the CAs are in `authorities.json`, two of each while a rotation goes on. The newest signs people's keys,
//! since nodes are told of it; the oldest signs host keys, since people's `known_hosts` have to have it.
//!
//! A host key is a function of the secret and of the instance's identity (its name, and when it was made), so there
//! is nothing to store, to lose or to move: restarted, replaced or moved, an instance has the key that it
//! had; removed and made again, another.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use dwell_core::access::Issuer;
use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::ssh::HostKey;
use sha2::{Digest as _, Sha512};
use ssh_key::certificate::{Builder, CertType};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey, PublicKey};

use super::authority::{read, write};
use super::identity::hex;
use super::rotation::{STORED, Stored};
use super::{Authority, PkiError};

/// The end of a certificate that has none.
const FOREVER: u64 = u64::MAX;
/// What a certified user may do beyond running commands.
const USER_EXTENSIONS: [&str; 3] =
    ["permit-agent-forwarding", "permit-port-forwarding", "permit-pty"];

/// What a user's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserCertificate {
    /// Shown wherever the certificate was used: who asked for it, and the key's comment.
    pub key_id: String,
    /// Names that it may log in as, at least one.
    pub principals: Vec<String>,
    /// From when on it is valid.
    pub valid_after: Timestamp,
    /// Until when.
    pub valid_before: Timestamp,
}

/// The CAs and the secret.
pub struct SshAuthority {
    directory: PathBuf,
    /// The oldest first, at least one.
    pairs: RwLock<Arc<Vec<Pair>>>,
    secret: [u8; 32],
    zone: String,
}

/// The two CAs of an authority.
pub(super) struct Pair {
    number: Issuer,
    host: PrivateKey,
    user: PrivateKey,
    host_line: String,
    user_line: String,
}

impl Pair {
    fn new(number: Issuer, host: PrivateKey, user: PrivateKey) -> Result<Self, PkiError> {
        let (host_line, user_line) =
            (host.public_key().to_openssh()?, user.public_key().to_openssh()?);
        Ok(Self { number, host, user, host_line, user_line })
    }
}

impl SshAuthority {
    /// Reads the keys from the directory of the CA, which is there, and makes those that are not. `zone` is the
    /// DNS zone of the instances.
    ///
    /// # Errors
    /// [`PkiError`] if a file cannot be read or written, or makes no sense.
    pub fn open(directory: &Path, authority: &Authority, zone: &str) -> Result<Self, PkiError> {
        let pairs = match Stored::read(directory)? {
            Some(stored) => pairs(directory, &stored)?,
            None => {
                let cluster = authority.cluster_id();
                let open = |name: &str, whose: &str| {
                    key(&directory.join(name), &format!("dwell-{whose}-ca@{cluster}"))
                };
                let (host, user) = (open("ssh-host-ca", "host")?, open("ssh-user-ca", "user")?);
                vec![Pair::new(Issuer::default(), host, user)?]
            }
        };
        Ok(Self {
            directory: directory.to_owned(),
            pairs: RwLock::new(Arc::new(pairs)),
            secret: secret(&directory.join("ssh-host-keys"))?,
            zone: zone.to_owned(),
        })
    }

    /// The private keys of another authority's CAs, for hosts and for people.
    pub(super) fn make(cluster: &str, number: Issuer) -> Result<(String, String), PkiError> {
        let make = |whose: &str| {
            let pair = Ed25519Keypair::from_seed(&rand::random());
            let comment = format!("dwell-{whose}-ca-{number}@{cluster}");
            let key = PrivateKey::new(KeypairData::from(pair), comment)?;
            Ok::<_, PkiError>(key.to_openssh(LineEnding::LF)?.to_string())
        };
        Ok((make("host")?, make("user")?))
    }

    /// The same of one that counts, to be kept.
    pub(super) fn keys_of(&self, number: Issuer) -> Result<(String, String), PkiError> {
        let pairs = self.pairs();
        let pair = pairs.iter().find(|pair| pair.number == number);
        let pair =
            pair.ok_or_else(|| wrong(&self.directory, "an authority has no keys for SSH"))?;
        let text =
            |key: &PrivateKey| Ok::<_, PkiError>(key.to_openssh(LineEnding::LF)?.to_string());
        Ok((text(&pair.host)?, text(&pair.user)?))
    }

    /// What is to count by what is to be kept.
    pub(super) fn prepare(&self, stored: &Stored) -> Result<Vec<Pair>, PkiError> {
        pairs(&self.directory, stored)
    }

    /// These count from now on.
    pub(super) fn install(&self, pairs: Vec<Pair>) {
        *self.pairs.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pairs);
    }

    fn pairs(&self) -> Arc<Vec<Pair>> {
        Arc::clone(&self.pairs.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The public keys of the host CAs that count, lines as in `authorized_keys`; the one that signs first.
    #[must_use]
    pub fn host_authorities(&self) -> Vec<String> {
        self.pairs().iter().map(|pair| pair.host_line.clone()).collect()
    }

    /// Of the user CAs, likewise.
    #[must_use]
    pub fn user_authorities(&self) -> Vec<String> {
        self.pairs().iter().rev().map(|pair| pair.user_line.clone()).collect()
    }

    /// The host key of an instance that was made at `made_at`, always the same. It takes two signatures' time.
    ///
    /// # Errors
    /// [`PkiError::Ssh`].
    pub fn host_key(
        &self,
        instance: &InstanceName,
        address: Ipv4Addr,
        made_at: Timestamp,
    ) -> Result<HostKey, PkiError> {
        let seed = self.derive(b"host key", instance, made_at);
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        let nonce = self.derive(b"certificate nonce", instance, made_at);
        let mut builder =
            Builder::new(&nonce[..Builder::RECOMMENDED_NONCE_SIZE], key.public_key(), 0, FOREVER)?;
        builder.cert_type(CertType::Host)?.serial(made_at.0)?.key_id(instance.to_string())?;
        let names =
            [format!("{instance}.{}", self.zone), instance.to_string(), address.to_string()];
        for name in names {
            builder.valid_principal(name)?;
        }
        Ok(HostKey {
            private_key: key.to_openssh(LineEnding::LF)?.to_string(),
            certificate: builder.sign(&self.pairs()[0].host)?.to_openssh()?,
        })
    }

    /// Certifies a user's public key: one line in OpenSSH's format.
    ///
    /// # Errors
    /// [`PkiError::Ssh`].
    pub fn certify_user(&self, key: &PublicKey, what: UserCertificate) -> Result<String, PkiError> {
        let seconds = |at: Timestamp| at.0 / 1000;
        let nonce: [u8; Builder::RECOMMENDED_NONCE_SIZE] = rand::random();
        let (after, before) = (seconds(what.valid_after), seconds(what.valid_before));
        let mut builder = Builder::new(nonce, key, after, before)?;
        builder.cert_type(CertType::User)?.serial(rand::random::<u64>() >> 1)?;
        builder.key_id(what.key_id)?.comment(key.comment().clone())?;
        for principal in what.principals {
            builder.valid_principal(principal)?;
        }
        for extension in USER_EXTENSIONS {
            builder.extension(extension, "")?;
        }
        let pairs = self.pairs();
        Ok(builder.sign(&pairs[pairs.len() - 1].user)?.to_openssh()?)
    }

    /// Half of a digest, so that nothing can be appended to what was digested.
    fn derive(&self, label: &[u8], instance: &InstanceName, made_at: Timestamp) -> [u8; 32] {
        let mut digest = Sha512::new();
        digest.update(self.secret);
        for part in [label, instance.to_string().as_bytes(), &made_at.0.to_be_bytes()] {
            digest.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            digest.update(part);
        }
        let mut half = [0; 32];
        half.copy_from_slice(&digest.finalize()[..32]);
        half
    }
}

/// The CAs of all authorities that are kept.
fn pairs(directory: &Path, stored: &Stored) -> Result<Vec<Pair>, PkiError> {
    let path = directory.join(STORED);
    let read = |text: &str| {
        PrivateKey::from_openssh(text).map_err(|error| wrong(&path, &error.to_string()))
    };
    let all = stored.authorities.iter();
    all.map(|one| Pair::new(one.number, read(&one.ssh_host_ca)?, read(&one.ssh_user_ca)?)).collect()
}

/// The private key of a file, which is made with this comment if it is not there.
fn key(path: &Path, comment: &str) -> Result<PrivateKey, PkiError> {
    if !is_there(path)? {
        let pair = Ed25519Keypair::from_seed(&rand::random());
        let key = PrivateKey::new(KeypairData::from(pair), comment.to_owned())?;
        write(path, 0o600, &key.to_openssh(LineEnding::LF)?)?;
        tracing::info!(path = %path.display(), "made an SSH CA");
    }
    PrivateKey::from_openssh(read(path)?).map_err(|error| wrong(path, &error.to_string()))
}

fn secret(path: &Path) -> Result<[u8; 32], PkiError> {
    if !is_there(path)? {
        write(path, 0o600, &hex(&rand::random::<[u8; 32]>()))?;
        tracing::info!(path = %path.display(), "made the secret that SSH host keys are derived from");
    }
    let text = read(path)?;
    let digits = text.trim().as_bytes();
    let mut secret = [0; 32];
    if digits.len() != 2 * secret.len() {
        return Err(wrong(path, "it has not 64 hexadecimal digits"));
    }
    for (byte, pair) in secret.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok();
        *byte = pair
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            .ok_or_else(|| wrong(path, "it has not 64 hexadecimal digits"))?;
    }
    Ok(secret)
}

fn is_there(path: &Path) -> Result<bool, PkiError> {
    path.try_exists().map_err(|reason| PkiError::File { path: path.to_owned(), reason })
}

fn wrong(path: &Path, problem: &str) -> PkiError {
    PkiError::SshFile { path: path.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests;
