//! Who may call what: one place, before any body is read.
//!
//! | service | who |
//! |---|---|
//! | `Enrollment` | anyone |
//! | `Session` | a node's certificate; for which node is the session's matter |
//! | `Fleet` | a context whose role has the method, or the unix socket; see [`least_role`] |
//! | `Fleet/IssueClient` | the unix socket |
//! | health | any certificate, or the unix socket |
//! | reflection, and all else | any context, or the unix socket |
//!
//! A context that was revoked may do nothing. Who acts is known to all that a call does ([`acting`]), so that no method can
//! forget to say it; what depends on more than the method asks for its role where that is known ([`require`]).

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use dwell_core::access::{Client, Role};
use futures_util::future::Either;
use tokio::task::futures::TaskLocalFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::listen::Peer;
use crate::model::Command;
use crate::owner::Handle;
use crate::pki::Identity;

tokio::task_local! {
    static ACTOR: Actor;
}

/// Who made a call.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    /// The name in a context, or `local`; empty for others.
    name: String,
    /// Nodes and strangers have none.
    role: Option<Role>,
}

/// Who made the call that is being answered: the name in a context, or `local` for the unix socket. Empty for nodes and
/// beyond a call.
pub(crate) fn acting() -> String {
    ACTOR.try_with(|actor| actor.name.clone()).unwrap_or_default()
}

/// Refuses what whoever made the call may not do, although the method is theirs.
pub(crate) fn require(least: Role, what: &str) -> Result<(), Status> {
    let role = ACTOR.try_with(|actor| actor.role).ok().flatten();
    if role.is_some_and(|role| role >= least) {
        return Ok(());
    }
    Err(too_little(what, role, least))
}

/// The role that a method of `Fleet` takes. One that is not in here takes the highest.
fn least_role(method: &str) -> Role {
    match method {
        "ListWorkloads" | "ListVersions" | "ListInstances" | "ListNodes" | "ListVolumes"
        | "ListRoutes" | "ListKeySets" | "ListRegistries" | "ListEvents" | "Watch" | "Logs"
        | "ListImages" | "GetInfo" | "GetStatus" | "Explain" | "GetRestore" | "CheckRoutes"
        | "Diagnose" | "Audit" => Role::Viewer,
        // A person's own certificate for SSH: whoever may run commands may log in.
        "Apply"
        | "RollBack"
        | "Resize"
        | "ResizeInstance"
        | "SetPaused"
        | "Promote"
        | "Abort"
        | "RemoveWorkload"
        | "ScaleWorkload"
        | "ScaleWorkloads"
        | "SetRunState"
        | "Restart"
        | "MoveInstances"
        | "ReplaceInstances"
        | "RebuildInstances"
        | "RemoveInstances"
        | "DissociateInstances"
        | "AdoptInstances"
        | "Exec"
        | "Connect"
        | "CertifyUser"
        | "PullImage"
        | "PushImage" => Role::Developer,
        _ => Role::Admin,
    }
}

fn too_little(what: &str, role: Option<Role>, least: Role) -> Status {
    let has = role.map_or("none", Role::as_str);
    Status::permission_denied(format!(
        "{what} takes the role {least}, and this context has {has}; an administrator makes another with `dwell context issue \
         --role {least}`"
    ))
}

/// Puts the rules before a server.
#[derive(Clone, Debug)]
pub(crate) struct AccessLayer(Handle);

/// A server behind the rules.
#[derive(Clone, Debug)]
pub(crate) struct Access<S> {
    owner: Handle,
    inner: S,
}

impl AccessLayer {
    /// The rules, which ask this owner which contexts are good.
    pub(crate) fn new(owner: Handle) -> Self {
        Self(owner)
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { owner: self.0.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for Access<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future =
        Either<TaskLocalFuture<Actor, S::Future>, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let refused = match client(peer) {
            Some(client) => self.check_context(client),
            None => Ok(()),
        };
        match refused.and_then(|()| check(request.uri().path(), peer)) {
            Ok(()) => {
                let actor = actor(peer);
                Either::Left(ACTOR.scope(actor, self.inner.call(request)))
            }
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

impl<S> Access<S> {
    /// Refuses a context that was revoked, and sees to it that the use of others is known.
    fn check_context(&self, client: &Client) -> Result<(), Status> {
        let contexts = self.owner.contexts();
        if contexts.revoked(client.context).is_cancelled() {
            return Err(Status::permission_denied(format!(
                "this context of {} is revoked; whoever administers the cluster makes another with `dwell context issue {}`",
                client.name, client.name
            )));
        }
        if contexts.is_to_be_noted(client.context) {
            let (owner, client) = (self.owner.clone(), client.clone());
            tokio::spawn(async move {
                let (name, context) = (client.name.clone(), client.context);
                if let Err(error) = owner.command(Command::NoteContext(client)).await {
                    owner.contexts().is_not_noted(context);
                    tracing::debug!(%error, client = %name, "the use of a context is not written down");
                }
            });
        }
        Ok(())
    }
}

fn client(peer: Option<&Peer>) -> Option<&Client> {
    match peer? {
        Peer::Certified { identity, .. } => match identity.as_ref() {
            Identity::Client(client) => Some(client),
            Identity::Node { .. } => None,
        },
        Peer::Local | Peer::Anonymous(_) => None,
    }
}

fn actor(peer: Option<&Peer>) -> Actor {
    match (client(peer), peer) {
        (Some(client), _) => Actor { name: client.name.to_string(), role: Some(client.role) },
        // Whoever may use the socket is root on the controller's host.
        (None, Some(Peer::Local)) => Actor { name: "local".to_owned(), role: Some(Role::Admin) },
        (None, _) => Actor { name: String::new(), role: None },
    }
}

/// Without a peer there is nobody to allow anything to.
fn check(path: &str, peer: Option<&Peer>) -> Result<(), Status> {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    let client = client(peer);
    let is_local = matches!(peer, Some(Peer::Local));
    let is_node = client.is_none() && matches!(peer, Some(Peer::Certified { .. }));
    let allowed = match (service, method) {
        ("dwell.v1.Enrollment", _) => peer.is_some(),
        ("dwell.v1.Session", _) => is_node,
        ("dwell.v1.Fleet", "IssueClient") => is_local,
        ("dwell.v1.Fleet", method) => {
            let least = least_role(method);
            if let Some(client) = client.filter(|client| client.role < least) {
                return Err(too_little(method, Some(client.role), least));
            }
            is_local || client.is_some()
        }
        ("grpc.health.v1.Health", _) => is_local || is_node || client.is_some(),
        // What is not known is answered UNIMPLEMENTED, to those who may ask.
        _ => is_local || client.is_some(),
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
            Identity::Client(client) => format!("client {}", client.name),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dwell_core::access::{ContextId, Issuer};
    use dwell_core::clock::Timestamp;
    use dwell_proto::DESCRIPTORS;
    use prost::Message as _;
    use tonic::Code;

    use super::*;
    use crate::pki::Enrolment;

    fn person(role: Role) -> Peer {
        let client = Client {
            name: "ann".parse().unwrap(),
            role,
            context: ContextId(1),
            expires_at: Timestamp(0),
            issuer: Issuer::default(),
        };
        let from = [192, 0, 2, 1].into();
        Peer::Certified { identity: Arc::new(Identity::Client(client)), from }
    }

    /// The methods of `Fleet`, as the API's description has them.
    fn methods() -> Vec<String> {
        let all = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let mut services = all.file.iter().flat_map(|file| &file.service);
        let fleet = services.find(|service| service.name() == "Fleet").unwrap();
        fleet.method.iter().map(|method| method.name().to_owned()).collect()
    }

    #[test]
    fn each_role_has_its_methods() {
        let of = |least| {
            let all = methods().into_iter().filter(|method| least_role(method) == least);
            all.collect::<Vec<_>>()
        };
        // Whoever adds a method says here whose it is.
        assert_eq!(
            of(Role::Admin),
            [
                "AdoptContainer",
                "CreateJoinToken",
                "UpdateNode",
                "ChangeNodeBlocks",
                "RebootNodes",
                "CancelReboot",
                "RemoveNode",
                "RemoveVolume",
                "UpdateKeySet",
                "RemoveKeySet",
                "SetRegistryLogin",
                "RemoveRegistryLogin",
                "RemoveImages",
                "IssueClient",
                "ListContexts",
                "RevokeContext",
                "GetAuthority",
                "RotateAuthority",
                "FinishRotation",
                "ConfirmRestore",
            ]
        );
        for method in methods().iter().filter(|method| *method != "IssueClient") {
            let path = format!("/dwell.v1.Fleet/{method}");
            for role in Role::ALL {
                let answer = check(&path, Some(&person(role)));
                let may = role >= least_role(method);
                assert_eq!(answer.is_ok(), may, "{method} as {role}");
                let told = answer.err().map(|status| status.message().to_owned());
                assert!(told.is_none_or(|told| told.contains("dwell context issue --role")));
            }
        }
        // What is unknown is for administrators, and so is what is spelled otherwise.
        assert_eq!(least_role("apply"), Role::Admin);
    }

    #[tokio::test]
    async fn what_takes_more_than_its_method_is_asked_for_where_it_is_known() {
        assert!(require(Role::Viewer, "this").is_err(), "of nobody");
        let asked = |role| {
            ACTOR.scope(actor(Some(&person(role))), async { require(Role::Developer, "this") })
        };
        assert!(asked(Role::Viewer).await.is_err());
        assert!(asked(Role::Developer).await.is_ok());
        assert!(asked(Role::Admin).await.is_ok());
    }

    #[test]
    fn each_service_is_for_some() {
        let node = Identity::Node {
            name: "h1".parse().unwrap(),
            enrolment: Enrolment("aa".into()),
            issuer: Issuer::default(),
        };
        let from = [192, 0, 2, 1].into();
        let node = Peer::Certified { identity: Arc::new(node), from };
        let client = person(Role::Admin);
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
