//! A controller in a directory of its own, and those who talk to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dwell_controller::config::Config;
use dwell_controller::controller::{Controller, StartError};
use dwell_controller::pki::Authority;
use dwell_core::clock::{Clock, SystemClock, Timestamp, millis};
use dwell_core::quantity::Millis;
use dwell_proto::trust::CONTROLLER_NAME;
use dwell_proto::v1;
use dwell_proto::v1::agent_message::Message as FromAgent;
use dwell_proto::v1::controller_message::Message as FromController;
use dwell_proto::v1::enrollment_client::EnrollmentClient;
use dwell_proto::v1::fleet_client::FleetClient;
use dwell_proto::v1::session_client::SessionClient;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Status, Streaming};

/// No wait of a test takes longer.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The host's clock, of which the wall clock may be slow.
pub(crate) struct SlowClock {
    host: SystemClock,
    slow_by: Mutex<Duration>,
}

impl SlowClock {
    /// Says by how much the wall clock is slow from now on.
    pub(crate) fn set(&self, slow_by: Duration) {
        *self.slow_by.lock().unwrap() = slow_by;
    }
}

impl Clock for SlowClock {
    fn now(&self) -> Timestamp {
        self.host.now()
    }

    fn wall(&self) -> Timestamp {
        Timestamp(self.host.wall().0 - millis(*self.slow_by.lock().unwrap()))
    }
}

/// A controller and its directory.
pub(crate) struct Fixture {
    pub(crate) config: Config,
    pub(crate) clock: Arc<SlowClock>,
    controller: Option<Controller>,
    _directory: tempfile::TempDir,
}

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut fixture = Self::not_started();
        change(&mut fixture.config);
        fixture.begin().await.unwrap();
        fixture
    }

    /// Only the directory, for a controller that somebody else starts there.
    pub(crate) fn not_started() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: directory.path().join("data"),
            listen: "127.0.0.1:0".parse().unwrap(),
            socket: directory.path().join("socket"),
            ..Config::default()
        };
        config.nodes.heartbeat = Millis(200);
        let clock = SlowClock { host: SystemClock::new(), slow_by: Mutex::default() };
        Self { config, clock: Arc::new(clock), controller: None, _directory: directory }
    }

    pub(crate) async fn begin(&mut self) -> Result<(), StartError> {
        let clock = Arc::clone(&self.clock) as _;
        let controller = Controller::start(&self.config, clock).await?;
        // Agents find it again where it was.
        self.config.listen = controller.address();
        self.controller = Some(controller);
        Ok(())
    }

    pub(crate) fn owner(&self) -> &dwell_controller::owner::Handle {
        self.controller.as_ref().unwrap().owner()
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.stop().await;
        }
    }

    /// The store of a controller that has stopped.
    pub(crate) fn backup(&self) -> Vec<u8> {
        std::fs::read(self.config.data_dir.join("store.sqlite")).unwrap()
    }

    /// Puts a backup in the place of the store, without the mark beside it.
    pub(crate) fn put_back(&self, backup: &[u8]) {
        std::fs::write(self.config.data_dir.join("store.sqlite"), backup).unwrap();
        std::fs::remove_file(self.config.data_dir.join("continuity")).unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.begin().await.unwrap();
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// The CA, as the controller has it on its disk.
    pub(crate) fn authority(&self) -> Authority {
        Authority::open(&self.config.data_dir.join("pki")).unwrap()
    }

    pub(crate) async fn fleet(&self) -> FleetClient<Channel> {
        FleetClient::new(unix(&self.config.socket).await.unwrap())
    }

    /// Over TCP, trusting the controller's CA, with a certificate or without.
    pub(crate) async fn tcp(
        &self,
        credentials: Option<&Credentials>,
    ) -> Result<Channel, tonic::transport::Error> {
        self.tcp_from(Ipv4Addr::LOCALHOST, credentials).await
    }

    /// The same, from another address of this host.
    pub(crate) async fn tcp_from(
        &self,
        from: Ipv4Addr,
        credentials: Option<&Credentials>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.authority().certificates_pem()))
            .domain_name(CONTROLLER_NAME);
        if let Some(credentials) = credentials {
            tls = tls
                .identity(Identity::from_pem(&credentials.certificate_pem, &credentials.key_pem));
        }
        Endpoint::from_shared(format!("https://{}", self.address()))?
            .tls_config(tls)?
            .local_address(Some(from.into()))
            .connect()
            .await
    }

    pub(crate) async fn token(&self) -> String {
        let request = v1::CreateJoinTokenRequest::default();
        self.fleet().await.create_join_token(request).await.unwrap().into_inner().token
    }

    pub(crate) async fn join(
        &self,
        token: &str,
        name: &str,
        address: &str,
    ) -> Result<Credentials, Status> {
        let key = KeyPair::generate().unwrap();
        let certificate_request = CertificateParams::default().serialize_request(&key).unwrap();
        let request = v1::JoinRequest {
            token: token.to_owned(),
            name: name.to_owned(),
            address: address.to_owned(),
            certificate_request: certificate_request.der().to_vec().into(),
            routes_only: false,
            host_mark: String::new(),
            keeps_trust: true,
        };
        let answer = EnrollmentClient::new(self.tcp(None).await.unwrap()).join(request).await?;
        let certificate_pem = answer.into_inner().certificate_pem;
        Ok(Credentials { certificate_pem, key_pem: key.serialize_pem() })
    }

    /// A node that has joined with a fresh token.
    pub(crate) async fn node(&self, name: &str, address: &str) -> Credentials {
        self.join(&self.token().await, name, address).await.unwrap()
    }

    /// A node that has joined, with its agent attached and its first snapshot taken.
    pub(crate) async fn agent(&self, name: &str, address: &str) -> Agent {
        let credentials = self.node(name, address).await;
        let mut agent = Agent::attach(self, &credentials, hello(address)).await.unwrap();
        agent.snapshot().await;
        agent
    }

    /// A client's certificate.
    pub(crate) async fn client(&self, name: &str) -> Credentials {
        let request =
            v1::IssueClientRequest { name: name.to_owned(), valid_ms: 0, role: String::new() };
        let issued = self.fleet().await.issue_client(request).await.unwrap().into_inner();
        Credentials { certificate_pem: issued.certificate_pem, key_pem: issued.private_key_pem }
    }

    /// Looks at an instance until it is as wanted.
    pub(crate) async fn until_instance(
        &self,
        name: &str,
        wanted: impl Fn(&v1::Instance) -> bool,
    ) -> v1::Instance {
        let mut fleet = self.fleet().await;
        let request = v1::ListInstancesRequest { name: name.to_owned(), ..Default::default() };
        let look = async {
            loop {
                let answer = fleet.list_instances(request.clone()).await.unwrap().into_inner();
                if let Some(found) = answer.instances.into_iter().find(|found| wanted(found)) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, look).await.unwrap()
    }
}

/// An agent played by a test.
pub(crate) struct Agent {
    pub(crate) sender: mpsc::Sender<v1::AgentMessage>,
    pub(crate) receiver: Streaming<v1::ControllerMessage>,
    pub(crate) client: SessionClient<Channel>,
}

pub(crate) fn hello(address: &str) -> v1::Hello {
    let capacity = v1::Capacity {
        cpu_millicores: 8_000,
        memory_bytes: 16 << 30,
        arch: "x86_64".to_owned(),
        engines: [("docker".to_owned(), v1::EngineInfo { ready: true, ..Default::default() })]
            .into(),
        ..Default::default()
    };
    v1::Hello {
        protocol: dwell_proto::PROTOCOL,
        address: address.to_owned(),
        capacity: Some(capacity),
        status: Some(v1::StatusReport {
            complete: true,
            volumes_known: true,
            ..Default::default()
        }),
        ..v1::Hello::default()
    }
}

impl Agent {
    pub(crate) async fn attach(
        fixture: &Fixture,
        credentials: &Credentials,
        hello: v1::Hello,
    ) -> Result<Self, Status> {
        Self::attach_from(Ipv4Addr::LOCALHOST, fixture, credentials, hello).await
    }

    pub(crate) async fn attach_from(
        from: Ipv4Addr,
        fixture: &Fixture,
        credentials: &Credentials,
        hello: v1::Hello,
    ) -> Result<Self, Status> {
        let channel = fixture.tcp_from(from, Some(credentials)).await.unwrap();
        let mut client = SessionClient::new(channel);
        let (sender, messages) = mpsc::channel(8);
        let first = v1::AgentMessage { message: Some(FromAgent::Hello(hello)) };
        sender.send(first).await.unwrap();
        let receiver = client.attach(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Self { sender, receiver, client })
    }

    pub(crate) async fn next(&mut self) -> Result<FromController, Status> {
        let message = tokio::time::timeout(SOON, self.receiver.message()).await.unwrap()?;
        message
            .and_then(|message| message.message)
            .ok_or_else(|| Status::cancelled("the stream ended"))
    }

    pub(crate) async fn assignment(&mut self) -> v1::Assignment {
        loop {
            if let FromController::Assignment(assignment) = self.next().await.unwrap() {
                return assignment;
            }
        }
    }

    /// Welcome, then a snapshot.
    pub(crate) async fn snapshot(&mut self) -> v1::Assignment {
        assert!(matches!(self.next().await.unwrap(), FromController::Welcome(_)));
        let assignment = self.assignment().await;
        assert_eq!(assignment.base_revision, 0);
        assignment
    }

    /// The next assignment that has instances in it.
    pub(crate) async fn assigned(&mut self) -> v1::Assignment {
        loop {
            let assignment = self.assignment().await;
            if !assignment.instances.is_empty() {
                return assignment;
            }
        }
    }

    pub(crate) async fn say(&self, message: FromAgent) {
        self.sender.send(v1::AgentMessage { message: Some(message) }).await.unwrap();
    }

    /// Says that an assignment is on the node's disk, and that what it takes away is gone.
    pub(crate) async fn report_gone(&self, assignment: &v1::Assignment) {
        let v1::Assignment { revision, incarnation, .. } = *assignment;
        self.say(FromAgent::Acknowledge(v1::Acknowledge { revision, incarnation })).await;
        let gone = assignment.removed.clone();
        let report = v1::StatusReport { gone, revision, incarnation, ..Default::default() };
        self.say(FromAgent::Status(report)).await;
    }

    /// Reports assigned instances as running.
    pub(crate) async fn report_running(&self, assignment: &v1::Assignment) {
        let instances = assignment.instances.iter().map(running).collect();
        let revision = assignment.revision;
        self.say(FromAgent::Status(v1::StatusReport { instances, revision, ..Default::default() }))
            .await;
    }
}

pub(crate) fn running(assigned: &v1::AssignedInstance) -> v1::InstanceStatus {
    v1::InstanceStatus {
        instance: assigned.instance.clone(),
        generation: assigned.generation,
        phase: v1::Phase::Running.into(),
        container_id: "c0ffee".to_owned(),
        observed_at_ms: 1,
        ..Default::default()
    }
}

pub(crate) fn workload(name: &str, replicas: u32) -> v1::WorkloadSpec {
    let template = v1::Template { image: "debian:12".to_owned(), ..Default::default() };
    v1::WorkloadSpec {
        name: name.to_owned(),
        replicas,
        template: Some(template),
        ..Default::default()
    }
}

pub(crate) fn apply(workloads: Vec<v1::WorkloadSpec>) -> v1::ApplyRequest {
    v1::ApplyRequest { workloads, ..v1::ApplyRequest::default() }
}

pub(crate) async fn unix(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = path.to_owned();
    Endpoint::from_static("http://controller")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
}
