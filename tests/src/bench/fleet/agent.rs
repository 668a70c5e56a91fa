//! An agent that only speaks: it holds what it is told, and says that all of it runs.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use dwell_proto::{
    CONNECTION_WINDOW_BYTES, MESSAGE_MAX_BYTES, PROTOCOL, PROTOCOL_NEWEST, STREAM_WINDOW_BYTES,
    trust::CONTROLLER_NAME,
    v1::{
        self, agent_message::Message as Up, controller_message::Message as Down,
        enrollment_client::EnrollmentClient, fleet_client::FleetClient,
        session_client::SessionClient,
    },
};
use rcgen::{CertificateParams, KeyPair};
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{INSTANCES, REPLICAS};

/// How often pings are sent, as agents do; five that are missed end a connection.
const PING: Duration = Duration::from_secs(2);
/// How long an agent waits before it attaches again, and a host before it tries again to join.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a host tries to join.
const TRIES: usize = 20;

/// Where the controller is, and how it is recognised.
pub(super) struct Door {
    pub(super) endpoint: String,
    pub(super) ca_pem: String,
}

impl Door {
    /// A connection from an address of the host's own, since the controller counts what comes from one address.
    async fn connect(&self, from: Ipv4Addr, identity: Option<Identity>) -> Result<Channel> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca_pem))
            .domain_name(CONTROLLER_NAME);
        let tls = match identity {
            Some(identity) => tls.identity(identity),
            None => tls,
        };
        let endpoint = Endpoint::from_shared(self.endpoint.clone())?
            .tls_config(tls)?
            .local_address(Some(from.into()))
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING * 5)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        Ok(endpoint.connect().await?)
    }
}

/// A host that has joined.
pub(super) struct Host {
    number: u32,
    certificate_pem: String,
    key_pem: String,
}

/// Makes a host a node.
pub(super) async fn join(door: &Door, mut api: FleetClient<Channel>, number: u32) -> Result<Host> {
    let key = KeyPair::generate()?;
    let certificate_request = CertificateParams::default().serialize_request(&key)?;
    let token = v1::CreateJoinTokenRequest::default();
    let request = v1::JoinRequest {
        token: api.create_join_token(token).await?.into_inner().token,
        name: format!("n{number}"),
        address: address(number).to_string(),
        certificate_request: certificate_request.der().to_vec().into(),
        ..v1::JoinRequest::default()
    };
    for _ in 0..TRIES {
        let channel = door.connect(from(number), None).await?;
        match EnrollmentClient::new(channel).join(request.clone()).await {
            Ok(joined) => {
                let certificate_pem = joined.into_inner().certificate_pem;
                return Ok(Host { number, certificate_pem, key_pem: key.serialize_pem() });
            }
            Err(status) if status.code() == Code::ResourceExhausted => sleep(AGAIN).await,
            Err(status) => return Err(status).context("a host cannot join"),
        }
    }
    bail!("host {number} was put off {TRIES} times when it joined")
}

/// One of the workloads: its instances run, and hold at once.
pub(super) fn workload(number: u32) -> v1::WorkloadSpec {
    let template = v1::Template { image: "hello:1".to_owned(), ..v1::Template::default() };
    v1::WorkloadSpec {
        name: format!("w{number}"),
        replicas: REPLICAS,
        template: Some(template),
        ..v1::WorkloadSpec::default()
    }
}

/// How many different instances agents hold.
pub(super) fn distinct(agents: &[FakeAgent]) -> usize {
    let mut all = HashSet::new();
    for agent in agents {
        all.extend(agent.seen().assigned.keys().cloned());
    }
    all.len()
}

/// The node's address in the underlay.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 1)) + number)
}

/// Where its connections come from.
fn from(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number)
}

/// An agent that attaches again and again; it ends when this is dropped.
pub(super) struct FakeAgent {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// What an agent has been told.
#[derive(Default)]
struct Seen {
    /// It has had a snapshot on its present stream.
    attached: bool,
    /// By instance.
    assigned: HashMap<String, v1::AssignedInstance>,
    /// Of each instance whether it is in the directory as ready.
    directory: Vec<bool>,
    broken: usize,
    trouble: Option<String>,
}

impl FakeAgent {
    pub(super) fn spawn(door: Arc<Door>, host: Host) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let held = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let ended = session(&door, &host, &held).await;
                lock(&held).broke(ended);
                sleep(AGAIN).await;
            }
        });
        Self { seen, task }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    pub(super) fn is_attached(&self) -> bool {
        self.seen().attached
    }

    /// How many instances it is to run.
    pub(super) fn assigned(&self) -> usize {
        self.seen().assigned.len()
    }

    /// How many instances are in its directory as ready.
    pub(super) fn ready(&self) -> usize {
        self.seen().directory.iter().filter(|ready| **ready).count()
    }

    /// How many of its streams have ended, or did not begin.
    pub(super) fn broken(&self) -> usize {
        self.seen().broken
    }

    /// Why the last of them did.
    pub(super) fn trouble(&self) -> Option<String> {
        self.seen().trouble.clone()
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One stream from its Hello to its end.
async fn session(door: &Door, host: &Host, seen: &Mutex<Seen>) -> Result<()> {
    let identity = Identity::from_pem(&host.certificate_pem, &host.key_pem);
    let channel = door.connect(from(host.number), Some(identity)).await?;
    let mut client = SessionClient::new(channel).max_decoding_message_size(MESSAGE_MAX_BYTES);
    let (up, messages) = mpsc::channel(8);
    let hello = hello(host, &lock(seen));
    say(&up, Up::Hello(hello)).await?;
    let mut down = client.attach(ReceiverStream::new(messages)).await?.into_inner();
    let mut heartbeat = tokio::time::interval(PING);
    loop {
        // Cancel-safe: a message is taken whole or not at all.
        let message = tokio::select! {
            message = down.message() => match message? {
                Some(v1::ControllerMessage { message: Some(message) }) => message,
                Some(_) => continue,
                None => return Ok(()),
            },
            _ = heartbeat.tick() => {
                say(&up, Up::Heartbeat(v1::Heartbeat::default())).await?;
                continue;
            }
        };
        match message {
            Down::Welcome(welcome) => {
                heartbeat =
                    tokio::time::interval(Duration::from_millis(welcome.heartbeat_ms.max(1)));
            }
            Down::Assignment(assignment) => {
                let v1::Assignment { revision, incarnation, .. } = assignment;
                let report = lock(seen).take(assignment);
                say(&up, Up::Acknowledge(v1::Acknowledge { revision, incarnation })).await?;
                if !report.instances.is_empty() || !report.gone.is_empty() {
                    say(&up, Up::Status(report)).await?;
                }
            }
            Down::Directory(change) => lock(seen).learn(&change)?,
            Down::AssignmentPiece(_) => bail!("ten instances do not fit into one message"),
            Down::OpenTunnel(_) | Down::Trust(_) | Down::Lent(_) | Down::Reboot(_) => {}
        }
    }
}

async fn say(up: &mpsc::Sender<v1::AgentMessage>, message: Up) -> Result<()> {
    up.send(v1::AgentMessage { message: Some(message) }).await.context("the stream has ended")
}

/// What there is, as a real agent has it after its start.
fn hello(host: &Host, seen: &Seen) -> v1::Hello {
    let engine = v1::EngineInfo { ready: true, ..v1::EngineInfo::default() };
    let capacity = v1::Capacity {
        cpu_millicores: 64_000,
        memory_bytes: 256 << 30,
        arch: "x86_64".to_owned(),
        engines: [("docker".to_owned(), engine)].into(),
        ..v1::Capacity::default()
    };
    let status = v1::StatusReport {
        complete: true,
        instances: seen.assigned.values().map(running).collect(),
        ..v1::StatusReport::default()
    };
    v1::Hello {
        protocol: PROTOCOL,
        protocol_newest: PROTOCOL_NEWEST,
        takes_pieces: true,
        address: address(host.number).to_string(),
        capacity: Some(capacity),
        status: Some(status),
        ..v1::Hello::default()
    }
}

fn running(assigned: &v1::AssignedInstance) -> v1::InstanceStatus {
    v1::InstanceStatus {
        instance: assigned.instance.clone(),
        generation: assigned.generation,
        phase: v1::Phase::Running.into(),
        container_id: "c0ffee".to_owned(),
        observed_at_ms: 1,
        ..v1::InstanceStatus::default()
    }
}

impl Seen {
    /// A stream has ended, or did not begin.
    fn broke(&mut self, ended: Result<()>) {
        self.broken += 1;
        self.attached = false;
        self.trouble = Some(match ended {
            Ok(()) => "the controller ended a stream".to_owned(),
            Err(error) => format!("{error:#}"),
        });
    }

    /// Takes what it is to run; what is to be said of that.
    fn take(&mut self, assignment: v1::Assignment) -> v1::StatusReport {
        self.attached = true;
        if assignment.base_revision == 0 {
            self.assigned.clear();
        }
        for name in &assignment.removed {
            self.assigned.remove(name);
        }
        let instances = assignment.instances.iter().map(running).collect();
        for one in assignment.instances {
            self.assigned.insert(one.instance.clone(), one);
        }
        v1::StatusReport {
            instances,
            gone: assignment.removed,
            revision: assignment.revision,
            incarnation: assignment.incarnation,
            ..v1::StatusReport::default()
        }
    }

    /// Takes what is where.
    fn learn(&mut self, change: &v1::DirectoryChange) -> Result<()> {
        if change.base_revision == 0 {
            self.directory = vec![false; INSTANCES];
        }
        let gone = change.removed_instances.iter().map(|name| (name, false));
        let there = change.instances.iter().map(|one| (&one.instance, one.ready));
        for (name, ready) in gone.chain(there) {
            let place = index(name).and_then(|index| self.directory.get_mut(index));
            *place.with_context(|| format!("the directory has {name}, which nobody declared"))? =
                ready;
        }
        Ok(())
    }
}

/// The number of `wN-M` among all instances.
fn index(instance: &str) -> Option<usize> {
    let (workload, ordinal) = instance.strip_prefix('w')?.rsplit_once('-')?;
    let (workload, ordinal): (u32, u32) = (workload.parse().ok()?, ordinal.parse().ok()?);
    usize::try_from(workload * REPLICAS + ordinal).ok()
}
