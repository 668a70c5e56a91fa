//! How connections are protected: the algorithms of a modern OpenSSH, as far as `russh` has them, and nothing weaker.
//!
//! Left out of what `russh` could do: everything with SHA-1, CBC, finite-field Diffie-Hellman, MACs that are
//! not computed over the ciphertext, compression, passwords.

use std::borrow::Cow;
use std::time::Duration;

use dwell_core::ssh::HostKey;
use russh::keys::{Algorithm, Certificate, EcdsaCurve, HashAlg, PrivateKey};
use russh::server::Config;
use russh::{Limits, MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};

use crate::intake::WINDOW;

/// Largest packet that we take, in bytes of data; OpenSSH's too.
const PACKET: u32 = 32 * 1024;
/// Refused attempts before a connection ends: the question which methods there are, and six keys.
const ATTEMPTS: usize = 7;
/// New keys are agreed on after so many bytes, either way, ...
const REKEY_BYTES: usize = 1 << 30;
/// ... or so long.
const REKEY: Duration = Duration::from_secs(3600);
/// Pieces of output on their way to the connection's loop, of 32 KiB at most.
const OUTPUT_QUEUE: usize = 32;

/// Why a host key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// The private key.
    #[error("cannot read the host's private key")]
    Key(#[source] russh::keys::ssh_key::Error),
    /// The certificate.
    #[error("cannot read the host's certificate")]
    Certificate(#[source] russh::keys::ssh_key::Error),
}

/// The server's side of a connection to an instance with this host key.
///
/// # Errors
/// [`HostKeyError`].
pub fn server_config(host_key: &HostKey) -> Result<Config, HostKeyError> {
    let key = PrivateKey::from_openssh(&host_key.private_key).map_err(HostKeyError::Key)?;
    let certificates = match host_key.certificate.trim() {
        "" => Vec::new(),
        line => vec![Certificate::from_openssh(line).map_err(HostKeyError::Certificate)?],
    };
    Ok(Config {
        server_id: SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-dwell_",
            env!("CARGO_PKG_VERSION")
        ))),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        // A key cannot be guessed, so there is nothing to slow down; `guard` limits those who try.
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: None,
        keys: vec![key],
        certificates,
        limits: Limits::new(REKEY_BYTES, REKEY_BYTES, REKEY),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        // Nothing is taken from russh's own queues; see `intake`.
        channel_buffer_size: 1,
        event_buffer_size: OUTPUT_QUEUE,
        preferred: preferred(),
        max_auth_attempts: ATTEMPTS,
        // A client that was stopped for a day goes on; one whose host is gone is found by TCP's keep-alives.
        inactivity_timeout: None,
        keepalive_interval: None,
        keepalive_max: 0,
        nodelay: true,
    })
}

fn preferred() -> Preferred {
    Preferred {
        kex: Cow::Borrowed(&[
            kex::MLKEM768X25519_SHA256,
            kex::CURVE25519,
            kex::CURVE25519_PRE_RFC_8731,
            kex::ECDH_SHA2_NISTP256,
            kex::ECDH_SHA2_NISTP384,
            kex::ECDH_SHA2_NISTP521,
            kex::EXTENSION_SUPPORT_AS_SERVER,
            kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
        ]),
        // The host's own key is Ed25519; the others are what clients may sign with.
        key: Cow::Borrowed(&[
            Algorithm::Ed25519,
            Algorithm::SkEd25519,
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
            Algorithm::SkEcdsaSha2NistP256,
            Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
            Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
        ]),
        host_key_certificates: Cow::Borrowed(&[]),
        cipher: Cow::Borrowed(&[
            cipher::CHACHA20_POLY1305,
            cipher::AES_256_GCM,
            cipher::AES_128_GCM,
            cipher::AES_256_CTR,
            cipher::AES_192_CTR,
            cipher::AES_128_CTR,
        ]),
        mac: Cow::Borrowed(&[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM]),
        compression: Cow::Borrowed(&[compression::NONE]),
    }
}
