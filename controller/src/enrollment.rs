//! Joining, and renewing what has expired: all that someone without a valid certificate may do.
//!
//! The order makes a try cheap for us and worthless for whoever guesses: rate, form of the token, form of
//! the request, and only then the model, which answers every wrong token alike. The certificate is made
//! first and given away only after the join is durable.
//!
//! A name that is taken is refused, also to a machine that was cloned from its holder; it is free again
//! when its node has been removed. If the answer to a join is lost, the token is used up and the name is
//! taken: an operator removes the node, which has no instances yet, and makes another token.
//!
//! A node that was away for longer than its certificate lasted proves by its old key that it is still the host that
//! joined. What it runs stays its own, so nobody has to remove it by force. How long it was away does not matter: a
//! host that is not to come back is removed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dwell_core::id::NodeName;
use dwell_proto::trust::renewal_message;
use dwell_proto::v1;
use dwell_proto::v1::enrollment_server::Enrollment;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::model::{Command, Join};
use crate::owner::Handle;
use crate::pki::{self, Authority, Identity, ShownToken};
use crate::session::Caller;
use crate::status::into_status;

/// How many attempts to join or to renew are looked at per [`WINDOW`], whoever makes them.
const ATTEMPTS_MAX: u32 = 100;
const WINDOW: Duration = Duration::from_secs(1);

/// The `Enrollment` service.
pub struct Enroll {
    owner: Handle,
    authority: Arc<Authority>,
    /// How long certificates are valid.
    valid: Duration,
    attempts: Mutex<(Instant, u32)>,
}

impl Enroll {
    /// A service that gives out certificates of this validity.
    #[must_use]
    pub fn new(owner: Handle, authority: Arc<Authority>, valid: Duration) -> Self {
        Self { owner, authority, valid, attempts: Mutex::new((Instant::now(), 0)) }
    }

    /// Counts an attempt and refuses it if there were too many of late.
    fn admit(&self) -> Result<(), Status> {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = &mut *attempts;
        if since.elapsed() >= WINDOW {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        if *count <= ATTEMPTS_MAX {
            return Ok(());
        }
        Err(Status::resource_exhausted(
            "too many hosts ask for certificates; try again in a moment",
        ))
    }
}

#[tonic::async_trait]
impl Enrollment for Enroll {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        self.admit()?;
        let request = request.into_inner();
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let token = ShownToken::read(&request.token).map_err(|error| invalid(&error))?;
        let name: NodeName = request.name.parse().map_err(into_status)?;
        let address = request.address.parse();
        let address = address.map_err(|_| {
            invalid(&format!("address: {:?} is not an IPv4 address", request.address))
        })?;
        let host_mark = match request.host_mark.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|error| invalid(&format!("host_mark: {error}")))?),
        };
        let key = pki::Request::read(&request.certificate_request).map_err(into_status)?;
        let enrolment = key.enrolment();
        let identity = Identity::Node { name: name.clone(), enrolment: enrolment.clone() };
        let certificate_pem =
            self.authority.issue_node(&key, &identity, self.valid).map_err(into_status)?;
        let join = Join {
            token: token.id,
            digest: token.digest,
            name: name.clone(),
            address,
            enrolment: enrolment.0,
            routes_only: request.routes_only,
            host_mark,
        };
        match self.owner.command(Command::RedeemToken(join)).await {
            Ok(_) => tracing::info!(node = %name, %address, "a node joined"),
            Err(error) => {
                tracing::warn!(node = %name, %address, %error, "refused a join");
                return Err(into_status(error));
            }
        }
        Ok(Response::new(v1::JoinResponse {
            certificate_pem,
            ca_pem: self.authority.certificate_pem().to_owned(),
            cluster_id: self.authority.cluster_id().to_owned(),
        }))
    }

    async fn renew_expired(
        &self,
        request: Request<v1::RenewExpiredRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        self.admit()?;
        let v1::RenewExpiredRequest { certificate_request, certificate, signature } =
            request.into_inner();
        let key = pki::Request::read(&certificate_request).map_err(into_status)?;
        let certificate = CertificateDer::from(certificate.as_ref());
        let message = renewal_message(&certificate_request);
        let certified = self.authority.read_proven(&certificate, &message, &signature);
        let caller = Caller::try_from(certified.map_err(into_status)?.identity)?;
        let node = caller.node.clone();
        if let Err(refusal) = caller.check_member(&self.owner).await {
            tracing::warn!(%node, reason = refusal.message(), "refused to renew an expired certificate");
            return Err(refusal);
        }
        let certificate_pem =
            self.authority.issue_node(&key, &caller.into(), self.valid).map_err(into_status)?;
        tracing::info!(%node, "renewed the expired certificate of a node");
        Ok(Response::new(v1::RenewResponse { certificate_pem }))
    }
}
