//! What is settled when a controller starts and holds for its whole life.

use dwell_core::net::{ClusterRange, Ipv6Range};
use dwell_core::quantity::Millis;
use ipnet::Ipv4Net;

/// The cluster's range of addresses, and the times after which the model acts by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where addresses come from.
    pub range: ClusterRange,
    /// The DNS zone of instances, such as `dwell`.
    pub zone: String,
    /// Whether instances whose workload has no `allow_from` are closed to all; else they are open to all.
    pub closed: bool,
    /// Where instances have an IPv6 address beside their IPv4 address; without, they have none.
    pub ipv6: Option<Ipv6Range>,
    /// A node not heard of for so long is unreachable: nothing new is placed there.
    pub unreachable_after: Millis,
    /// A node not heard of for so long is down: it may be removed by force. Nothing moves by itself,
    /// because a node that cannot be heard may well be running.
    pub down_after: Millis,
    /// How long a released address is kept from other instances, so that no connection or cached name
    /// of the old owner reaches a new one.
    pub quarantine: Millis,
    /// Addresses that are only given to instances that ask for them by name; nodes get no block in it.
    pub static_range: Option<Ipv4Net>,
    /// How many instances all workloads together may declare.
    pub instances_max: u32,
    /// How many events are kept.
    pub events_max: usize,
    /// How many recent changes a watcher may be behind before it has to list again.
    pub watch_max: usize,
}

/// How many instances all workloads together may declare, unless it is configured: what was measured to work.
pub const INSTANCES_MAX: u32 = 1_000_000;

/// A kind of events may always have so many.
const EVENTS_OF_A_KIND_LEAST: usize = 100;

impl Settings {
    /// How many events of one kind are kept: a fifth of all.
    #[must_use]
    pub fn events_of_a_kind_max(&self) -> usize {
        (self.events_max / 5).max(EVENTS_OF_A_KIND_LEAST)
    }

    /// The default times for a range.
    #[must_use]
    pub fn new(range: ClusterRange) -> Self {
        Self {
            range,
            zone: "dwell".to_owned(),
            closed: false,
            ipv6: None,
            unreachable_after: Millis::seconds(15),
            down_after: Millis::seconds(120),
            quarantine: Millis::seconds(600),
            static_range: None,
            instances_max: INSTANCES_MAX,
            events_max: 10_000,
            watch_max: 32_768,
        }
    }
}
