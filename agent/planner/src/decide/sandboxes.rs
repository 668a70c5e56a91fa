//! In which of its instance's sandboxes a container runs, and to which of them the address leads.
//!
//! A container stays in the one it was made for. Its successor is made for the same one, since nothing that runs is left in
//! it by then; or, if it is to be tried beside it, for the other one. The address leads to the container that serves: to the old
//! one for as long as it runs and nothing was decided, then to the one that stays, before the other is stopped.

use dwell_core::sandbox::Slot;

use super::roles::Roles;
use super::{Instance, Next, there};
use crate::observed::{Container, Sandbox};
use crate::step::Step;

impl<'a> Instance<'a> {
    /// What is to be done about the sandbox of a container that runs.
    pub(super) fn see_to_sandbox(
        self,
        container: &'a Container,
        reached: bool,
    ) -> Option<Next<'a>> {
        let slot = container.slot;
        match (self.seen.sandboxes.of(slot), reached) {
            (Sandbox::Ready, true) | (Sandbox::Beside, false) => None,
            // It holds on to a namespace that has lost its name: only a new start gets it into a
            // sandbox again.
            (Sandbox::Absent, _) => Some(self.end(container)),
            _ => Some(self.attempt(Step::RepairSandbox { slot, reached })),
        }
    }

    /// Has the address lead to the container that stays before one that serves is stopped.
    pub(super) fn lead_away(self, roles: &Roles<'a>, running: &Container) -> Option<Next<'a>> {
        let Roles::Steady { keeper: Some(keeper), .. } = roles else { return None };
        let is_beside = keeper.is_running() && keeper.slot != running.slot;
        let can_be_led_to = self.seen.sandboxes.of(keeper.slot) != Sandbox::Absent;
        if is_beside && can_be_led_to { self.see_to_sandbox(keeper, true) } else { None }
    }

    /// The sandbox that a new container is made for.
    pub(super) fn slot_of_new(self, roles: &Roles<'a>) -> Slot {
        let old = match roles {
            Roles::Update { old, .. } => *old,
            Roles::Steady { .. } => None,
        };
        match old {
            Some(old) if old.is_running() && self.may_be_beside() => old.slot.other(),
            Some(old) => old.slot,
            // The one that is there.
            None => there(self.seen).next().unwrap_or_default(),
        }
    }

    /// Whether a new container is tried while the old one goes on.
    pub(super) fn is_beside(self, old: Option<&Container>, new: &Container) -> bool {
        // One that runs beside it already goes on.
        (self.may_be_beside() || (self.target.assigned.beside && new.is_running()))
            && old.is_some_and(|old| old.is_running() && old.slot != new.slot)
    }

    /// A sandbox that no container is for, if another one is used.
    pub(super) fn vacant(self) -> Option<Slot> {
        let is_used = |slot: Slot| self.seen.containers.iter().any(|one| one.slot == slot);
        there(self.seen).find(|slot| !is_used(*slot) && is_used(slot.other()))
    }
}
