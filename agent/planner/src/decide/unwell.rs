//! Runs of main processes that do not work: when they are given up, and what that means for them.
//!
//! What is given up is noted first, then stopped, and from there on it is as if it had ended by itself with a failure: it
//! is counted and told, and the restart policy says whether it is started again, after growing pauses.

use dwell_core::clock::Timestamp;

use super::{Instance, Next, Wait};
use crate::observed::Container;
use crate::pause::CALM;
use crate::step::Step;

/// That a container is unhealthy, and may not be so for ever.
#[derive(Debug)]
pub(super) struct Illness {
    /// When it is given up.
    pub(super) until: Timestamp,
    /// Why, for people.
    pub(super) reason: String,
    /// Whether it had worked before, for long enough for earlier failures to be forgotten.
    pub(super) was_well: bool,
}

impl<'a> Instance<'a> {
    /// Gives up what has been unhealthy for longer than it may be, so that it is started again.
    pub(super) fn cure(self, container: &'a Container) -> Next<'a> {
        match self.illness(container) {
            Some(illness) if self.node.now < illness.until => {
                let cure = Wait::Cure { until: illness.until };
                match self.prove(container) {
                    Next::Wait(wait) => Next::Wait(wait.or_sooner(cure)),
                    _ => Next::Wait(cure),
                }
            }
            Some(illness) => self.give_up(container, &illness.reason, illness.was_well),
            None => self.prove(container),
        }
    }

    /// Notes that the present run does not work and is to end.
    pub(super) fn give_up(self, container: &Container, reason: &str, was_well: bool) -> Next<'a> {
        let journal = &self.seen.journal;
        let journal = journal.giving_up(container, reason, was_well, &self.seen.containers);
        self.attempt(Step::Record(Box::new(journal)))
    }

    /// For how long what is unhealthy may be so, where its health check says that.
    pub(super) fn illness(self, container: &Container) -> Option<Illness> {
        let check = self.aim().1.healthcheck.as_ref()?;
        let (since, limit) = (container.health.unhealthy_since?, check.restart?);
        let complaint = match container.health.complaint.as_str() {
            "" => String::new(),
            complaint => format!(": {complaint}"),
        };
        Some(Illness {
            until: since.after(limit.as_duration()),
            reason: format!("it was unhealthy for {limit}{complaint}"),
            was_well: since.since(container.since) >= CALM.max(check.patience().as_duration()),
        })
    }

    /// Whether the present (or last) run of a container was given up because it did not work.
    pub(super) fn was_given_up(self, container: &Container) -> bool {
        self.seen.journal.given_up(container).is_some()
    }

    /// Whether what runs is to be stopped, for whatever reason.
    pub(super) fn is_to_end(self, container: &Container) -> bool {
        self.has_ordered_end(container) || self.was_given_up(container)
    }
}
