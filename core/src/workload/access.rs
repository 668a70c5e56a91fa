//! Who may reach an instance, and whom it may reach.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::Protocol;
use crate::id::WorkloadName;

/// Lets somebody in, or something out to somebody. Where a workload has a list of these, all others are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRule {
    /// Who is at the other end: from where, or of `allow_to` to where.
    pub from: AllowSource,
    /// To which ports; all ports and protocols if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AllowSource {
    /// Everybody, also from beyond the cluster.
    Any,
    /// The other instances of its workload.
    SameWorkload,
    /// The instances of a workload, which need not exist yet.
    Workload(WorkloadName),
    /// The instances of workloads that have all of these labels, at least one.
    Labels(BTreeMap<String, String>),
    /// A range of addresses.
    Cidr(Ipv4Net),
}

/// Ports of one protocol, `first` and `last` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    /// Their transport.
    #[serde(default)]
    pub protocol: Protocol,
    /// The first one, not 0.
    pub first: u16,
    /// The last one, at least `first`.
    pub last: u16,
}
