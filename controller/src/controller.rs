//! A controller, put together: directory, store, model and its owner, CA, listeners, services.
//!
//! ```text
//!   TCP, mutual TLS ──┐                                 ┌─ Fleet ──────┐
//!                     ├─▶ servers ─▶ access ─▶ intake ─▶├─ Session ────┼─▶ owner ─▶ model, store
//!   unix socket ──────┘                                 └─ Enrollment ─┘
//! ```
//!
//! Starting either gives a controller that answers, or an error that says what to do; nothing is listened
//! on before the store and the CA are in order. Stopping ends the streams, then the listeners, then the
//! owner, after what was queued.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::Clock;
use dwell_core::id::{Incarnation, InstanceName, NodeName};
use dwell_core::net::{ClusterRange, Ranges};
use dwell_proto::v1::enrollment_server::EnrollmentServer;
use dwell_proto::v1::fleet_server::FleetServer;
use dwell_proto::v1::session_server::SessionServer;
use dwell_proto::{DESCRIPTORS, MESSAGE_MAX_BYTES};
use ipnet::Ipv4Net;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::access::AccessLayer;
use crate::api::Api;
use crate::config::{Config, Isolation, split_address};
use crate::continuity::Continuous;
use crate::data_dir::DataDir;
use crate::enrollment::Enroll;
use crate::fetcher;
use crate::intake::{IntakeLayer, JOIN_MAX_BYTES};
use crate::listen::{ListenError, TlsListener, UnixListener};
use crate::model::{Command, Model, Record, Settings};
use crate::mover;
use crate::owner::{CommandError, Handle, Owner};
use crate::pki::{Authority, PkiError, SshAuthority, Tls};
use crate::refusals::Refusals;
use crate::serve::Servers;
use crate::session::{Admission, Sessions, WholeDirectory};
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};
use crate::tunnel::Tunnels;

/// How long streams may take to end when the controller stops.
const STOP_TIME: Duration = Duration::from_secs(5);

/// Why a controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory or the store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The CA cannot be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Nothing can be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The range of addresses was changed.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The system gives no thread.
    #[error("cannot start a thread ({0}); raise the limits of this process or of its user")]
    Thread(std::io::Error),
    /// The start could not be written down.
    #[error("cannot write to the store: {0}")]
    Begin(Box<CommandError>),
    /// Reflection could not be set up.
    #[error("the API's description is damaged ({0}); the program was not built correctly")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The configured ranges do not go with what there is.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// A block that was given out is none any more.
    #[error(
        "node {node} has the block {block}, which is none of cluster {ranges} with /{prefix} blocks; set `cluster` to what it was. \
         `dwell node block retire`, or the removal of the node, frees the block"
    )]
    Block {
        /// A node of the store.
        node: NodeName,
        /// Its block.
        block: Ipv4Net,
        /// The configured ranges.
        ranges: Ranges,
        /// The configured length of blocks.
        prefix: u8,
    },
    /// An instance has an address of none of them.
    #[error(
        "instance {instance} has the address {address}, which is of no range of cluster {ranges}; set `cluster` to what it was. \
         `dwell replace {instance} --new-address`, or another `network.ip`, frees the address"
    )]
    Address {
        /// An instance of the store.
        instance: InstanceName,
        /// Its address.
        address: Ipv4Addr,
        /// The configured ranges.
        ranges: Ranges,
    },
    /// Instances could be given the address of a host.
    #[error(
        "node {node} is at {address}, which is of range {range} of `cluster`; use another range"
    )]
    Host {
        /// A node of the store.
        node: NodeName,
        /// By which the others know it.
        address: Ipv4Addr,
        /// The configured range that it is in.
        range: Ipv4Net,
    },
}

/// A running controller.
pub struct Controller {
    address: SocketAddr,
    owner: Handle,
    streams: CancellationToken,
    listeners: CancellationToken,
    owning: CancellationToken,
    server: JoinHandle<()>,
    /// Told when the owner has ended.
    owner_ended: oneshot::Receiver<()>,
    /// Held until the end: the lock is in it.
    _data_dir: DataDir,
}

impl Controller {
    /// Starts with the store of the configured directory.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        let store = SqliteStore::open(&data_dir.store())?;
        Self::start_with(config, clock, data_dir, store).await
    }

    /// Starts with another store; the directory is still the CA's.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_with<S: Store>(
        config: &Config,
        clock: Arc<dyn Clock>,
        data_dir: DataDir,
        mut store: S,
    ) -> Result<Self, StartError> {
        let records = store.load().await?;
        tracing::info!(records = records.len(), "the store is read");
        let (store, evidence) = Continuous::open(&data_dir.continuity(), store, &records)?;
        check_range(&config.cluster, &records)?;
        let model = Model::restore(settings(config), records, clock.both());
        let authority = Arc::new(Authority::open(&data_dir.pki())?);
        let ssh = Arc::new(SshAuthority::open(&data_dir.pki(), &authority, &config.zone)?);

        let tcp = TlsListener::bind(config.listen).await?;
        let unix = UnixListener::bind(&config.socket)?;
        let address = tcp.address();
        let advertised = config.advertised(address);
        let hosts: Vec<&str> =
            advertised.iter().filter_map(|address| Some(split_address(address)?.0)).collect();
        let tls = Tls::new(Arc::clone(&authority), &hosts)?;

        let (owner, handle) = Owner::new(model, store, Arc::clone(&clock));
        let streams = CancellationToken::new();
        let (listeners, owning) = (CancellationToken::new(), CancellationToken::new());
        let tunnels = Tunnels::default();
        let valid = config.nodes.certificate.as_duration();
        let sessions = Sessions {
            owner: handle.clone(),
            tunnels: tunnels.clone(),
            authority: Arc::clone(&authority),
            ssh: Arc::clone(&ssh),
            directory: WholeDirectory::default(),
            admission: Admission::default(),
            heartbeat: config.nodes.heartbeat,
            valid,
            next: Arc::default(),
            stop: streams.clone(),
        };
        let refusals = Refusals::default();
        let enroll = Enroll::new(handle.clone(), Arc::clone(&authority), valid, refusals.clone());
        let api = Api {
            owner: handle.clone(),
            tunnels: tunnels.clone(),
            authority: Arc::clone(&authority),
            ssh,
            clock,
            advertised: advertised.first().cloned().unwrap_or_default(),
            stop: streams.clone(),
        };
        let routes = routes(api, sessions, enroll).await?;

        let owner_ended = owner.start(owning.clone()).map_err(StartError::Thread)?;
        begin(&handle, evidence).await?;
        tokio::spawn(fetcher::run(handle.clone(), tunnels.clone(), owning.clone()));
        tokio::spawn(mover::run(handle.clone(), tunnels, owning.clone()));
        let (servers, entrances) = Servers::new(config.nodes.heartbeat);
        tokio::spawn(unix.run(entrances.clone(), listeners.clone()));
        tokio::spawn(tcp.run(
            tls,
            (authority, handle.contexts().clone()),
            entrances,
            refusals.clone(),
            listeners.clone(),
        ));
        tokio::spawn(refusals.clone().tell(listeners.clone()));
        let access = AccessLayer::new(handle.clone());
        let intake = IntakeLayer::new(handle.clone(), refusals);
        let server = tokio::spawn(servers.run(routes, access, intake, listeners.clone()));
        tracing::info!(%address, socket = %config.socket.display(), ?advertised, "the controller is ready");
        Ok(Self {
            address,
            owner: handle,
            streams,
            listeners,
            owning,
            server,
            owner_ended,
            _data_dir: data_dir,
        })
    }

    /// Where TCP is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The way to the model, for those who run a controller within their own process.
    #[must_use]
    pub fn owner(&self) -> &Handle {
        &self.owner
    }

    /// Returns if the owner of the model or the server ends although nobody asked it to: then nothing can
    /// be served, and the program has to be started again.
    pub async fn broken(&mut self) {
        // Cancel-safe: waiting for a task takes nothing from it.
        tokio::select! {
            _ = &mut self.owner_ended => tracing::error!("the owner of the model has ended"),
            _ = &mut self.server => tracing::error!("the server has ended"),
        }
    }

    /// Ends everything in order. What was answered is stored, whether this is called or not.
    pub async fn stop(self) {
        self.streams.cancel();
        self.listeners.cancel();
        if tokio::time::timeout(STOP_TIME, self.server).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        self.owning.cancel();
        if self.owner_ended.await.is_err() {
            tracing::error!("the owner of the model did not end well");
        }
    }
}

/// Counts this start, before anybody is listened to.
async fn begin(owner: &Handle, evidence: Option<&str>) -> Result<(), StartError> {
    if let Some(reason) = evidence {
        tracing::warn!(
            reason,
            "the controller was restored from a backup; run `dwell restore status`, then `dwell restore confirm`"
        );
    }
    // 0 is the name of no history.
    let fresh = Incarnation(rand::random::<u64>().max(1));
    let evidence = evidence.map(str::to_owned);
    let begun = owner.command(Command::Begin { fresh, evidence }).await;
    begun.map(drop).map_err(|error| StartError::Begin(Box::new(error)))
}

/// What was given out has to be of the configured ranges, and hosts have to be elsewhere.
pub(crate) fn check_range(range: &ClusterRange, records: &[Record]) -> Result<(), RangeError> {
    let (ranges, prefix) = (range.ranges(), range.node_prefix());
    for record in records {
        match record {
            Record::Node(node) => {
                let strange = |block: &Ipv4Net| range.block_of(block.addr()) != Some(*block);
                if let Some(block) = node.blocks().find(strange) {
                    let (node, ranges) = (node.name.clone(), ranges.clone());
                    return Err(RangeError::Block { node, block, ranges, prefix });
                }
                if let Some(range) = ranges.range_of(node.address).filter(|_| !node.removed) {
                    let (node, address) = (node.name.clone(), node.address);
                    return Err(RangeError::Host { node, address, range });
                }
            }
            Record::Instance(instance) => {
                let address = instance.identity.map(|identity| identity.address);
                if let Some(address) = address.filter(|address| !ranges.contains(*address)) {
                    let (instance, ranges) = (instance.name.clone(), ranges.clone());
                    return Err(RangeError::Address { instance, address, ranges });
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn settings(config: &Config) -> Settings {
    Settings {
        zone: config.zone.clone(),
        closed: config.isolation == Isolation::Closed,
        ipv6: config.ipv6_prefix,
        unreachable_after: config.nodes.unreachable_after,
        down_after: config.nodes.down_after,
        quarantine: config.quarantine,
        static_range: config.static_range,
        instances_max: config.instances_max,
        ..Settings::new(config.cluster.clone())
    }
}

async fn routes(api: Api, sessions: Sessions, enroll: Enroll) -> Result<Routes, StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<FleetServer<Api>>().await;
    health.set_serving::<SessionServer<Sessions>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let fleet = FleetServer::new(api)
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let session = SessionServer::new(sessions)
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let enrollment = EnrollmentServer::new(enroll).max_decoding_message_size(JOIN_MAX_BYTES);
    let mut routes = Routes::builder();
    routes.add_service(fleet).add_service(session).add_service(enrollment);
    routes.add_service(health_service).add_service(reflection);
    Ok(routes.routes())
}
