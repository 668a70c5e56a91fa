//! The daemon: makes the parts, connects them, and keeps them until it is told to stop.
//!
//! ```text
//!                        ┌───────────────▶ cache::keep ──stored──┐
//!   controller ◀──▶ session ──assignment──▶ host_network, isolation ──▶ netlink, nftables
//!        ▲          │   ▲  ╲──directory────────▲    │ prepared, settled
//!        │          │   └──statuses, capacity─┐     ▼
//!        └─tunnels──┘                         reconciler ──▶ engine, sandboxes
//!                                                   │ sightings
//!                                                   ▼
//!                           assignment ───────▶ ssh files ──▶ dwell-ssh, whose events go to the session
//! ```
//!
//! Each part is a task that owns its state; they know each other by watch channels alone. A part that
//! ends is a defect: the daemon ends as well, and systemd starts it again. Neither end touches an instance.

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use dwell_core::clock::{Clock, SystemClock};
use dwell_core::host_mark::HostMark;
use dwell_core::id::Position;
use dwell_core::session::{Assignment, Boot, Statuses};
use dwell_daemon::{lane, readiness};
use dwell_planner::session::OnDisk;
use dwell_planner::{EngineState, Leases};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::assignment::HostChoices;
use crate::assignment::cache::{self, Cached};
use crate::config::{Config, HostError};
use crate::directory::{self, HeldDirectory};
use crate::dns::Dns;
use crate::fence::Fence;
use crate::host_mark;
use crate::host_network::{self, HostNetwork, Prepared};
use crate::host_report::HostReport;
use crate::identity::{Identity, IdentityError};
use crate::images::{ImageKeeper, Images, Ledger};
use crate::isolation::Isolation;
use crate::lock::{DataDirLock, LockError};
use crate::reboot::{self, Reboots};
use crate::reconciler::{self, Reconciler};
use crate::session::Session;
use crate::ssh::SshFiles;
use crate::ssh::events::{self, EventQueue};
use crate::tunnel::{self, Tunnels};
use crate::underlay;
use crate::volumes::VolumeKeeper;
use dwell_docker::credentials::Registries;
use dwell_docker::{DockerConfig, DockerEngine, Runtime};
use dwell_engine::SharedEngine;
use dwell_network::linux::keeper::Keeping;
use dwell_network::linux::{LinuxConfig, LinuxNetwork, underlay_address};
use dwell_network::{Network, NetworkError};

/// How long the first report waits for an engine that does not answer, and how long the daemon for the report: a disk may
/// hang.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(2);
const FIRST_REPORT_LIMIT: Duration = Duration::from_secs(4);
/// How long the daemon is not ready because the host's network is not.
const PREPARE_LIMIT: Duration = Duration::from_secs(30);
/// How long steps that are under way may take to be abandoned at the end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Why the daemon did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration does not fit this host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The data directory is in use or cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The host has not joined, or its identity is damaged.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The configuration names another node than the host joined as.
    #[error(
        "this host joined as node {joined}, but the configuration names it {configured}; correct `name`, or join \
         again under the other name with `dwell-agent join --force`"
    )]
    OtherName {
        /// As which it joined.
        joined: dwell_core::id::NodeName,
        /// What the configuration says.
        configured: dwell_core::id::NodeName,
    },
    /// The cache of the assignment or the journals cannot be read.
    #[error("cannot read the agent's state in its data directory")]
    State(#[source] io::Error),
    /// The host's network cannot be worked with.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Signals cannot be received.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    /// A part of the daemon has ended.
    #[error("the task {0} has ended; this is a defect of dwell-agent")]
    PartEnded(&'static str),
}

/// Runs until SIGTERM or SIGINT. Instances are left as they are.
///
/// # Errors
/// [`DaemonError`].
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let _lock = DataDirLock::take(&config.data_dir)?;
    let identity = Identity::load(&config.data_dir)?;
    if let Some(configured) = config.name.clone().filter(|name| *name != identity.node) {
        return Err(DaemonError::OtherName { joined: identity.node, configured });
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;

    let mut daemon = Daemon::start(&config, identity).await?;
    daemon.parts.spawn(watchdog());
    daemon.wait_until_prepared().await;
    readiness::ready();
    tracing::info!("ready");
    // Cancel-safe: nothing is waited for again.
    let ended = tokio::select! {
        ended = daemon.parts.join_next() => Err(DaemonError::PartEnded(part_name(ended.as_ref()))),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    readiness::stopping();
    tracing::info!("stopping; instances run on");
    if let Some(reconciler) = daemon.reconciler.take() {
        timeout(STOP_LIMIT, reconciler.stop()).await.ok();
    }
    timeout(STOP_LIMIT, daemon.parts.shutdown()).await.ok();
    // What they have had written is on the disk before somebody else can take the lock.
    if !lane::finish(STOP_LIMIT).await {
        tracing::warn!("the disk does not answer; what was to be written last may not be on it");
    }
    ended
}

/// The parts of a running daemon. Dropping it ends them all.
struct Daemon {
    parts: JoinSet<&'static str>,
    reconciler: Option<Reconciler>,
    /// Whether there was an assignment to prepare the host for.
    had_assignment: bool,
    prepared: watch::Receiver<Prepared>,
}

impl Daemon {
    async fn start(config: &Config, identity: Identity) -> Result<Self, DaemonError> {
        let host_mark = host_mark::of(config, &identity.node);
        let found = cached(config, host_mark.as_ref())?;
        let assignment = watch::Sender::new(found.map(Arc::new));
        let had_assignment = assignment.borrow().is_some();
        let network = LinuxConfig::new(config.run_dir.clone());
        // The daemon has not the rights for more.
        let network = LinuxConfig { keeping: Keeping::Served, ..network };
        let network: Arc<dyn Network> = Arc::new(LinuxNetwork::new(&network)?);
        let names = config.dns.enabled.then(|| assignment.subscribe());
        let registries =
            Registries { own: config.logins(), assignment: Some(assignment.subscribe()) };
        let engine = (!config.routes_only)
            .then(|| Arc::new(docker(config, &identity, registries, names)) as SharedEngine);
        let beside =
            (config.routes_only && host_network::is_listened_at(&config.docker.socket).await).then(
                || Arc::new(docker(config, &identity, Registries::default(), None)) as SharedEngine,
            );
        let prepared = watch::Sender::new(Prepared::NotYet);
        let is_prepared = prepared.subscribe();
        let mut parts = JoinSet::new();

        let recheck = Arc::new(watch::Sender::new(0));
        let desired = watch::Sender::new(None);
        let clock = Arc::new(SystemClock::new());
        let leases = watch::Sender::new(Leases::begin(clock.now()));
        let (settled, fenced_ones) =
            (watch::Sender::new(Arc::default()), watch::Sender::new(Arc::default()));
        let ledger =
            engine.as_ref().map(|engine| Ledger::load(Arc::clone(engine), &config.data_dir));
        let reconciler = engine.clone().map(|engine| {
            let journals = config.data_dir.join("journals");
            let settled = vec![settled.subscribe(), fenced_ones.subscribe()];
            let (leases, prepared) = (Some(leases.subscribe()), Some(is_prepared.clone()));
            let recheck = recheck.subscribe();
            let ledger = ledger.clone();
            let defaults = reconciler::Config::new(journals);
            let config =
                reconciler::Config { settled, leases, prepared, recheck, ledger, ..defaults };
            let clock = Arc::clone(&clock) as Arc<dyn Clock>;
            let desired = desired.subscribe();
            Reconciler::spawn(config, engine, Arc::clone(&network), clock, desired)
        });
        let reconciler = reconciler.transpose().map_err(DaemonError::State)?;
        let (statuses, engine_state) = match &reconciler {
            Some(reconciler) => (reconciler.statuses(), reconciler.engine()),
            None => nothing_runs(),
        };

        let sightings = reconciler.as_ref().map(Reconciler::sightings);

        let stored = watch::Sender::new(OnDisk::found(assignment.borrow().clone()));
        let mut report = HostReport::new(engine.clone(), config.data_dir.clone(), config.allowed());
        let first = timeout(FIRST_REPORT_LIMIT, report.read(FIRST_ANSWER_LIMIT));
        let capacity = first.await.unwrap_or_default();
        let capacity = watch::Sender::new(Arc::new(capacity));
        let volumes = watch::Sender::new(None);
        let keeper = engine.clone().map(|engine| VolumeKeeper {
            engine,
            assignment: assignment.subscribe(),
            stored: stored.subscribe(),
            statuses: statuses.clone(),
            published: volumes.clone(),
        });
        if let Some(keeper) = keeper {
            parts.spawn(named("volumes", keeper.run()));
        }
        let images = engine.clone().zip(ledger).map(|(engine, ledger)| {
            let (policy, seen) = (config.images, statuses.clone());
            Images::new(engine, ledger, policy, assignment.subscribe(), seen)
        });
        if let Some(images) = images.clone() {
            let keeper = ImageKeeper::new(images, Arc::new(SystemClock::new()));
            parts.spawn(named("images", keeper.run()));
        }
        let node = tunnel::Node {
            engine,
            images,
            statuses: statuses.clone(),
            assignment: assignment.subscribe(),
            network: Arc::clone(&network),
            recheck: Arc::clone(&recheck),
            config: Arc::new(config.clone()),
        };
        let address = watch::Sender::new(config.underlay_address().await?);
        let fenced = watch::Sender::new(Position::default());
        let (reboot_orders, reboot_failed) = (watch::Sender::new(None), watch::Sender::new(None));
        let boot_id = reboot::boot_id();
        let reboots = Reboots {
            data_dir: config.data_dir.clone(),
            command: config.reboot_command.clone(),
            boot_id: boot_id.clone(),
            orders: reboot_orders.subscribe(),
            failed: reboot_failed.clone(),
        };
        parts.spawn(named("reboot", reboots.keep()));
        let session = Session {
            data_dir: config.data_dir.clone(),
            controller: config.controller.clone().unwrap_or_else(|| identity.controller.clone()),
            address: address.subscribe(),
            host_mark,
            identity,
            stored: stored.subscribe(),
            fenced: fenced.subscribe(),
            leases,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            statuses,
            volumes: volumes.subscribe(),
            capacity: capacity.subscribe(),
            tunnels: Tunnels::new(node),
            assignment,
            boot: Boot { id: boot_id.clone(), may_reboot: !config.reboot_command.is_empty() },
            reboot_orders,
            reboot_failed: reboot_failed.subscribe(),
            directory: HeldDirectory::new(directory::load(&config.data_dir)),
            ssh_events: EventQueue::default(),
        };
        if config.address.is_none() {
            let keeper = underlay::keep(underlay_address, network.disturbances(), address.clone());
            parts.spawn(named("underlay", keeper));
        }
        let assignment = || session.assignment.subscribe();
        let directories = || session.directory.subscribe();

        let keeper = cache::keep(config.data_dir.clone(), assignment(), stored);
        let isolation = Isolation {
            network: Arc::clone(&network),
            assignment: assignment(),
            directory: directories(),
            settled,
        };
        let fence = Fence {
            network: Arc::clone(&network),
            assignment: assignment(),
            leases: session.leases.subscribe(),
            clock,
            settled: fenced_ones,
            fenced,
        };
        let address = address.subscribe();
        let mut forwarding = engine_state.clone();
        let is_beside = beside.is_some();
        if let Some(beside) = beside {
            let (socket, answered) =
                (config.docker.socket.clone(), watch::Sender::new(EngineState::Unknown));
            forwarding = answered.subscribe();
            parts.spawn(named("docker", host_network::await_docker(socket, beside, answered)));
        }
        let host_network = HostNetwork {
            network,
            choices: HostChoices {
                masquerade: config.masquerade,
                host_access: config.host_access.iter().map(|port| port.0).collect(),
                answers_names: config.dns.enabled,
                untracked: config.untracked,
                connections_max: NonZeroU32::new(config.connections_max),
                overlay: config.overlay_choice(),
            },
            address,
            assignment: assignment(),
            awaits_engine: !config.routes_only || is_beside,
            engine: forwarding,
            recheck: recheck.subscribe(),
            prepared,
        };
        let release = host_network::release(assignment(), is_prepared.clone(), desired);
        parts.spawn(named("host_network", host_network.keep()));
        parts.spawn(named("release", release));
        parts.spawn(named("isolation", isolation.keep()));
        parts.spawn(named("fence", fence.keep()));
        parts.spawn(named("cache", keeper));
        parts.spawn(named("directory", directory::keep(config.data_dir.clone(), directories())));
        if config.dns.enabled {
            let dns = Dns {
                serves_instances: !config.routes_only,
                listen: config.dns.listen.clone(),
                upstream: config.dns.upstream.clone(),
                assignment: assignment(),
                directories: session.directory.subscribe(),
            };
            parts.spawn(named("dns", dns.keep()));
        }
        // A node that runs no instances has nobody to log in to.
        if let Some(sightings) = sightings {
            let run_dir = config.run_dir.clone();
            let ssh = SshFiles { run_dir: run_dir.clone(), assignment: assignment(), sightings };
            parts.spawn(named("ssh", ssh.keep()));
            let events = events::listen(run_dir, session.ssh_events.clone());
            parts.spawn(named("ssh_events", events));
        }
        parts.spawn(named("host_report", report.keep(engine_state, capacity)));
        parts.spawn(named("session", session.run()));
        Ok(Self { parts, reconciler, had_assignment, prepared: is_prepared })
    }

    /// A node that never had an assignment has nothing to prepare for yet and is ready as it is.
    async fn wait_until_prepared(&mut self) {
        if self.had_assignment {
            timeout(PREPARE_LIMIT, self.prepared.wait_for(|prepared| *prepared > Prepared::NotYet))
                .await
                .ok();
        }
    }
}

/// The last assignment, if it can be trusted.
fn cached(config: &Config, own: Option<&HostMark>) -> Result<Option<Assignment>, DaemonError> {
    if host_mark::is_of_another(&config.data_dir, own) {
        tracing::warn!(
            data_dir = %config.data_dir.display(),
            "this data directory is another machine's; waiting for the controller and touching nothing. If this \
             machine is the node now, switch the other one off and run `dwell node admit`"
        );
        return Ok(None);
    }
    Ok(match cache::load(&config.data_dir).map_err(DaemonError::State)? {
        Cached::Assignment(assignment) => {
            tracing::info!(
                revision = %assignment.revision, instances = assignment.instances.len(),
                "going on with the last assignment"
            );
            Some(assignment)
        }
        Cached::Nothing => {
            tracing::info!("no assignment yet; waiting for the controller and touching nothing");
            None
        }
        Cached::Damaged { problem, aside } => {
            tracing::warn!(
                problem, aside = %aside.display(),
                "the stored assignment is damaged; waiting for the controller and touching nothing"
            );
            None
        }
    })
}

/// The Docker daemon as the configuration and the identity have it. `registries` for pulls; `names` for containers to ask this
/// node's DNS server.
pub(crate) fn docker(
    config: &Config,
    identity: &Identity,
    registries: Registries,
    names: Option<watch::Receiver<Option<Arc<Assignment>>>>,
) -> DockerEngine {
    DockerEngine::new(DockerConfig {
        socket: config.docker.socket.clone(),
        cluster: identity.cluster_id.clone(),
        data_dir: config.data_dir.clone(),
        run_dir: config.run_dir.clone(),
        allowed: config.allowed(),
        runtime: Runtime::Dwell,
        registries,
        names,
    })
}

type Seen = (watch::Receiver<Option<Arc<Statuses>>>, watch::Receiver<EngineState>);

/// What a routes-only node sees of its instances and engine, for ever: there are none.
fn nothing_runs() -> Seen {
    let statuses =
        watch::Sender::new(Some(Arc::new(Statuses { complete: true, ..Statuses::default() })));
    (statuses.subscribe(), watch::Sender::new(EngineState::Unknown).subscribe())
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

fn part_name(ended: Option<&Result<&'static str, tokio::task::JoinError>>) -> &'static str {
    match ended {
        Some(Ok(name)) => name,
        // Which one it was stands in the panic's own message.
        _ => "that panicked",
    }
}

/// Tells systemd at half the time it gives that tasks are still being run.
async fn watchdog() -> &'static str {
    let Some(limit) = readiness::watchdog_limit() else {
        return std::future::pending().await;
    };
    loop {
        readiness::alive();
        tokio::time::sleep(limit / 2).await;
    }
}
