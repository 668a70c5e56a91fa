//! Joining, and renewing what has expired: all that someone without a valid certificate may do.
//!
//! The order makes a try cheap for us and worthless for whoever guesses: rate (also of each source, so that one that
//! guesses keeps nobody else out), form of the token, form of the request, the token itself, and only then a signature and
//! the join. Every wrong token is answered alike. The certificate is made before the join and given away only after that
//! is durable.
//!
//! A name that is taken is refused, also to a machine that was cloned from its holder; it is free again
//! when its node has been removed. If the answer to a join is lost, the token is used up and the name is
//! taken: an operator removes the node, which has no instances yet, and makes another token.
//!
//! A node that was away for longer than its certificate lasted proves by its old key that it is still the host that
//! joined. What it runs stays its own, so nobody has to remove it by force. How long it was away does not matter: a
//! host that is not to come back is removed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dwell_core::access::Issuer;
use dwell_core::id::NodeName;
use dwell_proto::trust::renewal_message;
use dwell_proto::v1;
use dwell_proto::v1::enrollment_server::Enrollment;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::listen::{Peer, Source};
use crate::model::{Command, Join, Model};
use crate::owner::Handle;
use crate::pki::{self, Authority, By, Identity, ShownToken};
use crate::refusals::{Reason, Refusals};
use crate::session::Caller;
use crate::status::into_status;

/// How many attempts to join or to renew are looked at per [`WINDOW`], whoever makes them.
const ATTEMPTS_MAX: usize = 100;
/// How many of them of one source.
const ATTEMPTS_EACH_MAX: usize = 25;
const WINDOW: Duration = Duration::from_secs(1);

/// The `Enrollment` service.
pub struct Enroll {
    owner: Handle,
    authority: Arc<Authority>,
    /// How long certificates are valid.
    valid: Duration,
    attempts: Mutex<Attempts>,
    refusals: Refusals,
}

/// The attempts of a window. An entry for each source that was let through, and so as bounded as those are.
struct Attempts {
    since: Instant,
    all: usize,
    of_sources: HashMap<Option<Source>, usize>,
}

impl Attempts {
    fn new() -> Self {
        Self { since: Instant::now(), all: 0, of_sources: HashMap::new() }
    }

    /// Counts an attempt; `false` if there were too many of late, of all or of its source. What is refused is not
    /// counted: it must not take the place of what others try.
    fn admit(&mut self, source: Option<Source>) -> bool {
        if self.since.elapsed() >= WINDOW {
            *self = Self::new();
        }
        let of_source = self.of_sources.get(&source).copied().unwrap_or(0);
        if self.all >= ATTEMPTS_MAX || of_source >= ATTEMPTS_EACH_MAX {
            return false;
        }
        self.all += 1;
        self.of_sources.insert(source, of_source + 1);
        true
    }
}

impl Enroll {
    /// A service that gives out certificates of this validity.
    pub(crate) fn new(
        owner: Handle,
        authority: Arc<Authority>,
        valid: Duration,
        refusals: Refusals,
    ) -> Self {
        Self { owner, authority, valid, attempts: Mutex::new(Attempts::new()), refusals }
    }

    /// Counts an attempt and refuses it if there were too many of late; else where it comes from.
    fn admit<T>(&self, request: &Request<T>) -> Result<Option<IpAddr>, Status> {
        let from = request.extensions().get::<Peer>().and_then(Peer::address);
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.admit(from.map(Source::of)) {
            return Ok(from);
        }
        self.refusals.note(Reason::Attempts, from, &"too many at once");
        Err(Status::resource_exhausted(
            "too many hosts ask for certificates; try again in a moment",
        ))
    }

    /// Refuses a token that is not good, before anything is signed for it.
    async fn check_token(&self, token: &ShownToken) -> Result<(), Status> {
        let token = token.clone();
        let check = move |model: &Model| model.check_token(&token.id, &token.digest);
        self.owner.read(check).await.map_err(into_status)?.map_err(into_status)
    }
}

#[tonic::async_trait]
impl Enrollment for Enroll {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let from = self.admit(&request)?;
        let joined = self.try_join(request.into_inner()).await;
        if let Err(refusal) = &joined {
            self.refusals.note(Reason::Join, from, &refusal.message());
        }
        joined.map(Response::new)
    }

    async fn renew_expired(
        &self,
        request: Request<v1::RenewExpiredRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        let from = self.admit(&request)?;
        let renewed = self.try_renew(&request.into_inner());
        if let Err(refusal) = &renewed {
            self.refusals.note(Reason::Renewal, from, &refusal.message());
        }
        renewed.map(Response::new)
    }
}

impl Enroll {
    async fn try_join(&self, request: v1::JoinRequest) -> Result<v1::JoinResponse, Status> {
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
        self.check_token(&token).await?;
        let enrolment = key.enrolment();
        let identity = Identity::Node {
            name: name.clone(),
            enrolment: enrolment.clone(),
            issuer: Issuer::default(),
        };
        let by = By::of(request.keeps_trust);
        let certificate_pem =
            self.authority.issue_node(&key, &identity, self.valid, by).map_err(into_status)?;
        let join = Join {
            token: token.id,
            digest: token.digest,
            name: name.clone(),
            address,
            enrolment: enrolment.0,
            routes_only: request.routes_only,
            host_mark,
        };
        self.owner.command(Command::RedeemToken(join)).await.map_err(into_status)?;
        tracing::info!(node = %name, %address, "a node joined");
        let trusted = self.authority.trusted();
        Ok(v1::JoinResponse {
            certificate_pem,
            ca_pem: trusted.pinned().0.to_owned(),
            cluster_id: self.authority.cluster_id().to_owned(),
            trust_pem: trusted.pem(),
        })
    }

    fn try_renew(&self, request: &v1::RenewExpiredRequest) -> Result<v1::RenewResponse, Status> {
        let v1::RenewExpiredRequest { certificate_request, certificate, signature, keeps_trust } =
            request;
        let key = pki::Request::read(certificate_request).map_err(into_status)?;
        let certificate = CertificateDer::from(certificate.as_ref());
        let message = renewal_message(certificate_request);
        let certified = self.authority.read_proven(&certificate, &message, signature);
        let caller = Caller::try_from(&certified.map_err(into_status)?.identity)?;
        let node = caller.node.clone();
        caller.check_member(&self.owner)?;
        let by = By::of(*keeps_trust);
        let certificate_pem =
            self.authority.issue_node(&key, &caller.into(), self.valid, by).map_err(into_status)?;
        tracing::info!(%node, "renewed the expired certificate of a node");
        Ok(v1::RenewResponse { certificate_pem, ca_pem: self.authority.certificates_pem() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_source_that_guesses_leaves_attempts_for_the_others() {
        let source = |number: u8| Some(Source::of([192, 0, 2, number].into()));
        let mut attempts = Attempts::new();
        let guessed = (0..2660).filter(|_| attempts.admit(source(1))).count();
        assert_eq!(guessed, ATTEMPTS_EACH_MAX);
        assert!(attempts.admit(source(2)), "somebody else is kept out");
        // All together have a bound as well, and so has the table.
        let others = (3..=255).filter(|number| attempts.admit(source(*number))).count();
        assert_eq!(others + guessed + 1, ATTEMPTS_MAX);
        assert!(attempts.of_sources.len() <= ATTEMPTS_MAX);
        tokio::time::advance(WINDOW).await;
        assert!(attempts.admit(source(1)));
    }
}
