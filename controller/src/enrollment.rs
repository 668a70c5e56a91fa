//! Joining: the one thing that someone without a certificate may do.
//!
//! The order makes a try cheap for us and worthless for whoever guesses: rate, form of the token, form of
//! the request, and only then the model, which answers every wrong token alike. The certificate is made
//! first and given away only after the join is durable.
//!
//! A name that is taken is refused, also to a machine that was cloned from its holder; it is free again
//! when its node has been removed. If the answer to a join is lost, the token is used up and the name is
//! taken: an operator removes the node, which has no instances yet, and makes another token.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dwell_core::id::NodeName;
use dwell_proto::v1;
use dwell_proto::v1::enrollment_server::Enrollment;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::model::{Command, Join};
use crate::owner::Handle;
use crate::pki::{self, Authority, Identity, ShownToken};
use crate::status::into_status;

/// How many attempts to join are looked at per [`WINDOW`], whoever makes them.
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

    /// Counts an attempt; false if there were too many of late.
    fn admit(&self) -> bool {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = &mut *attempts;
        if since.elapsed() >= WINDOW {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        *count <= ATTEMPTS_MAX
    }
}

#[tonic::async_trait]
impl Enrollment for Enroll {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        if !self.admit() {
            return Err(Status::resource_exhausted(
                "too many attempts to join; try again in a moment",
            ));
        }
        let request = request.into_inner();
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let token = ShownToken::read(&request.token).map_err(|error| invalid(&error))?;
        let name: NodeName = request.name.parse().map_err(into_status)?;
        let address = request.address.parse();
        let address = address.map_err(|_| {
            invalid(&format!("address: {:?} is not an IPv4 address", request.address))
        })?;
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
}
