//! Refusals of the same address at the same instance, made into one event per minute.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use dwell_core::id::InstanceName;
use dwell_core::ssh::{SshEvent, SshEventKind};
use tokio::time::Instant;

/// How long refusals are gathered.
const GATHER: Duration = Duration::from_secs(60);
/// Most addresses and instances at once; beyond that every refusal is an event.
const MOST: usize = 1024;

/// Refusals that were told within the last minute, and those held back since.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<(InstanceName, IpAddr), Gathered>);

#[derive(Debug)]
struct Gathered {
    since: Instant,
    last: Option<SshEvent>,
    count: u64,
}

impl Refusals {
    /// Takes a refusal; the event comes back if it is to be told now.
    pub(super) fn add(&mut self, event: SshEvent, now: Instant) -> Option<SshEvent> {
        let SshEventKind::Refused { count } = event.what else { return Some(event) };
        let place = (event.instance.clone(), event.from.ip());
        if let Some(gathered) = self.0.get_mut(&place) {
            gathered.count += count;
            gathered.last = Some(event);
            return None;
        }
        if self.0.len() < MOST {
            self.0.insert(place, Gathered { since: now, last: None, count: 0 });
        }
        Some(event)
    }

    /// What was held back for long enough.
    pub(super) fn due(&mut self, now: Instant) -> Vec<SshEvent> {
        let mut due = Vec::new();
        self.0.retain(|_, gathered| {
            if now.duration_since(gathered.since) < GATHER {
                return true;
            }
            let Some(event) = gathered.last.take() else { return false };
            let what = SshEventKind::Refused { count: gathered.count };
            due.push(SshEvent { what, ..event });
            *gathered = Gathered { since: now, last: None, count: 0 };
            true
        });
        due
    }
}
