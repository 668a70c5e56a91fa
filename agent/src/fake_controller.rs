//! A controller for tests: real TLS and gRPC on loopback, with a script instead of a model.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dwell_proto::trust::{CONTROLLER_NAME, JoinToken, renewal_message};
use dwell_proto::v1::enrollment_server::{Enrollment, EnrollmentServer};
use dwell_proto::v1::session_server::{Session, SessionServer};
use dwell_proto::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, STREAMS_MAX, v1};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair,
};
use rustls_pki_types::CertificateSigningRequestDer;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::identity::Identity;
use crate::trust;

pub(crate) const CLUSTER: &str = "0123456789abcdef";
/// The only secret that joins.
pub(crate) const SECRET: &str = "the-secret-of-the-test";
/// One that is put off.
pub(crate) const CROWD: &str = "a-secret-among-many";
/// What a test waits at most for something that is to happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A CA and what it signs.
pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
    digest: [u8; 32],
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            digest: trust::digest(certificate.der()),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn token(&self, secret: &str) -> JoinToken {
        JoinToken::new(secret, self.digest).unwrap()
    }

    /// A certificate for the name, and its key.
    pub(crate) fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A certificate for a node's request, valid from an hour ago for `left` from now.
    fn sign(&self, request: &[u8], left: Duration) -> String {
        let der = CertificateSigningRequestDer::from(request);
        let mut request = CertificateSigningRequestParams::from_der(&der).unwrap();
        let now = std::time::SystemTime::now();
        request.params.not_before = (now - Duration::from_secs(3600)).into();
        request.params.not_after = (now + left).into();
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.signed_by(&self.issuer).unwrap().pem()
    }
}

/// How the controller presents itself.
pub(crate) struct Face {
    /// Whose certificates it takes and signs.
    pub(crate) ca: Ca,
    /// The chain it shows, and its key.
    pub(crate) chain: String,
    pub(crate) key: String,
    /// How long the certificates it signs are valid.
    pub(crate) left: Duration,
    /// The CAs that it names with a certificate, if any.
    pub(crate) trust_pem: String,
}

impl Face {
    /// As a controller should: its certificate, then the CA.
    pub(crate) fn proper(ca: Ca) -> Self {
        let (certificate, key) = ca.issue(CONTROLLER_NAME, ExtendedKeyUsagePurpose::ServerAuth);
        let left = Duration::from_secs(24 * 3600);
        Self { chain: certificate + &ca.pem, key, ca, left, trust_pem: String::new() }
    }
}

/// An agent's stream, with its Hello taken.
pub(crate) struct Attachment {
    pub(crate) hello: v1::Hello,
    pub(crate) certificate: Vec<u8>,
    pub(crate) incoming: Streaming<v1::AgentMessage>,
    pub(crate) outgoing: mpsc::Sender<Result<v1::ControllerMessage, Status>>,
}

impl Attachment {
    pub(crate) async fn send(&self, message: v1::controller_message::Message) {
        let message = v1::ControllerMessage { message: Some(message) };
        self.outgoing.send(Ok(message)).await.unwrap();
    }

    pub(crate) async fn welcome(&self, heartbeat_ms: u64) {
        let cluster_id = CLUSTER.to_owned();
        let welcome = v1::Welcome { heartbeat_ms, cluster_id, ..v1::Welcome::default() };
        self.send(v1::controller_message::Message::Welcome(welcome)).await;
    }

    /// The next message; `None` once the agent has ended the stream.
    pub(crate) async fn next(&mut self) -> Option<v1::agent_message::Message> {
        let message = tokio::time::timeout(LIMIT, self.incoming.message()).await.unwrap();
        message.ok().flatten().map(|message| message.message.unwrap())
    }
}

/// A tunnel that the agent opened, with its name taken.
pub(crate) struct Carried {
    pub(crate) tunnel: String,
    pub(crate) up: Streaming<v1::TunnelUp>,
    pub(crate) down: mpsc::Sender<Result<v1::TunnelDown, Status>>,
}

/// The controller.
pub(crate) struct FakeController {
    pub(crate) address: String,
    pub(crate) attachments: mpsc::Receiver<Attachment>,
    pub(crate) tunnels: mpsc::Receiver<Carried>,
    server: JoinHandle<()>,
}

impl FakeController {
    pub(crate) async fn start(face: impl Into<Arc<Face>>) -> Self {
        Self::listen("127.0.0.1:0", face).await
    }

    pub(crate) async fn listen(address: &str, face: impl Into<Arc<Face>>) -> Self {
        let face = face.into();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tls = ServerTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(&face.chain, &face.key))
            .client_ca_root(Certificate::from_pem(&face.ca.pem))
            .client_auth_optional(true);
        let (attached, attachments) = mpsc::channel(8);
        let (carried, tunnels) = mpsc::channel(8);
        let script = Arc::new(Script { face, attached, carried });
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_service(EnrollmentServer::from_arc(Arc::clone(&script)))
            .add_service(SessionServer::from_arc(script))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { address, attachments, tunnels, server }
    }

    /// Stops listening, so that another one can listen at the same address.
    pub(crate) async fn stop(mut self) {
        self.server.abort();
        assert!((&mut self.server).await.is_err());
    }

    pub(crate) async fn attachment(&mut self) -> Attachment {
        tokio::time::timeout(LIMIT, self.attachments.recv()).await.unwrap().unwrap()
    }

    pub(crate) async fn tunnel(&mut self) -> Carried {
        tokio::time::timeout(LIMIT, self.tunnels.recv()).await.unwrap().unwrap()
    }
}

impl Drop for FakeController {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The identity of a node that has joined, whose certificate is valid for `left` from now.
pub(crate) fn identity(ca: &Ca, controller: &str, left: Duration) -> Identity {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    Identity {
        node: "h1".parse().unwrap(),
        cluster_id: CLUSTER.to_owned(),
        controller: controller.to_owned(),
        ca_pem: ca.pem.clone(),
        certificate_pem: ca.sign(request.der(), left),
        key_pem: key.serialize_pem(),
    }
}

struct Script {
    face: Arc<Face>,
    attached: mpsc::Sender<Attachment>,
    carried: mpsc::Sender<Carried>,
}

type Down<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Enrollment for Script {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let request = request.into_inner();
        let token: JoinToken = request.token.parse().unwrap();
        match token.secret() {
            SECRET => Ok(Response::new(v1::JoinResponse {
                certificate_pem: self.face.ca.sign(&request.certificate_request, self.face.left),
                ca_pem: self.face.ca.pem.clone(),
                cluster_id: CLUSTER.to_owned(),
                trust_pem: self.face.trust_pem.clone(),
            })),
            CROWD => Err(Status::resource_exhausted("too many hosts; try again in a moment")),
            _ => Err(Status::unauthenticated("the token was used already\u{1b}[2J")),
        }
    }

    async fn renew_expired(
        &self,
        request: Request<v1::RenewExpiredRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        let request = request.into_inner();
        let (_, old) = x509_parser::parse_x509_certificate(&request.certificate).unwrap();
        let key = &old.public_key().subject_public_key.data;
        let message = renewal_message(&request.certificate_request);
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let verified = algorithms
            .all
            .iter()
            .any(|one| one.verify_signature(key, &message, &request.signature).is_ok());
        if !verified {
            return Err(Status::unauthenticated("the old key did not sign the request"));
        }
        let certificate_pem = self.face.ca.sign(&request.certificate_request, self.face.left);
        let ca_pem = self.face.trust_pem.clone();
        Ok(Response::new(v1::RenewResponse { certificate_pem, ca_pem }))
    }
}

#[tonic::async_trait]
impl Session for Script {
    type AttachStream = Down<v1::ControllerMessage>;
    type CarryStream = Down<v1::TunnelDown>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let certificate = request.peer_certs().unwrap()[0].to_vec();
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.unwrap();
        let Some(v1::agent_message::Message::Hello(hello)) = first.message else {
            panic!("the first message is no Hello: {first:?}");
        };
        let (outgoing, receiver) = mpsc::channel(8);
        self.attached.send(Attachment { hello, certificate, incoming, outgoing }).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn carry(
        &self,
        request: Request<Streaming<v1::TunnelUp>>,
    ) -> Result<Response<Self::CarryStream>, Status> {
        let mut up = request.into_inner();
        let first = up.message().await?.unwrap();
        let Some(v1::tunnel_up::Message::Tunnel(tunnel)) = first.message else {
            panic!("the first message is no name: {first:?}");
        };
        let (down, receiver) = mpsc::channel(8);
        self.carried.send(Carried { tunnel, up, down }).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        let v1::RenewRequest { certificate_request: request, keeps_trust } = request.into_inner();
        assert!(keeps_trust);
        let certificate_pem = self.face.ca.sign(&request, Duration::from_secs(24 * 3600));
        let ca_pem = self.face.trust_pem.clone();
        Ok(Response::new(v1::RenewResponse { certificate_pem, ca_pem }))
    }
}
