//! Who may reach an instance, and whom it may reach: what [`Network::sync_policies`](super::Network::sync_policies) brings about.

use std::net::Ipv4Addr;

use dwell_core::workload::Protocol;
use ipnet::Ipv4Net;

/// Who may reach an instance of this node that is not open to all, or whom one may reach that may not reach all.
///
/// It is about connections in one direction; what was opened in the other one is answered. The host's own traffic to the
/// instance, such as health probes, and tunnels that end on the host are not affected; names at the gateway are always
/// reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The instance's address. There need not be a sandbox with it yet.
    pub address: Ipv4Addr,
    /// Which connections it is about.
    pub direction: Direction,
    /// Who may, or may be. Nobody if empty. They may overlap.
    pub allowed: Vec<Allow>,
}

/// From where connections are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// By others, to the instance.
    In,
    /// By the instance.
    Out,
}

/// Who is at the other end, and the ports that may be reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allow {
    /// The addresses that they send from or, of what the instance begins, that it sends to.
    pub source: Ipv4Net,
    /// The ports they may reach; if empty all, and all other protocols too, such as ICMP.
    pub ports: Vec<PortRange>,
}

/// Neighbouring ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// Their protocol.
    pub protocol: Protocol,
    /// The lowest.
    pub first: u16,
    /// The highest, itself included. A range whose last is below its first is empty.
    pub last: u16,
}
