//! The cluster's CA: what it signs, and whom it takes for signed.
//!
//! It is one authority, or two while it is [rotated](super::rotation). What dwell itself verifies, certificates of nodes and
//! of people, the newest signs; what others have to know already, the controller's own certificate, the oldest.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dwell_core::access::{Client, ContextId, Issuer, Role};
use dwell_core::clock::Timestamp;
use dwell_core::id::ClientName;
use dwell_proto::v1;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData as _, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::identity::hex;
use super::rotation::{Stored, StoredAuthority};
use super::signer::Signer;
use super::{Enrolment, Identity, PkiError, REQUEST_MAX, identity};

/// Certificates begin this long before now, for hosts whose clock is behind; shorter ones half their life,
/// or their holders would take them for old from the start.
const BACKDATED: Duration = Duration::from_secs(2 * 3600);

/// The cluster's CA.
pub struct Authority {
    pub(super) directory: PathBuf,
    cluster: String,
    trusted: watch::Sender<Arc<Trusted>>,
    /// Held by whoever changes it.
    pub(super) turn: Mutex<()>,
}

/// Those whose signatures count, the oldest first: one, or two during a rotation.
pub struct Trusted(Vec<Arc<Signer>>);

/// Who signs a node's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The newest authority, for an agent that keeps the CAs that come with a certificate. So whoever has one of its
    /// certificates trusts it.
    Newest,
    /// The oldest, for one that does not, and would not know the controller any more when the rotation ends.
    Oldest,
}

impl By {
    /// For an agent that keeps the CAs that come with its certificate, or does not.
    #[must_use]
    pub const fn of(keeps_trust: bool) -> Self {
        if keeps_trust { Self::Newest } else { Self::Oldest }
    }
}

/// A request for a certificate, checked: whoever sent it has the key.
pub struct Request(CertificateSigningRequestParams);

/// What a verified certificate says.
#[derive(Clone, Debug)]
pub struct Certified {
    /// Who it speaks for.
    pub identity: Identity,
    /// Until when.
    pub expires: SystemTime,
    /// Cancelled when nobody trusts any more who signed it.
    pub retired: CancellationToken,
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
        let signers = match Stored::read(directory)? {
            Some(stored) => {
                let all = stored.authorities.iter();
                all.map(|one| Signer::read(directory, one).map(Arc::new))
                    .collect::<Result<_, _>>()?
            }
            None => vec![Arc::new(Signer::open_first(directory)?)],
        };
        let cluster = signers.first().map(|first| first.cluster.clone()).unwrap_or_default();
        let trusted = watch::Sender::new(Arc::new(Trusted(signers)));
        Ok(Self { directory: directory.to_owned(), cluster, trusted, turn: Mutex::new(()) })
    }

    /// Those whose signatures count.
    #[must_use]
    pub fn trusted(&self) -> Arc<Trusted> {
        self.trusted.borrow().clone()
    }

    /// The same, as it changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Trusted>> {
        self.trusted.subscribe()
    }

    /// What is to be trusted by what is to be kept. Those that are known stay the same ones.
    pub(super) fn prepare(&self, stored: &Stored) -> Result<Arc<Trusted>, PkiError> {
        let before = self.trusted();
        let signer = |one: &StoredAuthority| match before.by_number(one.number) {
            Some(known) => Ok(Arc::clone(known)),
            None => Signer::read(&self.directory, one).map(Arc::new),
        };
        let signers = stored.authorities.iter().map(signer).collect::<Result<_, _>>()?;
        Ok(Arc::new(Trusted(signers)))
    }

    /// Trusts these from now on, and no others: connections that live by others end.
    pub(super) fn install(&self, now: &Arc<Trusted>) {
        let before = self.trusted.send_replace(Arc::clone(now));
        // After that: whoever comes meanwhile is not taken, or is told as well.
        let gone = before.0.iter().filter(|one| now.by_number(one.number).is_none());
        gone.for_each(|one| one.retired.cancel());
    }

    /// The cluster's name for itself: 16 hexadecimal digits.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster
    }

    /// The certificates of all authorities that count, the oldest first.
    #[must_use]
    pub fn certificates_pem(&self) -> String {
        self.trusted().pem()
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
        by: By,
    ) -> Result<String, PkiError> {
        let params = self.client_params(identity, valid)?;
        let trusted = self.trusted();
        let signer = match by {
            By::Newest => trusted.newest(),
            By::Oldest => trusted.oldest(),
        };
        Ok(params.signed_by(&request.0.public_key, &signer.issuer)?.pem())
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
        let trusted = self.trusted();
        let signer = trusted.newest();
        let issuer = signer.number;
        let mut client = Client { name, role, context, expires_at: Timestamp(0), issuer };
        let params = self.client_params(&Identity::Client(client.clone()), valid)?;
        let key = KeyPair::generate()?;
        let expires_ms = params.not_after.unix_timestamp().saturating_mul(1000);
        client.expires_at = Timestamp(u64::try_from(expires_ms).unwrap_or(0));
        Ok(IssuedClient {
            certificate_pem: params.signed_by(&key, &signer.issuer)?.pem(),
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
    /// [`PkiError::NoIdentity`] if it does not say who it is, [`PkiError::Retired`] if whoever signed it does not count any
    /// more.
    pub fn read(&self, certificate: &CertificateDer<'_>) -> Result<Certified, PkiError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| PkiError::NoIdentity)?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let identity = Identity::read(&parsed, &self.cluster)?;
        let trusted = self.trusted();
        let signer = trusted.by_number(identity::issuer(&parsed)?).ok_or(PkiError::Retired)?;
        Ok(Certified {
            identity,
            retired: signer.retired.clone(),
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
        self.trusted()
            .client_verifier()?
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
}

impl Trusted {
    /// The one that signs what others have to know already.
    pub(super) fn oldest(&self) -> &Arc<Signer> {
        // There is always one.
        &self.0[0]
    }

    /// The one that signs what dwell verifies.
    pub(super) fn newest(&self) -> &Arc<Signer> {
        &self.0[self.0.len() - 1]
    }

    /// All, the oldest first.
    pub(super) fn all(&self) -> &[Arc<Signer>] {
        &self.0
    }

    fn by_number(&self, number: Issuer) -> Option<&Arc<Signer>> {
        self.0.iter().find(|one| one.number == number)
    }

    /// The number of the newest.
    #[must_use]
    pub fn newest_number(&self) -> Issuer {
        self.newest().number
    }

    /// Whether a rotation goes on.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        self.0.len() > 1
    }

    /// Their certificates, the oldest first.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.iter().map(|one| one.certificate_pem.as_str()).collect()
    }

    /// The certificate and the digest that a join token pins: the CA of the certificate that the controller shows.
    #[must_use]
    pub fn pinned(&self) -> (&str, &[u8; 32]) {
        let oldest = self.oldest();
        (&oldest.certificate_pem, &oldest.digest)
    }

    /// What they say of themselves, the oldest first.
    pub(crate) fn views(&self) -> impl Iterator<Item = v1::Authority> {
        self.0.iter().map(|one| v1::Authority {
            number: one.number.0,
            made_at_ms: one.made_at.0,
            made_by: one.made_by.clone(),
            fingerprint: hex(&one.digest),
            expires_at_ms: one.expires_at.0,
        })
    }

    /// Whose certificates count as those of clients.
    pub(super) fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        for one in &self.0 {
            roots.add(one.certificate.clone()).map_err(|error| tls(&error))?;
        }
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| tls(&error))
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
pub(super) fn params(name: &str, valid: Duration) -> CertificateParams {
    params_at(name, valid, SystemTime::now())
}

pub(super) fn params_at(name: &str, valid: Duration, now: SystemTime) -> CertificateParams {
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

pub(super) fn tls(error: &dyn std::fmt::Display) -> PkiError {
    PkiError::Tls(error.to_string())
}

pub(super) fn file(path: &Path, reason: std::io::Error) -> PkiError {
    PkiError::File { path: path.to_owned(), reason }
}

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|reason| file(path, reason))
}

/// Writes a file so that it is there whole or not at all.
pub(super) fn write(path: &Path, mode: u32, text: &str) -> Result<(), PkiError> {
    dwell_daemon::durable::replace(path, text.as_bytes(), mode).map_err(|reason| file(path, reason))
}
