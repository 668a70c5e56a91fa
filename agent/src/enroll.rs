//! How a host becomes a node, and how a node keeps its certificate fresh.
//!
//! The CAs to trust come with each certificate and are stored together with it, so that whoever has a certificate of a new
//! authority trusts that one as well.
//!
//! The private key is made here and stays here; the controller sees a signing request only. A token is
//! used once and pins the CA, so that neither a listener nor somebody in between gains anything.
//!
//! ```text
//!   token ─▶ TLS to a controller with the pinned CA ─▶ Join(request) ─▶ identity.json
//!   2/3 of the certificate's life ─▶ Renew(request) ─▶ identity.json, new key and certificate together
//!   the controller names other CAs ─▶ Renew(request) ─▶ the same, with those CAs
//!   the certificate has expired ─▶ RenewExpired(request, signed with the old key) ─▶ the same
//! ```

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::host_mark::HostMark;
use dwell_core::id::NodeName;
use dwell_core::instance::sanitize;
use dwell_proto::trust::{JoinToken, renewal_message};
use dwell_proto::v1;
use dwell_proto::v1::enrollment_client::EnrollmentClient;
use dwell_proto::v1::session_client::SessionClient;
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::identity::{Identity, IdentityError, certificates, wall_clock};
use crate::link::{self, LinkError};
use crate::trust;
use dwell_daemon::Lane;

/// How long the controller may take to answer.
const REPLY_LIMIT: Duration = Duration::from_secs(30);
/// How often a lost connection is looked for while waiting for the answer.
const PING: Duration = Duration::from_secs(5);
/// How often a host asks to join while it is put off.
const TRIES: u32 = 6;
/// How long it waits before it asks again, at random, so that a crowd does not come back as one.
const PAUSE_MS: RangeInclusive<u64> = 1_000..=3_000;
/// How many CAs a node trusts at most. There are two while the cluster's authority is rotated.
const AUTHORITIES_MAX: usize = 4;
/// The longest text of the controller that is shown, in bytes.
const REASON_MAX: usize = 500;

/// What a host says of itself when it asks to join.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The name it asks for.
    pub node: NodeName,
    /// Its address in the underlay.
    pub address: Ipv4Addr,
    /// Whether it only wants the routes.
    pub routes_only: bool,
    /// The machine it is on, if that can be told.
    pub host_mark: Option<HostMark>,
}

/// Why a host did not become a node, or a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// It is a node already.
    #[error(
        "this host is node {node} of cluster {cluster_id} already; to leave that cluster run `dwell-agent cleanup \
         --identity`, to replace the identity and keep what runs use `--force`"
    )]
    AlreadyJoined {
        /// Its name there.
        node: NodeName,
        /// The cluster.
        cluster_id: String,
    },
    /// There is no connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The controller refused, for example because the token was used before or has expired.
    #[error("the controller refused: {reason}")]
    Refused {
        /// In its words.
        reason: String,
    },
    /// What the controller answered cannot be used.
    #[error("the controller's answer cannot be used: {problem}")]
    Answer {
        /// What is wrong with it.
        problem: String,
    },
    /// The certificate is old already by the clock of this host.
    #[error("the new certificate is old already by the clock of this host; is the clock right?")]
    Clock,
    /// What this host has of its identity cannot be used.
    #[error("cannot use this node's identity: {problem}")]
    Unusable {
        /// What is wrong with it.
        problem: String,
    },
    /// The key could not be made.
    #[error("cannot make a key and a signing request")]
    Key(#[from] rcgen::Error),
    /// TLS could not be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The identity cannot be read or stored.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Joins the cluster that `token` is for, over the controller at `endpoint` (`HOST:PORT`), and stores the
/// identity. A host that has one already is refused unless `force` is set. One of a crowd is put off by the controller,
/// and asks again a few times.
///
/// # Errors
/// [`EnrollError`]; nothing is stored then.
pub async fn join(
    data_dir: &Path,
    endpoint: &str,
    token: &JoinToken,
    candidate: &Candidate,
    force: bool,
) -> Result<Identity, EnrollError> {
    match Identity::load(data_dir) {
        Ok(Identity { node, cluster_id, .. }) if !force => {
            return Err(EnrollError::AlreadyJoined { node, cluster_id });
        }
        Ok(_) | Err(IdentityError::Missing { .. }) => {}
        Err(IdentityError::Damaged { .. }) if force => {}
        Err(error) => return Err(error.into()),
    }
    let tls = Arc::new(trust::by_digest(*token.ca_digest())?);
    let (key, certificate_request) = new_key()?;
    let request = v1::JoinRequest {
        token: token.to_string(),
        name: candidate.node.to_string(),
        address: candidate.address.to_string(),
        certificate_request,
        routes_only: candidate.routes_only,
        host_mark: candidate.host_mark.as_ref().map(ToString::to_string).unwrap_or_default(),
        keeps_trust: true,
    };
    let ask = async || ask_to_join(endpoint, Arc::clone(&tls), request.clone()).await;
    let answer = while_put_off(PAUSE_MS, ask).await?;
    let ca_pem = trusted(&answer, token.ca_digest())?;
    let identity = Identity {
        node: candidate.node.clone(),
        cluster_id: answer.cluster_id,
        controller: endpoint.to_owned(),
        ca_pem,
        certificate_pem: answer.certificate_pem,
        key_pem: key.serialize_pem(),
    };
    usable(&identity)?;
    identity.store(data_dir)?;
    Ok(identity)
}

/// Why one attempt to join failed.
#[derive(Debug)]
enum Attempt {
    /// The controller had no room for it, and has not used the token.
    PutOff(EnrollError),
    /// Anything else, also a connection that broke after the request was sent: the token may be used.
    Failed(EnrollError),
}

async fn ask_to_join(
    endpoint: &str,
    tls: Arc<ClientConfig>,
    request: v1::JoinRequest,
) -> Result<v1::JoinResponse, Attempt> {
    let channel = match link::connect_admitted(endpoint, tls, PING).await {
        Ok(channel) => channel,
        Err(error @ LinkError::Ended { .. }) => return Err(Attempt::PutOff(error.into())),
        Err(error) => return Err(Attempt::Failed(error.into())),
    };
    let mut request = tonic::Request::new(request);
    request.set_timeout(REPLY_LIMIT);
    let answer = EnrollmentClient::new(channel).join(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| {
        let code = status.code();
        match refused(endpoint, status) {
            // Only what the controller says itself: HTTP/2 has errors that count as the same code.
            error @ EnrollError::Refused { .. } if code == Code::ResourceExhausted => {
                Attempt::PutOff(error)
            }
            error => Attempt::Failed(error),
        }
    })
}

/// Repeats `attempt` while it is put off, at most [`TRIES`] times in all.
async fn while_put_off<T>(
    pause_ms: RangeInclusive<u64>,
    mut attempt: impl AsyncFnMut() -> Result<T, Attempt>,
) -> Result<T, EnrollError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(Attempt::PutOff(_)) if tries < TRIES => {
                let pause_ms = fastrand::u64(pause_ms.clone());
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
            Err(Attempt::PutOff(error) | Attempt::Failed(error)) => return Err(error),
        }
    }
}

/// Gets a fresh certificate, for a fresh key, over a connection that was made with the old one, and
/// stores both together.
///
/// # Errors
/// [`EnrollError`]; the old identity stays as it is.
pub async fn renew(
    data_dir: &Path,
    identity: &Identity,
    channel: Channel,
) -> Result<Identity, EnrollError> {
    let (key, certificate_request) = new_key()?;
    let mut request =
        tonic::Request::new(v1::RenewRequest { certificate_request, keeps_trust: true });
    request.set_timeout(REPLY_LIMIT);
    let answer = SessionClient::new(channel).renew(request).await;
    let answer = answer.map_err(|status| refused(&identity.controller, status))?;
    store_renewed(data_dir, identity, &key, answer.into_inner()).await
}

/// Gets a fresh certificate, for a fresh key, in place of one that has expired, by a proof of the old key, and stores
/// both together. It takes neither a token nor an operator.
///
/// # Errors
/// [`EnrollError`]; the old identity stays as it is.
pub async fn renew_expired(
    data_dir: &Path,
    identity: &Identity,
    endpoint: &str,
) -> Result<Identity, EnrollError> {
    let unusable = |problem| EnrollError::Unusable { problem };
    let tls = Arc::new(trust::without_certificate(identity).map_err(unusable)?);
    let certificates = identity.certificates().map_err(unusable)?;
    let certificate = certificates.first().map(|own| own.to_vec()).unwrap_or_default().into();
    let (key, certificate_request) = new_key()?;
    let signature =
        KeyPair::from_pem(&identity.key_pem)?.sign(&renewal_message(&certificate_request))?;
    let mut request = tonic::Request::new(v1::RenewExpiredRequest {
        certificate_request,
        certificate,
        signature: signature.into(),
        keeps_trust: true,
    });
    request.set_timeout(REPLY_LIMIT);
    let channel = link::connect(endpoint, tls, PING).await?;
    let answer = EnrollmentClient::new(channel).renew_expired(request).await;
    let answer = answer.map_err(|status| refused(endpoint, status))?;
    store_renewed(data_dir, identity, &key, answer.into_inner()).await
}

async fn store_renewed(
    data_dir: &Path,
    identity: &Identity,
    key: &KeyPair,
    answer: v1::RenewResponse,
) -> Result<Identity, EnrollError> {
    let ca_pem = match answer.ca_pem.is_empty() {
        true => identity.ca_pem.clone(),
        false => answer.ca_pem,
    };
    let renewed = Identity {
        certificate_pem: answer.certificate_pem,
        ca_pem,
        key_pem: key.serialize_pem(),
        ..identity.clone()
    };
    usable(&renewed)?;
    let validity = renewed.validity().map_err(|problem| EnrollError::Answer { problem })?;
    // It would be renewed again at once, and again.
    if validity.renew_in(wall_clock()).is_zero() {
        return Err(EnrollError::Clock);
    }
    let path = data_dir.to_owned();
    // Not among what may hang: without it the node would be locked out in the end.
    let stored =
        Lane::new("identity").run(move || Ok(renewed.store(&path).map(|()| renewed))).await;
    stored.map_err(|error| EnrollError::Answer { problem: error.to_string() })?.map_err(Into::into)
}

/// A new key and a signing request for it, DER. The controller knows the names to put into the
/// certificate and ignores those in the request.
fn new_key() -> Result<(KeyPair, tonic::codegen::Bytes), rcgen::Error> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok((key, request.der().to_vec().into()))
}

/// Of the CAs in the answer, the one that the token pins.
fn pinned(ca_pem: &str, digest: &[u8; 32]) -> Result<String, EnrollError> {
    let answer = |problem: String| EnrollError::Answer { problem };
    let all = certificates(ca_pem).map_err(answer)?;
    let ca: Option<&CertificateDer<'_>> = all.iter().find(|ca| trust::digest(ca) == *digest);
    // A chain of one certificate is what was sent; anything else could smuggle a second root in.
    match (ca, all.len()) {
        (Some(_), 1) => Ok(ca_pem.to_owned()),
        _ => Err(answer("its CA is not the one that the token pins".to_owned())),
    }
}

/// All CAs to trust by the answer to a join. A controller that presented what the token pins may name others: the cluster's
/// authority is being rotated.
fn trusted(answer: &v1::JoinResponse, digest: &[u8; 32]) -> Result<String, EnrollError> {
    let pinned = pinned(&answer.ca_pem, digest)?;
    Ok(if answer.trust_pem.is_empty() { pinned } else { answer.trust_pem.clone() })
}

fn usable(identity: &Identity) -> Result<(), EnrollError> {
    let has_too_many = || {
        let count = certificates(&identity.ca_pem)?.len();
        if count > AUTHORITIES_MAX { Err(format!("{count} CAs at once")) } else { Ok(()) }
    };
    let checked = trust::by_identity(identity).and_then(|_| identity.validity());
    let checked = checked.and_then(|_| has_too_many());
    checked.map_err(|problem| EnrollError::Answer { problem })
}

fn refused(endpoint: &str, status: Status) -> EnrollError {
    // What the controller says has no cause on this side; neither has it ended anything if our own patience has.
    if std::error::Error::source(&status).is_some() && status.code() != Code::Cancelled {
        let endpoint = endpoint.to_owned();
        return LinkError::Ended { endpoint, source: status.into() }.into();
    }
    let reason = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    EnrollError::Refused { reason: sanitize(reason, REASON_MAX) }
}

#[cfg(test)]
mod tests;
