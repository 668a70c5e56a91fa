//! Whether a container has shown that it works, and what is written down of that.

use dwell_core::clock::Timestamp;
use dwell_core::health::Health;
use dwell_core::workload::RestartPolicy;

use super::{AfterStart, Instance, Next, Rest, Wait};
use crate::journal::{Journal, Ruling};
use crate::observed::{Check, Container, ContainerState};
use crate::step::Step;

/// Whether a container works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// It has shown it.
    Holds,
    /// It has until then to show it.
    Open { until: Timestamp },
}

impl<'a> Instance<'a> {
    /// Waits until a container has shown that it works.
    pub(super) fn prove(self, container: &'a Container) -> Next<'a> {
        match self.holds(container) {
            Proof::Open { until } if self.is_to_be_proved(container) && self.node.now < until => {
                Next::Wait(Wait::Proof { until })
            }
            _ if container.is_running() => Next::Rest(Rest::InSync),
            _ => Next::Rest(Rest::Ended),
        }
    }

    /// Whether it is worth writing down that a container holds: whoever waits for that is told, and it is what later
    /// updates go back to.
    pub(super) fn is_to_be_proved(self, container: &Container) -> bool {
        let is_up = match container.state {
            // With other limits it shows nothing of those that it is to live with.
            ContainerState::Running { .. } => {
                container.is_limited_to(self.target.assigned.template.limits())
            }
            ContainerState::Exited { .. } => self.has_done_its_work(container),
            ContainerState::Created | ContainerState::Dead => false,
        };
        is_up
            && self.is_to_run()
            && container.fingerprint == self.target.fingerprint
            && !self.is_to_end(container)
            && !(self.has_held() && container.generation <= self.seen.journal.proven)
    }

    /// Whether this generation was found to work already, also after the last restart that was asked for.
    pub(super) fn has_held(self) -> bool {
        let assigned = &self.target.assigned;
        self.seen.journal.holds(assigned.generation, assigned.restarts_asked)
    }

    /// Whether a container has shown that it works.
    pub(super) fn holds(self, container: &Container) -> Proof {
        let assigned = &self.target.assigned;
        let since = container.since.max(self.node.observed.ready_since);
        let template = &assigned.template;
        let checks = || Check::ALL.into_iter().filter(|check| check.of(template).is_some());
        let passes = |check| container.checked(check).health == Health::Healthy;
        match (container.state, checks().next()) {
            (ContainerState::Exited { .. }, _) => Proof::Holds,
            _ if !matches!(self.after_start(container), AfterStart::Nothing) => {
                Proof::Open { until: since.after(assigned.update_deadline.as_duration()) }
            }
            (_, Some(_)) if checks().all(passes) => Proof::Holds,
            (_, Some(_)) => {
                Proof::Open { until: since.after(assigned.update_deadline.as_duration()) }
            }
            // However long the engine was away, the process ran.
            (_, None) => {
                let until = container.since.after(assigned.monitor.as_duration());
                if self.node.now >= until { Proof::Holds } else { Proof::Open { until } }
            }
        }
    }

    /// Whether a main process that ended may rest because it has done what it was for.
    pub(super) fn has_done_its_work(self, container: &Container) -> bool {
        matches!(container.state, ContainerState::Exited { code: 0, .. })
            && self.target.assigned.template.restart != RestartPolicy::Always
            && !self.was_given_up(container)
    }

    /// Writes down that a container holds.
    pub(super) fn commit(self, container: &Container) -> Next<'a> {
        let journal = self.holding(&self.seen.journal, container);
        self.attempt(Step::Record(Box::new(journal)))
    }

    /// The journal when a container holds.
    pub(super) fn holding(self, journal: &Journal, container: &Container) -> Journal {
        self.ruling(journal, Ruling::Committed).holding(container)
    }

    pub(super) fn roll_back(self, reason: String) -> Next<'a> {
        let ruling = Ruling::RolledBack { reason };
        let journal = self.ruling(&self.seen.journal, ruling);
        self.attempt(Step::Record(Box::new(journal)))
    }

    fn ruling(self, journal: &Journal, ruling: Ruling) -> Journal {
        let assigned = &self.target.assigned;
        journal.ruling(assigned.generation, assigned.restarts_asked, ruling)
    }
}
