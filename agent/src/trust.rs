//! Whom the agent believes, as TLS configurations.
//!
//! Before it has joined, an agent knows of its controller only the digest of the CA that its token
//! carries ([`by_digest`]); afterwards it has the CA itself and a certificate of its own
//! ([`by_identity`]), which it leaves out once that has expired ([`without_certificate`]). In all cases the controller's certificate has to come from that CA, be made for
//! a server, be valid now, and have the controller's name ([`CONTROLLER_NAME`]), so that no node can stand
//! in for it. At which address it is reached proves nothing and is not looked at. TLS 1.3 only: both
//! ends are ours.
//!
//! [`CONTROLLER_NAME`]: dwell_proto::trust::CONTROLLER_NAME

use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme, version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use crate::identity::{Identity, certificates};

/// gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";

/// The controller presented no CA with the digest that the token pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it does not belong to the cluster that the token is for")]
pub struct PinMismatch;

/// Trusts the CA with this digest (SHA-256 over DER), which the controller has to present.
///
/// # Errors
/// What rustls has against the configuration; none is known.
pub fn by_digest(digest: [u8; 32]) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = PinnedCa { digest, provider: Arc::clone(&provider) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(for_grpc(config))
}

/// Trusts the node's CA and shows the node's certificate.
///
/// # Errors
/// What is wrong with the identity: a certificate that cannot be read, or a key that is not its own.
pub fn by_identity(identity: &Identity) -> Result<ClientConfig, String> {
    let config = by_ca(identity)?
        .with_client_auth_cert(identity.certificates()?, identity.key()?)
        .map_err(|error| format!("certificate and key: {error}"))?;
    Ok(for_grpc(config))
}

/// Trusts the node's CA and shows no certificate, for a node whose own has expired.
///
/// # Errors
/// What is wrong with the CA.
pub fn without_certificate(identity: &Identity) -> Result<ClientConfig, String> {
    Ok(for_grpc(by_ca(identity)?.with_no_client_auth()))
}

fn by_ca(identity: &Identity) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let mut roots = RootCertStore::empty();
    for ca in certificates(&identity.ca_pem)? {
        roots.add(ca).map_err(|error| format!("CA: {error}"))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots))
}

/// SHA-256 over a certificate.
#[must_use]
pub fn digest(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

fn for_grpc(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A session is resumed once a day at most; the cache would cost more memory than it saves time.
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// Accepts a chain that ends in the one CA with the right digest, and checks the chain as usual.
#[derive(Debug)]
struct PinnedCa {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|presented| digest(presented) == self.digest)
            .ok_or_else(|| CertificateError::Other(OtherError(Arc::new(PinMismatch))))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
