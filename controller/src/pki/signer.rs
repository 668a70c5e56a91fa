//! One authority of the cluster: its certificate, its key, and what only it can make.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use dwell_core::access::Issuer;
use dwell_core::clock::Timestamp;
use dwell_proto::trust::CONTROLLER_NAME;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::authority::{file, params, params_at, read, tls, write};
use super::identity::{hex, unit};
use super::rotation::{STORED, StoredAuthority};
use super::{PkiError, server};

/// How long an authority is valid.
const VALID: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// An authority.
pub(super) struct Signer {
    pub(super) number: Issuer,
    pub(super) made_at: Timestamp,
    pub(super) made_by: String,
    pub(super) cluster: String,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
    /// SHA-256 over the certificate (DER): what a join token pins.
    pub(super) digest: [u8; 32],
    /// When the certificate ends.
    pub(super) expires_at: Timestamp,
    pub(super) issuer: rcgen::Issuer<'static, KeyPair>,
    /// Cancelled when it counts no more.
    pub(super) retired: CancellationToken,
}

impl Signer {
    /// Reads the first authority of a cluster from its files, or makes it if the directory has none.
    pub(super) fn open_first(directory: &Path) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (directory.join("ca.pem"), directory.join("ca.key"));
        let there =
            certificate_path.try_exists().map_err(|reason| file(&certificate_path, reason))?;
        if !there {
            // A key without a certificate is what a crash between the two left; nobody was given
            // anything signed with it.
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(directory).map_err(|reason| file(directory, reason))?;
            let (certificate_pem, key_pem) = make(None, Issuer::default())?;
            write(&key_path, 0o600, &key_pem)?;
            write(&certificate_path, 0o644, &certificate_pem)?;
            tracing::info!(path = %certificate_path.display(), "made the CA of a new cluster");
        }
        let (certificate_pem, key_pem) = (read(&certificate_path)?, read(&key_path)?);
        let first = (Issuer::default(), Timestamp(0), String::new());
        Self::of(first, certificate_pem, key_pem, (&certificate_path, &key_path))
    }

    /// Reads an authority that was kept.
    pub(super) fn read(directory: &Path, stored: &StoredAuthority) -> Result<Self, PkiError> {
        let path = directory.join(STORED);
        let StoredAuthority { number, made_at, made_by, ca_pem, ca_key, .. } = stored.clone();
        Self::of((number, made_at, made_by), ca_pem, ca_key, (&path, &path))
    }

    fn of(
        (number, made_at, made_by): (Issuer, Timestamp, String),
        certificate_pem: String,
        key_pem: String,
        (certificate_path, key_path): (&Path, &Path),
    ) -> Result<Self, PkiError> {
        let wrong = |path: &Path, problem: &dyn std::fmt::Display| PkiError::Authority {
            path: path.to_owned(),
            problem: problem.to_string(),
        };
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| wrong(certificate_path, &error))?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| wrong(key_path, &error))?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|error| wrong(certificate_path, &error))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(wrong(key_path, &"it is not the key of ca.pem"));
        }
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let cluster = name.ok_or_else(|| wrong(certificate_path, &"it has no name"))?.to_owned();
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self {
            number,
            made_at,
            made_by,
            cluster,
            digest: Sha256::digest(&certificate).into(),
            expires_at: Timestamp(seconds.saturating_mul(1000)),
            issuer: rcgen::Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
            certificate_pem,
            key_pem,
            retired: CancellationToken::new(),
        })
    }

    /// A certificate for the controller itself, with a key made here.
    pub(super) fn issue_server(
        &self,
        hosts: &[String],
        now: SystemTime,
    ) -> Result<CertifiedKey, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params_at(CONTROLLER_NAME, server::VALID, now);
        let mut names = hosts.to_vec();
        names.extend([CONTROLLER_NAME, "localhost", "127.0.0.1"].map(str::to_owned));
        names.sort();
        names.dedup();
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let chain =
            vec![params.signed_by(&key, &self.issuer)?.der().clone(), self.certificate.clone()];
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map_err(|error| tls(&error))
    }
}

/// The certificate and the key of a new authority. Without a cluster it is the first of a new one.
pub(super) fn make(cluster: Option<&str>, number: Issuer) -> Result<(String, String), PkiError> {
    let key = KeyPair::generate()?;
    let cluster = match cluster {
        Some(cluster) => cluster.to_owned(),
        // Unique without asking anyone.
        None => hex(&Sha256::digest(key.subject_public_key_info())[..8]),
    };
    let mut params = params(&cluster, VALID);
    if let Some(unit) = unit(number) {
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}
