//! The real network: netlink, nftables, and `iptables` where Docker needs it.
//!
//! One thread owns everything in [`owner`] and carries out one call after the other with blocking sockets;
//! that is several times faster than netlink on a multi-threaded runtime, and no lock is needed. It acts
//! on the network namespace in which [`LinuxNetwork::new`] was called. Deleting veths, which is slow, is left to
//! a second thread, the [`reaper`]; a third, the [`watcher`], listens for changes. A fourth runs [`iptables`],
//! which waits for a lock that any program of the host may hold: sandboxes and routes do not wait with it. What takes more
//! rights than to configure the network is done by the [`keeper`], which is a program of its own.
//!
//! ```text
//!  LinuxNetwork ──(bounded queue of calls)──▶ owner ──▶ sandbox   one instance's namespace and veth
//!       │                                       │─────▶ routes    plan (pure), then batches
//!       │                                       │─────▶ host      sysctls, nftables
//!       │                                       └─wake▶ reaper    deletes doomed veths
//!       └───────(bounded queue of calls)──▶ iptables
//!  LinuxNetwork ◀──(counts of disturbances)── watcher ◀── kernel
//! ```

mod disturb;
mod echo;
mod family;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gateway;
mod inhabitant;
mod iptables;
mod ipv6;
mod isolation;
pub mod keeper;
mod listener;
mod look;
mod names;
mod namespace;
mod netlink;
mod nexthop;
mod nftables;
mod observe;
mod overlay;
mod owner;
mod pair;
mod plan;
mod program;
mod reaper;
mod request;
mod routes;
mod rule;
mod sandbox;
mod sysctl;
mod underlay;
mod uplink;
mod veth;
mod watcher;
mod way;

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use dwell_core::sandbox::{SandboxId, Slot};
use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::underlay::underlay_address;

use self::family::Family;
use self::iptables::Iptables;
use self::keeper::Keeping;
use self::netlink::{Netlink, Outcome, Request};
use self::owner::{Owner, first_error};
use self::watcher::Watcher;
use crate::{
    Disturbances, HostNetwork, Look, Network, NetworkError, Policy, Probe, ROUTE_PROTOCOL, Reach,
    RouteReport, RouteTable, Sandbox,
};

/// Of the host's route to one of its own instances. The lowest, so that an instance that is here is reached
/// here, whatever a table that is about to change says.
const METRIC_INSTANCE: u32 = 57;
/// Of a route to another node.
const METRIC_PEER: u32 = 157;
/// Of the unreachable route of the node's own block. The highest, so that any real route wins.
const METRIC_BLOCK: u32 = 4_157;

/// The table of what leads instances to other nodes' own addresses, where that is through the overlay.
const OVERLAY_TABLE: u8 = ROUTE_PROTOCOL;

/// The index of `lo`, in every namespace.
const LOOPBACK: u32 = 1;

/// Calls that may wait for the thread; a caller beyond that waits to be let in.
const CALLS_WAITING: usize = 64;

/// Where the network keeps its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxConfig {
    /// The namespaces are in `netns/` below it. It must not survive a reboot, as `/run` does not.
    pub run_dir: PathBuf,
    /// How much of what the kernel reports can wait to be read, in bytes. What does not fit is noticed as lost,
    /// and everything is looked at again.
    pub notification_bytes: usize,
    /// How long one run of `nft` or `iptables` may take before it is killed. `iptables` waits for a lock that
    /// others may hold.
    pub program_limit: Duration,
    /// Who makes and enters network namespaces.
    pub keeping: Keeping,
}

impl LinuxConfig {
    /// With its files in `run_dir`, and all rights.
    #[must_use]
    pub fn new(run_dir: PathBuf) -> Self {
        let (notification_bytes, program_limit) = (4 * 1024 * 1024, Duration::from_secs(10));
        Self { run_dir, notification_bytes, program_limit, keeping: Keeping::Here }
    }
}

impl Default for LinuxConfig {
    fn default() -> Self {
        Self::new(PathBuf::from("/run/dwell"))
    }
}

/// The network of the host, or of the network namespace, in which it was made.
///
/// A call whose future is dropped is carried out all the same.
#[derive(Clone, Debug)]
pub struct LinuxNetwork {
    owner: Worker<Owner>,
    iptables: Worker<Iptables>,
    disturbances: watch::Receiver<Disturbances>,
}

impl LinuxNetwork {
    /// Starts the thread that owns the network of the calling thread's network namespace.
    ///
    /// # Errors
    /// Without the right to configure the network, or without a place for its files.
    pub fn new(config: &LinuxConfig) -> Result<Self, NetworkError> {
        let (counts, disturbances) = watch::channel(Disturbances::default());
        let owner = Owner::open(config, counts.clone())?;
        let bytes = config.notification_bytes;
        let watcher = owner
            .ports()
            .and_then(|own| Watcher::start(own, &owner.namespaces.directory, bytes, counts))
            .map_err(refused(|| "watch the network for changes".to_owned()))?;
        let fail = || refused(|| "start the network thread".to_owned());
        // It watches as long as the owner works.
        let owner = Worker::start("dwell-network", owner, watcher).map_err(fail())?;
        let iptables = Iptables { limit: config.program_limit };
        let iptables = Worker::start("dwell-iptables", iptables, ()).map_err(fail())?;
        Ok(Self { owner, iptables, disturbances })
    }
}

/// A thread that owns a `T` and makes one call to it after the other.
struct Worker<T> {
    calls: mpsc::Sender<Call<T>>,
}

type Call<T> = Box<dyn FnOnce(&mut T) + Send>;

impl<T> fmt::Debug for Worker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl<T> Clone for Worker<T> {
    fn clone(&self) -> Self {
        Self { calls: self.calls.clone() }
    }
}

impl<T: Send + 'static> Worker<T> {
    /// The thread ends with its last caller, and lets go of `beside` then.
    fn start(name: &str, mut owned: T, beside: impl Send + 'static) -> io::Result<Self> {
        let (calls, mut waiting) = mpsc::channel::<Call<T>>(CALLS_WAITING);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _beside = beside;
            while let Some(call) = waiting.blocking_recv() {
                call(&mut owned);
            }
        })?;
        Ok(Self { calls })
    }

    /// Has `work` done by the thread.
    async fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut T) -> Result<R, NetworkError> + Send + 'static,
    ) -> Result<R, NetworkError> {
        let (answer, answered) = oneshot::channel();
        let call: Call<T> = Box::new(move |owned| {
            // A caller that has gone away does not want the answer.
            let _unwanted = answer.send(work(owned));
        });
        self.calls.send(call).await.map_err(|_| NetworkError::Stopped)?;
        answered.await.map_err(|_| NetworkError::Stopped)?
    }
}

#[async_trait]
impl Network for LinuxNetwork {
    async fn ensure_host(&self, host: &HostNetwork) -> Result<(), NetworkError> {
        let (wanted, cluster, range) = (host.clone(), host.cluster.clone(), host.ipv6);
        let prepared = self.owner.call(move |owner| owner.ensure_host(&wanted)).await?;
        let uplinks = prepared.uplinks;
        let passed = self.iptables.call(move |tables| {
            let all = Family::all(range);
            first_error(all.map(|family| tables.ensure(family, &family.nets(&cluster), &uplinks)))
        });
        prepared.settled.and(passed.await)
    }

    async fn ensure_sandbox(&self, sandbox: &Sandbox) -> Result<(), NetworkError> {
        let sandbox = sandbox.clone();
        self.owner.call(move |owner| owner.ensure_sandbox(&sandbox)).await
    }

    async fn repair_sandbox(&self, sandbox: &Sandbox) -> Result<(), NetworkError> {
        let sandbox = sandbox.clone();
        self.owner.call(move |owner| owner.repair_sandbox(&sandbox)).await
    }

    async fn remove_sandbox(&self, sandbox: &SandboxId) -> Result<(), NetworkError> {
        let sandbox = sandbox.clone();
        self.owner.call(move |owner| owner.remove_sandbox(&sandbox)).await
    }

    async fn sandboxes(&self) -> Result<Vec<SandboxId>, NetworkError> {
        self.owner.call(|owner| owner.namespaces.list()).await
    }

    async fn sync_routes(&self, routes: &RouteTable) -> Result<RouteReport, NetworkError> {
        let routes = routes.clone();
        self.owner.call(move |owner| owner.sync_routes(&routes)).await
    }

    async fn sync_policies(&self, policies: &[Policy]) -> Result<(), NetworkError> {
        let policies = policies.to_vec();
        self.owner.call(move |owner| owner.sync_policies(&policies)).await
    }

    async fn sync_leases(&self, instances: &[Reach]) -> Result<(), NetworkError> {
        let instances = instances.to_vec();
        self.owner.call(move |owner| owner.sync_leases(instances)).await
    }

    async fn probe(&self, address: Ipv4Addr) -> Result<Probe, NetworkError> {
        match self.owner.call(move |owner| owner.way_to(address, None)).await? {
            Some(way) => way.probe(address).await,
            None => Ok(Probe { route: None, round_trip: None, mtu: 0, full_size_passes: None }),
        }
    }

    async fn probe_overlay(&self, node: Ipv4Addr) -> Result<Option<Probe>, NetworkError> {
        let way = self.owner.call(move |owner| owner.way_to(node, Some(overlay::MARK))).await?;
        match way.filter(|way| way.route.device == overlay::DEVICE) {
            Some(way) => way.probe(node).await.map(Some),
            None => Ok(None),
        }
    }

    async fn look(&self, routes: &RouteTable) -> Result<Look, NetworkError> {
        let routes = routes.clone();
        self.owner.call(move |owner| owner.look(&routes)).await
    }

    async fn sweep(&self) -> Result<(), NetworkError> {
        self.owner.call(Owner::sweep).await
    }

    fn disturbances(&self) -> watch::Receiver<Disturbances> {
        self.disturbances.clone()
    }

    async fn cleanup(&self) -> Result<(), NetworkError> {
        let tables = self.iptables.call(|tables| {
            let has_docker = tables.has_docker();
            // Whoever cannot tell keeps what Docker may need.
            let keep = *has_docker.as_ref().unwrap_or(&true);
            Ok((keep, tables.remove().and(has_docker.map(drop))))
        });
        let (has_docker, closed) = tables.await?;
        self.owner.call(move |owner| owner.cleanup(has_docker)).await.and(closed)
    }
}

/// See [`crate::mark_of`].
pub(crate) fn mark_of(slot: Slot) -> u32 {
    nftables::mark_of(slot)
}

/// Turns an I/O error into one that says what was tried.
fn refused(action: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> NetworkError {
    |source| NetworkError::Kernel { action: action(), source }
}

/// Sends `requests`; the first refusal that is not `expected` is the error.
fn send(
    netlink: &mut Netlink,
    requests: Vec<Request>,
    expected: impl Fn(Errno) -> bool,
    action: impl Fn() -> String,
) -> Result<(), NetworkError> {
    let outcomes = netlink.batch(requests).map_err(refused(&action))?;
    let unexpected =
        |outcome: &Outcome| outcome.as_ref().is_err_and(|refusal| !expected(refusal.errno));
    match outcomes.into_iter().find(unexpected) {
        Some(Err(refusal)) => Err(refused(action)(refusal.into())),
        _ => Ok(()),
    }
}
