//! What the kernel has of dwell's, for whoever compares it with what is declared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dwell_core::net::Mac;
use dwell_core::sandbox::SandboxId;

/// What the kernel has of dwell's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Every sandbox that has a name, whole or half-made.
    pub sandboxes: BTreeMap<SandboxId, SeenSandbox>,
    /// What belongs to no sandbox, for people: interfaces, routes, addresses that may be sent from.
    /// [`Network::sweep`](crate::Network::sweep) removes it.
    pub strays: BTreeSet<String>,
    /// Where the routes to other nodes are not as declared.
    pub routes: Vec<RouteDifference>,
    /// Where who may reach isolated instances is not as it was last set.
    pub isolation: Vec<IsolationDifference>,
}

/// A sandbox as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenSandbox {
    /// The inode of its network namespace; `None` if that was never finished.
    pub namespace: Option<u64>,
    /// The hardware address of its `eth0`.
    pub mac: Option<Mac>,
    /// The addresses of its `eth0`.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// The host's end of its veth.
    pub link: Option<String>,
    /// Whether the veth carries packets.
    pub is_running: bool,
    /// The addresses that the host's own routes lead to it.
    pub routed: BTreeSet<Ipv4Addr>,
    /// The addresses that it may send from.
    pub sources: BTreeSet<Ipv4Addr>,
    /// Where its IPv6 addresses are not those that follow from `addresses`, for people; nothing where instances have none.
    pub ipv6: Vec<String>,
}

/// A route, or something that routes need, which is not as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteDifference {
    /// What it is about, such as `route 10.80.2.0/24`.
    pub subject: String,
    /// What is declared.
    pub declared: String,
    /// What the kernel has.
    pub found: String,
    /// Whether [`Network::sync_routes`](crate::Network::sync_routes) and
    /// [`Network::ensure_host`](crate::Network::ensure_host) put it right; else somebody else's route is in the way.
    pub is_own: bool,
}

/// Isolation that is not as it was last set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsolationDifference {
    /// The instance that it is about; `None` if it is about all of them.
    pub address: Option<Ipv4Addr>,
    /// What was set, for people.
    pub declared: String,
    /// What there is, for people.
    pub found: String,
}
