//! The network of a node: sandboxes of its instances, routes to other nodes, the host's own settings.
//!
//! [`Network`] is what the agent sees. [`linux::LinuxNetwork`] does it with netlink and nftables; `FakeNetwork`,
//! behind the feature `test-util`, keeps it in memory for tests and simulations. What is built in the kernel, and
//! why, is told in `docs/networking.md`. Nothing here knows of the agent that calls it.
//!
//! ```text
//!  host namespace                                        sandbox (named network namespace)
//!  ┌───────────────────────────────────────┐             ┌──────────────────────────────────┐
//!  │ 10.80.2.0/24 nhid PEER  (sync_routes) │             │ eth0  10.80.1.5/32, fixed MAC    │
//!  │ unreachable 10.80.1.0/24              │    veth     │ default via 169.254.1.1          │
//!  │ 10.80.1.5 dev dw-… ───────────────────┼─────────────┤ 169.254.1.1 is always GATEWAY_MAC│
//!  └───────────────────────────────────────┘             └──────────────────────────────────┘
//! ```
//!
//! The kernel holds the state; nothing here is believed without looking at it. Every operation is
//! idempotent, says what to have and not what to do, and may be cut short at any step: calling it
//! again completes the work. Whatever is made is recognisably ours ([`ROUTE_PROTOCOL`],
//! [`INTERFACE_PREFIX`], a table and a chain of our own), and what is not ours is never changed.

#[cfg(any(test, feature = "test-util"))]
pub mod fake;
#[cfg(any(test, feature = "test-util"))]
pub mod fixtures;
mod lease;
pub mod linux;
mod look;
mod policy;
mod probe;
#[cfg(feature = "test-util")]
pub mod world;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use dwell_core::id::{InstanceName, NodeName};
use dwell_core::net::{Ipv6Range, Mac, Ranges};
use dwell_core::sandbox::{SandboxId, Slot};
use ipnet::{IpNet, Ipv4Net};
use tokio::sync::watch;

pub use self::lease::{Reach, Until};
pub use self::look::{IsolationDifference, Look, RouteDifference, SeenSandbox};
pub use self::policy::{Allow, Direction, Policy, PortRange};
pub use self::probe::{FoundRoute, Probe};

/// The `rtm_protocol` of every route and the `nh_protocol` of every nexthop that dwell owns.
pub const ROUTE_PROTOCOL: u8 = 157;

/// How the names of our veths in the host namespace begin.
pub const INTERFACE_PREFIX: &str = "dw-";

/// The gateway of every sandbox: an address that is the same everywhere and never leaves the veth.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The gateway for IPv6. No host has it: the sandbox knows its hardware address, and asks for names at [`GATEWAY`].
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The host's list of resolvers, and the one behind systemd's local resolver.
pub const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The hardware address of the host's end of every veth, so that an instance can move or its veth be
/// replaced without a stale neighbour entry.
pub const GATEWAY_MAC: Mac = Mac([0x02, 0x64, 0x77, 0x65, 0x6c, 0x6c]);

/// Where the network namespace of a sandbox has its name: what a container is started in and what is entered
/// to listen at the instance's address. `run_dir` is the agent's, as in [`linux::LinuxConfig::run_dir`].
#[must_use]
pub fn sandbox_path(run_dir: &Path, sandbox: &SandboxId) -> PathBuf {
    sandbox_directory(run_dir).join(sandbox.to_string())
}

/// The mark of a packet that is for the sandbox in a slot although its address may lead to the one in the other. A socket
/// of the host with it ([`SO_MARK`](https://man7.org/linux/man-pages/man7/socket.7.html)) speaks to the container in that one.
#[must_use]
pub fn mark_of(slot: Slot) -> u32 {
    linux::mark_of(slot)
}

/// The directory of the names of all sandboxes.
#[must_use]
pub fn sandbox_directory(run_dir: &Path) -> PathBuf {
    run_dir.join("netns")
}

/// The network of one node. One value owns it; calls are carried out one after the other.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Forwarding, sysctls, firewall and the unreachable route of the node's own block.
    ///
    /// Called at start, when [`HostNetwork`] changes, and after anything that may have disturbed the
    /// host's rules (a start of `dockerd`, a firewall reload): a call that finds all in place is cheap.
    ///
    /// # Errors
    /// The first setting that could not be made; the others were tried all the same.
    async fn ensure_host(&self, host: &HostNetwork) -> Result<(), NetworkError>;

    /// Makes the sandbox, or completes or repairs it; a correct one is not touched. Only where no container runs in it: it
    /// may be a new namespace, in which nothing is.
    ///
    /// An instance may have two. Its address leads to the one that was last said to be [reached](Sandbox::reached), from
    /// one packet to the next; what either has begun to say to somebody is answered to that one, and whoever has begun
    /// to speak to one goes on with that one, as long as both are there.
    ///
    /// # Errors
    /// [`NetworkError::HostNotReady`] before the first [`Network::ensure_host`]; otherwise what the
    /// kernel refused. What was made until then stays and is completed by the next call.
    async fn ensure_sandbox(&self, sandbox: &Sandbox) -> Result<(), NetworkError>;

    /// As [`Network::ensure_sandbox`], of the namespace that a running container is in. If its name was lost, it
    /// gets it back; another namespace is never made beside it.
    ///
    /// # Errors
    /// [`NetworkError::SandboxLost`] if the namespace cannot be found: only a new start gets the container into a
    /// sandbox again. Otherwise as [`Network::ensure_sandbox`].
    async fn repair_sandbox(&self, sandbox: &Sandbox) -> Result<(), NetworkError>;

    /// Takes the sandbox away, whole or half-made; one that does not exist is no error.
    ///
    /// On return the address is unreachable and the namespace has no name any more; the veth itself
    /// goes a few milliseconds later.
    ///
    /// # Errors
    /// What the kernel refused; the next call goes on from there.
    async fn remove_sandbox(&self, sandbox: &SandboxId) -> Result<(), NetworkError>;

    /// The sandboxes that exist, whole or half-made, in the order of their names.
    ///
    /// # Errors
    /// The run directory could not be read.
    async fn sandboxes(&self) -> Result<Vec<SandboxId>, NetworkError>;

    /// Makes the kernel's routes to other nodes equal to the complete `routes`, and removes our own
    /// that are not in it: call it only with a table that has arrived whole.
    ///
    /// A route that cannot be had is in the report and does not keep the others from being made.
    ///
    /// # Errors
    /// The kernel could not be asked at all.
    async fn sync_routes(&self, routes: &RouteTable) -> Result<RouteReport, NetworkError>;

    /// Makes `policies`, which are complete, the rules of who may reach the instances of this node. An
    /// instance without one is open to all.
    ///
    /// What differs from the last call is changed in one step. Policies may come before their sandboxes,
    /// and must, so that nothing gets to an isolated instance before its policy; and before the first
    /// [`Network::ensure_host`], which then installs them. Until the first call, those that an earlier
    /// agent has left stay in force.
    ///
    /// # Errors
    /// What the kernel refused. What was in force before stays in force.
    async fn sync_policies(&self, policies: &[Policy]) -> Result<(), NetworkError>;

    /// Says until when the instances of this node that are spoken of are reached, and reach others: the kernel lets nothing
    /// pass any more when that time is up, whatever becomes of whoever said so.
    ///
    /// One that is not spoken of goes on as was said last, until its sandbox is removed. To say it again costs little.
    ///
    /// # Errors
    /// What the kernel refused. What was in force before stays in force.
    async fn sync_leases(&self, instances: &[Reach]) -> Result<(), NetworkError>;

    /// Looks up the route to `address` and tries it with ICMP echoes; takes at most two seconds.
    ///
    /// # Errors
    /// The kernel could not be asked, or no echo be sent. That nobody answers is no error.
    async fn probe(&self, address: Ipv4Addr) -> Result<Probe, NetworkError>;

    /// As [`Network::probe`], of the way by which instances reach a node on another segment; `None` if that is not through
    /// the overlay.
    ///
    /// # Errors
    /// As [`Network::probe`].
    async fn probe_overlay(&self, node: Ipv4Addr) -> Result<Option<Probe>, NetworkError>;

    /// What the kernel has of dwell's, and where it differs from the complete `routes`. Changes nothing.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn look(&self, routes: &RouteTable) -> Result<Look, NetworkError>;

    /// Removes what is ours and belongs to no sandbox: [`Look::strays`]. The veth of a namespace that has lost its name
    /// and in which a process lives is left alone; [`Network::repair_sandbox`] gives it its name again.
    ///
    /// # Errors
    /// What the kernel refused; the next call goes on from there.
    async fn sweep(&self) -> Result<(), NetworkError>;

    /// Counts that go up whenever others may have changed what was asked for. Looking again is calling
    /// the operation again; what is still right costs little.
    fn disturbances(&self) -> watch::Receiver<Disturbances>;

    /// Removes every trace: sandboxes, routes, nexthops, firewall rules; restores changed sysctls.
    ///
    /// # Errors
    /// The first thing that could not be removed; the others were tried all the same.
    async fn cleanup(&self) -> Result<(), NetworkError>;
}

/// What the host as a whole is to provide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNetwork {
    /// The ranges of all instances of the cluster.
    pub cluster: Ranges,
    /// This node's shares of it; a routes-only node has none.
    pub blocks: Vec<Ipv4Net>,
    /// Whether instances reach what is beyond the cluster under the host's address.
    pub masquerade: bool,
    /// Ports of the host itself that instances may connect to. All others are closed to them, but for what they cannot
    /// do without: names and echoes.
    pub host_access: Vec<PortRange>,
    /// Whether instances ask the host's resolvers for names, because nobody answers at the gateway. In clouds, those have
    /// an address of one link.
    pub foreign_names: bool,
    /// Whether what instances say to each other goes without connection tracking where no [`Policy`] of this node needs
    /// it. Not where the host's own firewall decides about it by the state of connections, or translates it.
    pub untracked: bool,
    /// How many connections the kernel may track at a time of those that one instance begins, so that no instance can
    /// fill the host's table of them; any number without. A kernel that cannot count them sets no limit.
    pub connections_max: Option<NonZeroU32>,
    /// Whether the host is to forward packets. A `dockerd` that starts and finds that it does not closes iptables' FORWARD
    /// to all that no rule accepts; if it finds that it does, it leaves Docker's own networks open to everybody.
    pub forwards: bool,
    /// Where instances have an IPv6 address beside their IPv4 address, which follows from that; without, they have none.
    /// Sandboxes get it, lose it or get another by [`Network::ensure_sandbox`], once the firewall knows it and the
    /// [policies](Network::sync_policies): whoever is not reached by IPv4 is never reached by IPv6.
    pub ipv6: Option<Ipv6Range>,
}

/// The network identity of an instance on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Whose it is.
    pub instance: InstanceName,
    /// Which of its sandboxes.
    pub slot: Slot,
    /// Whether the address leads here. If it does not, there is another sandbox of the instance to which it does.
    pub reached: bool,
    /// The address of its `eth0`, as /32.
    pub address: Ipv4Addr,
    /// The hardware address of its `eth0`.
    pub mac: Mac,
}

impl Sandbox {
    /// The one sandbox of an instance.
    #[must_use]
    pub fn only(instance: InstanceName, address: Ipv4Addr, mac: Mac) -> Self {
        Self { instance, slot: Slot::A, reached: true, address, mac }
    }

    /// Whose it is, and which of the two.
    #[must_use]
    pub fn id(&self) -> SandboxId {
        SandboxId { instance: self.instance.clone(), slot: self.slot }
    }
}

/// Where the instances of all other nodes are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// The other nodes. A node's name appears once.
    pub peers: Vec<Peer>,
    /// Addresses that live outside the block they come from.
    pub exceptions: Vec<Exception>,
    /// How peers are reached whose address is on no network of this host; without, they are not.
    pub overlay: Option<Overlay>,
    /// Where the instances have IPv6 addresses as well, if they do.
    pub ipv6: Option<Ipv6Routes>,
}

/// IPv6 beside IPv4: the same blocks and exceptions, over the same ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Routes {
    /// The addresses of instances, and of nodes, each of which sends from the one that follows from its own.
    pub range: Ipv6Range,
    /// The address by which the peers know this host.
    pub local: Ipv4Addr,
}

/// Packets to instances within packets between hosts (VXLAN), for hosts that share no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The address by which the peers know this host.
    pub local: Ipv4Addr,
    /// The UDP port at which all hosts of the cluster receive.
    pub port: u16,
    /// Whether all peers are reached that way, also those on a network of this host.
    pub always: bool,
}

/// Another node, as a next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: NodeName,
    /// Its shares of the cluster's range; a routes-only node has none.
    pub blocks: Vec<Ipv4Net>,
    /// Its address: on a network shared with this node, or else reached through the overlay.
    pub via: Ipv4Addr,
}

/// An instance's address that is reached through another node than its block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The instance's address.
    pub address: Ipv4Addr,
    /// The node it lives on: one of the table's peers.
    pub node: NodeName,
}

/// What came of one [`Network::sync_routes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteReport {
    /// Routes that were right already.
    pub in_place: usize,
    /// Routes that were missing and are there now.
    pub added: usize,
    /// Routes that led elsewhere and were redirected without a gap.
    pub changed: usize,
    /// Own routes that were no longer wanted.
    pub removed: usize,
    /// Routes of others in the way of ours. They were left alone.
    pub conflicts: Vec<RouteConflict>,
    /// What could not be done, by node.
    pub failures: Vec<PeerFailure>,
}

impl RouteReport {
    /// Whether the kernel now has exactly the declared table and nobody is in its way.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.conflicts.is_empty() && self.failures.is_empty()
    }

    /// Both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.in_place += other.in_place;
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
        self.conflicts.extend(other.conflicts);
        self.failures.extend(other.failures);
        self
    }
}

/// How often something may have been disturbed, by the operation that puts it right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disturbances {
    /// For [`Network::ensure_host`].
    pub host: u64,
    /// For [`Network::ensure_sandbox`], of each.
    pub sandboxes: u64,
    /// For [`Network::sync_routes`].
    pub routes: u64,
}

/// A route that is not ours takes traffic that belongs to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConflict {
    /// The peer that loses traffic.
    pub node: NodeName,
    /// The peer's block or exception.
    pub wanted: IpNet,
    /// The route in the way, as `ip route` would name it.
    pub holder: String,
}

/// Routes to one node that could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFailure {
    /// The node.
    pub node: NodeName,
    /// Why, and what to do about it.
    pub reason: String,
}

/// Why the network is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused a request.
    #[error("cannot {action}")]
    Kernel {
        /// What was tried, on what.
        action: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A file of the run directory or of `/proc/sys` could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// `nft` or `iptables` could not be started.
    #[error("cannot run {program}; install it (package {package})")]
    ProgramMissing {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// `nft` or `iptables` refused its input.
    #[error("{program} refused our rules: {complaint}")]
    ProgramFailed {
        /// The program.
        program: &'static str,
        /// What it printed, on one line.
        complaint: String,
    },
    /// `nft` or `iptables` did not end in time and was killed.
    #[error(
        "{program} did not end within {} s; if another program holds the lock of iptables, `fuser -v /run/xtables.lock` says which",
        limit.as_secs()
    )]
    ProgramHung {
        /// The program.
        program: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// A route of somebody else, or of another instance, leads to an instance's address.
    #[error(
        "address {address} of {instance} is taken by the route of {holder}; remove one of them"
    )]
    AddressTaken {
        /// The instance.
        instance: InstanceName,
        /// Its address.
        address: IpAddr,
        /// Whose route it is.
        holder: String,
    },
    /// The namespace that a container of the instance runs in has no name and cannot be found.
    #[error("the sandbox of {instance} is lost; its container has to be started again")]
    SandboxLost {
        /// The instance.
        instance: InstanceName,
    },
    /// A sandbox was asked for before the host was prepared.
    #[error("cannot make a sandbox before the host's network is prepared; ensure_host comes first")]
    HostNotReady,
    /// The thread that owns the network has ended.
    #[error("the network thread has ended; restart the agent")]
    Stopped,
    /// Made to fail by a test.
    #[error("{0} was made to fail")]
    Injected(&'static str),
}
