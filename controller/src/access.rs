//! Who may call what: one place, before any body is read.
//!
//! | service | who |
//! |---|---|
//! | `Enrollment` | anyone |
//! | `Session` | a node's certificate; for which node is the session's matter |
//! | `Fleet`, reflection | a client's certificate, or the unix socket |
//! | `Fleet/IssueClient` | the unix socket |
//! | health | any certificate, or the unix socket |
//!
//! Who acts is known to all that a call does ([`acting`]), so that no method can forget to say it.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures_util::future::Either;
use tokio::task::futures::TaskLocalFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::listen::Peer;
use crate::pki::Identity;

tokio::task_local! {
    static ACTING: String;
}

/// Who made the call that is being answered: the name in a context, or `local` for the unix socket. Empty for nodes and
/// beyond a call.
pub(crate) fn acting() -> String {
    ACTING.try_with(Clone::clone).unwrap_or_default()
}

/// Puts the rules before a server.
#[derive(Clone, Copy, Debug)]
pub struct AccessLayer;

/// A server behind the rules.
#[derive(Clone, Debug)]
pub struct Access<S> {
    inner: S,
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { inner }
    }
}

impl<S> Service<Request<Body>> for Access<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future =
        Either<TaskLocalFuture<String, S::Future>, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        match check(request.uri().path(), peer) {
            Ok(()) => {
                let acting = actor(peer);
                Either::Left(ACTING.scope(acting, self.inner.call(request)))
            }
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

/// Whom people who read later are told of.
fn actor(peer: Option<&Peer>) -> String {
    match peer {
        Some(Peer::Certified { identity, .. }) => match identity.as_ref() {
            Identity::Client(name) => name.to_string(),
            Identity::Node { .. } => String::new(),
        },
        Some(Peer::Local) => "local".to_owned(),
        Some(Peer::Anonymous(_)) | None => String::new(),
    }
}

/// Without a peer there is nobody to allow anything to.
fn check(path: &str, peer: Option<&Peer>) -> Result<(), Status> {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    let identity = match peer {
        Some(Peer::Certified { identity, .. }) => Some(identity.as_ref()),
        Some(Peer::Local | Peer::Anonymous(_)) | None => None,
    };
    let is_node = matches!(identity, Some(Identity::Node { .. }));
    let is_client = matches!(identity, Some(Identity::Client(_)));
    let is_local = matches!(peer, Some(Peer::Local));
    let allowed = match (service, method) {
        ("dwell.v1.Enrollment", _) => peer.is_some(),
        ("dwell.v1.Session", _) => is_node,
        ("dwell.v1.Fleet", "IssueClient") => is_local,
        ("grpc.health.v1.Health", _) => is_local || is_node || is_client,
        // What is not known is answered UNIMPLEMENTED, to those who may ask.
        _ => is_local || is_client,
    };
    match (allowed, peer) {
        (true, _) => Ok(()),
        (false, Some(Peer::Anonymous(_)) | None) => Err(Status::unauthenticated(
            "this needs a certificate of the cluster; a host gets one with `dwell-agent join`, a person with \
             `dwell context issue` on the controller's host",
        )),
        (false, _) if method == "IssueClient" => Err(Status::permission_denied(
            "client certificates are made only over the controller's unix socket, as root on its host",
        )),
        (false, Some(peer)) => {
            Err(Status::permission_denied(format!("{} may not call {service}", who(peer))))
        }
    }
}

fn who(peer: &Peer) -> String {
    match peer {
        Peer::Local => "the unix socket".to_owned(),
        Peer::Anonymous(_) => "someone without a certificate".to_owned(),
        Peer::Certified { identity, .. } => match identity.as_ref() {
            Identity::Node { name, .. } => format!("node {name}"),
            Identity::Client(name) => format!("client {name}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Code;

    use super::*;
    use crate::pki::Enrolment;

    #[test]
    fn each_service_is_for_some() {
        let node =
            Identity::Node { name: "h1".parse().unwrap(), enrolment: Enrolment("aa".into()) };
        let from = [192, 0, 2, 1].into();
        let node = Peer::Certified { identity: Arc::new(node), from };
        let client = Identity::Client("ann".parse().unwrap());
        let client = Peer::Certified { identity: Arc::new(client), from };
        let anonymous = Peer::Anonymous(crate::listen::Visit::from(from));
        let (denied, unknown) = (Some(Code::PermissionDenied), Some(Code::Unauthenticated));
        let peers = [&Peer::Local, &client, &node, &anonymous];
        let table = [
            ("/dwell.v1.Enrollment/Join", [None, None, None, None]),
            ("/dwell.v1.Enrollment/RenewExpired", [None, None, None, None]),
            ("/dwell.v1.Session/Attach", [denied, denied, None, unknown]),
            ("/dwell.v1.Session/Renew", [denied, denied, None, unknown]),
            ("/dwell.v1.Fleet/Apply", [None, None, denied, unknown]),
            ("/dwell.v1.Fleet/PushImage", [None, None, denied, unknown]),
            ("/dwell.v1.Fleet/IssueClient", [None, denied, denied, unknown]),
            ("/grpc.health.v1.Health/Check", [None, None, None, unknown]),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                [None, None, denied, unknown],
            ),
            ("/", [None, None, denied, unknown]),
            ("/dwell.v1.Fleet", [None, None, denied, unknown]),
            ("/x/dwell.v1.Enrollment/Join", [None, None, denied, unknown]),
        ];
        for (path, expected) in table {
            let codes = peers.map(|peer| check(path, Some(peer)).err().map(|status| status.code()));
            assert_eq!(codes, expected, "{path}");
            assert!(check(path, None).is_err(), "{path}: without a peer");
        }
    }
}
