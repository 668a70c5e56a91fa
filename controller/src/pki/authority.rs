//! The cluster's CA: its files, and what it signs.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dwell_core::access::{Client, ContextId, Role};
use dwell_core::clock::Timestamp;
use dwell_core::id::ClientName;
use dwell_proto::trust::CONTROLLER_NAME;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData as _, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer, UnixTime,
};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::identity::hex;
use super::server::{self, ServerCertificate};
use super::{Enrolment, Identity, PkiError, REQUEST_MAX};

/// How long the CA is valid.
const AUTHORITY_VALID: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// Certificates begin this long before now, for hosts whose clock is behind; shorter ones half their life,
/// or their holders would take them for old from the start.
const BACKDATED: Duration = Duration::from_secs(2 * 3600);

/// The cluster's CA.
pub struct Authority {
    cluster: String,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    digest: [u8; 32],
    issuer: Issuer<'static, KeyPair>,
}

/// A request for a certificate, checked: whoever sent it has the key.
pub struct Request(CertificateSigningRequestParams);

/// What a verified certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Who it speaks for.
    pub identity: Identity,
    /// Until when.
    pub expires: SystemTime,
}

/// A client's certificate and its key.
#[derive(Clone)]
pub struct IssuedClient {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key, PKCS#8.
    pub private_key_pem: String,
    /// What it says.
    pub client: Client,
}

impl Authority {
    /// Reads the CA from a directory, or makes it if the directory has none.
    ///
    /// # Errors
    /// [`PkiError`] if the files cannot be read or written, or are no CA.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (directory.join("ca.pem"), directory.join("ca.key"));
        let there =
            certificate_path.try_exists().map_err(|reason| file(&certificate_path, reason))?;
        if !there {
            // A key without a certificate is what a crash between the two left; nobody was given
            // anything signed with it.
            Self::make(directory, &certificate_path, &key_path)?;
            tracing::info!(path = %certificate_path.display(), "made the CA of a new cluster");
        }
        let certificate_pem = read(&certificate_path)?;
        let key_pem = read(&key_path)?;
        let wrong = |path: &Path, problem: &dyn std::fmt::Display| PkiError::Authority {
            path: path.to_owned(),
            problem: problem.to_string(),
        };
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| wrong(&certificate_path, &error))?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| wrong(&key_path, &error))?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|error| wrong(&certificate_path, &error))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(wrong(&key_path, &"it is not the key of ca.pem"));
        }
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let cluster = name.ok_or_else(|| wrong(&certificate_path, &"it has no name"))?.to_owned();
        let digest = Sha256::digest(&certificate).into();
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { cluster, certificate, certificate_pem, digest, issuer })
    }

    fn make(directory: &Path, certificate_path: &Path, key_path: &Path) -> Result<(), PkiError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(directory).map_err(|reason| file(directory, reason))?;
        let key = KeyPair::generate()?;
        // Names the cluster: unique without asking anyone.
        let cluster = hex(&Sha256::digest(key.subject_public_key_info())[..8]);
        let mut params = params(&cluster, AUTHORITY_VALID);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        write(key_path, 0o600, &key.serialize_pem())?;
        write(certificate_path, 0o644, &certificate.pem())
    }

    /// The cluster's name for itself: 16 hexadecimal digits.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster
    }

    /// The CA's certificate.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// SHA-256 over the CA's certificate (DER): what a join token pins.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// A certificate for an agent.
    ///
    /// # Errors
    /// [`PkiError::Issue`].
    pub fn issue_node(
        &self,
        request: &Request,
        identity: &Identity,
        valid: Duration,
    ) -> Result<String, PkiError> {
        let params = self.client_params(identity, valid)?;
        Ok(params.signed_by(&request.0.public_key, &self.issuer)?.pem())
    }

    /// A certificate for a person or a program, with a key made here.
    ///
    /// # Errors
    /// [`PkiError::Issue`].
    pub fn issue_client(
        &self,
        name: ClientName,
        role: Role,
        valid: Duration,
    ) -> Result<IssuedClient, PkiError> {
        let context = ContextId(serial());
        let mut client = Client { name, role, context, expires_at: Timestamp(0) };
        let params = self.client_params(&Identity::Client(client.clone()), valid)?;
        let key = KeyPair::generate()?;
        let expires_ms = params.not_after.unix_timestamp().saturating_mul(1000);
        client.expires_at = Timestamp(u64::try_from(expires_ms).unwrap_or(0));
        Ok(IssuedClient {
            certificate_pem: params.signed_by(&key, &self.issuer)?.pem(),
            private_key_pem: key.serialize_pem(),
            client,
        })
    }

    fn client_params(
        &self,
        identity: &Identity,
        valid: Duration,
    ) -> Result<CertificateParams, PkiError> {
        let mut params = match identity {
            Identity::Node { name, .. } => params(name.as_str(), valid),
            Identity::Client(Client { name, context, .. }) => {
                let mut params = params(name.as_str(), valid);
                params.serial_number = Some(SerialNumber::from(context.0));
                params
            }
        };
        for uri in identity.uris(&self.cluster) {
            params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Ok(params)
    }

    /// What a certificate says whose signature the TLS library has verified.
    ///
    /// # Errors
    /// [`PkiError::NoIdentity`] if it does not say who it is.
    pub fn read(&self, certificate: &CertificateDer<'_>) -> Result<Certified, PkiError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| PkiError::NoIdentity)?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Certified {
            identity: Identity::read(&parsed, &self.cluster)?,
            expires: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        })
    }

    /// What a certificate of this CA says, whether it has expired or not, if its key made `signature` over `message`.
    ///
    /// # Errors
    /// [`PkiError::Unproven`], or [`PkiError::NoIdentity`] if it does not say who it is.
    pub fn read_proven(
        &self,
        certificate: &CertificateDer<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Certified, PkiError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PkiError::Unproven)?;
        let certified = self.read(certificate)?;
        // The chain is judged as of the certificate's last moment.
        let end = certified.expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.client_verifier()?
            .verify_client_cert(certificate, &[], UnixTime::since_unix_epoch(end))
            .map_err(|_| PkiError::Unproven)?;
        let key = &parsed.public_key().subject_public_key.data;
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let mut all = algorithms.all.iter();
        if all.any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok()) {
            Ok(certified)
        } else {
            Err(PkiError::Unproven)
        }
    }

    /// Whose certificates count as those of clients.
    fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(|error| tls(&error))?;
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| tls(&error))
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

    /// TLS for the listener, with a certificate for these hosts that is always fresh. Clients may come without a
    /// certificate; what they may do then is not decided here.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn server_config(
        self: &Arc<Self>,
        hosts: &[&str],
    ) -> Result<rustls::ServerConfig, PkiError> {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let shown = ServerCertificate::new(Arc::clone(self), hosts, SystemTime::now())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| tls(&error))?
            .with_client_cert_verifier(self.client_verifier()?)
            .with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would carry on with a certificate that has expired since.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

impl Request {
    /// Reads a PKCS#10 request and verifies that its sender has the key.
    ///
    /// # Errors
    /// [`PkiError::Request`].
    pub fn read(der: &[u8]) -> Result<Self, PkiError> {
        if der.len() > REQUEST_MAX {
            return Err(PkiError::Request);
        }
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
                .map_err(|_| PkiError::Request)?;
        let algorithm = request.public_key.algorithm();
        let allowed = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
        if allowed.contains(&algorithm) { Ok(Self(request)) } else { Err(PkiError::Request) }
    }

    /// The enrolment that joining with this key makes.
    #[must_use]
    pub fn enrolment(&self) -> Enrolment {
        Enrolment::of_key(&self.0.public_key.subject_public_key_info())
    }
}

/// Everything that all certificates have in common.
fn params(name: &str, valid: Duration) -> CertificateParams {
    params_at(name, valid, SystemTime::now())
}

fn params_at(name: &str, valid: Duration, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATED.min(valid / 2)).into();
    params.not_after = (now + valid).into();
    params.serial_number = Some(SerialNumber::from(serial()));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "dwell");
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

/// A number of at most eight bytes with its sign, which nobody else has.
fn serial() -> u64 {
    rand::random::<u64>() >> 1
}

fn tls(error: &dyn std::fmt::Display) -> PkiError {
    PkiError::Tls(error.to_string())
}

fn file(path: &Path, reason: std::io::Error) -> PkiError {
    PkiError::File { path: path.to_owned(), reason }
}

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|reason| file(path, reason))
}

/// Writes a file so that it is there whole or not at all.
pub(super) fn write(path: &Path, mode: u32, text: &str) -> Result<(), PkiError> {
    dwell_daemon::durable::replace(path, text.as_bytes(), mode).map_err(|reason| file(path, reason))
}
