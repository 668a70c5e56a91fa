//! Until when instances of this node are reached: what [`Network::sync_leases`](super::Network::sync_leases) brings about.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Until when an instance that is assigned to this node is reached, and reaches others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Its address.
    pub address: Ipv4Addr,
    /// Until when.
    pub until: Until,
}

/// Until when an instance is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Whatever happens.
    Ever,
    /// Until then, also if nobody says anything any more; one that has passed is now.
    At(Instant),
    /// As it was said last, also by an earlier agent, and for no longer than this from now; not at all if nobody has.
    AsSaid {
        /// For how long at most.
        most: Duration,
    },
}
