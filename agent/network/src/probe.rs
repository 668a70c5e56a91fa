//! What the way to an address is like: the answer of [`Network::probe`](super::Network::probe).

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::ROUTE_PROTOCOL;

/// The way to an address, looked up and tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The entry of the routing table that decides; `None` if the kernel has no way there.
    pub route: Option<FoundRoute>,
    /// From an ICMP echo to its answer; `None` if no answer came in time.
    pub round_trip: Option<Duration>,
    /// The largest packet that the route should carry, in bytes; 0 without a route.
    pub mtu: u32,
    /// Whether an echo of that size is answered too; `None` if not even a small one is. `false` is an
    /// MTU black hole: connections open and then hang.
    pub full_size_passes: Option<bool>,
}

/// A route of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRoute {
    /// The destinations it is for.
    pub prefix: Ipv4Net,
    /// The next hop; `None` if the destination is on the link itself.
    pub via: Option<Ipv4Addr>,
    /// The interface.
    pub device: String,
    /// Its `rtm_protocol`; see [`FoundRoute::is_ours`].
    pub protocol: u8,
    /// Whether it leads to an instance on this node, or is an address of the node itself.
    pub local: bool,
}

impl FoundRoute {
    /// Whether dwell made it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.protocol == ROUTE_PROTOCOL
    }
}
