//! How many connections there may be, and who has failed too often to be heard.
//!
//! Whoever comes by way of the controller comes from an address of the node itself, and the controller has let them
//! in: they are no one address, so that the many do not wait or suffer for one.
//!
//! Pure: time comes in. Invariants: every count belongs to connections that are there, so that maps are bounded
//! by the connections; failures are counted for a bounded number of addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dwell_core::id::InstanceName;

/// Most connections to one instance.
const PER_INSTANCE: usize = 256;
/// Most connections that have yet to log in.
const WAITING: usize = 512;
/// Most of those of one address.
const WAITING_PER_ADDRESS: usize = 128;
/// So many connections of an address that end in refused log-ins ...
const FAILURES: u32 = 20;
/// ... within so long, and it is not heard for the rest of that time.
const WINDOW: Duration = Duration::from_secs(60);
/// Most addresses whose failures are counted.
const ADDRESSES: usize = 4096;

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The instance has too many.
    #[error("the instance has {PER_INSTANCE} connections")]
    Instance,
    /// Too many wait to log in.
    #[error("{WAITING} connections have yet to log in")]
    Waiting,
    /// Too many of this address.
    #[error("{WAITING_PER_ADDRESS} connections of this address have yet to log in")]
    Address,
    /// It has failed too often.
    #[error("{FAILURES} log-ins of this address were refused within a minute")]
    Failures,
}

/// The counts.
#[derive(Debug, Default)]
pub struct Guard {
    instances: HashMap<InstanceName, usize>,
    waiting: HashMap<IpAddr, usize>,
    waiting_total: usize,
    failures: HashMap<IpAddr, Failures>,
}

#[derive(Debug)]
struct Failures {
    since: Instant,
    count: u32,
}

impl Guard {
    /// Counts a new connection, which then has to be ended by [`Guard::logged_in`] and [`Guard::left`], once each.
    ///
    /// `from` is the client's address; absent, it is the node itself.
    ///
    /// # Errors
    /// [`Denial`], and it is not counted.
    pub fn admit(
        &mut self,
        instance: &InstanceName,
        from: Option<IpAddr>,
        now: Instant,
    ) -> Result<(), Denial> {
        let failed = |failures: &Failures| {
            failures.count >= FAILURES && now.duration_since(failures.since) < WINDOW
        };
        if from.and_then(|from| self.failures.get(&from)).is_some_and(failed) {
            return Err(Denial::Failures);
        }
        if self.instances.get(instance).is_some_and(|count| *count >= PER_INSTANCE) {
            return Err(Denial::Instance);
        }
        if self.waiting_total >= WAITING {
            return Err(Denial::Waiting);
        }
        let is_too_many = |count: &usize| *count >= WAITING_PER_ADDRESS;
        if from.and_then(|from| self.waiting.get(&from)).is_some_and(is_too_many) {
            return Err(Denial::Address);
        }
        *self.instances.entry(instance.clone()).or_default() += 1;
        if let Some(from) = from {
            *self.waiting.entry(from).or_default() += 1;
        }
        self.waiting_total += 1;
        Ok(())
    }

    /// A connection waits no longer: somebody logged in, or it ended.
    pub fn logged_in(&mut self, from: Option<IpAddr>) {
        self.waiting_total = self.waiting_total.saturating_sub(1);
        if let Some(from) = from {
            decrement(&mut self.waiting, &from);
        }
    }

    /// A connection ended.
    pub fn left(&mut self, instance: &InstanceName) {
        decrement(&mut self.instances, instance);
    }

    /// A connection was refused the log-in.
    pub fn failed(&mut self, from: Option<IpAddr>, now: Instant) {
        let Some(from) = from else { return };
        if self.failures.len() >= ADDRESSES {
            self.failures.retain(|_, failures| now.duration_since(failures.since) < WINDOW);
        }
        if self.failures.len() >= ADDRESSES && !self.failures.contains_key(&from) {
            return;
        }
        let failures = self.failures.entry(from).or_insert(Failures { since: now, count: 0 });
        if now.duration_since(failures.since) >= WINDOW {
            *failures = Failures { since: now, count: 0 };
        }
        failures.count += 1;
    }
}

fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
