//! For how long the instances are lent to the node.
//!
//! An instance that may be put up elsewhere when its node is lost has a [lease](dwell_core::workload::Lease). It counts from
//! when the node sent a heartbeat, if the controller has answered that: the controller counts from when it heard the
//! heartbeat, which is later, and waits for longer.
//!
//! ```text
//!   node        ──┬─heartbeat─────────────────────┬ lease over: nothing passes to or from it, and it is stopped
//!                 │         ╲          ╱ lent
//!   controller  ──────────────┴───────┴──────────────────┬ placed on another node
//! ```
//!
//! The kernel closes the door to the instance when the time is up, whatever the agent does; here is decided what runs.
//!
//! Invariants: what is lent goes on from the newest answer, never from an older one; what is not lent is not started, and is
//! stopped where it runs; a controller that was restored from a backup renews what is lent still, and lends nothing anew.

use std::collections::BTreeSet;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::instance::Assigned;
use dwell_core::session::Lent;

/// What of the node's instances is lent to it. All times are of the steady clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    started_at: Timestamp,
    /// When the newest heartbeat was sent that the controller has answered, in this run of the agent.
    heard_at: Option<Timestamp>,
    /// What was not lent any more when the controller would only renew.
    lapsed: BTreeSet<InstanceName>,
}

/// Whether the node may run an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has no lease.
    Free,
    /// Until then.
    Lent {
        /// When it is over.
        until: Timestamp,
    },
    /// What runs may run on until then: nobody has answered since the agent's start, and an earlier run of it may have been
    /// answered. For how long it is reached, the kernel knows. Nothing is started.
    Left {
        /// When it is over.
        until: Timestamp,
    },
    /// Its time is up.
    Over,
}

impl Leases {
    /// Of an agent that starts.
    #[must_use]
    pub fn begin(now: Timestamp) -> Self {
        Self { started_at: now, ..Self::default() }
    }

    /// The controller has answered a heartbeat that was sent then.
    pub fn hear<'a>(
        &mut self,
        lent: Lent,
        sent_at: Timestamp,
        assigned: impl IntoIterator<Item = &'a Assigned>,
        now: Timestamp,
    ) {
        if lent.only_renewed {
            if self.heard_at.is_none() {
                return;
            }
            let is_over = |one: &&Assigned| self.standing(one, now) == Standing::Over;
            let over = assigned.into_iter().filter(is_over);
            let over: Vec<InstanceName> = over.map(|one| one.instance.clone()).collect();
            self.lapsed.extend(over);
        } else {
            self.lapsed.clear();
        }
        self.heard_at = self.heard_at.max(Some(sent_at));
    }

    /// Whether the node may run an instance now.
    #[must_use]
    pub fn standing(&self, assigned: &Assigned, now: Timestamp) -> Standing {
        let Some(lease) = assigned.lease else { return Standing::Free };
        let until = self.heard_at.unwrap_or(self.started_at).after(lease.0.as_duration());
        if until <= now || self.lapsed.contains(&assigned.instance) {
            return Standing::Over;
        }
        if self.heard_at.is_some() { Standing::Lent { until } } else { Standing::Left { until } }
    }
}

#[cfg(test)]
mod tests {
    use dwell_core::fixtures;
    use dwell_core::quantity::Millis;
    use dwell_core::workload::{Lease, Template};

    use super::*;

    const ANEW: Lent = Lent { heartbeat: 1, only_renewed: false };
    const RENEWED: Lent = Lent { heartbeat: 1, only_renewed: true };

    fn leased(name: &str, seconds: u64) -> Assigned {
        let lease = Some(Lease(Millis::seconds(seconds)));
        Assigned { lease, ..fixtures::assigned(name, 1, Template::of_image("web")) }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000 + 1_000 * seconds)
    }

    #[test]
    fn a_lease_counts_from_when_the_heartbeat_was_sent() {
        let (short, long) = (leased("short-0", 12), leased("long-0", 60));
        let mut leases = Leases::begin(at(0));
        leases.hear(ANEW, at(5), [&short, &long], at(9));
        assert_eq!(leases.standing(&short, at(16)), Standing::Lent { until: at(17) });
        assert_eq!(leases.standing(&short, at(17)), Standing::Over);
        assert_eq!(leases.standing(&long, at(17)), Standing::Lent { until: at(65) });
        // An answer that comes late moves nothing back.
        leases.hear(ANEW, at(3), [&short, &long], at(17));
        assert_eq!(leases.standing(&short, at(17)), Standing::Over);
        leases.hear(ANEW, at(18), [&short, &long], at(18));
        assert_eq!(leases.standing(&short, at(18)), Standing::Lent { until: at(30) });
    }

    #[test]
    fn what_has_no_lease_is_the_nodes() {
        let free = fixtures::assigned("web-0", 1, Template::of_image("web"));
        assert_eq!(Leases::begin(at(0)).standing(&free, at(1_000_000)), Standing::Free);
    }

    #[test]
    fn an_agent_that_has_heard_nothing_leaves_what_runs_for_one_lease() {
        let one = leased("web-0", 12);
        let mut leases = Leases::begin(at(0));
        assert_eq!(leases.standing(&one, at(11)), Standing::Left { until: at(12) });
        // A restored controller may have lent it to another node before.
        leases.hear(RENEWED, at(5), [&one], at(6));
        assert_eq!(leases.standing(&one, at(11)), Standing::Left { until: at(12) });
        assert_eq!(leases.standing(&one, at(12)), Standing::Over);
        leases.hear(ANEW, at(13), [&one], at(13));
        assert_eq!(leases.standing(&one, at(13)), Standing::Lent { until: at(25) });
    }

    #[test]
    fn a_restored_controller_renews_and_lends_nothing_anew() {
        let (short, long) = (leased("short-0", 12), leased("long-0", 60));
        let mut leases = Leases::begin(at(0));
        leases.hear(ANEW, at(0), [&short, &long], at(0));
        leases.hear(RENEWED, at(20), [&short, &long], at(20));
        assert_eq!(leases.standing(&short, at(20)), Standing::Over);
        assert_eq!(leases.standing(&long, at(20)), Standing::Lent { until: at(80) });
        leases.hear(RENEWED, at(25), [&short, &long], at(25));
        assert_eq!(leases.standing(&short, at(25)), Standing::Over);
        leases.hear(ANEW, at(30), [&short, &long], at(30));
        assert_eq!(leases.standing(&short, at(30)), Standing::Lent { until: at(42) });
    }
}
