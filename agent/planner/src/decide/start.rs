//! Starting a container, and what is done about one that cannot be started.

use dwell_core::quantity::Millis;

use super::{Instance, Next};
use crate::observed::{Container, Sandbox};
use crate::step::Step;

/// How often the start of one container is tried before it is made anew, about 3 s.
pub(super) const STARTS_MAX: u32 = 6;

/// How often an engine that takes a container for running is told to stop it before it is made anew.
const STOPS_OF_STALE_MAX: u32 = 2;

impl<'a> Instance<'a> {
    pub(super) fn start(self, container: &Container) -> Next<'a> {
        if self.is_past_starting(container) {
            return self.attempt(Step::Remove { container: container.id.clone() });
        }
        let slot = container.slot;
        if self.seen.sandboxes.of(slot) != Sandbox::Ready {
            return self.attempt(Step::EnsureSandbox { slot, reached: true });
        }
        if let Some(carry) = self.carry_into(None, container) {
            return self.attempt(carry);
        }
        self.attempt(Step::Start { container: container.id.clone() })
    }

    /// The engine would not start what it takes for running. To stop it usually tells it that there is nothing to
    /// stop; if it does not learn, the container is made anew.
    pub(super) fn make_engine_notice(self, container: &Container) -> Next<'a> {
        let (container_id, grace) = (container.id.clone(), Millis::seconds(0));
        let stop = Step::Stop { container: container_id, grace, before: None };
        let tried = self.seen.trouble.as_ref().filter(|(failed, _)| *failed == stop);
        let is_learning_nothing =
            tried.is_some_and(|(_, trouble)| trouble.attempts >= STOPS_OF_STALE_MAX);
        if is_learning_nothing && !self.alone_has_files(container) {
            return self.attempt(Step::Remove { container: container.id.clone() });
        }
        self.attempt(stop)
    }

    /// Whether to make a container anew rather than to try its start once more: a crash of the engine can
    /// leave something behind under its name that is in the way of every start. Done once: where the new
    /// one does not start either, the reason is another.
    pub(super) fn is_past_starting(self, container: &Container) -> bool {
        let start = Step::Start { container: container.id.clone() };
        let failed_often = self.seen.trouble.as_ref().is_some_and(|(failed, trouble)| {
            *failed == start && trouble.attempts >= STARTS_MAX && !trouble.is_permanent()
        });
        failed_often
            && !self.seen.gave_up_container
            && self.is_aim(container)
            && !self.alone_has_files(container)
    }
}
