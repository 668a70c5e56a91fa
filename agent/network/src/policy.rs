//! Who may reach an instance: what [`Network::sync_policies`](super::Network::sync_policies) brings about.

use std::net::Ipv4Addr;

use dwell_core::workload::Protocol;
use ipnet::Ipv4Net;

/// Who may reach an instance of this node that is not open to all.
///
/// It is about connections *to* the instance; what it opens itself is answered. The host's own traffic,
/// such as health probes, and tunnels that end on the host are not affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The instance's address. There need not be a sandbox with it yet.
    pub address: Ipv4Addr,
    /// Who may. Nobody if empty. They may overlap.
    pub allowed: Vec<Allow>,
}

/// Sources and what they may reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allow {
    /// The addresses they send from.
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
