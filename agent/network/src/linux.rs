//! The real network: netlink, nftables, and `iptables` where Docker needs it.
//!
//! One thread owns everything in [`owner`] and carries out one call after the other with blocking sockets;
//! that is several times faster than netlink on a multi-threaded runtime, and no lock is needed. It acts
//! on the network namespace in which [`LinuxNetwork::new`] was called. Deleting veths,
//! which is slow, is left to a second thread, the [`reaper`]; a third, the [`watcher`], listens for changes.
//!
//! ```text
//!  LinuxNetwork ──(bounded queue of calls)──▶ owner ──▶ sandbox   one instance's namespace and veth
//!                                               │─────▶ routes    plan (pure), then batches
//!                                               │─────▶ host      sysctls, nftables, iptables
//!                                               └─wake▶ reaper    deletes doomed veths
//!  LinuxNetwork ◀──(counts of disturbances)── watcher ◀── kernel
//! ```

mod disturb;
mod echo;
pub mod gateway;
mod iptables;
mod isolation;
mod listener;
mod names;
mod namespace;
mod netlink;
mod nexthop;
mod nftables;
mod observe;
mod owner;
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

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;

use async_trait::async_trait;
use dwell_core::id::InstanceName;
use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::underlay::underlay_address;

use self::netlink::{Netlink, Outcome, Request};
use self::owner::Owner;
use self::watcher::Watcher;
use crate::{
    Disturbances, HostNetwork, Network, NetworkError, Policy, Probe, RouteReport, RouteTable,
    Sandbox,
};

/// Of the host's route to one of its own instances. The lowest, so that an instance that is here is reached
/// here, whatever a table that is about to change says.
const METRIC_INSTANCE: u32 = 57;
/// Of a route to another node.
const METRIC_PEER: u32 = 157;
/// Of the unreachable route of the node's own block. The highest, so that any real route wins.
const METRIC_BLOCK: u32 = 4_157;

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
}

impl LinuxConfig {
    /// With its files in `run_dir`.
    #[must_use]
    pub fn new(run_dir: PathBuf) -> Self {
        Self { run_dir, notification_bytes: 4 * 1024 * 1024 }
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
    calls: mpsc::Sender<Call>,
    disturbances: watch::Receiver<Disturbances>,
}

type Call = Box<dyn FnOnce(&mut Owner) + Send>;

impl LinuxNetwork {
    /// Starts the thread that owns the network of the calling thread's network namespace.
    ///
    /// # Errors
    /// Without the right to configure the network, or without a place for its files.
    pub fn new(config: &LinuxConfig) -> Result<Self, NetworkError> {
        let mut owner = Owner::open(&config.run_dir)?;
        let (watcher, disturbances) = owner
            .ports()
            .and_then(|own| {
                Watcher::start(own, &owner.namespaces.directory, config.notification_bytes)
            })
            .map_err(refused(|| "watch the network for changes".to_owned()))?;
        let (calls, mut waiting) = mpsc::channel::<Call>(CALLS_WAITING);
        thread::Builder::new()
            .name("dwell-network".to_owned())
            .spawn(move || {
                // It watches as long as the owner works.
                let _watcher = watcher;
                while let Some(call) = waiting.blocking_recv() {
                    call(&mut owner);
                }
            })
            .map_err(refused(|| "start the network thread".to_owned()))?;
        Ok(Self { calls, disturbances })
    }

    /// Has `work` done by the owner.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Owner) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |owner| {
            // A caller that has gone away does not want the answer.
            let _unwanted = answer.send(work(owner));
        });
        self.calls.send(call).await.map_err(|_| NetworkError::Stopped)?;
        answered.await.map_err(|_| NetworkError::Stopped)?
    }
}

#[async_trait]
impl Network for LinuxNetwork {
    async fn ensure_host(&self, host: &HostNetwork) -> Result<(), NetworkError> {
        let host = host.clone();
        self.call(move |owner| owner.ensure_host(&host)).await
    }

    async fn ensure_sandbox(&self, sandbox: &Sandbox) -> Result<(), NetworkError> {
        let sandbox = sandbox.clone();
        self.call(move |owner| owner.ensure_sandbox(&sandbox)).await
    }

    async fn remove_sandbox(&self, instance: &InstanceName) -> Result<(), NetworkError> {
        let instance = instance.clone();
        self.call(move |owner| owner.remove_sandbox(&instance)).await
    }

    async fn sandboxes(&self) -> Result<Vec<InstanceName>, NetworkError> {
        self.call(|owner| owner.namespaces.list()).await
    }

    async fn sync_routes(&self, routes: &RouteTable) -> Result<RouteReport, NetworkError> {
        let routes = routes.clone();
        self.call(move |owner| owner.sync_routes(&routes)).await
    }

    async fn sync_policies(&self, policies: &[Policy]) -> Result<(), NetworkError> {
        let policies = policies.to_vec();
        self.call(move |owner| owner.sync_policies(&policies)).await
    }

    async fn probe(&self, address: Ipv4Addr) -> Result<Probe, NetworkError> {
        let Some((route, mtu, echo)) = self.call(move |owner| owner.way_to(address)).await? else {
            return Ok(Probe { route: None, round_trip: None, mtu: 0, full_size_passes: None });
        };
        // Here and not by the owner, who has other things to do than to wait.
        let (round_trip, full_size_passes) = echo
            .measure(mtu)
            .await
            .map_err(refused(|| format!("send an ICMP echo to {address}")))?;
        Ok(Probe { route: Some(route), round_trip, mtu, full_size_passes })
    }

    fn disturbances(&self) -> watch::Receiver<Disturbances> {
        self.disturbances.clone()
    }

    async fn cleanup(&self) -> Result<(), NetworkError> {
        self.call(Owner::cleanup).await
    }
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
