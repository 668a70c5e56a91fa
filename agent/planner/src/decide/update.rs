//! The replacement of a container by a new one, with a way back.
//!
//! ```text
//!   old       new        what is done
//!   serves    -          make the new one; the old one goes on
//!   serves    created    note that the old one's end is ordered, then stop it
//!   ended     created    start the new one            ── cannot be started in time ─▶ rolled back
//!   ended     running    wait for good health         ── ends, unhealthy, too late ─▶ rolled back
//!   ended     healthy    committed: the old one is removed
//! ```
//!
//! Where an update stands is read off the containers; only the verdict is written down. Before it, a
//! crash of anything leads back into this table; after it, `roles.rs` sees a steady instance whose
//! other container is to go.

use dwell_core::health::Health;

use super::roles::Roles;
use super::{Instance, Next, Wait};
use crate::journal::Ruling;
use crate::observed::{Container, ContainerState, Sandbox};
use crate::pause;
use crate::step::Step;

impl<'a> Instance<'a> {
    pub(super) fn update(
        self,
        old: &'a Container,
        new: Option<&'a Container>,
        roles: &Roles<'a>,
    ) -> Next<'a> {
        let Some(new) = new else {
            return self.prepare(old, roles);
        };
        match self.seen.sandbox {
            Sandbox::Ready => {}
            Sandbox::Absent if new.is_running() => return self.end(new),
            Sandbox::Absent if old.is_running() => return self.end(old),
            Sandbox::Doubtful if new.is_running() || old.is_running() => {
                return self.attempt(Step::RepairSandbox);
            }
            Sandbox::Absent | Sandbox::Doubtful => return self.attempt(Step::EnsureSandbox),
        }
        match new.state {
            ContainerState::Created => self.switch(old, new),
            ContainerState::Exited { .. } if self.has_ordered_end(new) => self.switch(old, new),
            ContainerState::Exited { code, .. } => {
                self.roll_back(format!("its main process ended with exit code {code}"))
            }
            ContainerState::Running { .. } if self.has_ordered_end(new) => self.end(new),
            ContainerState::Running { .. } if old.is_running() => self.end(old),
            ContainerState::Running { .. } => self.judge(new),
            ContainerState::Dead => self.attempt(Step::Remove { container: new.id.clone() }),
        }
    }

    /// While the new container cannot be made, the old one is kept alive.
    fn prepare(self, old: &'a Container, roles: &Roles<'a>) -> Next<'a> {
        match (self.create(roles), self.serve(old, false)) {
            (Next::Step(create), _) => Next::Step(create),
            (_, Next::Step(step)) => Next::Step(step),
            (Next::Wait(create), Next::Wait(serve)) => Next::Wait(create.or_sooner(serve)),
            (create, _) => create,
        }
    }

    fn switch(self, old: &'a Container, new: &'a Container) -> Next<'a> {
        if old.is_running() {
            return self.end(old);
        }
        let start = Step::Start { container: new.id.clone() };
        if let Some((failed, trouble)) = &self.seen.trouble {
            let deadline = trouble.since.after(self.target.assigned.update_deadline.as_duration());
            if *failed == start && (trouble.is_permanent() || self.node.now >= deadline) {
                return self
                    .roll_back(format!("it could not be started: {}", trouble.failure.message));
            }
        }
        self.attempt(start)
    }

    /// Decides whether the new container works.
    fn judge(self, new: &Container) -> Next<'a> {
        let up_for = self.node.now.since(new.since);
        let deadline = self.target.assigned.update_deadline.as_duration();
        let settle = pause::SETTLE.min(deadline);
        let has_check = self.target.assigned.template.healthcheck.is_some();
        match (has_check, new.health) {
            (false, _) if up_for >= settle => self.rule(Ruling::Committed),
            (false, _) => Next::Wait(Wait::Trial { until: new.since.after(settle) }),
            (true, Health::Healthy) => self.rule(Ruling::Committed),
            (true, Health::Unhealthy) => {
                self.roll_back(format!("it is unhealthy: {}", new.complaint))
            }
            (true, _) if up_for >= deadline => {
                let limit = self.target.assigned.update_deadline;
                self.roll_back(format!("it was not healthy within {limit}: {}", new.complaint))
            }
            (true, _) => Next::Wait(Wait::Trial { until: new.since.after(deadline) }),
        }
    }

    /// Stops a container that may have to come back.
    fn end(self, container: &'a Container) -> Next<'a> {
        if self.has_ordered_end(container) {
            self.stop(container)
        } else {
            self.order_end(container)
        }
    }

    fn roll_back(self, reason: String) -> Next<'a> {
        self.rule(Ruling::RolledBack { reason })
    }

    fn rule(self, ruling: Ruling) -> Next<'a> {
        let journal = self.seen.journal.ruling(self.target.assigned.generation, ruling);
        self.attempt(Step::Record(journal))
    }
}
